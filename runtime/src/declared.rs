//! What a bundle declares of its model in small JSON files beside the ONNX file, so that every
//! holder means the same by it. What each file says is its own module's.

use serde::de::DeserializeOwned;

use crate::bundle::Bundle;
use crate::limits::DECLARED_FILE_BYTES_MAX;

/// Why such a file is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct DeclaredError {
    /// Its name.
    pub file: String,
    /// What is wrong, for people.
    pub reason: String,
}

/// Reads the file `name` of a bundle, if it has one.
pub(crate) fn read<T: DeserializeOwned>(
    bundle: &Bundle,
    name: &str,
) -> Result<Option<T>, DeclaredError> {
    let Some(entry) = bundle.manifest.files.get(name) else { return Ok(None) };
    if entry.bytes > DECLARED_FILE_BYTES_MAX {
        return Err(fault(name, format!("it has more than {DECLARED_FILE_BYTES_MAX} bytes")));
    }
    let bytes = bundle.read_file(name).map_err(|error| fault(name, error))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| fault(name, error))
}

/// What is wrong with the file `name`.
pub(crate) fn fault(name: &str, reason: impl ToString) -> DeclaredError {
    DeclaredError { file: name.to_owned(), reason: reason.to_string() }
}
