//! A chain of peers for a model that no single one holds: each has a stage, a stretch of the
//! model's nodes, and together they have all of it.
//!
//! The cheapest chain is found by dynamic programming over (peer, stage), stage after stage: a chain
//! costs the way from peer to peer, half a round trip each, and what the job waits and runs at each
//! (design, section 7). Any peer on the way can ask for the rest of the chain from where it stands:
//! that is how a chain is repaired.
//!
//! A chain costs what all its peers ask. The soonest is taken; the cheapest, where the soonest costs
//! more than the job may, or where the app named a deadline and the cheapest meets it with a margin.
//! Each stage is told what those before it have charged, so that all together stay within the limit.

pub mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::advert::Stage;
use crate::codec::{Decode, Encode};
use crate::gate::{self, Rule};
use crate::holders::Offer;
use crate::id::{Digest, PeerId};
use crate::limits::{CANDIDATES_MAX, STAGES_MAX};
use crate::loads::Loads;
use crate::plan::{Job, Refusal};
use crate::price::{Bill, Currency};
use crate::rank::{Cost, RTT_ASSUMED, SUSPECT_PENALTY, cost_here, transfer};
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
    /// What each link costs of that: the way to it, what it waits and runs there, what it asks.
    pub parts: Vec<Cost>,
}

impl Chain {
    /// What all its peers are expected to ask.
    pub fn price(&self) -> Bill {
        self.parts.iter().filter_map(|part| part.price).collect()
    }
}

/// A stage that may be part of the chain.
struct Candidate<'a> {
    entry: &'a Entry,
    stage: &'a Stage,
    /// Wait, service and price there.
    work: Cost,
    is_suspect: bool,
}

/// What a chain costs up to some candidate.
#[derive(Clone, Copy, Default)]
struct Sum {
    time: Duration,
    micros: u64,
    suspects: u8,
}

impl Sum {
    fn and(self, way: Duration, candidate: &Candidate<'_>) -> Self {
        let price = candidate.work.price.map_or(0, |price| price.micros);
        Self {
            time: self.time.saturating_add(way).saturating_add(candidate.work.total()),
            micros: self.micros.saturating_add(price),
            suspects: self.suspects + u8::from(candidate.is_suspect),
        }
    }
}

/// The best chain for `job` from node `start` of its model on, from where this peer stands to the
/// job's entry; none if permitted peers do not hold all of it, or ask more than the job may cost.
/// `tried` have failed.
pub fn chain(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    start: u32,
    tried: &[PeerId],
) -> Option<Chain> {
    let guess = |entry: &Entry, stage: &Stage| Some(work(now, loads, job, entry, stage));
    best(now, view, loads, job, start, tried, &guess)
}

/// What a stage costs at a peer; none leaves it out.
type Work<'a> = dyn Fn(&Entry, &Stage) -> Option<Cost> + 'a;

/// The best chain, where `work` says what each stage costs.
fn best(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    start: u32,
    tried: &[PeerId],
    work: &Work<'_>,
) -> Option<Chain> {
    let candidates = candidates(now, view, loads, job, tried, work);
    let least = |by: &dyn Fn(&Sum) -> (u64, u64, Duration)| {
        shortest(now, view, loads, job, start, &candidates, by)
    };
    let prices = candidates.iter().filter_map(|candidate| candidate.work.price);
    let currencies: BTreeSet<Currency> = prices.map(|price| price.currency).collect();
    let soonest = least(&|sum| (0, 0, sum.time))?;
    if let Some(ease) = job.ease(now).filter(|_| currencies.len() == 1) {
        let cheapest = least(&|sum| (sum.suspects.into(), sum.micros, sum.time))?;
        let is_reliable = cheapest
            .links
            .iter()
            .all(|link| view.get(link.peer).is_some_and(|entry| entry.liveness == Liveness::Alive));
        if is_reliable && cheapest.cost <= ease && is_within(job, &cheapest) {
            return Some(cheapest);
        }
    }
    if is_within(job, &soonest) {
        return Some(soonest);
    }
    least(&|sum| (sum.micros, sum.suspects.into(), sum.time)).filter(|chain| is_within(job, chain))
}

/// Whether the chain is expected to cost no more than the job may.
fn is_within(job: &Job, chain: &Chain) -> bool {
    job.limit().is_none_or(|limit| chain.price().micros(limit.currency) <= limit.micros)
}

/// The chain over `candidates` for which `by` is the least.
fn shortest<K: Ord>(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    start: u32,
    candidates: &[Candidate<'_>],
    by: impl Fn(&Sum) -> K,
) -> Option<Chain> {
    let me = view.me();
    let home = job.path.first().copied().unwrap_or(me);
    let unknown = unknown_way(loads);
    let one_way = |from: PeerId, to: PeerId| one_way(view, loads, from, to).unwrap_or(unknown);
    let peer = |at: usize| candidates[at].entry.record.advert.peer;
    let moving = |at: usize| {
        let (to, bundle) = (peer(at), candidates[at].stage.bundle);
        let load = loads.read(to, bundle, now.mono);
        if to == me { Duration::ZERO } else { transfer(job, &load) }
    };
    let first = |at: usize| {
        let way = one_way(me, peer(at)).saturating_add(moving(at));
        let is_first = candidates[at].stage.from == start;
        is_first.then(|| Sum::default().and(way, &candidates[at]))
    };
    // What the chain up to and with each candidate costs, and which came before it.
    let mut reached: Vec<Option<Sum>> = (0..candidates.len()).map(first).collect();
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut best: Option<(Sum, usize, usize)> = None;
    let links_max =
        job.policy.stages_max.map_or(STAGES_MAX, |max| usize::from(max).min(STAGES_MAX));
    for links in 1..=links_max {
        for (at, candidate) in candidates.iter().enumerate() {
            let Some(mut sum) = reached[at].filter(|_| candidate.stage.to == candidate.stage.of)
            else {
                continue;
            };
            sum.time = sum.time.saturating_add(one_way(peer(at), home));
            if best.as_ref().is_none_or(|(known, _, _)| by(&sum) < by(known)) {
                best = Some((sum, links, at));
            }
        }
        let mut next: Vec<Option<Sum>> = vec![None; candidates.len()];
        let mut from = vec![usize::MAX; candidates.len()];
        for (at, candidate) in candidates.iter().enumerate() {
            for (prior, sum) in reached.iter().enumerate() {
                let Some(sum) = *sum else { continue };
                let stage = candidates[prior].stage;
                if (stage.to, stage.of) != (candidate.stage.from, candidate.stage.of) {
                    continue;
                }
                let sum = sum.and(one_way(peer(prior), peer(at)), candidate);
                if next[at].as_ref().is_none_or(|known| by(&sum) < by(known)) {
                    next[at] = Some(sum);
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
    let (sum, links, mut at) = best?;
    let mut way = vec![at];
    for from in before[..links - 1].iter().rev() {
        at = from[at];
        way.push(at);
    }
    way.reverse();
    let link = |at: &usize| {
        let Stage { bundle, from, to, .. } = *candidates[*at].stage;
        Link { peer: peer(*at), bundle, from, to }
    };
    let mut stands = me;
    let parts = way.iter().map(|at| {
        let rtt = one_way(std::mem::replace(&mut stands, peer(*at)), peer(*at));
        let transfer = if *at == way[0] { moving(*at) } else { Duration::ZERO };
        Cost { rtt, transfer, ..candidates[*at].work }
    });
    let parts = parts.collect();
    Some(Chain { links: way.iter().map(link).collect(), cost: sum.time, parts })
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
        match admit(now, view, loads, job, entry, stage, tried) {
            Ok(()) => open.push((stage.from, stage.to)),
            Err(rule) => *failed.entry(rule).or_insert(0) += 1,
        }
    }
    open.sort_unstable();
    let is_too_dear = || {
        let free = job.clone().limited(None);
        job.limit().is_some() && chain(now, view, loads, &free, 0, tried).is_some()
    };
    let holders = u32::try_from(open.len()).unwrap_or(u32::MAX);
    for (from, to) in open {
        if from <= end {
            end = end.max(to);
        }
    }
    if of == 0 {
        let hint = " in stages; leave out the split, or cut it with `hansa models cut`".to_owned();
        Refusal::UnknownModel { model: job.bundle.to_string(), hint }
    } else if failed.is_empty() && is_too_dear() {
        // Each passes, and all together ask too much.
        Refusal::PolicyUnsatisfiable { failed: [(Rule::Price, holders)].into() }
    } else if failed.is_empty() {
        Refusal::Gap { at: end, of }
    } else if failed.keys().any(|rule| rule.is_of_the_moment()) {
        Refusal::Unavailable { failed }
    } else {
        Refusal::PolicyUnsatisfiable { failed }
    }
}

/// Whether this peer may hand what it holds of the job to the peer of `link` now, perhaps itself: the
/// gate before a byte leaves, and of the peer that runs the stage before it does.
///
/// # Errors
/// The rule that keeps the peer out.
pub fn may_pass(now: Now, view: &View, loads: &Loads, job: &Job, link: &Link) -> Result<(), Rule> {
    let entry = view.get(link.peer).ok_or(Rule::Unreachable)?;
    let stage = entry.record.stages.iter().find(|stage| stage.bundle == link.bundle);
    admit(now, view, loads, job, entry, stage.ok_or(Rule::NotHeld)?, &[])
}

/// Peers with a stage of the job's model that may be asked about it.
pub fn holders(now: Now, view: &View, loads: &Loads, job: &Job) -> Vec<PeerId> {
    let may =
        |(entry, stage): &(&Entry, &Stage)| admit(now, view, loads, job, entry, stage, &[]).is_ok();
    let holders = view.stages(job.bundle).filter(may);
    let mut peers: Vec<PeerId> = holders.map(|(entry, _)| entry.record.advert.peer).collect();
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
        if admit(now, view, loads, job, entry, stage, tried).is_ok() {
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
            let is_suspect = entry.liveness == Liveness::Suspect;
            Some(Candidate { entry, stage, work: work(entry, stage)?, is_suspect })
        }));
    }
    candidates
}

/// What a stage costs where it runs, the way there left out. Of what goes in there no more is known
/// than that the job's inputs went into the first.
pub(crate) fn work(now: Now, loads: &Loads, job: &Job, entry: &Entry, stage: &Stage) -> Cost {
    let load = loads.read(entry.record.advert.peer, stage.bundle, now.mono);
    let offer = Offer::of(0, entry, stage.bundle).expect("it offers the stage");
    let mut cost = cost_here(job, &offer, &load);
    if offer.suspect {
        cost.wait = cost.wait.saturating_add(SUSPECT_PENALTY);
    }
    cost
}

/// Whether a peer may see what the job hands over and run its stage, now.
pub(crate) fn admit(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    entry: &Entry,
    stage: &Stage,
    tried: &[PeerId],
) -> Result<(), Rule> {
    let (peer, record) = (entry.record.advert.peer, &*entry.record);
    if peer == view.me() && job.path.is_empty() {
        gate::admit_entry(&job.policy, job.bundle, record, now.utc)?;
    } else if peer == view.me() {
        gate::admit_own(&job.policy, job.bundle, record, now.utc)?;
    } else {
        gate::admit(&job.onward, job.bundle, record, now.utc)?;
    }
    gate::affords(job.limit(), work(now, loads, job, entry, stage).price)?;
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

/// Half the round trip to a peer of which nothing is known. Were it assumed to be near, chains would
/// lead over those who do not know yet where they are.
pub(crate) fn unknown_way(loads: &Loads) -> Duration {
    loads.rtt_median().unwrap_or(RTT_ASSUMED) / 2
}

/// Half the round trip between two peers: measured where one of them is this peer, else guessed
/// from their coordinates, if they are known.
pub(crate) fn one_way(view: &View, loads: &Loads, from: PeerId, to: PeerId) -> Option<Duration> {
    if from == to {
        return Some(Duration::ZERO);
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
    measured.or_else(guessed).map(|rtt| rtt / 2)
}
