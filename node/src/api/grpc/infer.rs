//! Inference over gRPC: one request and its answer, or a stream of requests and their answers.
//!
//! On a stream the requests that are answered once are answered in their order. Those that are answered
//! step by step ([`crate::api::loops`]) come among them as their steps are made. So many of each are
//! worked on at once as [`GRPC_STREAM_IN_FLIGHT_MAX`] says: the next that is answered once waits on the
//! wire, and the next that is answered step by step is refused, since those before it may go on for as
//! long as their client likes. No step is begun before the client took the one before: who reads slowly
//! holds up its own stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt, stream};
use hansa_core::policy::Demand;
use hansa_runtime::labels::Labels;
use hansa_runtime::tensor::Tensor;
use tonic::Status;

use super::convert::{self, Asked};
use super::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::status::timeout;
use crate::api::call::{Call, Called, Found, demand};
use crate::api::infer::tell;
use crate::api::loops::{Course, Steps};
use crate::api::trace;
use crate::api::v2::ApiError;
use crate::api::wanted::Wanted;
use crate::limits::GRPC_STREAM_IN_FLIGHT_MAX;
use crate::node::Node;

/// A request that was read, and whose model is known.
struct Heard {
    found: Found,
    course: Course,
    inputs: Vec<Tensor>,
    form: Form,
}

/// How its answers are told.
struct Form {
    id: String,
    wanted: Arc<[Wanted]>,
    labels: Arc<Labels>,
    /// Whether each answer says if it is its request's last, as Triton's do on streams.
    is_streamed: bool,
    /// Whether an answer with nothing in it is to say so after several.
    tells_end: bool,
}

/// What comes of a request on a stream.
enum Reply {
    /// One answer.
    One(Box<ModelStreamInferResponse>),
    /// Several, to the request of this id, which came at that time.
    Many(BoxStream<'static, ModelStreamInferResponse>, String, Instant),
}

/// A request that is answered step by step.
struct Rest {
    node: Arc<Node>,
    steps: Steps,
    form: Form,
    began: Instant,
}

/// A request's answer, and the headers that go with it. Counted.
pub(super) async fn once(
    node: &Arc<Node>,
    headers: &HeaderMap,
    request: ModelInferRequest,
) -> Result<(ModelInferResponse, HeaderMap), ApiError> {
    let began = Instant::now();
    let answered = async {
        let heard = hear(node, headers, request, false).await?;
        heard.found.check_once("ModelInfer RPC")?;
        heard.answer(node, began).await
    };
    let outcome = answered.await;
    node.meters.count(began, outcome.as_ref().err().map(ApiError::code));
    outcome
}

/// What comes of each request of a stream. Dropped, it cancels what runs.
pub(super) fn each<S>(
    node: Arc<Node>,
    headers: HeaderMap,
    requests: S,
) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> + Send
where
    S: Stream<Item = Result<ModelInferRequest, Status>> + Send + 'static,
{
    let (headers, own) = (Arc::new(headers), node.clone());
    let replies = requests.map(move |request| {
        let (node, headers) = (own.clone(), headers.clone());
        async move { Ok(reply(&node, &headers, request?).await) }
    });
    let replies = replies.buffered(GRPC_STREAM_IN_FLIGHT_MAX).fuse();
    let state = (node, Box::pin(replies), SelectAll::new());
    stream::unfold(state, |(node, mut replies, mut many)| async move {
        loop {
            let may_more = !replies.is_done();
            let answer = tokio::select! {
                Some(answer) = many.next(), if !many.is_empty() => Ok(answer),
                Some(reply) = replies.next(), if may_more => match reply {
                    Ok(Reply::One(answer)) => Ok(*answer),
                    Ok(Reply::Many(answers, ..)) if many.len() < GRPC_STREAM_IN_FLIGHT_MAX => {
                        many.push(answers);
                        continue;
                    }
                    Ok(Reply::Many(_, id, began)) => Ok(crowded(&node, id, began)),
                    Err(status) => Err(status),
                },
                else => match replies.is_done() {
                    true => return None,
                    false => continue,
                },
            };
            return Some((answer, (node, replies, many)));
        }
    })
}

async fn hear(
    node: &Arc<Node>,
    headers: &HeaderMap,
    request: ModelInferRequest,
    is_streamed: bool,
) -> Result<Heard, ApiError> {
    let arrived = node.clock.now().mono;
    let Asked { named, id, inputs, outputs: wanted, mut parameters, tells_end } =
        convert::read(request, &node.regions)?;
    let course = Course::take(node, &named, &mut parameters)?;
    let mut demand = demand(node, headers, &parameters)?;
    narrow(&mut demand, timeout(headers)?);
    let found = Call { named, demand, trace: trace::of(headers, node), arrived }.find(node).await?;
    Wanted::check(&wanted, &found.shown(), &node.regions)?;
    if found.is_looped() {
        Wanted::check_each(&wanted)?;
    }
    let labels = found.labels(node, &wanted).await?;
    let form = Form { id, wanted: wanted.into(), labels, is_streamed, tells_end };
    Ok(Heard { found, course, inputs, form })
}

/// Narrows a deadline; one that is there is not replaced by a later one.
fn narrow(demand: &mut Demand, timeout: Option<Duration>) {
    demand.deadline = [demand.deadline, timeout].into_iter().flatten().min();
}

impl Heard {
    /// Its one answer.
    async fn answer(
        self,
        node: &Arc<Node>,
        began: Instant,
    ) -> Result<(ModelInferResponse, HeaderMap), ApiError> {
        let Self { mut found, course, inputs, form } = self;
        let mut called = found.answer(node, course, inputs, form.names()).await?;
        let (tensors, proof) = (std::mem::take(&mut called.answer.outputs), called.proof.take());
        let response = form.tell(node, &found, tensors, proof, true).await?;
        let mut headers = HeaderMap::new();
        tell(node, &called.answer, called.receipt, began.elapsed(), &mut headers);
        Ok((response, headers))
    }
}

impl Form {
    fn names(&self) -> Vec<String> {
        self.wanted.iter().map(|output| output.name.clone()).collect()
    }

    /// The last answer, with nothing in it.
    fn end(&self, found: &Found) -> ModelInferResponse {
        let (name, version) = (found.name().to_owned(), found.resolved.version.clone());
        let is_end = self.is_streamed.then_some(true);
        convert::answer(name, version, self.id.clone(), Vec::new(), &self.wanted, None, is_end)
    }

    /// An answer, which is its request's last or not.
    async fn tell(
        &self,
        node: &Arc<Node>,
        found: &Found,
        tensors: Vec<Tensor>,
        proof: Option<String>,
        is_end: bool,
    ) -> Result<ModelInferResponse, ApiError> {
        let (name, version) = (found.name().to_owned(), found.resolved.version.clone());
        let is_end = self.is_streamed.then_some(is_end);
        let (id, wanted, labels) = (self.id.clone(), self.wanted.clone(), self.labels.clone());
        let (bytes, signature) = (Wanted::bytes(&wanted, &tensors), found.signature.clone());
        let regions = node.clone();
        let form = move || {
            let tensors = Wanted::form(&wanted, tensors, &signature, &labels, &regions.regions)?;
            Ok(convert::answer(name, version, id, tensors, &wanted, proof, is_end))
        };
        node.aside.run(bytes, form).await
    }
}

/// What comes of a request of a stream. One answer is counted.
async fn reply(node: &Arc<Node>, headers: &HeaderMap, request: ModelInferRequest) -> Reply {
    let (began, id) = (Instant::now(), request.id.clone());
    let outcome = async {
        let heard = hear(node, headers, request, true).await?;
        if !heard.found.is_looped() {
            let (answer, _) = heard.answer(node, began).await?;
            return Ok(Reply::One(Box::new(given(answer))));
        }
        let Heard { found, course, inputs, form } = heard;
        let steps = Steps::begin(node, found, course, inputs, form.names())?;
        let id = form.id.clone();
        let rest = Rest { node: node.clone(), steps, form, began };
        Ok(Reply::Many(stream::unfold(Some(rest), next).boxed(), id, began))
    };
    let outcome = outcome.await;
    let failed = outcome.as_ref().err().map(ApiError::code);
    if !matches!(outcome, Ok(Reply::Many(..))) {
        node.meters.count(began, failed);
    }
    outcome.unwrap_or_else(|error: ApiError| Reply::One(Box::new(refused(id, &error))))
}

/// The answer to a request for which its stream has no room. It has run nothing. Counted.
fn crowded(node: &Node, id: String, began: Instant) -> ModelStreamInferResponse {
    let message = format!(
        "{GRPC_STREAM_IN_FLIGHT_MAX} requests are answered step by step on this stream already: send \
         this one again when one of them has ended, or on another stream"
    );
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message);
    node.meters.count(began, Some(error.code()));
    refused(id, &error)
}

/// The answer of the next step; it is made once it is asked for. The last answer of all has nothing
/// in it but that it is the last, and is told only who asks for it. An error is the last as well.
async fn next(rest: Option<Rest>) -> Option<(ModelStreamInferResponse, Option<Rest>)> {
    let mut rest = rest?;
    let Rest { node, steps, form, began } = &mut rest;
    let told = match steps.next().await {
        Some(Ok(Called { answer, proof, .. })) => {
            form.tell(node, steps.found(), answer.outputs, proof, false).await
        }
        Some(Err(error)) => Err(error),
        None => {
            node.meters.count(*began, None);
            return form.tells_end.then(|| (given(form.end(steps.found())), None));
        }
    };
    match told {
        Ok(answer) => Some((given(answer), Some(rest))),
        Err(error) => {
            node.meters.count(*began, Some(error.code()));
            let error_message = error.to_string();
            let infer_response = Some(form.end(steps.found()));
            Some((ModelStreamInferResponse { error_message, infer_response }, None))
        }
    }
}

fn given(answer: ModelInferResponse) -> ModelStreamInferResponse {
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(answer) }
}

/// Clients tell by the id whose error it is.
fn refused(id: String, error: &ApiError) -> ModelStreamInferResponse {
    ModelStreamInferResponse {
        error_message: error.to_string(),
        infer_response: Some(ModelInferResponse { id, ..Default::default() }),
    }
}
