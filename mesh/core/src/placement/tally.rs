//! What a peer counts of demand and of its own use, over short windows. Whole numbers only: the
//! same on every machine.

use std::collections::BTreeMap;
use std::time::Duration;

use super::notice::{Want, coarse};
use crate::id::Digest;
use crate::limits::{DEMANDS_MAX, LAWS_MAX, USES_MAX};
use crate::plan::Job;
use crate::policy::{Bounds, DeviceNeeds};
use crate::time::Mono;

/// Steps of a window.
const STEPS: u64 = 8;
/// Demand is counted over eight of these.
const DEMAND_STEP: Duration = Duration::from_secs(1);
/// Use is counted over eight of these.
const USE_STEP: Duration = Duration::from_secs(4);
/// A law under which nobody asked for a bundle for so long binds its holder no more.
const LAW_MEMORY: Duration = Duration::from_secs(600);
/// Demand begins to be unmet when more than one job in so many is …
const UNMET_FROM: u64 = 100;
/// … and is met again when fewer than one in so many is not.
const UNMET_UNTIL: u64 = 200;
/// Where all jobs end, but late, a little more than what there is is wanted: this part of it.
const LATE_PART: u64 = 8;

/// A count over the last eight steps.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    step: u64,
    counts: [u64; 8],
}

impl Window {
    fn add(&mut self, step: u64, count: u64) {
        let passed = step.saturating_sub(self.step).min(STEPS);
        (1..=passed).for_each(|ahead| self.counts[Self::slot(self.step + ahead)] = 0);
        // All eight were cleared, or those between.
        self.step = self.step.max(step);
        let slot = &mut self.counts[Self::slot(self.step)];
        *slot = slot.saturating_add(count);
    }

    fn sum(mut self, step: u64) -> u64 {
        self.add(step, 0);
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn slot(step: u64) -> usize {
        usize::try_from(step % STEPS).expect("less than eight")
    }
}

fn step(now: Mono, length: Duration) -> u64 {
    now.0 / u64::try_from(length.as_nanos()).expect("seconds")
}

/// What came of the jobs that entered here for one bundle under one law.
#[derive(Clone, Debug)]
struct Demand {
    bounds: Bounds,
    device: DeviceNeeds,
    asked: Window,
    answered: Window,
    missed: Window,
    is_unmet: bool,
}

/// What this peer ran of one bundle.
#[derive(Clone, Debug, Default)]
struct Use {
    busy_us: Window,
    /// By hash, the laws under which it was asked to, and when last.
    laws: BTreeMap<Digest, (Bounds, Mono)>,
    /// There were more laws than are remembered: until then it is not known who needs the bundle.
    unknown_until: Mono,
}

/// All counts. Bounded: what is more than that is not counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    /// By bundle and law.
    demands: BTreeMap<(Digest, Digest), Demand>,
    uses: BTreeMap<Digest, Use>,
}

/// What happens to a job at its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Asked,
    Answered,
    Missed,
}

impl Tallies {
    pub(super) fn count(&mut self, now: Mono, job: &Job, turn: Turn) {
        if !job.onward.bundles.permits_value(&job.bundle) {
            return; // Whoever holds it, this job may not run.
        }
        let (at, key) = (step(now, DEMAND_STEP), (job.bundle, job.onward.hash()));
        if self.demands.len() >= DEMANDS_MAX && !self.demands.contains_key(&key) {
            self.demands.retain(|_, demand| demand.asked.sum(at) > 0);
            if self.demands.len() >= DEMANDS_MAX {
                return;
            }
        }
        let fresh = || Demand {
            bounds: job.onward.bounds.clone(),
            device: job.onward.device.clone(),
            asked: Window::default(),
            answered: Window::default(),
            missed: Window::default(),
            is_unmet: false,
        };
        let demand = self.demands.entry(key).or_insert_with(fresh);
        let window = match turn {
            Turn::Asked => &mut demand.asked,
            Turn::Answered => &mut demand.answered,
            Turn::Missed => &mut demand.missed,
        };
        window.add(at, 1);
    }

    pub(super) fn ran(&mut self, now: Mono, job: &Job, took: Duration) {
        if self.uses.len() >= USES_MAX && !self.uses.contains_key(&job.bundle) {
            let at = step(now, USE_STEP);
            self.uses.retain(|_, used| used.busy_us.sum(at) > 0);
            if self.uses.len() >= USES_MAX {
                return;
            }
        }
        let used = self.uses.entry(job.bundle).or_default();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        used.busy_us.add(step(now, USE_STEP), took_us);
        let law = job.policy.hash();
        if used.laws.len() >= LAWS_MAX && !used.laws.contains_key(&law) {
            used.laws.retain(|_, (_, last)| *last + LAW_MEMORY > now);
            if used.laws.len() >= LAWS_MAX {
                used.unknown_until = now + LAW_MEMORY;
                return;
            }
        }
        used.laws.entry(law).or_insert_with(|| (job.policy.bounds.clone(), now)).1 = now;
    }

    /// Demand that is not met, the largest first.
    pub(super) fn wants(&mut self, now: Mono) -> Vec<Want> {
        let at = step(now, DEMAND_STEP);
        let mut wants = Vec::new();
        for ((bundle, _), demand) in &mut self.demands {
            let asked = demand.asked.sum(at);
            let (answered, missed) = (demand.answered.sum(at), demand.missed.sum(at));
            let from = if demand.is_unmet { UNMET_UNTIL } else { UNMET_FROM };
            demand.is_unmet = missed > 0 && missed.saturating_mul(from) >= asked;
            if demand.is_unmet {
                let short = asked.saturating_sub(answered).max(asked / LATE_PART).max(1);
                let per_minute = short.saturating_mul(60) / (STEPS * DEMAND_STEP.as_secs());
                let (bounds, device) = (demand.bounds.clone(), demand.device.clone());
                let per_minute = coarse(per_minute.max(1));
                wants.push(Want { bundle: *bundle, per_minute, bounds, device });
            }
        }
        wants.sort_by_key(|want| std::cmp::Reverse(want.per_minute));
        wants
    }

    /// Thousandths of `slots` that a bundle kept busy, or all bundles.
    pub(super) fn busy(&self, now: Mono, slots: u16, bundle: Option<Digest>) -> u64 {
        let at = step(now, USE_STEP);
        let counted = self.uses.iter().filter(|(used, _)| bundle.is_none_or(|one| one == **used));
        let busy = counted.fold(0_u64, |sum, (_, used)| sum.saturating_add(used.busy_us.sum(at)));
        let span_us = STEPS * USE_STEP.as_secs() * 1_000_000 * u64::from(slots.max(1));
        busy.saturating_mul(1_000) / span_us
    }

    /// The laws under which a bundle was wanted here; none if there were too many to know.
    pub(super) fn laws(&self, now: Mono, bundle: Digest) -> Option<Vec<&Bounds>> {
        let Some(used) = self.uses.get(&bundle) else { return Some(Vec::new()) };
        let laws = used.laws.values().filter(|(_, last)| *last + LAW_MEMORY > now);
        (used.unknown_until <= now).then(|| laws.map(|(bounds, _)| bounds).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::JobId;
    use crate::policy::Policy;

    fn at(ms: u64) -> Mono {
        Mono(0) + Duration::from_millis(ms)
    }

    fn job() -> Job {
        let (bundle, send) = (Digest([1; 32]), Bounds::default());
        Job::new(JobId([0; 16]), bundle, Policy::default(), &send, Mono(u64::MAX))
    }

    #[test]
    fn a_window_forgets_what_is_eight_steps_ago() {
        let mut window = Window::default();
        for step in 0..20 {
            window.add(step, 1);
            assert_eq!(window.sum(step), (step + 1).min(8));
        }
        assert_eq!((window.sum(23), window.sum(26), window.sum(27)), (4, 1, 0));
        window.add(1_000, 5);
        assert_eq!(window.sum(1_000), 5);
    }

    #[test]
    fn what_is_wanted_is_what_is_asked_beyond_what_is_answered() {
        let mut tallies = Tallies::default();
        for ms in 0..8_000 {
            tallies.count(at(ms), &job(), Turn::Asked);
            // All jobs are late where the queue is long, and nine tenths end all the same.
            tallies.count(at(ms), &job(), Turn::Missed);
            if ms % 10 > 0 {
                tallies.count(at(ms), &job(), Turn::Answered);
            }
        }
        let wants = tallies.wants(at(7_999));
        // 100 a second, and then at least an eighth of 1,000: 7,500 a minute.
        assert_eq!(wants.iter().map(|want| want.per_minute).collect::<Vec<_>>(), [8_192]);
        assert_eq!(tallies.wants(at(16_000)), [], "nobody asks any more");
    }

    #[test]
    fn demand_is_unmet_from_one_in_a_hundred_until_one_in_two_hundred() {
        let mut tallies = Tallies::default();
        let mut second = |from: u64, missed: u64| {
            for ms in 0..1_000 {
                let now = at(from * 1_000 + ms);
                tallies.count(now, &job(), Turn::Asked);
                let turn = if ms < missed { Turn::Missed } else { Turn::Answered };
                tallies.count(now, &job(), turn);
            }
            !tallies.wants(at(from * 1_000 + 999)).is_empty()
        };
        assert!(!second(0, 9));
        assert!(second(1, 20));
        assert!((2..10).all(|from| second(from, 7)), "it is not met yet");
        assert!(!(10..20).map(|from| second(from, 4)).next_back().unwrap());
        assert!((20..30).all(|from| !second(from, 7)), "and now it is");
    }

    #[test]
    fn laws_that_are_too_many_leave_it_unknown_who_needs_a_bundle() {
        let mut tallies = Tallies::default();
        let took = Duration::from_millis(1);
        for n in 0..LAWS_MAX {
            let mut job = job();
            job.policy = job.policy.with(|policy| {
                policy.bounds.operators.deny.insert(n.to_string());
            });
            tallies.ran(at(0), &job, took);
        }
        assert_eq!(tallies.laws(at(1), Digest([1; 32])).unwrap().len(), LAWS_MAX);
        tallies.ran(at(1), &job(), took);
        assert_eq!(tallies.laws(at(2), Digest([1; 32])), None);
        assert_eq!(tallies.laws(at(600_001), Digest([1; 32])), Some(vec![]));
    }

    #[test]
    fn use_is_a_share_of_the_slots() {
        let mut tallies = Tallies::default();
        for second in 0..32 {
            tallies.ran(at(second * 1_000), &job(), Duration::from_millis(500));
        }
        assert_eq!(tallies.busy(at(31_999), 1, None), 500);
        assert_eq!(tallies.busy(at(31_999), 4, Some(Digest([1; 32]))), 125);
        assert_eq!(tallies.busy(at(31_999), 4, Some(Digest([2; 32]))), 0);
    }
}
