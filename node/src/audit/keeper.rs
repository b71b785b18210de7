//! The audit log as the running node has it: opened at its start, closed at its end, with the
//! operator's word on how strict it is. What a receipt says is [`crate::jobs`]' to know.

use std::path::PathBuf;
use std::sync::{Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use hansa_core::id::JobId;
use hansa_core::log::proof::ReceiptProof;
use hansa_core::receipt::{Receipt, Salt};
use hansa_core::time::Utc;
use tokio::sync::Semaphore;

use super::entry::Entry;
use super::error::{LogError, State};
use super::log::Log;
use super::reader::Reader;
use super::totals::{Filter, Totals};
use super::usage::Usage;
use super::writer::{KeepError, Keeping, Status, Writer};
use crate::config::{AuditConfig, Receipts};
use crate::limits::{AUDIT_CHECKPOINT_EVERY, AUDIT_RETAIN_EVERY};

/// A node's log.
pub struct Keeper {
    /// None once it is closed.
    writer: RwLock<Option<Writer>>,
    thread: Mutex<Option<JoinHandle<Result<(), LogError>>>>,
    reader: Reader,
    is_strict: bool,
    is_durable: bool,
    retention: Option<Duration>,
    usage: Usage,
    /// One who reads all of it at a time.
    reading: Semaphore,
}

impl Keeper {
    /// Opens the log of the peer whose key follows from `seed` and whose charter is `note`.
    ///
    /// # Errors
    /// Another process writes it, the disk does not, or it is damaged.
    pub fn open(config: &AuditConfig, seed: &[u8; 32], note: &str) -> Result<Self, LogError> {
        let mut log = Log::open(&config.dir, seed)?;
        log.add_charter(note)?;
        if log.repaired() > 0 {
            let bytes = log.repaired();
            tracing::warn!(bytes, "a batch of receipts that nobody was told of was cut off");
        }
        let reader = log.reader().clone();
        let every = match config.receipts {
            Receipts::Each => Duration::ZERO,
            Receipts::Off | Receipts::Batched => AUDIT_CHECKPOINT_EVERY,
        };
        let fault = |source| LogError::File { path: config.dir.clone(), source };
        let (writer, thread) = Writer::start(log, every).map_err(fault)?;
        Ok(Self {
            writer: RwLock::new(Some(writer)),
            thread: Mutex::new(Some(thread)),
            reader,
            is_strict: config.fail_closed,
            is_durable: config.fail_closed || config.receipts == Receipts::Each,
            retention: config.retention(),
            usage: Usage::default(),
            reading: Semaphore::new(1),
        })
    }

    /// Does something with the writer, unless the log is closed.
    fn through<T>(&self, work: impl FnOnce(&Writer) -> T) -> Result<T, KeepError> {
        self.writer.read().expect("no holder panics").as_ref().map(work).ok_or(KeepError::Closed)
    }

    /// Whether the operator wants no job to run that leaves no receipt.
    pub fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// How the log does; none once it is closed.
    pub fn status(&self) -> Option<Status> {
        self.through(Writer::status).ok()
    }

    /// Why no receipt can be kept at this moment, if so.
    pub fn fault(&self) -> Option<String> {
        match self.status() {
            None => Some(KeepError::Closed.to_string()),
            Some(status) if status.state == State::Writable => None,
            Some(status) => Some(status.state.to_string()),
        }
    }

    /// Hands a receipt over; what comes back tells when it is kept: so that the end of the process
    /// does not lose it, and, if the entry or the operator says so, nor a loss of power.
    ///
    /// # Errors
    /// Too many wait, or the log is closed.
    pub fn keep(&self, entry: Entry) -> Result<Keeping, KeepError> {
        let entry = if self.is_durable { entry.durable() } else { entry };
        self.through(|writer| writer.keep(entry))?
    }

    /// Counts a receipt that is handed over.
    pub fn count(&self, receipt: &Receipt) {
        self.usage.count(receipt);
    }

    /// The proof of the newest receipt of `job`; none if it is not among those kept here. A
    /// checkpoint that does not cover it yet is made at once.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub async fn proof(&self, job: JobId) -> Result<Option<ReceiptProof>, KeepError> {
        self.with(job, |log, index| log.prove(index)).await
    }

    /// What opens the commitments of the newest receipt of `job`; none of it, once it was erased.
    ///
    /// # Errors
    /// As [`Self::proof`].
    pub async fn salt(&self, job: JobId) -> Result<Option<Option<Salt>>, KeepError> {
        self.with(job, |log, index| log.salt(index)).await
    }

    /// Erases that, for good.
    ///
    /// # Errors
    /// As [`Self::proof`].
    pub async fn erase(&self, job: JobId) -> Result<Option<()>, KeepError> {
        self.with(job, |log, index| log.erase(index)).await
    }

    /// Has the owner of the log do something with the newest receipt of `job`, if it is kept here.
    async fn with<T: Send + 'static>(
        &self,
        job: JobId,
        work: impl FnOnce(&mut Log, u64) -> Result<T, LogError> + Send + 'static,
    ) -> Result<Option<T>, KeepError> {
        let recent = self.ask(move |log| Ok(log.find(job))).await?;
        let find = move |reader: &Reader| {
            let mut found = None;
            reader.receipts(|index, receipt| {
                if receipt.job == job {
                    found = Some(index);
                }
                true
            })?;
            Ok(found)
        };
        let index = match recent {
            None => self.read(find).await?,
            known => known,
        };
        let Some(index) = index else { return Ok(None) };
        self.ask(move |log| work(log, index)).await.map(Some)
    }

    /// What the receipts that `filter` means add up to.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn totals(&self, filter: Filter) -> Result<Totals, KeepError> {
        let count = move |reader: &Reader| {
            let mut totals = Totals::default();
            reader.receipts(|_, receipt| {
                totals.count(&filter, &receipt);
                true
            })?;
            Ok(totals)
        };
        self.read(count).await
    }

    /// Reads the whole log beside the threads that carry the network; one at a time.
    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Reader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let _turn = self.reading.acquire().await.expect("it is never closed");
        let reader = self.reader.clone();
        // The newest files may change in between.
        let reading = tokio::task::spawn_blocking(move || work(&reader).or_else(|_| work(&reader)));
        let read = reading.await.map_err(|_| KeepError::Closed)?;
        read.map_err(|error| KeepError::Log(error.to_string()))
    }

    /// Where the log is.
    pub fn dir(&self) -> PathBuf {
        self.reader.dir().to_owned()
    }

    /// Has the owner of the log do something with it.
    ///
    /// # Errors
    /// As `work`'s, or the log is closed.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let writer = self.through(Writer::clone)?;
        writer.ask(work).await
    }

    /// Deletes what is older than the operator keeps, now and then, for as long as it is polled.
    pub async fn retain(&self, now: impl Fn() -> Utc) {
        let Some(retention) = self.retention else { return };
        loop {
            let age = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
            let before = Utc(now().0.saturating_sub(age));
            match self.ask(move |log| log.delete(before, before)).await {
                Ok(deleted) => tracing::debug!(deleted, "old receipts"),
                Err(error) => tracing::warn!(%error, "old receipts cannot be deleted"),
            }
            tokio::time::sleep(AUDIT_RETAIN_EVERY).await;
        }
    }

    /// Signs what is there and lets go. Blocks until that is done.
    pub fn close(&self) {
        drop(self.writer.write().expect("no holder panics").take());
        let thread = self.thread.lock().expect("no holder panics").take();
        match thread.map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => tracing::error!(%error, "the audit log's last checkpoint"),
            Some(Err(_)) => tracing::error!("the audit log's thread had panicked"),
        }
    }
}
