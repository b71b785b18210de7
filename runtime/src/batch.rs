//! Which of the jobs that wait run together. A pure policy: it is told what waits and what time it
//! is, and keeps no clock.
//!
//! A run costs `fixed + per_byte × bytes of its inputs`, and running jobs together shares the fixed
//! part. So jobs are put together until that part is a twentieth of the run: a model that is all
//! overhead runs dozens at once, one that is all arithmetic runs each alone and keeps nobody
//! waiting. Both figures are learned from the runs (`cost`). A lone job never waits, unless its
//! model is configured to ([`Batching::max_wait`]). In which order jobs wait is [`crate::line`]'s.
//!
//! Jobs of different lengths run together where their model lets them be padded ([`crate::ragged`])
//! and that is sooner done than one after the other: a job joins if the padding that this adds, its
//! own and that of all who are in the run already, takes no longer than half of a run's fixed part,
//! which is about what it saves: elsewhere it would have shared that with another. Besides, at most a
//! quarter of a run is padding, whatever was learned. One that is passed over so keeps its place; of
//! those behind it only such may go before it as are nearer in length to the run.

use std::time::{Duration, Instant};

use crate::cost::{Cost, Size};
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
    /// How large its inputs are.
    fn size(&self) -> Size;
    /// Since when it waits.
    fn since(&self) -> Instant;
    /// Whether its rows and those of `other` can be rows of one batch, if need be padded.
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
        let (mut size, mut since) = (first.size(), first.since());
        let mut is_full = rows >= rows_max || size.bytes() >= bytes_max;
        // How many of the chosen have a preferred number of rows together.
        let mut preferred = self.preferred.contains(&rows).then_some(1);
        // Lengths that are nearer to the run's than those of the jobs that it passes over.
        let mut nearer = 0..u64::MAX;
        for (place, job) in waiting.take(BATCH_LOOK_MAX) {
            if is_full {
                break;
            }
            let Some(more) = job.rows().filter(|_| job.joins(first)) else { continue };
            let length = job.size().length();
            if !nearer.contains(&length) {
                continue;
            }
            if !cost.pays(size, job.size()) {
                match length > size.length() {
                    true => nearer.end = length,
                    false => nearer.start = length + 1,
                }
                continue;
            }
            // Those of one kind keep their order: none overtakes one that found no room.
            is_full = rows.saturating_add(more) > rows_max || size.bytes() >= bytes_max;
            if !is_full {
                (rows, size) = (rows + more, size.with(job.size()));
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

#[cfg(test)]
mod tests;
