//! Cosigning: peers of other operators sign that they have seen this node's log, as the
//! continuation of all that they saw of it before, and this node does the same for them. A log that
//! shows one story here and another there is found out by the first cosigner that sees both.
//!
//! What a cosigner has seen lies in `seen/PEER` (size and root), on the disk before it signs: it
//! forgets nothing when it is killed. Charters of cosigners lie in `cosigners/PEER`, for proofs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hansa_core::codec::{decode, encode};
use hansa_core::gate::may_cosign;
use hansa_core::id::{Digest, PeerId};
use hansa_core::log::checkpoint::Checkpoint;
use hansa_core::log::cosign::{CosignAnswer, CosignFault, cosign, cosignatures, name};
use hansa_core::log::tree::prove_consistency;
use hansa_core::note::SignerKey;
use hansa_core::plan::{Job, Refusal};
use hansa_core::policy::Policy;
use hansa_core::rng::Rng;
use hansa_core::view::{Entry, Liveness};
use hansa_core::wire::Ask;

use super::files::{Unsynced, read_text};
use super::keeper::Keeper;
use crate::jobs::AskError;
use crate::limits::{COSIGN_EVERY, COSIGN_TIMEOUT, COSIGNED_BYTES_MAX, COSIGNERS_ASKED};
use crate::node::Node;

/// A file of what was seen has no more bytes.
const SEEN_BYTES_MAX: u64 = 128;

/// What is asked of a cosigner is about no model.
const NO_BUNDLE: Digest = Digest([0; 32]);

impl Node {
    /// Sees to the log for as long as the node takes jobs: old receipts go, peers cosign.
    pub fn keep_log(self: &Arc<Self>) {
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let Some(audit) = &node.audit else { return };
            let mut draining = node.draining.subscribe();
            tokio::select! {
                () = audit.retain(|| node.clock.now().utc) => {}
                () = node.have_cosigned(audit) => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        });
    }

    async fn have_cosigned(self: &Arc<Self>, audit: &Keeper) {
        let mut done = 0;
        loop {
            tokio::time::sleep(COSIGN_EVERY).await;
            match audit.status() {
                Some(status) if status.signed > done => {}
                _ => continue,
            }
            match self.ask_cosigners(audit).await {
                Ok(size) => done = size,
                Err(reason) => tracing::debug!(reason, "no peer cosigned the log"),
            }
        }
    }

    /// Has a few peers cosign the newest checkpoint; gives its size.
    async fn ask_cosigners(&self, audit: &Keeper) -> Result<u64, String> {
        let text = |error: super::writer::KeepError| error.to_string();
        let newest = audit.ask(|log| Ok(log.note().to_owned())).await.map_err(text)?;
        let (checkpoint, _) = Checkpoint::open(&newest).map_err(|fault| fault.to_string())?;
        let (mut note, mut charters) = (newest.clone(), Vec::new());
        for (peer, charter) in self.cosigners() {
            match self.ask_cosigner(audit, peer, &note, checkpoint.size).await {
                Ok(cosigned) if is_cosigned_by(&cosigned, &checkpoint, peer) => {
                    note = cosigned;
                    charters.extend(charter.map(|charter| (peer, charter)));
                }
                Ok(_) => tracing::warn!(%peer, "its cosignature is not one"),
                Err(reason) => tracing::debug!(%peer, reason, "it does not cosign"),
            }
        }
        if note == newest {
            return Err("nobody of another operator was asked, or nobody would".into());
        }
        audit.ask(move |log| log.add_cosigned(&note, &charters)).await.map_err(text)?;
        metrics::counter!("hansa_checkpoints_cosigned_total").increment(1);
        Ok(checkpoint.size)
    }

    /// A few peers of other operators, drawn anew each time, with their charters where whoever can
    /// verify this node's can verify them.
    fn cosigners(&self) -> Vec<(PeerId, Option<String>)> {
        let (charter, view, now) = (self.law.charter(), self.view(), self.clock.now());
        let Ok(own) = &*charter else {
            return Vec::new();
        };
        let may = |entry: &&Entry| {
            entry.liveness == Liveness::Alive
                && may_cosign(&self.send, own, &entry.record.charter, now.utc)
        };
        let mut others: Vec<&Entry> = view.entries().iter().filter(may).collect();
        let mut rng = Rng::new(self.draw_seed());
        let mut drawn = Vec::new();
        while drawn.len() < COSIGNERS_ASKED && !others.is_empty() {
            let record = &others.swap_remove(rng.below(others.len())).record;
            let alike =
                |charter: &hansa_core::charter::Charter| charter.authorities == own.authorities;
            let is_alike = record.charter.as_ref().is_ok_and(alike);
            let note = record.advert.charter.clone().filter(|_| is_alike);
            drawn.push((record.advert.peer, note));
        }
        drawn
    }

    async fn ask_cosigner(
        &self,
        audit: &Keeper,
        peer: PeerId,
        note: &str,
        size: u64,
    ) -> Result<String, String> {
        // The first time the log is shown from its beginning, which needs no proof.
        let mut from = 0;
        for _ in 0..2 {
            let proof = audit.ask(move |log| prove_consistency(from, size, |node| log.node(node)));
            let proof = proof.await.map_err(|error| error.to_string())?;
            let ask = Ask::Cosign { checkpoint: note.to_owned(), from, proof };
            let deadline = self.clock.now().mono + COSIGN_TIMEOUT;
            let (id, law) = (self.draw_job(), Policy::default());
            let job = Job::new(id, NO_BUNDLE, law, &self.send, deadline);
            let asking = self.ask_told(&job, peer, ask, COSIGNED_BYTES_MAX);
            let told = tokio::time::timeout(COSIGN_TIMEOUT, asking).await;
            let told = told.map_err(|_| "no answer in time".to_owned())?;
            let told = told.map_err(|error| match error {
                AskError::Refused(refusal) => refusal.to_string(),
                AskError::Lost(reason) => reason,
            })?;
            match decode(&told).map_err(|error| error.to_string())? {
                CosignAnswer::Cosigned(note) => return Ok(note),
                CosignAnswer::Seen(seen) if seen <= size => from = seen,
                CosignAnswer::Seen(seen) => {
                    return Err(format!("it has seen {seen} entries of {size}"));
                }
            }
        }
        Err("it does not say what it has seen".into())
    }

    /// Cosigns the log of `from`, if it continues what this node saw of it.
    pub(crate) async fn cosign_for(
        &self,
        from: PeerId,
        checkpoint: String,
        begin: u64,
        proof: Vec<Digest>,
    ) -> Result<Bytes, Refusal> {
        let off = || Refusal::NoReceipt { reason: "this node keeps no log of its own".into() };
        let seen_dir = self.audit.as_ref().ok_or_else(off)?.dir().join("seen");
        let (seed, at) = (self.seed, self.clock.now().utc);
        let me = self.me;
        let work = move || {
            let malformed = |reason: String| Refusal::Malformed { reason };
            let (_, log) = Checkpoint::open(&checkpoint).map_err(|e| malformed(e.to_string()))?;
            if log != from {
                return Err(malformed(format!("it is the log of {log}, asked for by {from}")));
            }
            let path = seen_dir.join(from.to_string());
            let seen = read_seen(&path).map_err(|error| malformed(error.to_string()))?;
            if let Some((size, _)) = seen.filter(|(size, _)| *size != begin) {
                return Ok(CosignAnswer::Seen(size));
            }
            let signer = SignerKey::new(&name(me), seed).expect("a peer's id is a name");
            let cosigned = cosign(&checkpoint, seen, &proof, &signer, at);
            let (note, checkpoint) = cosigned.map_err(|fault| {
                if matches!(fault, CosignFault::Inconsistent { .. }) {
                    metrics::counter!("hansa_logs_forked_total").increment(1);
                    tracing::error!(%fault, "a peer shows another log than before");
                }
                malformed(fault.to_string())
            })?;
            let text = format!("{} {}\n", checkpoint.size, checkpoint.root);
            let mut unsynced = Unsynced::default();
            let written = unsynced.replace(&path, text.as_bytes());
            let written = written.and_then(|()| unsynced.sync());
            written.map_err(|error| Refusal::NoReceipt { reason: error.to_string() })?;
            Ok(CosignAnswer::Cosigned(note))
        };
        let answer = tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::Draining)??;
        Ok(encode(&answer).into())
    }
}

/// Whether `note` is `checkpoint` with a cosignature of `peer`.
fn is_cosigned_by(note: &str, checkpoint: &Checkpoint, peer: PeerId) -> bool {
    let is_same = Checkpoint::open(note).is_ok_and(|(found, _)| found == *checkpoint);
    is_same && cosignatures(note).is_ok_and(|all| all.iter().any(|found| found.peer == peer))
}

/// Size and root of a log as it was seen last.
fn read_seen(path: &Path) -> std::io::Result<Option<(u64, Digest)>> {
    let Some(text) = read_text(path, SEEN_BYTES_MAX)? else { return Ok(None) };
    let read = || {
        let (size, root) = text.trim_end().split_once(' ')?;
        Some((size.parse().ok()?, root.parse().ok()?))
    };
    let damaged = || std::io::Error::other(format!("{} is damaged", path.display()));
    read().map(Some).ok_or_else(damaged)
}

/// Where the charter of a cosigner lies, in the log's folder.
pub(super) fn charter_path(dir: &Path, peer: PeerId) -> PathBuf {
    dir.join("cosigners").join(peer.to_string())
}

/// How long a round of cosigning may take is less than what lies between two.
const _: () = assert!(COSIGN_TIMEOUT.as_millis() < COSIGN_EVERY.as_millis());
