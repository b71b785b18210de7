//! The decision for a job: gate, then rank.
//!
//! `plan` is pure and fast: it looks at a few of the permitted holders, drawn by advertised
//! capacity, and the nearest; ranks them by the one cost law (round trip + transfer + wait +
//! service); and asks the gate once more of the one that it returns. Reasons are written only when
//! asked, by [`crate::explain`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::chain::{self, Chain, chain};
use crate::codec::{Decode, Encode};
use crate::gate::{self, Rule};
use crate::holders::{Offer, Permitted};
use crate::holding::Holding;
use crate::id::{Digest, JobId, PeerId};
use crate::limits::{CANDIDATES_DRAWN, CANDIDATES_MAX, HOPS_DEFAULT, HOPS_MAX};
use crate::loads::Loads;
use crate::policy::{Bounds, Law, Policy, Split};
use crate::price::{Amount, Bill};
pub use crate::rank::Cost;
use crate::rank::{Order, Thrift, cost_here, cost_there, order, price};
pub use crate::resolve::{Resolved, resolve};
use crate::rng::{Rng, mix};
use crate::scatter::Unsplittable;
use crate::time::{Mono, Now};
use crate::view::{Entry, Liveness, View};

/// One inference request as the planner sees it: sizes and law, no payload.
#[derive(Clone, Debug)]
pub struct Job {
    /// Unique over the mesh.
    pub id: JobId,
    /// What is to run.
    pub bundle: Digest,
    /// The law that the job came with.
    pub policy: Law,
    /// The law that it travels on with: `policy` narrowed by where this node may send.
    pub onward: Law,
    /// Bytes of the inputs.
    pub bytes: u64,
    /// Rows of the batch.
    pub rows: u32,
    /// Whether each row gives the same alone as among others.
    pub separable: bool,
    /// Answer by then.
    pub deadline: Mono,
    /// Whether the app named the deadline: then sooner than needed is worth nothing.
    pub is_timed: bool,
    /// How urgent it is where it waits: 1 is the most, 0 leaves it to the model. It changes no plan.
    pub priority: u32,
    /// What has been charged for it so far: by the stages before this one.
    pub spent: Bill,
    /// Hops that it may still make.
    pub hops_left: u8,
    /// Peers that it has passed, entry first; it returns to none of them. Empty at the entry.
    pub path: Vec<PeerId>,
}

impl Job {
    /// A job at its entry, without sizes and hops of its own, on a node that sends within `send`.
    pub fn new(
        id: JobId,
        bundle: Digest,
        policy: impl Into<Law>,
        send: &Bounds,
        deadline: Mono,
    ) -> Self {
        let policy = policy.into();
        Self {
            id,
            bundle,
            onward: policy.narrow(send),
            bytes: 0,
            rows: 1,
            separable: false,
            deadline,
            is_timed: false,
            priority: 0,
            spent: Bill::default(),
            hops_left: policy.hops_max.unwrap_or(HOPS_DEFAULT).min(HOPS_MAX),
            policy,
            path: Vec::new(),
        }
    }

    /// What it may still cost, if there is a limit.
    pub fn limit(&self) -> Option<Amount> {
        let max = self.policy.price_max()?;
        Some(Amount { micros: max.micros.saturating_sub(self.spent.micros(max.currency)), ..max })
    }

    /// Whether one peer may run all of it.
    pub(crate) fn may_stay_whole(&self) -> bool {
        matches!(self.policy.split, Split::Auto | Split::Never)
    }
}

/// What is done with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It runs here.
    Local {
        /// At what expected cost.
        cost: Cost,
    },
    /// It goes to another peer.
    Forward {
        /// Which.
        to: PeerId,
        /// At what expected cost.
        cost: Cost,
    },
    /// It goes through several peers, each with a stage of the model.
    Stages {
        /// Which, in order, and at what expected cost.
        chain: Chain,
    },
    /// It is refused.
    Refuse(Refusal),
}

/// Why a job is not run. It travels back to the entry, which tells the app.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Refusal {
    /// No peer in the view holds such a model.
    #[error("no peer offers the model `{model}`{hint}")]
    UnknownModel {
        /// As the app named it, or a digest.
        model: String,
        /// A name that is offered and near, as text.
        hint: String,
    },
    /// Permitted peers hold different bundles under the name and version.
    #[error("`{model}` means different bundles on different peers; name one as NAME@sha256:…")]
    AmbiguousModel {
        /// As the app named it.
        model: String,
        /// The candidates.
        digests: Vec<Digest>,
    },
    /// Peers hold it, and none passes the gate.
    #[error("no peer that the policy permits can run this job")]
    PolicyUnsatisfiable {
        /// How many holders failed each rule first.
        failed: BTreeMap<Rule, u32>,
    },
    /// Peers that the policy permits hold it, and none can be reached now.
    #[error("peers that the policy permits hold the model, but none can be reached now")]
    Unavailable {
        /// How many holders failed each rule first.
        failed: BTreeMap<Rule, u32>,
    },
    /// The policy demands what this version cannot enforce.
    #[error(
        "the policy's clause `{clause}` is not supported by this version, so the job is refused"
    )]
    Unsupported {
        /// The clause.
        clause: String,
    },
    /// The receiving peer does not serve the peer that sent the job.
    #[error("this peer does not serve the peer that sent the job: {rule}")]
    NotServed {
        /// The rule that the sender failed.
        rule: Rule,
    },
    /// The job may not travel further and cannot run here.
    #[error("the job has no hops left and cannot run here")]
    HopLimit,
    /// All permitted peers were tried, or the retry budget is spent.
    #[error("{attempts} attempts failed; the last: {last}")]
    Failed {
        /// How many.
        attempts: u32,
        /// What the last one said.
        last: String,
    },
    /// No time is left.
    #[error("the deadline has passed")]
    Deadline,
    /// Every slot and queue place that the job could have is taken.
    #[error("at capacity; try again in {retry_after_ms} ms")]
    Busy {
        /// When it may be worth trying again.
        retry_after_ms: u32,
    },
    /// The inputs do not fit the model.
    #[error("{reason}")]
    BadInput {
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The header was not understood.
    #[error("{reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The executor failed.
    #[error("the model failed: {reason}")]
    Execution {
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The peer is draining and takes no new jobs.
    #[error("the peer is shutting down")]
    Draining,
    /// Peers hold stages of the model, but not all of it.
    #[error(
        "no chain of peers holds the whole model: nothing begins at or before its node {at} and goes on, of {of}"
    )]
    Gap {
        /// What is held up to here.
        at: u32,
        /// Nodes of the model.
        of: u32,
    },
    /// The batch is to be split, and cannot be.
    #[error("the batch cannot be split over peers: {why}")]
    Unsplittable {
        /// Why.
        why: Unsplittable,
    },
    /// The model is on its way to the peer that answers.
    #[error("the model is being fetched, {percent} % of it is here; try again in {ready_in_ms} ms")]
    Loading {
        /// When it is expected to be served.
        ready_in_ms: u32,
        /// How much of its bytes is here.
        percent: u8,
    },
    /// The receipt that the policy or the operator demands cannot be kept.
    #[error("the receipt that is demanded cannot be kept: {reason}")]
    NoReceipt {
        /// Why.
        reason: String,
    },
}

/// A job that runs here within this is not worth a look at other peers.
const LOCAL_AT_ONCE: Duration = Duration::from_millis(1);

/// Decides what is done with `job`. `tried` are peers that have failed it.
pub fn plan(now: Now, view: &View, loads: &Loads, job: &Job, tried: &[PeerId]) -> Plan {
    if job.deadline <= now.mono {
        return Plan::Refuse(Refusal::Deadline);
    }
    if job.policy.split == Split::Rows {
        // One peer is planned for here, and that is what the job forbids: its entry has to split it.
        return Plan::Refuse(Refusal::Unsupported { clause: "split".to_owned() });
    }
    if job.policy.split == Split::Stages && job.path.is_empty() {
        return in_stages(now, view, loads, job, tried);
    }
    let here = here(now, view, loads, job, tried).ok();
    match here {
        Some((order, cost)) if is_at_once(&order, job) => return Plan::Local { cost },
        _ => {}
    }
    match (here, elsewhere(now, view, loads, job, tried)) {
        (Some((here, cost)), Some((there, _))) if here <= there => Plan::Local { cost },
        (_, Some((Order { peer: to, .. }, cost))) => Plan::Forward { to, cost },
        (Some((_, cost)), None) => Plan::Local { cost },
        // Only where nobody holds the whole: every hand-over costs.
        (None, None) if may_split(view, job) => in_stages(now, view, loads, job, tried),
        (None, None) => Plan::Refuse(refusal(now, view, loads, job, tried)),
    }
}

/// Whether stages are worth a look: the entry plans them, and the job permits it.
fn may_split(view: &View, job: &Job) -> bool {
    let may = job.path.is_empty() && job.policy.split == Split::Auto;
    may && view.stages(job.bundle).next().is_some()
}

fn in_stages(now: Now, view: &View, loads: &Loads, job: &Job, tried: &[PeerId]) -> Plan {
    match chain(now, view, loads, job, 0, tried) {
        Some(chain) => Plan::Stages { chain },
        None => Plan::Refuse(chain::refusal(now, view, loads, job, tried)),
    }
}

/// What running the job here would cost, or why it may not.
pub(crate) fn here(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Result<(Order, Cost), Rule> {
    let entry = view.get(view.me()).ok_or(Rule::NotHeld)?;
    let offer = admit_here(now, entry, loads, job, tried)?;
    let cost = cost_here(job, &offer, &loads.read(offer.peer, job.bundle, now.mono));
    Ok((order(now, job, &offer, false, &cost), cost))
}

/// Whether a job that would run here so is not worth a look at other peers.
fn is_at_once(order: &Order, job: &Job) -> bool {
    let is_frugal = !job.is_timed || order.thrift == Thrift::default();
    order.total <= LOCAL_AT_ONCE && is_frugal
}

/// The best other peer, if one is permitted and can be reached.
pub(crate) fn elsewhere(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Option<(Order, Cost)> {
    if job.hops_left == 0 {
        return None;
    }
    let permitted = view.permitted(&job.onward, job.bundle);
    let candidates = looked_at(&permitted, loads, job, tried.len());
    let limit = job.limit();
    let best = |candidates: &mut dyn Iterator<Item = &Offer>| {
        let mut ranked: Vec<(Order, Cost, u32)> = candidates
            .filter(|offer| offer.is_valid_at(now.utc))
            .filter(|offer| !job.path.contains(&offer.peer) && !tried.contains(&offer.peer))
            .filter_map(|offer| {
                let load = loads.read(offer.peer, job.bundle, now.mono);
                let cost = cost_there(job, offer, &load);
                gate::affords(limit, cost.price).ok()?;
                let order = order(now, job, offer, true, &cost);
                (load.avoid_until <= now.mono).then_some((order, cost, offer.entry))
            })
            .collect();
        ranked.sort_unstable_by_key(|(order, _, _)| *order);
        // The gate once more, of the peer itself and at this moment: nothing is returned that it
        // did not pass.
        ranked.into_iter().find_map(|(order, cost, entry)| {
            let entry = &view.entries()[entry as usize];
            admit_there(now, entry, loads, job, tried).ok()?;
            Some((order, cost))
        })
    };
    // A draw may hit only peers that cannot take the job now; then all are looked at.
    best(&mut candidates.into_iter()).or_else(|| best(&mut permitted.all()))
}

/// The permitted that are worth a look: all of a few, else some drawn by capacity, for each attempt
/// others, and the nearest.
pub(crate) fn looked_at<'a>(
    permitted: &'a Permitted,
    loads: &Loads,
    job: &Job,
    attempt: usize,
) -> Vec<&'a Offer> {
    if permitted.len() <= CANDIDATES_MAX {
        return permitted.all().collect();
    }
    let seed = u64::from_le_bytes(job.id.0[..8].try_into().expect("eight of sixteen bytes"));
    let mut rng = Rng::new(mix(seed ^ attempt as u64));
    let near = loads.nearest().take(CANDIDATES_MAX - CANDIDATES_DRAWN);
    let near = near.filter_map(|peer| permitted.of_peer(peer));
    permitted.draw(CANDIDATES_DRAWN, &mut rng).into_iter().chain(near).collect()
}

/// What this node offers the job, if it may run it itself.
pub(crate) fn admit_here(
    now: Now,
    entry: &Entry,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Result<Offer, Rule> {
    let record = &entry.record;
    if job.path.is_empty() {
        gate::admit_entry(&job.policy, job.bundle, &**record, now.utc)?;
    } else {
        gate::admit_own(&job.policy, job.bundle, &**record, now.utc)?;
    }
    let offer = can_run(entry, job)?;
    let load = loads.read(offer.peer, job.bundle, now.mono);
    gate::affords(job.limit(), price(job, &offer, &load))?;
    if job.path.contains(&offer.peer) {
        Err(Rule::Visited)
    } else if tried.contains(&offer.peer) {
        Err(Rule::Tried)
    } else {
        Ok(offer)
    }
}

/// Whether a job that enters at this peer may run here, were its bundle here.
pub fn may_run_here(now: Now, view: &View, policy: &Policy, bundle: Digest) -> bool {
    view.get(view.me()).is_some_and(|entry| {
        gate::admit_entry(policy, bundle, &*entry.record, now.utc).is_ok()
            && gate::fits(&policy.device, &entry.record.advert.devices)
    })
}

/// Other peers that may be asked about the job's bundle at this moment, or why none may.
///
/// # Errors
/// What [`plan`] would refuse the job with.
pub fn candidates(now: Now, view: &View, loads: &Loads, job: &Job) -> Result<Vec<PeerId>, Refusal> {
    let may = |entry: &&Entry| {
        let peer = entry.record.advert.peer;
        peer != view.me() && admit_there(now, entry, loads, job, &[]).is_ok()
    };
    let peers: Vec<PeerId> =
        view.holders(job.bundle).filter(may).map(|entry| entry.record.advert.peer).collect();
    if peers.is_empty() { Err(refusal(now, view, loads, job, &[])) } else { Ok(peers) }
}

/// Other peers that may be asked for the files of the job's bundle at this moment, or why none may.
///
/// # Errors
/// What [`plan`] would refuse the job with.
pub fn keepers(now: Now, view: &View, loads: &Loads, job: &Job) -> Result<Vec<PeerId>, Refusal> {
    let mut failed = BTreeMap::new();
    let mut peers = Vec::new();
    for entry in view.keepers(job.bundle) {
        let peer = entry.record.advert.peer;
        if peer == view.me() {
            continue;
        }
        let admitted = gate::admit(&job.onward, job.bundle, &*entry.record, now.utc);
        match admitted {
            Ok(()) if loads.avoided(peer, now.mono) => {
                *failed.entry(Rule::Unreachable).or_insert(0) += 1
            }
            Ok(()) => peers.push(peer),
            Err(rule) => *failed.entry(rule).or_insert(0) += 1,
        }
    }
    if !peers.is_empty() {
        Ok(peers)
    } else if failed.is_empty() {
        Err(Refusal::UnknownModel { model: job.bundle.to_string(), hint: String::new() })
    } else if failed.keys().any(|rule| rule.is_of_the_moment()) {
        Err(Refusal::Unavailable { failed })
    } else {
        Err(Refusal::PolicyUnsatisfiable { failed })
    }
}

/// What another peer offers the job, if it may be sent there.
pub(crate) fn admit_there(
    now: Now,
    entry: &Entry,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Result<Offer, Rule> {
    gate::admit(&job.onward, job.bundle, &*entry.record, now.utc)?;
    let offer = can_run(entry, job)?;
    let load = loads.read(offer.peer, job.bundle, now.mono);
    gate::affords(job.limit(), price(job, &offer, &load))?;
    if entry.liveness == Liveness::Down || load.avoid_until > now.mono {
        Err(Rule::Unreachable)
    } else if job.path.contains(&offer.peer) {
        Err(Rule::Visited)
    } else if tried.contains(&offer.peer) {
        Err(Rule::Tried)
    } else {
        Ok(offer)
    }
}

fn can_run(entry: &Entry, job: &Job) -> Result<Offer, Rule> {
    let offer = Offer::of(0, entry, job.bundle).ok_or(Rule::NotHeld)?;
    let fits = gate::fits(&job.policy.device, &entry.record.advert.devices);
    if fits { Ok(offer) } else { Err(Rule::Device) }
}

/// Why nothing can run the job: the first rule that each holder failed, counted.
pub(crate) fn refusal(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Refusal {
    let mut failed = BTreeMap::new();
    let mut out_of_hops = false;
    let permitted = view.permitted(&job.onward, job.bundle);
    permitted.tally(now.utc, &mut failed, |index, failed| {
        let entry = &view.entries()[index as usize];
        let verdict = if entry.record.advert.peer == view.me() {
            admit_here(now, entry, loads, job, tried)
        } else {
            admit_there(now, entry, loads, job, tried)
        };
        match verdict {
            Ok(_) => out_of_hops = true,
            Err(rule) => *failed.entry(rule).or_insert(0) += 1,
        }
    });
    if out_of_hops {
        Refusal::HopLimit
    } else if failed.is_empty() {
        let kept = view.entries().iter().filter(|entry| keeps(entry, job.bundle)).count();
        match u32::try_from(kept).unwrap_or(u32::MAX) {
            0 => Refusal::UnknownModel { model: job.bundle.to_string(), hint: String::new() },
            // Somebody may take it up.
            kept => Refusal::Unavailable { failed: [(Rule::NotHeld, kept)].into() },
        }
    } else if failed.keys().any(|rule| rule.is_of_the_moment()) {
        Refusal::Unavailable { failed }
    } else {
        Refusal::PolicyUnsatisfiable { failed }
    }
}

/// Whether a live peer has the files of a bundle, or of a part of it, to be fetched.
fn keeps(entry: &Entry, bundle: Digest) -> bool {
    let is_it = |holding: &Holding| {
        let whole = holding.kept.as_ref().and_then(|kept| Some(kept.part?.whole));
        holding.bundle == bundle || whole == Some(bundle)
    };
    entry.liveness != Liveness::Down && entry.record.supply.holdings.iter().any(is_it)
}
