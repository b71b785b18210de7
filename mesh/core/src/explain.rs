//! Why a job would go where it goes: every peer gated out with its reason, the rest ranked with
//! their cost terms. A full scan, written only when somebody asks.

use std::time::Duration;

use serde::Serialize;

use crate::chain::Link;
use crate::charter::{Charter, CharterFault};
use crate::gate::Rule;
use crate::id::{Digest, PeerId};
use crate::loads::Loads;
use crate::place::Place;
use crate::plan::{Job, Plan, admit_here, admit_there, plan};
use crate::rank::{Cost, Order, cost_here, cost_there, order};
use crate::scatter::{Share, scatter};
use crate::time::Now;
use crate::view::{Entry, View};

/// A plan and its reasons.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The bundle that was meant.
    pub bundle: Digest,
    /// What would be done.
    pub plan: Choice,
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
    /// Its cost terms, in µs; absent when gated out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_us: Option<CostUs>,
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
    let mut peers: Vec<_> =
        view.entries().iter().map(|entry| reason(now, view, loads, job, entry)).collect();
    // In the plan's own order; the gated out, who have none, last, by name.
    peers.sort_by(|(a_order, a), (b_order, b)| {
        let key = |order: &Option<Order>| (order.is_none(), *order);
        key(a_order).cmp(&key(b_order)).then_with(|| a.name.cmp(&b.name))
    });
    let mut peers: Vec<PeerReason> = peers.into_iter().map(|(_, reason)| reason).collect();
    let ranked = peers.iter_mut().filter(|peer| peer.cost_us.is_some());
    for (rank, peer) in (1..).zip(ranked) {
        peer.rank = Some(rank);
    }
    let choice = match scatter(now, view, loads, job) {
        Ok(None) => whole(now, view, loads, job),
        Ok(Some(scatter)) => {
            let share = |share: &Share| ShareChoice {
                peer: name(view, share.peer),
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
        Err(refusal) => Choice::Refuse { refusal: refusal.to_string() },
    };
    Explanation { bundle: job.bundle, plan: choice, peers }
}

/// What would be done with a job that is not spread.
fn whole(now: Now, view: &View, loads: &Loads, job: &Job) -> Choice {
    match plan(now, view, loads, job, &[]) {
        Plan::Local { .. } => Choice::Local,
        Plan::Forward { to, .. } => Choice::Forward { to: name(view, to), peer_id: to },
        Plan::Stages { chain } => {
            let stage = |link: &Link| StageChoice {
                peer: name(view, link.peer),
                peer_id: link.peer,
                from: link.from,
                to: link.to,
            };
            let stages = chain.links.iter().map(stage).collect();
            Choice::Stages { stages, cost_us: us(chain.cost) }
        }
        Plan::Refuse(refusal) => Choice::Refuse { refusal: refusal.to_string() },
    }
}

fn name(view: &View, peer: PeerId) -> String {
    view.get(peer).map_or_else(String::new, |entry| entry.record.advert.name.clone())
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn reason(
    now: Now,
    view: &View,
    loads: &Loads,
    job: &Job,
    entry: &Entry,
) -> (Option<Order>, PeerReason) {
    let (advert, charter) = (&entry.record.advert, entry.record.charter.as_ref().ok());
    let load = loads.read(advert.peer, job.bundle, now.mono);
    let is_hop = advert.peer != view.me();
    let verdict = if is_hop {
        admit_there(now, entry, loads, job, &[]).map(|offer| cost_there(job, &offer, &load))
    } else {
        admit_here(now, entry, job, &[]).map(|offer| cost_here(job, &offer, &load))
    };
    let detail = |rule: Rule| {
        let found = match rule {
            Rule::NotHeld | Rule::Device | Rule::Bundle => String::new(),
            Rule::Unreachable | Rule::Visited | Rule::Tried => String::new(),
            _ => format!(" ({})", standing_text(&entry.record.charter)),
        };
        format!("{rule}{found}")
    };
    let peer = PeerReason {
        name: advert.name.clone(),
        peer_id: advert.peer,
        location: charter.map(|charter| charter.location.clone()),
        control: charter.map(|charter| charter.control.clone()),
        rank: None,
        cost_us: verdict.ok().map(CostUs::from),
        gated_out: verdict.err().map(|rule| Reason { rule, detail: detail(rule) }),
    };
    (verdict.ok().map(|cost| order(job, advert.peer, is_hop, &cost)), peer)
}

/// A peer's standing in words.
fn standing_text(standing: &Result<Charter, CharterFault>) -> String {
    match standing {
        Ok(charter) => format!("{} under {} law", charter.location, charter.control),
        Err(fault) => fault.to_string(),
    }
}
