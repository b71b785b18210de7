//! Handlers of the Open Inference Protocol over HTTP: metadata, readiness, inference. They read the
//! request and write the answer; what lies between, of whatever protocol, is [`super::call`]'s.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use hansa_core::id::PeerId;
use http_body_util::BodyExt;

use super::call::{Call, Called, Named, demand};
use super::loops::Course;
use super::packed::Packed;
use super::receipts;
use super::trace;
use super::v2::{self, ApiError, InferRequest, JSON_LENGTH, Rendered};
use super::wanted::Wanted;
use crate::jobs::Answer;
use crate::limits::{BODY_BYTES_MAX, HTTP_BODY_IDLE_TIMEOUT, UNPACKING_RATIO_MAX};
use crate::node::Node;

const EXECUTED_BY: HeaderName = HeaderName::from_static("hansa-executed-by");
const EXECUTED_IN: HeaderName = HeaderName::from_static("hansa-executed-in");
const PRICE: HeaderName = HeaderName::from_static("hansa-price");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Most that is set aside for a body by its declared length alone.
const BODY_BYTES_TRUSTED: usize = 8 << 20;

/// `GET /v2`
pub async fn server_metadata() -> Response {
    Json(v2::server_metadata()).into_response()
}

/// `GET /v2/models/NAME[/versions/V]`
pub async fn metadata(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<Response, ApiError> {
    let (resolved, signature) = named.describe(&node).await?;
    Ok(Json(v2::model_metadata(&named.model, &resolved, &signature.for_apps())).into_response())
}

/// `GET /v2/models/NAME[/versions/V]/config`
pub async fn config(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<Response, ApiError> {
    let (_, signature) = named.describe(&node).await?;
    Ok(Json(v2::model_config(&named.model, &signature)).into_response())
}

/// `GET /v2/models/NAME[/versions/V]/ready`
pub async fn model_ready(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<StatusCode, ApiError> {
    named.ready(&node)?;
    Ok(StatusCode::OK)
}

/// `POST /v2/models/NAME[/versions/V]/infer`
pub async fn infer(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
    request: Request,
) -> Response {
    let arrived = Instant::now();
    let outcome = run(&node, named, request).await;
    node.meters.count(arrived, outcome.as_ref().err().map(ApiError::code));
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// A request to its answer.
async fn run(node: &Arc<Node>, named: Named, request: Request) -> Result<Response, ApiError> {
    let (arrived, started) = (node.clock.now().mono, Instant::now());
    let (head, body) = request.into_parts();
    let body = read(&head, body, BODY_BYTES_MAX).await?;
    let json_length = json_length(&head.headers)?;
    let bytes = json_length.unwrap_or(body.len());
    let regions = node.clone();
    let parse = move || v2::parse_infer(json_length, body, &regions.regions);
    let request = node.aside.run(bytes, parse).await?;
    check_name(&named, request.model.as_deref())?;
    let InferRequest {
        id, mut inputs, raw, outputs: wanted, mut parameters, binary_default, ..
    } = request;
    let course = Course::take(node, &named, &mut parameters)?;
    let demand = demand(node, &head.headers, &parameters)?;
    let (name, trace) = (named.model.clone(), trace::of(&head.headers, node));
    let call = Call { named, demand, trace, arrived };
    let mut found = call.find(node).await?;
    found.check_once("HTTP end point")?;
    let shown = found.shown();
    if let Some(raw) = raw {
        inputs.push(v2::raw_input(&shown, raw)?);
    }
    let names = wanted.iter().map(|output| output.name.clone()).collect();
    Wanted::check(&wanted, &shown, &node.regions)?;
    v2::check_wanted(&shown, &wanted, binary_default)?;
    let labels = found.labels(node, &wanted).await?;
    let Called { mut answer, receipt, proof } = found.answer(node, course, inputs, names).await?;
    let version = found.resolved.version.clone();
    let outputs = std::mem::take(&mut answer.outputs);
    let bytes =
        v2::json_bytes(&outputs, &wanted, binary_default) + Wanted::bytes(&wanted, &outputs);
    let (signature, regions) = (found.signature.clone(), node.clone());
    let render = move || {
        let outputs = Wanted::form(&wanted, outputs, &signature, &labels, &regions.regions)?;
        let (id, receipt) = (id.as_deref(), proof.as_deref());
        let head = v2::Head { model: &name, version: &version, id, receipt };
        v2::render_infer(head, outputs, &wanted, binary_default)
    };
    let mut response = respond(node.aside.run(bytes, render).await?);
    tell(node, &answer, receipt, started.elapsed(), response.headers_mut());
    Ok(response)
}

/// Whether the body, if it names a model as well, names this one.
fn check_name(named: &Named, model: Option<&str>) -> Result<(), ApiError> {
    match model.filter(|model| *model != named.model) {
        None => Ok(()),
        Some(other) => Err(ApiError::malformed(format!(
            "the path names the model `{}`, the body names `{other}`",
            named.model
        ))),
    }
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let fault = || ApiError::malformed("Inference-Header-Content-Length is not a number of bytes");
    length.map(Some).ok_or_else(fault)
}

/// Takes in a body: never more than `most` bytes, and not from a client that stands still.
pub(super) async fn read(head: &Parts, mut body: Body, most: usize) -> Result<Bytes, ApiError> {
    let packed: Option<&Packed> = head.extensions.get();
    let declared =
        head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let declared: usize = declared.unwrap_or(0);
    let too_large =
        || ApiError::too_large(format!("the body has more than {most} bytes, the limit"));
    if declared > most {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(declared.min(BODY_BYTES_TRUSTED));
    loop {
        let frame = tokio::time::timeout(HTTP_BODY_IDLE_TIMEOUT, body.frame()).await;
        let late = |_| {
            let message = format!("no byte of the body came for {HTTP_BODY_IDLE_TIMEOUT:?}");
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
        };
        let Some(frame) = frame.map_err(late)? else { return Ok(bytes.into()) };
        let broken = |error| ApiError::malformed(format!("the body cannot be read: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if data.len() > most - bytes.len() {
            return Err(too_large());
        }
        if packed.is_some_and(|packed| bytes.len() + data.len() > packed.unpacked_max()) {
            return Err(ApiError::too_large(format!(
                "the compressed body unpacks to more than {UNPACKING_RATIO_MAX} times what was \
                 sent; send it uncompressed"
            )));
        }
        bytes.extend_from_slice(&data);
    }
}

/// The response of a rendered answer; binary outputs are not copied.
fn respond(rendered: Rendered) -> Response {
    let Rendered { json_length, parts } = rendered;
    let total: usize = parts.iter().map(Bytes::len).sum();
    let parts = parts.into_iter().map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(stream::iter(parts)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, total.into());
    let content_type = match json_length {
        None => "application/json",
        Some(length) => {
            headers.insert(JSON_LENGTH, length.into());
            "application/octet-stream"
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Says who ran the job, where, at what price, and what took how long.
pub(super) fn tell(
    node: &Node,
    answer: &Answer,
    receipt: Option<String>,
    total: Duration,
    headers: &mut HeaderMap,
) {
    if let Some(receipt) = receipt {
        headers.insert(receipts::RECEIPT, receipt.try_into().expect("an id is a header"));
    }
    let (names, locations) = whereabouts(node, &answer.executed_by);
    headers.insert(EXECUTED_BY, names);
    if let Some(locations) = locations {
        headers.insert(EXECUTED_IN, locations);
    }
    // What is free says nothing.
    if !answer.price.is_free() {
        let price = answer.price.to_string();
        headers.insert(PRICE, price.try_into().expect("amounts are a header"));
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let timing = format!(
        "queue;dur={:.3}, run;dur={:.3}, total;dur={:.3}",
        ms(answer.queue),
        ms(answer.service),
        ms(total)
    );
    headers.insert(SERVER_TIMING, timing.try_into().expect("numbers are a header"));
}

/// Names and locations of peers, as their adverts and charters say, each once; the id of one whose
/// name cannot be in a header.
fn whereabouts(node: &Node, peers: &[PeerId]) -> (HeaderValue, Option<HeaderValue>) {
    let view = node.view();
    let (mut names, mut locations) = (Vec::<String>::new(), Vec::<String>::new());
    for peer in peers {
        let record = view.get(*peer).map(|entry| &entry.record);
        let name = record.map(|record| record.advert.name.clone());
        let name = name.filter(|name| HeaderValue::from_str(name).is_ok() && !name.contains(','));
        names.push(name.unwrap_or_else(|| peer.to_string()));
        let charter = record.and_then(|record| record.charter.as_ref().ok());
        locations.extend(charter.map(|held| held.location.to_string()));
    }
    let list = |mut words: Vec<String>| {
        let mut seen = std::collections::BTreeSet::new();
        words.retain(|word| seen.insert(word.clone()));
        HeaderValue::try_from(words.join(", ")).ok()
    };
    let locations = Some(locations).filter(|locations| !locations.is_empty());
    (list(names).expect("each is a header"), locations.and_then(list))
}
