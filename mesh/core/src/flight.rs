//! Jobs in the air: one [`Flight`] keeps one job there until it has exactly one answer.
//!
//! What is tried again, and where:
//!
//! | what came back | then |
//! | --- | --- |
//! | the peer is lost, drains, or no longer holds the bundle | another permitted peer; the first time free, then from the retry budget |
//! | busy, does not serve this node, cannot keep the receipt, out of hops, unavailable, its own refusal, malformed | another permitted peer, from the retry budget |
//! | the model failed | the first time another permitted peer, from the retry budget: the fault may be the peer's; the second time that is the answer, since it may be the input's |
//! | bad input, unsupported, ambiguous, deadline | that is the answer |
//!
//! A flight never asks a peer twice, but once one that lives and to which only the way was cut; never
//! more than [`ATTEMPTS_MAX`] in all, never after the deadline, and only peers that [`plan`] returns.
//! When nobody is left to ask, the app is told the most useful of what the peers said: what it can act
//! on comes before what it cannot.
//!
//! At its entry, a job whose answer has not begun long after it should have is hedged: once, from
//! the retry budget, another peer gets it too, if that would have answered by now, and the first
//! answer counts (Dean, Barroso: The Tail at Scale, 2013). Peers further on do not hedge, or hedges
//! would multiply. A job under a limit of price is not hedged, since each of the two may ask for all of
//! it. It is tried again like any other: who gives no answer is not paid.

use std::time::Duration;

use crate::chain::{Chain, Link, may_pass};
use crate::id::PeerId;
use crate::limits::ATTEMPTS_MAX;
use crate::loads::Loads;
use crate::plan::{Job, Plan, Refusal, admit_here, admit_there, plan};
use crate::survey::Preference;
use crate::time::{Mono, Now};
use crate::view::View;

/// An answer is late after so many times what was expected …
const LATE_TIMES: u32 = 3;
/// … and this, which covers what expectations leave out.
const LATE_SLACK: Duration = Duration::from_millis(100);

/// Retries that a node may make, as a share of its jobs, so that a fault that fails everything
/// does not multiply the load.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// In hundredths of a retry.
    saved: u32,
    /// What each job earns, in hundredths of a retry.
    percent: u32,
}

/// Each job earns a fifth of a retry.
pub const RETRY_PERCENT: u32 = 20;
/// What so many jobs earn can be saved up, and is what a node starts with.
pub const RETRIES_SAVED_JOBS: u32 = 500;

impl Default for RetryBudget {
    fn default() -> Self {
        Self::of_percent(RETRY_PERCENT)
    }
}

impl RetryBudget {
    /// Retries for this part of the jobs, at most all of them.
    pub fn of_percent(percent: u32) -> Self {
        let percent = percent.min(100);
        Self { saved: percent * RETRIES_SAVED_JOBS, percent }
    }

    fn earn(&mut self) {
        self.saved = (self.saved + self.percent).min(self.percent * RETRIES_SAVED_JOBS);
    }

    fn spend(&mut self, retries: u32) -> bool {
        let left = self.saved.checked_sub(retries * 100);
        self.saved = left.unwrap_or(self.saved);
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
    Refused(Refusal),
    /// A peer was lost before it answered, and how.
    Lost(String),
    /// The way to a peer was lost before it answered, and how. It lives, and there is another way: it
    /// may be asked once more.
    Cut {
        /// Which.
        peer: PeerId,
        /// How.
        last: String,
    },
    /// No answer has begun by [`Flight::late_at`].
    Late,
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
    /// Send it through these peers, stage by stage.
    Pass {
        /// In order.
        links: Vec<Link>,
    },
    /// Nothing: it is under way.
    Wait,
    /// It is over: the host gives the app the answer that it holds, or the refusal.
    Answer(Result<(), Refusal>),
}

/// One job in the air.
#[derive(Debug)]
pub struct Flight {
    job: Job,
    /// Peers that have got it.
    tried: Vec<PeerId>,
    /// How many of them still have it.
    under_way: u8,
    /// Peers to send to before `plan` is asked, next last.
    preferred: Vec<Preference>,
    /// A chain to send it through before `plan` is asked.
    chain: Option<Chain>,
    /// When the last peer got it.
    sent: Mono,
    /// When the one attempt under way is late; none once it was hedged.
    late_at: Option<Mono>,
    hedged: bool,
    /// Whether the free retry is used up.
    lost: bool,
    /// Whether a peer may be asked again already.
    cut: bool,
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
            // Beyond the entry nobody hedges, and nobody runs a job twice at once under a limit of
            // price.
            hedged: !job.path.is_empty() || job.policy.price_micros_max.is_some(),
            job,
            tried: Vec::new(),
            under_way: 0,
            preferred: Vec::new(),
            chain: None,
            sent: Mono::default(),
            late_at: None,
            lost: false,
            cut: false,
            failed: false,
            told: None,
            over: false,
        }
    }

    /// Peers to try first, best first: what a [`Survey`](crate::survey::Survey) found. The gate is
    /// asked of each again when its turn comes; one that does not pass is skipped.
    pub fn prefer(&mut self, mut order: Vec<Preference>) {
        order.reverse();
        self.preferred = order;
    }

    /// A chain to try first: what a [`chain::survey`](crate::chain::survey) found. The gate is asked
    /// of each peer again.
    pub fn prefer_chain(&mut self, chain: Chain) {
        self.chain = Some(chain);
    }

    /// The job that is kept in the air.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// When the host says [`Event::Late`] if no answer has begun; it may change with each step.
    pub fn late_at(&self) -> Option<Mono> {
        self.late_at
    }

    /// One step. After [`Step::Answer`] there is none; attempts still under way are then cancelled.
    pub fn handle(
        &mut self,
        now: Now,
        event: Event,
        view: &View,
        loads: &Loads,
        budget: &mut RetryBudget,
    ) -> Step {
        assert!(!self.over, "a job is answered once");
        let (refusal, again) = match event {
            Event::Begin => {
                budget.earn();
                return match self.next(now, view, loads) {
                    Ok(attempt) => self.attempt(now, attempt),
                    Err(refusal) => self.end(Err(refusal)),
                };
            }
            Event::Answered => return self.end(Ok(())),
            Event::Late => return self.hedge(now, view, loads, budget),
            Event::Refused(refusal) => {
                let again = again(&refusal);
                (refusal, again)
            }
            Event::Lost(last) => (self.failed_at_last(last), Again::Free),
            Event::Cut { peer, last } => {
                let failed = self.failed_at_last(last);
                if !std::mem::replace(&mut self.cut, true) {
                    self.tried.retain(|tried| *tried != peer);
                }
                (failed, Again::Free)
            }
        };
        self.under_way -= 1;
        self.late_at = None;
        let price = match again {
            Again::Never => return self.end(Err(refusal)),
            Again::Once => (!std::mem::replace(&mut self.failed, true)).then_some(1),
            Again::Free => Some(u32::from(std::mem::replace(&mut self.lost, true))),
            Again::Budget => Some(1),
        };
        self.hear(refusal);
        if self.under_way > 0 {
            return Step::Wait;
        }
        let may = self.has_attempts() && price.is_some_and(|price| budget.spend(price));
        match may.then(|| self.next(now, view, loads)) {
            Some(Ok(attempt)) => self.attempt(now, attempt),
            Some(Err(Refusal::Deadline)) => self.end(Err(Refusal::Deadline)),
            left => {
                let told = self.told.take().expect("heard just now");
                self.end(Err(match (told, left) {
                    // Who died says nothing; which rules keep all others out says much.
                    (Refusal::Failed { .. }, Some(Err(counted))) if is_counted(&counted) => counted,
                    // What a peer said tells the app more than that nobody is left to ask.
                    (told, _) => told,
                }))
            }
        }
    }

    /// Gives the job to one more peer, if there is one that would have answered by now and the
    /// budget has a retry left. Where all are busy nobody would have, and a hedge only adds to it.
    fn hedge(&mut self, now: Now, view: &View, loads: &Loads, budget: &mut RetryBudget) -> Step {
        self.late_at = None;
        if std::mem::replace(&mut self.hedged, true) || !self.has_attempts() {
            return Step::Wait;
        }
        match self.next(now, view, loads) {
            Ok(attempt) if attempt.expected < now.mono.since(self.sent) && budget.spend(1) => {
                self.attempt(now, attempt)
            }
            _ => Step::Wait,
        }
    }

    fn failed_at_last(&self, last: String) -> Refusal {
        Refusal::Failed { attempts: self.tried.len().try_into().unwrap_or(u32::MAX), last }
    }

    fn has_attempts(&self) -> bool {
        self.tried.len() < usize::from(ATTEMPTS_MAX)
    }

    /// The job goes to a peer, perhaps this one.
    fn attempt(&mut self, now: Now, Attempt { step, peer, expected }: Attempt) -> Step {
        self.tried.push(peer);
        self.under_way += 1;
        self.sent = now.mono;
        let late = expected.saturating_mul(LATE_TIMES).saturating_add(LATE_SLACK);
        // A chain is mended from within, by whoever sees it break.
        let may_hedge = !self.hedged && !matches!(step, Step::Pass { .. });
        self.late_at = may_hedge.then(|| now.mono + late);
        step
    }

    /// Who gets the job next.
    fn next(&mut self, now: Now, view: &View, loads: &Loads) -> Result<Attempt, Refusal> {
        if let Some(attempt) = self.next_preferred(now, view, loads) {
            return Ok(attempt);
        }
        let preferred = self.chain.take();
        if let Some(chain) = preferred.filter(|chain| self.may_pass(now, view, loads, chain)) {
            return Ok(Attempt::through(chain));
        }
        match plan(now, view, loads, &self.job, &self.tried) {
            Plan::Local { cost } => {
                Ok(Attempt { step: Step::RunLocal, peer: view.me(), expected: cost.total() })
            }
            Plan::Forward { to, cost } => {
                Ok(Attempt { step: Step::Send { to }, peer: to, expected: cost.total() })
            }
            Plan::Stages { chain } => Ok(Attempt::through(chain)),
            Plan::Refuse(refusal) => Err(refusal),
        }
    }

    /// Whether the job may still go through a chain that was found a moment ago.
    fn may_pass(&self, now: Now, view: &View, loads: &Loads, chain: &Chain) -> bool {
        let may = |link: &Link| may_pass(now, view, loads, &self.job, link).is_ok();
        self.job.deadline > now.mono && chain.links.iter().all(may)
    }

    /// The next peer of the order that still passes all that `plan` asks of a peer.
    fn next_preferred(&mut self, now: Now, view: &View, loads: &Loads) -> Option<Attempt> {
        let job = &self.job;
        if job.deadline <= now.mono || !job.may_stay_whole() {
            return None;
        }
        while let Some(Preference { peer, expected }) = self.preferred.pop() {
            let Some(entry) = view.get(peer) else { continue };
            if peer == view.me() {
                if admit_here(now, entry, loads, job, &self.tried).is_ok() {
                    return Some(Attempt { step: Step::RunLocal, peer, expected });
                }
            } else if job.hops_left > 0 && admit_there(now, entry, loads, job, &self.tried).is_ok()
            {
                return Some(Attempt { step: Step::Send { to: peer }, peer, expected });
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

/// Who gets the job, and within what time an answer is expected.
struct Attempt {
    step: Step,
    peer: PeerId,
    expected: Duration,
}

impl Attempt {
    fn through(Chain { links, cost, .. }: Chain) -> Self {
        let peer = links[0].peer;
        Self { step: Step::Pass { links }, peer, expected: cost }
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
        | Refusal::Gap { .. }
        | Refusal::Loading { .. }
        | Refusal::Malformed { .. }
        | Refusal::NoReceipt { .. }
        | Refusal::Failed { .. } => Again::Budget,
        Refusal::Execution { .. } => Again::Once,
        Refusal::BadInput { .. }
        | Refusal::Unsupported { .. }
        | Refusal::AmbiguousModel { .. }
        | Refusal::Unsplittable { .. }
        | Refusal::Deadline => Again::Never,
    }
}

/// Whether it says how many peers fail which rule.
fn is_counted(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::PolicyUnsatisfiable { .. } | Refusal::Unavailable { .. })
}

/// How much an app can do with a refusal that another peer might not have given.
fn usefulness(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::Busy { .. } | Refusal::Loading { .. } => 3, // Try again, and when.
        Refusal::Execution { .. } => 2,                      // What ONNX Runtime said.
        Refusal::Failed { .. }
        | Refusal::Unavailable { .. }
        | Refusal::Gap { .. }
        | Refusal::NoReceipt { .. } => 1,
        _ => 0,
    }
}
