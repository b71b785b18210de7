//! How a batch is spread over peers: rows in proportion to speed, so that all finish together.
//!
//! By the one cost law a share of n rows takes its peer the round trip and n parts of all else, so
//! the shares that finish first are found by filling: each peer gets the rows that it can do within
//! a time, the shortest in which all rows are done. A batch is split only where that is clearly
//! sooner than the best single peer: small batches and far peers are not worth it. Who may have a
//! share, the gate says, as for any job; a share is then a job of its own, kept in the air by a
//! [`Flight`](crate::flight::Flight).
//!
//! Under a limit of price each share has its part of it: what it is expected to cost, and of the rest
//! in proportion to its rows. So whatever happens to the shares, together they stay within it. Who
//! would ask more than the limit for the whole batch gets no share.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Decode, Encode};
use crate::gate::Rule;
use crate::holders::Offer;
use crate::id::{JobId, PeerId};
use crate::limits::{CANDIDATES_MAX, SHARDS_PER_BATCH_MAX};
use crate::loads::Loads;
use crate::plan::{Job, Refusal, admit_here, admit_there, looked_at, refusal};
use crate::policy::{Policy, Split};
use crate::price::{Amount, Bill};
use crate::rank::{Cost, Order, SUSPECT_PENALTY, Thrift, cost_here, cost_there, order};
use crate::time::Now;
use crate::view::View;

/// A share that keeps its peer busy for less is not worth a message.
pub const SHARE_WORK_MIN: Duration = Duration::from_millis(5);
/// A batch is split if that takes less than so much of what the best single peer takes, in percent:
/// what is expected is not exact, and more peers are more that can fail.
pub const WORTH_PERCENT: u32 = 80;

/// One peer's share of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whose.
    pub peer: PeerId,
    /// How many rows, one or more.
    pub rows: u32,
    /// What they are expected to cost.
    pub cost: Cost,
    /// What they may cost, if the job has a limit.
    pub limit: Option<Amount>,
}

/// A batch in shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scatter {
    /// In the order of the rows; two or more.
    pub shares: Vec<Share>,
    /// When the last is expected to be done.
    pub expected: Duration,
    /// What the best single peer is expected to take for all.
    pub alone: Duration,
}

/// Why a batch that was to be split cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unsplittable {
    /// The model is not known to give each row what the row alone would get.
    #[error("the model's rows cannot be run apart; leave `split` out or name another form")]
    NotSeparable,
    /// There is nothing to split.
    #[error("the batch has one row; leave `split` out or send more rows")]
    OneRow,
    /// There is nobody to share with.
    #[error(
        "only one peer that the policy permits can run the model now; permit more, or leave `split` out"
    )]
    OnePeer,
}

/// A peer that could have a share.
struct Candidate {
    peer: PeerId,
    order: Order,
    /// Of all rows.
    cost: Cost,
    /// What it takes whatever the rows.
    fixed: Duration,
}

impl Candidate {
    fn new(now: Now, job: &Job, offer: &Offer, is_hop: bool, cost: Cost) -> Self {
        let is_doubted = is_hop && offer.suspect;
        let penalty = if is_doubted { SUSPECT_PENALTY } else { Duration::ZERO };
        let order = order(now, job, offer, is_hop, &cost);
        Self { peer: offer.peer, order, cost, fixed: cost.rtt.saturating_add(penalty) }
    }

    /// When `part` of `rows` rows are done.
    fn time(&self, part: u32, rows: u32) -> u128 {
        let fixed = self.fixed.as_nanos();
        fixed + (self.cost.total().as_nanos() - fixed) * u128::from(part) / u128::from(rows)
    }

    /// How many of `rows` rows are done within `time`, in ns.
    fn rows_within(&self, time: u128, rows: u32) -> u32 {
        let fixed = self.fixed.as_nanos();
        let Some(left) = time.checked_sub(fixed) else { return 0 };
        let all = self.cost.total().as_nanos() - fixed;
        let done = (left * u128::from(rows)).checked_div(all).unwrap_or(u128::from(rows));
        u32::try_from(done).unwrap_or(rows).min(rows)
    }

    /// The cost of `part` of `rows` rows.
    fn cost(&self, part: u32, rows: u32) -> Cost {
        let of = |term: Duration| {
            let nanos = term.as_nanos() * u128::from(part) / u128::from(rows);
            let (secs, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            let whole = "a part is not more than the whole";
            Duration::new(secs.try_into().expect(whole), nanos.try_into().expect("a second's"))
        };
        let penalty = self.fixed - self.cost.rtt;
        Cost {
            rtt: self.cost.rtt,
            transfer: of(self.cost.transfer),
            wait: of(self.cost.wait.saturating_sub(penalty)).saturating_add(penalty),
            service: of(self.cost.service),
            price: self.cost.price.map(|whole| {
                let micros = u128::from(whole.micros) * u128::from(part);
                let micros = micros.div_ceil(u128::from(rows.max(1)));
                Amount { micros: u64::try_from(micros).expect("not more than the whole"), ..whole }
            }),
        }
    }
}

impl Scatter {
    /// What all shares are expected to cost.
    pub fn price(&self) -> Bill {
        self.shares.iter().filter_map(|share| share.cost.price).collect()
    }

    /// Whether all shares together spare what the one peer that could do without them spares.
    fn takes_no_more_than(&self, one: Thrift, thrifts: &BTreeMap<PeerId, Thrift>) -> bool {
        let (price, accelerator_mib) = one;
        // Of each share a millionth that is begun counts.
        let begun = self.shares.len() as u64;
        let is_within = |bill: Amount| {
            price.is_some_and(|price| {
                price.currency == bill.currency && bill.micros <= price.micros + begun
            })
        };
        let accelerators = self.shares.iter().map(|share| thrifts[&share.peer].1);
        self.price().amounts().all(is_within) && accelerators.max() <= Some(accelerator_mib)
    }

    /// Gives each share its part of what the job may cost, if they cost no more together.
    fn divide(&mut self, limit: Option<Amount>, rows: u32) -> Result<(), Rule> {
        let Some(limit) = limit else { return Ok(()) };
        let price = self.price().micros(limit.currency);
        let rest = limit.micros.checked_sub(price).ok_or(Rule::Price)?;
        for share in &mut self.shares {
            let part = u128::from(rest) * u128::from(share.rows) / u128::from(rows.max(1));
            let part = u64::try_from(part).expect("not more than the rest");
            let own = share.cost.price.map_or(0, |price| price.micros);
            share.limit = Some(Amount { micros: own + part, ..limit });
        }
        Ok(())
    }
}

/// How `job`'s batch is spread, or none if one peer runs it whole. Only a job's entry spreads it.
///
/// # Errors
/// Why a job that demands to be split is refused: [`Refusal::Unsplittable`], or that nobody may run
/// it.
pub fn scatter(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
) -> Result<Option<Scatter>, Refusal> {
    let is_forced = match job.policy.split {
        Split::Rows => true,
        Split::Auto => false,
        Split::Never | Split::Stages => return Ok(None),
    };
    // What refuses any job, refuses this one where it is planned.
    if !job.path.is_empty() || job.deadline <= now.mono {
        return Ok(None);
    }
    let cannot = |why| if is_forced { Err(Refusal::Unsplittable { why }) } else { Ok(None) };
    if !job.separable {
        return cannot(Unsplittable::NotSeparable);
    }
    if job.rows < 2 {
        return cannot(Unsplittable::OneRow);
    }
    let candidates = candidates(now, view, loads, job, is_forced);
    match &candidates[..] {
        [] if is_forced => Err(refusal(now, view, loads, job, &[])),
        [] | [_] => cannot(Unsplittable::OnePeer),
        [best, ..] => {
            let (alone, order) = (best.cost.total(), best.order);
            let thrifts = candidates.iter().map(|peer| (peer.peer, peer.order.thrift));
            let thrifts: BTreeMap<PeerId, Thrift> = thrifts.collect();
            let mut scatter = spread(candidates, job.rows, is_forced, alone);
            if let Err(rule) = scatter.divide(job.limit(), job.rows) {
                let failed = [(rule, u32::try_from(thrifts.len()).expect("a few"))].into();
                let refusal = Refusal::PolicyUnsatisfiable { failed };
                return if is_forced { Err(refusal) } else { Ok(None) };
            }
            let worth = alone.saturating_mul(WORTH_PERCENT) / 100;
            let is_sooner = scatter.shares.len() > 1 && scatter.expected < worth;
            // Where one meets the deadline with a margin, haste is worth no money and no accelerator.
            let is_frugal = !job.is_timed
                || order.may_be_late
                || scatter.takes_no_more_than(order.thrift, &thrifts);
            Ok((is_forced || (is_sooner && is_frugal)).then_some(scatter))
        }
    }
}

/// Who may have a share, best first. One, if it has so little to do that nobody else is worth a look.
fn candidates(now: Now, view: &View, loads: &Loads, job: &Job, is_forced: bool) -> Vec<Candidate> {
    let read = |peer| loads.read(peer, job.bundle, now.mono);
    let here = view.get(view.me()).and_then(|entry| {
        let offer = admit_here(now, entry, loads, job, &[]).ok()?;
        let cost = cost_here(job, &offer, &read(offer.peer));
        Some(Candidate::new(now, job, &offer, false, cost))
    });
    let mut found: Vec<Candidate> = here.into_iter().collect();
    let is_little = |here: &Candidate| here.cost.total() < SHARE_WORK_MIN * 2;
    if job.hops_left == 0 || (!is_forced && found.iter().any(is_little)) {
        return found;
    }
    let permitted = view.permitted(&job.onward, job.bundle);
    let look = |offers: &mut dyn Iterator<Item = &Offer>| -> Vec<Candidate> {
        let admitted = |offer: &&Offer| {
            admit_there(now, &view.entries()[offer.entry as usize], loads, job, &[]).is_ok()
        };
        let candidate = |offer: &Offer| {
            let cost = cost_there(job, offer, &read(offer.peer));
            Candidate::new(now, job, offer, true, cost)
        };
        offers.filter(admitted).map(candidate).collect()
    };
    let mut there = look(&mut looked_at(&permitted, loads, job, 0).into_iter());
    if there.len() < 2 && permitted.len() > CANDIDATES_MAX {
        // A draw may hit only peers that cannot take a share now.
        there = look(&mut permitted.all());
    }
    found.append(&mut there);
    found.sort_unstable_by_key(|candidate| candidate.order);
    found.dedup_by_key(|candidate| candidate.peer);
    found.truncate(CANDIDATES_MAX + 1);
    found
}

/// Fills the peers with rows, and leaves out, one after the other, who would have least to do,
/// until each
/// share is worth it and there are not too many.
fn spread(mut peers: Vec<Candidate>, rows: u32, is_forced: bool, alone: Duration) -> Scatter {
    let fewest = if is_forced { 2 } else { 1 };
    let mut parts = loop {
        let parts = fill(&peers, rows, alone);
        let work = |index: usize| peers[index].cost(parts[index], rows).service;
        let least = (0..parts.len()).rev().min_by_key(|index| work(*index)).expect("peers");
        let is_little = parts[least] == 0 || work(least) < SHARE_WORK_MIN;
        if peers.len() <= fewest || !(is_little || peers.len() > SHARDS_PER_BATCH_MAX) {
            break parts;
        }
        peers.remove(least);
    };
    // Two that must share do, however far the second is.
    if let [a, b] = &mut parts[..] {
        let moved = u32::from(*b == 0);
        (*a, *b) = (*a - moved, *b + moved);
        let moved = u32::from(*a == 0);
        (*a, *b) = (*a + moved, *b - moved);
    }
    let times = peers.iter().zip(&parts).map(|(peer, part)| peer.time(*part, rows));
    let last = u64::try_from(times.max().unwrap_or_default()).unwrap_or(u64::MAX);
    let share = |(peer, part): (&Candidate, &u32)| Share {
        peer: peer.peer,
        rows: *part,
        cost: peer.cost(*part, rows),
        limit: None,
    };
    let shares = peers.iter().zip(&parts).map(share).collect();
    Scatter { shares, expected: Duration::from_nanos(last), alone }
}

/// How many rows each does so that the last is done soonest: within the shortest time in which all
/// rows are. In `alone` the best of them does all by itself.
fn fill(peers: &[Candidate], rows: u32, alone: Duration) -> Vec<u32> {
    let done = |time| peers.iter().map(move |peer| peer.rows_within(time, rows));
    let are_all = |time| done(time).map(u64::from).sum::<u64>() >= u64::from(rows);
    // The best may be left out by now; whoever is left does all rows in some time.
    let slowest = peers.iter().map(|peer| peer.cost.total()).max().unwrap_or(alone);
    let (mut short, mut enough) = (0, alone.max(slowest).as_nanos());
    while short < enough {
        let middle = short + (enough - short) / 2;
        if are_all(middle) { enough = middle } else { short = middle + 1 }
    }
    let mut parts: Vec<u32> = done(enough).collect();
    let mut surplus = parts.iter().copied().map(u64::from).sum::<u64>() - u64::from(rows);
    for part in parts.iter_mut().rev() {
        let cut = u32::try_from(surplus).unwrap_or(u32::MAX).min(*part);
        *part -= cut;
        surplus -= u64::from(cut);
    }
    parts
}

impl Job {
    /// The job of so many of its rows: under the same law, with its part of what the whole may cost, never split
    /// again, and run by the peer that it is sent to.
    pub fn shard(&self, id: JobId, rows: u32, limit: Option<Amount>) -> Self {
        let mut shard = self.clone().changed(|policy| {
            policy.split = Split::Never;
            policy.price_micros_max = limit.map(|limit| limit.micros);
        });
        let bytes = u128::from(self.bytes) * u128::from(rows) / u128::from(self.rows.max(1));
        shard.bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let hops_left = self.hops_left.min(1);
        Self { id, rows, separable: false, hops_left, ..shard }
    }

    /// The job with its part of what the whole that it belongs to may cost.
    pub fn limited(self, limit: Option<Amount>) -> Self {
        self.changed(|policy| policy.price_micros_max = limit.map(|limit| limit.micros))
    }

    /// The job under another law, here and where it goes on to.
    fn changed(mut self, change: impl Fn(&mut Policy)) -> Self {
        for law in [&mut self.policy, &mut self.onward] {
            *law = law.with(&change);
        }
        self
    }
}
