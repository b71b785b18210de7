//! What each form of running a job would cost, also those that are not chosen.

use crate::chain::{self, Chain, chain};
use crate::id::PeerId;
use crate::plan::{Refusal, elsewhere, here};
use crate::policy::Split;
use crate::price::Bill;
use crate::rank::{Cost, Order};
use crate::scatter::{Scatter, WORTH_PERCENT, scatter};

use super::{Asker, Choice, Form, FormReason};

impl Asker<'_> {
    /// What each form would cost, also those that are not chosen.
    pub(super) fn forms(&self, choice: &Choice) -> Vec<FormReason> {
        let Self { now, view, loads, job } = *self;
        let split = job.policy.split;
        let forbidden = |is_forbidden: bool| {
            is_forbidden.then(|| format!("the job's split is {}", split.name()))
        };
        let of_one = |form, found: Result<(Order, Cost), String>| match found {
            Ok((order, cost)) => self.form(form, vec![order.peer], cost, None),
            Err(why) => FormReason::impossible(form, why),
        };
        let whole = matches!(split, Split::Rows | Split::Stages);
        let local = forbidden(whole)
            .map_or_else(|| here(now, view, loads, job, &[]).map_err(|rule| rule.to_string()), Err);
        let nobody = || match job.hops_left {
            0 => "the job may not travel".to_owned(),
            _ => "no other peer that passes the gate holds the whole model".to_owned(),
        };
        let forward = forbidden(whole)
            .map_or_else(|| elsewhere(now, view, loads, job, &[]).ok_or_else(nobody), Err);
        let rows = forbidden(matches!(split, Split::Never | Split::Stages));
        let rows = rows.map_or_else(|| self.spread().map_err(|refusal| refusal.to_string()), Err);
        let rows = match rows {
            Ok(scatter) => self.form_of_rows(&scatter),
            Err(why) => FormReason::impossible(Form::Rows, why),
        };
        let stages = forbidden(matches!(split, Split::Never | Split::Rows));
        let no_chain = || match view.stages(job.bundle).next() {
            None => "nobody holds stages of it".to_owned(),
            Some(_) => chain::refusal(now, view, loads, job, &[]).to_string(),
        };
        let stages =
            stages.map_or_else(|| chain(now, view, loads, job, 0, &[]).ok_or_else(no_chain), Err);
        let stages = match stages {
            Ok(chain) => self.form_of_stages(&chain),
            Err(why) => FormReason::impossible(Form::Stages, why),
        };
        let chosen = choice.form();
        let mut forms =
            vec![of_one(Form::Local, local), of_one(Form::Forward, forward), rows, stages];
        for form in &mut forms {
            form.chosen = Some(form.form) == chosen;
            form.why_not = form.why_not.take().filter(|_| !form.chosen);
        }
        forms
    }

    /// The batch as it would be spread if it had to be.
    fn spread(&self) -> Result<Scatter, Refusal> {
        let mut job = self.job.clone();
        job.policy = job.policy.with(|policy| policy.split = Split::Rows);
        let spread = scatter(self.now, self.view, self.loads, &job)?;
        spread.ok_or(Refusal::Deadline)
    }

    fn form(
        &self,
        form: Form,
        peers: Vec<PeerId>,
        cost: Cost,
        why_not: Option<String>,
    ) -> FormReason {
        FormReason {
            form,
            chosen: false,
            peers: peers.into_iter().map(|peer| self.name(peer)).collect(),
            cost_us: Some(cost.into()),
            price_micros: cost.price.into_iter().collect(),
            why_not,
        }
    }

    fn form_of_rows(&self, scatter: &Scatter) -> FormReason {
        let last = scatter.shares.iter().map(|share| share.cost).max_by_key(Cost::total);
        let peers = scatter.shares.iter().map(|share| share.peer).collect();
        let is_sooner = scatter.expected < scatter.alone.saturating_mul(WORTH_PERCENT) / 100;
        let why_not = match is_sooner {
            true => "one peer meets the deadline with less money or a smaller device",
            false => "not clearly sooner than one peer",
        };
        let form = self.form(Form::Rows, peers, last.unwrap_or_default(), Some(why_not.to_owned()));
        FormReason { price_micros: scatter.price(), ..form }
    }

    fn form_of_stages(&self, chain: &Chain) -> FormReason {
        let sum = chain.parts.iter().fold(Cost::default(), |sum, part| Cost {
            rtt: sum.rtt.saturating_add(part.rtt),
            transfer: sum.transfer.saturating_add(part.transfer),
            wait: sum.wait.saturating_add(part.wait),
            service: sum.service.saturating_add(part.service),
            price: None,
        });
        // And the way back to the entry.
        let back = chain.cost.saturating_sub(sum.total());
        let sum = Cost { rtt: sum.rtt.saturating_add(back), ..sum };
        let peers = chain.links.iter().map(|link| link.peer).collect();
        let why_not = "a peer that passes the gate holds the whole model".to_owned();
        let form = self.form(Form::Stages, peers, sum, Some(why_not));
        FormReason { price_micros: chain.price(), ..form }
    }
}

impl FormReason {
    fn impossible(form: Form, why_not: String) -> Self {
        let (peers, price_micros) = (Vec::new(), Bill::default());
        Self { form, chosen: false, peers, cost_us: None, price_micros, why_not: Some(why_not) }
    }
}
