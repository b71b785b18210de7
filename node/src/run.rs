//! `hansa run`: a node from its config to its last answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use ractor::{Actor, SpawnErr};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::actors::peer::PeerMessage;
use crate::actors::supervisor::{Supervisor, SupervisorMessage};
use crate::audit::error::LogError;
use crate::config::Config;
use crate::keyfile::KeyFileError;
use crate::limits::DRAIN_MAX;
use crate::node::Node;

/// Why a node does not start. Each says which key of the config to look at.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control plane.
    #[error("[mesh] listen: {0}")]
    Control(#[from] hansa_net::control::ControlError),
    /// The data plane.
    #[error("[mesh] data_listen: {0}")]
    Data(#[from] hansa_net::data::DataError),
    /// A port of the API.
    #[error("[api] {key} = \"{addr}\": {source}; is another process listening there?")]
    Listen {
        /// `http` or `grpc`.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The API's certificate or key.
    #[error("[api] tls: {0}")]
    Tls(String),
    /// ONNX Runtime.
    #[error("[runtime] library: {0}")]
    Library(#[from] hansa_runtime::library::LibraryError),
    /// A device that is not there.
    #[error("[runtime] devices: {0}")]
    Device(#[from] hansa_runtime::devices::DeviceError),
    /// A model that does not load.
    #[error("[[model]] `{name}`: {reason}")]
    Model {
        /// As configured.
        name: String,
        /// Why.
        reason: String,
    },
    /// The folder of models.
    #[error("[repository] dir: {0}")]
    Repository(String),
    /// The key file.
    #[error("[identity] key_file: {0}")]
    Key(#[from] KeyFileError),
    /// The audit log.
    #[error("[audit] dir: {0}")]
    Audit(#[from] LogError),
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Our own fault.
    #[error("{0}")]
    Actor(String),
}

impl StartError {
    /// What an actor's start failed with, typed again where it was typed.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { path, source }
    }

    pub(crate) fn from_spawn(error: SpawnErr) -> Self {
        match error {
            SpawnErr::StartupFailed(inner) => match inner.downcast::<StartError>() {
                Ok(start) => *start,
                Err(other) => StartError::Actor(other.to_string()),
            },
            other => StartError::Actor(other.to_string()),
        }
    }
}

/// Runs a node until it is told to stop (SIGTERM, SIGINT, or, with `until_stdin_ends`, the end of
/// its standard input), then drains: it takes no new job, answers those in progress, leaves the
/// mesh.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    until_stdin_ends: bool,
) -> Result<(), StartError> {
    let node = Node::new(config, metrics)?;
    let (supervisor, mut ended) =
        Actor::spawn(None, Supervisor, node.clone()).await.map_err(StartError::from_spawn)?;
    node.keep_models();
    node.keep_log();
    node.keep_law();
    tracing::info!(name = node.config.node.name, peer = %node.me, "ready");
    tokio::select! {
        () = told_to_stop(until_stdin_ends) => {}
        _ = &mut ended => return Err(StartError::Actor("the supervisor gave up".into())),
    }
    drain(&node).await;
    let _ = supervisor.cast(SupervisorMessage::Stop);
    let _ = ended.await;
    if let Some(audit) = &node.audit {
        tokio::task::block_in_place(|| audit.close());
    }
    node.remove_addresses();
    tracing::info!("stopped");
    Ok(())
}

/// No new jobs; those in progress are answered; the mesh is told.
async fn drain(node: &Arc<Node>) {
    tracing::info!(in_progress = node.tasks.len(), "draining");
    node.draining.send_replace(true);
    if let Some(peer) = node.peer() {
        let left = ractor::call_t!(peer, PeerMessage::Leave, LEAVE_WITHIN_MS);
        if let Err(error) = left {
            tracing::warn!(%error, "could not say goodbye");
        }
    }
    // From now on an answer counts as sent when it has arrived, and jobs of apps may still travel.
    if let Some(data) = node.data() {
        data.refuse_new();
    }
    node.tasks.close();
    if tokio::time::timeout(DRAIN_MAX, node.tasks.wait()).await.is_err() {
        tracing::warn!(unanswered = node.tasks.len(), "jobs cut off by the end of the drain");
    }
}

/// Saying goodbye may take this long.
const LEAVE_WITHIN_MS: u64 = 1_000;

/// A file would grow beyond the process's limit (on Linux and macOS).
const SIGXFSZ: i32 = 25;

async fn told_to_stop(until_stdin_ends: bool) {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    // A limit on the size of files is an error to be told, not the node's death.
    let _file_size = signal(SignalKind::from_raw(SIGXFSZ));
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    let stdin_ends = async {
        if until_stdin_ends {
            let mut stdin = tokio::io::stdin();
            while stdin.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stdin_ends => {}
    }
}

/// How long a start may take before `hansa demo` gives up on a node.
pub const START_WITHIN: Duration = Duration::from_secs(30);
