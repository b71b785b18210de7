//! A job's way through a node: from the app or another peer into the air, to the engine here or
//! to the next peer, and its one answer back.
//!
//! ```text
//! api::infer ─► Node::infer ─► survey ─► Flight ─┬─ run_here ─► Engine
//! serve ────────────┘                            ├─ send ─────► data plane ─► serve of the next peer
//!                                                └─ run_chain ► stage after stage, each a peer
//! ```
//!
//! A peer that forwards a job is a client of the next peer: one protocol, one code path. What is
//! decided, `hansa_core::flight` and `hansa_core::survey` decide; these files move tensors.

mod ask;
mod evidence;
mod payload;
mod rows;
mod serve;
mod stages;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryFutureExt};
use hansa_core::flight::{Event, Flight, Step};
use hansa_core::gate;
use hansa_core::id::{Digest, PeerId};
use hansa_core::plan::{Job, Refusal, may_run_here};
use hansa_core::price::Bill;
use hansa_core::receipt::Why;
use hansa_core::time::Mono;
use hansa_core::wire::TraceContext;
use hansa_runtime::engine::{EngineError, Request, SubmitError};
use hansa_runtime::tensor::Tensor;

pub(crate) use self::ask::AskError;
pub(crate) use self::evidence::digest_of;
pub use self::evidence::{Evidence, Receipted};
pub use self::payload::batch_rows;
pub use self::serve::serve;
pub use self::stages::Gathers;
use crate::answers::Question;
use crate::limits::BUSY_RETRY_MS;
use crate::node::{Hosted, Node};

/// One job as the node holds it: what the core sees of it, and its payload.
pub struct Order {
    /// The core's part.
    pub job: Job,
    /// The tensors.
    pub inputs: Vec<Tensor>,
    /// Outputs wanted; empty means all.
    pub outputs: Vec<String>,
    /// Its trace.
    pub trace: TraceContext,
    /// What its receipt will say of where it came from and went.
    pub evidence: Evidence,
}

/// One try at a peer.
#[derive(Clone, Copy)]
struct Attempt {
    /// From 1.
    number: u8,
    /// Why it is made.
    why: Why,
}

/// What came of a job that ran.
#[derive(Debug)]
pub struct Answer {
    /// Who ran it: one peer, or each that ran a part.
    pub executed_by: Vec<PeerId>,
    /// What the model gave.
    pub outputs: Vec<Tensor>,
    /// Time that it waited at the executor.
    pub queue: Duration,
    /// Time that it ran.
    pub service: Duration,
    /// Jobs of the bundle in flight at the executor.
    pub in_flight: u32,
    /// What those who ran it charge.
    pub price: Bill,
    /// The leaf of the receipt that the one peer that ran it keeps, if it does.
    pub receipt: Option<Digest>,
    /// Whether this node had kept the answer; none where it did not look.
    pub is_kept: Option<bool>,
}

impl Node {
    /// Keeps a job in the air until it has its one answer. Dropping the future cancels the job
    /// wherever it is.
    ///
    /// A job whose receipt must be kept and cannot be is refused; also when that shows only after it
    /// ran.
    pub async fn infer(self: &Arc<Self>, order: Order) -> (Result<Answer, Refusal>, Receipted) {
        match self.is_draining() {
            true => (Err(Refusal::Draining), Receipted::Off),
            false => self.go_on(order).await,
        }
    }

    /// The same with a job of a request that has begun, which the drain lets end.
    pub async fn go_on(self: &Arc<Self>, mut order: Order) -> (Result<Answer, Refusal>, Receipted) {
        if let Err(refusal) = self.may_keep(&order.job.policy) {
            return (Err(refusal), Receipted::Off);
        }
        let _counted = self.tasks.token(); // The drain waits for it.
        let deadline = self.clock.instant(order.job.deadline).into();
        let flown = tokio::time::timeout_at(deadline, self.fly(&mut order)).await;
        let mut outcome = flown.unwrap_or(Err(Refusal::Deadline));
        if order.job.path.is_empty() {
            self.count_demand(&order.job, &outcome);
        }
        match &outcome {
            Ok(answer) => tracing::debug!(by = ?answer.executed_by, "answered"),
            Err(refusal) => tracing::info!(job = %order.job.id, %refusal, "refused"),
        }
        let receipted = self.close(&order, &mut outcome).await;
        (outcome, receipted)
    }

    /// What no plan serves may still run on an engine that served it until just now, or does from just
    /// now on. That is looked at afterwards: a model may be replaced between any two steps of a plan.
    async fn fly(self: &Arc<Self>, order: &mut Order) -> Result<Answer, Refusal> {
        let planned = self.fly_as_planned(order).await;
        let is_unheld = |refusal: &Refusal| {
            matches!(
                refusal,
                Refusal::UnknownModel { .. }
                    | Refusal::Unavailable { .. }
                    | Refusal::PolicyUnsatisfiable { .. }
                    | Refusal::HopLimit
            )
        };
        match &planned {
            Err(refusal) if is_unheld(refusal) && self.may_run_ahead(&order.job, refusal) => {}
            _ => return planned,
        }
        let attempt = Attempt { number: 1, why: Why::Planned };
        let ended = self.attempt(order, self.me, attempt).await;
        ended.map_err(|error| match error {
            AskError::Refused(refusal) => refusal,
            AskError::Lost(last) => Refusal::Failed { attempts: 1, last },
        })
    }

    /// Whether the job may run on an engine that its plan did not know of.
    fn may_run_ahead(&self, job: &Job, refusal: &Refusal) -> bool {
        self.is_ahead_of_plan(job.bundle, refusal)
            && job.policy.split.may_be_whole()
            && may_run_here(self.clock.now(), &self.view(), &job.policy, job.bundle)
    }

    async fn fly_as_planned(self: &Arc<Self>, order: &mut Order) -> Result<Answer, Refusal> {
        if let Some(shares) = self.scatter(&order.job)? {
            return self.gather(order, &shares).await;
        }
        let preferred = self.survey(&order.job).await;
        if !preferred.is_empty() {
            // Who quoted runs it, or refuses: to plan once more there would be to trust older news.
            order.job.hops_left = order.job.hops_left.min(1);
        }
        let mut flight = Flight::begin(order.job.clone());
        flight.prefer(preferred);
        if let Some(chain) = self.survey_chains(&order.job).await {
            flight.prefer_chain(chain);
        }
        self.keep_up(order, flight).await
    }

    /// Keeps what is not scattered in the air until it has its answer.
    async fn keep_up(
        self: &Arc<Self>,
        order: &Order,
        mut flight: Flight,
    ) -> Result<Answer, Refusal> {
        let mut under_way = FuturesUnordered::new();
        let mut event = Event::Begin;
        let mut answer = None;
        let mut attempts = 0;
        loop {
            let is_late = matches!(event, Event::Late);
            let attempt = Attempt {
                number: attempts + 1,
                why: match event {
                    Event::Late => Why::Hedge,
                    Event::Begin => Why::Planned,
                    _ => Why::Retry,
                },
            };
            let step = self.decide(&mut flight, event);
            attempts += u8::from(!matches!(step, Step::Wait | Step::Answer(_)));
            match step {
                Step::RunLocal => {
                    let running = self.attempt(order, self.me, attempt);
                    under_way.push(running.map_err(Event::from).boxed());
                }
                Step::Send { to } => under_way.push(self.attempt_there(order, to, attempt).boxed()),
                Step::Pass { links } => {
                    let running = self.run_chain(order, links, attempt);
                    under_way.push(running.map_err(Event::from).boxed());
                }
                Step::Wait => {}
                Step::Answer(Ok(())) => return Ok(answer.expect("an answered flight has run")),
                Step::Answer(Err(refusal)) => return Err(refusal),
            }
            if is_late && under_way.len() > 1 {
                metrics::counter!("hansa_hedges_total").increment(1);
            }
            let ended = tokio::select! {
                biased;
                ended = under_way.next() => ended.expect("an attempt is under way"),
                () = self.reached(flight.late_at()) => {
                    event = Event::Late;
                    continue;
                }
            };
            event = match ended {
                Ok(ran) => {
                    answer = Some(ran);
                    Event::Answered
                }
                Err(event) => event,
            };
        }
    }

    /// One attempt at `peer`, which may be this node.
    async fn attempt(
        &self,
        order: &Order,
        peer: PeerId,
        attempt: Attempt,
    ) -> Result<Answer, AskError> {
        let handed = order.hand(self, peer, attempt.why);
        let ended = if peer == self.me {
            self.run_here(order).await.map_err(AskError::Refused)
        } else {
            self.send(order, peer, attempt).await
        };
        if let Some(handed) = handed {
            handed.settle(self, &order.job, &ended);
        }
        if let Err(AskError::Lost(reason)) = &ended {
            self.lost(peer, reason);
        }
        ended
    }

    /// The same at another peer, to which there may be another way when one is lost.
    async fn attempt_there(
        &self,
        order: &Order,
        peer: PeerId,
        attempt: Attempt,
    ) -> Result<Answer, Event> {
        match self.attempt(order, peer, attempt).await {
            Err(AskError::Lost(last)) if self.is_in_reach_otherwise(peer).await => {
                Err(Event::Cut { peer, last })
            }
            ended => ended.map_err(Event::from),
        }
    }

    /// One decision of the core, against what is known at this moment.
    fn decide(&self, flight: &mut Flight, event: Event) -> Step {
        let (view, now) = (self.view(), self.clock.now());
        flight.handle(now, event, &view, &self.loads(), &mut self.budget())
    }

    /// Resolves at `at`; never if there is no such time.
    async fn reached(&self, at: Option<Mono>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.clock.instant(at).into()).await,
            None => std::future::pending().await,
        }
    }

    async fn run_here(&self, order: &Order) -> Result<Answer, Refusal> {
        let bundle = order.job.bundle;
        let hosted = self.able(bundle).ok_or_else(|| gone(bundle))?;
        let question = self.question(order, &hosted).await;
        if let Some(outputs) = question.as_ref().and_then(|asked| self.answers.find(asked)) {
            return Ok(self.reuse(order, &hosted, outputs));
        }
        let load = hosted.engine.load();
        let _counted = Outstanding::count(self, self.me, bundle);
        let request = Request {
            inputs: order.inputs.clone(),
            outputs: order.outputs.clone(),
            deadline: Some(self.clock.instant(order.job.deadline)),
            priority: order.job.priority,
        };
        hosted.release(order.job.id);
        let pending = hosted.engine.queue(request).map_err(not_taken)?;
        // Requests that came together queue together before an instance wakes.
        tokio::task::yield_now().await;
        pending.call();
        let response = pending.await.map_err(failed)?;
        hosted.meters.count(response.service);
        // As of the others: what an advert says is older, and coarse.
        self.loads().ran(self.me, bundle, response.service, order.job.rows);
        let is_kept = question.map(|question| {
            self.answers.keep(question, &response.outputs);
            false
        });
        self.count_run(&order.job, bundle, response.service);
        let tensors = [&order.inputs, &response.outputs].into_iter().flatten();
        let price = self.charge(&order.job, response.service, tensors);
        order.note_work(&hosted, evidence::used(order.job.rows, response.service, &price));
        Ok(Answer {
            price,
            receipt: None,
            is_kept,
            executed_by: vec![self.me],
            outputs: response.outputs,
            queue: response.queue,
            service: response.service,
            in_flight: u32::try_from(load.queued + load.running).unwrap_or(u32::MAX),
        })
    }

    /// What the job asks, if its answer may be one that was kept.
    async fn question(&self, order: &Order, hosted: &Hosted) -> Option<Question> {
        if !hosted.serving.cache || !gate::may_reuse(&order.job.policy) {
            return None;
        }
        let (bundle, charter) = (order.job.bundle, self.law.note());
        let (inputs, outputs) = (order.inputs.clone(), order.outputs.clone());
        let digest = move || {
            Question::new(bundle, charter.as_deref().map(String::as_str), &inputs, &outputs)
        };
        let bytes = usize::try_from(order.job.bytes).unwrap_or(usize::MAX);
        Some(self.aside.run(bytes, digest).await)
    }

    /// Answers with what was kept.
    fn reuse(&self, order: &Order, hosted: &Hosted, outputs: Vec<Tensor>) -> Answer {
        let (job, none) = (&order.job, Duration::ZERO);
        hosted.release(job.id);
        metrics::counter!("hansa_answers_reused_total", "model" => hosted.name.clone())
            .increment(1);
        self.count_run(job, job.bundle, none);
        let price = self.charge(job, none, order.inputs.iter().chain(&outputs));
        order.note_reuse(hosted, evidence::used(job.rows, none, &price));
        let load = hosted.engine.load();
        Answer {
            price,
            receipt: None,
            is_kept: Some(true),
            executed_by: vec![self.me],
            outputs,
            queue: none,
            service: none,
            in_flight: u32::try_from(load.queued + load.running).unwrap_or(u32::MAX),
        }
    }

    /// What this node charges for a device that was busy so long with a job, over these inputs and
    /// outputs: what it asks, and no more than the job may cost.
    fn charge<'a>(
        &self,
        job: &Job,
        busy: Duration,
        tensors: impl Iterator<Item = &'a Tensor>,
    ) -> Bill {
        let bytes = tensors.map(|tensor| tensor.data.len() as u64).sum();
        let amount = self.rates.map(|rates| rates.amount(busy, bytes));
        let bill = amount.into_iter().collect::<Bill>().held_to(job.limit());
        count("hansa_charged_micros_total", &bill);
        bill
    }
}

impl From<AskError> for Event {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => Self::Refused(refusal),
            AskError::Lost(reason) => Self::Lost(reason),
        }
    }
}

/// Counts money.
pub(crate) fn count(name: &'static str, bill: &Bill) {
    for amount in bill.amounts() {
        let currency = amount.currency.to_string();
        metrics::counter!(name, "currency" => currency).increment(amount.micros);
    }
}

/// This node does not hold the bundle (any more).
fn gone(bundle: Digest) -> Refusal {
    Refusal::UnknownModel { model: bundle.to_string(), hint: String::new() }
}

/// Counts a job as outstanding at a peer for as long as it lives.
struct Outstanding<'a> {
    node: &'a Node,
    peer: PeerId,
    bundle: Digest,
}

impl<'a> Outstanding<'a> {
    fn count(node: &'a Node, peer: PeerId, bundle: Digest) -> Self {
        node.loads().began(peer, bundle);
        Self { node, peer, bundle }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.node.loads().ended(self.peer, self.bundle);
    }
}

fn not_taken(error: SubmitError) -> Refusal {
    match error {
        SubmitError::Full { .. } => Refusal::Busy { retry_after_ms: BUSY_RETRY_MS },
        SubmitError::Input(input) => Refusal::BadInput { reason: input.to_string() },
        SubmitError::Closed => Refusal::Draining,
    }
}

fn failed(error: EngineError) -> Refusal {
    match error {
        EngineError::DeadlinePassed => Refusal::Deadline,
        // As if the queue had been full: another peer may have time.
        EngineError::Waited => Refusal::Busy { retry_after_ms: BUSY_RETRY_MS },
        EngineError::Refused { said } => Refusal::BadInput { reason: said },
        EngineError::Failed { said } => Refusal::Execution { reason: said },
        EngineError::Closed => Refusal::Draining,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
