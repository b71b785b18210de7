//! A request of any protocol, from the model that it names to its answer.
//!
//! ```text
//! /v2 ─┐
//! gRPC ┼─► Call::find ─► Found::order ─► Found::run ─► Node::infer
//! /v1 ─┘   (resolve,      (check the      (one answer,
//!           describe)      inputs)         its receipt)
//! ```
//!
//! A model is named, a bundle is meant: the entry resolves the name once, checks the inputs against
//! the bundle's signature (its own, or a holder's, kept by digest) and puts the job in the air.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use hansa_core::explain::{Explanation, explain};
use hansa_core::id::Digest;
use hansa_core::limits::DEADLINE_DEFAULT;
use hansa_core::plan::{Job, Refusal, Resolved, candidates, resolve};
use hansa_core::policy::{Demand, Law, Policy};
use hansa_core::time::Mono;
use hansa_core::wire::TraceContext;
use hansa_runtime::check::{Head, InputLimits};
use hansa_runtime::labels::Labels;
use hansa_runtime::tensor::{Signature, Tensor};
use hansa_runtime::text::Text;
use serde::Deserialize;
use serde_json::Value;
use tracing::Instrument;

use super::receipts;
use super::settings::Traced;
use super::statistics::Served;
use super::trace::Hex;
use super::v2::{self, ApiError};
use super::wanted::Wanted;
use crate::jobs::{self, Answer, Evidence, Order, Receipted, batch_rows};
use crate::node::Node;

/// The model that an app names.
#[derive(Clone, Debug, Deserialize)]
pub struct Named {
    /// Its name, or what [`resolve`] takes for one.
    pub model: String,
    /// Its version; absent for any.
    pub version: Option<String>,
}

/// A request, before it is known which model it means.
pub struct Call {
    /// What it asks for.
    pub named: Named,
    /// Under which constraints.
    pub demand: Demand,
    /// Its trace.
    pub trace: TraceContext,
    /// When its first byte was read.
    pub arrived: Mono,
}

/// A request whose model is known.
pub struct Found {
    call: Call,
    deadline: Mono,
    /// What the name means.
    pub resolved: Resolved,
    /// What the model takes and gives.
    pub signature: Arc<Signature>,
    /// What it demands, for each of its jobs.
    law: Law,
}

/// What came of a request.
pub struct Called {
    /// The answer.
    pub answer: Answer,
    /// Which receipt it left: the value of `Hansa-Receipt`.
    pub receipt: Option<String>,
    /// The receipt's proof, if the app asked for it with the answer.
    pub proof: Option<String>,
}

impl Call {
    /// Finds out which bundle is meant, and what it takes and gives.
    ///
    /// # Errors
    /// Nobody whom the policy permits has it, or several have different ones under the name.
    pub async fn find(self, node: &Arc<Node>) -> Result<Found, ApiError> {
        if node.is_draining() {
            return Err(Refusal::Draining.into());
        }
        let Self { named, demand: Demand { policy, deadline, .. }, arrived, .. } = &self;
        if policy.rtt_evidence {
            node.law.want_evidence();
        }
        let deadline = *arrived + deadline.unwrap_or(DEADLINE_DEFAULT);
        let unheld = |refusal| {
            node.count_unheld(&named.model, named.version.as_deref(), policy, &refusal);
            self.later(node, refusal)
        };
        let mut resolved = match named.resolve(node, policy) {
            Ok(resolved) => resolved,
            Err(refusal) => {
                let receipted = node.note_refusal(&named.model, policy, &refusal).await;
                return Err(ApiError::from(unheld(refusal)).receipted(receipts::told(receipted)));
            }
        };
        let signature = loop {
            match self.describe(node, &resolved, deadline).await {
                Ok(signature) => break signature,
                Err(refusal) => match self.replaced(node, resolved.bundle) {
                    Some(now) => resolved = now,
                    None => return Err(unheld(refusal).into()),
                },
            }
        };
        let law = Law::new(self.demand.policy.clone());
        Ok(Found { call: self, deadline, resolved, signature, law })
    }

    async fn describe(
        &self,
        node: &Arc<Node>,
        resolved: &Resolved,
        deadline: Mono,
    ) -> Result<Arc<Signature>, Refusal> {
        let describing = node.describe(resolved.bundle, &self.demand.policy);
        let described = tokio::time::timeout_at(node.clock.instant(deadline).into(), describing);
        described.await.unwrap_or(Err(Refusal::Deadline))
    }

    /// What the name means now, if that is another bundle: a model may be replaced between any two
    /// steps of a request.
    fn replaced(&self, node: &Node, bundle: Digest) -> Option<Resolved> {
        let now = self.named.resolve(node, &self.demand.policy).ok()?;
        (now.bundle != bundle).then_some(now)
    }

    /// The refusal, or that the model is on its way here.
    fn later(&self, node: &Arc<Node>, refusal: Refusal) -> Refusal {
        let Named { model, version } = &self.named;
        node.fetch_for(model, version.as_deref(), &self.demand.policy, refusal)
    }
}

impl Found {
    /// What the app calls the model.
    pub fn name(&self) -> &str {
        &self.call.named.model
    }

    /// What the app gives and gets: the model's signature without what a sequence keeps, or a loop
    /// carries.
    pub fn shown(&self) -> Cow<'_, Signature> {
        match (&self.signature.sequence, &self.signature.looped) {
            (None, None) => Cow::Borrowed(&self.signature),
            _ => Cow::Owned(self.signature.for_apps()),
        }
    }

    /// Whether this output has rows of its own for each row of a request.
    pub fn has_rows(&self, output: &str) -> bool {
        let rows = self.signature.row_axes();
        rows.is_some_and(|axes| axes.outputs.contains_key(output))
    }

    /// The rows of what the app gives.
    pub fn rows(&self, inputs: &[Tensor]) -> u64 {
        let given = |name: &str| inputs.iter().find(|input| input.name == name);
        // The model's first, in whichever order the app gives them.
        let first = || {
            let first = self.signature.inputs.iter().find_map(|spec| given(&spec.name));
            first.and_then(|input| input.shape.first().copied()).unwrap_or(1)
        };
        let given = inputs.iter().map(|input| (&*input.name, &*input.shape));
        match &self.signature.rows {
            Some(_) => self.signature.rows_of(given).into(),
            None => first(),
        }
    }

    /// What it demands.
    pub fn demand(&self) -> &Demand {
        &self.call.demand
    }

    /// Answered by then.
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    /// Means what the name means now, if the model was replaced by one that takes and gives the same. One
    /// whose classes have names is not exchanged: its successor's may be others.
    pub async fn renew(&mut self, node: &Arc<Node>) -> bool {
        let Some(now) = self.call.replaced(node, self.resolved.bundle) else { return false };
        let is_same = self
            .call
            .describe(node, &now, self.deadline)
            .await
            .is_ok_and(|signature| signature == self.signature && signature.labels.is_empty());
        if is_same {
            self.resolved = now;
        }
        is_same
    }

    /// How the model takes text.
    ///
    /// # Errors
    /// It takes none, or nobody whom the policy permits gives the files that say how.
    pub async fn text(&self, node: &Arc<Node>) -> Result<Arc<Text>, ApiError> {
        let reading = node.text(self.resolved.bundle, &self.call.demand.policy);
        let read = tokio::time::timeout_at(node.clock.instant(self.deadline).into(), reading).await;
        Ok(read.map_err(|_| Refusal::Deadline)??)
    }

    /// What the classes are called that the app wants, as far as the model has names for them.
    ///
    /// # Errors
    /// Nobody whom the policy permits gives the files that say it.
    pub async fn labels(
        &self,
        node: &Arc<Node>,
        wanted: &[Wanted],
    ) -> Result<Arc<Labels>, ApiError> {
        let is_named =
            |own: &Wanted| own.classes.is_some() && self.signature.labels.contains(&own.name);
        if !wanted.iter().any(is_named) {
            return Ok(Arc::default());
        }
        let reading = node.labels(self.resolved.bundle, &self.call.demand.policy);
        let read = tokio::time::timeout_at(node.clock.instant(self.deadline).into(), reading).await;
        Ok(read.map_err(|_| Refusal::Deadline)??)
    }

    /// The job that the request is, with these inputs and these outputs (none means all).
    ///
    /// # Errors
    /// The inputs or outputs are not the model's.
    pub fn order(
        &self,
        node: &Arc<Node>,
        inputs: Vec<Tensor>,
        outputs: Vec<String>,
    ) -> Result<Order, ApiError> {
        let Self { call, deadline, resolved, signature, law } = self;
        signature.check(inputs.iter().map(Head::from), &outputs, &InputLimits::default())?;
        let shapes = inputs.iter().map(|input| (&*input.name, &*input.shape));
        let (rows, separable) = batch_rows(signature, shapes);

        let job = Job {
            rows,
            separable,
            is_timed: call.demand.deadline.is_some(),
            priority: call.demand.priority,
            bytes: inputs.iter().map(|input| input.data.len() as u64).sum(),
            ..Job::new(node.draw_job(), resolved.bundle, law.clone(), &node.send, *deadline)
        };
        let called = format!("{}:{}", call.named.model, resolved.version);
        let evidence = Evidence::begin(node, called, None);
        Ok(Order { job, inputs, outputs, trace: call.trace, evidence })
    }

    /// Has a job of this request run, here or elsewhere. Dropping the future cancels it wherever it
    /// is.
    ///
    /// # Errors
    /// Nobody could or would run it; the error names the receipt that this left.
    pub async fn run(&self, node: &Arc<Node>, order: Order) -> Result<Called, ApiError> {
        let (rows, span) = (order.job.rows, self.span(&order));
        let (answer, receipted) = node.infer(order).instrument(span).await;
        let served = answer.as_ref().ok();
        let served = served.map(|answer| {
            let (service, is_kept) = (answer.service, answer.is_kept);
            Served { rows, service, is_kept, runs: 1 }
        });
        self.count(node, served);
        self.told(node, answer, receipted).await
    }

    /// The same with one job of several, which are counted together when all have run; a drain does
    /// not keep it from running.
    ///
    /// # Errors
    /// As above.
    pub async fn go_on(&self, node: &Arc<Node>, order: Order) -> Result<Called, ApiError> {
        let span = self.span(&order);
        let (answer, receipted) = node.go_on(order).instrument(span).await;
        self.told(node, answer, receipted).await
    }

    fn span(&self, order: &Order) -> tracing::Span {
        let model = &self.call.named.model;
        tracing::debug_span!(
            "infer", job = %order.job.id, model, trace = %Hex(&order.trace.trace)
        )
    }

    /// Counts the request, which ends now.
    pub fn count(&self, node: &Node, served: Option<Served>) {
        let Self { call, .. } = self;
        let (model, version) = (&call.named.model, &self.resolved.version);
        let total = node.clock.now().mono.since(call.arrived);
        node.statistics.count(model, version, total, served);
        if let Some(Served { service, .. }) = served {
            let (began, ended) = (call.arrived.0, call.arrived.0 + ns(total));
            let (trace, ran) = (call.trace.trace, ns(service));
            node.settings.trace(node, Traced { model, version, trace, began, ran, ended });
        }
    }

    /// What came of a job, as the app is told it.
    async fn told(
        &self,
        node: &Arc<Node>,
        answer: Result<Answer, Refusal>,
        receipted: Receipted,
    ) -> Result<Called, ApiError> {
        let Self { call, .. } = self;
        let receipt = receipts::told(receipted);
        let answer = answer.map_err(|refusal| {
            ApiError::from(call.later(node, refusal)).receipted(receipt.clone())
        })?;
        jobs::count("hansa_paid_micros_total", &answer.price);
        let proof = match call.demand.with_receipt {
            true => receipts::inline(node, receipted).await,
            false => None,
        };
        Ok(Called { answer, receipt, proof })
    }
}

impl Named {
    /// What the name means under `policy`, at this moment.
    ///
    /// # Errors
    /// Nobody whom the policy permits has it, or several have different bundles under the name.
    pub fn resolve(&self, node: &Node, policy: &Policy) -> Result<Resolved, Refusal> {
        let (now, view) = (node.clock.now(), node.view());
        resolve(now, &view, &self.model, self.version.as_deref(), policy)
    }

    /// What the name means where nothing is constrained, and what that takes and gives.
    ///
    /// # Errors
    /// Nobody has it, or nobody says.
    pub async fn describe(&self, node: &Node) -> Result<(Resolved, Arc<Signature>), ApiError> {
        let policy = Policy::default();
        let resolved = self.resolve(node, &policy)?;
        let signature = node.describe(resolved.bundle, &policy).await?;
        Ok((resolved, signature))
    }

    /// Whether there is a peer that a job would go to.
    ///
    /// # Errors
    /// There is none now; or it is being loaded.
    pub fn ready(&self, node: &Node) -> Result<(), ApiError> {
        let policy = Policy::default();
        let later =
            |refusal| node.is_it_coming(&self.model, self.version.as_deref(), &policy, refusal);
        let bundle = self.resolve(node, &policy).map_err(later)?.bundle;
        if node.hosted(bundle).is_none() {
            let deadline = node.clock.now().mono + DEADLINE_DEFAULT;
            let job = Job::new(node.draw_job(), bundle, policy.clone(), &node.send, deadline);
            candidates(node.clock.now(), &node.view(), &node.loads(), &job)?;
        }
        Ok(())
    }

    /// What would be done with a job that a query describes, and why: `model`, `version`, `rows`,
    /// `bytes`, and the parameters that a job could carry.
    ///
    /// # Errors
    /// The query is not understood, or names no model that is here.
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
///
/// # Errors
/// A constraint that is not understood.
pub fn demand(
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

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn number<T: std::str::FromStr>(text: Option<String>, key: &str) -> Result<Option<T>, ApiError> {
    let fault = |text| ApiError::malformed(format!("{key}={text} is not a number"));
    text.map(|text| text.parse().map_err(|_| fault(text))).transpose()
}
