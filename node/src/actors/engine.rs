//! Owns the devices and the engines on them: loads what the config names and what the node pulled,
//! keeps the advert's device figures fresh. Jobs go to an engine's own bounded queue, not through this mailbox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use hansa_core::id::Digest;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::{Cut, Wanted};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::bundles::Model;
use crate::config::Serving;
use crate::limits::DEVICES_EVERY;
use crate::meters::ModelMeters;
use crate::models;
use crate::node::{Hosted, Node};

/// Owns the engines.
pub struct Engines;

/// The devices and the node that they serve.
pub struct EnginesState {
    node: Arc<Node>,
    owned: Arc<Mutex<models::Owned>>,
}

/// What the actor is told.
pub enum EngineMessage {
    /// Time to read the devices anew.
    ReadDevices,
    /// Serve one more model.
    Host {
        /// Its name and digest.
        model: Model,
        /// Jobs that run at once.
        serving: Serving,
        /// Its files.
        bundle: Arc<Bundle>,
        /// What is served no more from that moment on.
        replaced: Vec<Digest>,
        /// Why it is not served.
        reply: RpcReplyPort<Result<(), String>>,
    },
    /// Cut a model into stages.
    Cut {
        /// Its files.
        bundle: Arc<Bundle>,
        /// What each stage may take, in bytes.
        fit: Vec<u64>,
        /// A folder for the stages.
        out: PathBuf,
        /// Why it is not cut.
        reply: RpcReplyPort<Result<Cut, String>>,
    },
    /// Serve a bundle no more.
    Unhost {
        /// Which.
        bundle: Digest,
        /// When it is done.
        reply: RpcReplyPort<()>,
    },
}

impl Actor for Engines {
    type Msg = EngineMessage;
    type State = EnginesState;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        myself: ActorRef<EngineMessage>,
        node: Arc<Node>,
    ) -> Result<EnginesState, ActorProcessingErr> {
        let loading = node.clone();
        // Loading models takes seconds and blocks.
        let loaded = tokio::task::spawn_blocking(move || models::load(&loading)).await?;
        let (mut owned, engines) = loaded?;
        node.set_devices(models::read_devices(&mut owned));
        node.set_engines(engines);
        node.set_engine(Some(myself.clone()));
        myself.send_interval(DEVICES_EVERY, || EngineMessage::ReadDevices);
        Ok(EnginesState { node, owned: Arc::new(Mutex::new(owned)) })
    }

    async fn handle(
        &self,
        _: ActorRef<EngineMessage>,
        message: EngineMessage,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        let node = &state.node;
        match message {
            EngineMessage::ReadDevices => {
                node.set_devices(models::read_devices(&mut state.owned()));
                let view = node.view();
                node.loads().keep(|peer| view.get(peer).is_some());
            }
            EngineMessage::Host { model, serving, bundle, replaced, reply } => {
                let (loader, owned) = (node.clone(), state.owned.clone());
                let keeps = replaced.clone();
                let loading = move || host(&loader, &owned, &model, serving, bundle, &keeps);
                let hosted = tokio::task::spawn_blocking(loading).await?;
                let _ = reply.send(hosted.map(|engines| swap(node, engines)));
            }
            EngineMessage::Cut { bundle, fit, out, reply } => {
                let (node, owned) = (node.clone(), state.owned.clone());
                // It takes seconds: others are not to wait for it.
                tokio::task::spawn_blocking(move || {
                    let _ = reply.send(cut_up(&node, &owned, &bundle, fit, &out));
                });
            }
            EngineMessage::Unhost { bundle, reply } => {
                let mut engines = (*node.engines()).clone();
                if engines.remove(&bundle).is_some() {
                    swap(node, engines);
                }
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<EngineMessage>,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        state.node.set_engine(None);
        state.node.set_engines(Default::default());
        Ok(())
    }
}

impl EnginesState {
    fn owned(&self) -> MutexGuard<'_, models::Owned> {
        self.owned.lock().expect("no holder panics")
    }
}

fn cut_up(
    node: &Node,
    owned: &Mutex<models::Owned>,
    bundle: &Bundle,
    fit: Vec<u64>,
    out: &Path,
) -> Result<Cut, String> {
    let mut owned = owned.lock().expect("no holder panics");
    if owned.is_none() {
        *owned = Some(models::open(node).map_err(|error| error.to_string())?);
    }
    let loaded = owned.as_ref().expect("it was opened");
    loaded.cut(bundle, &Wanted::Fit(fit), out).map_err(|error| error.to_string())
}

/// From now on these are served; jobs that mean one that no longer is may still run on it for a
/// while.
fn swap(node: &Arc<Node>, engines: BTreeMap<Digest, Hosted>) {
    for (bundle, hosted) in node.engines().iter() {
        if !engines.contains_key(bundle) {
            node.retire(*bundle, hosted.clone());
        }
    }
    node.set_engines(engines);
}

/// All engines with one more, and without what it replaces. Loads ONNX Runtime if nothing needed it
/// before. It blocks.
fn host(
    node: &Node,
    owned: &Mutex<models::Owned>,
    model: &Model,
    serving: Serving,
    bundle: Arc<Bundle>,
    replaced: &[Digest],
) -> Result<BTreeMap<Digest, Hosted>, String> {
    let mut owned = owned.lock().expect("no holder panics");
    if owned.is_none() {
        *owned = Some(models::open(node).map_err(|error| error.to_string())?);
        node.set_devices(models::read_devices(&mut owned));
    }
    let loaded = owned.as_ref().expect("it was opened");
    let mut engines = (*node.engines()).clone();
    // What it replaces goes on until it is there, so that there must be room for both.
    if replaced.contains(&model.bundle)
        && let Some(own) = engines.get_mut(&model.bundle)
        && own.serving == serving
    {
        // The same model under another name or version.
        (own.name, own.version) = (model.name.clone(), model.version.clone());
        own.meters = Arc::new(ModelMeters::of(&own.name));
    } else {
        if replaced.contains(&model.bundle) {
            engines.remove(&model.bundle); // From this copy only, and it stays in memory.
        }
        models::host(node, loaded, &mut engines, model, serving, bundle)?;
    }
    engines.retain(|bundle, _| *bundle == model.bundle || !replaced.contains(bundle));
    Ok(engines)
}
