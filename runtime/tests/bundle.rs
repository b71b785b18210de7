//! What a bundle's digest covers and what it does not.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use hansa_runtime::bundle::{Bundle, BundleDigest, BundleError};
use hansa_runtime::limits::CHUNK_BYTES;

/// A folder with three files, made in the order that `order` says.
fn folder(dir: &Path, order: [usize; 3]) -> BundleDigest {
    fs::create_dir(dir.join("tokens")).unwrap();
    let files = [("model.onnx", &b"model"[..]), ("tokens/a.txt", b"a"), ("empty", b"")];
    for index in order {
        fs::write(dir.join(files[index].0), files[index].1).unwrap();
    }
    Bundle::open(dir).unwrap().digest
}

#[test]
fn the_digest_is_golden_and_the_order_on_disk_does_not_matter() {
    let digests = [[0, 1, 2], [2, 1, 0], [1, 2, 0]].map(|order| {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), order).to_string()
    });
    // By Python's hashlib over the encoding that bundle.rs describes.
    let golden = "sha256:f3e0d7610a9176fb00ae8903546c12c5cb2b520f49b450629c02d91890ddc203";
    assert_eq!(digests, [golden; 3]);
}

#[test]
fn any_flipped_bit_renamed_file_or_moved_border_is_another_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut model = vec![7; CHUNK_BYTES * 2 + 3];
    fs::write(at("model.onnx"), &model).unwrap();
    fs::write(at("a"), b"12").unwrap();
    fs::write(at("b"), b"3").unwrap();
    let digest = || Bundle::open(dir.path()).unwrap().digest;
    let before = digest();
    let last = model.len() - 1;
    for index in [0, CHUNK_BYTES - 1, CHUNK_BYTES, last] {
        model[index] ^= 1;
        fs::write(at("model.onnx"), &model).unwrap();
        assert_ne!(digest(), before, "byte {index}");
        model[index] ^= 1;
    }
    fs::write(at("model.onnx"), &model).unwrap();
    assert_eq!(digest(), before);
    fs::write(at("a"), b"1").unwrap();
    fs::write(at("b"), b"23").unwrap();
    assert_ne!(digest(), before);
    fs::write(at("a"), b"12").unwrap();
    fs::remove_file(at("b")).unwrap();
    fs::write(at("c"), b"3").unwrap();
    assert_ne!(digest(), before);
}

#[test]
fn a_file_is_the_same_bundle_as_a_folder_with_it_and_its_data() {
    let model = adder(&[("location", "w.bin")]);
    let (file, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(file.path().join("other-name.onnx"), &model).unwrap();
    fs::write(file.path().join("unrelated.txt"), "x").unwrap();
    write(dir.path(), &model);
    for dir in [&file, &dir] {
        fs::write(dir.path().join("w.bin"), f32s(&[1.0; 4])).unwrap();
    }
    let from_file = Bundle::open(&file.path().join("other-name.onnx")).unwrap();
    assert_eq!(from_file.digest, Bundle::open(dir.path()).unwrap().digest);
    let names: Vec<&String> = from_file.manifest.files.keys().collect();
    assert_eq!(names, ["model.onnx", "w.bin"]);
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Bundle::open(dir.path()), Err(BundleError::NoModel { .. })));
    let nowhere = Bundle::open(&dir.path().join("none.onnx"));
    assert!(matches!(nowhere, Err(BundleError::Missing { .. })));
    let path = write(dir.path(), &adder(&[("location", "w.bin")]));
    let error = Bundle::open(&path).unwrap_err();
    assert!(matches!(&error, BundleError::Missing { path } if path.ends_with("w.bin")), "{error}");
    let path = write(dir.path(), &adder(&[("location", "../w.bin")]));
    assert!(matches!(Bundle::open(&path), Err(BundleError::Scan { .. })));
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_refused_and_links_inside_are_files() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.onnx"), "m").unwrap();
    symlink("model.onnx", dir.path().join("inside")).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    assert_eq!(bundle.manifest.files["inside"], bundle.manifest.files["model.onnx"]);
    for target in [outside.path().join("secret"), outside.path().to_owned(), "nowhere".into()] {
        let link = dir.path().join("link");
        symlink(target, &link).unwrap();
        assert!(matches!(Bundle::open(dir.path()), Err(BundleError::Link { .. })));
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_model_that_changed_after_hashing_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &identity(1, &[1]));
    let bundle = Bundle::open(&path).unwrap();
    bundle.read_model().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(bundle.read_model(), Err(BundleError::Changed { .. })));
}
