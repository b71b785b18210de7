//! Money: what a peer asks for its work, what a job comes to, what it may.
//!
//! A job costs the time that a device is busy with it and the bytes of its inputs and outputs, at the
//! rates of the peer that runs it ([`Rates::amount`], the one function of price). Who passes a job on
//! asks nothing for that, and an answer that does not come is not paid. Amounts are millionths of a
//! currency, and one that is begun counts. Amounts in different currencies are never added up and
//! never compared; where some order there must be, it is that of the codes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::advert::Price;
use crate::codec::{Decode, Encode};
use crate::limits::STAGES_MAX;

/// A currency, by its code in ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Currency([u8; 3]);

/// An amount of one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize)]
pub struct Amount {
    /// Which.
    pub currency: Currency,
    /// Millionths of it.
    pub micros: u64,
}

/// What a peer asks, as the planner reads it. A peer that asks nothing has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    currency: Currency,
    per_device_second: u64,
    per_gb: u64,
}

/// What an answer costs: one amount in each currency that one of those who ran it asks, most often
/// one; none if it is free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(transparent)]
pub struct Bill(BTreeMap<Currency, u64>);

/// Why a text is not money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not three letters.
    #[error("`{0}` is not a currency: expected a code of ISO 4217 such as EUR, in capitals")]
    Form(String),
    /// Three letters that mean nothing.
    #[error("`{0}` is not the code of a currency in ISO 4217")]
    Unassigned(String),
    /// Not an amount and a currency.
    #[error(
        "`{0}` is not an amount and a currency, such as `0.02 EUR`, with six decimal places at most"
    )]
    Amount(String),
}

/// The codes of ISO 4217 that people pay with, in order, a space between any two.
const CURRENCIES: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB \
    BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR \
    FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES \
    KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR \
    MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR \
    SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH \
    UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG";

impl Currency {
    /// The currency of a text off the wire. Codes that this version does not know may come to be.
    pub fn of_code(code: &str) -> Option<Self> {
        let bytes: [u8; 3] = code.as_bytes().try_into().ok()?;
        Some(Self(bytes)).filter(Self::is_well_formed)
    }

    /// The code.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }

    pub(crate) fn is_well_formed(&self) -> bool {
        self.0.iter().all(u8::is_ascii_uppercase)
    }
}

/// What people write must be a currency that there is: a misspelt one would keep everybody out.
impl FromStr for Currency {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let currency = Self::of_code(text).ok_or_else(|| PriceError::Form(text.to_owned()))?;
        let is_assigned = CURRENCIES.split(' ').any(|code| code == text);
        is_assigned.then_some(currency).ok_or_else(|| PriceError::Unassigned(text.to_owned()))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.code())
    }
}

impl fmt::Display for Amount {
    /// `0.000120 EUR`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.micros / 1_000_000, self.micros % 1_000_000);
        write!(f, "{whole}.{part:06} {}", self.currency)
    }
}

impl FromStr for Amount {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let fault = || PriceError::Amount(text.to_owned());
        let (amount, currency) = text.split_once(' ').ok_or_else(fault)?;
        let micros = micros(amount).ok_or_else(fault)?;
        let currency = currency.trim();
        Currency::of_code(currency).ok_or_else(fault)?;
        Ok(Self { currency: currency.parse()?, micros })
    }
}

/// `0.02` in millionths.
fn micros(amount: &str) -> Option<u64> {
    let (whole, part) = amount.split_once('.').unwrap_or((amount, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 6 || !digits(whole) || !digits(part) {
        return None;
    }
    let part: u64 = format!("{part:0<6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(part)
}

impl Rates {
    /// What `price` asks, if it asks anything.
    pub fn of(price: Option<&Price>) -> Option<Self> {
        let Price { currency, per_device_second_micros, per_gb_micros } = price?;
        let rates = Self {
            currency: Currency::of_code(currency)?,
            per_device_second: *per_device_second_micros,
            per_gb: *per_gb_micros,
        };
        (rates.per_device_second > 0 || rates.per_gb > 0).then_some(rates)
    }

    /// What a device that is `busy` so long, over inputs and outputs of so many bytes, costs.
    pub fn amount(&self, busy: Duration, bytes: u64) -> Amount {
        // Both in 10⁻¹⁵ of the currency: nanoseconds of a second, bytes of a gigabyte.
        let time = busy.as_nanos().saturating_mul(self.per_device_second.into());
        let moved = u128::from(bytes) * u128::from(self.per_gb);
        let micros = time.saturating_add(moved).div_ceil(1_000_000_000);
        Amount { currency: self.currency, micros: micros.try_into().unwrap_or(u64::MAX) }
    }
}

impl Bill {
    /// Nothing to pay.
    pub fn is_free(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to pay in `currency`, in millionths.
    pub fn micros(&self, currency: Currency) -> u64 {
        self.0.get(&currency).copied().unwrap_or(0)
    }

    /// Its amounts, by currency.
    pub fn amounts(&self) -> impl Iterator<Item = Amount> {
        self.0.iter().map(|(currency, micros)| Amount { currency: *currency, micros: *micros })
    }

    /// Puts an amount on it.
    pub fn put(&mut self, amount: Amount) {
        let sum = self.0.entry(amount.currency).or_default();
        *sum = sum.saturating_add(amount.micros);
    }

    /// What is left of it under a limit: nothing in another currency, and no more. A limit is a
    /// promise to the app, so what is over it is whose work it was to bear.
    pub fn held_to(self, limit: Option<Amount>) -> Self {
        let Some(limit) = limit else { return self };
        let micros = self.micros(limit.currency).min(limit.micros);
        let amount = Amount { micros, ..limit };
        Some(amount).filter(|amount| amount.micros > 0).into_iter().collect()
    }

    /// Whether it is one that can have come to be: of a chain, each stage has one amount at most.
    pub(crate) fn is_well_formed(&self) -> bool {
        self.0.len() <= STAGES_MAX && self.0.keys().all(Currency::is_well_formed)
    }
}

impl FromIterator<Amount> for Bill {
    fn from_iter<I: IntoIterator<Item = Amount>>(amounts: I) -> Self {
        let mut bill = Self::default();
        amounts.into_iter().for_each(|amount| bill.put(amount));
        bill
    }
}

impl fmt::Display for Bill {
    /// `0.000120 EUR`; several have commas between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amounts: Vec<String> = self.amounts().map(|amount| amount.to_string()).collect();
        f.write_str(&amounts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(per_device_second_micros: u64, per_gb_micros: u64) -> Price {
        Price { currency: "EUR".into(), per_device_second_micros, per_gb_micros }
    }

    fn amount(text: &str) -> Amount {
        text.parse().expect("an amount")
    }

    #[test]
    fn time_and_bytes_cost_and_a_millionth_begun_counts() {
        let rates = Rates::of(Some(&price(1_000, 20_000))).expect("it asks");
        let ms = Duration::from_millis;
        assert_eq!(rates.amount(ms(2_500), 0), amount("0.0025 EUR"));
        assert_eq!(rates.amount(ms(0), 1_000_000_000), amount("0.02 EUR"));
        assert_eq!(rates.amount(ms(2_500), 500_000_000), amount("0.0125 EUR"));
        assert_eq!(rates.amount(Duration::from_nanos(1), 0).micros, 1);
        assert_eq!(rates.amount(Duration::ZERO, 0).micros, 0);
        assert_eq!(rates.amount(Duration::MAX, u64::MAX).micros, u64::MAX);
        assert_eq!(Rates::of(Some(&price(0, 0))), None);
        assert_eq!(Rates::of(None), None);
    }

    #[test]
    fn amounts_are_read_as_they_are_written() {
        for text in ["0.000000 EUR", "0.000123 USD", "17.500000 CHF", "18446744073709.551615 JPY"] {
            assert_eq!(amount(text).to_string(), text);
        }
        assert_eq!(amount("1 EUR").micros, 1_000_000);
        for bad in
            ["", "1", "EUR", "EUR 1", "-1 EUR", "1,5 EUR", "0.0000001 EUR", ".5 EUR", "1 eur"]
        {
            assert!(matches!(bad.parse::<Amount>(), Err(PriceError::Amount(_))), "{bad}");
        }
        assert!(matches!("NaN EUR".parse::<Amount>(), Err(PriceError::Amount(_))));
        assert_eq!("1 EUX".parse::<Amount>(), Err(PriceError::Unassigned("EUX".into())));
    }

    #[test]
    fn codes_are_in_order_and_each_once() {
        let codes: Vec<&str> = CURRENCIES.split(' ').collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(codes.iter().all(|code| code.parse::<Currency>().is_ok()));
    }

    #[test]
    fn what_is_held_to_a_limit_is_never_more() {
        let bill: Bill = ["0.5 EUR", "0.2 EUR", "3 USD"].map(amount).into_iter().collect();
        assert_eq!(bill.to_string(), "0.700000 EUR, 3.000000 USD");
        let held = |limit| bill.clone().held_to(Some(amount(limit))).to_string();
        assert_eq!(held("1 EUR"), "0.700000 EUR");
        assert_eq!(held("0.1 EUR"), "0.100000 EUR");
        assert_eq!(held("9 CHF"), "");
        assert_eq!(bill.clone().held_to(None), bill);
    }
}
