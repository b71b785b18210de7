//! An inference request as bytes become one: JSON, and after it the tensors of the binary
//! extension, which stay slices of the body. Nothing in it is ignored, nothing is allocated by a
//! size that is only declared.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use hansa_core::limits::{NAME_BYTES_MAX, RANK_MAX, TENSORS_MAX};
use hansa_runtime::tensor::{DType, Signature, Tensor, TensorSpec};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::elements;
use super::error::ApiError;
use crate::api::regions::{Place, Regions};
use crate::api::wanted::Wanted;

/// Longest `parameters` of a request, an input or an output, in bytes of JSON.
const PARAMETERS_BYTES_MAX: usize = 16 * 1024;

/// A request, with every tensor's bytes in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    /// The app's own id, which comes back.
    pub id: Option<String>,
    /// The model, if the body names it beside the path (KServe's clients do).
    pub model: Option<String>,
    /// In the request's order.
    pub inputs: Vec<Tensor>,
    /// The bytes of the model's one input, where the body has nothing else.
    pub raw: Option<Bytes>,
    /// Outputs wanted; none means all.
    pub outputs: Vec<Wanted>,
    /// What remains of `parameters`: constraints, and what [`super::demand`] must refuse.
    pub parameters: BTreeMap<String, Value>,
    /// How outputs are answered that do not say it themselves.
    pub binary_default: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestJson<'a> {
    id: Option<String>,
    model_name: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "bounded::<_, _, TENSORS_MAX>")]
    inputs: Vec<InputJson<'a>>,
    #[serde(borrow, default, deserialize_with = "bounded::<_, _, TENSORS_MAX>")]
    outputs: Vec<OutputJson<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputJson<'a> {
    name: String,
    #[serde(deserialize_with = "bounded::<_, _, RANK_MAX>")]
    shape: Vec<u64>,
    datatype: String,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputJson<'a> {
    name: String,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// Reads a request. `json_length` is the header `Inference-Header-Content-Length`: how much of
/// the body is JSON, all of it when absent; 0 where the body is the model's one input, raw, and all
/// outputs are wanted as bytes. Inputs in shared memory are read from `regions`.
pub fn parse_infer(
    json_length: Option<usize>,
    body: Bytes,
    regions: &Regions,
) -> Result<InferRequest, ApiError> {
    if json_length == Some(0) {
        return Ok(InferRequest { raw: Some(body), binary_default: true, ..Default::default() });
    }
    let length = json_length.unwrap_or(body.len());
    let Some(head) = body.get(..length) else {
        let given = body.len();
        return Err(ApiError::malformed(format!(
            "Inference-Header-Content-Length is {length}, the body has {given} bytes"
        )));
    };
    let request: RequestJson<'_> =
        serde_json::from_slice(head).map_err(|error| not_json(head, &error))?;
    let mut rest = json_length.map(|length| body.slice(length..));
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in &request.inputs {
        inputs.push(tensor(input, &mut rest, regions)?);
    }
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        return Err(ApiError::malformed(format!(
            "{} bytes follow the last binary input; the binary_data_size of the inputs must add \
             up to the rest of the body",
            rest.len()
        )));
    }
    let mut parameters = parameters(request.parameters, "the request")?;
    let binary_default = flag(&mut parameters, "binary_data_output", "the request")?;
    let outputs = request.outputs.into_iter().map(wanted).collect::<Result<_, _>>()?;
    Ok(InferRequest {
        id: request.id,
        model: request.model_name,
        inputs,
        raw: None,
        outputs,
        parameters,
        binary_default: binary_default.unwrap_or(false),
    })
}

/// One input, its bytes from its JSON, from the front of `rest`, or from shared memory.
fn tensor(
    input: &InputJson<'_>,
    rest: &mut Option<Bytes>,
    regions: &Regions,
) -> Result<Tensor, ApiError> {
    let InputJson { name, shape, datatype, data, .. } = input;
    if name.len() > NAME_BYTES_MAX {
        return Err(ApiError::malformed(format!(
            "an input's name has more than {NAME_BYTES_MAX} bytes"
        )));
    }
    let fault = |reason: String| ApiError::malformed(format!("input `{name}`: {reason}"));
    let dtype: DType = datatype.parse()?;
    let count = count(shape).map_err(fault)?;
    let mut given = parameters(input.parameters, name)?;
    let size = given.remove("binary_data_size");
    let place = Place::take(&mut given).map_err(fault)?;
    if let Some(unknown) = given.keys().next() {
        return Err(ApiError::unsupported(format!(
            "input `{name}`: parameter `{unknown}` is not supported; binary_data_size and \
             shared_memory_region, _offset and _byte_size are"
        )));
    }
    let data = match (size, data, place) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            return Err(fault(
                "its bytes are in more than one of data, binary_data_size and \
                 shared_memory_region; give one"
                    .into(),
            ));
        }
        (None, None, None) => {
            return Err(fault("it has neither data nor parameters.binary_data_size".into()));
        }
        (None, None, Some(place)) => {
            place.check(dtype, count).map_err(fault)?;
            let data = regions.read(&place)?;
            check_bytes(dtype, shape, &data).map_err(fault)?;
            data
        }
        (None, Some(data), None) => {
            elements::read(data.get(), dtype, shape, count).map_err(fault)?.into()
        }
        (Some(size), None, None) => {
            let rest = rest.as_mut().ok_or_else(|| {
                fault("binary data needs the header Inference-Header-Content-Length".into())
            })?;
            let size = size.as_u64().ok_or_else(|| {
                fault(format!("binary_data_size {size} is not a number of bytes"))
            })?;
            let left = rest.len();
            let size =
                usize::try_from(size).ok().filter(|size| *size <= left).ok_or_else(|| {
                    fault(format!("binary_data_size is {size}, the body has {left} bytes left"))
                })?;
            let data = rest.split_to(size);
            check_bytes(dtype, shape, &data).map_err(fault)?;
            data
        }
    };
    Ok(Tensor { name: name.clone(), dtype, shape: shape.clone(), data })
}

/// How many elements a shape makes.
pub(in crate::api) fn count(shape: &[u64]) -> Result<usize, String> {
    let product = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let count = product.and_then(|product| usize::try_from(product).ok());
    count.ok_or_else(|| format!("shape {shape:?} makes more elements than can be counted"))
}

/// Whether these bytes are what type and shape make.
pub(in crate::api) fn check_bytes(dtype: DType, shape: &[u64], data: &[u8]) -> Result<(), String> {
    let count = count(shape)?;
    let given = data.len();
    if let Some(size) = dtype.size() {
        return match count.checked_mul(size) {
            Some(expected) if expected == given => Ok(()),
            Some(expected) => {
                Err(format!("{given} bytes, but shape {shape:?} of {dtype} makes {expected}"))
            }
            None => Err(format!("shape {shape:?} of {dtype} makes more bytes than can be counted")),
        };
    }
    let (mut rest, mut found) = (data, 0usize);
    while !rest.is_empty() {
        let element = rest.split_first_chunk().and_then(|(length, tail)| {
            tail.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        (_, rest) = element.ok_or_else(|| {
            format!("element {found} of BYTES is cut off; each is a u32 length and its bytes")
        })?;
        found += 1;
    }
    if found == count {
        return Ok(());
    }
    Err(format!("{found} elements of BYTES, but shape {shape:?} makes {count}"))
}

fn wanted(output: OutputJson<'_>) -> Result<Wanted, ApiError> {
    let given = parameters(output.parameters, &output.name)?;
    Wanted::read(output.name, given)
}

/// The one input of a model as a body that is nothing else: its shape is the model's, and the one
/// dimension that may be any follows from the size. Where the rows may be any as well, it is one
/// row. Text is one element.
pub fn raw_input(signature: &Signature, body: Bytes) -> Result<Tensor, ApiError> {
    let fault = |reason: String| ApiError::malformed(format!("the body without JSON: {reason}"));
    let [TensorSpec { name, datatype, shape }] = &signature.inputs[..] else {
        let count = signature.inputs.len();
        return Err(fault(format!("the model takes {count} inputs; say which bytes are whose")));
    };
    let (name, dtype) = (name.clone(), *datatype);
    let Some(size) = dtype.size() else {
        let length = u32::try_from(body.len()).map_err(|_| fault("4 GiB and more".into()))?;
        let data = [&length.to_le_bytes()[..], &body].concat().into();
        return Ok(Tensor { name, dtype, shape: vec![1; shape.len()], data });
    };
    let mut any = shape.iter().filter(|dim| **dim < 0).count();
    let fixed = shape.iter().filter_map(|dim| u64::try_from(*dim).ok());
    let unit = fixed.fold(size as u64, u64::saturating_mul).max(1);
    let shape = shape.iter().map(|dim| match u64::try_from(*dim) {
        Ok(dim) => dim,
        Err(_) => {
            any -= 1;
            if any == 0 { body.len() as u64 / unit } else { 1 }
        }
    });
    let shape: Vec<u64> = shape.collect();
    check_bytes(dtype, &shape, &body).map_err(fault)?;
    Ok(Tensor { name, dtype, shape, data: body })
}

/// A `parameters` object; `of` names its owner.
fn parameters(raw: Option<&RawValue>, of: &str) -> Result<BTreeMap<String, Value>, ApiError> {
    let Some(raw) = raw else { return Ok(BTreeMap::new()) };
    if raw.get().len() > PARAMETERS_BYTES_MAX {
        return Err(ApiError::malformed(format!(
            "parameters of {of}: more than {PARAMETERS_BYTES_MAX} bytes"
        )));
    }
    serde_json::from_str(raw.get())
        .map_err(|error| ApiError::malformed(format!("parameters of {of}: {error}")))
}

fn flag(
    parameters: &mut BTreeMap<String, Value>,
    key: &str,
    of: &str,
) -> Result<Option<bool>, ApiError> {
    match parameters.remove(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(other) => {
            let message = format!("parameter `{key}` of {of} is {other}, not true or false");
            Err(ApiError::malformed(message))
        }
    }
}

/// A list that is refused as soon as it is too long, and `null` as an empty one.
fn bounded<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Bounded<T, MOST> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }
        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MOST {
                    return Err(A::Error::invalid_length(MOST + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_any(Bounded::<T, MOST>(PhantomData))
}

/// Why a head is not a request; the commonest reason has words of its own, since Python's json
/// writes what JSON does not have.
fn not_json(head: &[u8], error: &serde_json::Error) -> ApiError {
    let line_start = match error.line() {
        0 | 1 => 0,
        line => {
            let mut breaks = head.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            breaks.nth(line - 2).map_or(0, |(at, _)| at + 1)
        }
    };
    let at = line_start.saturating_add(error.column()).min(head.len());
    let near = &head[at.saturating_sub(2)..at.saturating_add(3).min(head.len())];
    let starts = |word: &[u8]| near.windows(word.len()).any(|window| window == word);
    if error.is_syntax() && (starts(b"NaN") || starts(b"Inf")) {
        return ApiError::malformed(
            "JSON has no NaN and no Infinity; send such tensors with the binary tensor extension",
        );
    }
    ApiError::malformed(format!("the request is not an inference request: {error}"))
}
