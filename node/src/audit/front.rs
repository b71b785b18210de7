//! Where receipts are kept first: two journals that take turns, and what they hold that is not in the
//! tree yet. To keep a receipt that need not outlive a loss of power takes one write and no other
//! thread; while the one journal goes to its tiles, the other takes what comes, so that nobody waits
//! for a checkpoint. Whoever holds the front writes to the system's cache and never syncs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

use hansa_core::id::Digest;

use super::entry::Entry;
use super::error::{LogError, State};
use super::files;
use super::journal::{AppendFault, Batches, Journal};
use super::writer::Status;
use crate::limits::AUDIT_UNSETTLED_BYTES_MAX;

/// The front of a log.
pub(super) struct Front {
    journals: [Journal; 2],
    /// Which of them takes what comes.
    current: usize,
    /// The index of the first entry that it took, or will.
    begins: u64,
    /// What is kept and not in the tree yet.
    kept: Batches,
    /// Room for more, once that is taken.
    spare: Batches,
    /// Receipts kept, deleted ones too.
    pub(super) size: u64,
    /// How many of them the newest checkpoint covers.
    pub(super) signed: u64,
    /// Receipts that could not be kept since the log was opened.
    pub(super) lost: u64,
    /// Charters that receipts may name.
    pub(super) charters: BTreeSet<Digest>,
    pub(super) state: State,
}

impl Front {
    /// The front of a log of `size` receipts, all of them in the tree, with two empty journals.
    pub(super) fn new(journals: [Journal; 2], size: u64, charters: BTreeSet<Digest>) -> Self {
        let (kept, spare, state) = (Batches::default(), Batches::default(), State::Writable);
        let (begins, signed) = (size, size);
        Self { journals, current: 0, begins, kept, spare, size, signed, lost: 0, charters, state }
    }

    /// Keeps receipts: when this returns, no end of the process loses them. Gives the index of the
    /// first.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<u64, LogError> {
        let first = self.size;
        self.refuse_broken()?;
        if entries.iter().any(|entry| !self.charters.contains(&entry.charter)) {
            return Err(LogError::Charter);
        }
        if self.is_full() {
            let reason = "too many receipts wait for their tiles, which cannot be written";
            return Err(LogError::Refused(State::Unwritable(reason.into())));
        }
        let written = self.write(first, entries);
        self.settle_state(written)?;
        self.size += entries.len() as u64;
        Ok(first)
    }

    fn write(&mut self, first: u64, entries: &[Entry]) -> Result<(), AppendFault> {
        let [zero, one] = &mut self.journals;
        let (current, before) = if self.current == 0 { (zero, one) } else { (one, zero) };
        current.append(&mut self.kept, first, entries, before.is_synced())
    }

    /// Nothing is taken any more once nobody knows what is on the disk.
    pub(super) fn refuse_broken(&self) -> Result<(), LogError> {
        match self.state {
            State::Broken(_) => Err(LogError::Refused(self.state.clone())),
            _ => Ok(()),
        }
    }

    /// Counts receipts that could not be kept.
    pub(super) fn lose(&mut self, receipts: usize, error: &LogError) {
        self.lost += receipts as u64;
        tracing::error!(receipts, %error, "receipts are lost");
    }

    /// The journal that takes what comes, and the one before it.
    fn pair(&mut self) -> (&mut Journal, &mut Journal) {
        let [zero, one] = &mut self.journals;
        if self.current == 0 { (zero, one) } else { (one, zero) }
    }

    /// The journal that takes what comes.
    pub(super) fn current(&mut self) -> &mut Journal {
        self.pair().0
    }

    /// The one before it, which nobody writes to.
    pub(super) fn before(&mut self) -> &mut Journal {
        self.pair().1
    }

    /// Whether nothing more is taken before a checkpoint.
    pub(super) fn is_full(&self) -> bool {
        let bytes: u64 = self.journals.iter().map(Journal::len).sum();
        bytes > AUDIT_UNSETTLED_BYTES_MAX as u64
    }

    /// Whether no journal holds anything.
    pub(super) fn is_empty(&self) -> bool {
        self.journals.iter().all(|journal| journal.len() == 0)
    }

    /// Whether the journal that takes what comes may hold the entry `index`: one that is to be erased.
    pub(super) fn holds(&self, index: u64) -> bool {
        !self.is_empty() && self.begins <= index
    }

    /// Whether it has to be looked at again, though nobody calls.
    pub(super) fn is_pending(&self) -> bool {
        !self.is_empty() || self.is_ill()
    }

    /// The journals' files: until they are synced, a loss of power may bring back what they held before
    /// they were shortened.
    pub(super) fn files(&self) -> Vec<Arc<File>> {
        self.journals.iter().map(Journal::file).collect()
    }

    /// What is not in the tree yet.
    pub(super) fn take(&mut self) -> Batches {
        std::mem::replace(&mut self.kept, std::mem::take(&mut self.spare))
    }

    /// Gives back the room that it took.
    pub(super) fn give_back(&mut self, emptied: Batches) {
        self.spare = emptied;
    }

    /// Before a checkpoint: the other journal takes what comes, unless it holds what an earlier
    /// checkpoint could not settle.
    pub(super) fn turn(&mut self) {
        let begins = self.size;
        let (current, before) = self.pair();
        if before.len() == 0 && current.len() > 0 {
            self.current = 1 - self.current;
            self.begins = begins;
        }
    }

    /// After a checkpoint over `size` receipts: the journal before was shortened to nothing.
    pub(super) fn settle(&mut self, size: u64) {
        self.signed = size;
        self.before().cleared();
    }

    /// At the start: a checkpoint over `size` receipts covers all that the journals hold.
    pub(super) fn begin_anew(&mut self, size: u64) -> io::Result<()> {
        (self.size, self.signed, self.begins) = (size, size, size);
        self.journals.iter_mut().try_for_each(Journal::clear)
    }

    /// Whether it may take receipts again once the disk does.
    pub(super) fn is_ill(&self) -> bool {
        matches!(self.state, State::Full(_) | State::Unwritable(_))
    }

    /// The disk takes files again.
    pub(super) fn recover(&mut self) {
        if self.is_ill() {
            self.state = State::Writable;
        }
    }

    /// Files cannot be written.
    pub(super) fn fail(&mut self, error: &io::Error) {
        if matches!(self.state, State::Broken(_)) {
            return; // Nothing that is tried says what is on the disk.
        }
        let reason = error.to_string();
        self.state =
            if files::is_full(error) { State::Full(reason) } else { State::Unwritable(reason) };
    }

    /// Takes down what came of a write, or that an fsync failed.
    pub(super) fn settle_state(
        &mut self,
        written: Result<(), AppendFault>,
    ) -> Result<(), LogError> {
        match written {
            // Nothing that succeeds later says what is on the disk.
            Ok(()) if self.refuse_broken().is_err() => {}
            Ok(()) => self.state = State::Writable,
            Err(AppendFault::Refused(error)) => self.fail(&error),
            Err(AppendFault::Broken(error)) => self.state = State::Broken(error.to_string()),
        }
        match &self.state {
            State::Writable => Ok(()),
            state => Err(LogError::Refused(state.clone())),
        }
    }

    /// How the log does.
    pub(super) fn status(&self) -> Status {
        let Self { size, signed, lost, .. } = *self;
        Status { state: self.state.clone(), kept: size, signed, lost }
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::plain;
    use super::*;

    #[test]
    fn nothing_that_succeeds_later_mends_a_log_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let journals = ["0", "1"].map(|name| Journal::open(&folder.path().join(name)).unwrap());
        let mut front = Front::new(journals, 0, [Digest([0; 32])].into());
        front.fail(&io::Error::other("no answer"));
        assert!(front.is_ill());
        front.recover();
        assert_eq!(front.append(&[plain(b"kept")]).unwrap(), 0);
        let doubt = || Err(AppendFault::Broken(io::Error::other("in doubt")));
        front.settle_state(doubt()).unwrap_err();
        front.settle_state(Ok(())).unwrap_err();
        front.fail(&io::Error::other("no answer"));
        front.recover();
        assert!(matches!(&front.state, State::Broken(reason) if reason == "in doubt"));
        assert!(front.append(&[plain(b"refused")]).is_err());
        assert_eq!(front.status().kept, 1);
    }
}
