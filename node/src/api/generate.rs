//! The generate extension of the Open Inference Protocol: a request as one flat JSON object whose
//! members are the model's inputs by name, and an answer of the same form. For apps that would rather
//! not know of tensors: `curl -d '{"text": "…"}' …/v2/models/NAME/generate`.
//!
//! A member that is no input is a constraint; other parameters stand under `parameters`. A value is given the
//! rank that the model wants by dimensions of 1 before it. An output of one element is answered as
//! that element, others as flat lists.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use hansa_runtime::tensor::{Signature, Tensor, TensorSpec};
use serde_json::{Map, Value, json};

use super::call::{Call, Called, Found, Named, demand};
use super::infer::{read, tell};
use super::loops::{Course, Steps};
use super::trace;
use super::v2::{self, ApiError};
use crate::limits::GENERATE_BODY_BYTES_MAX;
use crate::node::Node;

/// `POST /v2/models/NAME[/versions/V]/generate`
pub async fn generate(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
    request: Request,
) -> Response {
    let began = Instant::now();
    let outcome = once(&node, named, request, began).await;
    node.meters.count(began, outcome.as_ref().err().map(ApiError::code));
    match outcome {
        Ok((answer, headers)) => (headers, Json(answer)).into_response(),
        Err(error) => error.into_response(),
    }
}

/// `POST /v2/models/NAME[/versions/V]/generate_stream`: the same as server-sent events, one for each
/// answer. The headers tell of the first. An error after it is an event, the last one.
pub async fn generate_stream(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
    request: Request,
) -> Response {
    let began = Instant::now();
    match begin(&node, named, request, began).await {
        Ok((first, headers, rest)) => {
            let first = stream::iter([first]);
            let events = first
                .chain(stream::unfold(rest, next))
                .map(|answer| Ok::<_, Infallible>(Event::default().data(answer.to_string())));
            (headers, Sse::new(events)).into_response()
        }
        Err(error) => {
            node.meters.count(began, Some(error.code()));
            error.into_response()
        }
    }
}

/// A request that was read, and whose model is known.
struct Heard {
    found: Found,
    course: Course,
    inputs: Vec<Tensor>,
    id: Option<Value>,
}

/// A request that is answered step by step, after its first step.
struct Rest {
    node: Arc<Node>,
    steps: Steps,
    id: Option<Value>,
    began: Instant,
}

type Answered = Result<(Value, HeaderMap), ApiError>;

/// A request to its one answer.
async fn once(node: &Arc<Node>, named: Named, request: Request, began: Instant) -> Answered {
    let Heard { mut found, course, inputs, id } = hear(node, named, request).await?;
    if found.is_looped() {
        let mut steps = Steps::begin(node, found, course, inputs, Vec::new())?;
        let called = steps.only().await?;
        return Ok(tell_all(node, steps.found(), id, called, began));
    }
    let called = found.answer(node, course, inputs, Vec::new()).await?;
    Ok(tell_all(node, &found, id, called, began))
}

/// A request to its first answer, and to those that follow.
async fn begin(
    node: &Arc<Node>,
    named: Named,
    request: Request,
    began: Instant,
) -> Result<(Value, HeaderMap, Option<Rest>), ApiError> {
    let Heard { mut found, course, inputs, id } = hear(node, named, request).await?;
    if !found.is_looped() {
        let called = found.answer(node, course, inputs, Vec::new()).await?;
        let (answer, headers) = tell_all(node, &found, id, called, began);
        node.meters.count(began, None);
        return Ok((answer, headers, None));
    }
    let mut steps = Steps::begin(node, found, course, inputs, Vec::new())?;
    let called = steps.make().await?;
    let (answer, headers) = tell_all(node, steps.found(), id.clone(), called, began);
    Ok((answer, headers, Some(Rest { node: node.clone(), steps, id, began })))
}

/// The answer of the next step; it is made once it is asked for.
async fn next(rest: Option<Rest>) -> Option<(Value, Option<Rest>)> {
    let mut rest = rest?;
    let failed = match rest.steps.next().await {
        Some(Ok(called)) => {
            let told = answer(rest.steps.found(), rest.id.clone(), called);
            return Some((told, Some(rest)));
        }
        Some(Err(error)) => Some(error),
        None => None,
    };
    rest.node.meters.count(rest.began, failed.as_ref().map(ApiError::code));
    failed.map(|error| (error.body(), None))
}

async fn hear(node: &Arc<Node>, named: Named, request: Request<Body>) -> Result<Heard, ApiError> {
    let arrived = node.clock.now().mono;
    let (head, body) = request.into_parts();
    let body = read(&head, body, GENERATE_BODY_BYTES_MAX).await?;
    let bytes = body.len();
    let parse = move || {
        serde_json::from_slice::<Map<String, Value>>(&body)
            .map_err(|error| ApiError::malformed(format!("the body is not a JSON object: {error}")))
    };
    let mut members = node.aside.run(bytes, parse).await?;
    let id = members.remove("id");
    let parameters = match members.remove("parameters") {
        None => Map::new(),
        Some(Value::Object(parameters)) => parameters,
        Some(other) => return Err(ApiError::malformed(format!("parameters is {other}"))),
    };
    // Which members are inputs the model says; which model it is, constraints have a say in.
    let mut known: BTreeMap<String, Value> = parameters.into_iter().collect();
    let stated = |key: &String| hansa_core::policy::CONSTRAINTS.contains(&key.as_str());
    let constraints: Vec<String> = members.keys().filter(|key| stated(key)).cloned().collect();
    for key in constraints {
        known.extend(members.remove_entry(&key));
    }
    let course = Course::take(node, &named, &mut known)?;
    let demand = demand(node, &head.headers, &known)?;
    let trace = trace::of(&head.headers, node);
    let found = Call { named, demand, trace, arrived }.find(node).await?;
    let signature = found.signature.for_apps();
    let inputs = node.aside.run(bytes, move || inputs(&signature, members)).await?;
    Ok(Heard { found, course, inputs, id })
}

/// An answer, and the headers that go with it.
fn tell_all(
    node: &Node,
    found: &Found,
    id: Option<Value>,
    mut called: Called,
    began: Instant,
) -> (Value, HeaderMap) {
    let mut headers = HeaderMap::new();
    tell(node, &called.answer, called.receipt.take(), began.elapsed(), &mut headers);
    (answer(found, id, called), headers)
}

/// An answer as one flat object.
fn answer(found: &Found, id: Option<Value>, called: Called) -> Value {
    let version = &found.resolved.version;
    let mut told = json!({ "model_name": found.name(), "model_version": version });
    for (key, value) in [("id", id), ("receipt", called.proof.map(Value::from))] {
        if let Some(value) = value {
            told[key] = value;
        }
    }
    for output in called.answer.outputs {
        let shown = v2::tensor_json(&output, usize::MAX);
        let value = match shown["data"].as_array().map(Vec::as_slice) {
            Some([one]) => one.clone(),
            _ => shown["data"].clone(),
        };
        told[output.name] = value;
    }
    told
}

/// The model's inputs from a flat object, which must have nothing else.
fn inputs(signature: &Signature, mut members: Map<String, Value>) -> Result<Vec<Tensor>, ApiError> {
    let given =
        signature.inputs.iter().filter_map(|spec| Some((spec, members.remove(&spec.name)?)));
    let given: Vec<Value> =
        given.map(|(spec, value)| tensor(spec, value)).collect::<Result<_, _>>()?;
    if let Some(unknown) = members.keys().next() {
        let names: Vec<&str> = signature.inputs.iter().map(|spec| &*spec.name).collect();
        return Err(ApiError::unsupported(format!(
            "`{unknown}` is neither an input of the model ({}) nor a parameter that is known",
            names.join(", ")
        )));
    }
    let body = json!({ "inputs": given }).to_string();
    Ok(v2::parse_infer(None, body.into(), &Default::default())?.inputs)
}

/// A value as the protocol's JSON tensor.
fn tensor(spec: &TensorSpec, value: Value) -> Result<Value, ApiError> {
    let mut shape = Vec::new();
    let mut level = &value;
    while let Value::Array(items) = level {
        shape.push(items.len());
        level = items.first().unwrap_or(&Value::Null);
    }
    let rank = spec.shape.len();
    let missing = rank.checked_sub(shape.len()).ok_or_else(|| {
        let (name, depth) = (&spec.name, shape.len());
        ApiError::malformed(format!("input `{name}` has {rank} dimensions, not {depth}"))
    })?;
    shape.splice(..0, std::iter::repeat_n(1, missing));
    let mut data = value;
    for _ in 0..missing.max(usize::from(rank == 0)) {
        data = Value::Array(vec![data]);
    }
    Ok(json!({ "name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data }))
}

#[cfg(test)]
mod tests {
    use hansa_runtime::tensor::DType;

    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.into(),
        };
        Signature {
            inputs: vec![
                spec("text", DType::Bytes, &[-1, 1]),
                spec("ids", DType::Int64, &[-1, -1]),
                spec("rate", DType::Fp32, &[]),
            ],
            ..Signature::default()
        }
    }

    fn read(members: Value) -> Result<Vec<Tensor>, ApiError> {
        inputs(&signature(), members.as_object().unwrap().clone())
    }

    #[test]
    fn values_take_the_rank_that_the_model_wants() {
        let given = read(json!({ "text": "ab", "ids": [7, 8], "rate": 0.5 })).unwrap();
        let shapes: Vec<&[u64]> = given.iter().map(|tensor| &*tensor.shape).collect();
        assert_eq!(shapes, [&[1, 1][..], &[1, 2], &[]]);
        assert_eq!(&given[0].data[..], b"\x02\0\0\0ab");
        let nested = read(json!({ "ids": [[7], [8]] })).unwrap();
        assert_eq!(nested[0].shape, [2, 1]);
    }

    #[test]
    fn what_is_no_input_or_has_another_form_is_refused() {
        for (members, word) in [
            (json!({ "txt": "a" }), "text, ids, rate"),
            (json!({ "ids": [[[1]]] }), "2 dimensions, not 3"),
            (json!({ "ids": ["a"] }), "ids"),
            (json!({ "ids": [[1, 2], [3]] }), "ids"),
            (json!({ "text": { "a": 1 } }), "text"),
        ] {
            let error = read(members).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
