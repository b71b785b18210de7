//! What goes in time: salts, each at any moment, and old receipts by whole bundles. Hashes stay.

use hansa_core::log::tile::{Kind, Tile, WIDTH};
use hansa_core::receipt::Salt;
use hansa_core::time::Utc;

use super::error::LogError;
use super::files::{first_there, remove_before};
use super::log::Log;
use super::reader::{self, PRUNED};
use super::salts;

impl Log {
    /// The salt of the receipt `index`, unless it was erased.
    pub fn salt(&self, index: u64) -> Result<Option<Salt>, LogError> {
        self.salts.get(&self.reader, index)
    }

    /// Erases the salt of the receipt `index`: what its commitments are to, nobody can show again.
    pub fn erase(&mut self, index: u64) -> Result<(), LogError> {
        // A salt that is still in a journal goes to its file, and the journal begins anew.
        self.checkpoint()?;
        while self.front().holds(index) {
            self.checkpoint()?;
        }
        self.sync_journals()?;
        salts::erase(&self.reader, index)
    }

    /// Deletes receipts (and salts) of jobs that ended before `receipts`, and salts of those that
    /// ended before `salts`, by whole bundles, the oldest first. Hashes stay. Gives how many receipts
    /// are deleted in all.
    pub fn delete(&mut self, receipts: Utc, salts: Utc) -> Result<u64, LogError> {
        let full = self.signed.size / WIDTH;
        let old = |log: &Self, from: u64, until: Utc| {
            let mut index = from;
            while index < full && log.reader.newest(index)?.is_none_or(|ended| ended < until) {
                index += 1;
            }
            Ok::<_, LogError>(index)
        };
        let first = old(self, self.minimum / WIDTH, receipts)?;
        if first * WIDTH > self.minimum {
            let path = self.reader.path(PRUNED);
            let note = reader::sign_pruned(&self.signed.origin, first * WIDTH, &self.signer);
            let written = self.unsynced.replace(&path, note.as_bytes());
            written
                .and_then(|()| self.unsynced.sync())
                .map_err(|source| LogError::File { path, source })?;
            self.minimum = first * WIDTH;
        }
        let bundle = |index| self.reader.tile(Tile { kind: Kind::Entries, index, width: WIDTH });
        // Of a checkpoint that failed, an unfinished one may be there still.
        let unfinished = |index| self.reader.tile(Tile { kind: Kind::Entries, index, width: 1 });
        for index in first_there(first, bundle)..first {
            let _ = unfinished(index).parent().map(std::fs::remove_dir_all);
        }
        remove_before(first, bundle).map_err(|(path, source)| LogError::File { path, source })?;
        let salted = salts::first_bundle(&self.reader, full)?;
        let unsalted = old(self, first.max(salted), salts)?;
        if unsalted > salted {
            salts::erase_before(&self.reader, unsalted * WIDTH)?;
        }
        Ok(self.minimum)
    }
}
