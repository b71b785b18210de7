//! This node's part in placement: it tells the core what its jobs asked for, missed and took, and
//! does what `hansa_core::placement` decides. Only a node whose operator lets it (`[runtime] hold =
//! "demanded"`) takes up models; all tell of demand.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use hansa_core::id::Digest;
use hansa_core::placement::{Move, Placement, Shelf, State, Stock};
use hansa_core::plan::{Job, Refusal};
use hansa_core::policy::Policy;
use hansa_core::time::Mono;
use hansa_core::view::Liveness;

use super::Model;
use super::listing::Standing;
use crate::actors::peer::PeerMessage;
use crate::config::Hold;
use crate::jobs::Answer;
use crate::limits::PLACED_EVERY;
use crate::node::Node;

/// A job that nobody has measured takes so long, for the purpose of placement.
const SERVICE_ASSUMED_US: u32 = 100_000;
/// An answer is late when it waited so many times as long as it ran…
const LATE_TIMES: u32 = 2;
/// …and this.
const LATE_MIN: Duration = Duration::from_millis(100);

impl Node {
    /// What came of a job of this node's apps.
    pub(crate) fn count_demand(&self, job: &Job, outcome: &Result<Answer, Refusal>) {
        let now = self.clock.now().mono;
        match outcome {
            Ok(answer) => {
                let mut placement = self.placement();
                placement.asked(now, job);
                placement.answered(now, job);
                if answer.queue > LATE_MIN.max(answer.service * LATE_TIMES) {
                    placement.missed(now, job);
                }
            }
            Err(refusal) => self.count_missed(job, refusal),
        }
    }

    /// A job of this node's apps was refused: whether for want of a peer that serves its model.
    pub(crate) fn count_missed(&self, job: &Job, refusal: &Refusal) {
        let is_for_want = matches!(
            refusal,
            Refusal::PolicyUnsatisfiable { .. }
                | Refusal::Unavailable { .. }
                | Refusal::UnknownModel { .. }
                | Refusal::Gap { .. }
                | Refusal::Busy { .. }
        );
        if !is_for_want {
            return;
        }
        let now = self.clock.now().mono;
        let parts = self.parts_wanting(job.bundle);
        let mut placement = self.placement();
        for bundle in [job.bundle].into_iter().chain(parts) {
            let job = Job { bundle, ..job.clone() };
            placement.asked(now, &job);
            placement.missed(now, &job);
        }
    }

    /// Stages of a model that somebody keeps and nobody serves.
    fn parts_wanting(&self, whole: Digest) -> Vec<Digest> {
        let view = self.view();
        let mut parts = Vec::new();
        let live = view.entries().iter().filter(|entry| entry.liveness != Liveness::Down);
        for holding in live.flat_map(|entry| &entry.record.supply.holdings) {
            let Some(part) = holding.kept.as_ref().and_then(|kept| kept.part) else { continue };
            let mut served = view.stages(whole);
            let is_served = served.any(|(_, stage)| (stage.from, stage.to) == (part.from, part.to));
            if part.whole == whole && !is_served && !parts.contains(&holding.bundle) {
                parts.push(holding.bundle);
            }
        }
        parts
    }

    /// This node ran a job on `bundle`, its own or a stage of it.
    pub(crate) fn count_run(&self, job: &Job, bundle: Digest, took: Duration) {
        if self.config.runtime.hold == Hold::Demanded {
            let job = Job { bundle, ..job.clone() };
            self.placement().ran(self.clock.now().mono, &job, took);
        }
    }

    /// Looks at what is wanted, once a second, for as long as the node runs.
    pub(super) async fn place(self: Arc<Self>) {
        let mut since = BTreeMap::new();
        loop {
            tokio::time::sleep(PLACED_EVERY).await;
            let (now, view) = (self.clock.now(), self.view());
            let moves = if self.config.runtime.hold == Hold::Demanded {
                let stock = self.stock(now.mono, &mut since);
                let bytes_max = self.memory_for_models();
                let shelf = Shelf { bytes_max, slots: 1, stock: &stock };
                self.placement().decide(now, &view, &shelf)
            } else {
                Vec::new()
            };
            for one in moves {
                match one {
                    Move::Hold { bundle } => self.take_up(bundle),
                    Move::Drop { bundle } => self.let_go(bundle).await,
                }
            }
            if self.placement().notice(now.mono).is_some() {
                self.tell_peer(PeerMessage::Refresh);
            }
        }
    }

    /// All bundles that are known with their sizes, and what this node has of them.
    fn stock(&self, now: Mono, since: &mut BTreeMap<Digest, Mono>) -> Vec<Stock> {
        let (view, engines) = (self.view(), self.engines());
        let mut known = BTreeMap::<Digest, (u64, Option<u32>)>::new();
        for entry in view.entries().iter().filter(|entry| entry.liveness != Liveness::Down) {
            let record = &entry.record;
            for holding in &record.supply.holdings {
                let (bytes, service) = known.entry(holding.bundle).or_default();
                *bytes = (*bytes).max(u64::from(holding.mib) << 20);
                let models = record.advert.models.iter().map(|m| (m.bundle, m.service_us));
                let stages = record.stages.iter().map(|s| (s.bundle, s.service_us));
                let mut measured = models.chain(stages).filter(|(_, service)| *service > 0);
                let found = measured.find(|(bundle, _)| *bundle == holding.bundle);
                *service = [*service, found.map(|(_, us)| us)].into_iter().flatten().min();
            }
        }
        since.retain(|bundle, _| engines.contains_key(bundle));
        let coming = self.shelf.pulls();
        let state = |bundle: &Digest, since: &mut BTreeMap<Digest, Mono>| {
            if engines.contains_key(bundle) {
                let since = *since.entry(*bundle).or_insert(now);
                let is_demanded = self.shelf.listing().is_demanded(*bundle);
                if is_demanded { State::Held { since } } else { State::Pinned }
            } else if coming.iter().any(|(m, at)| m.bundle == *bundle && at.state != "failed") {
                State::Loading
            } else {
                State::Absent
            }
        };
        let stock = known.into_iter().map(|(bundle, (bytes, service))| Stock {
            bundle,
            bytes,
            law: Policy::default(),
            per_minute: 60_000_000 / service.unwrap_or(SERVICE_ASSUMED_US).max(1),
            state: state(&bundle, since),
        });
        stock.collect()
    }

    /// Fetches a bundle that is wanted, and serves it.
    fn take_up(self: &Arc<Self>, bundle: Digest) {
        let taken = self.meant(&bundle.to_string(), None);
        let taken = taken.map_err(super::PullError::Refused).map_err(super::KeepError::Pull);
        let taken = taken.and_then(|model: Model| self.pull_as(model, Standing::Demanded));
        match taken {
            Ok(()) => {
                metrics::counter!("hansa_models_demanded_total").increment(1);
                tracing::info!(%bundle, "taken up, since jobs want it");
            }
            Err(error) => {
                tracing::info!(%bundle, %error, "wanted, and not to be had");
                self.placement().failed(self.clock.now().mono, bundle);
            }
        }
    }

    /// Gives up a bundle that was taken up and is not needed here any more.
    async fn let_go(&self, bundle: Digest) {
        tracing::info!(%bundle, "let go, for one that is wanted more");
        let let_go = if self.shelf.keeps(bundle) {
            self.unhost(bundle).await;
            self.shelf.listing().keep_only(bundle).map_err(super::KeepError::Listing)
        } else {
            self.remove_model(&bundle.to_string(), None).await.map(drop)
        };
        if let Err(error) = let_go {
            tracing::warn!(%bundle, %error, "not let go as it should be");
        }
    }

    pub(crate) fn placement(&self) -> MutexGuard<'_, Placement> {
        self.placement.lock().expect("no holder panics")
    }
}
