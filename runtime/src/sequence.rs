//! Models whose requests come in sequences: what one request leaves behind, the next one is given.
//!
//! The bundle says so in a file `sequence.json` beside its ONNX file, so that every holder means the
//! same by it:
//!
//! ```json
//! { "states": { "stateN": "state" }, "start": "START", "ready": "READY", "end": "END", "id": "CORRID" }
//! ```
//!
//! `states` maps outputs to the inputs that they become; the others, each optional, name inputs that
//! tell a request's place: 1 or 0 for start, end and ready (which is always 1), and the sequence's
//! id. Whoever takes in requests keeps the states between them (see the node's `api::sequences`);
//! for an executor all of these are inputs and outputs like any.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::BROUGHT_BYTES_MAX;
use crate::states::{self, States, find, sized};
use crate::tensor::{DType, Signature, Tensor, TensorSpec};

/// The file's name.
pub(crate) const FILE: &str = "sequence.json";

/// Which inputs and outputs carry a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// Outputs, and the inputs that they become in the next request.
    #[serde(default)]
    pub states: States,
    /// Input that is 1 in a sequence's first request.
    pub start: Option<String>,
    /// Input that is 1 in every request.
    pub ready: Option<String>,
    /// Input that is 1 in the last request.
    pub end: Option<String>,
    /// Input that is the sequence's id.
    pub id: Option<String>,
}

/// An app's name for a sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SequenceId {
    /// A number, not 0.
    Number(u64),
    /// A text, not empty.
    Text(String),
}

/// A request's place in its sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which sequence.
    pub id: SequenceId,
    /// Whether it is the first.
    pub start: bool,
    /// Whether it is the last.
    pub end: bool,
}

impl Sequence {
    /// Whether it fits a model with these inputs and outputs.
    pub(crate) fn check(
        &self,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<(), String> {
        states::check(&self.states, inputs, outputs)?;
        for name in self.flags().into_iter().flatten() {
            let spec = find(inputs, name, "input")?;
            if flag(spec.datatype, false).is_none() {
                return Err(format!("`{name}` is {}, which says neither 0 nor 1", spec.datatype));
            }
        }
        if let Some(name) = &self.id {
            find(inputs, name, "input")?;
        }
        let names = self.states.values().chain(self.flags().into_iter().flatten()).chain(&self.id);
        states::check_once(names)
    }

    fn flags(&self) -> [Option<&String>; 3] {
        [self.start.as_ref(), self.ready.as_ref(), self.end.as_ref()]
    }

    /// Whether the app does not give this input itself.
    pub fn brings(&self, input: &str) -> bool {
        let is = |name: &String| name == input;
        let mut flags = self.flags().into_iter().flatten();
        self.states.values().any(is) || flags.any(is) || self.id.as_ref().is_some_and(is)
    }
}

impl Signature {
    /// What apps give and get: without what a sequence brings and keeps, or a loop carries.
    pub fn for_apps(&self) -> Self {
        let mut shown = self.clone();
        if let Some(sequence) = &self.sequence {
            shown.inputs.retain(|spec| !sequence.brings(&spec.name));
            shown.outputs.retain(|spec| !sequence.states.contains_key(&spec.name));
        }
        if let Some(looped) = &self.looped {
            shown.outputs.retain(|spec| looped.answers(&spec.name));
        }
        shown
    }

    /// The inputs that the sequence brings to a request of so many rows: where it stands, and what
    /// the one before left (`states`, by output); zeros, or empty texts, before the first.
    ///
    /// # Errors
    /// The model wants a number for an id, and it is a text.
    pub fn brought(
        &self,
        step: &Step,
        states: &BTreeMap<String, Tensor>,
        rows: u64,
    ) -> Result<Vec<Tensor>, String> {
        let Some(sequence) = &self.sequence else { return Ok(Vec::new()) };
        let spec = |name: &String| find(&self.inputs, name, "input");
        let mut inputs = Vec::new();
        let flags =
            [(&sequence.start, step.start), (&sequence.ready, true), (&sequence.end, step.end)];
        for (name, is_set) in flags {
            let Some(name) = name else { continue };
            let spec = spec(name)?;
            let element = flag(spec.datatype, is_set).ok_or("a flag says neither 0 nor 1")?;
            inputs.push(filled(spec, rows, &element)?);
        }
        if let Some(name) = &sequence.id {
            let spec = spec(name)?;
            inputs.push(filled(spec, rows, &id(spec.datatype, &step.id)?)?);
        }
        for (output, name) in &sequence.states {
            inputs.push(match states.get(output) {
                Some(kept) => Tensor { name: name.clone(), ..kept.clone() },
                None => states::first(spec(name)?, rows, 1)?,
            });
        }
        Ok(inputs)
    }
}

fn filled(spec: &TensorSpec, rows: u64, element: &[u8]) -> Result<Tensor, String> {
    let shape: Vec<u64> = sized(spec, rows, 1).iter().map(|dim| dim.unsigned_abs()).collect();
    let count = shape.iter().try_fold(1u64, |count, dim| count.checked_mul(*dim));
    let is_small = |count: &u64| count.saturating_mul(element.len() as u64) <= BROUGHT_BYTES_MAX;
    let count = count.filter(is_small).and_then(|count| usize::try_from(count).ok());
    let large = || format!("`{}` would be too large for {rows} rows", spec.name);
    let data = element.repeat(count.ok_or_else(large)?);
    Ok(Tensor { name: spec.name.clone(), dtype: spec.datatype, shape, data: Bytes::from(data) })
}

/// 0 or 1 of a type.
fn flag(dtype: DType, is_set: bool) -> Option<Vec<u8>> {
    let one = u8::from(is_set);
    Some(match dtype {
        DType::Bool | DType::Int8 | DType::Uint8 => vec![one],
        DType::Int16 | DType::Uint16 => vec![one, 0],
        DType::Int32 | DType::Uint32 => vec![one, 0, 0, 0],
        DType::Int64 | DType::Uint64 => vec![one, 0, 0, 0, 0, 0, 0, 0],
        DType::Fp32 => f32::from(one).to_le_bytes().to_vec(),
        DType::Fp64 => f64::from(one).to_le_bytes().to_vec(),
        DType::Fp16 | DType::Bf16 | DType::Bytes => return None,
    })
}

/// A sequence's id as an element of a type.
fn id(dtype: DType, id: &SequenceId) -> Result<Vec<u8>, String> {
    if dtype == DType::Bytes {
        let text = match id {
            SequenceId::Number(number) => number.to_string(),
            SequenceId::Text(text) => text.clone(),
        };
        let length = u32::try_from(text.len()).map_err(|_| "the sequence_id is too long")?;
        return Ok([&length.to_le_bytes()[..], text.as_bytes()].concat());
    }
    let number = match id {
        SequenceId::Number(number) => Some(*number),
        SequenceId::Text(text) => text.parse().ok(),
    };
    let number = number.ok_or("the model takes a number as sequence_id, not a text")?;
    let range = || format!("sequence_id {number} is outside the range of {dtype}");
    Ok(match dtype {
        DType::Uint64 => number.to_le_bytes().to_vec(),
        DType::Int64 => i64::try_from(number).map_err(|_| range())?.to_le_bytes().to_vec(),
        DType::Uint32 => u32::try_from(number).map_err(|_| range())?.to_le_bytes().to_vec(),
        DType::Int32 => i32::try_from(number).map_err(|_| range())?.to_le_bytes().to_vec(),
        _ => return Err(format!("a sequence_id cannot be {dtype}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: DType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.into() }
    }

    fn signature() -> Signature {
        let text = r#"{"states":{"stateN":"state"},"start":"START","end":"END","id":"ID"}"#;
        Signature {
            inputs: vec![
                spec("x", DType::Fp32, &[-1, 4]),
                spec("state", DType::Fp32, &[2, -1, 3]),
                spec("START", DType::Int32, &[-1, 1]),
                spec("END", DType::Bool, &[1]),
                spec("ID", DType::Uint64, &[-1]),
            ],
            outputs: vec![
                spec("y", DType::Fp32, &[-1]),
                spec("stateN", DType::Fp32, &[-1, -1, -1]),
            ],
            sequence: Some(serde_json::from_str(text).unwrap()),
            ..Signature::default()
        }
    }

    fn step(id: SequenceId) -> Step {
        Step { id, start: true, end: false }
    }

    #[test]
    fn apps_see_neither_states_nor_flags() {
        let shown = signature().for_apps();
        let names = |specs: &[TensorSpec]| specs.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&shown.inputs), names(&shown.outputs)),
            (vec!["x".into()], vec!["y".into()])
        );
    }

    #[test]
    fn a_first_request_gets_zeros_and_a_later_one_what_was_left() {
        let signature = signature();
        let find = |inputs: &[Tensor], name: &str| {
            inputs.iter().find(|input| input.name == name).cloned().unwrap()
        };
        let first = signature.brought(&step(SequenceId::Number(7)), &BTreeMap::new(), 2).unwrap();
        assert_eq!(first.len(), 4);
        let state = find(&first, "state");
        assert_eq!((&state.shape[..], state.data.len()), (&[2, 2, 3][..], 48));
        let start = find(&first, "START");
        assert_eq!(
            (&start.shape[..], &start.data[..]),
            (&[2, 1][..], &[1, 0, 0, 0, 1, 0, 0, 0][..])
        );
        assert_eq!(&find(&first, "END").data[..], [0]);
        assert_eq!(find(&first, "ID").data.len(), 16);
        let left = Tensor { name: "stateN".into(), data: vec![1; 48].into(), ..state };
        let states = BTreeMap::from([("stateN".to_owned(), left.clone())]);
        let second = signature.brought(&step(SequenceId::Text("8".into())), &states, 2).unwrap();
        assert_eq!(find(&second, "state").data, left.data);
        assert_eq!(&find(&second, "ID").data[..8], 8u64.to_le_bytes());
        let refused = signature.brought(&step(SequenceId::Text("x".into())), &states, 2);
        assert!(refused.unwrap_err().contains("a number"));
        for rows in [1 << 40, u64::MAX] {
            let refused = signature.brought(&step(SequenceId::Number(7)), &states, rows);
            assert!(refused.unwrap_err().contains("too large"));
        }
    }

    #[test]
    fn what_the_model_has_not_is_refused() {
        let signature = signature();
        let check = |text: &str| {
            let sequence: Sequence = serde_json::from_str(text).unwrap();
            sequence.check(&signature.inputs, &signature.outputs)
        };
        check(r#"{"states":{"stateN":"state"}}"#).unwrap();
        for (text, word) in [
            (r#"{"states":{"state":"stateN"}}"#, "no output `state`"),
            (r#"{"states":{"stateN":"START"}}"#, "different types"),
            (r#"{"start":"GO"}"#, "no input `GO`"),
            (r#"{"start":"START","ready":"START"}"#, "twice"),
        ] {
            assert!(check(text).unwrap_err().contains(word), "{text}");
        }
        assert!(serde_json::from_str::<Sequence>(r#"{"state":{}}"#).is_err());
    }
}
