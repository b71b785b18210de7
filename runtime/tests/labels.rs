//! What a bundle calls the elements of its outputs: checked when it is loaded, and with its stages.

mod common;

use std::fs;

use common::*;
use hansa_runtime::LoadError;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::{Wanted, cut};
use hansa_runtime::engine::EngineConfig;

fn folder(file: &str, text: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &layers(2, 16, 5));
    fs::create_dir(dir.path().join("labels")).unwrap();
    fs::write(dir.path().join("labels").join(file), text).unwrap();
    dir
}

#[test]
fn a_signature_says_which_outputs_have_labels_and_stages_have_them_too() {
    let dir = folder("y.txt", b"cat\ndog\n");
    let one = engine(dir.path(), &EngineConfig::default());
    assert!(one.signature().labels.iter().eq(["y"]));
    let bundle = Bundle::open(dir.path()).unwrap();
    let out = dir.path().join("out");
    let made = cut(runtime(), &bundle, &Wanted::Stages(2), &out).unwrap();
    for (number, stage) in made.stages.iter().enumerate() {
        assert!(stage.signature.labels.iter().eq(["y"]));
        let folder = out.join(format!("stage-{number}"));
        assert_eq!(fs::read(folder.join("labels/y.txt")).unwrap(), b"cat\ndog\n");
        // The first stage has no such output, and is served all the same.
        engine(&folder, &EngineConfig::default());
    }
}

#[test]
fn labels_of_no_output_and_labels_that_are_no_text_keep_a_model_from_being_served() {
    for (file, text, word) in [
        ("z.txt", &b"cat"[..], "labels/z.txt: the model has no output `z`"),
        ("y.txt", b"\xff", "labels/y.txt: it is not UTF-8"),
    ] {
        let dir = folder(file, text);
        let bundle = Bundle::open(dir.path()).unwrap();
        let error = runtime().engine(&bundle, &cpu(), &EngineConfig::default()).err().unwrap();
        assert!(matches!(error, LoadError::Declared(_)), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}
