//! A bundle from all permitted holders at once.
//!
//! Spans of chunks wait in one queue ([`super::work`]) and each holder has a few asks in flight, so
//! the fast do more. What a holder did not deliver goes back to the queue. Who sends a wrong chunk is not asked
//! again; who is lost may come back a few times; who holds the bundle since is asked, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hansa_core::id::{Digest, PeerId};
use hansa_core::limits::CHUNKS_ASKED_MAX;
use hansa_core::plan::{Job, Refusal, keepers};
use hansa_core::policy::{Law, Policy};
use hansa_core::wire::Ask;
use hansa_runtime::bundle::{Bundle, Entry, Manifest};
use hansa_runtime::limits::{CHUNK_BYTES, MANIFEST_BYTES_MAX};
use hansa_runtime::manifest::Span;
use hansa_runtime::store::StoreError;
use tokio::time::timeout;

use super::work::Work;
use super::{Progress, aside, key};
use crate::jobs::AskError;
use crate::limits::*;
use crate::node::Node;

/// Why a bundle did not come.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Nobody holds it, or nobody that may be asked.
    #[error("nobody can be asked for the bundle: {0}")]
    Refused(Refusal),
    /// All that could be asked failed.
    #[error("no holder is left, {left} bytes are missing ({last}); pull again to go on from here")]
    NoHolder {
        /// Bytes that are missing; 0 while nobody has told the size.
        left: u64,
        /// What the last one said or did.
        last: String,
    },
    /// It would not fit this node's devices.
    #[error("{0}")]
    NoRoom(String),
    /// This node's own disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a holder is asked no more, for now or for good.
enum Left {
    /// Nothing is missing.
    Done,
    /// It cannot be reached, or stalls.
    Lost(String),
    /// It has no place now.
    Busy(String),
    /// It will not.
    Unwilling(String),
    /// It sent what is not the bundle.
    Lied(String),
    /// Not its fault.
    Disk(StoreError),
}

/// Fetches `bundle` into the store. What an earlier pull left there is not fetched again.
pub(super) async fn pull(
    node: &Arc<Node>,
    bundle: Digest,
    progress: &Progress,
) -> Result<Bundle, PullError> {
    let mut puller = Puller::new(node, bundle);
    let manifest = puller.manifest().await?;
    node.has_room(manifest.bytes()).map_err(PullError::NoRoom)?;
    let store = node.shelf.store().clone();
    let partial = Arc::new(aside(move || store.begin(manifest)).await?);
    let total = partial.manifest().bytes();
    progress.begin(total, total - partial.bytes_left());
    let work = Work::new(&partial);
    puller.fetch(&work, progress).await?;
    Ok(aside(move || partial.finish()).await?)
}

/// One pull: whom it asks still.
pub(super) struct Puller<'a> {
    node: &'a Arc<Node>,
    bundle: Digest,
    policy: Law,
    /// How often each holder was lost; [`PULL_LOSSES_MAX`] for those that are not asked again.
    out: BTreeMap<PeerId, u32>,
    last: String,
}

impl<'a> Puller<'a> {
    /// Of a bundle that no job asks for: only this node's own law holds.
    pub(super) fn new(node: &'a Arc<Node>, bundle: Digest) -> Self {
        Self::under(node, bundle, Policy::default())
    }

    /// Of a bundle that a job of this policy needs: who is asked learns that there is one.
    pub(super) fn under(node: &'a Arc<Node>, bundle: Digest, policy: impl Into<Law>) -> Self {
        let policy = policy.into();
        Self { node, bundle, policy, out: BTreeMap::new(), last: String::new() }
    }

    /// The law under which the bundle is asked for.
    fn job(&self) -> Job {
        let node = self.node;
        let deadline = node.clock.now().mono + PULL_ASK_TIMEOUT;
        Job::new(node.draw_job(), self.bundle, self.policy.clone(), &node.send, deadline)
    }

    /// Who may be asked now, nearest first.
    pub(super) fn holders(&self) -> Result<Vec<PeerId>, Refusal> {
        let node = self.node;
        let mut holders = keepers(node.clock.now(), &node.view(), &node.loads(), &self.job())?;
        holders.retain(|holder| self.out.get(holder).is_none_or(|lost| *lost < PULL_LOSSES_MAX));
        let loads = node.loads();
        holders.sort_by_key(|holder| loads.rtt(*holder).unwrap_or(Duration::MAX));
        holders.truncate(PULL_HOLDERS_MAX);
        Ok(holders)
    }

    /// A holder has left: whether and when it is asked again.
    fn leave(&mut self, holder: PeerId, left: Left) -> Result<(), StoreError> {
        let lost = self.out.get(&holder).copied().unwrap_or(0);
        if lost >= PULL_LOSSES_MAX && !matches!(left, Left::Disk(_)) {
            return Ok(()); // One of the asks that were in flight to it.
        }
        let (count, reason) = match left {
            Left::Done => return Ok(()),
            Left::Disk(error) => return Err(error),
            Left::Lost(reason) => {
                self.node.lost(holder, &reason);
                (lost + 1, reason)
            }
            Left::Busy(reason) | Left::Unwilling(reason) => (PULL_LOSSES_MAX, reason),
            Left::Lied(reason) => {
                tracing::warn!(peer = %holder, bundle = %self.bundle, reason, "not asked again");
                metrics::counter!("hansa_bundle_liars_total").increment(1);
                self.node.loads().failed(holder, self.node.clock.now().mono);
                (PULL_LOSSES_MAX, reason)
            }
        };
        self.out.insert(holder, count);
        self.last = format!("{holder}: {reason}");
        Ok(())
    }

    fn nobody(&mut self, left: u64) -> PullError {
        PullError::NoHolder { left, last: std::mem::take(&mut self.last) }
    }

    /// The manifest, of the first that tells the one that the digest names.
    pub(super) async fn manifest(&mut self) -> Result<Manifest, PullError> {
        let mut holders = self.holders().map_err(PullError::Refused)?;
        while let Some(holder) = holders.first().copied() {
            match self.ask_manifest(holder).await {
                Ok(manifest) => return Ok(manifest),
                Err(left) => self.leave(holder, left)?,
            }
            holders = self.holders().unwrap_or_default();
        }
        Err(self.nobody(0))
    }

    async fn ask_manifest(&self, holder: PeerId) -> Result<Manifest, Left> {
        let asking = async {
            let ask = Ask::Manifest { bundle: self.bundle };
            let job = self.job();
            let asked = self.node.ask_bundle(&job, holder, ask, MANIFEST_BYTES_MAX).await;
            let (length, mut body) = asked.map_err(left)?;
            body.read_exact(length).await.map_err(|error| Left::Lost(error.to_string()))
        };
        let bytes = timeout(PULL_ASK_TIMEOUT, asking).await.map_err(|_| late())??;
        let manifest = Manifest::decode(&bytes);
        let manifest =
            manifest.map_err(|error| Left::Lied(format!("its manifest is none: {error}")))?;
        if manifest.digest() != key(self.bundle) {
            return Err(Left::Lied("its manifest is another bundle's".into()));
        }
        Ok(manifest)
    }

    /// One small file of the bundle, whole and in memory, of the first that sends it.
    pub(super) async fn file(
        &mut self,
        manifest: &Manifest,
        name: &str,
    ) -> Result<Vec<u8>, PullError> {
        let number = manifest.files.keys().position(|known| known == name);
        let number = number.expect("a file of this manifest");
        let file = u32::try_from(number).expect("a bundle has few files");
        let entry = &manifest.files[name];
        let chunks = u32::try_from(entry.chunks.len()).expect("a small file");
        let mut bytes = Vec::new();
        let (mut first, mut busy) = (0, 0);
        while first < chunks {
            let count = CHUNKS_ASKED_MAX.min(chunks - first);
            let holder = self.holders().unwrap_or_default().first().copied();
            let left = entry.bytes - bytes.len() as u64;
            let holder = holder.ok_or_else(|| self.nobody(left))?;
            match self.ask_chunks(holder, entry, Span { file, first, count }).await {
                Ok(got) => {
                    bytes.extend_from_slice(&got);
                    first += count;
                }
                Err(Left::Busy(_)) if busy < PULL_BUSY_MAX => {
                    busy += 1;
                    tokio::time::sleep(Duration::from_millis(BUSY_RETRY_MS.into())).await;
                }
                Err(left) => self.leave(holder, left)?,
            }
        }
        Ok(bytes)
    }

    async fn ask_chunks(&self, holder: PeerId, entry: &Entry, span: Span) -> Result<Bytes, Left> {
        let Span { file, first, count } = span;
        let sizes = (first..first + count).map(|chunk| entry.chunk_bytes(chunk));
        let expected: usize = sizes.sum();
        let ask = Ask::Chunks { bundle: self.bundle, file, first, count };
        let job = self.job();
        let asking = self.node.ask_told(&job, holder, ask, expected);
        let asked = timeout(PULL_ASK_TIMEOUT, asking).await.map_err(|_| late())?;
        let bytes = asked.map_err(left)?;
        let mut sent = (first..).zip(bytes.chunks(CHUNK_BYTES));
        if bytes.len() != expected || !sent.all(|(chunk, bytes)| entry.is(chunk, bytes)) {
            return Err(Left::Lied(format!(
                "chunks {first} to {} are not the bundle's",
                first + count
            )));
        }
        Ok(bytes)
    }

    /// Everything that is missing.
    async fn fetch(&mut self, work: &Work<'_>, progress: &Progress) -> Result<(), PullError> {
        let mut asks = FuturesUnordered::new();
        let mut busy: BTreeMap<PeerId, usize> = BTreeMap::new();
        while !work.is_done() {
            // A holder may have come, or come back.
            for holder in self.holders().unwrap_or_default() {
                if busy.contains_key(&holder) || busy.len() >= PULL_HOLDERS_MAX {
                    continue;
                }
                busy.insert(holder, PULL_ASKS_MAX);
                work.welcome(holder);
                for _ in 0..PULL_ASKS_MAX {
                    let (job, node) = (self.job(), self.node);
                    asks.push(async move {
                        let left = ask_on(node, work, &job, holder, progress).await;
                        // The others that ask it need not find out by themselves…
                        let is_first = work.leave(holder);
                        // …and what is lost together is one loss.
                        let again = !is_first && matches!(left, Left::Lost(_));
                        (holder, if again { Left::Done } else { left })
                    });
                }
            }
            if asks.is_empty() {
                return Err(self.nobody(work.partial().bytes_left()));
            }
            let ended = tokio::select! {
                Some(ended) = asks.next() => ended,
                () = tokio::time::sleep(PULL_LOOK_EVERY) => continue,
            };
            let (holder, left) = ended;
            let still = busy.get_mut(&holder).expect("it was counted");
            *still -= 1;
            if *still == 0 {
                busy.remove(&holder);
            }
            self.leave(holder, left)?;
        }
        Ok(())
    }
}

/// Asks `holder` for one span after the other.
async fn ask_on(
    node: &Arc<Node>,
    work: &Work<'_>,
    job: &Job,
    holder: PeerId,
    progress: &Progress,
) -> Left {
    let mut busy = 0;
    while let Some(span) = work.take(holder).await {
        let mut reached = span.first;
        let asking = ask_span(node, work, job, holder, span, &mut reached, progress);
        let asked = timeout(PULL_ASK_TIMEOUT, asking).await.unwrap_or_else(|_| Err(late()));
        work.ended(span, holder, reached);
        match asked {
            Ok(()) => busy = 0,
            Err(Left::Busy(_)) if busy < PULL_BUSY_MAX => {
                busy += 1;
                tokio::time::sleep(Duration::from_millis(BUSY_RETRY_MS.into())).await;
            }
            Err(left) => return left,
        }
    }
    Left::Done
}

/// One ask, chunk by chunk as they come; `reached` is the first that is not on the disk.
async fn ask_span(
    node: &Arc<Node>,
    work: &Work<'_>,
    job: &Job,
    holder: PeerId,
    span: Span,
    reached: &mut u32,
    progress: &Progress,
) -> Result<(), Left> {
    let Span { file, first, count } = span;
    let (_, entry) = work.partial().manifest().file(file).expect("a span of this manifest");
    let sizes: Vec<usize> = (first..first + count).map(|chunk| entry.chunk_bytes(chunk)).collect();
    let expected: usize = sizes.iter().sum();
    let ask = Ask::Chunks { bundle: job.bundle, file, first, count };
    let deadline = node.clock.now().mono + PULL_ASK_TIMEOUT;
    let job = Job { id: node.draw_job(), deadline, ..job.clone() };
    let (length, mut body) = node.ask_bundle(&job, holder, ask, expected).await.map_err(left)?;
    if length != expected {
        return Err(Left::Lied(format!("it sends {length} bytes of {expected}")));
    }
    for (chunk, bytes) in (first..).zip(sizes) {
        let bytes = body.read_exact(bytes).await;
        let bytes = bytes.map_err(|error| Left::Lost(error.to_string()))?;
        let (partial, length) = (Arc::clone(work.partial()), bytes.len() as u64);
        // Counted where it is written: who asked may be gone by then.
        let write = move || {
            let is_new = partial.write(file, chunk, &bytes)?;
            if is_new {
                metrics::counter!("hansa_bundle_bytes_pulled_total").increment(length);
            }
            Ok(is_new)
        };
        match aside(write).await {
            Ok(true) => progress.took(length),
            Ok(false) => {}
            Err(error @ StoreError::WrongChunk { .. }) => {
                return Err(Left::Lied(error.to_string()));
            }
            Err(error) => return Err(Left::Disk(error)),
        }
        *reached = chunk + 1;
    }
    Ok(())
}

fn left(error: AskError) -> Left {
    match error {
        AskError::Refused(refusal @ Refusal::Busy { .. }) => Left::Busy(refusal.to_string()),
        AskError::Refused(refusal) => Left::Unwilling(refusal.to_string()),
        AskError::Lost(reason) => Left::Lost(reason),
    }
}

fn late() -> Left {
    Left::Lost("it does not answer in time".into())
}
