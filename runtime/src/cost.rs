//! What a run of a size costs, learned from the runs, and what that makes worth while: how large a
//! run, and how much padding. Arithmetic alone; [`crate::batch`] decides by it.

use std::time::Duration;

use crate::limits::BATCH_PADDING_PARTS;

/// How large the inputs of one run are, be they of one job or of several whose inputs are padded to
/// the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes of the inputs as they came.
    given: u64,
    /// Bytes of what is never padded.
    fixed: u64,
    /// Bytes of the rest for each unit of length.
    per_length: u64,
    /// The longest job's.
    length: u64,
}

impl Size {
    /// Of inputs of `fixed` bytes, and `per_length` for each unit of their length.
    pub(crate) fn new(fixed: u64, per_length: u64, length: u64) -> Self {
        let given = fixed.saturating_add(per_length.saturating_mul(length));
        Self { given, fixed, per_length, length }
    }

    /// Both in one run.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            given: self.given.saturating_add(other.given),
            fixed: self.fixed.saturating_add(other.fixed),
            per_length: self.per_length.saturating_add(other.per_length),
            length: self.length.max(other.length),
        }
    }

    /// The longest job's length; 0 of those that are not padded.
    pub(crate) fn length(self) -> u64 {
        self.length
    }

    /// Bytes that the model is given, padding included.
    pub(crate) fn bytes(self) -> u64 {
        self.fixed.saturating_add(self.per_length.saturating_mul(self.length))
    }

    /// Bytes of it that nobody asked for.
    pub(crate) fn padding(self) -> u64 {
        self.bytes().saturating_sub(self.given)
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
/// How much of a run's fixed part a job saves by joining another's run: had it not, it would hardly
/// have run alone, but have shared a run with others that are nearer to it in length.
const SAVED: f64 = 0.5;

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
    pub(crate) fn worth_bytes(&self) -> u64 {
        self.bytes_of_runs(WORTH)
    }

    /// Whether `job` is better run in `run` than in another: the padding that it adds takes no longer
    /// than its part of the fixed part that it would have there ([`SAVED`]); and however cheap it
    /// seems, no more than one of [`BATCH_PADDING_PARTS`] parts of the run is padding.
    pub(crate) fn pays(&self, run: Size, job: Size) -> bool {
        let both = run.with(job);
        let added = both.padding().saturating_sub(run.padding());
        let is_bounded = both.padding().saturating_mul(BATCH_PADDING_PARTS) <= both.bytes();
        added == 0 || (is_bounded && added <= self.bytes_of_runs(SAVED))
    }

    /// Bytes that take as long as the fixed part of so many runs; 0 while nothing is known.
    fn bytes_of_runs(&self, runs: f64) -> u64 {
        let Some((fixed, per_byte)) = self.anchors.with(&self.runs).line() else { return 0 };
        if per_byte <= 0.0 {
            return u64::MAX; // Larger is not slower.
        }
        // A cast of a float saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = (runs * fixed.max(0.0) / per_byte) as u64;
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

    const US: Duration = Duration::from_micros(1);

    /// Of a model whose runs take so many µs, and one more for so many bytes.
    fn cost(fixed_us: u32, bytes_per_us: u32) -> Cost {
        let mut cost = Cost::default();
        for us in [0, 1_000] {
            cost.anchor(u64::from(us) * u64::from(bytes_per_us), US * (fixed_us + us));
        }
        cost
    }

    fn text(tokens: u64) -> Size {
        Size::new(0, 24, tokens)
    }

    #[test]
    fn padding_pays_where_it_costs_less_than_the_run_that_it_saves() {
        // Half of a run's fixed part costs as much as ten tokens.
        let cost = cost(482, 1);
        assert!(cost.pays(text(100), text(110)) && cost.pays(text(110), text(100)));
        assert!(!cost.pays(text(100), text(111)) && !cost.pays(text(111), text(100)));
        // Each of those that run already is padded, too.
        let three = [text(100); 3].into_iter().fold(Size::default(), Size::with);
        assert!(cost.pays(three, text(103)) && !cost.pays(three, text(104)));
        // The padding that is there already is not the newcomer's.
        assert!(cost.pays(three.with(text(103)), text(103)));
    }

    #[test]
    fn padding_is_never_more_than_its_part_of_a_run_however_cheap_it_seems() {
        let free = cost(1_000_000, 1_000);
        assert!(!free.pays(text(500), text(10)) && !free.pays(text(10), text(500)));
        assert!(free.pays(text(100), text(50)) && !free.pays(text(100), text(49)));
    }

    #[test]
    fn while_nothing_is_known_nothing_is_padded() {
        let unknown = Cost::default();
        assert!(unknown.pays(text(9), text(9)) && !unknown.pays(text(9), text(10)));
        assert!(unknown.pays(Size::new(7, 0, 0), Size::new(9_000, 0, 0)));
    }

    proptest! {
        /// By the very law that was learned.
        #[test]
        fn jobs_that_run_together_take_no_longer_than_apart(
            fixed_us in 1u32..5_000, bytes_per_us in 1u32..50,
            jobs in proptest::collection::vec((0u64..50, 1u64..600), 1..40),
        ) {
            let cost = cost(fixed_us, bytes_per_us);
            let us = |size: Size| {
                f64::from(fixed_us) + size.bytes() as f64 / f64::from(bytes_per_us)
            };
            let (mut run, mut apart) = (Size::default(), 0.0);
            for (fixed, length) in jobs {
                let job = Size::new(fixed, 24, length);
                if run == Size::default() || cost.pays(run, job) {
                    (run, apart) = (run.with(job), apart + us(job));
                }
            }
            prop_assert!(us(run) <= apart * 1.001 + 1.0, "{} > {apart}", us(run));
            prop_assert!(run.padding() * BATCH_PADDING_PARTS <= run.bytes());
        }
    }
}
