//! The log on disk: one owner puts what its front keeps into tiles, signs, proves and deletes. Its
//! files are described in [`super`].
//!
//! What it holds in memory is the right edge of the tree: the last, unfinished file of each kind.
//! Everything to the left is on the disk and stays as it is.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::limits::CHARTER_BYTES_MAX;
use hansa_core::log::checkpoint::{Checkpoint, origin};
use hansa_core::log::cosign::cosignatures;
use hansa_core::log::proof::ReceiptProof;
use hansa_core::log::tile::{Kind, Tile, WIDTH, level_of, push_entry};
use hansa_core::log::tree::{Frontier, Node};
use hansa_core::note::SignerKey;
use hansa_core::receipt::Salt;

use super::cosigning::charter_path;
use super::entry::Entry;
use super::error::{LogError, State};
use super::files::{self, Unsynced};
use super::front::Front;
use super::journal::{AppendFault, Batch, Batches, Journal, Scan};
use super::reader::{self, CHECKPOINT, COSIGNED, Reader};
use super::recent::Recent;
use super::salts::{self, Salts};
use crate::limits::AUDIT_RECENT_MAX;

/// What is written and removed to see whether the disk takes it.
const PROBE: &str = "probe.tmp";
/// Hashes of a tile that is complete, in bytes.
const HASHES_BYTES: usize = 32 * 256;
const _: () = assert!(WIDTH == 256);

/// A log, and the right to append to it.
pub struct Log {
    pub(super) reader: Reader,
    pub(super) signer: SignerKey,
    _lock: File,
    front: Arc<Mutex<Front>>,
    pub(super) unsynced: Unsynced,
    frontier: Frontier,
    pub(super) edge: Edge,
    /// Files that became complete and are not on the disk yet.
    complete: Vec<(PathBuf, Vec<u8>)>,
    pub(super) salts: Salts,
    pub(super) signed: Checkpoint,
    /// How many receipts the checkpoint covers that has the name, whether or not it is on the disk.
    shown: u64,
    note: String,
    pub(super) minimum: u64,
    recent: Recent,
    repaired: u64,
}

/// The unfinished file of each kind.
#[derive(Default)]
pub(super) struct Edge {
    entries: Vec<u8>,
    hashes: Vec<Vec<u8>>,
}

impl Log {
    /// Opens the log in `dir`, or begins one, for the peer whose key follows from `seed`. A batch
    /// that was being written when the machine stopped was acknowledged to nobody, and is cut off.
    pub fn open(dir: &Path, seed: &[u8; 32]) -> Result<Self, LogError> {
        let fault = |source| LogError::File { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(fault)?;
        let lock = File::create(dir.join("lock")).map_err(fault)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => LogError::Locked(dir.to_owned()),
            TryLockError::Error(source) => fault(source),
        })?;
        let peer = SigningKey::from_seed(seed).peer_id();
        let signer = SignerKey::new(&origin(peer), *seed).expect("a peer's id is a name");
        let reader = Reader::new(dir);
        let damaged = |reason: String| LogError::Damaged { path: dir.to_owned(), reason };
        let journals = reader.journals()?;
        let begun = journals.iter().find_map(|(scan, _)| scan.batches.first());
        let begun = begun.map(|batch| batch.first);
        let (signed, note) = match reader.checkpoint()? {
            Some(note) => Self::recognise(&note, peer).map(|signed| (signed, note)),
            None if begun.unwrap_or(0) > 0 || (begun.is_none() && dir.join("tile").exists()) => {
                Err("its checkpoint is missing".into())
            }
            None => {
                let (size, root) = (0, Frontier::default().root());
                let signed = Checkpoint { origin: origin(peer), size, root };
                let note = signed.sign(&signer).expect("a checkpoint is a note's text");
                Ok((signed, note))
            }
        }
        .map_err(damaged)?;
        let (batches, repaired) = whole(journals, signed.size).map_err(damaged)?;
        let frontier = reader.frontier(signed.size).map_err(|error| damaged(error.to_string()))?;
        let mut unsynced = Unsynced::default();
        salts::adopt(&reader, &mut unsynced, signed.size).map_err(fault)?;
        let journals = reader.journal_paths().map(|path| Journal::open(&path));
        let [zero, one] = journals;
        let charters = reader.charters()?.into_keys().collect();
        let front = Front::new([zero.map_err(fault)?, one.map_err(fault)?], signed.size, charters);
        let mut log = Self {
            frontier,
            edge: Edge::default(),
            minimum: reader.minimum(&signed.origin)?,
            repaired,
            reader,
            signer,
            _lock: lock,
            front: Arc::new(Mutex::new(front)),
            unsynced,
            complete: Vec::new(),
            salts: Salts::after(signed.size),
            shown: signed.size,
            signed,
            note,
            recent: Recent::default(),
        };
        if log.frontier.root() != log.signed.root {
            return Err(damaged("its tiles do not give the root that was signed".into()));
        }
        log.load_edge().map_err(|error| damaged(error.to_string()))?;
        for batch in batches {
            for (index, salt, bytes) in batch.into_entries() {
                match index.cmp(&log.frontier.size()) {
                    // The checkpoint came, and the journal was not begun anew.
                    std::cmp::Ordering::Less => continue,
                    std::cmp::Ordering::Greater => {
                        return Err(damaged(format!("receipts before {index} are missing")));
                    }
                    std::cmp::Ordering::Equal => {
                        let entry = Entry::open(bytes, salt)?;
                        log.push(&entry.bytes, entry.leaf, salt, entry.job);
                    }
                }
            }
        }
        // All that the journals hold is in the tree: once it is signed, both begin anew.
        let size = log.frontier.size();
        log.front().size = size;
        if !log.reader.path(CHECKPOINT).exists() || size > log.signed.size {
            log.sign()?;
        }
        if !log.front().is_empty() {
            // The checkpoint that covers them may have got its name just before a kill, and what is cut
            // off must not come back behind what is written in its place.
            log.unsynced.doubt(dir);
            log.unsynced.sync().map_err(fault)?;
            log.front().begin_anew(size).map_err(fault)?;
            log.sync_journals()?;
        }
        Ok(log)
    }

    /// Where receipts are kept first. Held for moments only.
    pub(super) fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().expect("no holder panics")
    }

    /// The same, for those who keep receipts themselves.
    pub(super) fn shared_front(&self) -> Arc<Mutex<Front>> {
        Arc::clone(&self.front)
    }

    fn recognise(note: &str, peer: PeerId) -> Result<Checkpoint, String> {
        match Checkpoint::open(note) {
            Ok((signed, keeper)) if keeper == peer => Ok(signed),
            Ok((_, keeper)) => Err(format!("it is the log of {keeper}, and this is {peer}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The unfinished files, and the newest receipts' jobs.
    fn load_edge(&mut self) -> Result<(), LogError> {
        let size = self.signed.size;
        for tile in reader::partial(size) {
            let bytes = self.reader.expect(tile)?;
            match tile.kind {
                Kind::Entries => self.edge.entries = bytes,
                Kind::Hashes(level) => *self.edge.level(level) = bytes,
            }
        }
        let first = size.saturating_sub(AUDIT_RECENT_MAX as u64).max(self.minimum) / WIDTH;
        for index in first..size.div_ceil(WIDTH) {
            let entries = self.reader.bundle(index, size)?.unwrap_or_default();
            for (at, entry) in (index * WIDTH..).zip(entries) {
                self.recent.note(Entry::open(entry, Salt([0; 32]))?.job, at);
            }
        }
        Ok(())
    }

    /// Keeps receipts: when this returns, no end of the process loses them, and no loss of power if one
    /// of them is to be durable. Gives the index of the first.
    pub fn append(&mut self, entries: Vec<Entry>) -> Result<u64, LogError> {
        let first = self.keep(&entries)?;
        self.absorb();
        Ok(first)
    }

    /// The same, but they are not in the tree yet.
    pub(super) fn keep(&mut self, entries: &[Entry]) -> Result<u64, LogError> {
        let receipts = entries.len();
        let is_durable = entries.iter().any(|entry| entry.is_durable);
        let kept = self.try_keep(entries, is_durable);
        let first = kept.inspect_err(|error| self.front().lose(receipts, error))?;
        if is_durable {
            // If this fails they are in doubt, which is not lost: they go to their tiles as all do.
            self.sync(Front::current)?;
        }
        Ok(first)
    }

    fn try_keep(&mut self, entries: &[Entry], is_durable: bool) -> Result<u64, LogError> {
        if self.front().is_full() {
            // Receipts come faster than checkpoints. If this one fails there is no room, and the front
            // says so.
            let _ = self.checkpoint();
        }
        if is_durable {
            self.sync(Front::before)?;
        }
        self.front().append(entries)
    }

    /// Puts a journal on the disk; others write to the front meanwhile.
    fn sync(&self, journal: fn(&mut Front) -> &mut Journal) -> Result<(), LogError> {
        let (file, len) = {
            let mut front = self.front();
            front.refuse_broken()?;
            let journal = journal(&mut front);
            if journal.is_synced() {
                return Ok(());
            }
            (journal.file(), journal.len())
        };
        let synced = file.sync_data();
        let mut front = self.front();
        front.refuse_broken()?;
        match synced {
            Ok(()) => {
                journal(&mut front).synced(len);
                Ok(())
            }
            // A later fsync that succeeds says nothing of these bytes.
            Err(error) => front.settle_state(Err(AppendFault::Broken(error))),
        }
    }

    /// Puts both journals on the disk as they are: what was cut off is gone for good.
    pub(super) fn sync_journals(&self) -> Result<(), LogError> {
        let files = self.front().files();
        let synced = files.iter().try_for_each(|file| file.sync_data());
        // Of what they hold, a later fsync that succeeds says nothing.
        let broken = |error| self.front().settle_state(Err(AppendFault::Broken(error)));
        synced.or_else(broken)
    }

    /// Takes what is kept into the tree.
    pub(super) fn absorb(&mut self) {
        let kept = self.front().take();
        self.push_all(kept);
    }

    fn push_all(&mut self, kept: Batches) {
        kept.each(|bytes, leaf, salt, job| self.push(bytes, leaf, salt, job));
        let emptied = kept.emptied();
        self.front().give_back(emptied);
    }

    /// Takes an entry that is on the disk into the tree.
    fn push(&mut self, bytes: &[u8], leaf: Digest, salt: Salt, job: JobId) {
        let index = self.frontier.size();
        push_entry(&mut self.edge.entries, bytes);
        self.salts.push(salt);
        let (edge, complete, reader) = (&mut self.edge, &mut self.complete, &self.reader);
        self.frontier.push(leaf, |node, hash| {
            let Some(level) = level_of(node) else { return };
            let hashes = edge.level(level);
            hashes.extend(hash.0);
            if hashes.len() == HASHES_BYTES {
                let kind = Kind::Hashes(level);
                let tile = Tile { kind, index: node.index / WIDTH, width: WIDTH };
                complete.push((reader.tile(tile), std::mem::take(hashes)));
            }
        });
        if (index + 1).is_multiple_of(WIDTH) {
            let tile = Tile { kind: Kind::Entries, index: index / WIDTH, width: WIDTH };
            complete.push((reader.tile(tile), std::mem::take(&mut edge.entries)));
        }
        self.recent.note(job, index);
    }

    /// Puts what was kept into its tiles and signs the checkpoint over it; meanwhile, more is kept.
    /// What was kept stays kept when this fails; it is to be called again.
    pub fn checkpoint(&mut self) -> Result<&str, LogError> {
        let kept = {
            let mut front = self.front();
            if front.is_empty() && self.reader.path(CHECKPOINT).exists() {
                return Ok(&self.note);
            }
            front.turn();
            front.take()
        };
        self.push_all(kept);
        self.sign()?;
        let before = self.front().before().file();
        before.set_len(0).map_err(|source| self.failed(source))?;
        self.front().settle(self.signed.size);
        Ok(&self.note)
    }

    fn failed(&self, source: io::Error) -> LogError {
        self.front().fail(&source);
        LogError::File { path: self.reader.dir().to_owned(), source }
    }

    /// Writes the tree to its tiles, and the checkpoint over it.
    fn sign(&mut self) -> Result<(), LogError> {
        let size = self.frontier.size();
        let mut before = reader::partial(self.signed.size);
        before.extend(reader::partial(self.shown));
        let after = reader::partial(size);
        let written = self.write_tiles(&before, &after).and_then(|()| {
            let checkpoint = Checkpoint { size, root: self.frontier.root(), ..self.signed.clone() };
            let note = checkpoint.sign(&self.signer).expect("a checkpoint is a note's text");
            self.unsynced.replace(&self.reader.path(CHECKPOINT), note.as_bytes())?;
            self.shown = size;
            self.unsynced.sync()?;
            (self.signed, self.note) = (checkpoint, note);
            Ok(())
        });
        written.map_err(|source| self.failed(source))?;
        // They are of an older checkpoint; what fails to go only takes space.
        for tile in before.into_iter().filter(|tile| !after.contains(tile)) {
            let path = self.reader.tile(tile);
            let _ = std::fs::remove_file(&path);
            if Kind::width(tile.kind, size) >= (tile.index + 1) * WIDTH {
                let _ = path.parent().map(std::fs::remove_dir_all);
            }
        }
        Ok(())
    }

    /// Writes what is not among `signed`, the unfinished files under a checkpoint that may be on the disk:
    /// those are there and say the same, and a kill in between must not find them half written.
    fn write_tiles(&mut self, signed: &[Tile], partial: &[Tile]) -> io::Result<()> {
        let complete = self.complete.iter().map(|(path, bytes)| (path.clone(), &bytes[..]));
        let mut files: Vec<(PathBuf, &[u8])> = complete.collect();
        for tile in partial.iter().filter(|tile| !signed.contains(tile)) {
            let bytes: &[u8] = match tile.kind {
                Kind::Entries => &self.edge.entries,
                Kind::Hashes(level) => self.edge.hashes[usize::from(level)].as_slice(),
            };
            files.push((self.reader.tile(*tile), bytes));
        }
        self.unsynced.write_all(&files)?;
        self.salts.settle(&self.reader, &mut self.unsynced)?;
        self.unsynced.sync()?;
        self.complete.clear();
        Ok(())
    }

    /// Tries whether the disk takes receipts again.
    pub fn probe(&mut self) -> State {
        let (is_ill, end) = {
            let mut front = self.front();
            (front.is_ill(), front.current().len())
        };
        if is_ill {
            match files::probe(&self.reader.path(PROBE), end) {
                Ok(()) => self.front().recover(),
                Err(error) => self.front().fail(&error),
            }
        }
        self.state()
    }

    /// Gives the log a charter of its node: receipts that name it can be kept from now on.
    pub fn add_charter(&mut self, note: &str) -> Result<Digest, LogError> {
        let digest = Digest::of(note.as_bytes());
        if note.len() > CHARTER_BYTES_MAX {
            return Err(LogError::Charter);
        }
        if !self.front().charters.contains(&digest) {
            let path = self.reader.charter_path(&digest);
            let written = self.unsynced.replace(&path, note.as_bytes());
            written
                .and_then(|()| self.unsynced.sync())
                .map_err(|source| LogError::File { path, source })?;
            self.front().charters.insert(digest);
        }
        Ok(digest)
    }

    /// Takes over a checkpoint of this log that peers cosigned: proofs are given under it, and carry
    /// those of the cosigners' `charters` that are given.
    pub fn add_cosigned(
        &mut self,
        note: &str,
        charters: &[(PeerId, String)],
    ) -> Result<(), LogError> {
        let path = self.reader.path(COSIGNED);
        let damaged = |reason: String| LogError::Damaged { path: path.clone(), reason };
        let absent = |_| LogError::Absent("a checkpoint of another log, or forged".into());
        let cosigned = cosignatures(note).map_err(|_| absent(()))?;
        let (checkpoint, _) = Checkpoint::open(note).map_err(|_| absent(()))?;
        if cosigned.is_empty() || checkpoint.origin != self.signed.origin {
            return Err(absent(()));
        }
        if checkpoint.size > self.signed.size {
            return Err(damaged("it is of a later state than this log has".into()));
        }
        let then = self.reader.frontier(checkpoint.size)?;
        if then.root() != checkpoint.root {
            return Err(damaged("it is of another log under this log's name".into()));
        }
        let unsynced = &mut self.unsynced;
        let mut written = charters.iter().map(|(peer, charter)| {
            unsynced.replace(&charter_path(self.reader.dir(), *peer), charter.as_bytes())
        });
        let written = written.try_for_each(|written| written);
        // After the charters, so that no proof lacks them.
        let written = written.and_then(|()| self.unsynced.replace(&path, note.as_bytes()));
        let written = written.and_then(|()| self.unsynced.sync());
        written.map_err(|source| LogError::File { path: path.clone(), source })
    }

    /// Where the newest receipt of `job` is, if it is among the newest of all.
    pub fn find(&self, job: JobId) -> Option<u64> {
        self.recent.find(job)
    }

    /// The proof of the receipt `index`; a checkpoint that does not cover it yet is made at once.
    pub fn prove(&mut self, index: u64) -> Result<ReceiptProof, LogError> {
        if index >= self.signed.size {
            self.checkpoint()?;
        }
        self.reader.proof(index)
    }

    /// The proof of the newest receipt of `job`, if it is among the newest of all; for older
    /// ones the whole log has to be read ([`Reader::receipts`]).
    pub fn proof_of(&self, job: JobId) -> Result<ReceiptProof, LogError> {
        let index = self.recent.find(job);
        self.reader.proof(index.ok_or_else(|| LogError::Absent(format!("of job {job}")))?)
    }

    /// Signs what is there, and lets go.
    pub fn close(mut self) -> Result<(), LogError> {
        self.checkpoint()?;
        // After one that failed, both journals hold something, and each takes its own.
        if !self.front().is_empty() {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// How many receipts it has, deleted ones too.
    pub fn size(&self) -> u64 {
        self.front().size
    }

    /// How many of them are in the tree.
    pub(super) fn tree_size(&self) -> u64 {
        self.frontier.size()
    }

    /// The newest checkpoint.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// How many receipts the newest checkpoint covers.
    pub fn signed_size(&self) -> u64 {
        self.signed.size
    }

    /// Whether receipts can be kept.
    pub fn state(&self) -> State {
        self.front().state.clone()
    }

    /// Bytes that were cut off when it was opened: a batch that nobody was told of.
    pub fn repaired(&self) -> u64 {
        self.repaired
    }

    /// The files, for reading.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The hash of a complete subtree under the newest checkpoint, for proofs of consistency.
    pub fn node(&self, node: Node) -> Result<Digest, LogError> {
        self.reader.node(node, self.signed.size)
    }
}

/// The batches of both journals in their order, and how many bytes are cut off: of a torn end, or
/// behind what a loss of power took before it was synced.
fn whole(journals: [(Scan, u64); 2], signed: u64) -> Result<(Vec<Batch>, u64), String> {
    let (mut batches, mut repaired) = (Vec::<Batch>::new(), 0);
    for (scan, length) in journals {
        if scan.damaged {
            return Err("a journal has changed since it was written".into());
        }
        repaired += length - scan.len as u64;
        let end = batches.last().map_or(signed, Batch::end).max(signed);
        let is_behind_a_gap = scan.batches.first().is_some_and(|batch| batch.first > end);
        if is_behind_a_gap && scan.batches.iter().all(|batch| batch.synced == 0) {
            repaired += scan.len as u64;
        } else {
            batches.extend(scan.batches);
        }
    }
    Ok((batches, repaired))
}

impl Edge {
    fn level(&mut self, level: u8) -> &mut Vec<u8> {
        let level = usize::from(level);
        if self.hashes.len() <= level {
            self.hashes.resize(level + 1, Vec::new());
        }
        &mut self.hashes[level]
    }
}
