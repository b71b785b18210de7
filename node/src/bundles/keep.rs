//! From a wish to a served model, and back: pulls that are begun, retried and given up, models that
//! are added and removed. What is served is listed first, so that a crash forgets nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::id::Digest;
use hansa_core::plan::{Refusal, resolve};
use hansa_core::policy::Policy;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::store::StoreError;

use super::listing::Standing;
use super::pull::{Puller, pull};
use super::{KeepError, Model, Progress, Pull, PullError, aside, key};
use crate::config::{Hold, ModelSource, Serving};
use crate::limits::*;
use crate::node::Node;

impl Node {
    /// Which model `text` means: `NAME`, `NAME@sha256:…` or a digest alone, which has the name that
    /// a holder gives it. Only what permitted peers hold counts.
    pub fn meant(&self, text: &str, version: Option<&str>) -> Result<Model, Refusal> {
        let (now, view) = (self.clock.now(), self.view());
        let Ok(bundle) = text.parse::<Digest>() else {
            let policy = Policy::default().narrow(&self.send);
            let found = resolve(now, &view, text, version, &policy)?;
            return Ok(Model { name: found.name, version: found.version, bundle: found.bundle });
        };
        let offered = view.keepers(bundle).find_map(|entry| {
            let models = entry.record.advert.models.iter();
            let models = models.map(|model| (model.bundle, &model.name, &model.version));
            // A stage goes by the name of its whole.
            let stages = entry.record.stages.iter();
            let stages = stages.map(|stage| (stage.bundle, &stage.name, &stage.version));
            let kept = entry.record.supply.holdings.iter();
            let kept = kept.filter_map(|holding| {
                let kept = holding.kept.as_ref()?;
                Some((holding.bundle, &kept.name, &kept.version))
            });
            models.chain(stages).chain(kept).find(|(offered, _, _)| *offered == bundle)
        });
        let unknown = || Refusal::UnknownModel { model: text.to_owned(), hint: String::new() };
        let (_, name, version) = offered.ok_or_else(unknown)?;
        Ok(Model { name: name.clone(), version: version.clone(), bundle })
    }

    /// Serves what the config names by digest and what was pulled or added before, as soon as it is
    /// here. Called once, when the node runs.
    pub fn keep_models(self: &Arc<Self>) {
        for (model, serving) in self.shelf.wanted(&self.config) {
            if self.hosted(model.bundle).is_none() {
                let begun = self.begin_pull(model, serving, true);
                begun.expect("a patient pull is never refused");
            }
        }
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let mut draining = node.draining.subscribe();
            tokio::select! {
                () = Arc::clone(&node).see_to_kept() => {}
                () = Arc::clone(&node).place() => {}
                () = Arc::clone(&node).poll_repository() => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        });
    }

    /// Begins to pull a model, which is then served. One that is served or on its way already is
    /// no error.
    pub fn pull_model(self: &Arc<Self>, model: Model) -> Result<(), KeepError> {
        self.pull_as(model, Standing::Wanted)
    }

    pub(super) fn pull_as(
        self: &Arc<Self>,
        model: Model,
        standing: Standing,
    ) -> Result<(), KeepError> {
        if self.serves(&model) {
            return Ok(());
        }
        if standing != Standing::Wanted && self.shelf.is_unloaded(model.bundle) {
            return Err(KeepError::Unloaded(model.name));
        }
        let view = self.view();
        if view.holders(model.bundle).next().is_none()
            && let Some((_, stage)) = view.stages(model.bundle).next()
        {
            let hint = format!(" whole; pull one of its stages by digest: {}, …", stage.bundle);
            let refusal = Refusal::UnknownModel { model: model.name, hint };
            return Err(PullError::Refused(refusal).into());
        }
        // Said at once, where it can be: that nobody may be asked.
        if self.shelf.store().list().iter().all(|stored| stored.digest != key(model.bundle)) {
            Puller::new(self, model.bundle).holders().map_err(PullError::Refused)?;
        }
        self.list(&model, standing)?;
        let begun = self.begin_pull(model.clone(), Serving::default(), false);
        if begun.is_err() {
            self.unlist(&model);
        }
        begun
    }

    /// Copies the model at `path` of this machine into the store and serves it.
    pub async fn add_model(
        self: &Arc<Self>,
        path: PathBuf,
        name: String,
        version: String,
    ) -> Result<Model, KeepError> {
        let store = self.shelf.store().clone();
        let bundle = aside(move || store.add(&path)).await?;
        let model = Model { name, version, bundle: Digest(bundle.digest.0) };
        if self.serves(&model) {
            return Ok(model);
        }
        self.list(&model, Standing::Wanted)?;
        if self.config.runtime.hold == Hold::Demanded
            && self.has_room(bundle.manifest.bytes()).is_err()
        {
            self.unlist(&model);
            self.keep(model.clone(), bundle)?;
            return Ok(model);
        }
        let hosted = self.host(model.clone(), Serving::default(), Arc::new(bundle)).await;
        hosted.map_err(|reason| {
            self.unlist(&model);
            KeepError::Load(reason)
        })?;
        Ok(model)
    }

    /// Stops serving every model of that name (and version), or the one of that digest, and deletes
    /// its files. What the config names is not touched.
    pub async fn remove_model(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Vec<Model>, KeepError> {
        let is_meant = |model: &Model| {
            let named =
                model.name == name && version.is_none_or(|version| model.version == version);
            named || model.bundle.to_string() == name
        };
        let mut meant = self.models_here();
        meant.retain(is_meant);
        let configured = |model: &&Model| {
            let models = &self.config.models;
            models.iter().any(|own| (&own.name, &own.version) == (&model.name, &model.version))
        };
        if let Some(model) = meant.iter().find(configured) {
            let file = self.config.file().to_owned();
            return Err(KeepError::Configured { name: model.name.clone(), file });
        }
        if meant.is_empty() {
            return Err(KeepError::Unknown(name.to_owned()));
        }
        for model in &meant {
            self.shelf.listing().remove(|listed| listed == model).map_err(KeepError::Listing)?;
            let pull = self.shelf.lock_pulls().remove(&model.bundle);
            if let Some(task) = pull.and_then(|pull| pull.task) {
                task.abort();
                let _ = task.await;
            }
            self.unhost(model.bundle).await;
            self.shelf.no_longer_unloaded(model.bundle);
            self.shelf.forget(model.bundle);
            self.delete(model.bundle).await?;
        }
        Ok(meant)
    }

    /// Whether all is served that the config names, but for what the operator unloaded, and what is
    /// kept for others since it does not fit.
    pub fn is_complete(&self) -> bool {
        let (engines, unloaded) = (self.engines(), self.shelf.unloaded());
        let kept: Vec<Model> = self.shelf.listing().kept().cloned().collect();
        let served = engines.values().map(|hosted| (&hosted.name, &hosted.version));
        let left_out = unloaded.iter().chain(&kept).map(|model| (&model.name, &model.version));
        let known: Vec<_> = served.chain(left_out).collect();
        let mut configured = self.config.models.iter();
        configured.all(|model| known.contains(&(&model.name, &model.version)))
            && self.repository.is_complete()
    }

    /// Whether the bundle is served under this very name.
    fn serves(&self, model: &Model) -> bool {
        let hosted = self.hosted(model.bundle);
        hosted.is_some_and(|own| (&own.name, &own.version) == (&model.name, &model.version))
    }

    /// A chunk of a pull that ended may be on its way to the disk still.
    async fn delete(&self, bundle: Digest) -> Result<(), StoreError> {
        let mut attempts = 0;
        loop {
            let store = self.shelf.store().clone();
            match aside(move || store.remove(key(bundle))).await {
                Err(StoreError::Taken(_)) if attempts < 50 => attempts += 1,
                other => return other.map(drop),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All models that this node has anything of; those of the store that have no name are called
    /// by their digest.
    fn models_here(&self) -> Vec<Model> {
        let engines = self.engines();
        let hosted = engines.iter().map(|(bundle, hosted)| Model {
            name: hosted.name.clone(),
            version: hosted.version.clone(),
            bundle: *bundle,
        });
        let mut models: Vec<Model> = hosted.collect();
        models.extend(self.shelf.wanted(&self.config).into_iter().map(|(model, _)| model));
        models.extend(self.shelf.listed());
        models.extend(self.shelf.unloaded());
        models.extend(self.shelf.pulls().into_iter().map(|(model, _)| model));
        for stored in self.shelf.store().list() {
            let bundle = Digest(stored.digest.0);
            if models.iter().all(|model| model.bundle != bundle) {
                models.push(Model { name: bundle.to_string(), version: String::new(), bundle });
            }
        }
        models
            .sort_by(|a, b| (&a.name, &a.version, a.bundle).cmp(&(&b.name, &b.version, b.bundle)));
        models.dedup();
        models
    }

    /// Lists a model as one to serve, if neither its name nor its bundle is another's here.
    pub(super) fn list(&self, model: &Model, standing: Standing) -> Result<(), KeepError> {
        let mut listing = self.shelf.listing();
        let (name, version) = (model.name.clone(), model.version.clone());
        let is_own = |config: &&crate::config::ModelConfig| {
            config.name == name
                && config.version == version
                && config.source != ModelSource::Bundle(model.bundle)
        };
        // A stage of what the config names and this node is too small for has the whole's name.
        let is_kept = self.shelf.keeps(model.bundle);
        if !is_kept && self.config.models.iter().any(|config| is_own(&config)) {
            return Err(KeepError::NameTaken { name, version });
        }
        let engines = self.engines();
        let hosted = engines.iter().map(|(bundle, hosted)| (&hosted.name, &hosted.version, bundle));
        let listed = listing.served().map(|model| (&model.name, &model.version, &model.bundle));
        for (name, version, bundle) in hosted.chain(listed) {
            let is_named = (name, version) == (&model.name, &model.version);
            let (name, version) = (name.clone(), version.clone());
            match (is_named, *bundle == model.bundle) {
                (true, false) => return Err(KeepError::NameTaken { name, version }),
                (false, true) => return Err(KeepError::BundleTaken { name, version }),
                _ => {}
            }
        }
        if !listing.has_room(self.config.models.len()) {
            return Err(KeepError::TooMany);
        }
        listing.add(model.clone(), standing).map_err(KeepError::Listing)
    }

    fn unlist(&self, model: &Model) {
        if let Err(error) = self.shelf.listing().remove(|listed| listed == model) {
            tracing::warn!(model = model.name, %error, "models.json cannot be written");
        }
    }

    /// Begins a pull in a task of its own. A patient one is tried until it comes.
    fn begin_pull(
        self: &Arc<Self>,
        model: Model,
        serving: Serving,
        is_patient: bool,
    ) -> Result<(), KeepError> {
        let mut pulls = self.shelf.lock_pulls();
        let under_way = |pull: &Pull| !pull.progress.has_failed();
        if pulls.get(&model.bundle).is_some_and(under_way) {
            return Ok(());
        }
        if !is_patient && pulls.values().filter(|pull| under_way(pull)).count() >= PULLS_MAX {
            return Err(KeepError::Busy);
        }
        while pulls.len() >= PULLS_SHOWN_MAX {
            let failed = pulls.iter().find(|(_, pull)| !under_way(pull)).map(|(bundle, _)| *bundle);
            let Some(failed) = failed else { break };
            pulls.remove(&failed);
        }
        let progress = Arc::<Progress>::default();
        let (node, moving, bundle) = (Arc::clone(self), model.clone(), model.bundle);
        let reporting = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            let mut draining = node.draining.subscribe();
            tokio::select! {
                () = node.see_through(moving, serving, is_patient, &reporting) => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        });
        pulls.insert(bundle, Pull { model, progress, task: Some(task) });
        Ok(())
    }

    async fn see_through(
        self: &Arc<Self>,
        model: Model,
        serving: Serving,
        is_patient: bool,
        progress: &Progress,
    ) {
        let mut pause = PULL_AGAIN_FIRST;
        loop {
            let (name, bundle) = (&model.name, model.bundle);
            match self.pull_and_host(&model, serving, progress).await {
                Ok(()) => {
                    self.shelf.lock_pulls().remove(&bundle);
                    return;
                }
                Err(error) if is_patient && error.may_pass() => {
                    tracing::info!(model = name, %bundle, %error, ?pause, "pulled again later");
                    progress.fail(error.to_string(), true);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PULL_AGAIN_MAX);
                }
                Err(error) => {
                    tracing::warn!(model = name, %bundle, %error, "pull failed");
                    progress.fail(error.to_string(), false);
                    self.placement().failed(self.clock.now().mono, bundle);
                    // What was served before stays a wish: a missing device may come back.
                    if !is_patient {
                        self.unlist(&model);
                    }
                    return;
                }
            }
        }
    }

    async fn pull_and_host(
        self: &Arc<Self>,
        model: &Model,
        serving: Serving,
        progress: &Progress,
    ) -> Result<(), KeepError> {
        let bundle = match self.stored(model.bundle).await? {
            Some(bundle) => bundle,
            None => pull(self, model.bundle, progress).await?,
        };
        let hosted = self.host(model.clone(), serving, Arc::new(bundle)).await;
        hosted.map_err(KeepError::Load)?;
        self.shelf.no_longer_unloaded(model.bundle);
        Ok(())
    }

    /// The store's copy, if it has a good one.
    async fn stored(&self, bundle: Digest) -> Result<Option<Bundle>, StoreError> {
        let store = self.shelf.store().clone();
        aside(move || match store.get(key(bundle)) {
            Err(StoreError::Damaged { .. }) => store.remove(key(bundle)).map(|_| None),
            other => other,
        })
        .await
    }
}
