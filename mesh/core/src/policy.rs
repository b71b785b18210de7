//! What a job or a node permits: typed, deny by default, the same structure on the wire, in the
//! config and at every gate.
//!
//! Parsing headers and config is the host's; here are the structure, its laws (intersection never
//! widens) and its canonical bytes.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Decode, Encode, encode};
use crate::id::Digest;
use crate::limits::{
    DEADLINE_MAX, HOPS_MAX, NAME_BYTES_MAX, NARROWED_VALUES_MAX, POLICY_VALUES_MAX,
    SIGNATURES_ASKED_MAX, STAGES_MAX,
};
use crate::place::{Groups, Place};
use crate::price::{Amount, Currency};

/// Values that are allowed and denied. Nothing passes an empty `allow`; `None` allows all that
/// `deny` does not name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Clause<T: Ord> {
    /// What may pass, or everything when absent.
    pub allow: Option<BTreeSet<T>>,
    /// What may not, whatever `allow` says.
    pub deny: BTreeSet<T>,
}

impl<T: Ord> Default for Clause<T> {
    fn default() -> Self {
        Self { allow: None, deny: BTreeSet::new() }
    }
}

/// Whom a policy lets see a job's data: clauses over a peer's verified charter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Bounds {
    /// Where the peer stands.
    pub locations: Clause<Place>,
    /// Under whose law its operator is controlled.
    pub control: Clause<Place>,
    /// Who operates it.
    pub operators: Clause<String>,
    /// Who asserted its charter.
    pub authorities: Clause<String>,
    /// How many permitted authorities must have signed it (0 and 1 both mean one).
    pub signatures_min: u8,
    /// Classes of the data, each of which the charter must name (none: unclassified data).
    pub data_classes: BTreeSet<String>,
}

/// How a job may be split over peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The planner chooses.
    #[default]
    Auto,
    /// One peer runs the whole job.
    Never,
    /// The batch must be scattered.
    Rows,
    /// The layers must be spread.
    Stages,
}

impl Split {
    /// Whether one peer may run the whole job.
    pub fn may_be_whole(self) -> bool {
        matches!(self, Self::Auto | Self::Never)
    }

    /// The word for it in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Rows => "rows",
            Self::Stages => "stages",
        }
    }
}

/// What a device must be to run a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DeviceNeeds {
    /// ONNX Runtime execution provider, lower case (`cuda`, `cpu`).
    pub provider: Option<String>,
    /// Memory of the device, in MiB.
    pub memory_mib_min: Option<u32>,
}

/// Everything that a job can demand: the structure of the wire in full. Each clause is kept; a header
/// of another version, or with more than this, is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Policy {
    /// Who may see the job's data, on every hop.
    pub bounds: Bounds,
    /// Bundles that may run, or any.
    pub bundles: Clause<Digest>,
    /// How the work may be split.
    pub split: Split,
    /// Most hops after the entry, or [`crate::limits::HOPS_DEFAULT`].
    pub hops_max: Option<u8>,
    /// Most stages of a split.
    pub stages_max: Option<u8>,
    /// What the device must be.
    pub device: DeviceNeeds,
    /// Nothing of the job may be kept after its answer. Every node of this version keeps nothing.
    pub retain_nothing: bool,
    /// What the data may be used for: only peers that promise to keep to it see it.
    pub purpose: Option<String>,
    /// Most that the answer may cost, in millionths of `price_currency`.
    pub price_micros_max: Option<u64>,
    /// ISO 4217 code of `price_micros_max`.
    pub price_currency: Option<String>,
    /// Refuse peers whose measured round trips contradict their charter, and, since nothing passes by
    /// default, those of which too few were measured to say so.
    pub rtt_evidence: bool,
    /// Refuse when no receipt can be given.
    pub receipt_required: bool,
    /// Refuse when the executor cannot write its audit log.
    pub audit_fail_closed: bool,
}

impl<T: Ord> Clause<T> {
    /// Whether a value passes. Places are asked by [`Clause::permits_place`].
    pub fn permits_value(&self, value: &T) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.contains(value)) && !self.deny.contains(value)
    }

    fn values(&self) -> usize {
        self.allow.as_ref().map_or(0, BTreeSet::len) + self.deny.len()
    }
}

impl<T: Ord + Clone> Clause<T> {
    /// What passes both. `meet` is the narrower of two listed values, if they overlap.
    fn narrow(&self, other: &Self, meet: impl Fn(&T, &T) -> Option<T>) -> Self {
        let allow = match (&self.allow, &other.allow) {
            (None, allow) | (allow, None) => allow.clone(),
            (Some(ours), Some(theirs)) => {
                let pairs = ours.iter().flat_map(|own| theirs.iter().map(move |its| (own, its)));
                Some(pairs.filter_map(|(own, its)| meet(own, its)).collect())
            }
        };
        Self { allow, deny: self.deny.union(&other.deny).cloned().collect() }
    }
}

impl Clause<Place> {
    /// Whether a place passes. One that is known only as a country does not pass when one of its
    /// parts is denied: it may lie there.
    pub fn permits_place(&self, place: &Place) -> bool {
        let covered =
            |set: &BTreeSet<Place>| set.contains(place.as_str()) || set.contains(place.country());
        // The parts of a country follow it in the order of places.
        let first_after = self.deny.range::<Place, _>(place..).next();
        let part_is_denied = first_after.is_some_and(|listed| place.covers(listed));
        self.allow.as_ref().is_none_or(covered) && !covered(&self.deny) && !part_is_denied
    }
}

fn meet_places(a: &Place, b: &Place) -> Option<Place> {
    if a.covers(b) {
        Some(b.clone())
    } else if b.covers(a) {
        Some(a.clone())
    } else {
        None
    }
}

fn meet_equal<T: PartialEq + Clone>(a: &T, b: &T) -> Option<T> {
    (a == b).then(|| a.clone())
}

impl Bounds {
    /// What passes both: an intersection, so nothing widens. It is exact but for authorities, where
    /// it is stricter: the same authorities must satisfy both.
    pub fn narrow(&self, other: &Self) -> Self {
        Self {
            locations: self.locations.narrow(&other.locations, meet_places),
            control: self.control.narrow(&other.control, meet_places),
            operators: self.operators.narrow(&other.operators, meet_equal),
            authorities: self.authorities.narrow(&other.authorities, meet_equal),
            signatures_min: self.signatures_min.max(other.signatures_min),
            data_classes: self.data_classes.union(&other.data_classes).cloned().collect(),
        }
    }

    /// Whether every verified charter passes.
    pub fn is_unconstrained(&self) -> bool {
        *self == Self::default()
    }
}

impl Policy {
    /// The policy under `bounds` as well.
    pub fn narrow(&self, bounds: &Bounds) -> Self {
        Self { bounds: self.bounds.narrow(bounds), ..self.clone() }
    }

    /// Most that the answer may cost, if there is a limit.
    pub fn price_max(&self) -> Option<Amount> {
        let currency = Currency::of_code(self.price_currency.as_ref()?)?;
        Some(Amount { currency, micros: self.price_micros_max? })
    }

    /// The policy under a limit of price as well. Two limits in different currencies leave only
    /// peers that ask nothing: amounts in the one cannot be held to the other.
    pub fn limit_price(&mut self, max: Amount) {
        let max = match self.price_max() {
            Some(known) if known.currency != max.currency => Amount { micros: 0, ..known },
            Some(known) => Amount { micros: known.micros.min(max.micros), ..known },
            None => max,
        };
        self.price_micros_max = Some(max.micros);
        self.price_currency = Some(max.currency.to_string());
    }

    /// Whether a limit of price, if there is one, has both its amount and its currency.
    fn has_whole_price(&self) -> bool {
        let is_named = self.price_micros_max.is_some() || self.price_currency.is_some();
        !is_named || self.price_max().is_some()
    }

    /// Whether a policy off the wire is within its limits and names only places that exist.
    pub fn is_well_formed(&self) -> bool {
        let Bounds { locations, control, operators, authorities, data_classes, .. } = &self.bounds;
        let places = [locations, control];
        let names = [operators, authorities];
        let listed = |clause: &&Clause<Place>| {
            let allowed = clause.allow.iter().flatten();
            allowed.chain(&clause.deny).all(Place::is_valid)
        };
        places.iter().all(|clause| clause.values() <= NARROWED_VALUES_MAX)
            && names.iter().all(|clause| clause.values() <= NARROWED_VALUES_MAX)
            && data_classes.len() <= NARROWED_VALUES_MAX
            && self.bundles.values() <= POLICY_VALUES_MAX
            && places.iter().all(listed)
            && self.hops_max.is_none_or(|hops| hops <= HOPS_MAX)
            && self.has_whole_price()
            && self.device.provider.as_deref().is_none_or(is_provider)
            && self.purpose.as_ref().is_none_or(|purpose| purpose.len() <= NAME_BYTES_MAX)
    }

    /// The SHA-256 of the canonical bytes. Two policies are the same law exactly when these agree.
    pub fn hash(&self) -> Digest {
        Digest::of(&encode(self))
    }
}

/// A policy together with its hash, so that a job's steps need not compute it each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Law {
    policy: Arc<Policy>,
    hash: Digest,
}

impl Law {
    /// The law that `policy` is.
    pub fn new(policy: Policy) -> Self {
        Self { hash: policy.hash(), policy: Arc::new(policy) }
    }

    /// [`Policy::hash`].
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// The law under `bounds` as well.
    pub fn narrow(&self, bounds: &Bounds) -> Self {
        match bounds.is_unconstrained() {
            true => self.clone(),
            false => Self::new(self.policy.narrow(bounds)),
        }
    }

    /// The law with something changed.
    pub fn with(&self, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::clone(&self.policy);
        change(&mut policy);
        Self::new(policy)
    }
}

impl From<Policy> for Law {
    fn from(policy: Policy) -> Self {
        Self::new(policy)
    }
}

impl Deref for Law {
    type Target = Policy;
    fn deref(&self) -> &Policy {
        &self.policy
    }
}

/// What a request demands: the policy that travels, and how long it may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The law.
    pub policy: Policy,
    /// Answer within this, from the request's arrival.
    pub deadline: Option<Duration>,
    /// The answer is to carry the proof of its receipt.
    pub with_receipt: bool,
    /// How urgent it is where it waits: 1 is the most, 0 leaves it to the model.
    pub priority: u32,
}

/// Why a constraint is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// No such constraint.
    #[error("unknown constraint `{key}`{hint}; known are {}", CONSTRAINTS.join(", "), hint = near(.key))]
    Unknown {
        /// As given.
        key: String,
    },
    /// Present but empty.
    #[error("constraint `{0}` is empty; leave it out to constrain nothing")]
    Empty(String),
    /// Not a value of that constraint.
    #[error("constraint `{key}`: {reason}")]
    Value {
        /// Which.
        key: String,
        /// What is wrong and what is expected.
        reason: String,
    },
}

/// Every constraint, as a parameter of v2 names it. As a header: `Hansa-` and the name with dashes.
pub const CONSTRAINTS: [&str; 20] = [
    "locations",
    "control",
    "operators",
    "data_class",
    "deadline_ms",
    "max_price",
    "split",
    "retention",
    "receipt",
    "purpose",
    "rtt_evidence",
    "audit",
    "authorities",
    "signatures_min",
    "bundles",
    "device",
    "device_memory_mib",
    "hops_max",
    "stages_max",
    "priority",
];

fn near(key: &str) -> String {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let similar = |known: &&&str| known.starts_with(&key) || key.starts_with(&known[..4]);
    CONSTRAINTS
        .iter()
        .find(similar)
        .map_or(String::new(), |known| format!(" (did you mean `{known}`?)"))
}

impl Demand {
    /// Adds one constraint. `key` is one of [`CONSTRAINTS`]; lists are separated by commas, an
    /// entry that starts with `!` is denied (`EU,!IE`).
    pub fn set(&mut self, key: &str, value: &str, groups: &Groups) -> Result<(), ConstraintError> {
        let key_error = || ConstraintError::Unknown { key: key.to_owned() };
        let known = CONSTRAINTS.into_iter().find(|known| *known == key).ok_or_else(key_error)?;
        let value = value.trim();
        if value.is_empty() {
            return Err(ConstraintError::Empty(key.to_owned()));
        }
        let fault = |reason: String| ConstraintError::Value { key: key.to_owned(), reason };
        let places = || {
            let expand = |name: &str| groups.expand(name).map_err(|error| fault(error.to_string()));
            clause(key, value, expand)
        };
        let number = |most: u64| {
            let number = value.parse::<u64>().ok().filter(|number| *number <= most);
            number.ok_or_else(|| fault(format!("`{value}` is not a number up to {most}")))
        };
        let bounds = &mut self.policy.bounds;
        match known {
            "locations" => bounds.locations = places()?,
            "control" => bounds.control = places()?,
            "operators" => {
                bounds.operators = clause(key, value, |name| Ok([name.to_owned()].into()))?;
            }
            "data_class" => {
                let classes = clause(key, value, |name| Ok(BTreeSet::from([name.to_owned()])))?;
                if !classes.deny.is_empty() {
                    return Err(fault("a data class cannot be denied".into()));
                }
                bounds.data_classes = classes.allow.unwrap_or_default();
            }
            "authorities" => {
                bounds.authorities = clause(key, value, |name| Ok([name.to_owned()].into()))?;
            }
            "signatures_min" => {
                bounds.signatures_min = narrow(number(SIGNATURES_ASKED_MAX.into())?)
            }
            "bundles" => {
                let digest = |text: &str| {
                    let wrong =
                        || fault(format!("`{text}` is not sha256: and 64 hexadecimal digits"));
                    Ok([text.parse::<Digest>().map_err(|_| wrong())?].into())
                };
                self.policy.bundles = clause(key, value, digest)?;
            }
            "device" if is_provider(value) => self.policy.device.provider = Some(value.to_owned()),
            "device" => {
                return Err(fault(format!("`{value}` is no provider, such as cpu or cuda")));
            }
            "device_memory_mib" => {
                self.policy.device.memory_mib_min = Some(narrow(number(u32::MAX.into())?));
            }
            "hops_max" => self.policy.hops_max = Some(narrow(number(HOPS_MAX.into())?)),
            "stages_max" => self.policy.stages_max = Some(narrow(number(STAGES_MAX as u64)?)),
            "deadline_ms" => {
                let most = u64::try_from(DEADLINE_MAX.as_millis()).expect("an hour");
                let ms = value.parse().ok().filter(|ms| (1..=most).contains(ms));
                let expected =
                    || fault(format!("`{value}` is not a number of ms from 1 to {most}"));
                self.deadline = Some(Duration::from_millis(ms.ok_or_else(expected)?));
            }
            "max_price" => {
                let max = value.parse::<Amount>().map_err(|error| fault(error.to_string()))?;
                self.policy.price_micros_max = Some(max.micros);
                self.policy.price_currency = Some(max.currency.to_string());
            }
            "priority" => {
                let level = value.parse::<u64>();
                let level = level.map_err(|_| fault(format!("`{value}` is not a whole number")))?;
                // No model has so many levels: which one it is not does not matter.
                self.priority = u32::try_from(level).unwrap_or(u32::MAX);
            }
            "split" => {
                let all = [Split::Auto, Split::Never, Split::Rows, Split::Stages];
                let named = all.into_iter().find(|split| split.name() == value);
                let unknown = || fault(format!("`{value}` is not auto, never, rows or stages"));
                self.policy.split = named.ok_or_else(unknown)?;
            }
            "purpose" if value.len() <= NAME_BYTES_MAX => {
                self.policy.purpose = Some(value.to_owned());
            }
            "purpose" => return Err(fault(format!("more than {NAME_BYTES_MAX} bytes"))),
            "rtt_evidence" if value == "required" => self.policy.rtt_evidence = true,
            "rtt_evidence" => return Err(fault(format!("`{value}` is not `required`"))),
            "audit" if value == "fail-closed" => self.policy.audit_fail_closed = true,
            "audit" => return Err(fault(format!("`{value}` is not `fail-closed`"))),
            "receipt" => match value {
                "inline" => self.with_receipt = true,
                "required" => self.policy.receipt_required = true,
                _ => return Err(fault(format!("`{value}` is neither inline nor required"))),
            },
            _ => {
                if value != "none" {
                    return Err(fault(format!("`{value}` is not `none`, the only value there is")));
                }
                self.policy.retain_nothing = true;
            }
        }
        Ok(())
    }
}

/// A number that was held to its limit.
fn narrow<T: TryFrom<u64, Error: std::fmt::Debug>>(number: u64) -> T {
    number.try_into().expect("it is within a limit of this type")
}

/// Whether a text can be the name of an execution provider.
fn is_provider(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// A list of values, those with `!` denied.
fn clause<T: Ord>(
    key: &str,
    value: &str,
    expand: impl Fn(&str) -> Result<BTreeSet<T>, ConstraintError>,
) -> Result<Clause<T>, ConstraintError> {
    let (mut allow, mut deny) = (None::<BTreeSet<T>>, BTreeSet::new());
    for entry in value.split(',').map(str::trim) {
        match entry.strip_prefix('!').map_or((entry, false), |name| (name.trim(), true)) {
            ("", _) => {
                let reason = format!("`{value}` has an empty entry");
                return Err(ConstraintError::Value { key: key.to_owned(), reason });
            }
            (name, true) => deny.append(&mut expand(name)?),
            (name, false) => allow.get_or_insert_default().append(&mut expand(name)?),
        }
    }
    let clause = Clause { allow, deny };
    if clause.values() > POLICY_VALUES_MAX {
        let reason = format!("more than {POLICY_VALUES_MAX} values");
        return Err(ConstraintError::Value { key: key.to_owned(), reason });
    }
    Ok(clause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(key: &str, value: &str) -> Result<Demand, ConstraintError> {
        let eu = ["DE", "FR", "IE"].map(String::from).to_vec();
        let groups = Groups::new([("EU".to_owned(), eu)].into()).unwrap();
        let mut demand = Demand::default();
        demand.set(key, value, &groups).map(|()| demand)
    }

    #[test]
    fn groups_are_written_out_and_denials_kept_apart() {
        let locations = demand("locations", "EU, CH,!IE").unwrap().policy.bounds.locations;
        let names = |set: &BTreeSet<Place>| set.iter().map(Place::to_string).collect::<Vec<_>>();
        assert_eq!(names(locations.allow.as_ref().unwrap()), ["CH", "DE", "FR", "IE"]);
        assert_eq!(names(&locations.deny), ["IE"]);
    }

    #[test]
    fn what_is_empty_or_not_understood_is_refused() {
        for (key, value) in [
            ("locations", ""),
            ("locations", "  "),
            ("locations", "DE,,FR"),
            ("locations", "de"),
            ("locations", "Europe"),
            ("control", "UK"),
            ("deadline_ms", "0"),
            ("deadline_ms", "1.5"),
            ("deadline_ms", "99999999999"),
            ("split", "sometimes"),
            ("retention", "30d"),
            ("max_price", "EUR 1"),
            ("priority", "-1"),
            ("priority", "high"),
            ("location", "DE"),
            ("signatures_min", "-1"),
            ("signatures_min", "17"),
            ("bundles", "sha256:12"),
            ("bundles", "magika"),
            ("device", "CUDA"),
            ("device_memory_mib", "16 GiB"),
            ("hops_max", "5"),
            ("stages_max", "17"),
        ] {
            assert!(demand(key, value).is_err(), "{key}={value}");
        }
        let hint = demand("location", "DE").unwrap_err().to_string();
        assert!(hint.contains("did you mean `locations`"), "{hint}");
    }

    /// Nothing that the wire carries is out of an app's reach.
    #[test]
    fn every_clause_can_be_demanded() {
        let (digest, mut demand) = (Digest([0xab; 32]), Demand::default());
        for (key, value) in [
            ("locations", "DE"),
            ("control", "!US"),
            ("operators", "Nordlicht GmbH"),
            ("authorities", "tuv.example,!bund.example"),
            ("signatures_min", "2"),
            ("data_class", "health"),
            ("bundles", &digest.to_string()),
            ("split", "stages"),
            ("hops_max", "1"),
            ("stages_max", "3"),
            ("device", "cuda"),
            ("device_memory_mib", "16000"),
            ("retention", "none"),
            ("purpose", "care"),
            ("max_price", "0.02 EUR"),
            ("rtt_evidence", "required"),
            ("receipt", "required"),
            ("audit", "fail-closed"),
        ] {
            demand.set(key, value, &Groups::default()).unwrap();
        }
        let listed = |text: &str| Some([text.to_owned()].into());
        let place = |text: &str| BTreeSet::from([text.parse().unwrap()]);
        let expected = Policy {
            bounds: Bounds {
                locations: Clause { allow: Some(place("DE")), ..Clause::default() },
                control: Clause { allow: None, deny: place("US") },
                operators: Clause { allow: listed("Nordlicht GmbH"), ..Clause::default() },
                authorities: Clause {
                    allow: listed("tuv.example"),
                    deny: ["bund.example".to_owned()].into(),
                },
                signatures_min: 2,
                data_classes: ["health".to_owned()].into(),
            },
            bundles: Clause { allow: Some([digest].into()), ..Clause::default() },
            split: Split::Stages,
            hops_max: Some(1),
            stages_max: Some(3),
            device: DeviceNeeds { provider: Some("cuda".into()), memory_mib_min: Some(16_000) },
            retain_nothing: true,
            purpose: Some("care".into()),
            price_micros_max: Some(20_000),
            price_currency: Some("EUR".into()),
            rtt_evidence: true,
            receipt_required: true,
            audit_fail_closed: true,
        };
        assert_eq!(demand.policy, expected);
        assert!(expected.is_well_formed());
    }

    #[test]
    fn a_limit_of_price_is_an_amount_and_a_currency() {
        let policy = demand("max_price", "0.02 EUR").unwrap().policy;
        assert_eq!(policy.price_max().unwrap().to_string(), "0.020000 EUR");
        assert!(policy.is_well_formed());
        assert!(!Policy { price_currency: None, ..policy }.is_well_formed());
        let fault = demand("max_price", "0.02 EUX").unwrap_err().to_string();
        assert!(fault.contains("`EUX` is not the code"), "{fault}");
    }

    #[test]
    fn of_two_limits_of_price_the_lower_holds() {
        let under = |first: &str, second: &str| {
            let mut policy = demand("max_price", first).unwrap().policy;
            policy.limit_price(second.parse().unwrap());
            policy.price_max().unwrap().to_string()
        };
        assert_eq!(under("2 EUR", "1 EUR"), "1.000000 EUR");
        assert_eq!(under("1 EUR", "2 EUR"), "1.000000 EUR");
        assert_eq!(under("1 EUR", "2 USD"), "0.000000 EUR");
        let mut open = Policy::default();
        open.limit_price("3 CHF".parse().unwrap());
        assert_eq!(open.price_max().unwrap().to_string(), "3.000000 CHF");
    }
}
