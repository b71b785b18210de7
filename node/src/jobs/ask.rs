//! This node as a client of other peers: it sends a job, asks for a quote, a signature, a part of
//! a bundle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::chain;
use hansa_core::codec::decode;
use hansa_core::id::{Digest, PeerId};
use hansa_core::limits::HEADER_BYTES_MAX;
use hansa_core::loads::Report;
use hansa_core::plan::{Job, Refusal, candidates};
use hansa_core::policy::Policy;
use hansa_core::price::Bill;
use hansa_core::quote::Quote;
use hansa_core::wire::{AnswerHeader, Ask, Done, JobHeader, TraceContext, WIRE_VERSION};
use hansa_net::data::{Body, CallError};
use hansa_net::limits::code;
use hansa_runtime::tensor::Signature;

use super::payload::{meta, receive};
use super::stages::hosted_stage_of;
use super::{Answer, Attempt, Order, Outstanding, gone};
use crate::actors::peer::PeerMessage;
use crate::limits::*;
use crate::node::Node;

/// Why a peer gave no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// The peer answered that it will not, and why.
    Refused(Refusal),
    /// The peer or the way to it is gone.
    Lost(String),
}

/// What an answer's header tells, and what follows it.
struct Told {
    done: Done,
    price: Bill,
    receipt: Option<Digest>,
    body: Body,
}

impl Node {
    /// Sends the job to `to`, as a client of that peer.
    pub(super) async fn send(
        &self,
        order: &Order,
        to: PeerId,
        attempt: Attempt,
    ) -> Result<Answer, AskError> {
        let ask = Ask::Infer {
            bundle: order.job.bundle,
            inputs: order.inputs.iter().map(meta).collect(),
            outputs: order.outputs.clone(),
        };
        let body = order.inputs.iter().map(|input| input.data.clone()).collect();
        let lineage = order.evidence.lineage(self, attempt.number);
        let header = self.job_header(&order.job, order.trace, ask).descending(&lineage);
        let sent = self.clock.now().mono;
        let _counted = Outstanding::count(self, to, order.job.bundle);
        let Told { done, price, receipt, mut body } = self.exchange(to, header, body).await?;
        let mut outputs = Vec::with_capacity(done.outputs.len());
        for meta in &done.outputs {
            outputs.push(receive(meta, &mut body).await.map_err(AskError::Lost)?);
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
            executed_by: vec![done.executed_by],
            outputs,
            queue: Duration::from_micros(done.queue_us),
            service: Duration::from_micros(done.service_us),
            in_flight: done.in_flight,
            // A peer may claim anything; no more is owed than was agreed.
            price: price.held_to(order.job.limit()),
            receipt,
            is_kept: None,
        })
    }

    pub(super) fn job_header(&self, job: &Job, trace: TraceContext, ask: Ask) -> JobHeader {
        let remaining = job.deadline.since(self.clock.now().mono);
        JobHeader {
            version: WIRE_VERSION,
            job: job.id,
            path: job
                .path
                .iter()
                .copied()
                .filter(|peer| *peer != self.me)
                .chain([self.me])
                .collect(),
            hops_left: job.hops_left.saturating_sub(1),
            remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
            policy_hash: job.onward.hash(),
            policy: Policy::clone(&job.onward),
            trace,
            ask,
            extensions: JobHeader::extensions_of(job),
        }
    }

    /// One call of the data plane, to its answer's header; of what costs nothing.
    pub(super) async fn call(
        &self,
        to: PeerId,
        header: JobHeader,
        body: Vec<Bytes>,
    ) -> Result<(Done, Body), AskError> {
        let Told { done, body, .. } = self.exchange(to, header, body).await?;
        Ok((done, body))
    }

    /// One call of the data plane, to its answer's header and what it tells.
    async fn exchange(
        &self,
        to: PeerId,
        header: JobHeader,
        body: Vec<Bytes>,
    ) -> Result<Told, AskError> {
        let lost = |error: CallError| match error {
            // It lives, and says that it has no place or goes.
            CallError::Refused(code) if code == u64::from(code::BUSY) => {
                AskError::Refused(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS })
            }
            CallError::Refused(code) if code == u64::from(code::DRAINING) => {
                AskError::Refused(Refusal::Draining)
            }
            other => AskError::Lost(other.to_string()),
        };
        let header = header.encode();
        if header.len() > HEADER_BYTES_MAX {
            let reason = format!(
                "the job's description takes {} bytes, the limit is {HEADER_BYTES_MAX}; \
                 shorten the lists of its constraints",
                header.len()
            );
            return Err(AskError::Refused(Refusal::BadInput { reason }));
        }
        let data = self.data().ok_or_else(|| AskError::Lost("the data plane restarts".into()))?;
        let view = self.view();
        let entry = view.get(to).ok_or_else(|| AskError::Lost("it left the mesh".into()))?;
        let way = self.way(&entry.record.advert);
        let answer = data.call(to, way, header.into(), body).await.map_err(lost)?;
        // Gossip pings few of the peers that jobs go to.
        if let Some(rtt) = answer.rtt {
            self.loads().measured_rtt(to, rtt);
        }
        let header = AnswerHeader::decode(&answer.header)
            .map_err(|fault| AskError::Lost(format!("its answer is not understood: {fault}")))?;
        let (price, receipt) = (header.price(), header.receipt());
        match header.outcome {
            Ok(done) => Ok(Told { done, price, receipt, body: answer.body }),
            Err(refusal) => Err(AskError::Refused(refusal)),
        }
    }

    /// Asks `holder` about the bundle of `job`. Gives the length of its answer, `most` bytes at
    /// most, and the answer's body, unread.
    pub(crate) async fn ask_bundle(
        &self,
        job: &Job,
        holder: PeerId,
        ask: Ask,
        most: usize,
    ) -> Result<(usize, Body), AskError> {
        let header = self.job_header(job, TraceContext::default(), ask);
        let (done, body) = self.call(holder, header, Vec::new()).await?;
        Ok((told_bytes(&done, most)?, body))
    }

    /// The same, read to its end.
    pub(crate) async fn ask_told(
        &self,
        job: &Job,
        peer: PeerId,
        ask: Ask,
        most: usize,
    ) -> Result<Bytes, AskError> {
        let (length, mut body) = self.ask_bundle(job, peer, ask, most).await?;
        body.read_exact(length).await.map_err(|error| AskError::Lost(error.to_string()))
    }

    /// A peer could not be reached: the planner avoids it from now on, the directory finds out
    /// whether it lives.
    pub(crate) fn lost(&self, peer: PeerId, reason: &str) {
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
        if let Some(hosted) = self.able(bundle) {
            return Ok(hosted.signature);
        }
        if let Some(stage) = hosted_stage_of(self, bundle).and_then(|hosted| hosted.stage) {
            return Ok(stage.signature.clone());
        }
        if let Some(signature) = self.signature(bundle) {
            return Ok(signature);
        }
        let deadline = self.clock.now().mono + DESCRIBE_TIMEOUT;
        let job = Job::new(self.draw_job(), bundle, policy.clone(), &self.send, deadline);
        let holders = {
            let (now, view, loads) = (self.clock.now(), self.view(), self.loads());
            let of_stages = chain::holders(now, &view, &loads, &job);
            // Who has a stage knows what the whole takes.
            if of_stages.is_empty() { candidates(now, &view, &loads, &job)? } else { of_stages }
        };
        let mut last = gone(bundle);
        for holder in holders {
            match self.ask_signature(&job, holder).await {
                Ok(signature) => {
                    self.keep_signature(bundle, signature.clone());
                    return Ok(signature);
                }
                Err(AskError::Refused(refusal)) => last = refusal,
                Err(AskError::Lost(reason)) => {
                    self.lost(holder, &reason);
                    last = Refusal::Failed { attempts: 1, last: reason };
                }
            }
        }
        Err(last)
    }

    async fn ask_signature(&self, job: &Job, holder: PeerId) -> Result<Arc<Signature>, AskError> {
        let ask = Ask::Describe { bundle: job.bundle };
        let header = self.job_header(job, TraceContext::default(), ask);
        let asking = async {
            let (done, mut body) = self.call(holder, header, Vec::new()).await?;
            let bytes = told(&done, &mut body, SIGNATURE_BYTES_MAX).await?;
            let signature: Signature = serde_json::from_slice(&bytes)
                .map_err(|error| AskError::Lost(error.to_string()))?;
            let fits = signature.check_declared();
            fits.map_err(|error| AskError::Lost(error.to_string()))?;
            Ok(Arc::new(signature))
        };
        let late = |_| AskError::Lost("it does not say the signature in time".into());
        tokio::time::timeout(DESCRIBE_TIMEOUT, asking).await.map_err(late)?
    }

    /// How soon `peer` could run `bundle`, the job's own or a stage of it.
    pub(super) async fn ask_quote(
        &self,
        job: &Job,
        bundle: Digest,
        peer: PeerId,
        rtt: Duration,
    ) -> Result<Quote, AskError> {
        let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        let ask = Ask::Quote { bundle, rows: job.rows, rtt_us };
        let header = self.job_header(job, TraceContext::default(), ask);
        let (done, mut body) = self.call(peer, header, Vec::new()).await?;
        let bytes = told(&done, &mut body, QUOTE_BYTES_MAX).await?;
        decode(&bytes).map_err(|error| AskError::Lost(error.to_string()))
    }

    /// Tells `peer` that a job for which it gave a quote went elsewhere. If it does not hear, its
    /// lease ends soon anyway.
    pub(super) async fn decline(&self, job: &Job, bundle: Digest, peer: PeerId) {
        let header = self.job_header(job, TraceContext::default(), Ask::Decline { bundle });
        let telling = self.call(peer, header, Vec::new());
        if !matches!(tokio::time::timeout(DECLINE_TIMEOUT, telling).await, Ok(Ok(_))) {
            tracing::debug!(%peer, job = %job.id, "the peer did not hear that its quote is declined");
        }
    }
}

/// What an answer says beside its header, where it carries no tensors.
async fn told(done: &Done, body: &mut Body, most: usize) -> Result<Bytes, AskError> {
    let length = told_bytes(done, most)?;
    body.read_exact(length).await.map_err(|error| AskError::Lost(error.to_string()))
}

/// How many bytes follow an answer's header.
fn told_bytes(done: &Done, most: usize) -> Result<usize, AskError> {
    let length = usize::try_from(done.bytes).ok().filter(|length| *length <= most);
    length.ok_or_else(|| {
        AskError::Lost(format!("it tells {} bytes, the limit is {most}", done.bytes))
    })
}
