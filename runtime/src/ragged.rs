//! Models whose requests may differ in length and still run together, each padded to the longest and
//! its outputs cut back to its own length.
//!
//! The bundle says so in a file `ragged.json` beside its ONNX file, so that every holder means the
//! same by it:
//!
//! ```json
//! { "inputs": { "input_ids": { "axis": 1, "pad": 0 }, "attention_mask": { "axis": 1, "pad": 0 } },
//!   "outputs": { "last_hidden_state": { "axis": 1 } } }
//! ```
//!
//! All of a request's inputs that are named have the same length on their axes, which is also that
//! of the outputs that are named; a request of several lengths is never padded. That the padding
//! changes no answer is tried when the model is loaded (see `separable`). Which jobs are padded for
//! which, [`crate::batch`] says; a model that declares nothing is given what it was asked and no more.
//! Stages that are cut of a model declare nothing: what they hand on has lengths of its own.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::cost::Size;
use crate::declared::{self, DeclaredError};
use crate::rows::{RowAxes, RowsError, narrow, pad};
use crate::tensor::{DType, Tensor, TensorSpec};

/// The file's name.
const FILE: &str = "ragged.json";

/// Which inputs and outputs of a model have a length that may differ from request to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ragged {
    inputs: BTreeMap<String, Padded>,
    /// The axis of each.
    outputs: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Padded {
    axis: usize,
    /// What it is padded with, one element.
    element: Vec<u8>,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    inputs: BTreeMap<String, DeclaredInput>,
    #[serde(default)]
    outputs: BTreeMap<String, DeclaredOutput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredInput {
    axis: usize,
    pad: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredOutput {
    axis: usize,
}

impl Ragged {
    /// What a bundle says, if it says anything, of a model with these inputs and outputs.
    ///
    /// # Errors
    /// It is not understood, or does not fit the model.
    pub(crate) fn of(
        bundle: &Bundle,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<Option<Self>, DeclaredError> {
        let Some(declared) = declared::read(bundle, FILE)? else { return Ok(None) };
        let read = Self::new(declared, inputs, outputs);
        read.map(Some).map_err(|reason| declared::fault(FILE, reason))
    }

    fn new(
        declared: Declared,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<Self, String> {
        if declared.inputs.is_empty() {
            return Err("it names no input; remove the file, or say which may be padded".into());
        }
        let input = |(name, DeclaredInput { axis, pad }): (String, DeclaredInput)| {
            let spec = find(inputs, &name, axis, "input")?;
            let element = element(spec.datatype, &pad).ok_or_else(|| {
                format!("input `{name}` is {} and cannot be padded with {pad}", spec.datatype)
            })?;
            Ok((name, Padded { axis, element }))
        };
        let output = |(name, DeclaredOutput { axis }): (String, DeclaredOutput)| {
            find(outputs, &name, axis, "output").map(|_| (name, axis))
        };
        Ok(Self {
            inputs: declared.inputs.into_iter().map(input).collect::<Result<_, String>>()?,
            outputs: declared.outputs.into_iter().map(output).collect::<Result<_, String>>()?,
        })
    }

    /// Whether lengths and rows lie on different axes of tensors that have both.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn check(&self, rows: &RowAxes) -> Result<(), DeclaredError> {
        let inputs = self.inputs.iter().map(|(name, own)| (name, own.axis, rows.inputs.get(name)));
        let outputs = self.outputs.iter().map(|(name, axis)| (name, *axis, rows.outputs.get(name)));
        for (name, axis, of_rows) in inputs.chain(outputs) {
            if of_rows.is_none_or(|of_rows| *of_rows == axis) {
                let place =
                    of_rows.map_or("has no rows".into(), |at| format!("has rows on axis {at}"));
                let reason = format!("`{name}` {place}, so its axis {axis} is no length of a row");
                return Err(declared::fault(FILE, reason));
            }
        }
        Ok(())
    }

    /// The axis on which an input may be padded.
    pub(crate) fn axis(&self, input: &str) -> Option<usize> {
        self.inputs.get(input).map(|own| own.axis)
    }

    /// The length of a request with these inputs; none if it has several, or nothing to pad.
    pub(crate) fn length(&self, inputs: &[Tensor]) -> Option<u64> {
        if inputs.iter().any(|input| input.data.is_empty()) {
            return None;
        }
        let mut lengths = inputs.iter().filter_map(|input| Some((input, self.axis(&input.name)?)));
        let (first, axis) = lengths.next()?;
        let length = *first.shape.get(axis)?;
        lengths.all(|(input, axis)| input.shape.get(axis) == Some(&length)).then_some(length)
    }

    /// How large a request of that length is.
    pub(crate) fn size(&self, inputs: &[Tensor], length: u64) -> Size {
        let (mut fixed, mut per_length) = (0u64, 0u64);
        for input in inputs {
            match self.axis(&input.name) {
                None => fixed = fixed.saturating_add(input.data.len() as u64),
                Some(axis) => {
                    let others = input.shape.iter().enumerate().filter(|(at, _)| *at != axis);
                    let size = input.dtype.size().unwrap_or(0) as u64;
                    let unit = others.fold(size, |unit, (_, dim)| unit.saturating_mul(*dim));
                    per_length = per_length.saturating_add(unit);
                }
            }
        }
        Size::new(fixed, per_length, length)
    }

    /// A request's inputs, made so long.
    pub(crate) fn pad(&self, inputs: &[Tensor], to: u64) -> Result<Vec<Tensor>, RowsError> {
        let padded = inputs.iter().map(|input| match self.inputs.get(&input.name) {
            None => Ok(input.clone()),
            Some(Padded { axis, element }) => pad(input, *axis, to, element),
        });
        padded.collect()
    }

    /// A request's own part of its outputs, which are as long as the longest one's.
    pub(crate) fn cut(
        &self,
        outputs: &[Tensor],
        longest: u64,
        own: u64,
    ) -> Result<Vec<Tensor>, RowsError> {
        let cut = outputs.iter().map(|output| match self.outputs.get(&output.name) {
            None => Ok(output.clone()),
            Some(axis) => narrow(output, *axis, longest, own),
        });
        cut.collect()
    }
}

/// The input or output of that name, if the axis may be of any length.
fn find<'a>(
    specs: &'a [TensorSpec],
    name: &str,
    axis: usize,
    what: &str,
) -> Result<&'a TensorSpec, String> {
    let spec = specs.iter().find(|spec| spec.name == name);
    let spec = spec.ok_or_else(|| format!("the model has no {what} `{name}`"))?;
    match spec.shape.get(axis) {
        None => Err(format!("{what} `{name}` has no axis {axis}, only {}", spec.shape.len())),
        Some(0..) => Err(format!(
            "axis {axis} of {what} `{name}` is always {}, so no request can differ there",
            spec.shape[axis]
        )),
        Some(_) => Ok(spec),
    }
}

/// An element of a type; none if it is not one, or of a type that is not padded: texts, and halves
/// but for 0.
fn element(dtype: DType, value: &Value) -> Option<Vec<u8>> {
    fn whole<T: TryFrom<i64>, const N: usize>(
        value: &Value,
        bytes: fn(T) -> [u8; N],
    ) -> Option<Vec<u8>> {
        T::try_from(value.as_i64()?).ok().map(|number| bytes(number).to_vec())
    }
    Some(match dtype {
        DType::Bool => vec![u8::from(value.as_bool()?)],
        DType::Int8 => whole(value, i8::to_le_bytes)?,
        DType::Int16 => whole(value, i16::to_le_bytes)?,
        DType::Int32 => whole(value, i32::to_le_bytes)?,
        DType::Int64 => whole(value, i64::to_le_bytes)?,
        DType::Uint8 => whole(value, u8::to_le_bytes)?,
        DType::Uint16 => whole(value, u16::to_le_bytes)?,
        DType::Uint32 => whole(value, u32::to_le_bytes)?,
        DType::Uint64 => value.as_u64()?.to_le_bytes().to_vec(),
        #[expect(clippy::cast_possible_truncation, reason = "the nearest there is")]
        DType::Fp32 => (value.as_f64()? as f32).to_le_bytes().to_vec(),
        DType::Fp64 => value.as_f64()?.to_le_bytes().to_vec(),
        DType::Fp16 | DType::Bf16 => (value.as_f64()? == 0.0).then(|| vec![0, 0])?,
        DType::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: DType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.into() }
    }

    fn read(text: &str) -> Result<Ragged, String> {
        let inputs = [
            spec("ids", DType::Int64, &[-1, -1]),
            spec("mask", DType::Bool, &[-1, -1]),
            spec("text", DType::Bytes, &[-1, -1]),
            spec("half", DType::Fp16, &[-1, -1]),
            spec("flag", DType::Fp32, &[-1, 4]),
        ];
        let declared = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ragged::new(declared, &inputs, &[spec("y", DType::Fp32, &[-1, -1, 8])])
    }

    const GOOD: &str = r#"{ "inputs": { "ids": { "axis": 1, "pad": 7 },
        "mask": { "axis": 1, "pad": false } }, "outputs": { "y": { "axis": 1 } } }"#;

    #[test]
    fn what_is_not_understood_or_not_the_models_is_refused() {
        read(GOOD).unwrap();
        for (text, word) in [
            (r#"{"inputs":{}}"#, "names no input"),
            (r#"{"outputs":{}}"#, "missing field `inputs`"),
            (r#"{"inputs":{"ids":{"axis":1}}}"#, "missing field `pad`"),
            (r#"{"inputs":{"ids":{"axis":1,"pad":0,"value":0}}}"#, "unknown field `value`"),
            (r#"{"input":{}}"#, "unknown field `input`"),
            (r#"{"inputs":{"ids":{"axis":-1,"pad":0}}}"#, "invalid value"),
            (r#"{"inputs":{"id":{"axis":1,"pad":0}}}"#, "no input `id`"),
            (r#"{"inputs":{"ids":{"axis":2,"pad":0}}}"#, "no axis 2, only 2"),
            (r#"{"inputs":{"ids":{"axis":1,"pad":0.5}}}"#, "INT64 and cannot be padded with 0.5"),
            (r#"{"inputs":{"mask":{"axis":1,"pad":0}}}"#, "BOOL and cannot be padded with 0"),
            (r#"{"inputs":{"text":{"axis":1,"pad":"x"}}}"#, "BYTES and cannot be padded"),
            (r#"{"inputs":{"half":{"axis":1,"pad":1}}}"#, "FP16 and cannot be padded with 1"),
            (r#"{"inputs":{"flag":{"axis":1,"pad":0}}}"#, "always 4"),
            (r#"{"inputs":{"ids":{"axis":1,"pad":0}},"outputs":{"y":{"axis":2}}}"#, "always 8"),
            (r#"{"inputs":{"ids":{"axis":1,"pad":0}},"outputs":{"z":{"axis":1}}}"#, "no output"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_length_where_the_rows_lie_is_refused() {
        let axes = |input, output| {
            let (ids, mask) = (("ids".to_owned(), input), ("mask".to_owned(), 0));
            RowAxes { inputs: [ids, mask].into(), outputs: [("y".to_owned(), output)].into() }
        };
        let ragged = read(GOOD).unwrap();
        ragged.check(&axes(0, 0)).unwrap();
        for bad in [axes(1, 0), axes(0, 1), RowAxes::default()] {
            let error = ragged.check(&bad).unwrap_err().to_string();
            assert!(error.contains("no length of a row"), "{error}");
        }
    }

    #[test]
    fn a_request_has_one_length_or_none() {
        let ragged = read(GOOD).unwrap();
        let input = |name: &str, dtype: DType, shape: &[u64]| {
            let bytes = shape.iter().product::<u64>() * dtype.size().unwrap() as u64;
            let data = vec![0; usize::try_from(bytes).unwrap()];
            Tensor { name: name.into(), dtype, shape: shape.into(), data: data.into() }
        };
        let of = |ids: u64, mask: u64| {
            [
                input("flag", DType::Fp32, &[2, 4]),
                input("ids", DType::Int64, &[2, ids]),
                input("mask", DType::Bool, &[2, mask]),
            ]
        };
        assert_eq!(ragged.length(&of(5, 5)), Some(5));
        assert_eq!(ragged.length(&of(5, 6)), None);
        assert_eq!(ragged.size(&of(5, 5), 5), Size::new(32, 18, 5));
        let padded = ragged.pad(&of(1, 1), 3).unwrap();
        assert_eq!(padded[0], of(1, 1)[0]);
        assert_eq!(padded[1].data[8..16], 7i64.to_le_bytes());
        let y = input("y", DType::Fp32, &[2, 3, 8]);
        assert_eq!(ragged.cut(std::slice::from_ref(&y), 3, 1).unwrap()[0].shape, [2, 1, 8]);
        // An output that does not follow the inputs' length is not believed.
        assert!(ragged.cut(&[y], 4, 1).is_err());
    }
}
