//! Salts: what opens the commitments in the receipts. They are kept beside the log, 65,536 to a file,
//! each at its own place, where zeros stand for one that is erased. A loss of power may tear what no
//! checkpoint covers; that is written again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use hansa_core::log::tile::{WIDTH, numbered};
use hansa_core::receipt::Salt;

use super::error::LogError;
use super::files::{self, Unsynced};
use super::reader::Reader;

/// Salts of a file.
const PER_FILE: u64 = 65_536;
const SALT_BYTES: u64 = 32;
/// Where they are, one file after the other.
const FOLDER: &str = "openings";
/// Where the first version kept them.
const FOLDER_BEFORE: &str = "salts";

/// Salts that are not in their files yet.
pub(super) struct Salts {
    /// Whose the first of them is.
    first: u64,
    bytes: Vec<u8>,
}

impl Salts {
    /// None yet: those of the first `size` receipts are in their files.
    pub(super) fn after(size: u64) -> Self {
        Self { first: size, bytes: Vec::new() }
    }

    /// Adds that of the next receipt.
    pub(super) fn push(&mut self, salt: Salt) {
        self.bytes.extend(salt.0);
    }

    /// Puts them into their files, and those on the disk.
    pub(super) fn settle(&mut self, reader: &Reader, unsynced: &mut Unsynced) -> io::Result<()> {
        let end = self.first + self.bytes.len() as u64 / SALT_BYTES;
        let mut bytes = &self.bytes[..];
        for (file, part) in files_of(self.first..end) {
            let length = usize::try_from((part.end - part.start) * SALT_BYTES).expect("a file's");
            let (now, later) = bytes.split_at(length);
            unsynced.write_at(&path(reader, file), now, part.start * SALT_BYTES)?;
            bytes = later;
        }
        self.bytes.clear();
        self.first = end;
        Ok(())
    }

    /// That of the receipt `index`, unless it was erased.
    pub(super) fn get(&self, reader: &Reader, index: u64) -> Result<Option<Salt>, LogError> {
        let salt = match index.checked_sub(self.first) {
            Some(at) => {
                let at = usize::try_from(at * SALT_BYTES).expect("it is in memory");
                self.bytes.get(at..).and_then(|rest| rest.first_chunk().copied())
            }
            None => stored(reader, index).map_err(reader.fault(path(reader, index / PER_FILE)))?,
        };
        Ok(salt.filter(|salt| *salt != [0; 32]).map(Salt))
    }
}

fn path(reader: &Reader, file: u64) -> PathBuf {
    reader.path(FOLDER).join(numbered(file))
}

/// The files that hold these salts, and which of theirs.
fn files_of(salts: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let files = salts.start / PER_FILE..salts.end.div_ceil(PER_FILE);
    files.map(move |file| {
        let base = file * PER_FILE;
        let part = salts.start.max(base) - base..salts.end.min(base + PER_FILE) - base;
        (file, part)
    })
}

fn stored(reader: &Reader, index: u64) -> io::Result<Option<[u8; 32]>> {
    let mut salt = [0; 32];
    let read = File::open(path(reader, index / PER_FILE))
        .and_then(|file| file.read_exact_at(&mut salt, index % PER_FILE * SALT_BYTES));
    match read {
        Ok(()) => Ok(Some(salt)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Erases the salt of the receipt `index`, if it is there.
pub(super) fn erase(reader: &Reader, index: u64) -> Result<(), LogError> {
    let at = index % PER_FILE;
    zero(reader, index / PER_FILE, at..at + 1)
}

/// Erases those of all receipts before `end`: files that hold no others go.
pub(super) fn erase_before(reader: &Reader, end: u64) -> Result<(), LogError> {
    let full = end / PER_FILE;
    files::remove_before(full, |file| path(reader, file))
        .map_err(|(path, source)| LogError::File { path, source })?;
    zero(reader, full, 0..end % PER_FILE)
}

/// Zeros take the place of salts of a file, so that whoever reads the raw disk finds one copy less.
fn zero(reader: &Reader, file: u64, salts: Range<u64>) -> Result<(), LogError> {
    let path = path(reader, file);
    let length = usize::try_from((salts.end - salts.start) * SALT_BYTES).expect("a file's");
    let zeroed = OpenOptions::new().write(true).open(&path).and_then(|file| {
        let held = file.metadata()?.len().saturating_sub(salts.start * SALT_BYTES);
        let length = length.min(usize::try_from(held).unwrap_or(length));
        file.write_all_at(&vec![0; length], salts.start * SALT_BYTES)?;
        file.sync_data()
    });
    match zeroed {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(LogError::File { path, source }),
        _ => Ok(()),
    }
}

/// The first bundle before `end` that has a salt.
pub(super) fn first_bundle(reader: &Reader, end: u64) -> Result<u64, LogError> {
    let bundles_per_file = PER_FILE / WIDTH;
    let first = files::first_there(end.div_ceil(bundles_per_file), |file| path(reader, file));
    let path = path(reader, first);
    let salts = files::read(&path, PER_FILE * SALT_BYTES).map_err(reader.fault(path))?;
    let salts = salts.unwrap_or_default();
    let zeros = salts.iter().take_while(|byte| **byte == 0).count() as u64;
    Ok((first * bundles_per_file + zeros / (WIDTH * SALT_BYTES)).min(end))
}

/// Takes over the salts of a log of `size` receipts that the first version kept, 256 to a file.
pub(super) fn adopt(reader: &Reader, unsynced: &mut Unsynced, size: u64) -> io::Result<()> {
    let before = reader.path(FOLDER_BEFORE);
    if !before.exists() {
        return Ok(());
    }
    for bundle in 0..size.div_ceil(WIDTH) {
        let first = bundle * WIDTH;
        let salts = files::read(&before.join(numbered(bundle)), WIDTH * SALT_BYTES)?;
        if let Some(salts) = salts {
            let place = (path(reader, first / PER_FILE), first % PER_FILE * SALT_BYTES);
            unsynced.write_at(&place.0, &salts, place.1)?;
        }
    }
    unsynced.sync()?;
    std::fs::remove_dir_all(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salts_come_to_their_files_and_go_from_them_one_or_many_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let reader = Reader::new(folder.path());
        let salt = |index: u64| {
            let mut salt = [1; 32];
            salt[..8].copy_from_slice(&index.to_le_bytes());
            Salt(salt)
        };
        let end = PER_FILE + 1_000;
        let (mut salts, mut unsynced) = (Salts::after(0), Unsynced::default());
        for index in 0..end {
            salts.push(salt(index));
            if index % 40_000 == 17 {
                salts.settle(&reader, &mut unsynced).unwrap();
            }
        }
        let get = |salts: &Salts, index| salts.get(&reader, index).unwrap();
        let all = |salts: &Salts, erased: Range<u64>| {
            for index in [0, 17, 18, PER_FILE - 1, PER_FILE, 70_000, end - 1] {
                let kept = index < end && !erased.contains(&index);
                assert_eq!(get(salts, index), kept.then(|| salt(index)), "{index}");
            }
        };
        all(&salts, 0..0);
        salts.settle(&reader, &mut unsynced).unwrap();
        all(&salts, 0..0);
        assert_eq!((get(&salts, end), first_bundle(&reader, 260).unwrap()), (None, 0));

        erase(&reader, 17).unwrap();
        all(&salts, 17..18);
        erase_before(&reader, 2_560).unwrap();
        all(&salts, 0..2_560);
        assert_eq!(first_bundle(&reader, 260).unwrap(), 10);
        // To the middle of the next file.
        erase_before(&reader, PER_FILE + 256).unwrap();
        assert!(!path(&reader, 0).exists());
        all(&salts, 0..PER_FILE + 256);
        assert_eq!(first_bundle(&reader, 260).unwrap(), 257);
        // What is not there is erased, and no file grows by it.
        erase(&reader, end + 5).unwrap();
        erase(&reader, 3 * PER_FILE).unwrap();
        assert_eq!(path(&reader, 1).metadata().unwrap().len(), 1_000 * SALT_BYTES);
    }

    #[test]
    fn salts_of_the_first_version_are_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let reader = Reader::new(folder.path());
        let before = |bundle: u64| reader.path(FOLDER_BEFORE).join(numbered(bundle));
        std::fs::create_dir_all(before(1_000).parent().unwrap()).unwrap();
        let of = |bundle: u64| vec![u8::try_from(bundle % 200 + 1).unwrap(); 256 * 32];
        for bundle in [1, 255, 256, 1_000] {
            std::fs::write(before(bundle), of(bundle)).unwrap();
        }
        // One that is not full, and one behind the end, which the journals bring again.
        std::fs::write(before(1_001), &of(1_001)[..64]).unwrap();
        std::fs::write(before(1_002), of(1_002)).unwrap();
        let size = 1_001 * 256 + 2;
        adopt(&reader, &mut Unsynced::default(), size).unwrap();
        assert!(!reader.path(FOLDER_BEFORE).exists());
        adopt(&reader, &mut Unsynced::default(), size).unwrap();
        let salts = Salts::after(size);
        let get = |index: u64| salts.get(&reader, index).unwrap().map(|salt| salt.0[31]);
        assert_eq!(get(0), None, "it was deleted");
        for bundle in [1, 255, 256, 1_000] {
            assert_eq!(get(bundle * 256 + 255), Some(of(bundle)[0]), "{bundle}");
        }
        assert_eq!((get(size - 1), get(size)), (Some(of(1_001)[0]), None));
    }
}
