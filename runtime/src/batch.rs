//! Which of the jobs that wait run together. A pure policy: it is told what waits and what time it
//! is, and keeps no clock.
//!
//! A run costs `fixed + per_byte × bytes of its inputs`, and running jobs together shares the fixed
//! part. So jobs are put together until that part is a twentieth of the run: a model that is all
//! overhead runs dozens at once, one that is all arithmetic runs each alone and keeps nobody
//! waiting. Both figures are learned from the runs (`Cost`). A lone job never waits, unless its
//! model is configured to ([`Batching::max_wait`]). In which order jobs wait is [`crate::line`]'s.

use std::time::{Duration, Instant};

use crate::limits::{BATCH_LOOK_MAX, BATCH_PREFERRED_MAX, BATCH_ROWS_DEFAULT};

/// How a model's jobs are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Most rows of one run; none: as many as are worth it, and no more than
    /// [`BATCH_ROWS_DEFAULT`]. 1: each job runs alone.
    pub max_rows: Option<u32>,
    /// How long a job may wait for others to join it.
    pub max_wait: Duration,
    /// Numbers of rows that the model runs best: a run has the largest of them that the jobs that
    /// wait, in their order, come to; only after `max_wait` it has another. Zeros are none.
    pub preferred: [u32; BATCH_PREFERRED_MAX],
    /// Levels of urgency, 1 the most urgent; at least 1.
    pub priorities: u32,
    /// The level of a job that names none.
    pub priority_default: u32,
    /// Whether answers go out in the order in which their jobs came, also where several instances
    /// run them.
    pub preserve_order: bool,
}

impl Batching {
    /// Each job as soon as it can: what [`Default`] is, where a constant is needed.
    pub const DEFAULT: Self = Self {
        max_rows: None,
        max_wait: Duration::ZERO,
        preferred: [0; BATCH_PREFERRED_MAX],
        priorities: 1,
        priority_default: 1,
        preserve_order: false,
    };

    /// The level of a job with this priority: the default of one that names none (0), or a level
    /// that there is not.
    pub fn level(&self, priority: u32) -> u32 {
        if (1..=self.priorities).contains(&priority) { priority } else { self.priority_default }
    }
}

impl Default for Batching {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A job, as far as it matters who else runs with it.
pub(crate) trait Member {
    /// Its rows; none if it must run alone.
    fn rows(&self) -> Option<u32>;
    /// Bytes of its inputs.
    fn bytes(&self) -> u64;
    /// Since when it waits.
    fn since(&self) -> Instant;
    /// Whether its rows and those of `other` can be rows of one batch.
    fn joins(&self, other: &Self) -> bool;
}

/// What an instance does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing waits.
    Rest,
    /// The first job waits for others until then.
    Wait(Instant),
    /// These run together: places in the queue, in its order, the first one among them.
    Run(Vec<usize>),
}

impl Batching {
    /// What runs next of what waits, in the order in which it waits.
    pub(crate) fn choose<'a, J: Member + 'a>(
        &self,
        waiting: impl IntoIterator<Item = &'a J>,
        cost: &Cost,
        now: Instant,
    ) -> Choice {
        let mut waiting = waiting.into_iter().enumerate();
        let Some((_, first)) = waiting.next() else { return Choice::Rest };
        let mut chosen = vec![0];
        let Some(mut rows) = first.rows() else { return Choice::Run(chosen) };
        let preferred_max = self.preferred.iter().copied().max().filter(|rows| *rows > 0);
        let rows_max = self.max_rows.or(preferred_max);
        // Who names a number of rows wants that many.
        let bytes_max = if rows_max.is_some() { u64::MAX } else { cost.worth_bytes() };
        let rows_max = rows_max.unwrap_or(BATCH_ROWS_DEFAULT);
        let (mut bytes, mut since) = (first.bytes(), first.since());
        let mut is_full = rows >= rows_max || bytes >= bytes_max;
        // How many of the chosen have a preferred number of rows together.
        let mut preferred = self.preferred.contains(&rows).then_some(1);
        for (place, job) in waiting.take(BATCH_LOOK_MAX) {
            if is_full {
                break;
            }
            let Some(more) = job.rows().filter(|_| job.joins(first)) else { continue };
            // Those of one kind keep their order: none overtakes one that found no room.
            is_full = rows.saturating_add(more) > rows_max || bytes >= bytes_max;
            if !is_full {
                (rows, bytes) = (rows + more, bytes.saturating_add(job.bytes()));
                since = since.min(job.since());
                chosen.push(place);
                if self.preferred.contains(&rows) {
                    preferred = Some(chosen.len());
                }
            }
        }
        if let Some(count) = preferred {
            chosen.truncate(count);
            return Choice::Run(chosen);
        }
        let until = since + self.max_wait;
        if is_full || rows >= rows_max || until <= now {
            return Choice::Run(chosen);
        }
        Choice::Wait(until)
    }
}

/// What runs cost, learned: a line through (bytes, time), later runs weighing more.
///
/// The runs at load stay in it. They are of the least bytes that the model takes, so they keep the
/// line's height at nothing where it is although all later runs may be of one size.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    anchors: Sums,
    runs: Sums,
}

/// Weight that a run keeps with each later one: about the last fifty count.
const DECAY: f64 = 0.98;
/// Weight of a run at load.
const ANCHOR: f64 = 4.0;
/// How many times a run's fixed part the rest of it is to be.
const WORTH: f64 = 19.0;

impl Cost {
    /// A run at load.
    pub(crate) fn anchor(&mut self, bytes: u64, took: Duration) {
        self.anchors.add(ANCHOR, bytes, took);
    }

    /// A run of jobs.
    pub(crate) fn learn(&mut self, bytes: u64, took: Duration) {
        self.runs.fade();
        self.runs.add(1.0, bytes, took);
    }

    /// Bytes beyond which a run is not worth making larger.
    fn worth_bytes(&self) -> u64 {
        let Some((fixed, per_byte)) = self.anchors.with(&self.runs).line() else { return 0 };
        if per_byte <= 0.0 {
            return u64::MAX; // Larger is not slower.
        }
        // A cast of a float saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = (WORTH * fixed.max(0.0) / per_byte) as u64;
        bytes
    }
}

/// Weighted sums of a regression of seconds on bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, bytes: u64, took: Duration) {
        let (x, y) = (bytes as f64, took.as_secs_f64());
        self.weight += weight;
        self.x += weight * x;
        self.y += weight * y;
        self.xx += weight * x * x;
        self.xy += weight * x * y;
    }

    fn fade(&mut self) {
        for sum in [&mut self.weight, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= DECAY;
        }
    }

    fn with(&self, other: &Self) -> Self {
        Self {
            weight: self.weight + other.weight,
            x: self.x + other.x,
            y: self.y + other.y,
            xx: self.xx + other.xx,
            xy: self.xy + other.xy,
        }
    }

    /// Height at nothing and slope; none where all runs were of one size.
    fn line(&self) -> Option<(f64, f64)> {
        let spread = self.weight * self.xx - self.x * self.x;
        if spread <= 1e-9 * self.weight * self.xx {
            return None;
        }
        let slope = (self.weight * self.xy - self.x * self.y) / spread;
        Some(((self.y - slope * self.x) / self.weight, slope))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::line::Line;

    struct Waits {
        kind: char,
        rows: Option<u32>,
        since: Instant,
    }

    impl Member for Waits {
        fn rows(&self) -> Option<u32> {
            self.rows
        }
        fn bytes(&self) -> u64 {
            u64::from(self.rows.unwrap_or(1)) * 100
        }
        fn since(&self) -> Instant {
            self.since
        }
        fn joins(&self, other: &Self) -> bool {
            self.kind == other.kind
        }
    }

    fn line_up(jobs: &[(char, Option<u32>)], since: Instant) -> Vec<Waits> {
        jobs.iter().map(|(kind, rows)| Waits { kind: *kind, rows: *rows, since }).collect()
    }

    /// Of a model whose runs take `fixed`, and `per_row` for each row of 100 bytes.
    fn cost(fixed: Duration, per_row: Duration) -> Cost {
        let mut cost = Cost::default();
        for rows in [1, 8] {
            cost.anchor(u64::from(rows) * 100, fixed + per_row * rows);
        }
        cost
    }

    const US: Duration = Duration::from_micros(1);

    fn rows(max_rows: u32) -> Batching {
        Batching { max_rows: Some(max_rows), ..Batching::default() }
    }

    fn chosen(batching: Batching, jobs: &[(char, Option<u32>)], cost: &Cost) -> Vec<usize> {
        let now = Instant::now();
        match batching.choose(&line_up(jobs, now), cost, now) {
            Choice::Run(chosen) => chosen,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lone_job_runs_at_once() {
        assert_eq!(chosen(Batching::default(), &[('a', Some(1))], &Cost::default()), [0]);
        assert_eq!(chosen(Batching::default(), &[('a', None)], &Cost::default()), [0]);
        let nothing = Batching::default().choose::<Waits>([], &Cost::default(), Instant::now());
        assert_eq!(nothing, Choice::Rest);
    }

    #[test]
    fn jobs_of_the_first_ones_kind_run_with_it_in_order_up_to_the_rows() {
        let jobs = [('a', Some(1)), ('b', Some(1)), ('a', Some(2)), ('a', None), ('a', Some(1))];
        assert_eq!(chosen(rows(8), &jobs, &Cost::default()), [0, 2, 4]);
        assert_eq!(chosen(rows(3), &jobs, &Cost::default()), [0, 2]);
        // The last would fit; but it came later than one of its kind that does not.
        assert_eq!(chosen(rows(2), &jobs, &Cost::default()), [0]);
        assert_eq!(chosen(rows(1), &jobs, &Cost::default()), [0]);
    }

    #[test]
    fn what_must_run_alone_runs_alone() {
        let jobs = [('a', None), ('a', Some(1)), ('a', Some(1))];
        assert_eq!(chosen(rows(8), &jobs, &Cost::default()), [0]);
    }

    #[test]
    fn overhead_is_shared_and_arithmetic_is_not_waited_for() {
        let jobs = [('a', Some(1)); 200];
        // All overhead: as many as may be.
        let light = chosen(Batching::default(), &jobs, &cost(100 * US, US / 100));
        assert_eq!(light.len(), BATCH_ROWS_DEFAULT as usize);
        // All arithmetic: each alone.
        let heavy = chosen(Batching::default(), &jobs, &cost(US, 10_000 * US));
        assert_eq!(heavy.len(), 1);
        // Between: until the fixed part is a twentieth of the whole.
        let between = chosen(Batching::default(), &jobs, &cost(100 * US, 100 * US));
        assert_eq!(between.len(), 19);
        // Nothing is known: alone.
        assert_eq!(chosen(Batching::default(), &jobs, &Cost::default()).len(), 1);
    }

    #[test]
    fn a_cost_is_learned_from_runs_of_one_size_and_unlearned() {
        // What little ran at load says next to nothing of what a byte costs.
        let mut cost = Cost::default();
        cost.anchor(10, 100 * US);
        cost.anchor(80, 101 * US);
        let worth = |cost: &Cost| chosen(Batching::default(), &[('a', Some(1)); 100], cost).len();
        assert_eq!(worth(&cost), 64);
        for _ in 0..200 {
            cost.learn(6_400, 100 * US + 6_400 * US);
        }
        let learned = worth(&cost);
        assert!((10..=30).contains(&learned), "{learned}");
        for _ in 0..400 {
            cost.learn(6_400, 164 * US);
        }
        assert_eq!(worth(&cost), 64);
    }

    #[test]
    fn the_first_job_waits_for_others_as_long_as_it_is_told_and_not_once_the_run_is_full() {
        let begun = Instant::now();
        let batching = Batching { max_wait: 500 * US, ..rows(2) };
        let one = line_up(&[('a', Some(1))], begun);
        let cost = Cost::default();
        assert_eq!(batching.choose(&one, &cost, begun), Choice::Wait(begun + 500 * US));
        assert_eq!(batching.choose(&one, &cost, begun + 500 * US), Choice::Run(vec![0]));
        let two = line_up(&[('a', Some(1)), ('a', Some(1))], begun);
        assert_eq!(batching.choose(&two, &cost, begun), Choice::Run(vec![0, 1]));
        let alone = line_up(&[('a', None)], begun);
        assert_eq!(batching.choose(&alone, &cost, begun), Choice::Run(vec![0]));
    }

    #[test]
    fn a_run_has_the_largest_preferred_rows_that_come_together_and_others_only_late() {
        let begun = Instant::now();
        let preferred = [2, 4, 0, 0, 0, 0, 0, 0];
        let batching = Batching { preferred, max_wait: 500 * US, ..rows(8) };
        let at = |rows: &[u32], now| {
            let jobs: Vec<_> = rows.iter().map(|rows| ('a', Some(*rows))).collect();
            batching.choose(&line_up(&jobs, begun), &Cost::default(), now)
        };
        assert_eq!(at(&[1; 7], begun), Choice::Run(vec![0, 1, 2, 3]));
        assert_eq!(at(&[1; 3], begun), Choice::Run(vec![0, 1]));
        // None of their sums is preferred.
        assert_eq!(at(&[3, 3], begun), Choice::Wait(begun + 500 * US));
        assert_eq!(at(&[3, 3], begun + 500 * US), Choice::Run(vec![0, 1]));
        assert_eq!(at(&[3, 3, 3], begun), Choice::Run(vec![0, 1]));
        // Without a wait, a lone job runs at once.
        let eager = Batching { max_wait: Duration::ZERO, ..batching };
        let lone = line_up(&[('a', Some(1))], begun);
        assert_eq!(eager.choose(&lone, &Cost::default(), begun), Choice::Run(vec![0]));
    }

    #[test]
    fn a_job_that_waited_is_not_kept_by_a_more_urgent_one_that_just_came() {
        let begun = Instant::now();
        let batching = Batching { max_wait: 500 * US, ..rows(8) };
        let mut jobs = line_up(&[('a', Some(1)), ('a', Some(1))], begun);
        jobs[0].since = begun + 499 * US;
        let choice = batching.choose(&jobs, &Cost::default(), begun + 499 * US);
        assert_eq!(choice, Choice::Wait(begun + 500 * US));
        assert_eq!(
            batching.choose(&jobs, &Cost::default(), begun + 500 * US),
            Choice::Run(vec![0, 1])
        );
    }

    #[test]
    fn a_priority_that_there_is_not_is_the_default() {
        let batching = Batching { priorities: 3, priority_default: 2, ..Batching::default() };
        let levels = [0, 1, 2, 3, 4, u32::MAX].map(|priority| batching.level(priority));
        assert_eq!(levels, [2, 1, 2, 3, 2, 2]);
        assert_eq!(Batching::default().level(7), 1);
    }

    proptest! {
        /// One instance in virtual time: jobs come, wait in their line and run together.
        #[test]
        fn every_job_runs_once_in_order_within_its_bounds(
            jobs in proptest::collection::vec(
                (0u64..2_000, 1u32..4, 0u8..3, proptest::option::weighted(0.9, 1u32..4)), 1..60),
            max_rows in 3u32..9,
            max_wait_us in 0u64..300,
            preferred in proptest::option::of(1u32..9),
            run_us in 1u64..400,
        ) {
            let begun = Instant::now();
            let at = |us: u64| begun + Duration::from_micros(us);
            let mut sizes = [0; BATCH_PREFERRED_MAX];
            sizes[0] = preferred.unwrap_or(0).min(max_rows);
            let max_wait = Duration::from_micros(max_wait_us);
            let batching = Batching {
                max_wait, preferred: sizes, priorities: 3, priority_default: 2, ..rows(max_rows)
            };
            let mut coming = jobs.clone();
            coming.sort_by_key(|job| job.0);
            let mut coming = coming.into_iter().peekable();
            let mut line = Line::default();
            // By level and kind, what ran, in order of coming.
            let mut ran = std::collections::BTreeMap::<(u32, char), Vec<u64>>::new();
            let (mut now, mut count) = (0, 0);
            while coming.peek().is_some() || line.len() > 0 {
                while let Some((us, level, kind, rows)) = coming.next_if(|job| job.0 <= now) {
                    let kind = char::from(b'a' + kind);
                    line.push(batching.level(level), (level, Waits { kind, rows, since: at(us) }));
                }
                let waiting: Vec<&Waits> = line.jobs().map(|job| &job.1).collect();
                match batching.choose(waiting.iter().copied(), &Cost::default(), at(now)) {
                    Choice::Rest => now = coming.peek().unwrap().0,
                    Choice::Wait(until) => {
                        // Nobody waits longer than it may for others.
                        prop_assert!(until > at(now) && until <= waiting[0].since + max_wait);
                        let until = u64::try_from((until - begun).as_micros()).unwrap();
                        now = coming.peek().map_or(until, |job| job.0.min(until));
                    }
                    Choice::Run(places) => {
                        // The one whose turn it is runs, and all are of its kind.
                        prop_assert_eq!(places[0], 0);
                        prop_assert!(places.is_sorted_by(|a, b| a < b));
                        let rows: u32 = places.iter().filter_map(|at| waiting[*at].rows).sum();
                        prop_assert!(places.len() == 1 || rows <= max_rows);
                        let kind = waiting[0].kind;
                        prop_assert!(places.iter().all(|place| waiting[*place].kind == kind));
                        for (ticket, (level, job)) in line.take(&places) {
                            count += 1;
                            // One that must run alone may be overtaken by those that run together.
                            let alone = if job.rows.is_none() { '!' } else { job.kind };
                            ran.entry((level, alone)).or_default().push(ticket.number());
                        }
                        now += run_us;
                    }
                }
            }
            prop_assert_eq!(count, jobs.len());
            // Equals keep their order.
            prop_assert!(ran.values().all(|numbers| numbers.is_sorted()));
        }
    }
}
