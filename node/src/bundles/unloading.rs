//! Models that the operator unloaded: served no more until they are loaded again, their files where
//! they were. A restart forgets that, and serves what it served before.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::id::Digest;
use hansa_runtime::bundle::Bundle;

use super::{KeepError, Model, Shelf};
use crate::config::Serving;
use crate::node::Node;
use crate::repository::Settings;

/// How often a load looks whether the model is here.
const LOOK: Duration = Duration::from_millis(20);

/// A model that is not served now.
#[derive(Clone)]
pub(super) struct Unloaded {
    /// Which.
    pub(super) model: Model,
    /// How it was served.
    serving: Serving,
    /// Its files.
    bundle: Arc<Bundle>,
}

impl Shelf {
    /// Models that the operator unloaded.
    pub fn unloaded(&self) -> Vec<Model> {
        let unloaded = self.unloaded.lock().expect("no holder panics");
        unloaded.iter().map(|unloaded| unloaded.model.clone()).collect()
    }

    /// Whether the operator unloaded this one.
    pub fn is_unloaded(&self, bundle: Digest) -> bool {
        self.unloaded().iter().any(|model| model.bundle == bundle)
    }

    /// What was unloaded under that name (or digest).
    fn find_unloaded(&self, name: &str, version: Option<&str>) -> Vec<Unloaded> {
        let unloaded = self.unloaded.lock().expect("no holder panics");
        let meant = |own: &&Unloaded| is_meant(&own.model, name, version);
        unloaded.iter().filter(meant).cloned().collect()
    }

    /// It is served again, or gone.
    pub(super) fn no_longer_unloaded(&self, bundle: Digest) {
        let mut unloaded = self.unloaded.lock().expect("no holder panics");
        unloaded.retain(|own| own.model.bundle != bundle);
    }
}

impl Node {
    /// Serves every version of that name (or the one) no more. Jobs that run are answered; others go
    /// to other peers.
    ///
    /// # Errors
    /// Nothing of that name is served here.
    pub async fn unload_model(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Vec<Model>, KeepError> {
        if let Some(models) = self.unload_from_repository(name).await? {
            return Ok(models);
        }
        let mut done = Vec::new();
        for (bundle, hosted) in self.engines().iter() {
            let model = Model {
                name: hosted.name.clone(),
                version: hosted.version.clone(),
                bundle: *bundle,
            };
            if !is_meant(&model, name, version) {
                continue;
            }
            let own = Unloaded {
                model: model.clone(),
                serving: hosted.serving,
                bundle: hosted.bundle.clone(),
            };
            // First, so that demand does not bring it back at once.
            self.shelf.unloaded.lock().expect("no holder panics").push(own);
            self.unhost(*bundle).await;
            done.push(model);
        }
        // Twice is no error.
        done.extend(self.shelf.find_unloaded(name, version).into_iter().map(|own| own.model));
        done.sort_by_key(|model| model.bundle);
        done.dedup();
        if done.is_empty() { Err(KeepError::Unknown(name.to_owned())) } else { Ok(done) }
    }

    /// Serves the models of that name and waits until it does: what the repository has, those that were
    /// unloaded, or the one that peers have, which is pulled. `settings` say how, instead of what was
    /// said before; one that is served is then loaded anew.
    ///
    /// # Errors
    /// Nobody has it, or it cannot be served here.
    pub async fn load_model(
        self: &Arc<Self>,
        name: &str,
        version: Option<&str>,
        settings: Option<Settings>,
    ) -> Result<Vec<Model>, KeepError> {
        if let Some(models) = self.load_from_repository(name, settings.as_ref()).await? {
            return Ok(models);
        }
        let told = settings.map(|settings| settings.serving);
        let unloaded = self.shelf.find_unloaded(name, version);
        if unloaded.is_empty() {
            let model = self.fetch_and_load(name, version).await?;
            if let (Some(serving), Some(own)) = (told, self.hosted(model.bundle)) {
                let renewed = self.replace(model.clone(), serving, own.bundle, vec![model.bundle]);
                renewed.await.map_err(KeepError::Load)?;
            }
            return Ok(vec![model]);
        }
        let mut done = Vec::new();
        for Unloaded { model, serving, bundle } in unloaded {
            let serving = told.unwrap_or(serving);
            self.host(model.clone(), serving, bundle).await.map_err(KeepError::Load)?;
            self.shelf.no_longer_unloaded(model.bundle);
            done.push(model);
        }
        Ok(done)
    }

    async fn fetch_and_load(
        self: &Arc<Self>,
        name: &str,
        version: Option<&str>,
    ) -> Result<Model, KeepError> {
        let refused = |refusal| KeepError::Pull(super::PullError::Refused(refusal));
        let model = self.meant(name, version).map_err(refused)?;
        self.pull_model(model.clone())?;
        loop {
            if self.hosted(model.bundle).is_some() {
                return Ok(model);
            }
            let pulls = self.shelf.pulls();
            let pull = pulls.into_iter().find(|(pulled, _)| pulled.bundle == model.bundle);
            let state = pull.map(|(_, moment)| (moment.state, moment.error));
            if let Some(("failed", error)) = state {
                return Err(KeepError::Load(error.unwrap_or_default()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn is_meant(model: &Model, name: &str, version: Option<&str>) -> bool {
    let named = model.name == name && version.is_none_or(|version| model.version == version);
    named || model.bundle.to_string() == name
}
