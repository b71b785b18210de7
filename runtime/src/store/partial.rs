//! A bundle on its way into the store: chunks in any order, each held against its hash before it
//! is written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{FILES, Store, StoreError, at, sync};
use crate::bundle::{Bundle, BundleDigest, Manifest, Pin};
use crate::hashing::{Found, hash};
use crate::manifest::{Span, offset};

/// An unfinished bundle. Dropped, it stays on disk, and [`Store::begin`] goes on with it.
#[derive(Debug)]
pub struct Partial {
    store: Arc<Store>,
    manifest: Manifest,
    digest: BundleDigest,
    folder: PathBuf,
    missing: Mutex<Missing>,
    pin: Pin,
}

#[derive(Debug, Default)]
struct Missing {
    /// File and chunk, by number.
    chunks: BTreeSet<(u32, u32)>,
    bytes: u64,
}

impl Partial {
    /// Looks at what is on disk: what hashes as the manifest says is there, the rest is missing,
    /// whatever a crash has made of it.
    pub(super) fn open(
        store: Arc<Store>,
        manifest: Manifest,
        pin: Pin,
    ) -> Result<Self, StoreError> {
        let digest = manifest.digest();
        let folder = store.place(digest, false);
        let files = folder.join(FILES);
        let mut found = Vec::new();
        for (name, entry) in &manifest.files {
            let path = files.join(name);
            let parent = path.parent().expect("it is in the bundle's folder");
            fs::create_dir_all(parent).map_err(at(parent))?;
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(at(&path))?;
            if file.metadata().map_err(at(&path))?.len() > entry.bytes {
                file.set_len(entry.bytes).map_err(at(&path))?;
            }
            found.push(Found::new(name.clone(), path)?);
        }
        let there = hash(&found)?;
        let mut missing = Missing::default();
        for (file, (name, entry)) in (0..).zip(&manifest.files) {
            let there = &there.files[name].chunks;
            for (chunk, hash) in (0..).zip(&entry.chunks) {
                if there.get(chunk as usize) != Some(hash) {
                    missing.chunks.insert((file, chunk));
                    missing.bytes += entry.chunk_bytes(chunk) as u64;
                }
            }
        }
        Ok(Self { store, manifest, digest, folder, missing: Mutex::new(missing), pin })
    }

    /// The whole of which this is a part.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What is missing, in spans of at most `most` chunks.
    pub fn missing(&self, most: u32) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for &(file, chunk) in &self.lock().chunks {
            match spans.last_mut() {
                Some(last)
                    if last.file == file
                        && last.first + last.count == chunk
                        && last.count < most =>
                {
                    last.count += 1;
                }
                _ => spans.push(Span { file, first: chunk, count: 1 }),
            }
        }
        spans
    }

    /// Bytes that are missing.
    pub fn bytes_left(&self) -> u64 {
        self.lock().bytes
    }

    /// Takes in a chunk, if it is what the manifest says. One that is there already is not written
    /// again. Whether it was missing.
    ///
    /// # Errors
    /// [`StoreError::WrongChunk`] is the sender's fault, the others are this machine's.
    pub fn write(&self, file: u32, chunk: u32, bytes: &[u8]) -> Result<bool, StoreError> {
        let wrong = || StoreError::WrongChunk { file, chunk };
        let (name, entry) = self.manifest.file(file).ok_or_else(wrong)?;
        if !entry.is(chunk, bytes) {
            return Err(wrong());
        }
        if !self.lock().chunks.contains(&(file, chunk)) {
            return Ok(false);
        }
        let path = self.folder.join(FILES).join(name);
        let open = File::options().write(true).open(&path).map_err(at(&path))?;
        open.write_all_at(bytes, offset(chunk)).map_err(at(&path))?;
        let mut missing = self.lock();
        let was_missing = missing.chunks.remove(&(file, chunk));
        if was_missing {
            missing.bytes -= bytes.len() as u64;
        }
        Ok(was_missing)
    }

    /// Makes the bundle whole: everything is on disk before its folder gets its name.
    ///
    /// # Errors
    /// Chunks are missing, or the disk fails.
    pub fn finish(&self) -> Result<Bundle, StoreError> {
        let left = self.bytes_left();
        if left > 0 {
            return Err(StoreError::Unfinished(left));
        }
        let files = self.folder.join(FILES);
        let mut folders = BTreeSet::from([files.clone(), self.folder.clone()]);
        for name in self.manifest.files.keys() {
            let path = files.join(name);
            sync(&path)?;
            let above = path.ancestors().skip(1).take_while(|folder| *folder != files);
            folders.extend(above.map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| sync(folder))?;
        let place = self.store.place(self.digest, true);
        let mut items = self.store.items();
        fs::rename(&self.folder, &place).map_err(at(&place))?;
        sync(&self.store.folder)?;
        if let Some(item) = items.get_mut(&self.digest) {
            item.is_whole = true;
        }
        drop(items);
        Ok(Bundle::stored(self.manifest.clone(), place.join(FILES), self.pin.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Missing> {
        self.missing.lock().expect("no holder panics")
    }
}
