//! Names of classes: what a model's bundle calls the elements of an output, for apps that want its
//! largest values (the classification extension).
//!
//! The bundle has them in `labels/OUTPUT.txt`, beside its ONNX file: its n-th line names the n-th
//! element of a row, as in the label files of Triton. An element without a line, or with an empty
//! one, has no name.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::Bundle;
use crate::cut::STAGE_FILE;
use crate::declared::{self, DeclaredError};
use crate::limits::{LABEL_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX, TENSORS_MAX};
use crate::manifest::{Manifest, is_plain};
use crate::tensor::TensorSpec;

/// Where the files lie.
const FOLDER: &str = "labels/";
/// How their names end.
const ENDING: &str = ".txt";

/// The labels of a model's outputs.
#[derive(Debug, Default)]
pub struct Labels {
    outputs: BTreeMap<String, Vec<String>>,
    bytes: u64,
}

/// Why there are no labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// The bundle has none.
    #[error("the model's bundle has no labels of its outputs")]
    None,
    /// A file is not what it should be.
    #[error("the bundle's {name}: {reason}")]
    File {
        /// Its path in the bundle.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Labels {
    /// The file of an output's labels in a bundle; none if no file can have that name.
    pub fn file(output: &str) -> Option<String> {
        Some(format!("{FOLDER}{output}{ENDING}")).filter(|path| is_plain(path))
    }

    /// The files of labels in a bundle, by their paths, with their sizes.
    ///
    /// # Errors
    /// There are none, too many, or too large ones.
    pub fn files(manifest: &Manifest) -> Result<Vec<(String, u64)>, LabelsError> {
        let (mut files, mut bytes) = (Vec::new(), 0u64);
        for (name, entry) in manifest.files.iter().filter(|(name, _)| output_of(name).is_some()) {
            let fault = |reason| Err(LabelsError::File { name: name.clone(), reason });
            bytes = bytes.saturating_add(entry.bytes);
            if bytes > LABELS_BYTES_MAX {
                return fault(format!(
                    "with it such files have {bytes} bytes, the limit is {LABELS_BYTES_MAX}"
                ));
            }
            if files.len() == TENSORS_MAX {
                return fault(format!("it is one of more than {TENSORS_MAX} such files"));
            }
            files.push((name.clone(), entry.bytes));
        }
        if files.is_empty() { Err(LabelsError::None) } else { Ok(files) }
    }

    /// What the files say, by their paths.
    ///
    /// # Errors
    /// One is not text, or has too many or too long lines.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, LabelsError> {
        let (mut labels, mut lines) = (Self::default(), 0);
        for (name, bytes) in files {
            let Some(output) = output_of(name) else { continue };
            let fault = |reason| LabelsError::File { name: name.clone(), reason };
            let text = std::str::from_utf8(bytes)
                .map_err(|error| fault(format!("it is not UTF-8: {error}")))?;
            let count = text.lines().count();
            lines += count;
            if lines > LABELS_MAX {
                return Err(fault(format!("such files have more than {LABELS_MAX} lines")));
            }
            if let Some(long) = text.lines().position(|line| line.len() > LABEL_BYTES_MAX) {
                let number = long + 1;
                return Err(fault(format!("line {number} is longer than {LABEL_BYTES_MAX} bytes")));
            }
            labels.bytes += (bytes.len() + count * size_of::<String>()) as u64;
            let names = text.lines().map(|line| line.trim().to_owned()).collect();
            labels.outputs.insert(output.to_owned(), names);
        }
        Ok(labels)
    }

    /// What the element `index` of a row of an output is called.
    pub fn label(&self, output: &str, index: usize) -> Option<&str> {
        let label = self.outputs.get(output)?.get(index)?;
        Some(label.as_str()).filter(|label| !label.is_empty())
    }

    /// What they take in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The outputs of a model that its bundle has labels of.
    ///
    /// # Errors
    /// A file names no output, or is not text.
    pub(crate) fn of(
        bundle: &Bundle,
        outputs: &[TensorSpec],
    ) -> Result<BTreeSet<String>, DeclaredError> {
        let manifest = &bundle.manifest;
        let names = match Self::files(manifest) {
            Ok(names) => names,
            Err(LabelsError::None) => return Ok(BTreeSet::new()),
            Err(error) => return Err(declared::fault("labels", error)),
        };
        let mut labelled = BTreeSet::new();
        for (name, _) in names {
            let bytes = bundle.read_file(&name).map_err(|error| declared::fault(&name, error))?;
            let file = [(name.clone(), bytes)].into();
            Self::read(&file).map_err(|error| declared::fault(&name, error))?;
            let output = output_of(&name).expect("it is such a file");
            if outputs.iter().any(|spec| spec.name == output) {
                labelled.insert(output.to_owned());
            } else if !manifest.files.contains_key(STAGE_FILE) {
                // A stage has those of the whole, for whoever asks it for them.
                let reason = format!("the model has no output `{output}`; name the file as one is");
                return Err(declared::fault(&name, reason));
            }
        }
        Ok(labelled)
    }
}

/// Of which output a file of a bundle has the labels.
fn output_of(file: &str) -> Option<&str> {
    file.strip_prefix(FOLDER)?.strip_suffix(ENDING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Entry;

    #[test]
    fn each_line_names_an_element() {
        let file = |name: &str, text: &[u8]| (name.to_owned(), text.to_vec());
        let files = [file("labels/a/y.txt", b"cat\r\n\n small dog \n"), file("other.txt", b"\xff")];
        let labels = Labels::read(&files.into()).unwrap();
        let of = |index| labels.label("a/y", index);
        assert_eq!([0, 1, 2, 3].map(of), [Some("cat"), None, Some("small dog"), None]);
        assert_eq!(labels.label("y", 0), None);
        assert_eq!(labels.bytes(), 18 + 3 * size_of::<String>() as u64);
        for (text, told) in
            [(vec![b'x'; 257], "line 1 is longer"), (vec![b'\n'; LABELS_MAX + 1], "lines")]
        {
            let fault = Labels::read(&[("labels/y.txt".to_owned(), text)].into()).unwrap_err();
            assert!(fault.to_string().contains(told), "{fault}");
        }
        let binary = Labels::read(&[file("labels/y.txt", b"\xff")].into()).unwrap_err();
        assert!(binary.to_string().contains("labels/y.txt: it is not UTF-8"), "{binary}");
    }

    #[test]
    fn files_are_found_by_their_names_and_bounded() {
        let manifest = |names: &[(&str, u64)]| {
            let entry = |bytes| Entry { bytes, chunks: Vec::new() };
            let files = names.iter().map(|(name, bytes)| ((*name).to_owned(), entry(*bytes)));
            Manifest { files: files.collect() }
        };
        let found =
            Labels::files(&manifest(&[("labels/y.txt", 3), ("labels/y.md", 4), ("y.txt", 5)]));
        assert_eq!(found.unwrap(), [("labels/y.txt".to_owned(), 3)]);
        assert_eq!(Labels::files(&manifest(&[("model.onnx", 1)])), Err(LabelsError::None));
        let large = Labels::files(&manifest(&[("labels/y.txt", LABELS_BYTES_MAX + 1)]));
        assert!(large.unwrap_err().to_string().contains("the limit is"));
        assert_eq!(Labels::file("a:0").unwrap(), "labels/a:0.txt");
        for odd in ["../x", "a//b", "a\\b", "/a"] {
            assert_eq!(Labels::file(odd), None, "{odd}");
        }
    }
}
