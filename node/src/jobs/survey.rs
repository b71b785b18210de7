//! Asking a few peers for quotes before a long job is sent.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hansa_core::chain::{self, Chain};
use hansa_core::id::{Digest, PeerId};
use hansa_core::plan::Job;
use hansa_core::survey::{Asking, Preference, Survey};

use super::ask::AskError;
use crate::node::Node;

impl Node {
    /// Whom to send the job to first, soonest first, as the peers themselves say. Empty if asking
    /// is not worth it, or nobody answers. Only the entry asks.
    pub(super) async fn survey(self: &Arc<Self>, job: &Job) -> Vec<Preference> {
        if !job.path.is_empty() {
            return Vec::new();
        }
        let begun = {
            let (now, view, hosted) = (self.clock.now(), self.view(), self.hosted(job.bundle));
            let own = || Some(hosted?.quote(now.mono, job.id, Duration::ZERO, job.rows));
            Survey::begin(now, &view, &self.loads(), job, own, Asking::default())
        };
        let Some(mut survey) = begun else { return Vec::new() };
        let questions: Vec<_> = survey.questions().collect();
        metrics::counter!("hansa_quotes_asked_total").increment(questions.len() as u64);
        let asking = questions.iter().map(|(peer, rtt)| async {
            (*peer, self.ask_quote(job, job.bundle, *peer, *rtt).await)
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let order = loop {
            if let Some(order) = survey.decide(self.clock.now().mono) {
                break order;
            }
            tokio::select! {
                Some((peer, quote)) = asking.next() => match quote {
                    Ok(quote) => survey.quoted(peer, quote),
                    Err(AskError::Refused(_)) => survey.silent(peer),
                    Err(AskError::Lost(reason)) => {
                        self.lost(peer, &reason);
                        survey.silent(peer);
                    }
                },
                () = self.reached(Some(survey.until())) => {}
            }
        };
        drop(asking);
        let chosen = order.first().map(|preference| preference.peer);
        for (peer, _) in questions.into_iter().filter(|(peer, _)| Some(*peer) != chosen) {
            self.decline_later(job, job.bundle, peer);
        }
        if chosen != Some(self.me)
            && let Some(hosted) = self.hosted(job.bundle)
        {
            hosted.release(job.id);
        }
        order
    }

    /// Through which peers to send a job that no one peer runs whole, as they themselves say. None
    /// if asking is not worth it, or what they say makes no chain. Only the entry asks.
    pub(super) async fn survey_chains(self: &Arc<Self>, job: &Job) -> Option<Chain> {
        if !job.path.is_empty() {
            return None;
        }
        let mut survey = {
            let (now, view) = (self.clock.now(), self.view());
            let own = |stage: Digest| {
                Some(self.hosted(stage)?.quote(now.mono, job.id, Duration::ZERO, job.rows))
            };
            chain::survey::Survey::begin(now, &view, &self.loads(), job, own)?
        };
        let questions: Vec<_> = survey.questions().collect();
        metrics::counter!("hansa_quotes_asked_total").increment(questions.len() as u64);
        let asking = questions.iter().map(|(peer, stage, rtt)| async {
            (*peer, *stage, self.ask_quote(job, *stage, *peer, *rtt).await)
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let chain = loop {
            let decided = survey.decide(self.clock.now(), &self.view(), &self.loads(), job);
            if let Some(chain) = decided {
                break chain;
            }
            tokio::select! {
                Some((peer, stage, quote)) = asking.next() => match quote {
                    Ok(quote) => survey.quoted(peer, stage, quote),
                    Err(AskError::Refused(_)) => survey.silent(peer, stage),
                    Err(AskError::Lost(reason)) => {
                        self.lost(peer, &reason);
                        survey.silent(peer, stage);
                    }
                },
                () = self.reached(Some(survey.until())) => {}
            }
        };
        drop(asking);
        let is_chosen = |peer: PeerId, stage: Digest| {
            let mut links = chain.iter().flat_map(|chain| &chain.links);
            links.any(|link| (link.peer, link.bundle) == (peer, stage))
        };
        for (peer, stage, _) in questions {
            if !is_chosen(peer, stage) {
                self.decline_later(job, stage, peer);
            }
        }
        for (stage, hosted) in self.engines().iter() {
            if !is_chosen(self.me, *stage) {
                hosted.release(job.id);
            }
        }
        chain
    }

    /// The job does not wait for those that it did not choose.
    fn decline_later(self: &Arc<Self>, job: &Job, bundle: Digest, peer: PeerId) {
        let (node, job) = (Arc::clone(self), job.clone());
        self.tasks.spawn(async move { node.decline(&job, bundle, peer).await });
    }
}
