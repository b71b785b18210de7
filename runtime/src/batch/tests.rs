use proptest::prelude::*;

use super::*;
use crate::limits::BATCH_PADDING_PARTS;
use crate::line::Line;

struct Waits {
    kind: char,
    rows: Option<u32>,
    length: u64,
    since: Instant,
}

impl Member for Waits {
    fn rows(&self) -> Option<u32> {
        self.rows
    }
    fn size(&self) -> Size {
        Size::new(0, u64::from(self.rows.unwrap_or(1)) * 10, self.length)
    }
    fn since(&self) -> Instant {
        self.since
    }
    fn joins(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

fn line_up(jobs: &[(char, Option<u32>)], since: Instant) -> Vec<Waits> {
    let waits =
        |(kind, rows): &(char, Option<u32>)| Waits { kind: *kind, rows: *rows, length: 10, since };
    jobs.iter().map(waits).collect()
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
    assert_eq!(batching.choose(&jobs, &Cost::default(), begun + 500 * US), Choice::Run(vec![0, 1]));
}

#[test]
fn a_priority_that_there_is_not_is_the_default() {
    let batching = Batching { priorities: 3, priority_default: 2, ..Batching::default() };
    let levels = [0, 1, 2, 3, 4, u32::MAX].map(|priority| batching.level(priority));
    assert_eq!(levels, [2, 1, 2, 3, 2, 2]);
    assert_eq!(Batching::default().level(7), 1);
}

fn texts(lengths: &[u64]) -> Vec<Waits> {
    let since = Instant::now();
    lengths
        .iter()
        .map(|length| Waits { kind: 'a', rows: Some(1), length: *length, since })
        .collect()
}

#[test]
fn jobs_of_other_lengths_run_with_the_first_one_where_padding_costs_less_than_a_run() {
    // Half of a run's fixed part costs as much as 20 of length.
    let cost = cost(402 * US, 100 * US);
    let together = |lengths: &[u64]| match rows(8).choose(&texts(lengths), &cost, Instant::now()) {
        Choice::Run(places) => places,
        other => panic!("{other:?}"),
    };
    assert_eq!(together(&[100, 90, 500, 110, 10, 95]), [0, 1, 3, 5]);
    assert_eq!(together(&[10, 500]), [0]);
    assert_eq!(together(&[500, 10]), [0]);
    // Nothing is known of its cost: only what needs no padding.
    let unknown = rows(8).choose(&texts(&[100, 99, 100]), &Cost::default(), Instant::now());
    assert_eq!(unknown, Choice::Run(vec![0, 2]));
}

#[test]
fn a_job_that_is_passed_over_for_its_length_is_overtaken_only_by_those_that_are_nearer() {
    let cost = cost(402 * US, 100 * US);
    // To 115 three would be padded by 15 each; 106 will do, and 90. The second of 115 waits, too.
    let jobs = texts(&[100, 100, 100, 115, 106, 115, 90]);
    let chosen = rows(8).choose(&jobs, &cost, Instant::now());
    assert_eq!(chosen, Choice::Run(vec![0, 1, 2, 4, 6]));
}

proptest! {
    /// One instance in virtual time: jobs come, wait in their line and run together.
    #[test]
    fn every_job_runs_once_in_order_within_its_bounds(
        jobs in proptest::collection::vec(
            (0u64..2_000, 1u32..4, (0u8..3, 1u64..40), proptest::option::weighted(0.9, 1u32..4)),
            1..60),
        max_rows in 3u32..9,
        max_wait_us in 0u64..300,
        preferred in proptest::option::of(1u32..9),
        run_us in 1u64..400,
        fixed_us in 0u32..3_000,
    ) {
        let cost = cost(US * fixed_us, US * 100);
        let us = |size: Size| u64::from(fixed_us) + size.bytes();
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
        // By level, kind and length, what ran, in order of coming.
        let mut ran = std::collections::BTreeMap::<(u32, char, u64), Vec<u64>>::new();
        let (mut now, mut count) = (0, 0);
        while coming.peek().is_some() || line.len() > 0 {
            while let Some((us, level, (kind, length), rows)) = coming.next_if(|job| job.0 <= now) {
                let kind = char::from(b'a' + kind);
                let waits = Waits { kind, rows, length, since: at(us) };
                line.push(batching.level(level), (level, waits));
            }
            let waiting: Vec<&Waits> = line.jobs().map(|job| &job.1).collect();
            match batching.choose(waiting.iter().copied(), &cost, at(now)) {
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
                    // Little is padding, and that is no dearer than a run each.
                    let sizes = places.iter().map(|place| waiting[*place].size());
                    let run = sizes.clone().fold(Size::default(), Size::with);
                    prop_assert!(run.padding() * BATCH_PADDING_PARTS <= run.bytes());
                    prop_assert!(us(run) <= sizes.map(us).sum());
                    for (ticket, (level, job)) in line.take(&places) {
                        count += 1;
                        // One that must run alone may be overtaken by those that run together.
                        let (kind, length) = job.rows.map_or(('!', 0), |_| (job.kind, job.length));
                        ran.entry((level, kind, length)).or_default().push(ticket.number());
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
