//! Models that do not fit this node and are here all the same: it keeps them for others, and cuts
//! them into stages where none of those that may have them has room for the whole.
//!
//! Who takes up what is kept, each peer decides for itself: see [`super::demand`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hansa_core::gate;
use hansa_core::holding::{Holding, Kept, Part, Supply};
use hansa_core::id::Digest;
use hansa_core::limits::{HOLDINGS_MAX, STAGES_MAX};
use hansa_core::view::Liveness;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::{Cut, Stage};

use super::listing::Standing;
use super::{KeepError, Model, Shelf, aside, key};
use crate::config::Hold;
use crate::limits::KEPT_LOOK_EVERY;
use crate::models;
use crate::node::Node;

/// A stage's files are a little more than its weights.
const FILES_OVER_WEIGHTS_PERCENT: u64 = 5;

impl Shelf {
    /// A model of the config that does not fit is kept once the node runs.
    pub(crate) fn postpone(&self, model: Model, path: PathBuf) {
        self.postponed.lock().expect("no holder panics").push((model, path));
    }

    /// A bundle is kept no more.
    pub(super) fn forget(&self, bundle: Digest) {
        self.lock_kept().retain(|kept| kept.bundle != bundle);
    }

    /// Whether a bundle is kept for others, served here or not.
    pub(super) fn keeps(&self, bundle: Digest) -> bool {
        self.lock_kept().iter().any(|kept| kept.bundle == bundle)
    }

    fn lock_kept(&self) -> std::sync::MutexGuard<'_, Vec<Holding>> {
        self.kept.lock().expect("no holder panics")
    }
}

impl Node {
    /// What is here of files, those of what is served first, and room for more: as the advert tells it.
    pub(crate) fn supply(&self) -> Supply {
        let engines = self.engines();
        let kept = self.shelf.lock_kept().clone();
        let kept = kept.into_iter().filter(|kept| !engines.contains_key(&kept.bundle));
        let served = engines.iter().map(|(bundle, hosted)| {
            let mib = mib(hosted.bundle.manifest.bytes());
            Holding { bundle: *bundle, mib, kept: None }
        });
        let holdings = kept.chain(served).take(HOLDINGS_MAX).collect();
        let takes = self.config.runtime.hold == Hold::Demanded;
        Supply { room_mib: if takes { self.room_mib() } else { 0 }, holdings }
    }

    /// Memory for models, in bytes.
    pub(super) fn memory_for_models(&self) -> u64 {
        let held: u64 = self.engines().values().map(|hosted| hosted.bundle.manifest.bytes()).sum();
        (u64::from(self.room_mib()) << 20) + held
    }

    /// What is left for models of what the config gives them; where it gives no figure, half of
    /// what is free.
    fn room_mib(&self) -> u32 {
        let Some(limit) = self.memory_limit_mib() else {
            let devices = self.devices();
            let free =
                devices.first().map(models::coarse).map_or(0, |device| device.memory_free_mib);
            return free / 2;
        };
        let held: u64 = self.engines().values().map(|hosted| hosted.bundle.manifest.bytes()).sum();
        limit.saturating_sub(mib(held))
    }

    /// Keeps a bundle of the store for others.
    pub(super) fn keep(&self, model: Model, bundle: Bundle) -> Result<(), KeepError> {
        self.shelf.listing().add(model.clone(), Standing::Kept).map_err(KeepError::Listing)?;
        self.tell_of(model, &bundle);
        Ok(())
    }

    fn tell_of(&self, model: Model, bundle: &Bundle) {
        let part = Stage::of(bundle).ok().flatten().and_then(|stage| {
            let node = |number: usize| u32::try_from(number).ok();
            let (from, to, of) = (node(stage.from)?, node(stage.to)?, node(stage.of)?);
            Some(Part { whole: stage.whole.parse().ok()?, from, to, of })
        });
        let Model { name, version, bundle: digest } = model;
        let kept = Some(Kept { name, version, part });
        let holding = Holding { bundle: digest, mib: mib(bundle.manifest.bytes()), kept };
        let mut all = self.shelf.lock_kept();
        if all.iter().all(|known| known.bundle != digest) {
            all.push(holding);
            drop(all);
            self.set_engines((*self.engines()).clone()); // The mesh is told.
        }
    }

    /// Sees to what is kept for as long as the node runs: what was kept before a restart, what of
    /// the config does not fit, and models that nobody has room for.
    pub(super) async fn see_to_kept(self: Arc<Self>) {
        let before: Vec<Model> = self.shelf.listing().kept().cloned().collect();
        for model in before {
            let (store, bundle) = (self.shelf.store().clone(), key(model.bundle));
            if let Ok(Some(bundle)) = aside(move || store.get(bundle)).await {
                self.tell_of(model, &bundle);
            }
        }
        let postponed =
            std::mem::take(&mut *self.shelf.postponed.lock().expect("no holder panics"));
        for (model, path) in postponed {
            let (store, name) = (self.shelf.store().clone(), model.name.clone());
            let kept = match aside(move || store.add(&path)).await {
                Ok(bundle) => self.keep(model, bundle),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = kept {
                tracing::error!(model = name, %error, "neither served nor kept");
            }
        }
        let mut tried = BTreeSet::new();
        loop {
            tokio::time::sleep(KEPT_LOOK_EVERY).await;
            for (model, mib) in self.too_large_for_all() {
                let rooms = self.rooms();
                if tried.insert((model.bundle, rooms.clone())) {
                    self.cut_for(&model, mib, &rooms).await;
                }
            }
        }
    }

    /// Whole models that are kept here, that no peer has room for, and that are in no stages yet.
    fn too_large_for_all(&self) -> Vec<(Model, u32)> {
        let kept = self.shelf.lock_kept().clone();
        let largest = self.rooms().first().copied().unwrap_or(0);
        let view = self.view();
        let is_cut = |whole: Digest| {
            let of = |part: Option<Part>| part.is_some_and(|part| part.whole == whole);
            view.stages(whole).next().is_some()
                || kept.iter().any(|holding| of(holding.kept.as_ref().and_then(|kept| kept.part)))
        };
        let wholes = kept.iter().filter_map(|holding| {
            let Kept { name, version, part } = holding.kept.clone()?;
            let model = Model { name, version, bundle: holding.bundle };
            (part.is_none()).then_some((model, holding.mib))
        });
        wholes.filter(|(model, mib)| *mib > largest && !is_cut(model.bundle)).collect()
    }

    /// Room in MiB of each peer that may fetch from here, this one among them, the largest first.
    fn rooms(&self) -> Vec<u32> {
        let (view, utc) = (self.view(), self.clock.now().utc);
        let may = |entry: &&hansa_core::view::Entry| {
            let is_me = entry.record.advert.peer == self.me;
            entry.liveness == Liveness::Alive
                && (is_me || gate::serve_entry(&self.serve, &entry.record.charter, utc).is_ok())
        };
        let mut rooms: Vec<u32> =
            view.entries().iter().filter(may).map(|entry| entry.record.supply.room_mib).collect();
        rooms.retain(|room| *room > 0);
        rooms.sort_unstable_by(|a, b| b.cmp(a));
        rooms
    }

    /// Cuts a model for the fewest peers that have room for it together, the roomiest first.
    async fn cut_for(self: &Arc<Self>, model: &Model, mib: u32, rooms: &[u32]) {
        let budget =
            |room: &u32| (u64::from(*room) << 20) * 100 / (100 + FILES_OVER_WEIGHTS_PERCENT);
        let mut last = "no peers that may have it have room for it together".to_owned();
        for count in 2..=rooms.len().min(STAGES_MAX) {
            let fit: Vec<u64> = rooms[..count].iter().map(budget).collect();
            if fit.iter().sum::<u64>() < u64::from(mib) << 20 {
                continue;
            }
            match self.cut_so(model, fit).await {
                Ok(cut) => {
                    let stages = cut.stages.len();
                    tracing::info!(model = model.name, stages, "cut, since it fits no peer");
                    metrics::counter!("hansa_models_cut_total").increment(1);
                    return;
                }
                Err(reason) => last = reason,
            }
        }
        tracing::warn!(model = model.name, mib, ?rooms, reason = last, "fits nowhere");
    }

    async fn cut_so(self: &Arc<Self>, model: &Model, fit: Vec<u64>) -> Result<Cut, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (store, bundle) = (self.shelf.store().clone(), key(model.bundle));
        let whole = aside(move || store.get(bundle)).await.map_err(|error| text(&error))?;
        let bundle = Arc::new(whole.ok_or("its files are gone")?);
        let out = self.config.node.data_dir.join("cutting");
        let _ = std::fs::remove_dir_all(&out); // What a crash left.
        let cut = self.cut_into(model, bundle, fit, &out).await;
        let _ = std::fs::remove_dir_all(&out);
        cut
    }

    async fn cut_into(
        self: &Arc<Self>,
        model: &Model,
        bundle: Arc<Bundle>,
        fit: Vec<u64>,
        out: &Path,
    ) -> Result<Cut, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let cut = self.cut(bundle, fit, out.to_owned()).await?;
        for number in 0..cut.stages.len() {
            let (store, dir) = (self.shelf.store().clone(), out.join(format!("stage-{number}")));
            let stage = aside(move || store.add(&dir)).await.map_err(|error| text(&error))?;
            let Model { name, version, .. } = model.clone();
            let part = Model { name, version, bundle: Digest(stage.digest.0) };
            self.keep(part, stage).map_err(|error| text(&error))?;
        }
        Ok(cut)
    }
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
}
