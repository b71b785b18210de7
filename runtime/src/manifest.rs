//! Manifests: which files a bundle has, to the byte. Pure: reads no file. What lies on disk is
//! [`crate::bundle`]'s.
//!
//! The digest is the SHA-256 of the canonical manifest:
//!
//! ```text
//! "hansa-bundle/1\n"
//! for every file, sorted by the bytes of its path:
//!     u32 LE   length of the path
//!     bytes    the path, UTF-8, folders separated by `/`
//!     u64 LE   size of the file
//!     32 bytes SHA-256 of each 1 MiB chunk, the last one shorter (none for an empty file)
//! ```
//!
//! Every count follows from what precedes it, so no two manifests share an encoding.
//! A manifest that a peer sent is read strictly: what decodes encodes to the very same bytes, and
//! its paths stay inside the folder that they are written to.

use std::collections::BTreeMap;
use std::fmt;

use ring::digest::{SHA256, digest};

use crate::bundle::MODEL_FILE;
use crate::limits::*;

const MAGIC: &[u8] = b"hansa-bundle/1\n";

/// SHA-256 of a bundle's canonical manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleDigest(pub [u8; 32]);

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self:x}")
    }
}

/// The digits alone, for names of folders.
impl fmt::LowerHex for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of each 1 MiB.
    pub chunks: Vec<[u8; 32]>,
}

impl Entry {
    /// Bytes of one of its chunks: 1 MiB, but for the last.
    pub fn chunk_bytes(&self, chunk: u32) -> usize {
        let left = self.bytes.saturating_sub(offset(chunk));
        usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES)
    }

    /// Whether these bytes are this chunk.
    pub fn is(&self, chunk: u32, bytes: &[u8]) -> bool {
        self.chunks.get(chunk as usize).is_some_and(|hash| sha256(bytes) == *hash)
    }
}

/// Where a chunk begins in its file.
pub(crate) fn offset(chunk: u32) -> u64 {
    u64::from(chunk) * CHUNK_BYTES as u64
}

/// Every file of a bundle by its path inside, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The files.
    pub files: BTreeMap<String, Entry>,
}

/// Why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Another format, or none.
    #[error("it does not begin as a manifest of version 1")]
    Magic,
    /// Cut off.
    #[error("it ends within a file's description")]
    Truncated,
    /// A path that leads out of the bundle, or is none.
    #[error("the path `{path}` {problem}")]
    Path {
        /// As it came.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not the canonical order.
    #[error("`{path}` is out of order or named twice")]
    Order {
        /// The later one.
        path: String,
    },
    /// Larger than a bundle may be.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// No ONNX file.
    #[error("it names no {MODEL_FILE}")]
    NoModel,
}

impl Manifest {
    /// The canonical encoding, as this module's head describes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (path, entry) in &self.files {
            let length = u32::try_from(path.len()).expect("paths are bounded");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(path.as_bytes());
            bytes.extend_from_slice(&entry.bytes.to_le_bytes());
            entry.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        }
        bytes
    }

    /// Reads the canonical encoding.
    ///
    /// # Errors
    /// Whatever is not canonical, not within the limits, or names a path that is not plain.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(ManifestError::Magic)?;
        let mut manifest = Self::default();
        let mut total = 0u64;
        while !rest.is_empty() {
            let length = u32::from_le_bytes(take(&mut rest)?);
            limit("length of a path", length.into(), BUNDLE_PATH_BYTES_MAX as u64)?;
            let path = split(&mut rest, length as usize)?;
            let path = check_path(path)?;
            let bytes = u64::from_le_bytes(take(&mut rest)?);
            total = total.saturating_add(bytes);
            limit("size in bytes", total, BUNDLE_BYTES_MAX)?;
            limit("number of files", manifest.files.len() as u64 + 1, BUNDLE_FILES_MAX as u64)?;
            let chunks = usize::try_from(bytes.div_ceil(CHUNK_BYTES as u64)).expect("bounded");
            // Split before it is copied: nothing is set aside for a count that was only claimed.
            let chunks = split(&mut rest, chunks * 32)?.as_chunks().0.to_vec();
            if manifest.files.last_key_value().is_some_and(|(last, _)| last.as_str() >= path) {
                return Err(ManifestError::Order { path: path.to_owned() });
            }
            let mut folders = path.match_indices('/').map(|(at, _)| &path[..at]);
            if folders.any(|folder| manifest.files.contains_key(folder)) {
                let problem = "lies in what is also a file";
                return Err(ManifestError::Path { path: path.to_owned(), problem });
            }
            manifest.files.insert(path.to_owned(), Entry { bytes, chunks });
        }
        if !manifest.files.contains_key(MODEL_FILE) {
            return Err(ManifestError::NoModel);
        }
        Ok(manifest)
    }

    /// The bundle's digest.
    pub fn digest(&self) -> BundleDigest {
        BundleDigest(sha256(&self.encode()))
    }

    /// Size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    /// A file by its number, in the order of the manifest.
    pub fn file(&self, file: u32) -> Option<(&str, &Entry)> {
        let (path, entry) = self.files.iter().nth(usize::try_from(file).ok()?)?;
        Some((path, entry))
    }
}

/// Chunks of one file that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of the file, in the order of the manifest.
    pub file: u32,
    /// The first chunk.
    pub first: u32,
    /// How many.
    pub count: u32,
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ManifestError> {
    Ok(split(rest, N)?.try_into().expect("split at N"))
}

fn split<'a>(rest: &mut &'a [u8], at: usize) -> Result<&'a [u8], ManifestError> {
    let (head, tail) = rest.split_at_checked(at).ok_or(ManifestError::Truncated)?;
    *rest = tail;
    Ok(head)
}

/// Whether a bundle's file can have that path.
pub(crate) fn is_plain(path: &str) -> bool {
    path.len() <= BUNDLE_PATH_BYTES_MAX && check_path(path.as_bytes()).is_ok()
}

/// A plain relative path: nothing that any file system reads as a way out.
fn check_path(bytes: &[u8]) -> Result<&str, ManifestError> {
    let refuse = |problem| {
        let path = String::from_utf8_lossy(bytes).into_owned();
        Err(ManifestError::Path { path, problem })
    };
    let Ok(path) = std::str::from_utf8(bytes) else { return refuse("is not UTF-8") };
    if path.contains(['\\', '\0']) {
        return refuse("holds a backslash or a zero");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("is not a plain relative path");
    }
    limit("depth of folders", path.matches('/').count() as u64, BUNDLE_DEPTH_MAX as u64)?;
    Ok(path)
}

fn limit(what: &'static str, value: u64, limit: u64) -> Result<(), ManifestError> {
    if value <= limit { Ok(()) } else { Err(ManifestError::TooLarge { what, limit }) }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    /// Any manifest, `model.onnx` among its files; the hashes are anything.
    fn manifests() -> impl Strategy<Value = Manifest> {
        let size = prop_oneof![Just(0), 1..4 * CHUNK_BYTES as u64, Just(CHUNK_BYTES as u64)];
        let file = (size, any::<[u8; 32]>());
        // The folders' names end in what no file's does, so that none is both.
        btree_map("([a-zä ]{1,9}=/){0,3}[a-z.]{0,5}[a-z]", file, 0..6).prop_map(|mut files| {
            files.insert(MODEL_FILE.to_owned(), (7, [3; 32]));
            let entry = |(bytes, hash): (u64, [u8; 32])| {
                let count = usize::try_from(bytes.div_ceil(CHUNK_BYTES as u64)).unwrap();
                Entry { bytes, chunks: vec![hash; count] }
            };
            let files = files.into_iter().map(|(path, file)| (path, entry(file)));
            Manifest { files: files.collect() }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(manifest in manifests()) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn what_decodes_at_all_is_canonical(
            manifest in manifests(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
        ) {
            let mut bytes = manifest.encode();
            for (at, with) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= with;
            }
            if let Ok(read) = Manifest::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }

        #[test]
        fn no_part_of_a_manifest_is_the_manifest(manifest in manifests(), cut in any::<prop::sample::Index>()) {
            let bytes = manifest.encode();
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert_ne!(Manifest::decode(part), Ok(manifest));
        }

        #[test]
        fn bytes_of_a_stranger_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Manifest::decode(&bytes);
            let _ = Manifest::decode(&[MAGIC, &bytes].concat());
        }
    }

    /// The encoding of files without content, in the order given.
    fn named(paths: &[&str]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for path in paths {
            bytes.extend_from_slice(&u32::try_from(path.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(path.as_bytes());
            bytes.extend_from_slice(&0u64.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_path_that_leads_out_of_the_bundle_is_refused() {
        for path in
            ["..", "../x", "a/../b", "/etc/passwd", "", ".", "a//b", "a/", "a\\..\\b", "a\0b"]
        {
            let read = Manifest::decode(&named(&[path, MODEL_FILE]));
            assert!(matches!(read, Err(ManifestError::Path { .. })), "{path:?}: {read:?}");
        }
        let deep = "d/".repeat(BUNDLE_DEPTH_MAX + 1) + "x";
        let read = Manifest::decode(&named(&[&deep, MODEL_FILE]));
        assert!(matches!(read, Err(ManifestError::TooLarge { what: "depth of folders", .. })));
    }

    #[test]
    fn files_are_sorted_named_once_and_none_is_a_folder_too() {
        assert!(Manifest::decode(&named(&["a", MODEL_FILE])).is_ok());
        for paths in [["z", MODEL_FILE], [MODEL_FILE, MODEL_FILE]] {
            let read = Manifest::decode(&named(&paths));
            assert!(matches!(read, Err(ManifestError::Order { .. })), "{paths:?}");
        }
        let read = Manifest::decode(&named(&["a", "a-b", "a/b", MODEL_FILE]));
        assert!(matches!(read, Err(ManifestError::Path { .. })), "{read:?}");
        assert_eq!(Manifest::decode(&named(&["a"])), Err(ManifestError::NoModel));
    }

    #[test]
    fn what_is_claimed_is_not_set_aside() {
        let mut bytes = named(&[MODEL_FILE]);
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&BUNDLE_BYTES_MAX.to_le_bytes());
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Truncated));
        bytes[at..].copy_from_slice(&u64::MAX.to_le_bytes());
        let read = Manifest::decode(&bytes);
        assert!(matches!(read, Err(ManifestError::TooLarge { what: "size in bytes", .. })));
    }
}
