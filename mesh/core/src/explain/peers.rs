//! Each peer's place among those that could run a job, or the reason why it has none.

use std::time::Duration;

use crate::advert::Stage;
use crate::chain;
use crate::charter::{Charter, CharterFault};
use crate::gate::Rule;
use crate::holders::Offer;
use crate::plan::{admit_here, admit_there};
use crate::policy::Split;
use crate::price::Amount;
use crate::rank::{Cost, Order, cost_here, cost_there, order, price, transfer};
use crate::view::Entry;

use super::{Asker, PeerReason, Reason, StageHeld};

impl Asker<'_> {
    /// One peer's place, or the reason why it has none.
    pub(super) fn reason(&self, entry: &Entry) -> (Option<Order>, PeerReason) {
        let Self { now, view, loads, job } = *self;
        let (advert, charter) = (&entry.record.advert, entry.record.charter.as_ref().ok());
        let load = loads.read(advert.peer, job.bundle, now.mono);
        let is_hop = advert.peer != view.me();
        let verdict = if is_hop {
            admit_there(now, entry, loads, job, &[]).map(|mut offer| {
                offer.rtt = view.at().round_trip(&advert.coordinate);
                let cost = cost_there(job, &offer, &load);
                (Some(order(now, job, &offer, true, &cost)), cost)
            })
        } else {
            admit_here(now, entry, loads, job, &[]).map(|offer| {
                let cost = cost_here(job, &offer, &load);
                (Some(order(now, job, &offer, false, &cost)), cost)
            })
        };
        let of_it = entry.record.stages.iter().filter(|stage| stage.whole == job.bundle);
        let stages: Vec<&Stage> = match verdict {
            // Who has a stage of it is judged by that, if that is all or what is demanded.
            Err(Rule::NotHeld) => of_it.collect(),
            _ if job.policy.split == Split::Stages => of_it.collect(),
            _ => Vec::new(),
        };
        let verdict = match &stages[..] {
            [] => verdict,
            [first, ..] => {
                let may = |stage: &&&Stage| {
                    chain::admit(now, view, loads, job, entry, stage, &[]).is_ok()
                };
                let open = stages.iter().find(may).unwrap_or(first);
                let admitted = chain::admit(now, view, loads, job, entry, open, &[]);
                admitted.map(|()| (None, self.cost_of_stage(entry, open)))
            }
        };
        let asks = stages.first().map_or_else(
            || {
                let offer = Offer::of(0, entry, job.bundle)?;
                price(job, &offer, &load)
            },
            |stage| chain::work(now, loads, job, entry, stage).price,
        );
        let held = |stage: &&Stage| StageHeld { from: stage.from, to: stage.to, of: stage.of };
        let peer = PeerReason {
            name: advert.name.clone(),
            peer_id: advert.peer,
            location: charter.map(|charter| charter.location.clone()),
            control: charter.map(|charter| charter.control.clone()),
            rank: None,
            cost_us: verdict.ok().map(|(_, cost)| cost.into()),
            price_micros: verdict.ok().and_then(|(_, cost)| cost.price).into_iter().collect(),
            stages: stages.iter().map(held).collect(),
            gated_out: verdict
                .err()
                .map(|rule| Reason { rule, detail: self.detail(entry, rule, asks) }),
        };
        (verdict.ok().and_then(|(order, _)| order), peer)
    }

    /// What a stage costs at its holder, the way from here with it.
    fn cost_of_stage(&self, entry: &Entry, stage: &Stage) -> Cost {
        let peer = entry.record.advert.peer;
        let rtt = chain::one_way(self.view, self.loads, self.view.me(), peer);
        let rtt = rtt.unwrap_or_else(|| chain::unknown_way(self.loads));
        let load = self.loads.read(peer, stage.bundle, self.now.mono);
        let is_first = stage.from == 0 && peer != self.view.me();
        let transfer = if is_first { transfer(self.job, &load) } else { Duration::ZERO };
        Cost { rtt, transfer, ..chain::work(self.now, self.loads, self.job, entry, stage) }
    }

    /// The rule in words, with what was found.
    fn detail(&self, entry: &Entry, rule: Rule, asks: Option<Amount>) -> String {
        match (rule, asks, self.job.limit()) {
            (Rule::Price, Some(asks), Some(limit)) if asks.currency != limit.currency => {
                format!("it asks {}, and the job's limit is in {}", asks.currency, limit.currency)
            }
            (Rule::Price, Some(asks), Some(limit)) => {
                format!("it would ask {asks}, and the job may cost {limit}")
            }
            (Rule::NotHeld | Rule::Device | Rule::Bundle | Rule::Price, ..)
            | (Rule::Unreachable | Rule::Visited | Rule::Tried, ..) => rule.to_string(),
            _ => format!("{rule} ({})", standing_text(&entry.record.charter)),
        }
    }
}

/// A peer's standing in words.
fn standing_text(standing: &Result<Charter, CharterFault>) -> String {
    match standing {
        Ok(charter) => format!("{} under {} law", charter.location, charter.control),
        Err(fault) => fault.to_string(),
    }
}
