//! Answers to auditors: which receipts are meant, and what they add up to by country, control,
//! operator and model.

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::place::{Place, PlaceError};
use hansa_core::price::Amount;
use hansa_core::receipt::{Outcome, Party, Receipt, Share, Used};
use hansa_core::time::Utc;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Which receipts are meant; each absent clause means all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Jobs that started then or later.
    pub since: Option<Utc>,
    /// Jobs that started before.
    pub until: Option<Utc>,
    /// The model, as the keeper calls it, with or without its version, or its digest.
    pub model: Option<String>,
    /// Where it ran: a country or a part of one.
    pub country: Option<Place>,
    /// Whose law reaches who ran it.
    pub control: Option<Place>,
    /// Who ran it.
    pub operator: Option<String>,
    /// What came of it.
    pub outcome: Option<Outcome>,
}

impl Filter {
    /// Adds a clause by its name, which is that of its field.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let fault = |error: String| format!("`{key}`: {error}");
        let place = || value.parse().map_err(|error: PlaceError| fault(error.to_string()));
        match key {
            "since" => self.since = Some(moment(value).map_err(fault)?),
            "until" => self.until = Some(moment(value).map_err(fault)?),
            "model" => self.model = Some(value.to_owned()),
            "country" => self.country = Some(place()?),
            "control" => self.control = Some(place()?),
            "operator" => self.operator = Some(value.to_owned()),
            "outcome" => {
                let all = [
                    ("answered", Outcome::Answered),
                    ("refused", Outcome::Refused),
                    ("failed", Outcome::Failed),
                    ("late", Outcome::Late),
                    ("cancelled", Outcome::Cancelled),
                ];
                let named = all.into_iter().find(|(name, _)| *name == value);
                let names = all.map(|(name, _)| name).join(", ");
                let unknown = || fault(format!("`{value}` is none of {names}"));
                self.outcome = Some(named.ok_or_else(unknown)?.1);
            }
            _ => {
                return Err(format!(
                    "unknown filter `{key}`; known are since, until, model, country, control, \
                     operator, outcome"
                ));
            }
        }
        Ok(())
    }

    /// Whether a receipt is meant, as far as it does not depend on who ran it.
    fn means(&self, receipt: &Receipt) -> bool {
        let model = |wanted: &String| {
            let name = receipt.model.rsplit_once(':').map_or(receipt.model.as_str(), |(n, _)| n);
            *wanted == receipt.model
                || wanted == name
                || receipt.bundle.is_some_and(|bundle| *wanted == bundle.to_string())
        };
        self.since.is_none_or(|since| receipt.started >= since)
            && self.until.is_none_or(|until| receipt.started < until)
            && self.model.as_ref().is_none_or(model)
            && self.outcome.is_none_or(|outcome| receipt.outcome == outcome)
    }

    /// Whether a peer is meant.
    fn means_party(&self, party: &Party) -> bool {
        self.country.as_ref().is_none_or(|place| place.covers(&party.location))
            && self.control.as_ref().is_none_or(|place| place.covers(&party.control))
            && self.operator.as_ref().is_none_or(|name| *name == party.operator)
    }

    fn names_a_party(&self) -> bool {
        self.country.is_some() || self.control.is_some() || self.operator.is_some()
    }

    /// Who ran what of a receipt that is meant, or none if it is not. What nobody ran (a refused
    /// job) is meant unless the filter asks who ran it.
    pub fn ran<'a>(&self, receipt: &'a Receipt) -> Option<Vec<(&'a Party, &'a Used)>> {
        if !self.means(receipt) {
            return None;
        }
        let keeper = receipt.keeper().peer;
        // What the keeper ran as one of several has a receipt of its own in this log.
        let twice = |(party, used): &(&Party, &Used)| {
            let own = receipt.parts.iter().find(|part| std::ptr::eq(&part.used, *used));
            party.peer == keeper && own.is_some_and(|part| part.receipt.is_some())
        };
        let all = receipt.ran().filter(|ran| !twice(ran));
        let ran: Vec<_> = all.filter(|(party, _)| self.means_party(party)).collect();
        (!ran.is_empty() || !self.names_a_party()).then_some(ran)
    }
}

/// A day (its beginning, UTC) or a moment, as RFC 3339 writes it.
pub fn moment(text: &str) -> Result<Utc, String> {
    let moment = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let parsed = OffsetDateTime::parse(&moment, &Rfc3339).ok();
    let ms = parsed.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    ms.map(Utc).ok_or_else(|| "expected 2026-01-31 or 2026-01-31T12:00:00Z".into())
}

/// What receipts add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Receipts that are meant.
    pub receipts: u64,
    /// Jobs: parts that the same node handed to itself are not counted again.
    pub jobs: u64,
    /// By what came of them.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// All together.
    pub all: Sum,
    /// By the country where it ran.
    pub countries: BTreeMap<String, Sum>,
    /// By whose law reaches who ran it.
    pub control: BTreeMap<String, Sum>,
    /// By who ran it.
    pub operators: BTreeMap<String, Sum>,
    /// By model.
    pub models: BTreeMap<String, Sum>,
}

/// What some of it adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Jobs that ran there, also if only in part.
    pub jobs: u64,
    /// Rows.
    pub rows: u64,
    /// Time on devices, in µs.
    pub device_us: u64,
    /// Price in millionths, by currency.
    pub price_micros: BTreeMap<String, u64>,
}

impl Totals {
    /// Counts a receipt, if the filter means it.
    pub fn count(&mut self, filter: &Filter, receipt: &Receipt) {
        let Some(ran) = filter.ran(receipt) else { return };
        self.receipts += 1;
        *self.outcomes.entry(receipt.outcome).or_default() += 1;
        let own_part = receipt.parent.is_some() && receipt.path.len() == 1;
        self.jobs += u64::from(!own_part);
        let mut seen = BTreeSet::new();
        for (party, used) in ran {
            let names = [
                (&mut self.countries, party.location.country()),
                (&mut self.control, party.control.country()),
                (&mut self.operators, party.operator.as_str()),
                (&mut self.models, receipt.model.as_str()),
            ];
            for (kind, (sums, name)) in names.into_iter().enumerate() {
                let first = seen.insert((kind, name.to_owned()));
                sums.entry(name.to_owned()).or_default().add(used, first);
            }
            let first = seen.insert((usize::MAX, String::new()));
            self.all.add(used, first);
        }
    }
}

impl Sum {
    /// Adds what running took; `first` unless the job was counted here before.
    pub fn add(&mut self, used: &Used, first: bool) {
        self.jobs += u64::from(first);
        self.rows = self.rows.saturating_add(used.rows);
        self.device_us = self.device_us.saturating_add(used.device_us);
        if let Some(Amount { micros, currency }) = &used.price {
            let sum = self.price_micros.entry(currency.to_string()).or_default();
            *sum = sum.saturating_add(*micros);
        }
    }

    /// `0.0213 EUR`, or several with commas, or nothing.
    pub fn price(&self) -> String {
        let amount = |(currency, micros): (&String, &u64)| {
            let (whole, part) = (micros / 1_000_000, micros % 1_000_000);
            let text = format!("{whole}.{part:06}");
            format!("{} {currency}", text.trim_end_matches('0').trim_end_matches('.'))
        };
        self.price_micros.iter().map(amount).collect::<Vec<_>>().join(", ")
    }
}

/// A part's share, for people.
pub fn share(share: Share) -> String {
    match share {
        Share::Whole => "all".into(),
        Share::Rows { first, rows } => format!("rows {first}–{}", first + rows),
        Share::Stage { from, to } => format!("layers {from}–{to}"),
    }
}
