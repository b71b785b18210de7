//! Files that are there whole or not at all where they have a name already, also when the machine stops
//! in between; and new ones, which nothing names before they are there.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files that are open at once.
const OPEN_MAX: usize = 64;

/// Folders whose entries are not on the disk yet.
#[derive(Default)]
pub(super) struct Unsynced(BTreeSet<PathBuf>);

impl Unsynced {
    /// Writes `bytes` to `path`, in place of what is there: to another name first, then renamed.
    /// The name is on the disk after [`Unsynced::sync`].
    pub(super) fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut other = path.as_os_str().to_owned();
        other.push(".tmp");
        let other = PathBuf::from(other);
        self.write_all(&[(other.clone(), bytes)])?;
        fs::rename(&other, path).inspect_err(|_| drop(fs::remove_file(&other)))
    }

    /// Writes files that nothing names yet, each in its place. All are written before the first is waited
    /// for, so that the disk takes them together: to wait for each in turn takes a second where there
    /// are a hundred. The names are on the disk after [`Unsynced::sync`].
    pub(super) fn write_all(&mut self, files: &[(PathBuf, &[u8])]) -> io::Result<()> {
        files.chunks(OPEN_MAX).try_for_each(|files| self.write_some(files))
    }

    fn write_some(&mut self, files: &[(PathBuf, &[u8])]) -> io::Result<()> {
        let (mut written, mut open) = (Vec::new(), Vec::new());
        let mut write = || {
            for (path, bytes) in files {
                let mut file = self.create(path, true)?;
                written.push(path);
                file.write_all(bytes)?;
                open.push(file);
            }
            open.iter().try_for_each(File::sync_data)
        };
        let done = write();
        if done.is_err() {
            // What is half there takes space that may be what lacks.
            written.iter().for_each(|path| drop(fs::remove_file(path)));
        }
        done
    }

    /// Writes `bytes` at a place of a file and waits for the disk; what else it holds stays.
    pub(super) fn write_at(&mut self, path: &Path, bytes: &[u8], at: u64) -> io::Result<()> {
        let file = self.create(path, false)?;
        file.write_all_at(bytes, at)?;
        file.sync_data()
    }

    /// Files in `folder` may have got their names just before the process was killed.
    pub(super) fn doubt(&mut self, folder: &Path) {
        self.0.insert(folder.to_owned());
    }

    fn create(&mut self, path: &Path, is_new: bool) -> io::Result<File> {
        let folder = folder(path);
        self.make_folder(folder)?;
        self.0.insert(folder.to_owned());
        OpenOptions::new().write(true).create(true).truncate(is_new).open(path)
    }

    fn make_folder(&mut self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(above) = folder.parent() {
            self.make_folder(above)?;
            self.0.insert(above.to_owned());
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts the names on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        while let Some(folder) = self.0.first() {
            // The root of a relative path is the folder itself.
            let open = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(open)?.sync_all()?;
            self.0.pop_first();
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().expect("a file of the log is in a folder")
}

/// Writes a block at this place of a file, waits for the disk and removes the file again, to see
/// whether the disk takes it, and files so long.
pub(super) fn probe(path: &Path, at: u64) -> io::Result<()> {
    let tried = File::create(path).and_then(|file| {
        file.write_all_at(&[0; 4096], at)?;
        file.sync_data()
    });
    let removed = fs::remove_file(path);
    tried.and(removed)
}

/// The first of a row of files before `end` that is there; they go in order, so it is found by halving.
pub(super) fn first_there(end: u64, path: impl Fn(u64) -> PathBuf) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if path(middle).exists() { high = middle } else { low = middle + 1 }
    }
    low
}

/// Removes those of a row of files that come before `end`, in order.
pub(super) fn remove_before(
    end: u64,
    path: impl Fn(u64) -> PathBuf,
) -> Result<(), (PathBuf, io::Error)> {
    for index in first_there(end, &path)..end {
        let path = path(index);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// The bytes of a file, or none if there is no such file. A file longer than `bytes_max` is an error.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, bytes_max + 1), &mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let reason = format!("longer than {bytes_max} bytes, which no such file is");
        return Err(io::Error::new(ErrorKind::InvalidData, reason));
    }
    Ok(Some(bytes))
}

/// As [`read`], of text.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    let text = read(path, bytes_max)?.map(String::from_utf8).transpose();
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "not UTF-8"))
}

/// Whether an error says that there is no more room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_probed_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        probe(&folder.path().join("probe"), 1 << 20).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(probe(&folder.path().join("none/probe"), 0).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        let mut unsynced = Unsynced::default();
        for text in ["one", "another"] {
            unsynced.replace(&path, text.as_bytes()).unwrap();
            unsynced.sync().unwrap();
            assert_eq!(read_text(&path, 100).unwrap().unwrap(), text);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(read(&path, 6).is_err());
        assert_eq!(read(&path, 7).unwrap().unwrap(), b"another");
        assert_eq!(read(&folder.path().join("none"), 7).unwrap(), None);
    }
}
