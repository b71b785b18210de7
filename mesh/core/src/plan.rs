//! The decision for a job: gate, then rank.
//!
//! `plan` is pure and fast: it draws a few of the permitted holders by advertised capacity, ranks
//! them by the one cost law (round trip + transfer + wait + service), and asks the gate once more
//! of the one that it returns. Reasons are written only when asked, by [`crate::explain`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Decode, Encode};
use crate::gate::{self, Rule};
use crate::holders::{ModelVersion, Offer};
use crate::id::{Digest, JobId, PeerId};
use crate::limits::{CANDIDATES_MAX, HOPS_DEFAULT, HOPS_MAX};
use crate::loads::{Load, Loads};
use crate::policy::{Bounds, Policy};
use crate::rng::{Rng, mix};
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
    pub policy: Policy,
    /// The law that it travels on with: `policy` narrowed by where this node may send.
    pub onward: Policy,
    /// [`Policy::hash`] of `onward`.
    pub onward_law: Digest,
    /// Bytes of the inputs.
    pub bytes: u64,
    /// Rows of the batch.
    pub rows: u32,
    /// Answer by then.
    pub deadline: Mono,
    /// Hops that it may still make.
    pub hops_left: u8,
    /// Peers that it has passed, entry first; it returns to none of them. Empty at the entry.
    pub path: Vec<PeerId>,
}

impl Job {
    /// A job at its entry, without sizes and hops of its own, on a node that sends within `send`.
    pub fn new(id: JobId, bundle: Digest, policy: Policy, send: &Bounds, deadline: Mono) -> Self {
        let onward = policy.narrow(send);
        Self {
            id,
            bundle,
            onward_law: onward.hash(),
            onward,
            bytes: 0,
            rows: 1,
            deadline,
            hops_left: policy.hops_max.unwrap_or(HOPS_DEFAULT).min(HOPS_MAX),
            policy,
            path: Vec::new(),
        }
    }
}

/// What a candidate is expected to cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Round trip to the peer.
    pub rtt: Duration,
    /// The inputs over its measured bandwidth.
    pub transfer: Duration,
    /// Expected wait for a slot.
    pub wait: Duration,
    /// Expected service time.
    pub service: Duration,
}

impl Cost {
    /// What candidates are ranked by.
    pub fn total(&self) -> Duration {
        self.rtt + self.transfer + self.wait + self.service
    }
}

/// What is done with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It runs here.
    Local,
    /// It goes to another peer.
    Forward {
        /// Which.
        to: PeerId,
        /// At what expected cost.
        cost: Cost,
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
}

/// The model that an app means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The name, without a digest.
    pub name: String,
    /// The version.
    pub version: String,
    /// The bundle.
    pub bundle: Digest,
}

/// Round trip that is assumed of a peer that was never measured.
const RTT_ASSUMED: Duration = Duration::from_millis(20);
/// Bandwidth that is assumed of every link, in bytes per second.
const BANDWIDTH_ASSUMED: u64 = 100_000_000;
/// Service time of a row that is assumed where nobody measured one.
const SERVICE_ASSUMED: Duration = Duration::from_millis(1);
/// What a peer that misses probes is charged: it gets jobs only when no other can.
const SUSPECT_PENALTY: Duration = Duration::from_secs(1);
/// A job that runs here within this is not worth a look at other peers.
const LOCAL_AT_ONCE: Duration = Duration::from_millis(1);

/// Decides what is done with `job`. `tried` are peers that have failed it.
pub fn plan(now: Now, view: &View, loads: &Loads, job: &Job, tried: &[PeerId]) -> Plan {
    if let Some(clause) = job.policy.unsupported() {
        return Plan::Refuse(Refusal::Unsupported { clause: clause.to_owned() });
    }
    if job.deadline <= now.mono {
        return Plan::Refuse(Refusal::Deadline);
    }
    let here = view.get(view.me()).and_then(|entry| {
        admit_here(now, entry, job, tried).ok()?;
        Some(cost_here(entry, &loads.read(view.me(), job.bundle, now.mono), job))
    });
    match here {
        Some(here) if here.total() <= LOCAL_AT_ONCE => return Plan::Local,
        _ => {}
    }
    match (here, elsewhere(now, view, loads, job, tried)) {
        (Some(here), Some((_, there))) if here.total() <= there.total() => Plan::Local,
        (_, Some((to, cost))) => Plan::Forward { to, cost },
        (Some(_), None) => Plan::Local,
        (None, None) => Plan::Refuse(refusal(now, view, loads, job, tried)),
    }
}

/// The best other peer, if one is permitted and can be reached.
fn elsewhere(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Option<(PeerId, Cost)> {
    if job.hops_left == 0 {
        return None;
    }
    let permitted = view.permitted(&job.onward, job.onward_law, job.bundle);
    let seed = u64::from_le_bytes(job.id.0[..8].try_into().expect("eight of sixteen bytes"));
    let mut rng = Rng::new(mix(seed ^ tried.len() as u64));
    let drawn = permitted.draw(CANDIDATES_MAX, &mut rng);
    let best = |offers: &[Offer]| {
        let candidate = |offer: &Offer| {
            let entry = &view.entries()[offer.entry as usize];
            let load = loads.read(entry.record.advert.peer, job.bundle, now.mono);
            can_take(now, entry, &load, job, tried).ok()?;
            Some((cost_there(entry, &load, job), entry))
        };
        let mut candidates: Vec<(Cost, &Entry)> = offers.iter().filter_map(candidate).collect();
        candidates.sort_by_key(|(cost, entry)| (cost.total(), entry.record.advert.peer));
        // The gate, once more and now with the time: nothing is returned that it did not pass.
        let admitted = candidates.into_iter().find(|(_, entry)| {
            gate::admit(&job.onward, job.bundle, &entry.record.charter, now.utc).is_ok()
                && can_run(entry, job).is_ok()
        });
        admitted.map(|(cost, entry)| (entry.record.advert.peer, cost))
    };
    // A draw may hit only peers that cannot take the job now; then all are looked at.
    best(&drawn).or_else(|| best(permitted.all()))
}

/// Whether this node may run the job itself.
pub(crate) fn admit_here(now: Now, entry: &Entry, job: &Job, tried: &[PeerId]) -> Result<(), Rule> {
    let record = &entry.record;
    if job.path.is_empty() {
        gate::admit_entry(&job.policy, job.bundle, &record.charter, now.utc)?;
    } else {
        gate::admit(&job.policy, job.bundle, &record.charter, now.utc)?;
    }
    can_run(entry, job)?;
    if job.path.contains(&record.advert.peer) {
        Err(Rule::Visited)
    } else if tried.contains(&record.advert.peer) {
        Err(Rule::Tried)
    } else {
        Ok(())
    }
}

/// Whether another peer may be sent the job.
pub(crate) fn admit_there(
    now: Now,
    entry: &Entry,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Result<(), Rule> {
    gate::admit(&job.onward, job.bundle, &entry.record.charter, now.utc)?;
    can_run(entry, job)?;
    let load = loads.read(entry.record.advert.peer, job.bundle, now.mono);
    can_take(now, entry, &load, job, tried)
}

/// Whether a peer can take the job at this moment, were it permitted.
fn can_take(now: Now, entry: &Entry, load: &Load, job: &Job, tried: &[PeerId]) -> Result<(), Rule> {
    let peer = entry.record.advert.peer;
    if entry.liveness == Liveness::Down || load.avoid_until > now.mono {
        Err(Rule::Unreachable)
    } else if job.path.contains(&peer) {
        Err(Rule::Visited)
    } else if tried.contains(&peer) {
        Err(Rule::Tried)
    } else {
        Ok(())
    }
}

fn can_run(entry: &Entry, job: &Job) -> Result<(), Rule> {
    let advert = &entry.record.advert;
    if !advert.models.iter().any(|model| model.bundle == job.bundle) {
        Err(Rule::NotHeld)
    } else if !gate::fits(&job.policy.device, &advert.devices) {
        Err(Rule::Device)
    } else {
        Ok(())
    }
}

pub(crate) fn cost_there(entry: &Entry, load: &Load, job: &Job) -> Cost {
    let mut cost = Cost { rtt: load.rtt.unwrap_or(RTT_ASSUMED), ..cost_here(entry, load, job) };
    cost.transfer = Duration::from_micros(job.bytes.saturating_mul(1_000_000) / BANDWIDTH_ASSUMED);
    if entry.liveness == Liveness::Suspect {
        cost.wait += SUSPECT_PENALTY;
    }
    cost
}

pub(crate) fn cost_here(entry: &Entry, load: &Load, job: &Job) -> Cost {
    let model = entry.record.advert.models.iter().find(|model| model.bundle == job.bundle);
    let advertised = model.map(|model| model.service_us).filter(|us| *us > 0);
    let advertised = advertised.map(|us| Duration::from_micros(us.into()));
    let per_row = load.service_per_row.or(advertised).unwrap_or(SERVICE_ASSUMED);
    let service = per_row.saturating_mul(job.rows.max(1));
    let slots = model.map_or(1, |model| u32::from(model.slots.max(1)));
    let ahead = (load.in_flight + 1).saturating_sub(slots);
    Cost { wait: service.saturating_mul(ahead) / slots, service, ..Cost::default() }
}

/// Why nothing can run the job: the first rule that each holder failed, counted.
fn refusal(now: Now, view: &View, loads: &Loads, job: &Job, tried: &[PeerId]) -> Refusal {
    let mut failed = BTreeMap::new();
    let mut out_of_hops = false;
    let held =
        |entry: &&Entry| entry.record.advert.models.iter().any(|model| model.bundle == job.bundle);
    for entry in view.entries().iter().filter(held) {
        let verdict = if entry.record.advert.peer == view.me() {
            admit_here(now, entry, job, tried)
        } else {
            admit_there(now, entry, loads, job, tried)
        };
        match verdict {
            Ok(()) => out_of_hops = true,
            Err(rule) => *failed.entry(rule).or_insert(0) += 1,
        }
    }
    if out_of_hops {
        Refusal::HopLimit
    } else if failed.is_empty() {
        Refusal::UnknownModel { model: job.bundle.to_string(), hint: String::new() }
    } else if failed.keys().any(|rule| rule.is_of_the_moment()) {
        Refusal::Unavailable { failed }
    } else {
        Refusal::PolicyUnsatisfiable { failed }
    }
}

/// What an app means by `model`: `NAME`, or `NAME@sha256:…` for exactly that bundle. Without a
/// version, the highest that `policy` permits: a name is not a stranger's to take over by a higher
/// number.
pub fn resolve(
    now: Now,
    view: &View,
    model: &str,
    version: Option<&str>,
    policy: &Policy,
) -> Result<Resolved, Refusal> {
    let (name, exact) = match model.split_once('@') {
        Some((name, digest)) => {
            let digest = digest.parse().map_err(|error: crate::id::IdError| Refusal::BadInput {
                reason: format!("`{model}`: {error}"),
            })?;
            (name, Some(digest))
        }
        None => (model, None),
    };
    let unknown = |hint| Refusal::UnknownModel { model: model.to_owned(), hint };
    let versions = view.index().named(name).ok_or_else(|| unknown(near_name(view, name)))?;
    let resolved = |version: &ModelVersion, bundle| Resolved {
        name: name.to_owned(),
        version: version.0.clone(),
        bundle,
    };
    let meant: Vec<_> = versions
        .iter()
        .rev()
        .filter(|(held, bundles)| {
            version.is_none_or(|wanted| held.0 == wanted)
                && exact.is_none_or(|digest| bundles.contains(&digest))
        })
        .collect();
    let (highest, bundles) =
        *meant.first().ok_or_else(|| unknown(offered_versions(versions.keys())))?;
    if let Some(bundle) = exact {
        return Ok(resolved(highest, bundle));
    }
    let first = *bundles.first().expect("a version has a bundle");
    if meant.len() == 1 && bundles.len() == 1 {
        return Ok(resolved(highest, first));
    }
    let law = policy.hash();
    let permitted = |bundle: &&Digest| {
        let here = view.get(view.me()).is_some_and(|entry| {
            let holds = entry.record.advert.models.iter().any(|held| held.bundle == **bundle);
            holds && gate::admit_entry(policy, **bundle, &entry.record.charter, now.utc).is_ok()
        });
        here || !view.permitted(policy, law, **bundle).all().is_empty()
    };
    for (version, bundles) in meant {
        let digests: Vec<Digest> = bundles.iter().filter(permitted).copied().collect();
        match digests[..] {
            [] => {}
            [bundle] => return Ok(resolved(version, bundle)),
            _ => return Err(Refusal::AmbiguousModel { model: model.to_owned(), digests }),
        }
    }
    // None is permitted: whichever is taken, the plan says why.
    Ok(resolved(highest, first))
}

/// Said when a name is offered, but not as it was asked for.
fn offered_versions<'a>(versions: impl Iterator<Item = &'a ModelVersion>) -> String {
    const MOST: usize = 8;
    let versions: Vec<&str> = versions.map(|version| version.0.as_str()).take(MOST).collect();
    format!("; offered are its versions {}", versions.join(", "))
}

/// The nearest name that is offered.
fn near_name(view: &View, name: &str) -> String {
    let near = |known: &&str| {
        let (a, b) = (known.to_lowercase(), name.to_lowercase());
        !b.is_empty() && (a == b || a.starts_with(&b) || b.starts_with(&a))
    };
    let found = view.index().names().find(near);
    found.map_or(String::new(), |known| format!("; did you mean `{known}`?"))
}
