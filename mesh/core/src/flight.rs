//! Jobs in the air: one [`Flight`] keeps one job there until it has exactly one answer.
//!
//! What is tried again, and where:
//!
//! | what came back | then |
//! | --- | --- |
//! | the peer is lost, drains, or no longer holds the bundle | another permitted peer; the first time free, then from the retry budget |
//! | busy, does not serve this node, out of hops, unavailable, its own refusal, malformed | another permitted peer, from the retry budget |
//! | the model failed | the first time another permitted peer, from the retry budget: the fault may be the peer's; the second time that is the answer, since it may be the input's |
//! | bad input, unsupported, ambiguous, deadline | that is the answer |
//!
//! A flight never asks a peer twice, never more than [`ATTEMPTS_MAX`] in all, never after the
//! deadline, and only peers that [`plan`] returns. When nobody is left to ask, the app is told the
//! most useful of what the peers said: what it can act on comes before what it cannot.

use crate::id::PeerId;
use crate::limits::ATTEMPTS_MAX;
use crate::loads::Loads;
use crate::plan::{Job, Plan, Refusal, admit_here, admit_there, plan};
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
    /// Peers to send to before `plan` is asked, next last.
    preferred: Vec<PeerId>,
    attempts: u8,
    /// Whether the free retry is used up.
    lost: bool,
    /// Whether the model failed once.
    failed: bool,
    /// The most useful of what the peers said.
    told: Option<Refusal>,
    over: bool,
}

impl Flight {
    /// A job that has arrived.
    pub fn begin(job: Job) -> Self {
        Self {
            job,
            tried: Vec::new(),
            preferred: Vec::new(),
            attempts: 0,
            lost: false,
            failed: false,
            told: None,
            over: false,
        }
    }

    /// Peers to try first, best first: what a [`Survey`](crate::survey::Survey) found. The gate is
    /// asked of each again when its turn comes; one that does not pass is skipped.
    pub fn prefer(&mut self, mut order: Vec<PeerId>) {
        order.reverse();
        self.preferred = order;
    }

    /// The job that is kept in the air.
    pub fn job(&self) -> &Job {
        &self.job
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
        let (peer, refusal, again) = match event {
            Event::Begin => {
                budget.earn();
                return self.next(now, view, loads);
            }
            Event::Answered => return self.end(Ok(())),
            Event::Refused { by, refusal } => {
                let again = again(&refusal);
                (by, refusal, again)
            }
            Event::Lost { peer, reason } => {
                let attempts = u32::from(self.attempts);
                (peer, Refusal::Failed { attempts, last: reason }, Again::Free)
            }
        };
        self.tried.push(peer);
        let may = match again {
            Again::Never => return self.end(Err(refusal)),
            Again::Once => !std::mem::replace(&mut self.failed, true) && budget.spend(),
            Again::Free => !std::mem::replace(&mut self.lost, true) || budget.spend(),
            Again::Budget => budget.spend(),
        };
        self.hear(refusal);
        if may && self.attempts < ATTEMPTS_MAX {
            self.next(now, view, loads)
        } else {
            let told = self.told.take().expect("heard just now");
            self.end(Err(told))
        }
    }

    fn next(&mut self, now: Now, view: &View, loads: &Loads) -> Step {
        if let Some(step) = self.next_preferred(now, view, loads) {
            self.attempts += 1;
            return step;
        }
        let refusal = match plan(now, view, loads, &self.job, &self.tried) {
            Plan::Local => {
                self.attempts += 1;
                return Step::RunLocal;
            }
            Plan::Forward { to, .. } => {
                self.attempts += 1;
                return Step::Send { to };
            }
            Plan::Refuse(refusal) => refusal,
        };
        match self.told.take() {
            // What a peer said tells the app more than that nobody is left to ask.
            Some(told) if refusal != Refusal::Deadline => self.end(Err(told)),
            _ => self.end(Err(refusal)),
        }
    }

    /// The next peer of the order that still passes all that `plan` asks of a peer.
    fn next_preferred(&mut self, now: Now, view: &View, loads: &Loads) -> Option<Step> {
        let job = &self.job;
        if job.policy.unsupported().is_some() || job.deadline <= now.mono {
            return None;
        }
        while let Some(to) = self.preferred.pop() {
            let Some(entry) = view.get(to) else { continue };
            if to == view.me() {
                if admit_here(now, entry, job, &self.tried).is_ok() {
                    return Some(Step::RunLocal);
                }
            } else if job.hops_left > 0 && admit_there(now, entry, loads, job, &self.tried).is_ok()
            {
                return Some(Step::Send { to });
            }
        }
        None
    }

    /// Keeps what a peer said if it is at least as useful as what is kept.
    fn hear(&mut self, refusal: Refusal) {
        if self.told.as_ref().is_none_or(|told| usefulness(&refusal) >= usefulness(told)) {
            self.told = Some(refusal);
        }
    }

    fn end(&mut self, outcome: Result<(), Refusal>) -> Step {
        self.over = true;
        Step::Answer(outcome)
    }
}

enum Again {
    Never,
    Once,
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
        Refusal::Execution { .. } => Again::Once,
        Refusal::BadInput { .. }
        | Refusal::Unsupported { .. }
        | Refusal::AmbiguousModel { .. }
        | Refusal::Deadline => Again::Never,
    }
}

/// How much an app can do with a refusal that another peer might not have given.
fn usefulness(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::Busy { .. } => 3,      // Try again, and when.
        Refusal::Execution { .. } => 2, // What ONNX Runtime said.
        Refusal::Failed { .. } | Refusal::Unavailable { .. } => 1,
        _ => 0,
    }
}
