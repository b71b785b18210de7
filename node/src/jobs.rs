//! A job's way through a node: from the app or another peer into the air, to the engine here or
//! to the next peer, and its one answer back.
//!
//! ```text
//! api::infer ─► Node::infer ─► Flight ─┬─ run_here ─► Engine
//! jobs::serve ──────┘                  └─ send ─────► data plane ─► jobs::serve of the next peer
//! ```
//!
//! A peer that forwards a job is a client of the next peer: one protocol, one code path. What is
//! decided, `hansa_core::flight` decides; this file moves tensors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::charter::CharterFault;
use hansa_core::flight::{Event, Flight, Step};
use hansa_core::gate;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::limits::HEADER_BYTES_MAX;
use hansa_core::loads::Report;
use hansa_core::plan::{Job, Plan, Refusal, candidates, plan};
use hansa_core::policy::Policy;
use hansa_core::wire::{
    AnswerHeader, Ask, Done, JobHeader, TensorMeta, TraceContext, WIRE_VERSION,
};
use hansa_net::data::{Body, Call, CallError};
use hansa_net::limits::code;
use hansa_runtime::check::{Head, InputLimits};
use hansa_runtime::engine::{EngineError, Request, SubmitError};
use hansa_runtime::tensor::{DType, InputError, Signature, Tensor};
use tracing::Instrument;

use crate::actors::peer::PeerMessage;
use crate::api::trace::Hex;
use crate::limits::*;
use crate::node::Node;

/// One job as the node holds it: what the core sees of it, and its payload.
pub struct Order {
    /// The core's part.
    pub job: Job,
    /// The tensors.
    pub inputs: Vec<Tensor>,
    /// Outputs wanted; empty means all.
    pub outputs: Vec<String>,
    /// Its trace.
    pub trace: TraceContext,
}

/// What came of a job that ran.
#[derive(Debug)]
pub struct Answer {
    /// Who ran it.
    pub executed_by: PeerId,
    /// What the model gave.
    pub outputs: Vec<Tensor>,
    /// Time that it waited at the executor.
    pub queue: Duration,
    /// Time that it ran.
    pub service: Duration,
    /// Jobs of the bundle in flight at the executor.
    pub in_flight: u32,
}

impl Node {
    /// Keeps a job in the air until it has its one answer. Dropping the future cancels the job
    /// wherever it is.
    pub async fn infer(&self, order: &Order) -> Result<Answer, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let _counted = self.tasks.token(); // The drain waits for it.
        let deadline = self.clock.instant(order.job.deadline).into();
        let flown = tokio::time::timeout_at(deadline, self.fly(order)).await;
        let outcome = flown.unwrap_or(Err(Refusal::Deadline));
        match &outcome {
            Ok(answer) => tracing::debug!(by = %answer.executed_by, "answered"),
            Err(refusal) => tracing::info!(%refusal, "refused"),
        }
        outcome
    }

    async fn fly(&self, order: &Order) -> Result<Answer, Refusal> {
        let mut flight = Flight::begin(order.job.clone());
        let mut event = Event::Begin;
        let mut answer = None;
        loop {
            let step = self.decide(&mut flight, event);
            event = match step {
                Step::RunLocal => match self.run_here(order).await {
                    Ok(ran) => {
                        answer = Some(ran);
                        Event::Answered
                    }
                    Err(refusal) => Event::Refused { by: self.me, refusal },
                },
                Step::Send { to, .. } => match self.send(order, to).await {
                    Ok(ran) => {
                        answer = Some(ran);
                        Event::Answered
                    }
                    Err(SendError::Refused(refusal)) => Event::Refused { by: to, refusal },
                    Err(SendError::Lost(reason)) => {
                        self.lost(to, &reason);
                        Event::Lost { peer: to, reason }
                    }
                },
                Step::Answer(Ok(())) => return Ok(answer.expect("an answered flight has run")),
                Step::Answer(Err(refusal)) => return Err(refusal),
            };
        }
    }
}

/// What became of a job that was sent on.
enum SendError {
    /// The peer answered that it will not, and why.
    Refused(Refusal),
    /// The peer or the way to it is gone.
    Lost(String),
}

impl Node {
    /// One decision of the core, against what is known at this moment.
    fn decide(&self, flight: &mut Flight, event: Event) -> Step {
        let (view, now) = (self.view(), self.clock.now());
        flight.handle(now, event, &view, &self.loads(), &mut self.budget())
    }

    async fn run_here(&self, order: &Order) -> Result<Answer, Refusal> {
        let bundle = order.job.bundle;
        let hosted = self.hosted(bundle).ok_or_else(|| gone(bundle))?;
        let load = hosted.engine.load();
        let _counted = Outstanding::count(self, self.me, bundle);
        let request = Request {
            inputs: order.inputs.clone(),
            outputs: order.outputs.clone(),
            deadline: Some(self.clock.instant(order.job.deadline)),
        };
        let response = hosted.engine.submit(request).map_err(not_taken)?.await.map_err(failed)?;
        metrics::counter!("hansa_executed_total", "model" => hosted.name.clone()).increment(1);
        metrics::histogram!("hansa_service_seconds", "model" => hosted.name)
            .record(response.service);
        Ok(Answer {
            executed_by: self.me,
            outputs: response.outputs,
            queue: response.queue,
            service: response.service,
            in_flight: u32::try_from(load.queued + load.running).unwrap_or(u32::MAX),
        })
    }

    /// Sends the job to `to`, as a client of that peer.
    async fn send(&self, order: &Order, to: PeerId) -> Result<Answer, SendError> {
        let ask = Ask::Infer {
            bundle: order.job.bundle,
            inputs: order.inputs.iter().map(meta).collect(),
            outputs: order.outputs.clone(),
        };
        let body = order.inputs.iter().map(|input| input.data.clone()).collect();
        let header = self.job_header(order, ask);
        let sent = self.clock.now().mono;
        let _counted = Outstanding::count(self, to, order.job.bundle);
        let (done, mut body) = self.call(to, header, body).await?;
        let mut outputs = Vec::with_capacity(done.outputs.len());
        for meta in &done.outputs {
            outputs.push(receive(meta, &mut body).await.map_err(SendError::Lost)?);
        }
        let now = self.clock.now().mono;
        let report = Report {
            took: now.since(sent),
            rows: order.job.rows,
            bytes: order.job.bytes,
            queue: Duration::from_micros(done.queue_us),
            service: Duration::from_micros(done.service_us),
            in_flight: done.in_flight,
        };
        self.loads().answered(to, order.job.bundle, report, now);
        Ok(Answer {
            executed_by: done.executed_by,
            outputs,
            queue: Duration::from_micros(done.queue_us),
            service: Duration::from_micros(done.service_us),
            in_flight: done.in_flight,
        })
    }
}

impl Node {
    fn job_header(&self, order: &Order, ask: Ask) -> JobHeader {
        let job = &order.job;
        let remaining = job.deadline.since(self.clock.now().mono);
        JobHeader {
            version: WIRE_VERSION,
            job: job.id,
            path: job.path.iter().copied().chain([self.me]).collect(),
            hops_left: job.hops_left.saturating_sub(1),
            remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
            policy_hash: job.onward_law,
            policy: job.onward.clone(),
            trace: order.trace,
            ask,
            extensions: Vec::new(),
        }
    }

    /// One call of the data plane, to its answer's header.
    async fn call(
        &self,
        to: PeerId,
        header: JobHeader,
        body: Vec<Bytes>,
    ) -> Result<(Done, Body), SendError> {
        let lost = |error: CallError| match error {
            // It lives, and says that it has no place or goes.
            CallError::Refused(code) if code == u64::from(code::BUSY) => {
                SendError::Refused(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS })
            }
            CallError::Refused(code) if code == u64::from(code::DRAINING) => {
                SendError::Refused(Refusal::Draining)
            }
            other => SendError::Lost(other.to_string()),
        };
        let header = header.encode();
        if header.len() > HEADER_BYTES_MAX {
            let reason = format!(
                "the job's description takes {} bytes, the limit is {HEADER_BYTES_MAX}; \
                 shorten the lists of its constraints",
                header.len()
            );
            return Err(SendError::Refused(Refusal::BadInput { reason }));
        }
        let data = self.data().ok_or_else(|| SendError::Lost("the data plane restarts".into()))?;
        let view = self.view();
        let entry = view.get(to).ok_or_else(|| SendError::Lost("it left the mesh".into()))?;
        let addrs = &entry.record.advert.data_addrs;
        let answer = data.call(to, addrs, header.into(), body).await.map_err(lost)?;
        let header = AnswerHeader::decode(&answer.header)
            .map_err(|fault| SendError::Lost(format!("its answer is not understood: {fault}")))?;
        match header.outcome {
            Ok(done) => Ok((done, answer.body)),
            Err(refusal) => Err(SendError::Refused(refusal)),
        }
    }

    /// A peer could not be reached: the planner avoids it from now on, the directory finds out
    /// whether it lives.
    fn lost(&self, peer: PeerId, reason: &str) {
        tracing::warn!(%peer, reason, "peer lost");
        metrics::counter!("hansa_peers_lost_total").increment(1);
        self.loads().failed(peer, self.clock.now().mono);
        self.tell_peer(PeerMessage::Lost(peer));
    }

    /// The signature of a bundle: this node's own, or a holder's, kept for good.
    ///
    /// Only peers are asked that `policy` lets see the job: the question tells of it.
    pub async fn describe(
        &self,
        bundle: Digest,
        policy: &Policy,
    ) -> Result<Arc<Signature>, Refusal> {
        if let Some(hosted) = self.hosted(bundle) {
            return Ok(hosted.signature);
        }
        if let Some(signature) = self.signature(bundle) {
            return Ok(signature);
        }
        let deadline = self.clock.now().mono + DESCRIBE_TIMEOUT;
        let job = Job::new(self.draw_job(), bundle, policy.clone(), &self.send, deadline);
        let holders = candidates(self.clock.now(), &self.view(), &self.loads(), &job)?;
        let order = Order { job, inputs: vec![], outputs: vec![], trace: TraceContext::default() };
        let mut last = gone(bundle);
        for holder in holders {
            match self.ask_signature(&order, holder).await {
                Ok(signature) => {
                    self.keep_signature(bundle, signature.clone());
                    return Ok(signature);
                }
                Err(SendError::Refused(refusal)) => last = refusal,
                Err(SendError::Lost(reason)) => {
                    self.lost(holder, &reason);
                    last = Refusal::Failed { attempts: 1, last: reason };
                }
            }
        }
        Err(last)
    }

    async fn ask_signature(
        &self,
        order: &Order,
        holder: PeerId,
    ) -> Result<Arc<Signature>, SendError> {
        let header = self.job_header(order, Ask::Describe { bundle: order.job.bundle });
        let asking = async {
            let (done, mut body) = self.call(holder, header, Vec::new()).await?;
            let length = usize::try_from(done.bytes).unwrap_or(usize::MAX);
            if length > SIGNATURE_BYTES_MAX {
                return Err(SendError::Lost("its signature is too large".into()));
            }
            let bytes =
                body.read_exact(length).await.map_err(|e| SendError::Lost(e.to_string()))?;
            let signature = serde_json::from_slice(&bytes);
            signature.map(Arc::new).map_err(|error| SendError::Lost(error.to_string()))
        };
        let late = |_| SendError::Lost("it does not say the signature in time".into());
        tokio::time::timeout(DESCRIBE_TIMEOUT, asking).await.map_err(late)?
    }
}

/// Takes one call from another peer, to its answer.
pub async fn serve(node: &Node, mut call: Call) {
    let (job, outcome) = match JobHeader::decode(&call.header) {
        Err(fault) => {
            metrics::counter!("hansa_headers_refused_total").increment(1);
            tracing::warn!(peer = %call.from, %fault, "job header refused");
            (JobId([0; 16]), Err(Refusal::Malformed { reason: fault.to_string() }))
        }
        Ok(header) => {
            let job = header.job;
            let span = tracing::info_span!(
                "serve", %job, from = %call.from, trace = %Hex(&header.trace.trace)
            );
            let cancelled = call.reply.cancelled();
            tokio::select! {
                outcome = answer_call(node, header, call.from, &mut call.body).instrument(span) => {
                    (job, outcome)
                }
                () = cancelled => return, // The peer that sent the job does not want it any more.
            }
        }
    };
    let (outcome, parts) = match outcome {
        Ok((done, parts)) => (Ok(done), parts),
        Err(refusal) => (Err(refusal), Vec::new()),
    };
    let mut header = AnswerHeader { version: WIRE_VERSION, job, outcome, extensions: Vec::new() };
    let mut bytes = header.encode();
    if bytes.len() > HEADER_BYTES_MAX {
        let reason = "the answer's description is longer than a header may be".to_owned();
        header.outcome = Err(Refusal::Execution { reason });
        bytes = header.encode();
    }
    let parts = if header.outcome.is_ok() { parts } else { Vec::new() };
    // A peer that lives and does not read must not hold its place for ever.
    match tokio::time::timeout(ANSWER_TIMEOUT, call.reply.send(bytes.into(), parts)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%job, %error, "the answer could not be sent"),
        Err(_) => tracing::info!(%job, "the answer was not taken in time"),
    }
}

/// What a peer's job comes to: the gate first, before a byte of the payload is read.
async fn answer_call(
    node: &Node,
    header: JobHeader,
    from: PeerId,
    body: &mut Body,
) -> Result<(Done, Vec<Bytes>), Refusal> {
    if header.path.last() != Some(&from) {
        let reason = "the peer that sent the job is not the last of its path".to_owned();
        return Err(Refusal::Malformed { reason });
    }
    let bundle = match &header.ask {
        Ask::Infer { bundle, .. } | Ask::Describe { bundle } => *bundle,
    };
    let sender = node.view().get(from).map(|entry| entry.record.clone());
    let standing = match &sender {
        Some(record) => &record.charter,
        None => &Err(CharterFault::Absent),
    };
    let utc = node.clock.now().utc;
    gate::receive(&node.serve, standing, &header.policy, bundle, &node.charter, utc)?;
    let remaining = header.remaining();
    let (metas, outputs) = match header.ask {
        Ask::Infer { inputs, outputs, .. } => (inputs, outputs),
        Ask::Describe { .. } => return describe_own(node, bundle),
    };
    let signature = node.describe(bundle, &header.policy).await?;
    let bytes = metas.iter().map(|meta| meta.bytes).fold(0, u64::saturating_add);
    if bytes > BODY_BYTES_MAX as u64 {
        let reason = format!("inputs of {bytes} bytes; the limit is {BODY_BYTES_MAX}");
        return Err(Refusal::BadInput { reason });
    }
    let deadline = node.clock.now().mono + remaining;
    let job = Job {
        bytes,
        rows: rows(metas.first().map(|meta| meta.shape.as_slice())),
        hops_left: header.hops_left,
        path: header.path,
        ..Job::new(header.job, bundle, header.policy, &node.send, deadline)
    };
    check(&signature, &metas, &outputs)?;
    if let Plan::Refuse(refusal) = plan(node.clock.now(), &node.view(), &node.loads(), &job, &[]) {
        return Err(refusal);
    }
    let reading = async {
        let mut inputs = Vec::with_capacity(metas.len());
        for meta in &metas {
            inputs.push(receive(meta, body).await.map_err(|reason| Refusal::Malformed { reason })?);
        }
        Ok(inputs)
    };
    let inputs =
        tokio::time::timeout(remaining, reading).await.map_err(|_| Refusal::Deadline)??;
    let order = Order { job, inputs, outputs, trace: header.trace };
    let answer = node.infer(&order).await?;
    Ok((
        Done {
            executed_by: answer.executed_by,
            outputs: answer.outputs.iter().map(meta).collect(),
            bytes: 0,
            queue_us: micros(answer.queue),
            service_us: micros(answer.service),
            in_flight: answer.in_flight,
        },
        answer.outputs.into_iter().map(|output| output.data).collect(),
    ))
}

fn describe_own(node: &Node, bundle: Digest) -> Result<(Done, Vec<Bytes>), Refusal> {
    let hosted = node.hosted(bundle);
    let hosted = hosted.ok_or_else(|| gone(bundle))?;
    let text = serde_json::to_vec(&*hosted.signature).expect("a signature is JSON");
    let done = Done {
        executed_by: node.me,
        outputs: Vec::new(),
        bytes: text.len() as u64,
        queue_us: 0,
        service_us: 0,
        in_flight: 0,
    };
    Ok((done, vec![text.into()]))
}

/// The tensor that follows on a stream.
async fn receive(meta: &TensorMeta, body: &mut Body) -> Result<Tensor, String> {
    let dtype = DType::from_onnx_code(meta.dtype)
        .ok_or_else(|| format!("tensor `{}` is of unknown type {}", meta.name, meta.dtype))?;
    let length = usize::try_from(meta.bytes).ok().filter(|length| *length <= BODY_BYTES_MAX);
    let length = length.ok_or_else(|| format!("tensor `{}` is too large", meta.name))?;
    let data = body.read_exact(length).await.map_err(|error| error.to_string())?;
    Ok(Tensor { name: meta.name.clone(), dtype, shape: meta.shape.clone(), data })
}

fn meta(tensor: &Tensor) -> TensorMeta {
    TensorMeta {
        name: tensor.name.clone(),
        dtype: tensor.dtype.onnx_code(),
        shape: tensor.shape.clone(),
        bytes: tensor.data.len() as u64,
    }
}

/// Whether tensors of these descriptions fit the model; asked before their bytes are taken in.
fn check(signature: &Signature, metas: &[TensorMeta], outputs: &[String]) -> Result<(), Refusal> {
    let bad = |error: InputError| Refusal::BadInput { reason: error.to_string() };
    let head = |meta: &'_ TensorMeta| {
        let code = meta.dtype.to_string();
        DType::from_onnx_code(meta.dtype).ok_or(InputError::UnknownDType(code))
    };
    let dtypes: Result<Vec<DType>, _> = metas.iter().map(head).collect();
    let heads = metas.iter().zip(dtypes.map_err(bad)?).map(|(meta, dtype)| Head {
        name: &meta.name,
        dtype,
        shape: &meta.shape,
        bytes: meta.bytes,
    });
    signature.check(heads, outputs, &InputLimits::default()).map_err(bad)
}

/// Rows of a batch: the first dimension of the first input.
pub fn rows(shape: Option<&[u64]>) -> u32 {
    let first = shape.and_then(|shape| shape.first()).copied().unwrap_or(1);
    u32::try_from(first.max(1)).unwrap_or(u32::MAX)
}

/// This node does not hold the bundle (any more).
fn gone(bundle: Digest) -> Refusal {
    Refusal::UnknownModel { model: bundle.to_string(), hint: String::new() }
}

/// Counts a job as outstanding at a peer for as long as it lives.
struct Outstanding<'a> {
    node: &'a Node,
    peer: PeerId,
    bundle: Digest,
}

impl<'a> Outstanding<'a> {
    fn count(node: &'a Node, peer: PeerId, bundle: Digest) -> Self {
        node.loads().began(peer, bundle);
        Self { node, peer, bundle }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.node.loads().ended(self.peer, self.bundle);
    }
}

fn not_taken(error: SubmitError) -> Refusal {
    match error {
        SubmitError::Full { .. } => Refusal::Busy { retry_after_ms: BUSY_RETRY_MS },
        SubmitError::Input(input) => Refusal::BadInput { reason: input.to_string() },
        SubmitError::Closed => Refusal::Draining,
    }
}

fn failed(error: EngineError) -> Refusal {
    match error {
        EngineError::DeadlinePassed => Refusal::Deadline,
        EngineError::Refused { said } => Refusal::BadInput { reason: said },
        EngineError::Failed { said } => Refusal::Execution { reason: said },
        EngineError::Closed => Refusal::Draining,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
