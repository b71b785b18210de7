//! Jobs in the air: one [`Flight`] keeps one job there until it has exactly one answer.
//!
//! What is tried again, and where:
//!
//! | what came back | then |
//! | --- | --- |
//! | the peer is lost, drains, or no longer holds the bundle | another permitted peer; the first time free, then from the retry budget |
//! | busy, does not serve this node, out of hops, its own refusal | another permitted peer, from the retry budget |
//! | bad input, execution error, unsupported, ambiguous, deadline | that is the answer |
//!
//! A flight never asks a peer twice, never more than [`ATTEMPTS_MAX`] in all, never after the
//! deadline, and only peers that [`plan`] returns.

use crate::id::PeerId;
use crate::limits::ATTEMPTS_MAX;
use crate::loads::Loads;
use crate::plan::{Job, Plan, Refusal, plan};
use crate::time::Now;
use crate::view::View;

/// Retries that a node may make, as a share of its jobs, so that a fault that fails everything
/// does not multiply the load.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// In fifths of a retry.
    fifths: u32,
}

/// Each job earns a fifth of a retry: 20 %.
const RETRY_FIFTHS: u32 = 5;
/// Most retries that can be saved up, and what a node starts with.
const RETRIES_SAVED_MAX: u32 = 100;

impl Default for RetryBudget {
    fn default() -> Self {
        Self { fifths: RETRIES_SAVED_MAX * RETRY_FIFTHS }
    }
}

impl RetryBudget {
    fn earn(&mut self) {
        self.fifths = (self.fifths + 1).min(RETRIES_SAVED_MAX * RETRY_FIFTHS);
    }

    fn spend(&mut self) -> bool {
        let left = self.fifths.checked_sub(RETRY_FIFTHS);
        self.fifths = left.unwrap_or(self.fifths);
        left.is_some()
    }
}

/// What happened to the job.
#[derive(Debug)]
pub enum Event {
    /// It arrived.
    Begin,
    /// It ran, and its answer is here.
    Answered,
    /// A peer, perhaps this one, refused it.
    Refused {
        /// Who.
        by: PeerId,
        /// Why.
        refusal: Refusal,
    },
    /// A peer was lost before it answered.
    Lost {
        /// Who.
        peer: PeerId,
        /// How.
        reason: String,
    },
}

/// What is to be done with it.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Run it here.
    RunLocal,
    /// Send it there.
    Send {
        /// Where.
        to: PeerId,
    },
    /// It is over: the host gives the app the answer that it holds, or the refusal.
    Answer(Result<(), Refusal>),
}

/// One job in the air.
#[derive(Debug)]
pub struct Flight {
    job: Job,
    tried: Vec<PeerId>,
    attempts: u8,
    lost: bool,
    last: Option<Refusal>,
    over: bool,
}

impl Flight {
    /// A job that has arrived.
    pub fn begin(job: Job) -> Self {
        Self { job, tried: Vec::new(), attempts: 0, lost: false, last: None, over: false }
    }

    /// One step. After [`Step::Answer`] there is none.
    pub fn handle(
        &mut self,
        now: Now,
        event: Event,
        view: &View,
        loads: &Loads,
        budget: &mut RetryBudget,
    ) -> Step {
        assert!(!self.over, "a job is answered once");
        match event {
            Event::Begin => {
                budget.earn();
                self.next(now, view, loads)
            }
            Event::Answered => self.end(Ok(())),
            Event::Refused { by, refusal } => match again(&refusal) {
                Again::Never => self.end(Err(refusal)),
                Again::Free => self.retry(now, by, refusal, true, view, loads, budget),
                Again::Budget => self.retry(now, by, refusal, false, view, loads, budget),
            },
            Event::Lost { peer, reason } => {
                let attempts = u32::from(self.attempts);
                let refusal = Refusal::Failed { attempts, last: reason };
                self.retry(now, peer, refusal, true, view, loads, budget)
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // What a decision depends on, all of it.
    fn retry(
        &mut self,
        now: Now,
        failed: PeerId,
        refusal: Refusal,
        free: bool,
        view: &View,
        loads: &Loads,
        budget: &mut RetryBudget,
    ) -> Step {
        self.tried.push(failed);
        let first = free && !std::mem::replace(&mut self.lost, true);
        self.last = Some(refusal.clone());
        if self.attempts >= ATTEMPTS_MAX || !(first || budget.spend()) {
            return self.end(Err(refusal));
        }
        self.next(now, view, loads)
    }

    fn next(&mut self, now: Now, view: &View, loads: &Loads) -> Step {
        self.attempts += 1;
        match plan(now, view, loads, &self.job, &self.tried) {
            Plan::Local => Step::RunLocal,
            Plan::Forward { to, .. } => Step::Send { to },
            // What a peer said tells the app more than that nobody is left.
            Plan::Refuse(refusal @ (Refusal::Unavailable { .. } | Refusal::HopLimit)) => {
                let last = self.last.take();
                self.end(Err(last.unwrap_or(refusal)))
            }
            Plan::Refuse(refusal) => self.end(Err(refusal)),
        }
    }

    fn end(&mut self, outcome: Result<(), Refusal>) -> Step {
        self.over = true;
        Step::Answer(outcome)
    }
}

enum Again {
    Never,
    Budget,
    Free,
}

/// Whether another peer may succeed where one refused: the table above.
fn again(refusal: &Refusal) -> Again {
    match refusal {
        Refusal::Draining | Refusal::UnknownModel { .. } => Again::Free,
        Refusal::Busy { .. }
        | Refusal::NotServed { .. }
        | Refusal::HopLimit
        | Refusal::PolicyUnsatisfiable { .. }
        | Refusal::Unavailable { .. }
        | Refusal::Malformed { .. }
        | Refusal::Failed { .. } => Again::Budget,
        Refusal::BadInput { .. }
        | Refusal::Execution { .. }
        | Refusal::Unsupported { .. }
        | Refusal::AmbiguousModel { .. }
        | Refusal::Deadline => Again::Never,
    }
}
