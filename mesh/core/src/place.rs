//! Where a peer stands: ISO 3166-1 countries, ISO 3166-2 subdivisions and named groups of them.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::codec::{Decode, Encode, encode};
use crate::id::Digest;

/// A country (`DE`) or one of its subdivisions (`DE-BE`). A country covers its subdivisions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
#[serde(transparent)]
pub struct Place(String);

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Not of the form of ISO 3166.
    #[error(
        "`{0}` is not a place: expected an ISO 3166 code such as DE or DE-BE, in capitals, or a group such as EU"
    )]
    Form(String),
    /// Of the form, but not assigned.
    #[error("`{0}` is not an assigned ISO 3166-1 country code{hint}", hint = hint(.0))]
    Unassigned(String),
    /// No place at all.
    #[error("names no place; leave it out to constrain nothing")]
    Empty,
}

/// Codes that people write and ISO does not assign.
fn hint(code: &str) -> &'static str {
    match code.get(..2) {
        Some("UK") => "; the United Kingdom is GB",
        Some("EL") => "; Greece is GR",
        _ => "",
    }
}

/// The officially assigned codes of ISO 3166-1 alpha-2, in order, a space between any two.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ \
    BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE \
    DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR \
    GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP \
    KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT \
    MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW \
    PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG \
    TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Each hop asks this of every place of a policy: a search, not a walk.
fn is_assigned(country: &str) -> bool {
    let (codes, last) = COUNTRIES.as_bytes().as_chunks::<3>();
    let found = codes.binary_search_by(|code| code[..2].cmp(country.as_bytes()));
    found.is_ok() || last == country.as_bytes()
}

impl Place {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The country of the place: itself, or the country of a subdivision.
    pub fn country(&self) -> &str {
        // A place off the wire is checked before use, but must not panic before that.
        self.0.get(..2).unwrap_or_default()
    }

    /// Whether `other` lies in this place.
    pub fn covers(&self, other: &Place) -> bool {
        self == other || (self.0.len() == 2 && other.country() == self.0)
    }

    /// Whether the code is one: what came off the wire need not be.
    pub fn is_valid(&self) -> bool {
        check(&self.0).is_ok()
    }
}

/// Places are ordered and compared as their codes are.
impl Borrow<str> for Place {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Place {
    type Err = PlaceError;
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        check(text).map(|()| Self(text.to_owned()))
    }
}

/// Whether a text is the code of a place.
fn check(text: &str) -> Result<(), PlaceError> {
    let form = || PlaceError::Form(text.to_owned());
    let (country, part) = match text.split_once('-') {
        Some((country, part)) => (country, Some(part)),
        None => (text, None),
    };
    let is_part = |part: &str| {
        (1..=3).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(form());
    }
    if !part.is_none_or(is_part) {
        return Err(form());
    }
    if !is_assigned(country) {
        return Err(PlaceError::Unassigned(text.to_owned()));
    }
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Named groups of places (EU, EEA): data of the operator, not code. A policy on the wire names
/// places only; groups are written out where a request enters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(BTreeMap<String, BTreeSet<Place>>);

impl Groups {
    /// Groups by name; every member must be a place.
    pub fn new(groups: BTreeMap<String, Vec<String>>) -> Result<Self, PlaceError> {
        let parse = |(name, members): (String, Vec<String>)| {
            let places: Result<_, _> = members.iter().map(|member| member.parse()).collect();
            Ok((name, places?))
        };
        Ok(Self(groups.into_iter().map(parse).collect::<Result<_, PlaceError>>()?))
    }

    /// The digest of the groups: two nodes read names alike exactly when these agree.
    pub fn digest(&self) -> Digest {
        Digest::of(&encode(&self.0))
    }

    /// The places that `name` means: a group's members, or the place itself.
    pub fn expand(&self, name: &str) -> Result<BTreeSet<Place>, PlaceError> {
        match self.0.get(name) {
            Some(places) => Ok(places.clone()),
            None => Ok(BTreeSet::from([name.parse()?])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_covers_its_subdivisions_and_not_the_reverse() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        assert!(place("DE").covers(&place("DE-BE")));
        assert!(!place("DE-BE").covers(&place("DE")));
        assert!(!place("DE-BE").covers(&place("DE-BY")));
        assert!(!place("DE").covers(&place("FR")));
    }

    #[test]
    fn what_is_no_place_is_refused_with_a_hint() {
        for bad in ["", "de", "DEU", "D", "DE-", "DE-berlin", "DE-BERL", "ÄÖ", "DE BE"] {
            assert!(matches!(bad.parse::<Place>(), Err(PlaceError::Form(_))), "{bad}");
        }
        assert!("UK".parse::<Place>().unwrap_err().to_string().contains("GB"));
    }

    #[test]
    fn every_assigned_country_is_found_and_no_other() {
        let letters = b'A'..=b'Z';
        let codes = letters.clone().flat_map(|a| letters.clone().map(move |b| [a, b]));
        let is_place = |code: &[u8; 2]| std::str::from_utf8(code).unwrap().parse::<Place>().is_ok();
        assert_eq!(codes.filter(is_place).count(), 249);
        assert!(COUNTRIES.split(' ').all(|code| code.parse::<Place>().is_ok()));
    }
}
