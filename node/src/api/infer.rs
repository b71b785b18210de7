//! Handlers of the Open Inference Protocol: metadata, readiness, inference.
//!
//! A model is named, a bundle is meant: the entry resolves the name once, checks the inputs
//! against the bundle's signature (its own, or a holder's, kept by digest) and puts the job in the
//! air.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use hansa_core::explain::{Explanation, explain};
use hansa_core::id::PeerId;
use hansa_core::limits::DEADLINE_DEFAULT;
use hansa_core::plan::{Job, Refusal, Resolved, candidates, resolve};
use hansa_core::policy::{Demand, Policy};
use hansa_runtime::check::{Head, InputLimits};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use tracing::Instrument;

use super::packed::Packed;
use super::receipts;
use super::trace;
use super::v2::{self, ApiError, InferRequest, JSON_LENGTH, Rendered};
use crate::jobs::{Answer, Evidence, Order, batch_rows};
use crate::limits::{BODY_BYTES_MAX, HTTP_BODY_IDLE_TIMEOUT, UNPACKING_RATIO_MAX};
use crate::node::Node;

const EXECUTED_BY: HeaderName = HeaderName::from_static("hansa-executed-by");
const EXECUTED_IN: HeaderName = HeaderName::from_static("hansa-executed-in");
const PRICE: HeaderName = HeaderName::from_static("hansa-price");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Most that is set aside for a body by its declared length alone.
const BODY_BYTES_TRUSTED: usize = 8 << 20;

/// The model that a path names.
#[derive(Deserialize)]
pub struct Named {
    model: String,
    version: Option<String>,
}

/// `GET /v2`
pub async fn server_metadata() -> Response {
    Json(v2::server_metadata()).into_response()
}

/// `GET /v2/models/NAME[/versions/V]`
pub async fn metadata(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<Response, ApiError> {
    let resolved = named.resolve(&node, &Policy::default())?;
    let signature = node.describe(resolved.bundle, &Policy::default()).await?;
    Ok(Json(v2::model_metadata(&named.model, &resolved, &signature)).into_response())
}

/// `GET /v2/models/NAME[/versions/V]/config`
pub async fn config(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<Response, ApiError> {
    let resolved = named.resolve(&node, &Policy::default())?;
    let signature = node.describe(resolved.bundle, &Policy::default()).await?;
    Ok(Json(v2::model_config(&named.model, &signature)).into_response())
}

/// `GET /v2/models/NAME[/versions/V]/ready`
pub async fn model_ready(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<StatusCode, ApiError> {
    // Ready means that there is a peer that a job would go to.
    let policy = Policy::default();
    let later =
        |refusal| node.is_it_coming(&named.model, named.version.as_deref(), &policy, refusal);
    let bundle = named.resolve(&node, &policy).map_err(later)?.bundle;
    if node.hosted(bundle).is_none() {
        let deadline = node.clock.now().mono + DEADLINE_DEFAULT;
        let job = Job::new(node.draw_job(), bundle, Policy::default(), &node.send, deadline);
        candidates(node.clock.now(), &node.view(), &node.loads(), &job)?;
    }
    Ok(StatusCode::OK)
}

/// `POST /v2/models/NAME[/versions/V]/infer`
pub async fn infer(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let arrived = Instant::now();
    let outcome = run(&node, &named, &headers, request).await;
    let code = match &outcome {
        Ok(_) => "ok",
        Err(error) => error.code(),
    };
    metrics::counter!("hansa_requests_total", "outcome" => code).increment(1);
    metrics::histogram!("hansa_request_seconds").record(arrived.elapsed());
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// A request to its answer.
async fn run(
    node: &Arc<Node>,
    named: &Named,
    headers: &HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let (arrived, started) = (node.clock.now().mono, Instant::now());
    if node.is_draining() {
        return Err(Refusal::Draining.into());
    }
    let body = read(request).await?;
    let json_length = json_length(headers)?;
    let parse = move |body: Bytes| v2::parse_infer(json_length, body);
    let bytes = json_length.unwrap_or(body.len());
    let request = node.aside.run(bytes, move || parse(body)).await?;
    named.check(request.model.as_deref())?;
    let Demand { policy, deadline, with_receipt } = demand(node, headers, &request.parameters)?;
    if policy.rtt_evidence {
        node.law.want_evidence();
    }
    let is_timed = deadline.is_some();
    let deadline = arrived + deadline.unwrap_or(DEADLINE_DEFAULT);
    let later = |refusal| node.fetch_for(&named.model, named.version.as_deref(), &policy, refusal);
    let unheld = |refusal| {
        node.count_unheld(&named.model, named.version.as_deref(), &policy, &refusal);
        later(refusal)
    };
    let resolved = match named.resolve(node, &policy) {
        Ok(resolved) => resolved,
        Err(refusal) => {
            let receipted = node.note_refusal(&named.model, &policy, &refusal).await;
            return Err(ApiError::from(unheld(refusal)).receipted(receipts::told(receipted)));
        }
    };
    let describing = node.describe(resolved.bundle, &policy);
    let signature = tokio::time::timeout_at(node.clock.instant(deadline).into(), describing);
    let signature = signature.await.map_err(|_| Refusal::Deadline)?.map_err(unheld)?;
    let InferRequest { id, inputs, outputs: wanted, binary_default, .. } = request;
    let outputs: Vec<String> = wanted.iter().map(|output| output.name.clone()).collect();
    signature.check(inputs.iter().map(Head::from), &outputs, &InputLimits::default())?;
    v2::check_wanted(&signature, &wanted, binary_default)?;
    let shapes = inputs.iter().map(|input| (&*input.name, &*input.shape));
    let (rows, separable) = batch_rows(&signature, shapes);
    let job = Job {
        rows,
        separable,
        is_timed,
        bytes: inputs.iter().map(|input| input.data.len() as u64).sum(),
        ..Job::new(node.draw_job(), resolved.bundle, policy.clone(), &node.send, deadline)
    };
    let called = format!("{}:{}", named.model, resolved.version);
    let evidence = Evidence::begin(node, called, None);
    let order = Order { job, inputs, outputs, trace: trace::of(headers, node), evidence };
    let span = tracing::info_span!(
        "infer", job = %order.job.id, model = named.model, trace = %trace::Hex(&order.trace.trace)
    );
    let (answer, receipted) = node.infer(order).instrument(span).await;
    let receipt = receipts::told(receipted);
    let refused = |refusal| ApiError::from(later(refusal)).receipted(receipt.clone());
    let mut answer = answer.map_err(refused)?;
    let proof = if with_receipt { receipts::inline(node, receipted).await } else { None };
    let outputs = std::mem::take(&mut answer.outputs);
    let (name, version) = (named.model.clone(), resolved.version.clone());
    let bytes = v2::json_bytes(&outputs, &wanted, binary_default);
    let render = move || {
        let (id, receipt) = (id.as_deref(), proof.as_deref());
        let head = v2::Head { model: &name, version: &version, id, receipt };
        v2::render_infer(head, outputs, &wanted, binary_default)
    };
    let mut response = respond(node.aside.run(bytes, render).await?);
    tell(node, &answer, started.elapsed(), response.headers_mut());
    if let Some(receipt) = receipt {
        let receipt = receipt.try_into().expect("an id is a header");
        response.headers_mut().insert(receipts::RECEIPT, receipt);
    }
    Ok(response)
}

impl Named {
    /// What the name means under `policy`, at this moment.
    fn resolve(&self, node: &Node, policy: &Policy) -> Result<Resolved, Refusal> {
        let (now, view) = (node.clock.now(), node.view());
        resolve(now, &view, &self.model, self.version.as_deref(), policy)
    }

    /// Whether the body, if it names a model as well, names this one.
    fn check(&self, model: Option<&str>) -> Result<(), ApiError> {
        match model.filter(|model| *model != self.model) {
            None => Ok(()),
            Some(other) => Err(ApiError::malformed(format!(
                "the path names the model `{}`, the body names `{other}`",
                self.model
            ))),
        }
    }

    /// What would be done with a job that a query describes, and why: `model`, `version`, `rows`,
    /// `bytes`, and the parameters that a job could carry.
    pub async fn explain(
        node: &Node,
        mut query: BTreeMap<String, String>,
    ) -> Result<Explanation, ApiError> {
        let missing = || ApiError::malformed("the query names no model; add ?model=NAME");
        let model = query.remove("model").ok_or_else(missing)?;
        let named = Self { model, version: query.remove("version") };
        let bytes: u64 = number(query.remove("bytes"), "bytes")?.unwrap_or(0);
        let rows: u32 = number(query.remove("rows"), "rows")?.unwrap_or(1);
        let parameters: BTreeMap<String, Value> =
            query.into_iter().map(|(key, value)| (key, value.into())).collect();
        let demand = demand(node, &HeaderMap::new(), &parameters)?;
        let bundle = named.resolve(node, &demand.policy)?.bundle;
        // Where nobody may describe the model, nobody may run it either: the plan says why.
        let signature = node.describe(bundle, &demand.policy).await.ok();
        let separable = signature.is_some_and(|signature| signature.row_axes().is_some());
        let now = node.clock.now();
        let deadline = now.mono + demand.deadline.unwrap_or(DEADLINE_DEFAULT);
        let fresh = Job::new(node.draw_job(), bundle, demand.policy, &node.send, deadline);
        let is_timed = demand.deadline.is_some();
        let job = Job { bytes, rows, separable, is_timed, ..fresh };
        let view = node.view();
        let loads = node.loads().clone(); // A full scan is not for under the lock.
        Ok(explain(now, &view, &loads, &job))
    }
}

/// What a request demands, under this node's own limit of price.
fn demand(
    node: &Node,
    headers: &HeaderMap,
    parameters: &BTreeMap<String, Value>,
) -> Result<Demand, ApiError> {
    let mut demand = v2::demand(headers, parameters, &node.groups)?;
    if let Some(max) = node.config.policy.max_price {
        demand.policy.limit_price(max);
    }
    Ok(demand)
}

fn number<T: std::str::FromStr>(text: Option<String>, key: &str) -> Result<Option<T>, ApiError> {
    let fault = |text| ApiError::malformed(format!("{key}={text} is not a number"));
    text.map(|text| text.parse().map_err(|_| fault(text))).transpose()
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let fault = || ApiError::malformed("Inference-Header-Content-Length is not a number of bytes");
    length.map(Some).ok_or_else(fault)
}

/// Takes in a body: never more than [`BODY_BYTES_MAX`], and not from a client that stands still.
async fn read(request: Request) -> Result<Bytes, ApiError> {
    let (parts, mut body) = request.into_parts();
    let packed: Option<&Packed> = parts.extensions.get();
    let declared =
        parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let declared: usize = declared.unwrap_or(0);
    let too_large =
        || ApiError::too_large(format!("the body has more than {BODY_BYTES_MAX} bytes, the limit"));
    if declared > BODY_BYTES_MAX {
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
        if data.len() > BODY_BYTES_MAX - bytes.len() {
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
fn tell(node: &Node, answer: &Answer, total: Duration, headers: &mut HeaderMap) {
    let (names, locations) = whereabouts(node, &answer.executed_by);
    headers.insert(EXECUTED_BY, names);
    if let Some(locations) = locations {
        headers.insert(EXECUTED_IN, locations);
    }
    // What is free says nothing.
    if !answer.price.is_free() {
        let price = answer.price.to_string();
        headers.insert(PRICE, price.try_into().expect("amounts are a header"));
        crate::jobs::count("hansa_paid_micros_total", &answer.price);
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
