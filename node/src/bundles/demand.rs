//! Models that jobs ask for and no permitted peer can run: a node whose operator lets it
//! (`[runtime] hold = "demanded"`) fetches them for the jobs that it may run itself, and says when
//! to come back.

use std::sync::Arc;

use hansa_core::id::Digest;
use hansa_core::plan::{Job, Refusal, may_run_here};
use hansa_core::policy::Policy;

use super::listing::Standing;
use super::{Model, Moment};
use crate::config::Hold;
use crate::node::Node;

/// When to ask again while nobody knows how long it takes.
const READY_GUESSED_MS: u64 = 5_000;
/// What loading takes once all is here, by a rule of thumb.
const LOAD_GUESSED_MS: u64 = 1_000;

impl Node {
    /// What a job under `policy` is told that was refused with `refusal`, for want of a peer with the
    /// model: when the model will be here, if it is on its way and the job may run here.
    pub fn is_it_coming(
        &self,
        name: &str,
        version: Option<&str>,
        policy: &Policy,
        refusal: Refusal,
    ) -> Refusal {
        let is_meant = |model: &Model| {
            let is_version = version.is_none_or(|version| model.version == version);
            is_version
                && (model.name == name
                    || name.parse::<Digest>() == Ok(model.bundle)
                    || format!("{}@{}", model.name, model.bundle) == name)
        };
        let pulls = self.shelf.pulls();
        let coming =
            pulls.iter().find(|(model, moment)| is_meant(model) && moment.state != "failed");
        match coming {
            Some((model, moment)) if self.may_run(policy, model.bundle) => {
                Refusal::Loading { ready_in_ms: ready_in_ms(moment), percent: percent(moment) }
            }
            _ => refusal,
        }
    }

    /// A job that was refused before it was one: it counts as demand.
    pub fn count_unheld(
        &self,
        name: &str,
        version: Option<&str>,
        policy: &Policy,
        refusal: &Refusal,
    ) {
        if let Ok(Model { bundle, .. }) = self.meant(name, version) {
            let deadline = self.clock.now().mono;
            let job = Job::new(self.draw_job(), bundle, policy.clone(), &self.send, deadline);
            self.count_missed(&job, refusal);
        }
    }

    /// The same, and begins to fetch a model that is not on its way yet, where it may.
    pub fn fetch_for(
        self: &Arc<Self>,
        name: &str,
        version: Option<&str>,
        policy: &Policy,
        refusal: Refusal,
    ) -> Refusal {
        let refusal = self.is_it_coming(name, version, policy, refusal);
        let is_wanting =
            matches!(refusal, Refusal::PolicyUnsatisfiable { .. } | Refusal::Unavailable { .. });
        if !is_wanting || self.config.runtime.hold != Hold::Demanded {
            return refusal;
        }
        // What this node may fetch, whoever may run the job.
        let Ok(model) = self.meant(name, version) else { return refusal };
        let has_failed = self.shelf.pulls().iter().any(|(pulled, _)| pulled.bundle == model.bundle);
        if has_failed || self.shelf.is_unloaded(model.bundle) || !self.may_run(policy, model.bundle)
        {
            return refusal;
        }
        match self.pull_as(model, Standing::Demanded) {
            Ok(()) => {
                metrics::counter!("hansa_models_demanded_total").increment(1);
                self.is_it_coming(name, version, policy, refusal)
            }
            Err(error) => {
                tracing::info!(model = name, %error, "not fetched for the jobs that want it");
                refusal
            }
        }
    }

    /// Whether a job of this node's apps may run here, had it the model.
    fn may_run(&self, policy: &Policy, bundle: Digest) -> bool {
        may_run_here(self.clock.now(), &self.view(), policy, bundle)
    }
}

/// How much of a model that is on its way is here; all of it, while it is loaded.
fn percent(moment: &Moment) -> u8 {
    let done = moment.bytes_done.min(moment.bytes).saturating_mul(100);
    u8::try_from(done.checked_div(moment.bytes).unwrap_or(0)).expect("at most 100")
}

/// When a model that is on its way is expected to be served.
fn ready_in_ms(moment: &Moment) -> u32 {
    let left = moment.bytes.saturating_sub(moment.bytes_done);
    let ms = match moment.bytes_per_second {
        0 => READY_GUESSED_MS,
        rate => left.saturating_mul(1_000) / rate + LOAD_GUESSED_MS,
    };
    u32::try_from(ms).unwrap_or(u32::MAX)
}
