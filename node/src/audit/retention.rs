//! What goes in time: salts, each at any moment, and old receipts by whole bundles. Hashes stay.

use std::io;
use std::path::PathBuf;

use hansa_core::log::tile::{Kind, Tile, WIDTH, numbered};
use hansa_core::receipt::Salt;
use hansa_core::time::Utc;

use super::error::LogError;
use super::log::Log;
use super::reader::{self, PRUNED};

impl Log {
    /// The salt of the receipt `index`, unless it was erased.
    pub fn salt(&self, index: u64) -> Result<Option<Salt>, LogError> {
        let at = usize::try_from(index % WIDTH).expect("below 256") * 32;
        let stored;
        let salts = if index / WIDTH == self.tree_size() / WIDTH {
            &self.edge.salts
        } else {
            stored = match self.complete_salts(index / WIDTH) {
                Some(salts) => salts.to_vec(),
                None => self.reader.salts(index / WIDTH)?.unwrap_or_default(),
            };
            &stored
        };
        let salt = salts.get(at..at + 32).and_then(|salt| salt.try_into().ok());
        Ok(salt.filter(|salt| *salt != [0; 32]).map(Salt))
    }

    /// Erases the salt of the receipt `index`: what its commitments are to, nobody can show again.
    pub fn erase(&mut self, index: u64) -> Result<(), LogError> {
        // A salt that is still in a journal goes to its file, and the journal begins anew.
        self.checkpoint()?;
        while self.front().holds(index) {
            self.checkpoint()?;
        }
        let files = self.front().files();
        let synced = files.iter().try_for_each(|file| file.sync_data());
        synced.map_err(|source| LogError::File { path: self.reader.dir().to_owned(), source })?;
        let (bundle, at) = (index / WIDTH, usize::try_from(index % WIDTH).expect("below 256") * 32);
        let path = self.reader.path(&salts_path(bundle));
        let Some(mut salts) = self.reader.salts(bundle)? else { return Ok(()) };
        let Some(salt) = salts.get_mut(at..at + 32) else { return Ok(()) };
        salt.fill(0);
        if bundle == self.tree_size() / WIDTH {
            self.edge.salts.clone_from(&salts);
        }
        // In place: one copy less for whoever reads the raw disk.
        let written = std::fs::OpenOptions::new().write(true).open(&path).and_then(|file| {
            std::os::unix::fs::FileExt::write_all_at(&file, &salts, 0)?;
            file.sync_data()
        });
        written.map_err(|source| LogError::File { path, source })
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
        remove_before(first, bundle)?;
        let salts_of = |index| self.reader.path(&salts_path(index));
        let unsalted = old(self, first.max(first_there(full, salts_of)), salts)?;
        remove_before(unsalted, salts_of)?;
        Ok(self.minimum)
    }
}

/// Where the salts of a bundle are.
pub(super) fn salts_path(bundle: u64) -> String {
    format!("salts/{}", numbered(bundle))
}

/// The first of the files before `end` that is there; they go in order, so it is found by halving.
fn first_there(end: u64, path: impl Fn(u64) -> PathBuf) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if path(middle).exists() { high = middle } else { low = middle + 1 }
    }
    low
}

/// Removes those of a row of files that come before `end`, in order.
fn remove_before(end: u64, path: impl Fn(u64) -> PathBuf) -> Result<(), LogError> {
    for index in first_there(end, &path)..end {
        let path = path(index);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(LogError::File { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}
