//! The way to the log. Receipts wait in a bounded queue; whoever comes first keeps all that wait with
//! one write, and tells the others. What waits for the disk or reads it is done by the one thread that
//! owns the log. A full queue, a full disk and a broken log are refusals that the caller sees before
//! and after.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hansa_core::id::{Digest, JobId};
use hansa_core::log::proof::ReceiptProof;
use hansa_core::time::Utc;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::entry::Entry;
use super::error::{LogError, State};
use super::front::Front;
use super::journal;
use super::log::Log;
use super::waiting::{Refused, Taken, Waiting};
use crate::limits::{
    AUDIT_BATCH_BYTES_MAX, AUDIT_CHECKPOINT_EVERY, AUDIT_PASSES_MAX, AUDIT_QUEUE_MAX,
};

/// How the log does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether receipts can be kept.
    #[serde(flatten)]
    pub state: State,
    /// Receipts kept, deleted ones too.
    pub kept: u64,
    /// How many of them the newest checkpoint covers.
    pub signed: u64,
    /// Receipts that could not be kept since the log was opened.
    pub lost: u64,
}

/// Where a receipt is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its place in the log.
    pub index: u64,
    /// Its leaf.
    pub leaf: Digest,
}

/// Why a receipt is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// Too many wait.
    #[error("{AUDIT_QUEUE_MAX} receipts wait to be kept; no more are taken")]
    QueueFull,
    /// The log does not take it.
    #[error("{0}")]
    Log(String),
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// What comes of a receipt that was handed over.
pub type Keeping = oneshot::Receiver<Result<Kept, KeepError>>;

/// Who is told what came of a receipt.
type Asker = oneshot::Sender<Result<Kept, KeepError>>;

enum Ask {
    Keep(Entry, Asker),
    Do(Box<dyn FnOnce(&mut Log) + Send>),
}

/// The way to the log. It closes when the last of its clones is dropped.
#[derive(Clone)]
pub struct Writer(Arc<Open>);

/// What the queue is closed with.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.waiting.close();
    }
}

/// What those who keep receipts and the thread have in common.
struct Shared {
    waiting: Waiting<Ask>,
    front: Arc<Mutex<Front>>,
    status: ArcSwap<Status>,
}

/// What came of receipts that follow each other, and who is to be told.
struct Told {
    askers: Vec<(Asker, Digest)>,
    appended: Result<u64, String>,
}

impl Writer {
    /// Starts the thread. `checkpoint_every` is [`AUDIT_CHECKPOINT_EVERY`], or zero for a checkpoint
    /// over each batch. The handle ends when all writers are dropped and the log is closed.
    pub fn start(
        log: Log,
        checkpoint_every: Duration,
    ) -> std::io::Result<(Self, JoinHandle<Result<(), LogError>>)> {
        let front = log.shared_front();
        let status = ArcSwap::from_pointee(log.front().status());
        let waiting = Waiting::new(AUDIT_QUEUE_MAX);
        let shared = Arc::new(Shared { waiting, front, status });
        let every = checkpoint_every.min(AUDIT_CHECKPOINT_EVERY);
        let runtime = Handle::try_current().ok();
        let thread = Thread { log, shared: Arc::clone(&shared), runtime, every, next: None };
        let builder = std::thread::Builder::new().name("audit".into());
        let thread = builder.spawn(move || thread.run())?;
        Ok((Self(Arc::new(Open(shared))), thread))
    }

    /// Hands a receipt over. What comes back is told when it is kept; whoever does not wait drops it.
    pub fn keep(&self, entry: Entry) -> Result<Keeping, KeepError> {
        let keeping = self.put(entry)?;
        self.keep_what_waits();
        Ok(keeping)
    }

    /// The same, but it only waits, for [`Writer::keep_what_waits`].
    pub fn put(&self, entry: Entry) -> Result<Keeping, KeepError> {
        let (kept, keeping) = oneshot::channel();
        self.send(Ask::Keep(entry, kept))?;
        Ok(keeping)
    }

    /// Keeps what was put, by this writer and by others.
    pub fn keep_what_waits(&self) {
        self.0.0.keep_what_waits();
    }

    /// The proof of the newest receipt of `job`, once a checkpoint covers it.
    pub async fn proof(&self, job: JobId) -> Result<ReceiptProof, KeepError> {
        self.ask(move |log| log.proof_of(job)).await
    }

    /// Gives the log a charter of its node, before the first receipt that names it.
    pub async fn add_charter(&self, note: String) -> Result<Digest, KeepError> {
        self.ask(move |log| log.add_charter(&note)).await
    }

    /// Deletes what is old: see [`Log::delete`].
    pub async fn delete(&self, receipts: Utc, salts: Utc) -> Result<u64, KeepError> {
        self.ask(move |log| log.delete(receipts, salts)).await
    }

    /// Has the owner of the log do something else with it.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let (done, answer) = oneshot::channel();
        self.send(Ask::Do(Box::new(move |log| drop(done.send(work(log))))))?;
        self.0.0.waiting.call();
        let answer = answer.await.map_err(|_| KeepError::Closed)?;
        answer.map_err(|error| KeepError::Log(error.to_string()))
    }

    /// How the log does. A job whose policy wants it fails closed unless this is writable.
    pub fn status(&self) -> Arc<Status> {
        self.0.0.status.load_full()
    }

    fn send(&self, ask: Ask) -> Result<(), KeepError> {
        self.0.0.waiting.put(ask).map_err(|refused| match refused {
            Refused::Full => KeepError::QueueFull,
            Refused::Closed => KeepError::Closed,
        })
    }
}

impl Shared {
    /// Keeps all that waits and need not wait for the disk. Whoever is at it already looks again before
    /// it leaves.
    fn keep_what_waits(&self) {
        for _ in 0..AUDIT_PASSES_MAX {
            if self.waiting.is_empty() {
                return;
            }
            let Ok(mut front) = self.front.try_lock() else { return };
            let quick = |ask: &Ask| match ask {
                Ask::Keep(entry, _) if !entry.is_durable => Some(journal::cost(entry)),
                Ask::Keep(..) | Ask::Do(_) => None,
            };
            let most = if front.is_full() { 0 } else { AUDIT_BATCH_BYTES_MAX };
            let asks = self.waiting.take_some(most, quick);
            if asks.is_empty() {
                break;
            }
            let was_pending = front.is_pending();
            let told = front.keep(asks);
            self.status.store(Arc::new(front.status()));
            drop(front);
            if !was_pending {
                self.waiting.call(); // A checkpoint is due, or another try.
            }
            told.tell();
        }
        // The rest is the thread's.
        self.waiting.call();
    }
}

impl Front {
    /// Keeps receipts together.
    fn keep(&mut self, asks: Vec<Ask>) -> Told {
        let (mut entries, mut askers) = (Vec::new(), Vec::new());
        for ask in asks {
            if let Ask::Keep(entry, asker) = ask {
                askers.push((asker, entry.leaf));
                entries.push(entry);
            }
        }
        let appended = self.append(entries).map_err(|error| error.to_string());
        if let Err(error) = &appended {
            self.lost += askers.len() as u64;
            tracing::error!(receipts = askers.len(), %error, "receipts are lost");
        }
        Told { askers, appended }
    }
}

impl Told {
    fn tell(self) {
        for (at, (asker, leaf)) in (0..).zip(self.askers) {
            let outcome = match &self.appended {
                Ok(first) => Ok(Kept { index: first + at, leaf }),
                Err(error) => Err(KeepError::Log(error.clone())),
            };
            // Whoever does not wait for it dropped the other end.
            let _ = asker.send(outcome);
        }
    }
}

struct Thread {
    log: Log,
    shared: Arc<Shared>,
    /// Where those who wait for their receipts run.
    runtime: Option<Handle>,
    every: Duration,
    /// When the next checkpoint is due, if something waits for one or has to be tried again.
    next: Option<Instant>,
}

impl Thread {
    fn run(mut self) -> Result<(), LogError> {
        loop {
            match self.shared.waiting.take(self.next) {
                Taken::Items(asks) => self.take(asks),
                Taken::Closed => break,
            }
            if self.next.is_some_and(|at| at <= Instant::now()) {
                self.tick();
            }
            self.arm();
            self.publish();
            // What came while this held the front.
            self.shared.keep_what_waits();
        }
        self.log.close()
    }

    /// Looks again later, if there is what for.
    fn arm(&mut self) {
        let (is_pending, is_well) = {
            let front = self.log.front();
            (front.is_pending(), front.state == State::Writable)
        };
        if self.next.is_none() && is_pending {
            // What the disk did not take is not tried again without a pause.
            let pause = if is_well { self.every } else { AUDIT_CHECKPOINT_EVERY };
            self.next = Some(Instant::now() + pause);
        }
    }

    fn publish(&self) {
        self.shared.status.store(Arc::new(self.log.front().status()));
    }

    /// Does what is asked in its order, receipts that follow each other together as far as they fit.
    fn take(&mut self, asks: VecDeque<Ask>) {
        let (mut receipts, mut bytes) = (Vec::new(), 0);
        for ask in asks {
            match ask {
                Ask::Keep(ref entry, _) => {
                    bytes += journal::cost(entry);
                    receipts.push(ask);
                    if bytes >= AUDIT_BATCH_BYTES_MAX {
                        bytes = 0;
                        self.keep(std::mem::take(&mut receipts));
                    }
                }
                Ask::Do(work) => {
                    bytes = 0;
                    self.keep(std::mem::take(&mut receipts));
                    self.log.absorb();
                    // Who came just then does not wait for the work.
                    self.shared.keep_what_waits();
                    work(&mut self.log);
                }
            }
        }
        self.keep(receipts);
    }

    fn keep(&mut self, asks: Vec<Ask>) {
        if asks.is_empty() {
            return;
        }
        self.log.make_room();
        let told = self.log.front().keep(asks);
        // Before anybody is told, so that whoever is refused sees the reason in the status too.
        self.publish();
        // From there, the runtime is woken once for all of them.
        match &self.runtime {
            Some(runtime) if told.askers.len() > 1 => {
                drop(runtime.spawn(async move { told.tell() }));
            }
            _ => told.tell(),
        }
    }

    fn tick(&mut self) {
        self.next = None;
        if self.log.gather() {
            // Who came just then does not wait for the disk.
            self.shared.keep_what_waits();
            if let Err(error) = self.log.settle() {
                tracing::error!(%error, "the audit log has no new checkpoint");
            }
        }
        if self.log.probe() != State::Writable || self.log.signed_size() < self.log.tree_size() {
            self.next = Some(Instant::now() + AUDIT_CHECKPOINT_EVERY);
        }
    }
}
