//! Why a job would go where it goes: what each form of running it would cost, every peer gated out
//! with its reason, the rest ranked with their cost terms. A full scan, written only when somebody
//! asks.

mod forms;
mod peers;

use std::time::Duration;

use serde::Serialize;

use crate::chain::Link;
use crate::gate::Rule;
use crate::id::{Digest, PeerId};
use crate::loads::Loads;
use crate::place::Place;
use crate::plan::{Job, Plan, plan};
use crate::price::Bill;
use crate::rank::{Cost, Order};
use crate::scatter::{Scatter, Share, scatter};
use crate::time::Now;
use crate::view::View;

/// A plan and its reasons.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The bundle that was meant.
    pub bundle: Digest,
    /// What would be done.
    pub plan: Choice,
    /// Each form of running it, what it would cost and whether it is chosen.
    pub forms: Vec<FormReason>,
    /// Ranked peers first, then those that are gated out.
    pub peers: Vec<PeerReason>,
}

/// What would be done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Choice {
    /// It runs here.
    Local,
    /// It goes there.
    Forward {
        /// Name of the peer.
        to: String,
        /// Its id.
        peer_id: PeerId,
    },
    /// It goes through these peers, stage by stage.
    Stages {
        /// In order.
        stages: Vec<StageChoice>,
        /// Expected time from the first byte sent to the answer, in µs.
        cost_us: u64,
    },
    /// Its batch is spread over these peers.
    Rows {
        /// In the order of the rows.
        shares: Vec<ShareChoice>,
        /// Expected time until the last is done, in µs.
        cost_us: u64,
        /// What the best single peer is expected to take for all rows, in µs.
        alone_us: u64,
    },
    /// It is refused.
    Refuse {
        /// Why.
        refusal: String,
    },
}

/// One way to run a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Here.
    Local,
    /// At another peer.
    Forward,
    /// Its batch over several peers.
    Rows,
    /// Through several peers, stage by stage.
    Stages,
}

/// One form of an explanation.
#[derive(Clone, Debug, Serialize)]
pub struct FormReason {
    /// Which.
    pub form: Form,
    /// Whether it is what would be done.
    pub chosen: bool,
    /// Names of the peers that would run it, in order.
    pub peers: Vec<String>,
    /// Its cost terms, in µs: of a split by rows those of the share that is done last, of stages
    /// those of all together. Absent where it cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_us: Option<CostUs>,
    /// What it would be charged, in millionths by currency; empty if it is free.
    pub price_micros: Bill,
    /// Why it cannot be, or is not chosen although it may be sooner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// One stage of a chain.
#[derive(Clone, Debug, Serialize)]
pub struct StageChoice {
    /// Name of its peer.
    pub peer: String,
    /// Its id.
    pub peer_id: PeerId,
    /// First node of the model that it runs.
    pub from: u32,
    /// First node that it runs no more.
    pub to: u32,
    /// What it is expected to cost, in µs, the way to it with it.
    pub cost_us: CostUs,
}

/// One peer's share of a batch.
#[derive(Clone, Debug, Serialize)]
pub struct ShareChoice {
    /// Name of its peer.
    pub peer: String,
    /// Its id.
    pub peer_id: PeerId,
    /// How many rows.
    pub rows: u32,
    /// What they are expected to cost, in µs.
    pub cost_us: CostUs,
}

/// One peer of an explanation.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReason {
    /// Its name.
    pub name: String,
    /// Its id.
    pub peer_id: PeerId,
    /// Where its charter says it stands.
    pub location: Option<Place>,
    /// Under whose law.
    pub control: Option<Place>,
    /// From 1; absent when gated out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Its cost terms, in µs, of the whole or of its stage; absent when gated out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_us: Option<CostUs>,
    /// What it would charge, in millionths by currency; empty if that is nothing.
    pub price_micros: Bill,
    /// What it holds of the model, if not the whole: it is not ranked, since it runs no job alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageHeld>,
    /// Why it is gated out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated_out: Option<Reason>,
}

/// [`Cost`] in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CostUs {
    /// What is ranked by.
    pub total: u64,
    /// Round trip.
    pub rtt: u64,
    /// Transfer of the inputs.
    pub transfer: u64,
    /// Expected wait.
    pub wait: u64,
    /// Expected service.
    pub service: u64,
}

/// A stretch of the model that a peer holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageHeld {
    /// First node that it has.
    pub from: u32,
    /// First node that it has no more.
    pub to: u32,
    /// Nodes of the whole.
    pub of: u32,
}

/// The rule that keeps a peer out.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// Which.
    pub rule: Rule,
    /// In words, with what was found.
    pub detail: String,
}

impl From<Cost> for CostUs {
    fn from(cost: Cost) -> Self {
        Self {
            total: us(cost.total()),
            rtt: us(cost.rtt),
            transfer: us(cost.transfer),
            wait: us(cost.wait),
            service: us(cost.service),
        }
    }
}

/// Explains what [`scatter`] or [`plan`] does with `job`.
pub fn explain(now: Now, view: &View, loads: &Loads, job: &Job) -> Explanation {
    let asker = Asker { now, view, loads, job };
    let mut peers: Vec<_> = view.entries().iter().map(|entry| asker.reason(entry)).collect();
    // In the plan's own order; the gated out, who have none, last, by name.
    peers.sort_by(|(a_order, a), (b_order, b)| {
        let key = |order: &Option<Order>| (order.is_none(), *order);
        key(a_order).cmp(&key(b_order)).then_with(|| a.name.cmp(&b.name))
    });
    let ranks = (1..).zip(&mut peers).filter(|(_, (order, _))| order.is_some());
    ranks.for_each(|(rank, (_, peer))| peer.rank = Some(rank));
    let peers = peers.into_iter().map(|(_, reason)| reason).collect();
    let choice = match scatter(now, view, loads, job) {
        Ok(None) => asker.whole(),
        Ok(Some(scatter)) => asker.rows(&scatter),
        Err(refusal) => Choice::Refuse { refusal: refusal.to_string() },
    };
    let forms = asker.forms(&choice);
    Explanation { bundle: job.bundle, plan: choice, forms, peers }
}

/// Who asks, and about what.
#[derive(Clone, Copy)]
struct Asker<'a> {
    now: Now,
    view: &'a View,
    loads: &'a Loads,
    job: &'a Job,
}

impl Asker<'_> {
    /// What would be done with a job that is not spread.
    fn whole(&self) -> Choice {
        match plan(self.now, self.view, self.loads, self.job, &[]) {
            Plan::Local { .. } => Choice::Local,
            Plan::Forward { to, .. } => Choice::Forward { to: self.name(to), peer_id: to },
            Plan::Stages { chain } => {
                let stage = |(link, cost): (&Link, &Cost)| StageChoice {
                    peer: self.name(link.peer),
                    peer_id: link.peer,
                    from: link.from,
                    to: link.to,
                    cost_us: (*cost).into(),
                };
                let stages = chain.links.iter().zip(&chain.parts).map(stage).collect();
                Choice::Stages { stages, cost_us: us(chain.cost) }
            }
            Plan::Refuse(refusal) => Choice::Refuse { refusal: refusal.to_string() },
        }
    }

    fn rows(&self, scatter: &Scatter) -> Choice {
        let share = |share: &Share| ShareChoice {
            peer: self.name(share.peer),
            peer_id: share.peer,
            rows: share.rows,
            cost_us: share.cost.into(),
        };
        Choice::Rows {
            shares: scatter.shares.iter().map(share).collect(),
            cost_us: us(scatter.expected),
            alone_us: us(scatter.alone),
        }
    }

    fn name(&self, peer: PeerId) -> String {
        let entry = self.view.get(peer);
        entry.map_or_else(String::new, |entry| entry.record.advert.name.clone())
    }
}

impl Choice {
    fn form(&self) -> Option<Form> {
        match self {
            Self::Local => Some(Form::Local),
            Self::Forward { .. } => Some(Form::Forward),
            Self::Rows { .. } => Some(Form::Rows),
            Self::Stages { .. } => Some(Form::Stages),
            Self::Refuse { .. } => None,
        }
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
