//! Asking a few peers for quotes before a long job is sent.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hansa_core::id::PeerId;
use hansa_core::plan::Job;
use hansa_core::survey::{Preference, QUESTIONS, Survey};

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
            Survey::begin(now, &view, &self.loads(), job, own, QUESTIONS)
        };
        let Some(mut survey) = begun else { return Vec::new() };
        let questions: Vec<_> = survey.questions().collect();
        metrics::counter!("hansa_quotes_asked_total").increment(questions.len() as u64);
        let asking = questions
            .iter()
            .map(|(peer, rtt)| async { (*peer, self.ask_quote(job, *peer, *rtt).await) });
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
            self.decline_later(job, peer);
        }
        if chosen != Some(self.me)
            && let Some(hosted) = self.hosted(job.bundle)
        {
            hosted.release(job.id);
        }
        order
    }

    /// The job does not wait for those that it did not choose.
    fn decline_later(self: &Arc<Self>, job: &Job, peer: PeerId) {
        let (node, job) = (Arc::clone(self), job.clone());
        self.tasks.spawn(async move { node.decline(&job, peer).await });
    }
}
