//! The store of bundles: what a crash may cost, what is evicted, what is refused.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hansa_runtime::bundle::{Bundle, BundleDigest, Manifest};
use hansa_runtime::limits::CHUNK_BYTES;
use hansa_runtime::manifest::Span;
use hansa_runtime::store::{Partial, Store, StoreError};

const MIB: u64 = CHUNK_BYTES as u64;

/// A bundle in a folder of its own: `model.onnx` of `mib` MiB and 3 bytes, told apart by `tag`, and
/// a file in a folder.
fn bundle(dir: &Path, tag: u8, mib: u64) -> Bundle {
    let dir = dir.join(format!("source-{tag}"));
    fs::create_dir_all(dir.join("tokens")).unwrap();
    let bytes = (0..mib * MIB + 3).map(|at| (at / 7 % 251) as u8 ^ tag).collect::<Vec<_>>();
    fs::write(dir.join("model.onnx"), bytes).unwrap();
    fs::write(dir.join("tokens").join("a.txt"), [tag; 10]).unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    Bundle::open(&dir).unwrap()
}

fn begin(store: &Arc<Store>, source: &Bundle) -> Partial {
    store.begin(source.manifest.clone()).unwrap()
}

fn copy(partial: &Partial, source: &Bundle, spans: &[Span]) {
    for span in spans {
        partial.write(span.file, span.first, &source.read(*span).unwrap()).unwrap();
    }
}

fn held(store: &Store) -> Vec<BundleDigest> {
    let whole = store.list().into_iter().filter(|stored| stored.is_whole);
    whole.map(|stored| stored.digest).collect()
}

/// Puts the bundle in and drops it, so that it is not in use.
fn put(store: &Arc<Store>, source: &Bundle) -> BundleDigest {
    store.add(source.dir()).unwrap();
    source.digest
}

#[test]
fn what_was_pulled_is_there_after_a_restart_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let source = bundle(dir.path(), 1, 2);
    let folder = dir.path().join("store");
    let store = Store::open(&folder, 100 * MIB).unwrap();
    assert!(!folder.exists(), "a store that holds nothing writes nothing");
    let partial = begin(&store, &source);
    let spans = partial.missing(2);
    let model = Span { file: 1, first: 0, count: 2 };
    assert_eq!(spans.len(), 3, "2 + 1 chunks and one of the small file: {spans:?}");
    assert!(spans.contains(&model));
    copy(&partial, &source, &partial.missing(1));
    assert_eq!(partial.bytes_left(), 0);
    let made = partial.finish().unwrap();
    assert_eq!(made.digest, source.digest);
    made.verify().unwrap();
    drop((made, store));
    let store = Store::open(&folder, 100 * MIB).unwrap();
    assert_eq!(held(&store), [source.digest]);
    let again = store.get(source.digest).unwrap().unwrap();
    again.verify().unwrap();
    assert_eq!(again.read_model().unwrap(), source.read_model().unwrap());
    assert_eq!(Bundle::open(again.dir()).unwrap().digest, source.digest);
}

#[test]
fn a_crash_costs_at_most_the_chunks_that_it_tore() {
    let dir = tempfile::tempdir().unwrap();
    let source = bundle(dir.path(), 1, 6);
    let folder = dir.path().join("store");
    {
        let store = Store::open(&folder, 100 * MIB).unwrap();
        let partial = begin(&store, &source);
        copy(&partial, &source, &[0, 1, 4].map(|first| Span { file: 1, first, count: 1 }));
    }
    // The crash: half of chunk 1 is not what was written, and chunk 4 was cut off by the end.
    let file = folder.join(format!("{:x}.partial/files/model.onnx", source.digest));
    let mut bytes = fs::read(&file).unwrap();
    bytes[CHUNK_BYTES + 17..CHUNK_BYTES * 2].fill(0);
    bytes.truncate(CHUNK_BYTES * 5 - 1);
    fs::write(&file, bytes).unwrap();

    let store = Store::open(&folder, 100 * MIB).unwrap();
    assert_eq!(held(&store), [], "unfinished is not held");
    assert!(store.get(source.digest).unwrap().is_none());
    let partial = begin(&store, &source);
    let missing: Vec<(u32, u32)> =
        partial.missing(1).iter().map(|span| (span.file, span.first)).collect();
    assert_eq!(missing, [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 0)]);
    assert_eq!(partial.bytes_left(), 5 * MIB + 3 + 10);
    copy(&partial, &source, &partial.missing(1));
    partial.finish().unwrap().verify().unwrap();
}

#[test]
fn a_chunk_that_is_not_what_the_manifest_says_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let source = bundle(dir.path(), 1, 1);
    let store = Store::open(&dir.path().join("store"), 100 * MIB).unwrap();
    let partial = begin(&store, &source);
    let span = Span { file: 1, first: 0, count: 1 };
    let good = source.read(span).unwrap();
    let mut wrong = good.clone();
    wrong[CHUNK_BYTES - 1] ^= 1;
    let outside = [(1, 2), (3, 0), (0, 0), (u32::MAX, u32::MAX)];
    for (file, chunk, bytes) in [(1, 0, &wrong[..]), (1, 0, &good[1..]), (1, 1, &good), (1, 0, &[])]
        .into_iter()
        .chain(outside.map(|(file, chunk)| (file, chunk, &good[..])))
    {
        let written = partial.write(file, chunk, bytes);
        assert!(matches!(written, Err(StoreError::WrongChunk { .. })), "{file} {chunk}");
    }
    let file = dir.path().join(format!("store/{:x}.partial/files/model.onnx", source.digest));
    assert_eq!(fs::read(file).unwrap(), b"");
    assert!(partial.write(1, 0, &good).unwrap());
    assert!(!partial.write(1, 0, &good).unwrap(), "the second time it was there");
    assert!(matches!(partial.finish(), Err(StoreError::Unfinished(13))));
}

#[test]
fn the_least_recently_used_goes_first_and_what_is_in_use_never() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let sources: Vec<Bundle> = (1..=5).map(|tag| bundle(dir.path(), tag, 1)).collect();
    let store = Store::open(&folder, 3 * (MIB + 13)).unwrap();
    let [a, b, c] = [0, 1, 2].map(|index| put(&store, &sources[index]));
    drop(store.get(a).unwrap().unwrap());
    // A restart knows the order still.
    drop(store);
    let store = Store::open(&folder, 3 * (MIB + 13)).unwrap();
    assert_eq!(held(&store).len(), 3);
    let d = put(&store, &sources[3]);
    let sorted = |mut digests: Vec<BundleDigest>| {
        digests.sort();
        digests
    };
    assert_eq!(held(&store), sorted(vec![a, c, d]), "b was the least recently used");
    let used = store.get(c).unwrap().unwrap();
    drop(store.get(a).unwrap());
    drop(store.get(d).unwrap());
    let e = put(&store, &sources[4]);
    assert_eq!(held(&store), sorted(vec![c, d, e]), "c is in use, so a went");
    let all: Vec<Bundle> = [d, e].map(|digest| store.get(digest).unwrap().unwrap()).into();
    let refused = store.add(sources[1].dir());
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(held(&store).len(), 3, "nothing is evicted in vain");
    drop((used, all));
    assert_eq!(put(&store, &sources[1]), b);
}

#[test]
fn a_bundle_that_can_never_fit_is_refused_and_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), 2 * MIB).unwrap();
    let small = bundle(dir.path(), 1, 1);
    put(&store, &small);
    let large = bundle(dir.path(), 2, 2);
    let refused = store.begin(large.manifest.clone()).unwrap_err();
    assert!(matches!(refused, StoreError::TooLarge { bytes_max, .. } if bytes_max == 2 * MIB));
    assert!(refused.to_string().contains("bundles_gib_max"), "{refused}");
    assert_eq!(held(&store), [small.digest]);
}

#[test]
fn an_unfinished_bundle_counts_whole_and_gives_way_when_nobody_works_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), 3 * MIB).unwrap();
    let (first, second) = (bundle(dir.path(), 1, 2), bundle(dir.path(), 2, 2));
    let partial = begin(&store, &first);
    assert!(matches!(store.begin(first.manifest.clone()), Err(StoreError::Taken(_))));
    assert!(matches!(store.remove(first.digest), Err(StoreError::Taken(_))));
    assert!(matches!(store.begin(second.manifest.clone()), Err(StoreError::Full { .. })));
    drop(partial);
    put(&store, &second);
    assert_eq!(store.list().len(), 1);
}

#[test]
fn what_is_removed_is_gone_and_what_is_damaged_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let store = Store::open(&folder, 100 * MIB).unwrap();
    let source = bundle(dir.path(), 1, 1);
    let digest = put(&store, &source);
    let place = folder.join(format!("{digest:x}"));
    fs::write(place.join("files/tokens/a.txt"), b"0123456789").unwrap();
    let damaged = store.get(digest).unwrap().unwrap().verify();
    assert!(damaged.is_err(), "another ten bytes");
    fs::write(place.join("manifest"), Manifest::default().encode()).unwrap();
    assert!(matches!(store.get(digest), Err(StoreError::Damaged { .. })));
    assert!(store.remove(digest).unwrap());
    assert!(!place.exists() && !store.remove(digest).unwrap());
    assert_eq!(put(&store, &source), digest);
}

#[test]
fn a_folder_whose_names_are_paths_elsewhere_is_not_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let source = bundle(dir.path(), 1, 0);
    fs::write(source.dir().join("..\\x"), b"").unwrap();
    let store = Store::open(&dir.path().join("store"), MIB).unwrap();
    assert!(matches!(store.add(source.dir()), Err(StoreError::Manifest(_))));
}

#[test]
fn chunks_are_read_within_the_manifest_only() {
    let dir = tempfile::tempdir().unwrap();
    let source = bundle(dir.path(), 1, 2);
    let read = |file, first, count| source.read(Span { file, first, count });
    assert_eq!(read(1, 1, 2).unwrap().len(), CHUNK_BYTES + 3);
    assert_eq!(read(1, 0, 3).unwrap(), source.read_model().unwrap());
    for (file, first, count) in [(1, 0, 4), (1, 3, 1), (1, 0, 0), (0, 0, 1), (3, 0, 1)] {
        assert!(read(file, first, count).is_err(), "{file} {first} {count}");
    }
    assert!(read(1, u32::MAX, u32::MAX).is_err());
    fs::write(source.model_path(), b"short").unwrap();
    assert!(read(1, 0, 1).is_err(), "the file was cut");
}
