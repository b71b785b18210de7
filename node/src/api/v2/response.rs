//! An answer as it becomes bytes: each output as JSON or, after the JSON, as its own bytes.
//!
//! What JSON cannot say is refused, never bent: FP16 and BF16 ([`check_wanted`], before anything
//! runs), NaN, infinity and byte strings that are no text (only known afterwards).

use axum::http::StatusCode;
use bytes::Bytes;
use hansa_runtime::tensor::{DType, Signature, Tensor};
use serde_json::{Value, json};

use super::elements;
use super::error::ApiError;
use super::request::check_bytes;
use crate::api::wanted::Wanted;

/// An answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The value of `Inference-Header-Content-Length`; absent when all is JSON.
    pub json_length: Option<usize>,
    /// The JSON, then the binary outputs in its order.
    pub parts: Vec<Bytes>,
}

/// Whether the outputs that are wanted can be answered in the form that is wanted: none is FP16 or
/// BF16 and wanted as JSON.
pub fn check_wanted(
    signature: &Signature,
    wanted: &[Wanted],
    binary_default: bool,
) -> Result<(), ApiError> {
    for spec in &signature.outputs {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|output| output.name == spec.name);
        if is_wanted && is_json(&spec.name, wanted, binary_default) {
            check_json(&spec.name, spec.datatype)?;
        }
    }
    Ok(())
}

/// What an answer says before its outputs.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The model, as the app named it.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The app's own name for the request.
    pub id: Option<&'a str>,
    /// The proof of its receipt, if the app asked for it.
    pub receipt: Option<&'a str>,
}

/// Renders the answer to a request that wanted `wanted` (none: all, as the model gave them).
pub fn render_infer(
    head: Head<'_>,
    outputs: Vec<Tensor>,
    wanted: &[Wanted],
    binary_default: bool,
) -> Result<Rendered, ApiError> {
    let Head { model, version, id, receipt } = head;
    let mut members = json!({ "model_name": model, "model_version": version });
    if let Some(id) = id {
        members["id"] = id.into();
    }
    if let Some(receipt) = receipt {
        members["parameters"] = json!({ "receipt": receipt });
    }
    let mut json = members.to_string().into_bytes();
    json.pop(); // The closing brace; the outputs go in before it.
    json.extend_from_slice(b",\"outputs\":[");
    let mut parts = Vec::new();
    for (index, output) in ordered(outputs, wanted)?.into_iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let form = form(&output.name, wanted, binary_default);
        describe(&output, form, &mut json)?;
        if form == Form::Binary {
            parts.push(output.data);
        }
    }
    json.extend_from_slice(b"]}");
    let json_length = (!parts.is_empty()).then_some(json.len());
    parts.insert(0, json.into());
    Ok(Rendered { json_length, parts })
}

/// A tensor for people and programs: its first `most` elements, flat. Numbers that JSON lacks are
/// strings.
pub fn tensor_json(tensor: &Tensor, most: usize) -> Value {
    json!({
        "name": tensor.name,
        "datatype": tensor.dtype,
        "shape": tensor.shape,
        "data": elements::shown(tensor, most),
    })
}

/// Bytes of those outputs that are answered as JSON: the others are not touched.
pub fn json_bytes(outputs: &[Tensor], wanted: &[Wanted], binary_default: bool) -> usize {
    let json = outputs.iter().filter(|output| is_json(&output.name, wanted, binary_default));
    json.map(|output| output.data.len()).sum()
}

/// Where an output's elements are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Binary,
    Placed,
}

fn form(name: &str, wanted: &[Wanted], binary_default: bool) -> Form {
    let own = wanted.iter().find(|output| output.name == name);
    if own.is_some_and(|own| own.place.is_some()) {
        Form::Placed
    } else if own.and_then(|own| own.binary).unwrap_or(binary_default) {
        Form::Binary
    } else {
        Form::Json
    }
}

fn is_json(name: &str, wanted: &[Wanted], binary_default: bool) -> bool {
    matches!(form(name, wanted, binary_default), Form::Json)
}

/// The outputs in the order in which they were wanted.
fn ordered(mut outputs: Vec<Tensor>, wanted: &[Wanted]) -> Result<Vec<Tensor>, ApiError> {
    if wanted.is_empty() {
        return Ok(outputs);
    }
    let mut take = |wanted: &Wanted| {
        let found = outputs.iter().position(|output| output.name == wanted.name);
        let missing = || broken(&wanted.name, "the executor did not give it");
        found.map(|index| outputs.swap_remove(index)).ok_or_else(missing)
    };
    wanted.iter().map(&mut take).collect()
}

/// Appends one member of `outputs`.
fn describe(output: &Tensor, form: Form, json: &mut Vec<u8>) -> Result<(), ApiError> {
    let Tensor { name, dtype, shape, data } = output;
    // Tensors may come from another peer, and a client would take a wrong size for the protocol's
    // breach by this node.
    check_bytes(*dtype, shape, data).map_err(|reason| broken(name, &reason))?;
    let mut head = json!({ "name": name, "datatype": dtype, "shape": shape });
    if form != Form::Json {
        // Where it is in shared memory the app knows; parameters would make its client look there.
        if form == Form::Binary {
            head["parameters"] = json!({ "binary_data_size": data.len() });
        }
        json.extend_from_slice(head.to_string().as_bytes());
        return Ok(());
    }
    check_json(name, *dtype)?;
    json.extend_from_slice(head.to_string().as_bytes());
    json.pop();
    json.extend_from_slice(b",\"data\":");
    elements::write(output, json).map_err(|reason| no_json(name, reason))?;
    json.push(b'}');
    Ok(())
}

fn check_json(name: &str, dtype: DType) -> Result<(), ApiError> {
    match dtype {
        DType::Fp16 => Err(no_json(name, "is FP16, which has no form in JSON")),
        DType::Bf16 => Err(no_json(name, "is BF16, which has no form in JSON")),
        _ => Ok(()),
    }
}

fn no_json(name: &str, reason: &str) -> ApiError {
    let message = format!(
        "output `{name}` {reason}; ask for binary outputs with the parameter \
         \"binary_data_output\": true"
    );
    ApiError::new(StatusCode::BAD_REQUEST, "not_json", message)
}

fn broken(name: &str, reason: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, "bad_answer", format!("output `{name}`: {reason}"))
}
