//! Small real models out of pinned wheels, for the demo and the tests. Each is a folder in the
//! cache that holds `model.onnx`.

use std::path::PathBuf;

use crate::cache;
use crate::protobuf::{Fields, Value};
use crate::wheel::{FetchError, Progress, Wheel, fetch};

/// Google's file type classifier (Apache-2.0).
const MAGIKA: Wheel = Wheel {
    name: "magika",
    version: "1.0.3",
    platforms: &["any"],
    sha256: "938d8e033953f2ddeb8c35dc423aa289ca116bfa7a71a778f6e77460f9025803",
    members: &[
        ("magika/models/standard_v3_3/model.onnx", "model.onnx"),
        ("magika/models/standard_v3_3/config.min.json", "config.min.json"),
    ],
};

/// Silero's voice activity detector (MIT).
const SILERO_VAD: Wheel = Wheel {
    name: "silero-vad",
    version: "6.2.3",
    platforms: &["any"],
    sha256: "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    members: &[("silero_vad/data/silero_vad.onnx", "model.onnx")],
};

/// PaddleOCR's text recognizer (Apache-2.0), as RapidOCR packs it.
const READER: Wheel = Wheel {
    name: "rapidocr-onnxruntime",
    version: "1.4.4",
    platforms: &["any"],
    sha256: "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    members: &[("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "model.onnx")],
};

/// What a file is, from its first and last 1,024 bytes. `config.min.json` names the labels.
pub fn magika(progress: Progress) -> Result<PathBuf, FetchError> {
    model(&MAGIKA, "models/magika-1.0.3", progress)
}

/// Whether somebody speaks, from 32 ms of sound.
pub fn silero_vad(progress: Progress) -> Result<PathBuf, FetchError> {
    model(&SILERO_VAD, "models/silero-vad-6.2.3", progress)
}

/// The words of a picture of one line, 48 pixels high. Its property `character` lists the letters.
pub fn reader(progress: Progress) -> Result<PathBuf, FetchError> {
    model(&READER, "models/rapidocr-reader-1.4.4", progress)
}

/// A property that an ONNX file says of itself (`ModelProto.metadata_props`).
pub fn property(model: &[u8], key: &str) -> Option<String> {
    let text = |entry: &[u8], number| {
        Fields::new(entry).find_map(|field| match field {
            Ok((found, Value::Bytes(bytes))) if found == number => {
                String::from_utf8(bytes.to_vec()).ok()
            }
            _ => None,
        })
    };
    Fields::new(model).find_map(|field| match field {
        Ok((14, Value::Bytes(entry))) if text(entry, 1)? == key => text(entry, 2),
        _ => None,
    })
}

fn model(wheel: &Wheel, folder: &str, progress: Progress) -> Result<PathBuf, FetchError> {
    fetch(wheel, &cache::dir().ok_or(FetchError::NoCache)?, folder, progress)
}
