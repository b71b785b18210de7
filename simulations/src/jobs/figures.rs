//! What a run showed.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::time::Mono;

use crate::jobs::checkers::Checkers;

/// The figures of one strategy in one run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From arrival to the first byte at the entry, with the job, of jobs after the warm-up; sorted
    /// at the end.
    pub ttft: Vec<(Duration, usize)>,
    /// Jobs that were answered with a refusal.
    pub refused: u64,
    /// Jobs that got their answer.
    pub answered: u64,
    /// Jobs whose entry was down when they came, or went down before it answered.
    pub orphaned: u64,
    /// Questions sent.
    pub questions: u64,
    /// Jobs sent, and those of them to another region.
    pub sends: u64,
    /// Jobs that were sent to one more server, since the first was late.
    pub hedges: u64,
    /// Sends to another region.
    pub cross: u64,
    /// Jobs answered, by the regions of their entry and of the host that ran them.
    pub flows: BTreeMap<(usize, usize), u64>,
    /// Share of the slots of each region that was busy, over time.
    pub busy: Vec<(Mono, Vec<f64>)>,
    /// Jobs that came and were not yet answered, over time.
    pub under_way: Vec<(Mono, usize)>,
    /// Jobs that got no answer but a refusal, or none at all.
    pub unanswered: Vec<usize>,
    /// Passes of jobs through chains of hosts, of jobs after the warm-up.
    pub passes: Vec<Pass>,
    /// When a host began to hold a model, or dropped it.
    pub moves: Vec<Moved>,
    /// What the checkers saw.
    pub checkers: Checkers,
    /// Over all events, in order: equal for equal seeds.
    pub hash: u64,
}

/// A job went through a chain of hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Which.
    pub job: usize,
    /// When it set out from its entry.
    pub begun: Mono,
    /// From then to its answer.
    pub took: Duration,
    /// The part of it that it waited for slots.
    pub waited: Duration,
    /// What its stages and the ways between the hosts take by themselves.
    pub law: Duration,
    /// Who ran the stages, in order.
    pub hosts: Vec<usize>,
    /// How often another host had to be found.
    pub mended: u32,
}

/// A host changed what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When.
    pub at: Mono,
    /// Who.
    pub host: usize,
    /// Which model.
    pub model: usize,
    /// Whether it fetches it, and does not drop it.
    pub is_held: bool,
}

impl Figures {
    /// The time to first byte that this share of jobs does not exceed.
    pub fn ttft_at(&self, share: f64) -> Duration {
        let last = self.ttft.len().saturating_sub(1);
        // A share of a length is an index.
        #[allow(clippy::cast_possible_truncation)]
        let index = (last as f64 * share) as usize;
        self.ttft.get(index).map_or(Duration::ZERO, |(ttft, _)| *ttft)
    }

    /// Times to first byte of the jobs that `counts` names, in milliseconds, ascending.
    pub fn ttft_ms(&self, counts: impl Fn(usize) -> bool) -> Vec<f64> {
        let counted = self.ttft.iter().filter(|(_, job)| counts(*job));
        counted.map(|(ttft, _)| ttft.as_secs_f64() * 1e3).collect()
    }
}
