//! What becomes of a job, for its receipt: where it and its parts went and why, who ran what, what
//! came of each. What a receipt says is `hansa_core::receipt`'s to define, how it is kept
//! [`crate::audit`]'s.
//!
//! Who answers an app waits until the receipt is kept: whoever is told of it can rely on it.
//! A peer in between waits only where that is demanded (the policy's or the operator's `fail
//! closed`), and otherwise answers at once: its answer carries the leaf that the receipt will have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::lei::Lei;
use hansa_core::limits::PARTS_MAX;
use hansa_core::plan::{Job, Refusal};
use hansa_core::policy::Policy;
use hansa_core::price::Bill;
use hansa_core::receipt::{
    Outcome, Part, Party, Receipt, Salt, Share, Side, Used, Verdict, Why, Work, commit,
    payload_digest,
};
use hansa_core::time::Utc;
use hansa_core::wire::{Lineage, Run, TensorMeta};
use hansa_runtime::tensor::Tensor;

use super::payload::meta;
use super::{Answer, AskError, Order, micros};
use crate::api::aside::Aside;
use crate::audit::Entry;
use crate::audit::keeper::Keeper;
use crate::node::{Hosted, Node};

/// What a receipt calls the provider of an answer that was kept and not computed anew.
const CACHE: &str = "cache";

/// Where a job comes from, and what is noted of it on its way.
#[derive(Clone)]
pub struct Evidence {
    /// The model, as this node calls it.
    pub model: String,
    /// Where it comes from, as the peer that sent it says; none at its entry.
    pub lineage: Option<Lineage>,
    /// Which part of a job it is, for whoever hands it on.
    pub share: Share,
    /// None where no receipt is kept.
    pub(super) trail: Option<Arc<Trail>>,
}

/// What is noted of a job while it is in the air; its shards write to the same.
pub(super) struct Trail {
    started: Utc,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    parts: Vec<Part>,
    work: Option<Work>,
}

/// What came of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipted {
    /// This node keeps none.
    Off,
    /// It is kept, or about to be, as this leaf.
    Kept {
        /// Of which job.
        job: JobId,
        /// Its leaf in this node's log.
        leaf: Digest,
    },
    /// It could not be kept.
    Lost,
}

impl Receipted {
    /// The leaf, if there is one.
    pub fn leaf(self) -> Option<Digest> {
        match self {
            Self::Kept { leaf, .. } => Some(leaf),
            Self::Off | Self::Lost => None,
        }
    }
}

/// A part that was handed on and of which nothing was heard yet.
pub(super) struct Handed {
    trail: Arc<Trail>,
    at: usize,
}

impl Evidence {
    /// Of a job that begins here.
    pub fn begin(node: &Node, model: String, lineage: Option<Lineage>) -> Self {
        let trail = Trail::begin(node);
        Self { model, lineage, share: Share::Whole, trail }
    }

    /// What a peer that gets the job, or a part of it, is told of where it comes from.
    pub(super) fn lineage(&self, node: &Node, attempt: u8) -> Lineage {
        let parent = self.lineage.as_ref().and_then(|own| own.parent);
        let groups = self.lineage.as_ref().map_or(node.groups_digest, |own| own.groups);
        Lineage { parent, attempt, groups }
    }

    /// The same for a shard of `job`, which goes on under a name of its own.
    pub(super) fn shard(&self, node: &Node, job: JobId, share: Share) -> Self {
        let lineage = Lineage { parent: Some(job), ..self.lineage(node, 1) };
        Self { lineage: Some(lineage), share, ..self.clone() }
    }
}

impl Trail {
    /// One that begins now, if receipts are kept here.
    pub(super) fn begin(node: &Node) -> Option<Arc<Self>> {
        let started = node.clock.now().utc;
        node.audit.as_ref().map(|_| Arc::new(Self { started, noted: Mutex::default() }))
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().expect("no holder panics")
    }

    /// Whether no part was handed on.
    pub(super) fn is_empty(&self) -> bool {
        self.noted().parts.is_empty()
    }

    fn put(&self, part: Part) -> Option<usize> {
        let mut noted = self.noted();
        // More than a job can come to; a stray one is not worth a refusal.
        (noted.parts.len() < PARTS_MAX).then(|| {
            noted.parts.push(part);
            noted.parts.len() - 1
        })
    }
}

impl Handed {
    /// Notes what came of an attempt.
    pub(super) fn settle(&self, node: &Node, job: &Job, ended: &Result<Answer, AskError>) {
        let (receipt, used) = match ended {
            Ok(answer) => (answer.receipt, used(job.rows, answer.service, &answer.price)),
            Err(_) => (None, Used::default()),
        };
        if let Ok(Answer { executed_by, .. }) = ended {
            let ran = executed_by.first().and_then(|peer| node.party(*peer));
            let mut noted = self.trail.noted();
            let part = &mut noted.parts[self.at];
            part.executor = ran.filter(|ran| *ran != part.party);
        }
        self.note(outcome_of(ended), receipt, used);
    }

    /// Notes what came of the part.
    pub(super) fn note(&self, outcome: Outcome, receipt: Option<Digest>, used: Used) {
        let mut noted = self.trail.noted();
        let part = &mut noted.parts[self.at];
        (part.outcome, part.receipt, part.used) = (outcome, receipt, used);
    }
}

impl Order {
    /// Notes that `peer` gets the job; until it is settled, it counts as given up.
    pub(super) fn hand(&self, node: &Node, peer: PeerId, why: Why) -> Option<Handed> {
        let evidence = &self.evidence;
        let trail = evidence.trail.as_ref()?;
        // What this node runs alone is not handed on.
        if peer == node.me && evidence.share == Share::Whole {
            return None;
        }
        hand(node, trail, self.job.id, evidence.share, peer, why)
    }

    /// Notes that this node ran it, if it ran all of it.
    pub(super) fn note_work(&self, hosted: &Hosted, used: Used) {
        let evidence = &self.evidence;
        if let Some(trail) = evidence.trail.as_ref().filter(|_| evidence.share == Share::Whole) {
            trail.noted().work = Some(work(hosted, used));
        }
    }

    /// Notes that this node gave an answer that it had kept.
    pub(super) fn note_reuse(&self, hosted: &Hosted, used: Used) {
        let evidence = &self.evidence;
        if let Some(trail) = evidence.trail.as_ref().filter(|_| evidence.share == Share::Whole) {
            let provider = CACHE.to_owned();
            trail.noted().work = Some(Work { provider, ..work(hosted, used) });
        }
    }

    /// Notes who ran which stages.
    pub(super) fn note_runs(&self, node: &Node, runs: &[Run]) {
        let Some(trail) = &self.evidence.trail else { return };
        for run in runs {
            let share = Share::Stage { from: run.from, to: run.to };
            let handed = hand(node, trail, self.job.id, share, run.peer, Why::Planned);
            if let Some(handed) = handed {
                handed.note(Outcome::Answered, run.receipt, run.used.clone());
            }
        }
    }
}

/// Notes on `trail` that `peer` gets a share of the job.
pub(super) fn hand(
    node: &Node,
    trail: &Arc<Trail>,
    job: JobId,
    share: Share,
    peer: PeerId,
    why: Why,
) -> Option<Handed> {
    let party = node.party(peer)?;
    let used = Used::default();
    let outcome = Outcome::Cancelled;
    let at =
        trail.put(Part { job, share, why, party, executor: None, receipt: None, outcome, used })?;
    Some(Handed { trail: Arc::clone(trail), at })
}

/// What running took.
pub(super) fn used(rows: u32, busy: std::time::Duration, price: &Bill) -> Used {
    Used { rows: rows.into(), device_us: micros(busy), price: price.amounts().next() }
}

fn work(hosted: &Hosted, used: Used) -> Work {
    let provider = hosted.engine.device().provider.to_string();
    Work { runtime: hosted.runtime.to_string(), provider, used }
}

/// How an attempt came out, for the receipt.
fn outcome_of(ended: &Result<Answer, AskError>) -> Outcome {
    match ended {
        Ok(_) => Outcome::Answered,
        Err(AskError::Lost(_)) => Outcome::Failed,
        Err(AskError::Refused(refusal)) => outcome_of_refusal(refusal),
    }
}

pub(super) fn outcome_of_refusal(refusal: &Refusal) -> Outcome {
    match refusal {
        Refusal::Deadline => Outcome::Late,
        Refusal::Failed { .. } | Refusal::Execution { .. } => Outcome::Failed,
        _ => Outcome::Refused,
    }
}

impl Node {
    /// A peer as its charter names it; none if this node sees no charter of it that counts.
    pub(super) fn party(&self, peer: PeerId) -> Option<Party> {
        self.view().get(peer)?.record.party()
    }

    /// Why a job is refused that must leave a receipt, where none can be kept.
    pub(super) fn may_keep(&self, policy: &Policy) -> Result<(), Refusal> {
        let is_demanded = policy.receipt_required || policy.audit_fail_closed;
        let refuse = |reason: String| Err(Refusal::NoReceipt { reason });
        match &self.audit {
            None if is_demanded => refuse("this node keeps no receipts".into()),
            Some(audit) if is_demanded || audit.is_strict() => audit.fault().map_or(Ok(()), refuse),
            _ => Ok(()),
        }
    }

    /// Keeps the receipt of a job that is over. A job that must leave one and leaves none is refused
    /// after all.
    pub(super) async fn close(
        &self,
        order: &Order,
        outcome: &mut Result<Answer, Refusal>,
    ) -> Receipted {
        let (Some(audit), Some(trail)) = (&self.audit, &order.evidence.trail) else {
            return Receipted::Off;
        };
        let (job, policy) = (&order.job, &order.job.policy);
        let (sides, salt) = match policy.retain_nothing {
            true => ([None, None], Salt([0; 32])),
            false => {
                let salt = Salt(self.draw());
                let given = outcome.as_ref().map_or(&[][..], |answer| &answer.outputs);
                let input = self.commit(&salt, Side::Input, &order.inputs).await;
                let output = match outcome {
                    Ok(_) => Some(self.commit(&salt, Side::Output, given).await),
                    Err(_) => None,
                };
                ([Some(input), output], salt)
            }
        };
        let noted = std::mem::take(&mut *trail.noted());
        let bytes_out = outcome.as_ref().map_or(0, |answer| bytes_of(&answer.outputs));
        let receipt = self.draft(Draft {
            job: job.id,
            lineage: order.evidence.lineage.as_ref(),
            started: trail.started,
            path: &job.path,
            model: &order.evidence.model,
            bundle: Some(job.bundle),
            policy: policy.hash(),
            rejected: match outcome {
                Err(Refusal::PolicyUnsatisfiable { failed } | Refusal::Unavailable { failed }) => {
                    failed.clone()
                }
                _ => self.view().kept_out(&job.onward, job.bundle),
            },
            sides,
            bytes: (job.bytes, bytes_out),
            noted,
            outcome: outcome.as_ref().map_or_else(outcome_of_refusal, |_| Outcome::Answered),
        });
        let is_entry = job.path.is_empty();
        let receipted = self.keep_receipt(audit, receipt, salt, policy, is_entry).await;
        if receipted == Receipted::Lost
            && let Err(refusal) = self.may_lose(audit, policy)
            && outcome.is_ok()
        {
            *outcome = Err(refusal);
        }
        receipted
    }

    /// Keeps the receipt of a job that was refused before it was one: nobody could say which bundle
    /// is meant.
    pub async fn note_refusal(&self, model: &str, policy: &Policy, refusal: &Refusal) -> Receipted {
        let Some(audit) = &self.audit else { return Receipted::Off };
        let Refusal::PolicyUnsatisfiable { failed } = refusal else { return Receipted::Off };
        let receipt = self.draft(Draft {
            job: self.draw_job(),
            lineage: None,
            started: self.clock.now().utc,
            path: &[],
            model,
            bundle: None,
            policy: policy.hash(),
            rejected: failed.clone(),
            sides: [None, None],
            bytes: (0, 0),
            noted: Noted::default(),
            outcome: Outcome::Refused,
        });
        self.keep_receipt(audit, receipt, Salt([0; 32]), policy, true).await
    }

    /// Keeps the receipt of a stage that ran, before what came of it goes on to `next`: the leaf
    /// travels with it to the job's entry.
    pub(super) async fn close_stage(
        &self,
        stage: Staged<'_>,
        inputs: &[Tensor],
        outputs: &[Tensor],
    ) -> Receipted {
        let Some(audit) = &self.audit else { return Receipted::Off };
        let Staged { job, lineage, started, hosted, used, next } = stage;
        let (sides, salt) = match job.policy.retain_nothing {
            true => ([None, None], Salt([0; 32])),
            false => {
                let salt = Salt(self.draw());
                let input = self.commit(&salt, Side::Input, inputs).await;
                let output = self.commit(&salt, Side::Output, outputs).await;
                ([Some(input), Some(output)], salt)
            }
        };
        let passed = next.and_then(|(peer, share)| {
            let (why, outcome, used) = (Why::Planned, Outcome::Passed, Used::default());
            let party = self.party(peer)?;
            Some(Part {
                job: job.id,
                share,
                why,
                party,
                executor: None,
                receipt: None,
                outcome,
                used,
            })
        });
        let receipt = self.draft(Draft {
            job: job.id,
            lineage,
            started,
            path: &job.path,
            model: &format!("{}:{}", hosted.name, hosted.version),
            bundle: Some(job.bundle),
            policy: job.policy.hash(),
            rejected: BTreeMap::new(),
            sides,
            bytes: (bytes_of(inputs), bytes_of(outputs)),
            noted: Noted { parts: passed.into_iter().collect(), work: Some(work(hosted, used)) },
            outcome: Outcome::Answered,
        });
        self.keep_receipt(audit, receipt, salt, &job.policy, false).await
    }

    /// Keeps one more receipt of a stage that handed on what came of it more than once, since whoever
    /// got it was lost: the first names the next peer as it was planned.
    pub(super) async fn close_mended(
        &self,
        job: &Job,
        lineage: Option<&Lineage>,
        model: &str,
        trail: &Trail,
    ) {
        let noted = std::mem::take(&mut *trail.noted());
        let Some(audit) = self.audit.as_ref().filter(|_| !noted.parts.is_empty()) else { return };
        let receipt = self.draft(Draft {
            job: job.id,
            lineage,
            started: trail.started,
            path: &job.path,
            model,
            bundle: Some(job.bundle),
            policy: job.policy.hash(),
            rejected: BTreeMap::new(),
            sides: [None, None],
            bytes: (0, 0),
            noted,
            outcome: Outcome::Passed,
        });
        self.keep_receipt(audit, receipt, Salt([0; 32]), &job.policy, false).await;
    }

    /// The receipt, unless a peer on the job's way shows no charter here: then nobody could say who
    /// that was.
    fn draft(&self, draft: Draft<'_>) -> Option<Receipt> {
        let way = draft.path.iter().copied().filter(|peer| *peer != self.me).chain([self.me]);
        let path: Option<Vec<Party>> = way.map(|peer| self.party(peer)).collect();
        let is_refused = draft.outcome == Outcome::Refused && draft.noted.parts.is_empty();
        let ended = self.clock.now().utc.max(draft.started);
        let mut receipt = Receipt {
            job: draft.job,
            parent: draft.lineage.and_then(|lineage| lineage.parent),
            attempt: draft.lineage.map_or(1, |lineage| lineage.attempt.max(1)),
            started: draft.started,
            ended,
            path: path?,
            model: draft.model.to_owned(),
            bundle: draft.bundle,
            policy: draft.policy,
            groups: Some(draft.lineage.map_or(self.groups_digest, |lineage| lineage.groups)),
            verdict: match is_refused && !draft.rejected.is_empty() {
                true => Verdict::Refused,
                false => Verdict::Permitted,
            },
            rejected: draft.rejected,
            input: draft.sides[0],
            output: draft.sides[1],
            bytes_in: draft.bytes.0,
            bytes_out: draft.bytes.1,
            work: draft.noted.work,
            parts: draft.noted.parts,
            outcome: draft.outcome,
            leis: BTreeMap::new(),
        };
        receipt.leis = self.leis(&receipt);
        Some(receipt)
    }

    /// The legal entity identifiers that the charters of a receipt's peers name.
    fn leis(&self, receipt: &Receipt) -> BTreeMap<Digest, Lei> {
        let view = self.view();
        let named = receipt.parties().filter_map(|party| {
            let charter = view.get(party.peer)?.record.charter.as_ref().ok()?;
            // One that came meanwhile may name another.
            let lei = charter.lei.filter(|_| charter.serial == party.serial)?;
            Some((party.charter, lei))
        });
        named.collect()
    }

    async fn keep_receipt(
        &self,
        audit: &Keeper,
        receipt: Option<Receipt>,
        salt: Salt,
        policy: &Policy,
        is_entry: bool,
    ) -> Receipted {
        let lost = |reason: String| {
            metrics::counter!("hansa_receipts_lost_total").increment(1);
            tracing::error!(reason, "a receipt is lost");
            Receipted::Lost
        };
        let Some(receipt) = receipt else {
            return lost("a peer on the job's way shows no charter here".into());
        };
        let entry = match Entry::seal(&receipt, salt) {
            Ok(entry) => entry,
            Err(fault) => return lost(fault.to_string()),
        };
        let is_demanded = policy.receipt_required || policy.audit_fail_closed;
        let entry = if is_demanded { entry.durable() } else { entry };
        let kept = Receipted::Kept { job: receipt.job, leaf: entry.leaf };
        let keeping = match audit.keep(entry) {
            Ok(keeping) => keeping,
            Err(error) => return lost(error.to_string()),
        };
        audit.count(&receipt);
        // Whoever is told of a receipt can rely on it.
        if !is_entry && !keeping.has_failed() && self.may_lose(audit, policy).is_ok() {
            return kept;
        }
        match keeping.kept().await {
            Ok(_) => kept,
            Err(error) => lost(error.to_string()),
        }
    }

    /// Whether the job's answer may go out without a receipt.
    fn may_lose(&self, audit: &Keeper, policy: &Policy) -> Result<(), Refusal> {
        if audit.is_strict() || policy.receipt_required || policy.audit_fail_closed {
            let reason = audit.fault().unwrap_or("it was not written".into());
            return Err(Refusal::NoReceipt { reason });
        }
        Ok(())
    }

    /// The commitment to a payload; a long one is hashed beside the threads that carry the network.
    async fn commit(&self, salt: &Salt, side: Side, tensors: &[Tensor]) -> Digest {
        let bytes = usize::try_from(bytes_of(tensors)).unwrap_or(usize::MAX);
        let digest = if Aside::is_short(bytes) {
            digest_of(tensors)
        } else {
            let tensors = tensors.to_vec();
            self.aside.run(bytes, move || digest_of(&tensors)).await
        };
        commit(salt, side, &digest)
    }
}

/// What a stage's receipt is made of.
pub(super) struct Staged<'a> {
    pub(super) job: &'a Job,
    pub(super) lineage: Option<&'a Lineage>,
    pub(super) started: Utc,
    pub(super) hosted: &'a Hosted,
    pub(super) used: Used,
    /// Who gets what comes of it, and for which stage.
    pub(super) next: Option<(PeerId, Share)>,
}

/// What a receipt is made of.
struct Draft<'a> {
    job: JobId,
    lineage: Option<&'a Lineage>,
    started: Utc,
    path: &'a [PeerId],
    model: &'a str,
    bundle: Option<Digest>,
    /// The hash of the law that it ran under.
    policy: Digest,
    rejected: BTreeMap<Rule, u32>,
    sides: [Option<Digest>; 2],
    bytes: (u64, u64),
    noted: Noted,
    outcome: Outcome,
}

/// What is committed to of a payload.
pub(crate) fn digest_of(tensors: &[Tensor]) -> Digest {
    let metas: Vec<TensorMeta> = tensors.iter().map(meta).collect();
    let parts = metas.iter().zip(tensors).map(|(meta, tensor)| (meta, &*tensor.data));
    payload_digest(&parts.collect::<Vec<_>>())
}

fn bytes_of(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.data.len() as u64).sum()
}
