//! The gate: whether a peer may see a job's data. A pure function, asked before the first byte
//! leaves and again at the peer that receives it. Nothing passes by default.

use serde::Serialize;

use crate::advert::{Device, Record};
use crate::charter::{Charter, CharterFault};
use crate::codec::{Decode, Encode};
use crate::id::Digest;
use crate::physics::Evidence;
use crate::plan::Refusal;
use crate::policy::{Bounds, DeviceNeeds, Policy};
use crate::price::Amount;
use crate::terms::Terms;
use crate::time::Utc;

/// All that the gate knows of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Its charter, or why that does not count.
    pub charter: &'a Result<Charter, CharterFault>,
    /// What it promises, if anything.
    pub terms: Option<&'a Terms>,
    /// What measured round trips say of its place.
    pub evidence: Evidence,
}

/// A peer of whom nothing else is known: it promises nothing, and nothing was measured.
impl<'a> From<&'a Result<Charter, CharterFault>> for Standing<'a> {
    fn from(charter: &'a Result<Charter, CharterFault>) -> Self {
        Self { charter, terms: None, evidence: Evidence::None }
    }
}

impl<'a> From<&'a Record> for Standing<'a> {
    fn from(record: &'a Record) -> Self {
        let (charter, terms) = (&record.charter, Some(&record.terms));
        Self { charter, terms, evidence: record.evidence }
    }
}

/// Whether a peer of this standing may see the data of a job under `policy` that runs `bundle`.
/// Every movement of data asks this one function: first hop, forward, retry, and the peer that
/// receives.
pub fn admit<'a>(
    policy: &Policy,
    bundle: Digest,
    standing: impl Into<Standing<'a>>,
    utc: Utc,
) -> Result<(), Rule> {
    let standing = standing.into();
    within(&policy.bounds, standing.charter, utc)?;
    let proven = match standing.evidence {
        Evidence::Plausible => Ok(()),
        Evidence::None => Err(Rule::NoRttEvidence),
        Evidence::Contradicted => Err(Rule::Contradicted),
    };
    if let (true, Err(rule)) = (policy.rtt_evidence, proven) {
        unless_forgotten(rule)?;
    }
    promises(policy, standing.terms)?;
    permits_bundle(policy, bundle)
}

/// Whether a peer that promises so much may have a job that demands it.
fn promises(policy: &Policy, terms: Option<&Terms>) -> Result<(), Rule> {
    let of_purpose = policy
        .purpose
        .as_ref()
        .is_none_or(|purpose| terms.is_some_and(|terms| terms.purposes.contains(purpose)));
    let needs_receipt = policy.receipt_required || policy.audit_fail_closed;
    if !of_purpose {
        unless_forgotten(Rule::Purpose)?;
    }
    if needs_receipt && !terms.is_some_and(|terms| terms.keeps_receipts) {
        unless_forgotten(Rule::Receipt)?;
    }
    Ok(())
}

/// Whether the answer to a job under `policy` may be kept by the peer that ran it, for other jobs that
/// ask the same and come to that peer, or be one that was kept so. Not where nothing may be kept, nor
/// where the data has a purpose, which the other job's may not be.
pub fn may_reuse(policy: &Policy) -> bool {
    !policy.retain_nothing && policy.purpose.is_none()
}

/// The gate for the peer that asks, of itself: the same, but that nobody measures how far it is from
/// itself. What others measure of it, they go by.
pub fn admit_own<'a>(
    policy: &Policy,
    bundle: Digest,
    standing: impl Into<Standing<'a>>,
    utc: Utc,
) -> Result<(), Rule> {
    let standing = Standing { evidence: Evidence::Plausible, ..standing.into() };
    admit(policy, bundle, standing, utc)
}

/// The gate for the entry itself: a job that constrains nothing runs on the node that it was
/// submitted to also without a charter, since its data does not move.
pub fn admit_entry<'a>(
    policy: &Policy,
    bundle: Digest,
    standing: impl Into<Standing<'a>>,
    utc: Utc,
) -> Result<(), Rule> {
    let standing = standing.into();
    if policy.bounds.is_unconstrained() {
        promises(policy, standing.terms)?;
        return permits_bundle(policy, bundle);
    }
    admit_own(policy, bundle, standing, utc)
}

/// Whether a peer of this standing is within `bounds`: also asked of the peer that sends a job, by
/// the one that receives it.
pub fn within(
    bounds: &Bounds,
    standing: &Result<Charter, CharterFault>,
    utc: Utc,
) -> Result<(), Rule> {
    let charter = match standing {
        Ok(charter) => charter,
        Err(CharterFault::Absent) => return unless_forgotten(Rule::NoCharter),
        Err(CharterFault::Revoked { .. }) => return unless_forgotten(Rule::Revoked),
        Err(CharterFault::Unchecked { .. }) => return unless_forgotten(Rule::Unchecked),
        Err(_) => return unless_forgotten(Rule::CharterInvalid),
    };
    let signers = charter.authorities.iter();
    let counted = signers.filter(|name| bounds.authorities.permits_value(name));
    let counted = counted.count();
    let rules = [
        (charter.valid_at(utc), Rule::CharterExpired),
        (bounds.locations.permits_place(&charter.location), Rule::Location),
        (bounds.control.permits_place(&charter.control), Rule::Control),
        (bounds.operators.permits_value(&charter.operator), Rule::Operator),
        (counted > 0, Rule::Authority),
        (counted >= usize::from(bounds.signatures_min), Rule::Signatures),
        (bounds.data_classes.is_subset(&charter.data_classes), Rule::DataClass),
    ];
    rules.into_iter().filter(|(holds, _)| !holds).try_for_each(|(_, rule)| unless_forgotten(rule))
}

/// A rule that fails keeps a peer out.
#[cfg(not(hansa_broken_gate))]
#[inline]
fn unless_forgotten(rule: Rule) -> Result<(), Rule> {
    Err(rule)
}

/// A gate that is broken on purpose forgets one rule, so that the simulator's checkers are seen to
/// check. Only `--cfg hansa_broken_gate` breaks it, and a release cannot be built so.
#[cfg(hansa_broken_gate)]
fn unless_forgotten(rule: Rule) -> Result<(), Rule> {
    if broken::forgotten() == Some(rule) { Ok(()) } else { Err(rule) }
}

/// Which rule the broken gate forgets.
#[cfg(hansa_broken_gate)]
pub mod broken {
    use super::Rule;
    use std::sync::Mutex;

    static FORGOTTEN: Mutex<Option<Rule>> = Mutex::new(None);

    /// Has the gate forget `rule` from now on, in the whole process.
    pub fn forget(rule: Option<Rule>) {
        *FORGOTTEN.lock().expect("no holder panics") = rule;
    }

    pub(super) fn forgotten() -> Option<Rule> {
        *FORGOTTEN.lock().expect("no holder panics")
    }
}

#[cfg(all(hansa_broken_gate, not(debug_assertions)))]
compile_error!("a gate that is broken on purpose is for tests");

fn permits_bundle(policy: &Policy, bundle: Digest) -> Result<(), Rule> {
    let permitted = policy.bundles.permits_value(&bundle);
    if permitted { Ok(()) } else { unless_forgotten(Rule::Bundle) }
}

/// The gate of the peer that receives a job, before it reads a byte of the payload: it serves only
/// whom it wants to, and sees only what the job's policy lets it see, also when it would pass the
/// job on.
pub fn receive(
    serve: &Bounds,
    sender: &Result<Charter, CharterFault>,
    policy: &Policy,
    bundle: Digest,
    own: Standing<'_>,
    utc: Utc,
) -> Result<(), Refusal> {
    within(serve, sender, utc).map_err(|rule| Refusal::NotServed { rule })?;
    let unsatisfiable = |rule| Refusal::PolicyUnsatisfiable { failed: [(rule, 1)].into() };
    admit_own(policy, bundle, own, utc).map_err(unsatisfiable)
}

/// The gate of a peer that is to run a stage, for the job's entry: outputs go there from here, so it
/// must be one whom this peer serves, as the peer that sent the stage.
pub fn serve_entry(
    serve: &Bounds,
    entry: &Result<Charter, CharterFault>,
    utc: Utc,
) -> Result<(), Refusal> {
    within(serve, entry, utc).map_err(|rule| Refusal::NotServed { rule })
}

/// The gate of a job's entry for what a stage delivers: only peers that the job may go to have
/// anything of it.
pub fn receive_delivery<'a>(
    policy: &Policy,
    bundle: Digest,
    sender: impl Into<Standing<'a>>,
    utc: Utc,
) -> Result<(), Refusal> {
    admit(policy, bundle, sender, utc).map_err(|rule| Refusal::NotServed { rule })
}

/// The gate of a client, for the node that it would send a job to: that node sees the inputs, too.
pub fn may_enter(
    bounds: &Bounds,
    entry: &Result<Charter, CharterFault>,
    utc: Utc,
) -> Result<(), Rule> {
    within(bounds, entry, utc)
}

/// The gate of a cosigner of this node's log: a peer of another operator, to which this node may send.
/// It is shown a number and a hash.
pub fn may_cosign(
    send: &Bounds,
    own: &Charter,
    standing: &Result<Charter, CharterFault>,
    utc: Utc,
) -> bool {
    let is_other = standing.as_ref().is_ok_and(|charter| charter.operator != own.operator);
    is_other && within(send, standing, utc).is_ok()
}

/// Whether one of `devices` is what the job needs.
pub fn fits(needs: &DeviceNeeds, devices: &[Device]) -> bool {
    let fits = |device: &Device| {
        needs.provider.as_ref().is_none_or(|provider| *provider == device.provider)
            && needs.memory_mib_min.is_none_or(|mib| device.memory_total_mib >= mib)
    };
    *needs == DeviceNeeds::default()
        || devices.iter().any(fits)
        || unless_forgotten(Rule::Device).is_ok()
}

/// Whether a peer that asks `price` is within what a job may still cost. One that asks nothing always
/// is; one that asks in another currency never: the two cannot be compared.
pub fn affords(limit: Option<Amount>, price: Option<Amount>) -> Result<(), Rule> {
    match (limit, price) {
        (Some(limit), Some(price)) => {
            let is_within = price.currency == limit.currency && price.micros <= limit.micros;
            if is_within { Ok(()) } else { unless_forgotten(Rule::Price) }
        }
        _ => Ok(()),
    }
}

/// The rule that keeps a peer out. The first that fails is named, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The peer shows no charter.
    NoCharter,
    /// Its charter does not count: forged, malformed, of an unknown authority, over-asserting.
    CharterInvalid,
    /// Its charter is not valid yet or not any more.
    CharterExpired,
    /// Its location is not permitted.
    Location,
    /// Its control is not permitted.
    Control,
    /// Its operator is not permitted.
    Operator,
    /// No permitted authority signed its charter.
    Authority,
    /// Too few permitted authorities signed it.
    Signatures,
    /// Its charter does not name the data class.
    DataClass,
    /// The policy does not permit the bundle.
    Bundle,
    /// It does not hold the bundle.
    NotHeld,
    /// None of its devices is what the job needs.
    Device,
    /// It does not answer, or failed a moment ago.
    Unreachable,
    /// The job has passed it already.
    Visited,
    /// It was tried for this job and failed.
    Tried,
    /// What it would ask is over what the job may cost, or in another currency.
    Price,
    /// An authority revoked its charter.
    Revoked,
    /// There is no list of revocations that is new enough to tell whether its charter still counts.
    Unchecked,
    /// It answers sooner than anybody could from where its charter places it.
    Contradicted,
    /// Too few round trips to it were measured to say anything of its place.
    NoRttEvidence,
    /// It does not promise to keep to the purpose of the data.
    Purpose,
    /// It leaves no receipts.
    Receipt,
}

impl Rule {
    /// Whether the rule speaks of the moment, not of what is permitted: later it may hold.
    pub fn is_of_the_moment(self) -> bool {
        matches!(self, Rule::Unreachable | Rule::Visited | Rule::Tried | Rule::NoRttEvidence)
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Rule::NoCharter => "it shows no charter",
            Rule::CharterInvalid => "its charter does not count",
            Rule::CharterExpired => "its charter is not valid now",
            Rule::Location => "its location is not permitted",
            Rule::Control => "its control is not permitted",
            Rule::Operator => "its operator is not permitted",
            Rule::Authority => "no permitted authority signed its charter",
            Rule::Signatures => "too few permitted authorities signed its charter",
            Rule::DataClass => "its charter does not name the data class",
            Rule::Bundle => "the policy does not permit the bundle",
            Rule::NotHeld => "it does not hold the bundle",
            Rule::Device => "none of its devices is what the job needs",
            Rule::Unreachable => "it does not answer",
            Rule::Visited => "the job has passed it already",
            Rule::Tried => "it failed this job already",
            Rule::Price => "it asks more than the job may cost",
            Rule::Revoked => "its charter was revoked",
            Rule::Unchecked => "no list of revocations is new enough to trust its charter",
            Rule::Contradicted => {
                "it answers sooner than it could from where its charter places it"
            }
            Rule::NoRttEvidence => "too few round trips to it were measured yet",
            Rule::Purpose => "it does not promise to keep to the purpose",
            Rule::Receipt => "it leaves no receipts",
        })
    }
}
