//! A loaded bundle that takes jobs: instances, each one thread that owns one session, behind one
//! bounded queue. Inputs are checked before anything is queued; every job is answered, or its
//! caller has left. Batching, and which engine a job goes to, are decided elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ort::memory::Allocator;
use ort::session::Session;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep_until};

use crate::bundle::{Bundle, BundleDigest};
use crate::check::{Head, InputLimits, check_elements};
use crate::devices::Device;
use crate::instance::{Slot, fault, find_rows, guarded, warm_up};
use crate::limits::{INSTANCES_MAX, QUEUE_DEFAULT, QUEUE_MAX, THREADS_MAX};
use crate::queue::{Load, Outcome, Queue, Refused};
use crate::runtime::Runtime;
use crate::session::{LoadError, Model};
use crate::tensor::{InputError, Signature, Tensor};

/// How a bundle is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Jobs that run at once, each on a session of its own.
    pub instances: usize,
    /// Threads inside one instance; by default the cores divided among the instances.
    pub threads: Option<usize>,
    /// Jobs that wait, beyond those that run.
    pub queue: usize,
    /// How large a request may be.
    pub limits: InputLimits,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let limits = InputLimits::default();
        Self { instances: 1, threads: None, queue: QUEUE_DEFAULT, limits }
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
}

/// What a job gave.
#[derive(Clone, Debug)]
pub struct Response {
    /// The outputs.
    pub outputs: Vec<Tensor>,
    /// How long it waited.
    pub queue: Duration,
    /// How long it ran, conversions included.
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
    limits: InputLimits,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("load", &self.queue.load()).finish_non_exhaustive()
    }
}

struct Job {
    request: Request,
    submitted: Instant,
    answer: oneshot::Sender<Result<Response, EngineError>>,
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
            ("queue", config.queue, 0, QUEUE_MAX),
        ] {
            if !(least..=limit).contains(&value) {
                return Err(LoadError::Config { what, value, limit });
            }
        }
        let model = Model::read(bundle)?;
        let mut sessions = Vec::with_capacity(instances);
        for _ in 0..instances {
            sessions.push(model.session(runtime, device, threads)?);
        }
        let mut signature = model.signature(&sessions[0])?;
        drop(model);
        let failed = |error: ort::Error| LoadError::Device {
            device: device.to_string(),
            said: error.to_string(),
        };
        let slots =
            (0..instances).map(|_| Slot::new()).collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let queue = Queue::new(config.queue, instances);
        if let Some(service) = warm_up(&mut sessions[0], &slots[0], &signature) {
            queue.seed(service);
        }
        signature.rows = find_rows(&mut sessions[0], &slots[0], &signature);
        let shared = Arc::new(Shared { queue, slots, signature, limits: config.limits });
        let mut engine =
            Self { shared, threads: Vec::new(), device: device.clone(), digest: bundle.digest };
        for (index, session) in sessions.into_iter().enumerate() {
            let shared = Arc::clone(&engine.shared);
            let thread = thread::Builder::new().name(format!("hansa-engine-{index}"));
            let thread = thread.spawn(move || shared.serve(index, session));
            engine.threads.push(thread.map_err(LoadError::Thread)?);
        }
        Ok(engine)
    }

    /// Takes a job, or says at once why not. Drop what is returned to take the job back: if it
    /// waits it does not run, if it runs it is stopped at the next node of the graph.
    pub fn submit(&self, request: Request) -> Result<Pending, SubmitError> {
        let shared = &self.shared;
        let heads = request.inputs.iter().map(Head::from);
        shared.signature.check(heads, &request.outputs, &shared.limits)?;
        request.inputs.iter().try_for_each(check_elements)?;
        let deadline = request.deadline;
        let (answer, response) = oneshot::channel();
        let job = Job { request, submitted: Instant::now(), answer };
        let id = shared.queue.push(job).map_err(|refused| match refused {
            Refused::Full { queued } => SubmitError::Full { queued },
            Refused::Closed => SubmitError::Closed,
        })?;
        Ok(Pending { shared: Arc::clone(shared), id, response, deadline, timer: None })
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
        for job in self.shared.queue.close() {
            // A caller who has left needs no answer; so everywhere below.
            let _ = job.answer.send(Err(EngineError::Closed));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// A job that was taken; a future of its answer. Needs a tokio runtime with time if the job has a
/// deadline.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
    id: u64,
    response: oneshot::Receiver<Result<Response, EngineError>>,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Pending {
    type Output = Result<Response, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.response).poll(context) {
            // Only a thread that is gone drops a job unanswered.
            return Poll::Ready(answer.unwrap_or(Err(EngineError::Closed)));
        }
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        match timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.cancel();
                Poll::Ready(Err(EngineError::DeadlinePassed))
            }
        }
    }
}

impl Pending {
    /// Closed first, searched second: an instance that takes the job between the two finds it
    /// closed, one that took it before is found.
    fn cancel(&mut self) {
        self.response.close();
        if self.shared.queue.remove(self.id).is_none() {
            self.shared.slots.iter().for_each(|slot| slot.stop(self.id));
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
    fn serve(&self, index: usize, mut session: Session) {
        let allocator = Allocator::default();
        let slot = &self.slots[index];
        while let Some((id, job)) = self.queue.next() {
            let Job { request, submitted, answer } = job;
            let started = Instant::now();
            let mut reply = None;
            let begun = slot.set(Some(id));
            let outcome = if answer.is_closed() {
                Outcome::Dropped
            } else if request.deadline.is_some_and(|deadline| deadline <= started) {
                reply = Some(Err(EngineError::DeadlinePassed));
                Outcome::Dropped
            } else {
                let ran = begun
                    .map_err(|error| fault(&error))
                    .and_then(|()| guarded(&mut session, slot, &allocator, &request));
                let service = started.elapsed();
                let shapes = request.inputs.iter().map(|input| (&*input.name, &*input.shape));
                let of_row = service / self.signature.rows_of(shapes);
                let outcome = match ran {
                    Ok(_) => Outcome::Served(of_row),
                    // Stopped, most likely; nobody asks any more.
                    Err(_) if answer.is_closed() => Outcome::Stopped(of_row),
                    Err(_) => Outcome::Failed,
                };
                let queue = started.duration_since(submitted);
                reply = Some(ran.map(|outputs| Response { outputs, queue, service }));
                outcome
            };
            // Before the answer: who has it may submit again and must not find a stopped slot.
            if let Err(error) = slot.set(None) {
                tracing::warn!(%error, "run options could not be reset");
            }
            self.queue.finish(outcome);
            if let Some(reply) = reply {
                let _ = answer.send(reply);
            }
        }
    }
}
