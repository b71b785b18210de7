//! The files of a log, for reading: nothing here is believed before [`super::verify`] has held it
//! against the checkpoint, and nothing is written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hansa_core::id::{Digest, PeerId};
use hansa_core::limits::{CHARTER_BYTES_MAX, COSIGNERS_MAX, RECEIPT_BYTES_MAX};
use hansa_core::log::check::open_pruned;
use hansa_core::log::checkpoint::Checkpoint;
use hansa_core::log::cosign::cosignatures;
use hansa_core::log::proof::ReceiptProof;
use hansa_core::log::tile::{Kind, Tile, WIDTH, entries, hashes, root_over};
use hansa_core::log::tree::{Frontier, Node, prove_inclusion};
use hansa_core::note::SignerKey;
use hansa_core::receipt::Receipt;
use hansa_core::time::Utc;

use super::cosigning::charter_path;
use super::error::LogError;
use super::files::{read, read_text};
use super::journal::{self, Scan};

/// The newest checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// The newest checkpoint that peers cosigned.
pub const COSIGNED: &str = "cosigned";
/// What was deleted.
pub const PRUNED: &str = "pruned";
/// The one journal of the first version.
const JOURNAL_BEFORE: &str = "journal";
/// Charters of the log's node.
const CHARTERS: &str = "charters";
/// No note of a log is longer: 16 signatures.
const NOTE_BYTES_MAX: u64 = 16 * 1024;
/// No bundle is longer.
const BUNDLE_BYTES_MAX: u64 = WIDTH * (2 + RECEIPT_BYTES_MAX as u64);

/// A log's folder.
#[derive(Clone, Debug)]
pub struct Reader {
    dir: PathBuf,
}

impl Reader {
    /// The log in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A tile's file.
    pub(super) fn tile(&self, tile: Tile) -> PathBuf {
        self.dir.join(tile.to_string())
    }

    /// The newest checkpoint, a note.
    pub fn checkpoint(&self) -> Result<Option<String>, LogError> {
        self.text(CHECKPOINT)
    }

    /// The newest checkpoint that peers cosigned, a note.
    pub fn cosigned(&self) -> Result<Option<String>, LogError> {
        self.text(COSIGNED)
    }

    /// Whose log it is, if its checkpoint says so.
    pub fn keeper(&self) -> Option<PeerId> {
        let note = self.checkpoint().ok()??;
        Some(self.open(&note).ok()?.1)
    }

    fn text(&self, name: &str) -> Result<Option<String>, LogError> {
        read_text(&self.path(name), NOTE_BYTES_MAX).map_err(self.fault(self.path(name)))
    }

    pub(super) fn fault(&self, path: PathBuf) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::File { path, source }
    }

    fn damaged(&self, reason: String) -> LogError {
        LogError::Damaged { path: self.dir.clone(), reason }
    }

    /// Before which entry receipts of the log `origin` may be gone.
    pub fn minimum(&self, origin: &str) -> Result<u64, LogError> {
        let Some(note) = self.text(PRUNED)? else { return Ok(0) };
        open_pruned(&note, origin).map_err(|fault| self.damaged(format!("{PRUNED}: {fault}")))
    }

    /// The bytes of a tile, or none if there is no such file.
    pub fn read(&self, tile: Tile) -> Result<Option<Vec<u8>>, LogError> {
        let path = self.tile(tile);
        read(&path, BUNDLE_BYTES_MAX).map_err(self.fault(path))
    }

    /// The bytes of a tile that has to be there.
    pub(super) fn expect(&self, tile: Tile) -> Result<Vec<u8>, LogError> {
        self.read(tile)?.ok_or_else(|| self.damaged(format!("{tile} is missing")))
    }

    /// The hash of a complete subtree of a tree of `size` leaves.
    pub fn node(&self, node: Node, size: u64) -> Result<Digest, LogError> {
        let (tile, first, count) = Tile::of(node, size);
        let bytes = self.expect(tile)?;
        let fault = |fault| self.damaged(format!("{tile}: {fault}"));
        let hashes = hashes(&bytes, tile.width).map_err(fault)?;
        let under = hashes.get(first..first + count);
        Ok(root_over(under.ok_or_else(|| self.damaged(format!("{tile} is too short")))?))
    }

    /// The tree of `size` leaves: of the newest checkpoint, or of an earlier one.
    pub(super) fn frontier(&self, size: u64) -> Result<Frontier, LogError> {
        let now = self.checkpoint()?.map(|note| self.open(&note)).transpose()?;
        let now = now.map_or(size, |(checkpoint, _)| checkpoint.size);
        Frontier::load(size, |node| self.node(node, now))
    }

    fn open(&self, note: &str) -> Result<(Checkpoint, PeerId), LogError> {
        Checkpoint::open(note).map_err(|fault| self.damaged(fault.to_string()))
    }

    /// The entries of a bundle in a log of `size`, or none if they were deleted.
    pub fn bundle(&self, index: u64, size: u64) -> Result<Option<Vec<Vec<u8>>>, LogError> {
        let width = WIDTH.min(size - index * WIDTH);
        let tile = Tile { kind: Kind::Entries, index, width };
        let Some(bytes) = self.read(tile)? else { return Ok(None) };
        let entries =
            entries(&bytes, width).map_err(|fault| self.damaged(format!("{tile}: {fault}")))?;
        Ok(Some(entries.into_iter().map(<[u8]>::to_vec).collect()))
    }

    /// When the last job of a full bundle ended, unless the bundle was deleted.
    pub(super) fn newest(&self, index: u64) -> Result<Option<Utc>, LogError> {
        let entries = self.bundle(index, (index + 1) * WIDTH)?.unwrap_or_default();
        let ended = entries.iter().map(|entry| Receipt::open(entry).map(|receipt| receipt.ended));
        Ok(ended.collect::<Result<Vec<_>, _>>()?.into_iter().max())
    }

    /// Where a charter is.
    pub(super) fn charter_path(&self, digest: &Digest) -> PathBuf {
        self.path(CHARTERS).join(digest.to_string().trim_start_matches("sha256:"))
    }

    /// A charter of the log's node.
    pub fn charter(&self, digest: &Digest) -> Result<Option<String>, LogError> {
        let path = self.charter_path(digest);
        read_text(&path, CHARTER_BYTES_MAX as u64).map_err(self.fault(path))
    }

    /// The charter of a peer that cosigned, where it may be shown.
    fn cosigner(&self, peer: PeerId) -> Result<Option<String>, LogError> {
        let path = charter_path(&self.dir, peer);
        read_text(&path, CHARTER_BYTES_MAX as u64).map_err(self.fault(path))
    }

    /// All charters of the log's node.
    pub(super) fn charters(&self) -> Result<BTreeMap<Digest, String>, LogError> {
        let folder = self.path(CHARTERS);
        let mut found = BTreeMap::new();
        let listed = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            listed => listed.map_err(self.fault(folder.clone()))?,
        };
        for entry in listed {
            let path = entry.map_err(self.fault(folder.clone()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Ok(digest) = format!("sha256:{name}").parse() else { continue };
            if let Some(note) =
                self.charter(&digest)?.filter(|note| Digest::of(note.as_bytes()) == digest)
            {
                found.insert(digest, note);
            }
        }
        Ok(found)
    }

    /// Where the journals are.
    pub(super) fn journal_paths(&self) -> [PathBuf; 2] {
        ["journal-0", "journal-1"].map(|name| self.path(name))
    }

    /// What is kept and not in tiles yet, the older journal first, each with its length.
    pub(super) fn journals(&self) -> Result<[(Scan, u64); 2], LogError> {
        let foreign = |path: &Path| {
            self.damaged(format!(
                "`{}` holds receipts of another version of hansa; start that once more and stop it, \
                 so that it puts them under a checkpoint",
                path.display()
            ))
        };
        let before = self.path(JOURNAL_BEFORE);
        if before.metadata().is_ok_and(|file| file.len() > 0) {
            return Err(foreign(&before));
        }
        let read = |path: PathBuf| {
            let bytes =
                read(&path, journal::JOURNAL_BYTES_MAX).map_err(self.fault(path.clone()))?;
            let bytes = bytes.unwrap_or_default();
            if journal::is_foreign(&bytes) {
                return Err(foreign(&path));
            }
            Ok((journal::scan(&bytes), bytes.len() as u64))
        };
        let [zero, one] = self.journal_paths();
        let mut journals = [read(zero)?, read(one)?];
        journals.sort_by_key(|(scan, _)| scan.batches.first().map(|batch| batch.first));
        Ok(journals)
    }

    /// Tells `each` every receipt that is there, oldest first, also those that no checkpoint covers
    /// yet, until it says no. A node that writes the log meanwhile moves receipts from journals to
    /// tiles; then it is looked again, from where it was.
    pub fn receipts(&self, mut each: impl FnMut(u64, Receipt) -> bool) -> Result<(), LogError> {
        let (mut next, mut seen) = (0, None);
        loop {
            let note = self.checkpoint()?.ok_or_else(|| LogError::NotThere(self.dir.clone()))?;
            let Some(missing) = self.receipts_under(&note, &mut next, &mut each)? else {
                return Ok(());
            };
            let now = Some((next, note));
            if seen == now {
                return Err(self.damaged(format!("{missing} is missing")));
            }
            seen = now;
        }
    }

    /// The same from `next` on, as long as the newest checkpoint is `note`. Gives what is not there, or
    /// not any more.
    fn receipts_under(
        &self,
        note: &str,
        next: &mut u64,
        each: &mut impl FnMut(u64, Receipt) -> bool,
    ) -> Result<Option<String>, LogError> {
        let (checkpoint, _) = self.open(note)?;
        let size = checkpoint.size;
        *next = (*next).max(self.minimum(&checkpoint.origin)?);
        for bundle in *next / WIDTH..size.div_ceil(WIDTH) {
            let Some(entries) = self.bundle(bundle, size)? else {
                return Ok(Some(format!("bundle {bundle}")));
            };
            for (at, entry) in (bundle * WIDTH..).zip(entries) {
                if at >= *next {
                    *next = at + 1;
                    if !each(at, Receipt::open(&entry)?) {
                        return Ok(None);
                    }
                }
            }
        }
        for batch in self.journals()?.into_iter().flat_map(|(scan, _)| scan.batches) {
            for (index, _, entry) in batch.into_entries() {
                if index > *next {
                    return Ok(Some(format!("receipt {next}")));
                }
                if index == *next {
                    *next = index + 1;
                    if !each(index, Receipt::open(&entry)?) {
                        return Ok(None);
                    }
                }
            }
        }
        let is_newest = self.checkpoint()?.as_deref() == Some(note);
        Ok((!is_newest).then(|| "a checkpoint that stays".to_owned()))
    }

    /// The proof of the receipt `index`: under the newest checkpoint that peers cosigned if it
    /// covers the receipt, otherwise under the newest of all.
    pub fn proof(&self, index: u64) -> Result<ReceiptProof, LogError> {
        let absent = || LogError::Absent(format!("number {index}"));
        let note = self.checkpoint()?.ok_or_else(absent)?;
        let (newest, _) = self.open(&note)?;
        let read = |note: String| Ok::<_, LogError>((self.open(&note)?.0, note));
        let cosigned = self.cosigned()?.map(read);
        let cosigned = cosigned.transpose()?.filter(|(checkpoint, _)| index < checkpoint.size);
        let (checkpoint, note) = cosigned.unwrap_or((newest.clone(), note));
        if index >= checkpoint.size {
            return Err(absent());
        }
        let bundle = self.bundle(index / WIDTH, newest.size)?.ok_or_else(absent)?;
        let at = usize::try_from(index % WIDTH).expect("below 256");
        let receipt = bundle.into_iter().nth(at).ok_or_else(absent)?;
        let charter = Receipt::open(&receipt)?.keeper().charter;
        let charter = self.charter(&charter)?;
        let charter = charter.ok_or_else(|| self.damaged("a charter is missing".into()))?;
        let read = |node| self.node(node, newest.size);
        let hashes = prove_inclusion(checkpoint.size, index, read)?;
        let found = cosignatures(&note).map_err(|fault| self.damaged(fault.to_string()))?;
        let charters = found.iter().map(|own| self.cosigner(own.peer));
        let charters = charters.collect::<Result<Vec<_>, _>>()?;
        Ok(ReceiptProof {
            receipt,
            charter,
            cosigners: charters.into_iter().flatten().take(COSIGNERS_MAX).collect(),
            index,
            hashes,
            checkpoint: note,
        })
    }
}

/// The unfinished files of a log of `size`.
pub(super) fn partial(size: u64) -> Vec<Tile> {
    let levels = (0..8).map(Kind::Hashes);
    let at_edge = |kind: Kind| {
        let width = kind.width(size);
        Tile { kind, index: width / WIDTH, width: width % WIDTH }
    };
    std::iter::once(Kind::Entries)
        .chain(levels)
        .map(at_edge)
        .filter(|tile| tile.width > 0)
        .collect()
}

/// The keeper's statement that entries before `minimum` are deleted.
pub(super) fn sign_pruned(origin: &str, minimum: u64, signer: &SignerKey) -> String {
    hansa_core::log::check::sign_pruned(origin, minimum, signer).expect("lines are a note's text")
}
