//! A job that goes through several peers, each with a stage of its model.
//!
//! ```text
//! entry: pass ─► stage: run its stretch ─┬─ pass ─► next stage …
//!    ▲                                   └─ deliver what the app wants of it
//!    └────────────────────────────────────────┘
//! ```
//!
//! Who passes keeps what it passed on until all behind it is done; if the next peer is lost, it plans
//! the rest of the chain anew and passes it to another. So a stage that dies costs its own stretch.
//! Which peers, `hansa_core::chain` decides, each time anew.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::chain::{self, Chain, Link, chain};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::limits::ATTEMPTS_MAX;
use hansa_core::loads::{Loads, Report};
use hansa_core::plan::{Job, Refusal};
use hansa_core::price::Bill;
use hansa_core::receipt::{Outcome, Share, Used, Why};
use hansa_core::wire::{Ask, Done, Lineage, Run, Stretch, TraceContext};
use hansa_runtime::engine::Request;
use hansa_runtime::tensor::Tensor;
use tokio::sync::mpsc;

use super::ask::AskError;
use super::evidence::{self, Staged, Trail, outcome_of_refusal};
use super::payload::meta;
use super::{Answer, Attempt, Order, Outstanding, Receipted, failed, gone, micros, not_taken};
use crate::limits::{BUSY_RETRY_MS, DELIVERIES_MAX};
use crate::node::Node;

/// A job on its way through a chain, as one peer holds it.
pub(super) struct Passage {
    /// The core's part; the path begins with the entry, and is empty there.
    pub(super) job: Job,
    /// Its trace.
    pub(super) trace: TraceContext,
    /// What lies ahead.
    pub(super) route: Vec<Stretch>,
    /// All that is known of what is needed ahead.
    pub(super) tensors: Vec<Tensor>,
    /// Outputs of the whole that the entry wants.
    pub(super) outputs: Vec<String>,
    /// Who ran the stages before.
    pub(super) by: Vec<PeerId>,
    /// What they tell of it, for the entry's receipt.
    pub(super) runs: Vec<Run>,
    /// Where the job comes from; none at its entry.
    pub(super) lineage: Option<Lineage>,
    /// What is noted of it here.
    pub(super) trail: Option<Arc<Trail>>,
}

/// Outputs that came of stages.
pub(super) struct Delivery {
    /// Who ran them so far.
    pub(super) by: Vec<PeerId>,
    /// What they charge.
    pub(super) spent: Bill,
    /// What they tell of it.
    pub(super) runs: Vec<Run>,
    /// The outputs.
    pub(super) tensors: Vec<Tensor>,
}

/// An entry's open jobs in stages: where what the stages deliver goes.
#[derive(Default)]
pub struct Gathers(std::sync::Mutex<BTreeMap<JobId, Gather>>);

struct Gather {
    /// The job, whose policy says who may deliver.
    job: Job,
    deliveries: mpsc::Sender<Delivery>,
}

/// Closes a gather when its job is over, however it ends.
struct Open<'a> {
    node: &'a Node,
    job: JobId,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.node.gathers.lock().remove(&self.job);
    }
}

impl Gathers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, Gather>> {
        self.0.lock().expect("no holder panics")
    }

    /// The job that waits for deliveries under this id.
    pub(super) fn job(&self, job: JobId) -> Option<Job> {
        Some(self.lock().get(&job)?.job.clone())
    }

    /// Outputs of a job, or none if it does not wait any more.
    pub(super) async fn deliver(&self, job: JobId, delivery: Delivery) {
        let open = self.lock().get(&job).map(|gather| gather.deliveries.clone());
        if let Some(open) = open {
            let _ = open.send(delivery).await; // A job that is over wants no more.
        }
    }
}

/// Aborts a task with whoever waits for it, unless it is let go.
struct Attached<T> {
    task: tokio::task::JoinHandle<T>,
    is_free: bool,
}

impl<T> Drop for Attached<T> {
    fn drop(&mut self) {
        if !self.is_free {
            self.task.abort();
        }
    }
}

impl Passage {
    /// Notes that a stage was handed on in vain: what came of the others, they tell.
    fn note(&self, node: &Node, link: &Link, passed: &Result<(), AskError>) {
        let Some(trail) = &self.trail else { return };
        let (why, outcome) = match passed {
            // The entry hears of it from the stages; a stage has said it before it passed anything.
            Ok(()) if self.job.path.is_empty() || trail.is_empty() => return,
            Ok(()) => (Why::Retry, Outcome::Passed),
            Err(AskError::Lost(_)) => (Why::Planned, Outcome::Failed),
            Err(AskError::Refused(refusal)) => (Why::Planned, outcome_of_refusal(refusal)),
        };
        let share = Share::Stage { from: link.from, to: link.to };
        let handed = evidence::hand(node, trail, self.job.id, share, link.peer, why);
        if let Some(handed) = handed {
            handed.note(outcome, None, Used::default());
        }
    }
}

impl Node {
    /// One attempt through a chain, at the job's entry.
    pub(super) async fn run_chain(
        self: &Arc<Self>,
        order: &Order,
        links: Vec<Link>,
        attempt: Attempt,
    ) -> Result<Answer, AskError> {
        let started = tokio::time::Instant::now();
        let job = &order.job;
        let whole = self.describe(job.bundle, &job.policy).await.map_err(AskError::Refused)?;
        let outputs: Vec<String> = match &order.outputs[..] {
            [] => whole.outputs.iter().map(|spec| spec.name.clone()).collect(),
            wanted => wanted.to_vec(),
        };
        let (deliveries, mut arriving) = mpsc::channel(DELIVERIES_MAX);
        self.gathers.lock().insert(job.id, Gather { job: job.clone(), deliveries });
        let _open = Open { node: self, job: job.id };
        let passage = Passage {
            job: job.clone(),
            trace: order.trace,
            route: self.route(job, &links, &[]).await.map_err(AskError::Refused)?,
            tensors: order.inputs.clone(),
            outputs: outputs.clone(),
            by: Vec::new(),
            runs: Vec::new(),
            lineage: Some(order.evidence.lineage(self, attempt.number)),
            trail: order.evidence.trail.clone(),
        };
        let (mut executed_by, mut price) = (Vec::<PeerId>::new(), Bill::default());
        let mut runs = Vec::new();
        let mut made = BTreeMap::new();
        let (node, deadline) = (Arc::clone(self), self.clock.instant(job.deadline).into());
        let task = tokio::spawn(async move {
            let passed = tokio::time::timeout_at(deadline, node.pass(passage)).await;
            passed.unwrap_or(Err(Refusal::Deadline))
        });
        let mut passing = Attached { task, is_free: false };
        let mut is_passed = false;
        while made.len() < outputs.len() {
            tokio::select! {
                biased;
                delivery = arriving.recv() => {
                    let told = delivery.expect("one attempt at a time gathers");
                    // The last to deliver has come by the most.
                    if told.by.len() >= executed_by.len() {
                        (executed_by, price, runs) = (told.by, told.spent, told.runs);
                    }
                    let wanted = told.tensors.into_iter().filter(|tensor| outputs.contains(&tensor.name));
                    made.extend(wanted.map(|tensor| (tensor.name.clone(), tensor)));
                }
                passed = &mut passing.task, if !is_passed => {
                    is_passed = true;
                    let passed = passed.map_err(|panic| AskError::Lost(panic.to_string()))?;
                    passed.map_err(AskError::Refused)?;
                    // All is delivered before the last stage is done, and waits in the channel.
                    if arriving.is_empty() && made.len() < outputs.len() {
                        let lost = "the stages are done, and outputs are missing";
                        return Err(AskError::Lost(lost.to_owned()));
                    }
                }
            }
        }
        let answered = |name: &String| made.remove(name).expect("all have arrived");
        let outputs = outputs.iter().map(answered).collect();
        // What the peers of the chain tell of themselves on the way back is still worth hearing.
        passing.is_free = true;
        order.note_runs(self, &runs);
        Ok(Answer {
            executed_by,
            outputs,
            queue: Duration::ZERO,
            service: started.elapsed(),
            in_flight: 0,
            price: price.held_to(job.limit()),
            receipt: None,
            is_kept: None,
        })
    }

    /// What each stage of a chain takes, as its holder describes it, unless it is among the `known`: the
    /// holder that is asked may be the one that is lost.
    async fn route(
        &self,
        job: &Job,
        links: &[Link],
        known: &[Stretch],
    ) -> Result<Vec<Stretch>, Refusal> {
        let stretch = |link: &Link| {
            let link = *link;
            let same = known.iter().find(|stretch| stretch.link.bundle == link.bundle);
            async move {
                if let Some(same) = same {
                    return Ok(Stretch { link, takes: same.takes.clone() });
                }
                let signature = self.describe(link.bundle, &job.policy).await?;
                let takes = signature.inputs.iter().map(|spec| spec.name.clone()).collect();
                Ok(Stretch { link, takes })
            }
        };
        futures::future::try_join_all(links.iter().map(stretch)).await
    }

    /// Hands a job to the first stage ahead, and to another if that is lost; returns when all
    /// ahead is done.
    fn pass(
        self: &Arc<Self>,
        mut passage: Passage,
    ) -> Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + '_>> {
        Box::pin(async move {
            let mut tried: Vec<PeerId> = Vec::new();
            // Where nobody else is left, those that seemed lost are asked, at last one of this very job
            // once more: on a machine that has too much to do, silence is not death.
            let (mut is_last_resort, mut is_anew) = (false, false);
            let attempts_max = usize::from(ATTEMPTS_MAX);
            let mut attempts = 0;
            loop {
                attempts += 1;
                let Some(Stretch { link, .. }) = passage.route.first().cloned() else {
                    return Ok(());
                };
                let may = {
                    let (now, view) = (self.clock.now(), self.view());
                    let loads = self.loads_for(is_last_resort);
                    chain::may_pass(now, &view, &loads, &passage.job, &link)
                };
                let passed = if let Err(rule) = may {
                    // Whoever planned the route knew other laws, or older news.
                    let failed = [(rule, 1)].into();
                    Err(AskError::Refused(if rule.is_of_the_moment() {
                        Refusal::Unavailable { failed }
                    } else {
                        Refusal::PolicyUnsatisfiable { failed }
                    }))
                } else if link.peer == self.me {
                    self.run_stage(&passage).await.map(|_| ()).map_err(AskError::Refused)
                } else if !is_anew && !self.is_in_reach(link.peer).await {
                    // Somebody else gets the stage; the dial goes on.
                    Err(AskError::Refused(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS }))
                } else {
                    self.send_stage(&passage, link).await
                };
                passage.note(self, &link, &passed);
                let refusal = match passed {
                    Ok(()) => return Ok(()),
                    Err(AskError::Lost(reason)) => {
                        self.lost(link.peer, &reason);
                        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                        Refusal::Failed { attempts, last: reason }
                    }
                    Err(AskError::Refused(refusal)) if may.is_err() => refusal,
                    Err(AskError::Refused(refusal)) => match refusal {
                        Refusal::Busy { .. }
                        | Refusal::Draining
                        | Refusal::NotServed { .. }
                        | Refusal::UnknownModel { .. } => refusal,
                        // What lies further ahead was mended as well as it could be by who saw it.
                        final_word => return Err(final_word),
                    },
                };
                tried.push(link.peer);
                if attempts >= attempts_max || is_anew {
                    return Err(refusal);
                }
                let mut ahead = self.chain_ahead(&passage.job, link.from, &tried, is_last_resort);
                if ahead.is_none() && !std::mem::replace(&mut is_last_resort, true) {
                    ahead = self.chain_ahead(&passage.job, link.from, &tried, true);
                }
                if ahead.is_none() && !std::mem::replace(&mut is_anew, true) {
                    tried.clear();
                    ahead = self.chain_ahead(&passage.job, link.from, &tried, true);
                }
                let Some(Chain { links, .. }) = ahead else { return Err(refusal) };
                metrics::counter!("hansa_chains_mended_total").increment(1);
                tracing::info!(job = %passage.job.id, at = link.from, "the chain is mended");
                passage.route = self.route(&passage.job, &links, &passage.route).await?;
            }
        })
    }

    /// The rest of a chain, from a node of the model on.
    fn chain_ahead(
        &self,
        job: &Job,
        from: u32,
        tried: &[PeerId],
        is_last_resort: bool,
    ) -> Option<Chain> {
        let (now, view) = (self.clock.now(), self.view());
        chain(now, &view, &self.loads_for(is_last_resort), job, from, tried)
    }

    /// What was measured; as a last resort nothing, so that nobody is avoided.
    fn loads_for(&self, is_last_resort: bool) -> Loads {
        if is_last_resort { Loads::new() } else { self.loads().clone() }
    }

    async fn send_stage(&self, passage: &Passage, link: Link) -> Result<(), AskError> {
        let needed: BTreeSet<&str> =
            passage.route.iter().flat_map(|stage| &stage.takes).map(String::as_str).collect();
        let tensors = passage.tensors.iter().filter(|tensor| needed.contains(&*tensor.name));
        let tensors: Vec<&Tensor> = tensors.collect();
        let ask = Ask::Stage {
            whole: passage.job.bundle,
            route: passage.route.clone(),
            tensors: tensors.iter().map(|tensor| meta(tensor)).collect(),
            outputs: passage.outputs.clone(),
            by: passage.by.clone(),
        };
        let body: Vec<_> = tensors.iter().map(|tensor| tensor.data.clone()).collect();
        let bytes = body.iter().map(|part| part.len() as u64).sum();
        let mut header = self.job_header(&passage.job, passage.trace, ask).telling(&passage.runs);
        if let Some(lineage) = &passage.lineage {
            header = header.descending(lineage);
        }
        let _counted = Outstanding::count(self, link.peer, link.bundle);
        let (done, _) = self.call(link.peer, header, body).await?;
        // The answer comes when all behind the peer is done: its own share is what it says.
        let (queue, service) =
            (Duration::from_micros(done.queue_us), Duration::from_micros(done.service_us));
        let took = self.loads().rtt(link.peer).unwrap_or_default() + queue + service;
        let report = Report {
            took,
            queue,
            service,
            rows: passage.job.rows,
            bytes,
            in_flight: done.in_flight,
        };
        self.loads().answered(link.peer, link.bundle, report, self.clock.now().mono);
        Ok(())
    }

    /// Runs the stage that is this node's, and passes on what comes of it; returns when all behind
    /// it is done.
    pub(super) async fn run_stage(self: &Arc<Self>, passage: &Passage) -> Result<Done, Refusal> {
        let started = self.clock.now().utc;
        let (mine, ahead) = passage.route.split_first().expect("a route has stages");
        let bundle = mine.link.bundle;
        let hosted = self.able(bundle).ok_or_else(|| gone(bundle))?;
        hosted.release(passage.job.id);
        let load = hosted.engine.load();
        let mut tensors: BTreeMap<&str, Tensor> =
            passage.tensors.iter().map(|tensor| (&*tensor.name, tensor.clone())).collect();
        let missing = |name: &str| Refusal::BadInput {
            reason: format!("the stage takes `{name}`, which nobody before it has made"),
        };
        let inputs = hosted.signature.inputs.iter();
        let inputs =
            inputs.map(|spec| tensors.get(&*spec.name).cloned().ok_or_else(|| missing(&spec.name)));
        let inputs: Vec<Tensor> = inputs.collect::<Result<_, _>>()?;
        let request = Request {
            inputs: inputs.clone(),
            outputs: Vec::new(),
            deadline: Some(self.clock.instant(passage.job.deadline)),
            priority: passage.job.priority,
        };
        let response = {
            let _counted = Outstanding::count(self, self.me, bundle);
            hosted.engine.submit(request).map_err(not_taken)?.await.map_err(failed)?
        };
        metrics::counter!("hansa_stages_total", "model" => hosted.name.clone()).increment(1);
        metrics::histogram!("hansa_service_seconds", "model" => hosted.name.clone())
            .record(response.service);
        self.count_run(&passage.job, bundle, response.service);
        let is_wanted = |tensor: &&Tensor| passage.outputs.contains(&tensor.name);
        let wanted: Vec<Tensor> = response.outputs.iter().filter(is_wanted).cloned().collect();
        tensors.extend(passage.tensors.iter().map(|tensor| (&*tensor.name, tensor.clone())));
        tensors.extend(response.outputs.iter().map(|tensor| (&*tensor.name, tensor.clone())));
        let mut job = passage.job.clone();
        let moved = [&inputs, &response.outputs].into_iter().flatten();
        let charged = self.charge(&job, response.service, moved);
        charged.amounts().for_each(|amount| job.spent.put(amount));
        let used = evidence::used(job.rows, response.service, &charged);
        let share = |link: &Link| Share::Stage { from: link.from, to: link.to };
        // The entry's own stage is in the entry's own receipt.
        let is_entry = job.path.first().is_none_or(|entry| *entry == self.me);
        let receipted = if is_entry {
            Receipted::Off
        } else {
            let stage = Staged {
                job: &passage.job,
                lineage: passage.lineage.as_ref(),
                started,
                hosted: &hosted,
                used: used.clone(),
                next: ahead.first().map(|next| (next.link.peer, share(&next.link))),
            };
            self.close_stage(stage, &inputs, &response.outputs).await
        };
        if receipted == Receipted::Lost {
            self.may_keep(&job.policy)?;
        }
        let Link { from, to, .. } = mine.link;
        let run = Run { peer: self.me, from, to, receipt: receipted.leaf(), used };
        let next = Passage {
            job: job.clone(),
            trace: passage.trace,
            route: ahead.to_vec(),
            tensors: tensors.into_values().collect(),
            outputs: passage.outputs.clone(),
            by: passage.by.iter().copied().chain([self.me]).collect(),
            runs: passage.runs.iter().cloned().chain([run]).collect(),
            lineage: passage.lineage.clone(),
            trail: if is_entry { passage.trail.clone() } else { Trail::begin(self) },
        };
        let trail = next.trail.clone();
        let (by, spent) = (next.by.clone(), job.spent.clone());
        let delivery = Delivery { by, spent, runs: next.runs.clone(), tensors: wanted };
        let passed = tokio::try_join!(self.deliver(&job, passage.trace, delivery), self.pass(next));
        if let Some(trail) = trail.filter(|_| !is_entry) {
            let model = format!("{}:{}", hosted.name, hosted.version);
            let lineage = passage.lineage.as_ref();
            self.close_mended(&passage.job, lineage, &model, &trail).await;
        }
        passed?;
        Ok(Done {
            executed_by: self.me,
            outputs: Vec::new(),
            bytes: 0,
            queue_us: micros(response.queue),
            service_us: micros(response.service),
            in_flight: u32::try_from(load.queued + load.running).unwrap_or(u32::MAX),
        })
    }

    /// Brings outputs to the job's entry.
    async fn deliver(
        &self,
        job: &Job,
        trace: TraceContext,
        delivery: Delivery,
    ) -> Result<(), Refusal> {
        let Some(entry) = job.path.first().copied().filter(|entry| *entry != self.me) else {
            self.gathers.deliver(job.id, delivery).await;
            return Ok(());
        };
        let Delivery { by, runs, tensors, .. } = delivery;
        if tensors.is_empty() {
            return Ok(());
        }
        let tensors_told = tensors.iter().map(meta).collect();
        let ask = Ask::Deliver { whole: job.bundle, tensors: tensors_told, by };
        let body = tensors.iter().map(|tensor| tensor.data.clone()).collect();
        let header = self.job_header(job, trace, ask).telling(&runs);
        match self.call(entry, header, body).await {
            Ok(_) => Ok(()),
            Err(AskError::Refused(refusal)) => Err(refusal),
            Err(AskError::Lost(reason)) => {
                let last = format!("the job's entry is lost: {reason}");
                Err(Refusal::Failed { attempts: 1, last })
            }
        }
    }
}

/// The model that a stage is of: what `describe` is asked for under the whole's digest.
pub(super) fn hosted_stage_of(node: &Node, whole: Digest) -> Option<crate::node::Hosted> {
    let is_of = |hosted: &&crate::node::Hosted| {
        hosted.stage.as_ref().is_some_and(|stage| stage.whole == whole)
    };
    node.engines().values().find(is_of).cloned()
}
