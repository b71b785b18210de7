//! A loaded bundle that takes jobs: instances, each one thread that owns one session, behind one
//! bounded queue. Inputs are checked before anything is queued; every job is answered, or its
//! caller has left. Which jobs run together is [`crate::batch`]'s, which engine a job goes to is
//! decided elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ort::memory::Allocator;
use ort::session::Session;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep_until};

use crate::batch::{Batching, Member};
use crate::bundle::{Bundle, BundleDigest};
use crate::check::{Head, InputLimits, check_elements};
use crate::cost::Size;
use crate::devices::Device;
use crate::instance::{Slot, find_rows, find_sharing, run_together, warm_up, warm_up_rows};
use crate::limits::{INSTANCES_MAX, PRIORITIES_MAX, QUEUE_MAX, THREADS_MAX};
use crate::line::{Queueing, Ticket, WhenLate};
use crate::queue::{Load, Outcome, Queue, Refused, Run};
use crate::ragged::Ragged;
use crate::runtime::Runtime;
use crate::session::{LoadError, Model};
use crate::sharing::{self, Sharing};
use crate::tensor::{InputError, Signature, Tensor};
use crate::turns::Turns;

/// How a bundle is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Jobs that run at once, each on a session of its own.
    pub instances: usize,
    /// Threads inside one instance; by default the cores divided among the instances.
    pub threads: Option<usize>,
    /// How many jobs wait, and how long.
    pub queue: Queueing,
    /// How large a request may be.
    pub limits: InputLimits,
    /// How jobs are put together.
    pub batching: Batching,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let limits = InputLimits::default();
        let batching = Batching::default();
        Self { instances: 1, threads: None, queue: Queueing::default(), limits, batching }
    }
}

/// A job for an engine.
#[derive(Clone, Debug)]
pub struct Request {
    /// One tensor for each of the model's inputs, in any order.
    pub inputs: Vec<Tensor>,
    /// Outputs wanted, in this order; none means all, in the model's.
    pub outputs: Vec<String>,
    /// When the answer is of no more use.
    pub deadline: Option<Instant>,
    /// How urgent it is: 1 is the most, 0 leaves it to the model.
    pub priority: u32,
}

/// What a job gave.
#[derive(Clone, Debug)]
pub struct Response {
    /// The outputs.
    pub outputs: Vec<Tensor>,
    /// How long it waited: all the time that was not its own.
    pub queue: Duration,
    /// How long it ran, conversions included; of a run that it shared, its part by rows.
    pub service: Duration,
}

/// Why a job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It does not fit the model.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Too many jobs wait.
    #[error("{queued} jobs wait already; try again later or elsewhere")]
    Full {
        /// How many.
        queued: usize,
    },
    /// The engine is being unloaded.
    #[error("the model is being unloaded")]
    Closed,
}

/// Why a job that was taken gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Its deadline passed while it waited or ran.
    #[error("the deadline passed before the model had answered")]
    DeadlinePassed,
    /// It has waited for as long as the model's queue lets a job wait.
    #[error(
        "the job has waited for as long as the model's queue allows; try again later or elsewhere"
    )]
    Waited,
    /// ONNX Runtime finds fault with the inputs.
    #[error("the model refuses the inputs: {said}")]
    Refused {
        /// ONNX Runtime's word.
        said: String,
    },
    /// The run failed.
    #[error("the model failed: {said}")]
    Failed {
        /// ONNX Runtime's word.
        said: String,
    },
    /// The engine was unloaded first.
    #[error("the model was unloaded before the job ran")]
    Closed,
}

/// A loaded bundle. Dropping it answers what waits with [`EngineError::Closed`] and lets what runs
/// finish; [`Engine::unload`] also waits for that.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    device: Device,
    digest: BundleDigest,
}

struct Shared {
    queue: Queue<Job>,
    slots: Vec<Slot>,
    signature: Signature,
    /// How jobs share runs, if they can.
    sharing: Option<Arc<Sharing>>,
    limits: InputLimits,
    queueing: Queueing,
    /// Holds answers until it is their turn, where that is asked for.
    turns: Option<Turns<Reply>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("load", &self.queue.load()).finish_non_exhaustive()
    }
}

struct Job {
    request: Request,
    /// Its rows, if it can share a run.
    rows: Option<u32>,
    size: Size,
    /// Its length, if it may be padded.
    length: Option<u64>,
    /// How it shares one.
    sharing: Option<Arc<Sharing>>,
    submitted: Instant,
    answer: oneshot::Sender<Result<Response, EngineError>>,
}

impl Member for Job {
    fn rows(&self) -> Option<u32> {
        self.rows
    }

    fn size(&self) -> Size {
        self.size
    }

    fn since(&self) -> Instant {
        self.submitted
    }

    fn joins(&self, other: &Self) -> bool {
        let Some(sharing) = &self.sharing else { return false };
        let are_ragged = self.length.is_some() && other.length.is_some();
        sharing.can_join(&self.request.inputs, &other.request.inputs, are_ragged)
    }
}

impl Engine {
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: &Device,
        config: &EngineConfig,
    ) -> Result<Self, LoadError> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let instances = config.instances;
        let threads = config.threads.unwrap_or((cores / instances.max(1)).max(1));
        for (what, value, least, limit) in [
            ("instances", instances, 1, INSTANCES_MAX),
            ("threads", threads, 1, THREADS_MAX),
            ("queue", config.queue.max, 0, QUEUE_MAX),
            ("priorities", config.batching.priorities as usize, 1, PRIORITIES_MAX as usize),
        ] {
            if !(least..=limit).contains(&value) {
                return Err(LoadError::Config { what, value, limit });
            }
        }
        let model = Model::read(bundle)?;
        // One session alone lets go of what it has packed.
        let shared = (instances > 1).then(|| model.weights(device));
        let mut sessions = Vec::with_capacity(instances);
        for _ in 0..instances {
            sessions.push(model.session(runtime, device, threads, shared.as_ref())?);
        }
        let mut signature = model.signature(&sessions[0])?;
        let ragged = Ragged::of(bundle, &signature.inputs, &signature.outputs)?;
        drop(model);
        let failed = |error: ort::Error| LoadError::Device {
            device: device.to_string(),
            said: error.to_string(),
        };
        let slots =
            (0..instances).map(|_| Slot::new()).collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let queue = Queue::new(config.queue, instances, config.batching);
        if let Some(run) = warm_up(&mut sessions[0], &slots[0], &signature) {
            queue.seed(run);
        }
        for (session, slot) in sessions.iter_mut().zip(&slots).skip(1) {
            warm_up(session, slot, &signature); // Its first job is to be as fast as the others'.
        }
        signature.rows = find_rows(&mut sessions[0], &slots[0], &signature);
        let sharing = find_sharing(&mut sessions[0], &slots[0], &signature, ragged)?.map(Arc::new);
        if let Some(sharing) = &sharing
            && let Some(run) = warm_up_rows(&mut sessions[0], &slots[0], &signature, &sharing.rows)
        {
            queue.seed_rows(run);
        }
        let (limits, queueing) = (config.limits, config.queue);
        let turns = config.batching.preserve_order.then(Turns::new);
        let shared = Arc::new(Shared { queue, slots, signature, sharing, limits, queueing, turns });
        let mut engine =
            Self { shared, threads: Vec::new(), device: device.clone(), digest: bundle.digest };
        for (index, session) in sessions.into_iter().enumerate() {
            let shared = Arc::clone(&engine.shared);
            let thread = thread::Builder::new().name(format!("hansa-engine-{index}"));
            let runtime = Handle::try_current().ok();
            let thread = thread.spawn(move || shared.serve(index, session, runtime.as_ref()));
            engine.threads.push(thread.map_err(LoadError::Thread)?);
        }
        Ok(engine)
    }

    /// Takes a job, or says at once why not. Drop what is returned to take the job back: if it
    /// waits it does not run, if it runs it is stopped at the next node of the graph.
    pub fn submit(&self, request: Request) -> Result<Pending, SubmitError> {
        let pending = self.queue(request)?;
        pending.call();
        Ok(pending)
    }

    /// The same, and no instance is woken for it before [`Pending::call`]: whoever has more jobs to
    /// come lets them queue first.
    pub fn queue(&self, request: Request) -> Result<Pending, SubmitError> {
        let shared = &self.shared;
        let heads = request.inputs.iter().map(Head::from);
        shared.signature.check(heads, &request.outputs, &shared.limits)?;
        request.inputs.iter().try_for_each(check_elements)?;
        // An answer that waits for its turn takes the place of a job that waits.
        let held = shared.turns.as_ref().map_or(0, Turns::held);
        if held > shared.queueing.max {
            return Err(SubmitError::Full { queued: held });
        }
        let (deadline, priority) = (request.deadline, request.priority);
        let (answer, response) = oneshot::channel();
        let sharing = shared.sharing.clone();
        let rows = sharing.as_ref().and_then(|sharing| {
            let shapes = request.inputs.iter().map(|input| (&*input.name, &*input.shape));
            sharing.rows.count(shapes).filter(|rows| *rows > 0)
        });
        let length = sharing.as_ref().and_then(|sharing| sharing.length(&request.inputs));
        let size = match &sharing {
            Some(sharing) => sharing.size(&request.inputs, length),
            None => sharing::size(&request.inputs),
        };
        let submitted = Instant::now();
        let patience = match shared.queueing {
            Queueing { timeout, when_late: WhenLate::Reject, .. } => timeout.map(|t| submitted + t),
            Queueing { when_late: WhenLate::Delay, .. } => None,
        };
        let job = Job { request, rows, size, length, sharing, submitted, answer };
        let ticket = shared.queue.push(priority, job).map_err(|refused| match refused {
            Refused::Full { queued } => SubmitError::Full { queued },
            Refused::Closed => SubmitError::Closed,
        })?;
        let shared = Arc::clone(shared);
        Ok(Pending { shared, ticket, response, deadline, patience, timer: None })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.shared.signature
    }

    /// How it is doing.
    pub fn load(&self) -> Load {
        self.shared.queue.load()
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it runs.
    pub fn digest(&self) -> BundleDigest {
        self.digest
    }

    /// Unloads the model and waits until its threads have ended. What runs is finished, what
    /// waits is answered with [`EngineError::Closed`].
    pub fn unload(mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an instance had panicked");
            }
        }
    }

    fn close(&self) {
        let closed = self.shared.queue.close().into_iter();
        let replies = closed.map(|(ticket, job)| (ticket, (job.answer, Err(EngineError::Closed))));
        self.shared.answer(None, replies.collect());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// A job that was taken; a future of its answer. Needs a tokio runtime with time if the job has a
/// deadline or may not wait for ever.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
    ticket: Ticket,
    response: oneshot::Receiver<Result<Response, EngineError>>,
    deadline: Option<Instant>,
    /// Until when it may wait for its run.
    patience: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Pending {
    type Output = Result<Response, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.response).poll(context) {
            // Only a thread that is gone drops a job unanswered.
            return Poll::Ready(answer.unwrap_or(Err(EngineError::Closed)));
        }
        loop {
            let Some(until) = [self.deadline, self.patience].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until.into())));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.deadline == Some(until) {
                self.cancel();
                return Poll::Ready(Err(EngineError::DeadlinePassed));
            }
            // What runs already is let finish.
            (self.patience, self.timer) = (None, None);
            if self.shared.leave(self.ticket) {
                self.response.close();
                return Poll::Ready(Err(EngineError::Waited));
            }
        }
    }
}

impl Pending {
    /// Has it be run.
    pub fn call(&self) {
        self.shared.queue.call();
    }

    /// Closed first, searched second: an instance that takes the job between the two finds it
    /// closed, one that took it before is found.
    fn cancel(&mut self) {
        self.response.close();
        if !self.shared.leave(self.ticket) {
            let job = self.ticket.number();
            self.shared.slots.iter().for_each(|slot| slot.leave(job));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.response.is_terminated() {
            self.cancel();
        }
    }
}

impl Shared {
    /// One instance's thread, until the queue closes.
    fn serve(&self, index: usize, mut session: Session, runtime: Option<&Handle>) {
        let allocator = Allocator::default();
        let slot = &self.slots[index];
        while let Some(taken) = self.queue.next() {
            slot.begin(taken.iter().map(|(ticket, _)| ticket.number()));
            let started = Instant::now();
            let (mut jobs, mut outcomes, mut replies) = (Vec::new(), Vec::new(), Vec::new());
            let mut tickets = Vec::new();
            for (ticket, job) in taken {
                let is_late = job.request.deadline.is_some_and(|deadline| deadline <= started);
                if is_late || job.answer.is_closed() {
                    outcomes.push(Outcome::Dropped);
                    replies.push((ticket, (job.answer, Err(EngineError::DeadlinePassed))));
                } else {
                    tickets.push(ticket);
                    jobs.push(job);
                }
            }
            let bytes = jobs.iter().map(Job::size).fold(Size::default(), Size::with).bytes();
            let requests: Vec<&Request> = jobs.iter().map(|job| &job.request).collect();
            let counts: Vec<u32> = jobs.iter().map(|job| self.rows_of(job)).collect();
            let sharing = self.sharing.as_deref();
            let ran = run_together(&mut session, slot, &allocator, &requests, &counts, sharing);
            let took = started.elapsed();
            let rows = counts.iter().sum::<u32>().max(1);
            for (((ticket, job), ran), count) in tickets.into_iter().zip(jobs).zip(ran).zip(counts)
            {
                outcomes.push(match &ran {
                    Ok(_) => Outcome::Served(took / rows),
                    // Stopped, most likely; nobody asks any more.
                    Err(_) if job.answer.is_closed() => Outcome::Stopped(took / rows),
                    Err(_) => Outcome::Failed,
                });
                let service = took * count / rows;
                let queue = job.submitted.elapsed().saturating_sub(service);
                let reply = ran.map(|outputs| Response { outputs, queue, service });
                replies.push((ticket, (job.answer, reply)));
            }
            // Before the answers: who has one may submit again and must not find a stopped slot.
            if let Err(error) = slot.end() {
                tracing::warn!(%error, "run options could not be reset");
            }
            let is_run = outcomes.iter().any(|outcome| *outcome != Outcome::Dropped);
            self.queue.finish(&outcomes, is_run.then_some(Run { bytes, took }));
            self.answer(runtime, replies);
        }
    }

    /// A job waits no more. False if it does not wait: it runs, or is done.
    fn leave(&self, ticket: Ticket) -> bool {
        let left = self.queue.remove(ticket).is_some();
        if let (true, Some(turns)) = (left, &self.turns) {
            answer_all(None, turns.done([(ticket.number(), None)]));
        }
        left
    }

    /// Answers jobs that are done, each when it is its turn.
    fn answer(&self, runtime: Option<&Handle>, replies: Vec<(Ticket, Reply)>) {
        let replies = match &self.turns {
            None => replies.into_iter().map(|(_, reply)| reply).collect(),
            Some(turns) => {
                let done = replies.into_iter();
                turns.done(done.map(|(ticket, reply)| (ticket.number(), Some(reply))))
            }
        };
        answer_all(runtime, replies);
    }

    fn rows_of(&self, job: &Job) -> u32 {
        let inputs = job.request.inputs.iter();
        job.rows.unwrap_or_else(|| {
            self.signature.rows_of(inputs.map(|input| (&*input.name, &*input.shape)))
        })
    }
}

type Reply = (oneshot::Sender<Result<Response, EngineError>>, Result<Response, EngineError>);

/// Several answers are told from the callers' own runtime, which so is woken once for all of them.
fn answer_all(runtime: Option<&Handle>, replies: Vec<Reply>) {
    let are_several = replies.len() > 1;
    // A caller who has left needs no answer.
    let tell = move || replies.into_iter().for_each(|(answer, reply)| drop(answer.send(reply)));
    match runtime {
        Some(runtime) if are_several => drop(runtime.spawn(async move { tell() })),
        _ => tell(),
    }
}
