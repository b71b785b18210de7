//! Files out of pinned Python wheels: fetched by the machine's own pip, checked against a digest
//! in the code, unpacked into the cache in one step. Knows no package: those are tables in
//! [`crate::library`] and [`crate::models`].
//!
//! pip, because every network that lets a developer work lets pip work: mirrors, proxies and
//! credentials are then the machine's business. What it brings is trusted by its digest only.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::limits::WHEEL_MEMBER_BYTES_MAX;
use crate::pip::download;

/// One wheel and what to take out of it.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// Package name.
    pub name: &'static str,
    /// Exact version.
    pub version: &'static str,
    /// Platform tags that the wheel may carry, `any` for pure Python.
    pub platforms: &'static [&'static str],
    /// SHA-256 of the wheel in hexadecimal.
    pub sha256: &'static str,
    /// Path in the wheel and file name in the cache.
    pub members: &'static [(&'static str, &'static str)],
}

/// How much of a download is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    Quiet,
    /// pip's own lines and bar, on stderr.
    Stderr,
}

/// Why a wheel's files are not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither variable nor home folder names a cache.
    #[error("no cache folder: set HANSA_CACHE to a folder that you may write to")]
    NoCache,
    /// `python3` cannot be started.
    #[error(
        "python3 is needed to fetch {package} and cannot be started ({source}); install it, e.g. `apt install python3 python3-pip`"
    )]
    NoPython {
        /// What was to be fetched.
        package: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// `python3` has no pip.
    #[error(
        "python3 has no pip, which is needed to fetch {package}; install it with `apt install python3-pip` or `python3 -m ensurepip --user`"
    )]
    NoPip {
        /// What was to be fetched.
        package: &'static str,
    },
    /// pip could not fetch it.
    #[error(
        "pip could not fetch {package}=={version}; is there a network, and does pip's index have it? pip said: {said}"
    )]
    Network {
        /// What was to be fetched.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// pip's last lines.
        said: String,
    },
    /// Another wheel than the pinned one came.
    #[error("{package}=={version} has SHA-256 {found}, pinned is {pinned}: it was not used")]
    Digest {
        /// What was fetched.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// Of the file that came.
        found: String,
        /// In the code.
        pinned: &'static str,
    },
    /// The wheel lacks a member or is no archive.
    #[error("{package}=={version} cannot be unpacked at `{member}`: {said}")]
    Unpack {
        /// What was fetched.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// The member.
        member: &'static str,
        /// What is wrong.
        said: String,
    },
    /// The cache cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// Written beside the unpacked folder once it is complete, so that a use costs a look at sizes and
/// an older pin, a half-removed folder or a truncated file is noticed.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    wheel: String,
    members: Vec<Member>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The folder `cache/folder` with the wheel's members, fetching it when it is not there. Calls of
/// any number of processes exclude each other; all but one find the work done.
pub fn fetch(
    wheel: &Wheel,
    cache: &Path,
    folder: &str,
    progress: Progress,
) -> Result<PathBuf, FetchError> {
    fetch_with(Path::new("python3"), wheel, cache, folder, progress)
}

fn fetch_with(
    python: &Path,
    wheel: &Wheel,
    cache: &Path,
    folder: &str,
    progress: Progress,
) -> Result<PathBuf, FetchError> {
    if let Some(dir) = installed(wheel, cache, folder) {
        return Ok(dir);
    }
    let dir = cache.join(folder);
    let parent = dir.parent().expect("a folder in the cache has a parent");
    fs::create_dir_all(parent).map_err(at(parent))?;
    let lock_path = beside(&dir, "lock");
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    lock.lock().map_err(at(&lock_path))?;
    if let Some(dir) = installed(wheel, cache, folder) {
        return Ok(dir);
    }
    // Under the lock, so what an interrupted call left behind is nobody's.
    let partial = beside(&dir, "partial");
    let record_path = beside(&dir, "installed");
    for path in [&partial, &dir] {
        remove_dir(path)?;
    }
    let downloads = partial.join("download");
    let members = partial.join("members");
    for path in [&downloads, &members] {
        fs::create_dir_all(path).map_err(at(path))?;
    }
    let file = download(python, wheel, &downloads, progress)?;
    let found = sha256_file(&file).map_err(at(&file))?;
    if found != wheel.sha256 {
        remove_dir(&partial)?;
        let (package, version) = (wheel.name, wheel.version);
        return Err(FetchError::Digest { package, version, found, pinned: wheel.sha256 });
    }
    let record = unpack(wheel, &file, &members)?;
    fs::rename(&members, &dir).map_err(at(&dir))?;
    let text = serde_json::to_vec_pretty(&record).expect("a record is plain data");
    let record_partial = partial.join("record");
    fs::write(&record_partial, text).map_err(at(&record_partial))?;
    fs::rename(&record_partial, &record_path).map_err(at(&record_path))?;
    remove_dir(&partial)?;
    Ok(dir)
}

/// The folder if it holds this very wheel's members, complete.
pub fn installed(wheel: &Wheel, cache: &Path, folder: &str) -> Option<PathBuf> {
    let dir = cache.join(folder);
    let text = fs::read(beside(&dir, "installed")).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let whole = record.wheel == wheel.sha256
        && record.members.len() == wheel.members.len()
        && record.members.iter().zip(wheel.members).all(|(member, (_, name))| {
            let bytes = fs::metadata(dir.join(name)).ok().map(|meta| meta.len());
            member.name == *name && bytes == Some(member.bytes)
        });
    whole.then_some(dir)
}

fn unpack(wheel: &Wheel, file: &Path, into: &Path) -> Result<Record, FetchError> {
    let broken = |member: &'static str, said: String| FetchError::Unpack {
        package: wheel.name,
        version: wheel.version,
        member,
        said,
    };
    let opened = File::open(file).map_err(at(file))?;
    let mut archive =
        zip::ZipArchive::new(opened).map_err(|error| broken("", error.to_string()))?;
    let mut members = Vec::with_capacity(wheel.members.len());
    for &(path, name) in wheel.members {
        let member = archive.by_name(path).map_err(|error| broken(path, error.to_string()))?;
        let target = into.join(name);
        let mut output = File::create(&target).map_err(at(&target))?;
        let mut limited = member.take(WHEEL_MEMBER_BYTES_MAX + 1);
        let bytes =
            io::copy(&mut limited, &mut output).map_err(|error| broken(path, error.to_string()))?;
        if bytes > WHEEL_MEMBER_BYTES_MAX {
            return Err(broken(path, format!("larger than {WHEEL_MEMBER_BYTES_MAX} bytes")));
        }
        // On disk before the rename that makes it visible.
        output.sync_all().map_err(at(&target))?;
        let sha256 = sha256_file(&target).map_err(at(&target))?;
        members.push(Member { name: name.to_owned(), bytes, sha256 });
    }
    Ok(Record { wheel: wheel.sha256.to_owned(), members })
}

fn sha256_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `dir` with `.suffix` after its name, whatever dots the name has (`1.31.1` has two).
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn remove_dir(path: &Path) -> Result<(), FetchError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> FetchError + use<> {
    let path = path.to_owned();
    move |source| FetchError::Io { path, source }
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    const MEMBERS: &[(&str, &str)] = &[("package/a.bin", "a.bin"), ("package/b.txt", "b.txt")];

    /// A folder with a wheel and a `python3` that brings it instead of the network, noting how
    /// often it did.
    struct Bench {
        dir: tempfile::TempDir,
        wheel: Wheel,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("the.whl");
            let mut archive = zip::ZipWriter::new(File::create(&file).unwrap());
            for (path, _) in MEMBERS {
                let options = zip::write::SimpleFileOptions::default();
                archive.start_file(*path, options).unwrap();
                archive.write_all(&path.as_bytes().repeat(1_000)).unwrap();
            }
            archive.finish().unwrap();
            let sha256 = sha256_file(&file).unwrap().leak();
            let wheel = Wheel {
                name: "package",
                version: "1.0",
                platforms: &["any"],
                sha256,
                members: MEMBERS,
            };
            Self { dir, wheel }
        }

        fn python(&self, script: &str) -> PathBuf {
            let path = self.dir.path().join("python3");
            fs::write(&path, format!("#!/bin/sh\nhere=$(dirname \"$0\")\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        fn bringing(&self) -> PathBuf {
            self.python(
                "[ \"$3\" = --version ] && exit 0\necho x >> $here/calls\n\
                 while [ \"$1\" != --dest ]; do shift; done\ncp $here/the.whl \"$2\"",
            )
        }

        fn fetch(&self, python: &Path) -> Result<PathBuf, FetchError> {
            let cache = self.dir.path().join("cache");
            fetch_with(python, &self.wheel, &cache, "things/1.0", Progress::Quiet)
        }

        fn calls(&self) -> usize {
            fs::read(self.dir.path().join("calls")).map_or(0, |calls| calls.len() / 2)
        }
    }

    #[test]
    fn concurrent_calls_fetch_once_and_leave_nothing_else() {
        let bench = Bench::new();
        let python = bench.bringing();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| bench.fetch(&python).unwrap());
            }
        });
        assert_eq!(bench.calls(), 1);
        let dir = bench.fetch(&python).unwrap();
        assert_eq!(fs::read(dir.join("b.txt")).unwrap(), b"package/b.txt".repeat(1_000));
        let mut left: Vec<_> = fs::read_dir(dir.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["1.0", "1.0.installed", "1.0.lock"]);
    }

    #[test]
    fn a_damaged_folder_is_fetched_again() {
        let bench = Bench::new();
        let python = bench.bringing();
        let dir = bench.fetch(&python).unwrap();
        fs::write(dir.join("a.bin"), b"short").unwrap();
        bench.fetch(&python).unwrap();
        assert_eq!(fs::read(dir.join("a.bin")).unwrap(), b"package/a.bin".repeat(1_000));
        fs::remove_dir_all(&dir).unwrap();
        bench.fetch(&python).unwrap();
        assert_eq!(bench.calls(), 3);
    }

    #[test]
    fn another_wheel_than_the_pinned_is_not_used() {
        let mut bench = Bench::new();
        bench.wheel.sha256 = "00";
        let python = bench.bringing();
        let error = bench.fetch(&python).unwrap_err();
        assert!(matches!(error, FetchError::Digest { pinned: "00", .. }), "{error}");
        assert!(!bench.dir.path().join("cache/things/1.0").exists());
    }

    #[test]
    fn a_missing_member_is_named() {
        let mut bench = Bench::new();
        bench.wheel.members = &[("package/c", "c")];
        let error = bench.fetch(&bench.bringing()).unwrap_err();
        assert!(matches!(error, FetchError::Unpack { member: "package/c", .. }), "{error}");
    }

    #[test]
    fn without_python_pip_or_network_the_error_says_what_to_do() {
        let bench = Bench::new();
        let error = bench.fetch(&bench.dir.path().join("none")).unwrap_err();
        assert!(matches!(error, FetchError::NoPython { .. }), "{error}");
        let error = bench.fetch(&bench.python("exit 1")).unwrap_err();
        assert!(error.to_string().contains("apt install python3-pip"), "{error}");
        // The machine's real pip, cut off from every index.
        let python =
            bench.python("export PIP_NO_INDEX=1 PIP_FIND_LINKS=$here/none; exec python3 \"$@\"");
        let error = bench.fetch(&python).unwrap_err();
        assert!(matches!(error, FetchError::Network { .. }), "{error}");
        assert!(error.to_string().contains("No matching distribution"), "{error}");
    }
}
