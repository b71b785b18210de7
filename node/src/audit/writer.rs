//! The way to the log. Whoever has a receipt writes it to the front itself; what waits for the disk or
//! reads it goes through a bounded queue to the one thread that owns the log. A full queue, a full disk
//! and a broken log are refusals that the caller sees before and after.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Too much waits for the log's thread.
    #[error("{AUDIT_QUEUE_MAX} receipts and questions wait for the log; no more are taken")]
    QueueFull,
    /// The log does not take it.
    #[error("{0}")]
    Log(String),
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// What comes of a receipt that was handed over.
pub struct Keeping(Outcome);

enum Outcome {
    Known(Result<Kept, KeepError>),
    Asked(oneshot::Receiver<Result<Kept, KeepError>>),
}

impl Keeping {
    /// Whether it is known not to be.
    pub fn has_failed(&self) -> bool {
        matches!(self.0, Outcome::Known(Err(_)))
    }

    /// Where it is kept, once it is.
    pub async fn kept(self) -> Result<Kept, KeepError> {
        match self.0 {
            Outcome::Known(kept) => kept,
            Outcome::Asked(kept) => kept.await.map_err(|_| KeepError::Closed)?,
        }
    }
}

/// Who is told what came of a receipt.
type Asker = oneshot::Sender<Result<Kept, KeepError>>;

enum Ask {
    Keep(Entry, Asker),
    Do(Box<dyn FnOnce(&mut Log) + Send>),
    /// The front holds what it did not: a checkpoint is due, or another try.
    Look,
}

/// The way to the log. It closes when the last of its clones is dropped.
#[derive(Clone)]
pub struct Writer {
    asks: SyncSender<Ask>,
    front: Arc<Mutex<Front>>,
}

impl Writer {
    /// Starts the thread. `checkpoint_every` is [`AUDIT_CHECKPOINT_EVERY`], or zero for a checkpoint
    /// over each batch. The handle ends when all writers are dropped and the log is closed.
    pub fn start(
        log: Log,
        checkpoint_every: Duration,
    ) -> std::io::Result<(Self, JoinHandle<Result<(), LogError>>)> {
        let (asks, asked) = sync_channel(AUDIT_QUEUE_MAX);
        let front = log.shared_front();
        let every = checkpoint_every.min(AUDIT_CHECKPOINT_EVERY);
        let runtime = Handle::try_current().ok();
        let thread = Thread { log, asked, runtime, every, next: None };
        let builder = std::thread::Builder::new().name("audit".into());
        let thread = builder.spawn(move || thread.run())?;
        Ok((Self { asks, front }, thread))
    }

    /// Keeps a receipt; one that is durable is handed over, and kept when what comes back says so.
    pub fn keep(&self, entry: Entry) -> Result<Keeping, KeepError> {
        let mut front = self.front();
        if entry.is_durable || front.is_full() {
            drop(front);
            let (asker, kept) = oneshot::channel();
            self.send(Ask::Keep(entry, asker))?;
            return Ok(Keeping(Outcome::Asked(kept)));
        }
        let was_pending = front.is_pending();
        let leaf = entry.leaf;
        let kept = front.append(&[entry]).inspect_err(|error| front.lose(1, error));
        drop(front);
        if !was_pending {
            // A full queue is one that the thread is at.
            let _ = self.send(Ask::Look);
        }
        Ok(Keeping(Outcome::Known(kept.map(|index| Kept { index, leaf }).map_err(log_error))))
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
        let answer = answer.await.map_err(|_| KeepError::Closed)?;
        answer.map_err(log_error)
    }

    /// How the log does. A job whose policy wants it fails closed unless this is writable.
    pub fn status(&self) -> Status {
        self.front().status()
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().expect("no holder panics")
    }

    fn send(&self, ask: Ask) -> Result<(), KeepError> {
        self.asks.try_send(ask).map_err(|refused| match refused {
            TrySendError::Full(_) => KeepError::QueueFull,
            TrySendError::Disconnected(_) => KeepError::Closed,
        })
    }
}

fn log_error(error: LogError) -> KeepError {
    KeepError::Log(error.to_string())
}

struct Thread {
    log: Log,
    asked: Receiver<Ask>,
    /// Where those who wait for their receipts run.
    runtime: Option<Handle>,
    every: Duration,
    /// When the next checkpoint is due, if something waits for one or has to be tried again.
    next: Option<Instant>,
}

impl Thread {
    fn run(mut self) -> Result<(), LogError> {
        loop {
            match self.wait() {
                Ok(ask) => self.take(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.next.is_some_and(|at| at <= Instant::now()) {
                self.tick();
            }
            self.arm();
        }
        self.log.close()
    }

    fn wait(&self) -> Result<Ask, RecvTimeoutError> {
        match self.next {
            Some(at) => self.asked.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
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

    /// Does what is asked, receipts that wait together as far as they fit.
    fn take(&mut self, ask: Ask) {
        let (mut entries, mut askers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(ask);
        while let Some(Ask::Keep(entry, asker)) = next {
            bytes += journal::cost(&entry);
            askers.push((asker, entry.leaf));
            entries.push(entry);
            next = (bytes < AUDIT_BATCH_BYTES_MAX).then(|| self.asked.try_recv().ok()).flatten();
        }
        if !entries.is_empty() {
            self.keep(entries, askers);
        }
        if let Some(Ask::Do(work)) = next {
            self.log.absorb();
            work(&mut self.log);
        }
    }

    fn keep(&mut self, entries: Vec<Entry>, askers: Vec<(Asker, Digest)>) {
        let kept = self.log.keep(&entries).map_err(log_error);
        let is_one = askers.len() == 1;
        let tell = move || {
            for (at, (asker, leaf)) in (0..).zip(askers) {
                let kept = kept.clone().map(|first| Kept { index: first + at, leaf });
                // Whoever does not wait for it dropped the other end.
                let _ = asker.send(kept);
            }
        };
        // From there, the runtime is woken once for all of them.
        match &self.runtime {
            Some(runtime) if !is_one => drop(runtime.spawn(async move { tell() })),
            _ => tell(),
        }
    }

    fn tick(&mut self) {
        self.next = None;
        let signed = self.log.checkpoint().map(drop);
        if let Err(error) = &signed {
            tracing::error!(%error, "the audit log has no new checkpoint");
        }
        let is_well = self.log.probe() == State::Writable;
        if signed.is_err() || !is_well || self.log.signed_size() < self.log.tree_size() {
            self.next = Some(Instant::now() + AUDIT_CHECKPOINT_EVERY);
        }
    }
}
