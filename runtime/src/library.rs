//! ONNX Runtime's shared library: where it is, and how it comes into the user's cache. Loading it
//! is [`crate::runtime`]'s.

use std::env;
use std::path::{Path, PathBuf};

use crate::cache;
use crate::wheel::{FetchError, Progress, Wheel, fetch, installed};

/// Environment variable that names a library and goes before the cache.
pub const LIBRARY_VAR: &str = "HANSA_ONNXRUNTIME";
/// The version that [`install`] fetches.
pub const VERSION: &str = "1.31.1";

const LINUX: &[&str] = &["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"];
const LINUX_ARM: &[&str] = &["manylinux_2_28_aarch64", "manylinux_2_27_aarch64"];
const MACOS_ARM: &[&str] = &["macosx_14_0_arm64", "macosx_13_0_arm64"];
const SO: (&str, &str) = ("onnxruntime/capi/libonnxruntime.so.1.31.1", "libonnxruntime.so");
const DYLIB: (&str, &str) =
    ("onnxruntime/capi/libonnxruntime.1.31.1.dylib", "libonnxruntime.dylib");
const SHARED: (&str, &str) =
    ("onnxruntime/capi/libonnxruntime_providers_shared.so", "libonnxruntime_providers_shared.so");
const CUDA: (&str, &str) =
    ("onnxruntime/capi/libonnxruntime_providers_cuda.so", "libonnxruntime_providers_cuda.so");

/// Operating system, architecture, with CUDA or not, and the wheel for it.
const WHEELS: [(&str, &str, bool, Wheel); 4] = [
    (
        "linux",
        "x86_64",
        false,
        Wheel {
            name: "onnxruntime",
            version: VERSION,
            platforms: LINUX,
            sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
            members: &[SO],
        },
    ),
    (
        "linux",
        "aarch64",
        false,
        Wheel {
            name: "onnxruntime",
            version: VERSION,
            platforms: LINUX_ARM,
            sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
            members: &[SO],
        },
    ),
    (
        "macos",
        "aarch64",
        false,
        Wheel {
            name: "onnxruntime",
            version: VERSION,
            platforms: MACOS_ARM,
            sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
            members: &[DYLIB],
        },
    ),
    (
        "linux",
        "x86_64",
        true,
        Wheel {
            name: "onnxruntime-gpu",
            version: VERSION,
            platforms: LINUX,
            sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
            members: &[SO, SHARED, CUDA],
        },
    ),
];

/// A library that is there. Whether it loads, [`crate::runtime::Runtime::load`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The file.
    pub path: PathBuf,
}

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// Nothing is installed.
    #[error(
        "ONNX Runtime is not installed: run `hansa onnxruntime install`, or name a library in {LIBRARY_VAR} or in `[runtime] library`"
    )]
    NotInstalled,
    /// The named file is not there.
    #[error("{from} names {path}, which is no file", path = path.display())]
    Missing {
        /// Who named it.
        from: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// No wheel is pinned for this machine.
    #[error("no pinned ONNX Runtime for {os} on {arch}{with}; build or get a library of version 1.24 or later and name it in {LIBRARY_VAR}", with = if *gpu { " with CUDA" } else { "" })]
    NoWheel {
        /// Operating system.
        os: &'static str,
        /// Architecture.
        arch: &'static str,
        /// Whether CUDA was asked for.
        gpu: bool,
    },
    /// It does not load.
    #[error("{path} cannot be used as ONNX Runtime: {said}", path = path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        said: String,
    },
    /// Another library is in use; a process has one.
    #[error("this process already uses {path} and cannot change; restart it", path = path.display())]
    AlreadyLoaded {
        /// The one in use.
        path: PathBuf,
    },
    /// The wheel could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl Library {
    /// The library that `[runtime] library` means: a path, or `auto` for [`LIBRARY_VAR`], then the
    /// cache, where the one with CUDA goes first because somebody asked for it.
    pub fn find(setting: &str) -> Result<Self, LibraryError> {
        if setting != "auto" {
            return Self::at("`[runtime] library`", setting.into());
        }
        if let Some(path) = env::var_os(LIBRARY_VAR).filter(|path| !path.is_empty()) {
            return Self::at(LIBRARY_VAR, path.into());
        }
        let cache = cache::dir().ok_or(FetchError::NoCache)?;
        let cached = [true, false].into_iter().find_map(|gpu| {
            let wheel = wheel(gpu).ok()?;
            Some(Self::in_dir(&installed(wheel, &cache, &folder(gpu))?, wheel))
        });
        cached.ok_or(LibraryError::NotInstalled)
    }

    /// ONNX Runtime's CUDA provider beside the library, if it is there.
    pub fn cuda_provider(&self) -> Option<PathBuf> {
        Some(self.path.parent()?.join(CUDA.1)).filter(|path| path.is_file())
    }

    fn at(from: &'static str, path: PathBuf) -> Result<Self, LibraryError> {
        // Absolute, because ort reads relative paths from the executable's folder.
        match path.canonicalize() {
            Ok(absolute) if absolute.is_file() => Ok(Self { path: absolute }),
            _ => Err(LibraryError::Missing { from, path }),
        }
    }

    fn in_dir(dir: &Path, wheel: &Wheel) -> Self {
        Self { path: dir.join(wheel.members[0].1) }
    }
}

/// Fetches ONNX Runtime into the user's cache; at once when it is there already. With `gpu` it is
/// the build with CUDA, which needs CUDA 13 and cuDNN 9 of the system's own (or of the `nvidia-*`
/// wheels, on `LD_LIBRARY_PATH`): they are not in ONNX Runtime's wheel.
pub fn install(gpu: bool, progress: Progress) -> Result<Library, LibraryError> {
    let wheel = wheel(gpu)?;
    let cache = cache::dir().ok_or(FetchError::NoCache)?;
    let dir = fetch(wheel, &cache, &folder(gpu), progress)?;
    Ok(Library::in_dir(&dir, wheel))
}

fn folder(gpu: bool) -> String {
    format!("onnxruntime/{VERSION}{}", if gpu { "-gpu" } else { "" })
}

fn wheel(gpu: bool) -> Result<&'static Wheel, LibraryError> {
    let (os, arch) = (env::consts::OS, env::consts::ARCH);
    // The wheels are linked against glibc.
    let row = WHEELS.iter().find(|row| (row.0, row.1, row.2) == (os, arch, gpu));
    row.filter(|_| !cfg!(target_env = "musl")).map(|row| &row.3).ok_or(LibraryError::NoWheel {
        os,
        arch,
        gpu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_library_that_is_no_file_is_refused_with_who_named_it() {
        let error = Library::find("/nowhere/libonnxruntime.so").unwrap_err();
        assert!(matches!(error, LibraryError::Missing { .. }));
        assert!(error.to_string().contains("`[runtime] library`"), "{error}");
    }

    #[test]
    fn install_twice_fetches_once() {
        let first = install(false, Progress::Stderr).unwrap();
        let made = first.path.metadata().unwrap().modified().unwrap();
        let second = install(false, Progress::Stderr).unwrap();
        assert_eq!(first, second);
        assert_eq!(second.path.metadata().unwrap().modified().unwrap(), made);
    }
}
