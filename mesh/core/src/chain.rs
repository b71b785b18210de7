//! A chain of peers for a model that no single one holds: each has a stage, a stretch of the
//! model's nodes, and together they have all of it.
//!
//! The cheapest chain is found by dynamic programming over (peer, stage), stage after stage: a chain
//! costs the way from peer to peer, half a round trip each, and what the job waits and runs at each
//! (design, section 7). Any peer on the way can ask for the rest of the chain from where it stands:
//! that is how a chain is repaired.

pub mod survey;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::advert::Stage;
use crate::codec::{Decode, Encode};
use crate::gate::{self, Rule};
use crate::holders::Offer;
use crate::id::{Digest, PeerId};
use crate::limits::{CANDIDATES_MAX, STAGES_MAX};
use crate::loads::Loads;
use crate::plan::{Job, Refusal};
use crate::rank::{RTT_ASSUMED, SUSPECT_PENALTY, cost_here, transfer};
use crate::rng::mix;
use crate::time::Now;
use crate::view::{Entry, Liveness, View};

/// One link: a peer, and the stage that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Link {
    /// Who.
    pub peer: PeerId,
    /// The stage's own bundle.
    pub bundle: Digest,
    /// First node of the whole that it runs.
    pub from: u32,
    /// First node that it runs no more.
    pub to: u32,
}

/// A chain and what it is expected to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// In the order of the stages.
    pub links: Vec<Link>,
    /// From the first byte sent to the answer.
    pub cost: Duration,
}

/// A stage that may be part of the chain.
struct Candidate<'a> {
    entry: &'a Entry,
    stage: &'a Stage,
    /// Wait and service there.
    work: Duration,
}

/// The cheapest chain for `job` from node `start` of its model on, from where this peer stands to
/// the job's entry; none if permitted peers do not hold all of it. `tried` have failed.
pub fn chain(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    start: u32,
    tried: &[PeerId],
) -> Option<Chain> {
    let guess = |entry: &Entry, stage: &Stage| Some(work(now, loads, job, entry, stage));
    cheapest(now, view, loads, job, start, tried, &guess)
}

/// Wait and service of a stage at a peer; none leaves it out.
type Work<'a> = dyn Fn(&Entry, &Stage) -> Option<Duration> + 'a;

/// The cheapest chain, where `work` says what each stage takes.
fn cheapest(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    start: u32,
    tried: &[PeerId],
    work: &Work<'_>,
) -> Option<Chain> {
    let candidates = candidates(now, view, loads, job, tried, work);
    let me = view.me();
    let home = job.path.first().copied().unwrap_or(me);
    let peer = |at: usize| candidates[at].entry.record.advert.peer;
    let first = |candidate: &Candidate<'_>| {
        let to = candidate.entry.record.advert.peer;
        let load = loads.read(to, candidate.stage.bundle, now.mono);
        let moving = if to == me { Duration::ZERO } else { transfer(job, &load) };
        (candidate.stage.from == start)
            .then(|| one_way(view, loads, me, to) + moving + candidate.work)
    };
    // What the chain up to and with each candidate costs, and which came before it.
    let mut reached: Vec<Option<Duration>> = candidates.iter().map(first).collect();
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut best: Option<(Duration, usize, usize)> = None;
    let links_max =
        job.policy.stages_max.map_or(STAGES_MAX, |max| usize::from(max).min(STAGES_MAX));
    for links in 1..=links_max {
        for (at, candidate) in candidates.iter().enumerate() {
            let Some(cost) = reached[at].filter(|_| candidate.stage.to == candidate.stage.of)
            else {
                continue;
            };
            let cost = cost + one_way(view, loads, peer(at), home);
            if best.is_none_or(|(known, _, _)| cost < known) {
                best = Some((cost, links, at));
            }
        }
        let mut next = vec![None; candidates.len()];
        let mut from = vec![usize::MAX; candidates.len()];
        for (at, candidate) in candidates.iter().enumerate() {
            for (prior, cost) in reached.iter().enumerate() {
                let Some(cost) = *cost else { continue };
                let stage = candidates[prior].stage;
                if (stage.to, stage.of) != (candidate.stage.from, candidate.stage.of) {
                    continue;
                }
                let cost = cost + one_way(view, loads, peer(prior), peer(at)) + candidate.work;
                if next[at].is_none_or(|known| cost < known) {
                    next[at] = Some(cost);
                    from[at] = prior;
                }
            }
        }
        if next.iter().all(Option::is_none) {
            break;
        }
        reached = next;
        before.push(from);
    }
    let (cost, links, mut at) = best?;
    let link = |at: usize| {
        let Stage { bundle, from, to, .. } = *candidates[at].stage;
        Link { peer: peer(at), bundle, from, to }
    };
    let mut chain = vec![link(at)];
    for from in before[..links - 1].iter().rev() {
        at = from[at];
        chain.push(link(at));
    }
    chain.reverse();
    Some(Chain { links: chain, cost })
}

/// Why there is no chain: the rules that holders of stages failed; or where it breaks off.
pub(crate) fn refusal(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
) -> Refusal {
    let mut failed = BTreeMap::new();
    let (mut end, mut of) = (0, 0);
    let mut open: Vec<(u32, u32)> = Vec::new();
    for (entry, stage) in view.stages(job.bundle) {
        of = of.max(stage.of);
        match admit(now, view, loads, job, entry, tried) {
            Ok(()) => open.push((stage.from, stage.to)),
            Err(rule) => *failed.entry(rule).or_insert(0) += 1,
        }
    }
    open.sort_unstable();
    for (from, to) in open {
        if from <= end {
            end = end.max(to);
        }
    }
    if of == 0 {
        let hint = " in stages; leave out the split, or cut it with `hansa models cut`".to_owned();
        Refusal::UnknownModel { model: job.bundle.to_string(), hint }
    } else if failed.is_empty() {
        Refusal::Gap { at: end, of }
    } else if failed.keys().any(|rule| rule.is_of_the_moment()) {
        Refusal::Unavailable { failed }
    } else {
        Refusal::PolicyUnsatisfiable { failed }
    }
}

/// Whether this peer may hand what it holds of the job to `peer` now: the gate before a byte leaves.
///
/// # Errors
/// The rule that keeps `peer` out.
pub fn may_pass(now: Now, view: &View, loads: &Loads, job: &Job, peer: PeerId) -> Result<(), Rule> {
    let entry = view.get(peer).ok_or(Rule::Unreachable)?;
    admit(now, view, loads, job, entry, &[])
}

/// Peers with a stage of the job's model that may be asked about it.
pub fn holders(now: Now, view: &View, loads: &Loads, job: &Job) -> Vec<PeerId> {
    let may = |entry: &&Entry| admit(now, view, loads, job, entry, &[]).is_ok();
    let holders = view.stages(job.bundle).map(|(entry, _)| entry).filter(may);
    let mut peers: Vec<PeerId> = holders.map(|entry| entry.record.advert.peer).collect();
    peers.retain(|peer| *peer != view.me());
    peers.dedup();
    peers
}

/// Those that may be part: of each stretch at most [`CANDIDATES_MAX`], by lot.
fn candidates<'a>(
    now: Now,
    view: &'a View,
    loads: &Loads,
    job: &Job,
    tried: &[PeerId],
    work: &Work<'_>,
) -> Vec<Candidate<'a>> {
    let mut stretches = BTreeMap::<(u32, u32), Vec<(&Entry, &Stage)>>::new();
    for (entry, stage) in view.stages(job.bundle) {
        if admit(now, view, loads, job, entry, tried).is_ok() {
            stretches.entry((stage.from, stage.to)).or_default().push((entry, stage));
        }
    }
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let seed = word(&job.id.0);
    let mut candidates = Vec::new();
    for mut holders in stretches.into_values() {
        // This peer first: what is here need not travel.
        holders.sort_by_key(|(entry, _)| {
            let peer = entry.record.advert.peer;
            (peer != view.me(), mix(seed ^ word(&peer.0)))
        });
        let held = holders.into_iter().take(CANDIDATES_MAX);
        candidates.extend(held.filter_map(|(entry, stage)| {
            Some(Candidate { entry, stage, work: work(entry, stage)? })
        }));
    }
    candidates
}

/// What a stage is expected to take at a peer: by what was measured, else by what it says itself.
fn work(now: Now, loads: &Loads, job: &Job, entry: &Entry, stage: &Stage) -> Duration {
    let load = loads.read(entry.record.advert.peer, stage.bundle, now.mono);
    let offer = Offer::of(0, entry, stage.bundle).expect("it offers the stage");
    let cost = cost_here(job, &offer, &load);
    let doubt = if offer.suspect { SUSPECT_PENALTY } else { Duration::ZERO };
    cost.wait.saturating_add(cost.service).saturating_add(doubt)
}

/// Whether a peer may see what the job hands over, now.
fn admit(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    entry: &Entry,
    tried: &[PeerId],
) -> Result<(), Rule> {
    let (peer, charter) = (entry.record.advert.peer, &entry.record.charter);
    if peer == view.me() && job.path.is_empty() {
        gate::admit_entry(&job.policy, job.bundle, charter, now.utc)?;
    } else if peer == view.me() {
        gate::admit(&job.policy, job.bundle, charter, now.utc)?;
    } else {
        gate::admit(&job.onward, job.bundle, charter, now.utc)?;
    }
    let avoided = loads.avoided(peer, now.mono);
    if !gate::fits(&job.policy.device, &entry.record.advert.devices) {
        Err(Rule::Device)
    } else if entry.liveness == Liveness::Down || (avoided && peer != view.me()) {
        Err(Rule::Unreachable)
    } else if tried.contains(&peer) {
        Err(Rule::Tried)
    } else {
        Ok(())
    }
}

/// Half the round trip between two peers: measured where one of them is this peer, else guessed
/// from their coordinates.
fn one_way(view: &View, loads: &Loads, from: PeerId, to: PeerId) -> Duration {
    if from == to {
        return Duration::ZERO;
    }
    let me = view.me();
    let measured = if from == me {
        loads.rtt(to)
    } else if to == me {
        loads.rtt(from)
    } else {
        None
    };
    let place = |peer: PeerId| {
        if peer == me {
            return Some(view.at());
        }
        view.get(peer).map(|entry| &entry.record.advert.coordinate)
    };
    let guessed = || place(from)?.round_trip(place(to)?);
    measured.or_else(guessed).unwrap_or(RTT_ASSUMED) / 2
}
