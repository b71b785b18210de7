//! Requests and answers: the protocol's messages and tensors, as pure functions between them. Nothing in a request is
//! ignored; raw tensors stay slices of the message that brought them.

use std::collections::{BTreeMap, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use hansa_core::limits::{NAME_BYTES_MAX, RANK_MAX, TENSORS_MAX};
use hansa_runtime::tensor::{DType, Tensor};
use serde_json::Value;

use super::inference::infer_parameter::ParameterChoice;
use super::inference::model_infer_request::InferInputTensor;
use super::inference::model_infer_response::InferOutputTensor;
use super::inference::*;
use crate::api::call::Named;
use crate::api::regions::{Place, Regions};
use crate::api::v2::{ApiError, check_bytes, count};
use crate::api::wanted::Wanted;

/// With this parameter a tensor lies in shared memory.
const SHARED: &str = "shared_memory_region";
/// With this parameter a client asks each answer to say that it is its request's last.
const ASKS_END: &str = "triton_enable_empty_final_response";
/// And so it is said.
const IS_END: &str = "triton_final_response";

/// A request, with every tensor's bytes in place.
#[derive(Debug)]
pub struct Asked {
    /// The model.
    pub named: Named,
    /// The app's own id, which comes back.
    pub id: String,
    /// In the request's order.
    pub inputs: Vec<Tensor>,
    /// Outputs wanted; none means all.
    pub outputs: Vec<Wanted>,
    /// What remains of its parameters: constraints, and what `demand` must refuse.
    pub parameters: BTreeMap<String, Value>,
    /// Whether the answer is to say that it is the last.
    pub tells_end: bool,
}

/// Reads a request.
///
/// # Errors
/// It is not the protocol's, and why.
pub fn read(request: ModelInferRequest, regions: &Regions) -> Result<Asked, ApiError> {
    let ModelInferRequest {
        model_name,
        model_version,
        id,
        parameters,
        inputs,
        outputs,
        raw_input_contents,
    } = request;
    if inputs.len() > TENSORS_MAX || outputs.len() > TENSORS_MAX {
        let message = format!("more than {TENSORS_MAX} inputs or outputs are named");
        return Err(ApiError::malformed(message));
    }
    let is_shared = |input: &InferInputTensor| input.parameters.contains_key(SHARED);
    let raw_expected = inputs.iter().filter(|input| !is_shared(input)).count();
    if !raw_input_contents.is_empty() && raw_input_contents.len() != raw_expected {
        return Err(ApiError::malformed(format!(
            "{raw_expected} inputs, but raw_input_contents has {}; give the bytes of every input \
             or of none",
            raw_input_contents.len()
        )));
    }
    let mut raw = raw_input_contents.into_iter();
    let inputs = inputs.into_iter().map(|input| {
        let own = if is_shared(&input) { None } else { raw.next() };
        tensor(input, own, regions)
    });
    let inputs = inputs.collect::<Result<_, _>>()?;
    let outputs =
        outputs.into_iter().map(|output| Wanted::read(output.name, values(output.parameters)?));
    let outputs = outputs.collect::<Result<_, _>>()?;
    let mut parameters = values(parameters)?;
    let tells_end = parameters.remove(ASKS_END) == Some(Value::Bool(true));
    let version = Some(model_version).filter(|version| !version.is_empty());
    let named = Named { model: model_name, version };
    Ok(Asked { named, id, inputs, outputs, parameters, tells_end })
}

fn values(
    parameters: HashMap<String, InferParameter>,
) -> Result<BTreeMap<String, Value>, ApiError> {
    let value = |(key, parameter): (String, InferParameter)| {
        let value = match parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => value.into(),
            Some(ParameterChoice::Int64Param(value)) => value.into(),
            Some(ParameterChoice::StringParam(value)) => value.into(),
            Some(ParameterChoice::DoubleParam(value)) => value.into(),
            Some(ParameterChoice::Uint64Param(value)) => value.into(),
            None => return Err(ApiError::malformed(format!("parameter `{key}` has no value"))),
        };
        Ok((key, value))
    };
    parameters.into_iter().map(value).collect()
}

/// One input, its bytes from `raw`, from its own contents or from shared memory.
fn tensor(
    input: InferInputTensor,
    raw: Option<Bytes>,
    regions: &Regions,
) -> Result<Tensor, ApiError> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    if name.len() > NAME_BYTES_MAX {
        let message = format!("an input's name has more than {NAME_BYTES_MAX} bytes");
        return Err(ApiError::malformed(message));
    }
    let fault = |reason: String| ApiError::malformed(format!("input `{name}`: {reason}"));
    let mut parameters = values(parameters)?;
    let place = Place::take(&mut parameters).map_err(fault)?;
    // Some clients say how long the raw bytes are, which are as long as they are.
    parameters.remove("binary_data_size");
    if let Some(unknown) = parameters.keys().next() {
        let message = format!("input `{name}`: parameter `{unknown}` is not supported");
        return Err(ApiError::unsupported(message));
    }
    let dtype: DType = datatype.parse()?;
    if shape.len() > RANK_MAX {
        return Err(fault(format!("it has more than {RANK_MAX} dimensions")));
    }
    let dims: Option<Vec<u64>> = shape.iter().map(|dim| u64::try_from(*dim).ok()).collect();
    let shape = dims.ok_or_else(|| fault(format!("shape {shape:?} has a negative dimension")))?;
    let data = match (raw, contents, place) {
        (None, None, None) => {
            return Err(fault("it has neither contents nor raw_input_contents".into()));
        }
        (Some(raw), None, None) => raw,
        (None, Some(contents), None) => elements(dtype, contents).map_err(fault)?,
        (None, None, Some(place)) => {
            place.check(dtype, count(&shape).map_err(fault)?).map_err(fault)?;
            regions.read(&place)?
        }
        _ => {
            return Err(fault("it has both contents and raw_input_contents; give one".into()));
        }
    };
    check_bytes(dtype, &shape, &data).map_err(fault)?;
    Ok(Tensor { name, dtype, shape, data })
}

/// The bytes of typed elements, which must be those of the datatype and no others.
fn elements(dtype: DType, contents: InferTensorContents) -> Result<Bytes, String> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let counts = [
        ("bool_contents", bool_contents.len()),
        ("int_contents", int_contents.len()),
        ("int64_contents", int64_contents.len()),
        ("uint_contents", uint_contents.len()),
        ("uint64_contents", uint64_contents.len()),
        ("fp32_contents", fp32_contents.len()),
        ("fp64_contents", fp64_contents.len()),
        ("bytes_contents", bytes_contents.len()),
    ];
    let expected = match dtype {
        DType::Bool => "bool_contents",
        DType::Int8 | DType::Int16 | DType::Int32 => "int_contents",
        DType::Int64 => "int64_contents",
        DType::Uint8 | DType::Uint16 | DType::Uint32 => "uint_contents",
        DType::Uint64 => "uint64_contents",
        DType::Fp32 => "fp32_contents",
        DType::Fp64 => "fp64_contents",
        DType::Bytes => "bytes_contents",
        DType::Fp16 | DType::Bf16 => {
            return Err(format!("{dtype} has no typed form; send it in raw_input_contents"));
        }
    };
    if let Some((given, _)) = counts.iter().find(|(name, count)| *count > 0 && *name != expected) {
        return Err(format!("elements of {dtype} are in {expected}, not in {given}"));
    }
    let wide = |value: String| format!("{value} is no {dtype}");
    let mut data = BytesMut::new();
    match dtype {
        DType::Bool => bool_contents.into_iter().for_each(|value| data.put_u8(value.into())),
        DType::Int8 => {
            for value in int_contents {
                data.put_i8(i8::try_from(value).map_err(|_| wide(value.to_string()))?);
            }
        }
        DType::Int16 => {
            for value in int_contents {
                data.put_i16_le(i16::try_from(value).map_err(|_| wide(value.to_string()))?);
            }
        }
        DType::Uint8 => {
            for value in uint_contents {
                data.put_u8(u8::try_from(value).map_err(|_| wide(value.to_string()))?);
            }
        }
        DType::Uint16 => {
            for value in uint_contents {
                data.put_u16_le(u16::try_from(value).map_err(|_| wide(value.to_string()))?);
            }
        }
        DType::Int32 => int_contents.into_iter().for_each(|value| data.put_i32_le(value)),
        DType::Int64 => int64_contents.into_iter().for_each(|value| data.put_i64_le(value)),
        DType::Uint32 => uint_contents.into_iter().for_each(|value| data.put_u32_le(value)),
        DType::Uint64 => uint64_contents.into_iter().for_each(|value| data.put_u64_le(value)),
        DType::Fp32 => fp32_contents.into_iter().for_each(|value| data.put_f32_le(value)),
        DType::Fp64 => fp64_contents.into_iter().for_each(|value| data.put_f64_le(value)),
        DType::Bytes => {
            for value in bytes_contents {
                let length = u32::try_from(value.len());
                data.put_u32_le(length.map_err(|_| "an element exceeds 4 GiB".to_owned())?);
                data.put(value);
            }
        }
        DType::Fp16 | DType::Bf16 => {} // Refused above.
    }
    Ok(data.freeze())
}

/// An answer; the bytes of its outputs are not copied. Those in shared memory say where. It says
/// whether it is its request's last, if that is to be told.
pub fn answer(
    model_name: String,
    model_version: String,
    id: String,
    outputs: Vec<Tensor>,
    wanted: &[Wanted],
    proof: Option<String>,
    is_end: Option<bool>,
) -> ModelInferResponse {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let mut parameters = HashMap::new();
    if let Some(proof) = proof {
        parameters.insert("receipt".into(), parameter(ParameterChoice::StringParam(proof)));
    }
    if let Some(is_end) = is_end {
        parameters.insert(IS_END.into(), parameter(ParameterChoice::BoolParam(is_end)));
    }
    let (mut told, mut raw) = (Vec::new(), Vec::new());
    for Tensor { name, dtype, shape, data } in outputs {
        let own = wanted.iter().find(|wanted| wanted.name == name);
        let place = own.and_then(|wanted| wanted.place.as_ref());
        let parameters = place.map(|place| placed(place, data.len())).unwrap_or_default();
        if place.is_none() {
            raw.push(data);
        }
        told.push(InferOutputTensor {
            name,
            datatype: dtype.to_string(),
            shape: shape.into_iter().map(u64::cast_signed).collect(),
            parameters,
            contents: None,
        });
    }
    ModelInferResponse {
        model_name,
        model_version,
        id,
        parameters,
        outputs: told,
        raw_output_contents: raw,
    }
}

fn placed(place: &Place, bytes: usize) -> HashMap<String, InferParameter> {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut parameters = HashMap::from([
        (SHARED.to_owned(), parameter(ParameterChoice::StringParam(place.region.clone()))),
        ("shared_memory_byte_size".to_owned(), parameter(ParameterChoice::Int64Param(bytes))),
    ]);
    if let Ok(offset @ 1..) = i64::try_from(place.offset) {
        let offset = parameter(ParameterChoice::Int64Param(offset));
        parameters.insert("shared_memory_offset".into(), offset);
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(
        datatype: &str,
        shape: &[i64],
        contents: Option<InferTensorContents>,
    ) -> InferInputTensor {
        InferInputTensor {
            name: "x".into(),
            datatype: datatype.into(),
            shape: shape.into(),
            parameters: HashMap::new(),
            contents,
        }
    }

    fn ask(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> Result<Asked, ApiError> {
        let raw_input_contents = raw.iter().map(|bytes| Bytes::from_static(bytes)).collect();
        let model_name = "m".into();
        let request =
            ModelInferRequest { model_name, inputs, raw_input_contents, ..Default::default() };
        read(request, &Regions::default())
    }

    #[test]
    fn raw_bytes_are_taken_as_they_are_and_typed_elements_give_the_same() {
        let raw = ask(vec![input("INT16", &[2], None)], &[&[1, 0, 255, 255]]).unwrap();
        let int_contents = vec![1, -1];
        let contents = InferTensorContents { int_contents, ..Default::default() };
        let typed = ask(vec![input("INT16", &[2], Some(contents))], &[]).unwrap();
        assert_eq!(raw.inputs, typed.inputs);
        assert_eq!(raw.inputs[0].shape, [2]);
        let bytes_contents = vec![Bytes::from_static(b"ab"), Bytes::new()];
        let contents = InferTensorContents { bytes_contents, ..Default::default() };
        let text = ask(vec![input("BYTES", &[2], Some(contents))], &[]).unwrap();
        assert_eq!(&text.inputs[0].data[..], b"\x02\0\0\0ab\0\0\0\0");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let ints = |int_contents: Vec<i32>| {
            Some(InferTensorContents { int_contents, ..Default::default() })
        };
        for (inputs, raw, reason) in [
            (vec![input("FP32", &[1], None)], &[][..], "neither contents nor raw"),
            (vec![input("INT32", &[1], ints(vec![1]))], &[&[1u8, 0, 0, 0][..]], "both contents"),
            (vec![input("FP32", &[1], None)], &[&[0u8; 4][..], &[0u8; 4][..]], "1 inputs, but"),
            (vec![input("FP32", &[2], None)], &[&[0u8; 4][..]], "makes 8"),
            (vec![input("FP32", &[-1], None)], &[&[0u8; 4][..]], "negative"),
            (vec![input("FLOAT", &[1], None)], &[&[0u8; 4][..]], "unknown datatype"),
            (vec![input("INT8", &[1], ints(vec![128]))], &[][..], "128 is no INT8"),
            (vec![input("FP32", &[1], ints(vec![1]))], &[][..], "fp32_contents, not in int"),
            (vec![input("FP16", &[1], ints(vec![1]))], &[][..], "raw_input_contents"),
            (vec![input("INT32", &[2], ints(vec![1]))], &[][..], "makes 8"),
            (vec![input("INT32", &[1; 17], None)], &[&[0u8; 4][..]], "dimensions"),
        ] {
            let error = ask(inputs, raw).expect_err(reason);
            assert_eq!(error.status().as_u16(), 400, "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn parameters_become_values_and_the_end_is_told_where_it_is_asked_for() {
        let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
        let parameters = HashMap::from([
            ("locations".to_owned(), parameter(ParameterChoice::StringParam("DE".into()))),
            ("timeout".to_owned(), parameter(ParameterChoice::Int64Param(7))),
            (ASKS_END.to_owned(), parameter(ParameterChoice::BoolParam(true))),
        ]);
        let request = ModelInferRequest { parameters, ..Default::default() };
        let asked = read(request, &Regions::default()).unwrap();
        assert!(asked.tells_end);
        let expected = BTreeMap::from([
            ("locations".to_owned(), Value::from("DE")),
            ("timeout".to_owned(), Value::from(7)),
        ]);
        assert_eq!(asked.parameters, expected);
        let told = answer("m".into(), "1".into(), "7".into(), vec![], &[], None, Some(true));
        let end = &told.parameters[IS_END].parameter_choice;
        assert_eq!(*end, Some(ParameterChoice::BoolParam(true)));
    }

    #[test]
    fn an_answer_carries_its_outputs_raw() {
        let data = Bytes::from_static(&[0, 0, 128, 63]);
        let y = Tensor { name: "y".into(), dtype: DType::Fp32, shape: vec![1], data: data.clone() };
        let told =
            answer("m".into(), "1".into(), "7".into(), vec![y], &[], Some("proof".into()), None);
        assert_eq!((&*told.outputs[0].name, &*told.outputs[0].datatype), ("y", "FP32"));
        assert_eq!(told.raw_output_contents[0].as_ptr(), data.as_ptr());
        let proof = &told.parameters["receipt"].parameter_choice;
        assert_eq!(*proof, Some(ParameterChoice::StringParam("proof".into())));
    }
}
