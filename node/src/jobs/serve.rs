//! What other peers ask of this node: the gate first, before a byte of a payload is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::chain;
use hansa_core::charter::CharterFault;
use hansa_core::codec::encode;
use hansa_core::gate::{self, Rule, Standing};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::limits::HEADER_BYTES_MAX;
use hansa_core::plan::{Job, Plan, Refusal, plan};
use hansa_core::price::Bill;
use hansa_core::wire::{AnswerHeader, Ask, Done, JobHeader, TensorMeta, WIRE_VERSION};
use hansa_net::data::{Body, Call};
use hansa_runtime::manifest::Span;
use hansa_runtime::tensor::Tensor;
use tracing::Instrument;

use super::payload::{batch_rows, check, first_rows, meta, receive};
use super::stages::{Delivery, Passage, hosted_stage_of};
use super::{Evidence, Order, gone, micros};
use crate::api::trace::Hex;
use crate::bundles;
use crate::limits::*;
use crate::node::{Node, StageOf};

/// What a call comes to: the answer's header, what follows it, what it costs.
struct Told {
    done: Done,
    parts: Vec<Bytes>,
    price: Bill,
    /// The leaf of the receipt that is kept of it.
    receipt: Option<Digest>,
}

/// Takes one call from another peer, to its answer.
pub async fn serve(node: &Arc<Node>, mut call: Call) {
    let (job, outcome) = match JobHeader::decode(&call.header) {
        Err(fault) => {
            metrics::counter!("hansa_headers_refused_total").increment(1);
            tracing::warn!(peer = %call.from, %fault, "job header refused");
            (JobId([0; 16]), Err(Refusal::Malformed { reason: fault.to_string() }))
        }
        Ok(header) => {
            let job = header.job;
            let span = tracing::debug_span!(
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
    let (outcome, parts, price, receipt) = match outcome {
        Ok(Told { done, parts, price, receipt }) => (Ok(done), parts, price, receipt),
        Err(refusal) => (Err(refusal), Vec::new(), Bill::default(), None),
    };
    let mut header = AnswerHeader { version: WIRE_VERSION, job, outcome, extensions: Vec::new() };
    header = header.charging(&price).proving(receipt);
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
    node: &Arc<Node>,
    header: JobHeader,
    from: PeerId,
    body: &mut Body,
) -> Result<Told, Refusal> {
    if header.path.last() != Some(&from) {
        let reason = "the peer that sent the job is not the last of its path".to_owned();
        return Err(Refusal::Malformed { reason });
    }
    if matches!(header.ask, Ask::Deliver { .. }) {
        return take_delivery(node, header, from, body).await;
    }
    let asked = header.ask.bundle();
    let stage = node.able(asked).and_then(|hosted| hosted.stage);
    let bundle = match (&header.ask, stage) {
        // The policy speaks of the model, of which this is a stage.
        (Ask::Quote { .. } | Ask::Decline { .. }, Some(stage)) => stage.whole,
        _ => asked,
    };
    let sender = node.view().get(from).map(|entry| entry.record.clone());
    let standing = match &sender {
        Some(record) => &record.charter,
        None => &Err(CharterFault::Absent),
    };
    let utc = node.clock.now().utc;
    if header.policy.rtt_evidence {
        node.law.want_evidence(); // It may have to pass the job on.
    }
    let own = node.law.own();
    gate::receive(&node.serve, standing, &header.policy, bundle, own.standing(), utc)?;
    let (remaining, is_timed) = (header.remaining(), header.names_deadline());
    let priority = header.priority();
    let lineage = header.lineage();
    let (metas, outputs) = match header.ask {
        Ask::Infer { inputs, outputs, .. } => (inputs, outputs),
        Ask::Stage { .. } => return serve_stage(node, header, body).await,
        Ask::Deliver { .. } => unreachable!("taken above"),
        Ask::Describe { .. } => return describe_own(node, asked),
        Ask::Quote { rows, rtt_us, .. } => {
            let rtt = Duration::from_micros(rtt_us.into());
            return quote_own(node, asked, header.job, rtt, rows);
        }
        Ask::Cosign { checkpoint, from: begin, proof } => {
            return Ok(tell(node, node.cosign_for(from, checkpoint, begin, proof).await?));
        }
        Ask::Manifest { .. } => return Ok(tell(node, bundles::manifest(node, asked).await?)),
        Ask::Chunks { file, first, count, .. } => {
            let span = Span { file, first, count };
            return Ok(tell(node, bundles::chunks(node, asked, span).await?));
        }
        Ask::Decline { .. } => {
            if let Some(hosted) = node.able(asked) {
                hosted.release(header.job);
            }
            return Ok(tell(node, Bytes::new()));
        }
    };
    let signature = node.describe(bundle, &header.policy).await?;
    let bytes = total(&metas)?;
    let deadline = node.clock.now().mono + remaining;
    let shapes = metas.iter().map(|meta| (&*meta.name, &*meta.shape));
    let job = Job {
        bytes,
        rows: batch_rows(&signature, shapes).0,
        hops_left: header.hops_left,
        path: header.path,
        is_timed,
        priority,
        ..Job::new(header.job, bundle, header.policy, &node.send, deadline)
    };
    check(&signature, &metas, &outputs)?;
    let planned = plan(node.clock.now(), &node.view(), &node.loads(), &job, &[]);
    if let Plan::Refuse(refusal) = planned {
        // The sender of a job for a retired model has not heard of that yet; and one for a new model may
        // have heard of it before this node's own view.
        let is_known_here =
            node.is_ahead_of_plan(bundle, &refusal) && job.policy.split.may_be_whole();
        if !is_known_here {
            return Err(refusal);
        }
    }
    let inputs = receive_all(&metas, body, remaining).await?;
    let evidence = Evidence::begin(node, called(node, bundle), lineage);
    let order = Order { job, inputs, outputs, trace: header.trace, evidence };
    let (answer, receipted) = node.infer(order).await;
    let answer = answer?;
    let done = Done {
        executed_by: answer.executed_by.first().copied().unwrap_or(node.me),
        outputs: answer.outputs.iter().map(meta).collect(),
        bytes: 0,
        queue_us: micros(answer.queue),
        service_us: micros(answer.service),
        in_flight: answer.in_flight,
    };
    let parts = answer.outputs.into_iter().map(|output| output.data).collect();
    Ok(Told { done, parts, price: answer.price, receipt: receipted.leaf() })
}

/// What this node calls a bundle: its own name for it, or a holder's.
fn called(node: &Node, bundle: Digest) -> String {
    if let Some(hosted) = node.able(bundle) {
        return format!("{}:{}", hosted.name, hosted.version);
    }
    let view = node.view();
    let models = view.holders(bundle).flat_map(|entry| &entry.record.advert.models);
    let named = models.into_iter().find(|model| model.bundle == bundle);
    named.map_or_else(|| bundle.to_string(), |model| format!("{}:{}", model.name, model.version))
}

/// A stage of a job: run it here, hand on what comes of it.
async fn serve_stage(
    node: &Arc<Node>,
    header: JobHeader,
    body: &mut Body,
) -> Result<Told, Refusal> {
    if node.is_draining() {
        return Err(Refusal::Draining);
    }
    node.may_keep(&header.policy)?;
    let _counted = node.tasks.token(); // The drain waits for it.
    let (remaining, is_timed, spent) =
        (header.remaining(), header.names_deadline(), header.spent());
    let priority = header.priority();
    let (lineage, runs) = (header.lineage(), header.runs());
    let Ask::Stage { whole, route, tensors: metas, outputs, by } = header.ask else {
        unreachable!("the caller looked")
    };
    let link = route[0].link;
    let is_mine = link.peer == node.me
        && node.able(link.bundle).is_some_and(|hosted| {
            let is_it = |stage: &StageOf| {
                (stage.whole, stage.from, stage.to) == (whole, link.from, link.to)
            };
            hosted.stage.is_some_and(|stage| is_it(&stage))
        });
    if !is_mine {
        return Err(gone(link.bundle));
    }
    // The entry gets outputs from here: it must be one that this node serves, like the sender.
    let entry = header.path.first().copied();
    let view = node.view();
    let standing = entry.and_then(|entry| view.get(entry)).map(|entry| &entry.record.charter);
    let absent = Err(CharterFault::Absent);
    gate::serve_entry(&node.serve, standing.unwrap_or(&absent), node.clock.now().utc)?;
    let bytes = total(&metas)?;
    let deadline = node.clock.now().mono + remaining;
    // Of the way so far only the entry matters: a chain may come by a peer twice.
    let path = entry.into_iter().collect();
    let job = Job {
        bytes,
        rows: first_rows(&metas),
        path,
        is_timed,
        priority,
        spent,
        ..Job::new(header.job, whole, header.policy, &node.send, deadline)
    };
    // The gate was asked before; what this node asks itself, only the route says.
    let may = chain::may_pass(node.clock.now(), &view, &node.loads(), &job, &link);
    if may == Err(Rule::Price) {
        return Err(Refusal::PolicyUnsatisfiable { failed: [(Rule::Price, 1)].into() });
    }
    let tensors = receive_all(&metas, body, remaining).await?;
    let trace = header.trace;
    let passage = Passage { job, trace, route, tensors, outputs, by, runs, lineage, trail: None };
    let running = tokio::time::timeout(remaining, node.run_stage(&passage));
    let done = running.await.map_err(|_| Refusal::Deadline)??;
    Ok(Told { done, parts: Vec::new(), price: Bill::default(), receipt: None })
}

/// Outputs of a job that this node is the entry of. Only from a peer that the job's own policy
/// permits.
async fn take_delivery(
    node: &Arc<Node>,
    header: JobHeader,
    from: PeerId,
    body: &mut Body,
) -> Result<Told, Refusal> {
    let (remaining, spent, runs) = (header.remaining(), header.spent(), header.runs());
    let Ask::Deliver { whole, tensors: metas, by } = header.ask else {
        unreachable!("the caller looked")
    };
    let job = node.gathers.job(header.job).filter(|job| job.bundle == whole);
    // A stage that was done twice, since somebody was slow, delivers twice.
    let Some(job) = job else { return Ok(tell(node, Bytes::new())) };
    let view = node.view();
    let absent = Err(CharterFault::Absent);
    let standing = match view.get(from) {
        Some(entry) => Standing::from(&*entry.record),
        None => Standing::from(&absent),
    };
    let utc = node.clock.now().utc;
    gate::receive_delivery(&job.onward, whole, standing, utc)?;
    total(&metas)?;
    let tensors = receive_all(&metas, body, remaining).await?;
    node.gathers.deliver(header.job, Delivery { by, spent, runs, tensors }).await;
    Ok(tell(node, Bytes::new()))
}

/// Bytes of the tensors that follow, if they are not too many.
fn total(metas: &[TensorMeta]) -> Result<u64, Refusal> {
    let bytes = metas.iter().map(|meta| meta.bytes).fold(0, u64::saturating_add);
    if bytes > BODY_BYTES_MAX as u64 {
        let reason = format!("tensors of {bytes} bytes; the limit is {BODY_BYTES_MAX}");
        return Err(Refusal::BadInput { reason });
    }
    Ok(bytes)
}

async fn receive_all(
    metas: &[TensorMeta],
    body: &mut Body,
    within: Duration,
) -> Result<Vec<Tensor>, Refusal> {
    let reading = async {
        let mut tensors = Vec::with_capacity(metas.len());
        for meta in metas {
            let tensor = receive(meta, body).await;
            tensors.push(tensor.map_err(|reason| Refusal::Malformed { reason })?);
        }
        Ok(tensors)
    };
    tokio::time::timeout(within, reading).await.map_err(|_| Refusal::Deadline)?
}

fn describe_own(node: &Node, bundle: Digest) -> Result<Told, Refusal> {
    let of_whole = || hosted_stage_of(node, bundle)?.stage.map(|stage| stage.signature.clone());
    let hosted = node.able(bundle).map(|hosted| hosted.signature);
    let signature = hosted.or_else(of_whole).ok_or_else(|| gone(bundle))?;
    let json = serde_json::to_vec(&*signature).expect("a signature is JSON");
    Ok(tell(node, json.into()))
}

fn quote_own(
    node: &Node,
    bundle: Digest,
    job: JobId,
    rtt: Duration,
    rows: u32,
) -> Result<Told, Refusal> {
    if node.is_draining() {
        return Err(Refusal::Draining);
    }
    let hosted = node.able(bundle).ok_or_else(|| gone(bundle))?;
    Ok(tell(node, encode(&hosted.quote(node.clock.now().mono, job, rtt, rows)).into()))
}

/// An answer without tensors.
fn tell(node: &Node, bytes: Bytes) -> Told {
    let done = Done {
        executed_by: node.me,
        outputs: Vec::new(),
        bytes: bytes.len() as u64,
        queue_us: 0,
        service_us: 0,
        in_flight: 0,
    };
    Told { done, parts: vec![bytes], price: Bill::default(), receipt: None }
}
