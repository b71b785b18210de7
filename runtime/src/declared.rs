//! What a bundle declares of its model in small JSON files beside the ONNX file, so that every
//! holder means the same by it. What each file says is its own module's.

use serde::de::DeserializeOwned;

use crate::bundle::Bundle;
use crate::labels::Labels;
use crate::limits::DECLARED_FILE_BYTES_MAX;
use crate::loops::{self, Loop};
use crate::sequence::{self, Sequence};
use crate::tensor::{Signature, TensorSpec};

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

impl Signature {
    /// A model of these inputs and outputs, as its bundle declares it.
    ///
    /// # Errors
    /// What is declared is not understood, or does not fit the model.
    pub(crate) fn declared(
        bundle: &Bundle,
        inputs: Vec<TensorSpec>,
        outputs: Vec<TensorSpec>,
    ) -> Result<Self, DeclaredError> {
        let sequence: Option<Sequence> = read(bundle, sequence::FILE)?;
        let looped: Option<Loop> = read(bundle, loops::FILE)?;
        let labels = Labels::of(bundle, &outputs)?;
        let own = Self { inputs, outputs, sequence, looped, labels, ..Self::default() };
        own.check_declared()?;
        Ok(own)
    }

    /// Whether what is declared fits the model: also to be asked of a description that comes from a
    /// peer, which may say anything.
    ///
    /// # Errors
    /// It does not.
    pub fn check_declared(&self) -> Result<(), DeclaredError> {
        let Self { inputs, outputs, sequence, looped, .. } = self;
        if sequence.is_some() && looped.is_some() {
            let other = sequence::FILE;
            let reason = format!("the bundle has {other} as well; a model is one or the other");
            return Err(fault(loops::FILE, reason));
        }
        let fits = sequence.as_ref().map_or(Ok(()), |own| own.check(inputs, outputs));
        fits.map_err(|reason| fault(sequence::FILE, reason))?;
        let fits = looped.as_ref().map_or(Ok(()), |own| own.check(inputs, outputs));
        fits.map_err(|reason| fault(loops::FILE, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOOP_STEPS_MAX;
    use crate::tensor::DType;

    #[test]
    fn what_a_peer_says_of_a_model_is_held_to_what_a_bundle_may_say() {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DType::Int64,
            shape: [1].into(),
        };
        let text = r#"{ "states": { "next": "last" }, "emits": ["next"], "while": "more",
            "steps_max": 5 }"#;
        let told = Signature {
            inputs: vec![spec("last")],
            outputs: vec![spec("next"), spec("more")],
            looped: Some(serde_json::from_str(text).unwrap()),
            ..Signature::default()
        };
        told.check_declared().unwrap();
        let refused = |change: fn(&mut Signature)| {
            let mut told = told.clone();
            change(&mut told);
            told.check_declared().unwrap_err().to_string()
        };
        let steps = refused(|told| told.looped.as_mut().unwrap().steps_max = 0);
        assert!(steps.contains("loop.json: steps_max is 0"), "{steps}");
        let steps = refused(|told| told.looped.as_mut().unwrap().steps_max = LOOP_STEPS_MAX + 1);
        assert!(steps.contains("steps_max"), "{steps}");
        let both = refused(|told| told.sequence = Some(Sequence::default()));
        assert!(both.contains("one or the other"), "{both}");
    }
}
