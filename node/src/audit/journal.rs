//! The journal: entries that are kept and not yet in their tiles, in batches, each with a sum of
//! its own: over its header, its salts and the hashes that its entries have as leaves, which are made
//! in any case. A batch is there whole or not at all.
//!
//! Once a batch is written, no end of the process loses it. A loss of power may, until it is synced:
//! at once where one of its receipts asks for that, else with the checkpoint, within a second. Each
//! batch says what was synced when it was written: nothing, or the journal before this one and so many
//! bytes of its own. So one that is not whole, with nothing behind it that was written after it was
//! synced, is a torn end and is cut off; otherwise it was damaged later, and nothing is cut.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use hansa_core::id::{Digest, JobId};
use hansa_core::limits::RECEIPT_BYTES_MAX;
use hansa_core::receipt::{Salt, leaf};

use super::entry::Entry;
use crate::limits::{AUDIT_BATCH_BYTES_MAX, AUDIT_SPARE_BYTES_MAX, AUDIT_UNSETTLED_BYTES_MAX};

/// What a batch begins with, of whatever version.
const NAME: &[u8] = b"hansa-j";
/// What a batch begins with.
const MAGIC: &[u8; 8] = b"hansa-j2";
/// Magic, bytes of the body, first index, what was synced, entries.
const HEADER: usize = 8 + 4 + 8 + 8 + 4;
/// The first bytes of the SHA-256 over the header and the salt and leaf of each entry.
const SUM: usize = 16;
/// What an entry takes besides its bytes: their number and the salt.
const ENTRY_OVERHEAD: usize = 2 + 32;

/// The file, and how much of it is whole.
pub(super) struct Journal {
    file: Arc<File>,
    len: u64,
    /// How much of it is on the disk.
    synced: u64,
}

/// A batch of a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The index of its first entry.
    pub(super) first: u64,
    /// One more than the bytes of the file that were on the disk when it was written; zero if not
    /// even the journal before it was.
    pub(super) synced: u64,
    /// Salts and entries.
    pub(super) entries: Vec<([u8; 32], Vec<u8>)>,
}

/// What a journal's bytes hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The whole batches.
    pub(super) batches: Vec<Batch>,
    /// Where they end.
    pub(super) len: usize,
    /// A batch is damaged that was on the disk, since one follows that was written afterwards.
    pub(super) damaged: bool,
}

impl Journal {
    /// Opens the journal.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), len, synced: 0 })
    }

    /// How long it is.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether no loss of power loses any of it.
    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.len
    }

    /// Its file, for who puts it on the disk or shortens it without holding it.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// So much of it is on the disk.
    pub(super) fn synced(&mut self, len: u64) {
        self.synced = len;
    }

    /// Writes `entries`, the first of which has the index `first`, as one more of `batches`.
    /// `is_after_synced`: the journal before this one is on the disk.
    pub(super) fn append(
        &mut self,
        batches: &mut Batches,
        first: u64,
        entries: &[Entry],
        is_after_synced: bool,
    ) -> Result<(), AppendFault> {
        let synced = if is_after_synced { self.synced + 1 } else { 0 };
        let before = batches.bytes.len();
        put_batch(&mut batches.bytes, first, synced, entries);
        let written = self.write(&batches.bytes[before..]);
        match written {
            Ok(()) => batches.note(before, entries),
            Err(_) => batches.bytes.truncate(before),
        }
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), AppendFault> {
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            // Part of it may be there; the next batch must not come behind that.
            return Err(match self.file.set_len(self.len) {
                Ok(()) => AppendFault::Refused(error),
                Err(_) => AppendFault::Broken(error),
            });
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew: all that it held is in its tiles.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.cleared();
        Ok(())
    }

    /// Its file was shortened to nothing.
    pub(super) fn cleared(&mut self) {
        (self.len, self.synced) = (0, 0);
    }
}

/// Batches as they were written, until their entries are in the tree: so a receipt is copied once and
/// nothing is allocated for it.
#[derive(Default)]
pub(super) struct Batches {
    bytes: Vec<u8>,
    entries: Vec<Noted>,
}

/// An entry of a batch.
struct Noted {
    /// Where its bytes begin, behind its salt.
    at: usize,
    len: usize,
    leaf: Digest,
    job: JobId,
}

impl Batches {
    /// Notes where the entries of the batch are that begins at `at`.
    fn note(&mut self, mut at: usize, entries: &[Entry]) {
        at += HEADER;
        for entry in entries {
            let (len, leaf, job) = (entry.bytes.len(), entry.leaf, entry.job);
            at += ENTRY_OVERHEAD;
            self.entries.push(Noted { at, len, leaf, job });
            at += len;
        }
    }

    /// Tells `each` the entries, in order: bytes, leaf, salt and job.
    pub(super) fn each(&self, mut each: impl FnMut(&[u8], Digest, Salt, JobId)) {
        for Noted { at, len, leaf, job } in &self.entries {
            let salt = self.bytes[..*at].last_chunk().expect("it is there");
            each(&self.bytes[*at..at + len], *leaf, Salt(*salt), *job);
        }
    }

    /// The room that they took, for others.
    pub(super) fn emptied(mut self) -> Self {
        self.bytes.clear();
        self.bytes.shrink_to(AUDIT_SPARE_BYTES_MAX);
        self.entries.clear();
        self.entries.shrink_to(AUDIT_SPARE_BYTES_MAX / 512);
        self
    }
}

/// Why a batch is not kept.
#[derive(Debug)]
pub(super) enum AppendFault {
    /// The disk did not take it, and the journal is as it was.
    Refused(io::Error),
    /// Nobody knows what is on the disk: the journal has to be opened anew.
    Broken(io::Error),
}

/// No journal is longer: what waits for its tiles, and one batch more.
pub(super) const JOURNAL_BYTES_MAX: u64 =
    2 * AUDIT_UNSETTLED_BYTES_MAX as u64 + 2 * AUDIT_BATCH_BYTES_MAX as u64;

/// Puts a batch behind what `bytes` holds.
fn put_batch(bytes: &mut Vec<u8>, first: u64, synced: u64, entries: &[Entry]) {
    let begins = bytes.len();
    let body: usize = entries.iter().map(cost).sum();
    bytes.reserve(HEADER + body + SUM);
    bytes.extend(MAGIC);
    bytes.extend(u32::try_from(body).expect("a batch is bounded").to_le_bytes());
    bytes.extend(first.to_le_bytes());
    bytes.extend(synced.to_le_bytes());
    bytes.extend(u32::try_from(entries.len()).expect("a batch is bounded").to_le_bytes());
    for entry in entries {
        let length = u16::try_from(entry.bytes.len()).expect("a receipt is below 64 KiB");
        bytes.extend(length.to_le_bytes());
        bytes.extend(entry.salt.0);
        bytes.extend(&entry.bytes);
    }
    let sealed = entries.iter().map(|entry| (&entry.salt.0, &entry.leaf));
    let sum = sum(&bytes[begins..begins + HEADER], sealed);
    bytes.extend(sum);
}

/// The sum of a batch with this header and these salts and leaves.
fn sum<'a>(
    header: &'a [u8],
    entries: impl Iterator<Item = (&'a [u8; 32], &'a Digest)>,
) -> [u8; SUM] {
    let entries = entries.flat_map(|(salt, leaf)| [&salt[..], &leaf.0]);
    let digest = Digest::of_parts([header].into_iter().chain(entries));
    *digest.0.first_chunk().expect("a digest is longer")
}

/// Whether a journal is one of another version of this program.
pub(super) fn is_foreign(bytes: &[u8]) -> bool {
    let version = bytes.strip_prefix(NAME).and_then(<[u8]>::first);
    version.is_some_and(u8::is_ascii_digit) && !bytes.starts_with(MAGIC)
}

/// The batches in a journal's bytes.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    while let Some((batch, length)) = read(&bytes[scan.len..]) {
        scan.batches.push(batch);
        scan.len += length;
    }
    let rest = &bytes[scan.len..];
    let begins = |at: &usize| rest[*at..].starts_with(MAGIC);
    let whole = scan.len as u64;
    let later = |at| read(&rest[at..]).is_some_and(|(batch, _)| batch.synced > whole + 1);
    scan.damaged = (0..rest.len()).filter(begins).any(later);
    scan
}

/// The batch at the head of `bytes`, if it is whole, and its length.
fn read(bytes: &[u8]) -> Option<(Batch, usize)> {
    let header = bytes.strip_prefix(MAGIC)?;
    let (body, header) = header.split_first_chunk()?;
    let (first, header) = header.split_first_chunk()?;
    let (synced, header) = header.split_first_chunk()?;
    let (count, _) = header.split_first_chunk()?;
    let body = usize::try_from(u32::from_le_bytes(*body)).ok()?;
    let end = HEADER.checked_add(body)?;
    let stated = bytes.get(end..end + SUM)?;
    let mut entries = Vec::new();
    let mut rest = &bytes[HEADER..end];
    for _ in 0..u32::from_le_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let (salt, after) = after.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (entry, after) = after.split_at_checked(length)?;
        if length > RECEIPT_BYTES_MAX {
            return None;
        }
        entries.push((*salt, entry.to_vec()));
        rest = after;
    }
    let leaves: Vec<Digest> = entries.iter().map(|(_, entry)| leaf(entry)).collect();
    let salts = entries.iter().map(|(salt, _)| salt);
    if !rest.is_empty() || sum(&bytes[..HEADER], salts.zip(&leaves)) != *stated {
        return None;
    }
    let first = u64::from_le_bytes(*first);
    let synced = u64::from_le_bytes(*synced);
    Some((Batch { first, synced, entries }, end + SUM))
}

/// How much of a batch an entry takes.
pub(super) fn cost(entry: &Entry) -> usize {
    entry.bytes.len() + ENTRY_OVERHEAD
}

/// An entry for tests: any bytes.
#[cfg(test)]
pub(super) fn plain(bytes: &[u8]) -> Entry {
    Entry {
        bytes: bytes.to_vec(),
        leaf: leaf(bytes),
        salt: Salt([7; 32]),
        job: JobId([0; 16]),
        charter: Digest([0; 32]),
        is_durable: true,
    }
}

impl Batch {
    /// The index behind its last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Its entries as they were kept, with their indices.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (u64, Salt, Vec<u8>)> {
        (self.first..).zip(self.entries).map(|(index, (salt, bytes))| (index, Salt(salt), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: u64, synced: u64, entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_batch(&mut bytes, first, synced, entries);
        bytes
    }

    fn journal() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (first, texts) in [(0, vec!["one", "two"]), (2, vec!["three"]), (3, vec!["", "five"])] {
            let entries: Vec<_> = texts.iter().map(|text| plain(text.as_bytes())).collect();
            // Each after the one before was on the disk.
            bytes.extend(batch(first, bytes.len() as u64 + 1, &entries));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn a_journal_that_ends_anywhere_holds_the_batches_before() {
        let (bytes, ends) = journal();
        for length in 0..=bytes.len() {
            let scan = scan(&bytes[..length]);
            let whole = ends.iter().filter(|end| (1..=length).contains(*end)).count();
            assert_eq!(scan.batches.len(), whole, "{length}");
            assert_eq!(scan.len, ends[whole]);
            assert!(!scan.damaged);
        }
        let last = scan(&bytes).batches.pop().unwrap();
        assert_eq!(last.first, 3);
        assert_eq!(last.entries, [([7; 32], vec![]), ([7; 32], b"five".to_vec())]);
    }

    #[test]
    fn a_bit_that_changed_is_found_and_told_from_a_torn_end() {
        let (bytes, ends) = journal();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let scan = scan(&changed);
            let before = ends[1..].iter().filter(|end| **end <= bit / 8).count();
            assert_eq!(scan.batches.len(), before, "bit {bit}");
            assert_eq!(scan.damaged, before < 2, "bit {bit}");
        }
    }

    #[test]
    fn batches_that_were_never_synced_may_be_lost_in_any_order() {
        let mut bytes = batch(0, 1, &[plain(b"synced")]);
        let synced = bytes.len();
        let second = batch(1, synced as u64 + 1, &[plain(b"written")]);
        let third = batch(2, synced as u64 + 1, &[plain(b"too")]);
        bytes.extend([&second[..], &third[..]].concat());
        // The power went when the third was on the disk and the second was not.
        bytes[synced..synced + second.len()].fill(0);
        let found = scan(&bytes);
        assert_eq!((found.batches.len(), found.len, found.damaged), (1, synced, false));
        // What was on the disk and is not any more is another matter.
        bytes[..synced].fill(0);
        assert!(scan(&bytes).damaged);
    }

    #[test]
    fn a_journal_goes_on_and_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        let mut kept = Batches::default();
        journal.append(&mut kept, 3, &[plain(b"four"), plain(b"")], true).unwrap();
        journal.append(&mut kept, 5, &[plain(b"six")], true).unwrap();
        let mut told = Vec::new();
        kept.each(|bytes, digest, salt, _| {
            assert_eq!((digest, salt), (leaf(bytes), Salt([7; 32])));
            told.push(bytes.to_vec());
        });
        assert_eq!(told, [&b"four"[..], b"", b"six"]);
        let mut kept = kept.emptied();
        kept.each(|bytes, _, _, _| panic!("{bytes:?} is gone"));
        let batches = || scan(&std::fs::read(&path).unwrap()).batches;
        let firsts: Vec<_> = batches().iter().map(|batch| batch.first).collect();
        assert_eq!(firsts, [3, 5]);
        journal.clear().unwrap();
        assert!(journal.is_synced());
        journal.append(&mut kept, 6, &[plain(b"seven")], false).unwrap();
        assert_eq!((batches()[0].first, batches()[0].synced), (6, 0));
    }
}
