//! The one thread that owns the log. Receipts wait in a bounded queue; all that wait go to the disk
//! together, and each is acknowledged when they are there. A full queue, a full disk and a broken
//! log are refusals that the caller sees before and after.

use std::collections::VecDeque;
use std::sync::Arc;
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
use super::journal;
use super::log::Log;
use super::waiting::{Refused, Taken, Waiting};
use crate::limits::{AUDIT_BATCH_BYTES_MAX, AUDIT_CHECKPOINT_EVERY, AUDIT_QUEUE_MAX};

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
pub struct Writer {
    asks: Arc<Asks>,
    status: Arc<ArcSwap<Status>>,
}

/// The end of the queue that puts; the queue closes with it.
struct Asks(Arc<Waiting<Ask>>);

impl Drop for Asks {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Writer {
    /// Starts the thread. `checkpoint_every` is [`AUDIT_CHECKPOINT_EVERY`], or zero for a checkpoint
    /// over each batch. The handle ends when all writers are dropped and the log is closed.
    pub fn start(
        log: Log,
        checkpoint_every: Duration,
    ) -> std::io::Result<(Self, JoinHandle<Result<(), LogError>>)> {
        let waiting = Arc::new(Waiting::new(AUDIT_QUEUE_MAX));
        let asks = Arc::new(Asks(waiting.clone()));
        let status = Arc::new(ArcSwap::from_pointee(status(&log, 0)));
        let writer = Self { asks, status: Arc::clone(&status) };
        let every = checkpoint_every.min(AUDIT_CHECKPOINT_EVERY);
        let runtime = Handle::try_current().ok();
        let thread = Thread { log, waiting, runtime, status, every, lost: 0, next: None };
        let builder = std::thread::Builder::new().name("audit".into());
        let thread = builder.spawn(move || thread.run())?;
        Ok((writer, thread))
    }

    /// Hands a receipt over. What comes back is told when it is on the disk; whoever does not wait
    /// drops it.
    pub fn keep(&self, entry: Entry) -> Result<Keeping, KeepError> {
        let keeping = self.put(entry)?;
        self.call();
        Ok(keeping)
    }

    /// The same, and the thread that keeps it is not woken before [`Writer::call`].
    pub fn put(&self, entry: Entry) -> Result<Keeping, KeepError> {
        let (kept, keeping) = oneshot::channel();
        self.send(Ask::Keep(entry, kept))?;
        Ok(keeping)
    }

    /// Has what was put be kept.
    pub fn call(&self) {
        self.asks.0.call();
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
        self.call();
        let answer = answer.await.map_err(|_| KeepError::Closed)?;
        answer.map_err(|error| KeepError::Log(error.to_string()))
    }

    /// How the log does. A job whose policy wants it fails closed unless this is writable.
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    fn send(&self, ask: Ask) -> Result<(), KeepError> {
        self.asks.0.put(ask).map_err(|refused| match refused {
            Refused::Full => KeepError::QueueFull,
            Refused::Closed => KeepError::Closed,
        })
    }
}

struct Thread {
    log: Log,
    waiting: Arc<Waiting<Ask>>,
    /// Where those who wait for their receipts run.
    runtime: Option<Handle>,
    status: Arc<ArcSwap<Status>>,
    every: Duration,
    lost: u64,
    /// When the next checkpoint is due, if something waits for one or has to be tried again.
    next: Option<Instant>,
}

impl Thread {
    fn run(mut self) -> Result<(), LogError> {
        loop {
            match self.waiting.take(self.next) {
                Taken::Items(asks) => self.take(asks),
                Taken::Late => {}
                Taken::Closed => break,
            }
            if self.next.is_some_and(|at| at <= Instant::now()) {
                self.tick();
            }
            self.status.store(Arc::new(status(&self.log, self.lost)));
        }
        self.log.close()
    }

    /// Does what is asked in its order, receipts that follow each other together as far as they fit.
    fn take(&mut self, asks: VecDeque<Ask>) {
        let (mut entries, mut askers, mut bytes) = (Vec::new(), Vec::new(), 0);
        for ask in asks {
            match ask {
                Ask::Keep(entry, asker) => {
                    bytes += journal::cost(&entry);
                    askers.push((asker, entry.leaf));
                    entries.push(entry);
                    if bytes >= AUDIT_BATCH_BYTES_MAX {
                        bytes = 0;
                        self.keep(std::mem::take(&mut entries), std::mem::take(&mut askers));
                    }
                }
                Ask::Do(work) => {
                    bytes = 0;
                    self.keep(std::mem::take(&mut entries), std::mem::take(&mut askers));
                    work(&mut self.log);
                }
            }
        }
        self.keep(entries, askers);
    }

    fn keep(&mut self, entries: Vec<Entry>, askers: Vec<(Asker, Digest)>) {
        if entries.is_empty() {
            return;
        }
        let appended = self.log.append(entries).map_err(|error| error.to_string());
        if let Err(error) = &appended {
            self.lost += askers.len() as u64;
            tracing::error!(receipts = askers.len(), %error, "receipts are lost");
        }
        // Before anybody is told, so that whoever is refused sees the reason in the status too.
        self.status.store(Arc::new(status(&self.log, self.lost)));
        let is_alone = askers.len() == 1;
        let tell = move || {
            for (at, (asker, leaf)) in (0..).zip(askers) {
                let outcome = match &appended {
                    Ok(first) => Ok(Kept { index: first + at, leaf }),
                    Err(error) => Err(KeepError::Log(error.clone())),
                };
                // Whoever does not wait for it dropped the other end.
                let _ = asker.send(outcome);
            }
        };
        // From there, the runtime is woken once for all of them.
        match &self.runtime {
            Some(runtime) if !is_alone => drop(runtime.spawn(async move { tell() })),
            _ => tell(),
        }
        self.next.get_or_insert_with(|| Instant::now() + self.every);
    }

    fn tick(&mut self) {
        self.next = None;
        if let Err(error) = self.log.checkpoint() {
            tracing::error!(%error, "the audit log has no new checkpoint");
        }
        if *self.log.probe() != State::Writable || self.log.signed_size() < self.log.size() {
            self.next = Some(Instant::now() + AUDIT_CHECKPOINT_EVERY);
        }
    }
}

fn status(log: &Log, lost: u64) -> Status {
    Status { state: log.state().clone(), kept: log.size(), signed: log.signed_size(), lost }
}
