//! What the operator wrote: the config as types. `schema` says what each key means, `reader`
//! reads strictly, `check` looks at the files that the config names.
//!
//! Each key has a default that is safe, so that the empty config is a node that serves nothing and
//! listens for apps on loopback. `configs/reference.toml` shows them all.

mod addr;
mod check;
mod models;
mod reader;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hansa_core::advert::Price;
use hansa_core::charter::{Authority, Trust};
use hansa_core::id::Digest;
use hansa_core::note::VerifierKey;
use hansa_core::place::Groups;
use hansa_core::policy::Bounds;
use hansa_core::price::Amount;
use hansa_runtime::batch::Batching;
use hansa_runtime::devices::DeviceSpec;
use hansa_runtime::line::Queueing;

use crate::keyfile::Secret;
use crate::limits::ENGINE_QUEUE;

pub use check::Findings;
pub(crate) use models::INSTANCES_MAX;
pub(crate) use schema::name as check_name;

/// A node's config. Paths in it are as they are to be opened: relative ones are joined to the
/// folder of the config's file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[identity]`
    pub identity: IdentityConfig,
    /// `[[authority]]`
    pub authorities: Vec<AuthorityConfig>,
    /// `[mesh]`
    pub mesh: MeshConfig,
    /// `[api]`
    pub api: ApiConfig,
    /// `[runtime]`
    pub runtime: RuntimeConfig,
    /// `[[model]]`
    pub models: Vec<ModelConfig>,
    /// `[repository]`
    pub repository: RepositoryConfig,
    /// `[price]`: what the node asks for its work; nothing without it.
    pub price: Option<Price>,
    /// `[policy]`
    pub policy: PolicyConfig,
    /// `[audit]`
    pub audit: AuditConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[groups]`, with those that are built in.
    pub groups: Groups,
    source: Source,
}

/// Where the config came from, for messages about it.
#[derive(Clone, Debug, Default)]
struct Source {
    file: PathBuf,
    /// Line of each key that is present, by `section.key`.
    spots: BTreeMap<String, usize>,
}

/// Two configs that say the same are equal, wherever they say it.
impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Who the node is, to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name in logs, tables and answers. It proves nothing.
    pub name: String,
    /// Where it keeps what it writes.
    pub data_dir: PathBuf,
    /// What bundles that were pulled or added may take of its disk, in GiB.
    pub bundles_gib_max: u32,
}

/// Who the node is, to peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Its private key.
    pub key_file: Secret,
    /// Its charter. Without one the node runs only its own apps' jobs.
    pub charter_file: Option<PathBuf>,
}

/// An authority that the node trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityConfig {
    /// Its name, which is the key's.
    pub name: String,
    /// Its public key.
    pub key: VerifierKey,
    /// What it is believed.
    pub may_assert: MayAssert,
}

/// What an authority is believed; `*` is anything, nothing is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MayAssert {
    /// Countries, as location and as control.
    pub countries: BTreeSet<String>,
    /// Legal names of operators.
    pub operators: BTreeSet<String>,
}

/// How peers meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    /// Multiaddr of the control plane.
    pub listen: String,
    /// UDP address of the data plane.
    pub data_listen: SocketAddr,
    /// Multiaddrs of peers to meet first.
    pub bootstrap: Vec<String>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Multiaddrs under which others reach the control plane, when they differ from `listen`.
    pub external: Vec<String>,
    /// Addresses under which others reach the data plane, when they differ from `data_listen`.
    pub data_external: Vec<SocketAddr>,
    /// Whether nobody outside can dial this node, so that others reach it through relays; none: as
    /// peers see it.
    pub behind_nat: Option<bool>,
    /// Shards of the mesh that the node subscribes to; none means the one without a name.
    pub shards: Vec<String>,
}

/// Which models a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// What its operator says.
    #[default]
    Configured,
    /// Also what jobs need and no permitted peer can run.
    Demanded,
}

/// How apps reach the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// TCP address of the HTTP API.
    pub http: SocketAddr,
    /// TCP address of the same API over gRPC, if it is to be had.
    pub grpc: Option<SocketAddr>,
    /// Certificate and key, if the API speaks TLS.
    pub tls: Option<TlsConfig>,
    /// Whether an address that others can reach may go without TLS.
    pub plaintext: bool,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: Secret,
}

/// What runs the models.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeConfig {
    /// Path of ONNX Runtime's library, or `auto`.
    pub library: String,
    /// What to compute with.
    pub devices: DeviceSpec,
    /// Threads of one model's instance; 0 for the cores divided among the instances.
    pub threads: usize,
    /// Which models it has.
    pub hold: Hold,
    /// What kept answers may take of memory, in MiB.
    pub cache_mib: u32,
}

/// A folder of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// The folder; none: there is none.
    pub dir: Option<PathBuf>,
    /// Who says what of it is served.
    pub control: Control,
    /// How often it is looked at, if it is polled.
    pub poll: Duration,
}

/// Who says what of a repository is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// What lies there when the node starts.
    #[default]
    None,
    /// What lies there.
    Poll,
    /// Who loads it by name.
    Explicit,
}

/// A model that the node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// What apps call it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where its files come from.
    pub source: ModelSource,
    /// How it is served.
    pub serving: Serving,
}

/// How a model is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Runs at once, each on a session of its own.
    pub instances: usize,
    /// How jobs are put together in one run.
    pub batching: Batching,
    /// How many jobs wait, and how long.
    pub queue: Queueing,
    /// Whether its answers are kept for whoever asks the same.
    pub cache: bool,
}

impl Default for Serving {
    fn default() -> Self {
        let (batching, queue) = (Batching::default(), Queueing::bounded(ENGINE_QUEUE));
        Self { instances: 1, batching, queue, cache: false }
    }
}

/// Where a model's files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// An `.onnx` file, or a folder with `model.onnx`.
    Path(PathBuf),
    /// The node's store, which pulls it from peers when it is not there.
    Bundle(Digest),
}

/// Whom the node deals with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Whose jobs it runs.
    pub serve: Bounds,
    /// Where it sends jobs, whatever they permit.
    pub send: Bounds,
    /// Most that an answer to one of its apps may cost, whatever the app permits.
    pub max_price: Option<Amount>,
    /// Purposes to which it keeps the data of jobs that name one.
    pub purposes: BTreeSet<String>,
    /// Files with lists of revocations.
    pub revocations: Vec<PathBuf>,
    /// Charters of authorities whose list is older than this do not count.
    pub revocations_age_max: Option<Duration>,
}

/// Receipts, and the log of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Whether they are kept, and how soon they are signed.
    pub receipts: Receipts,
    /// The log's folder.
    pub dir: PathBuf,
    /// Receipts of jobs that ended longer ago are deleted; 0 keeps them for ever.
    pub retention_days: u32,
    /// Whether jobs are refused while receipts cannot be kept.
    pub fail_closed: bool,
}

/// Whether receipts are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipts {
    /// None.
    Off,
    /// All that came within a second are signed together.
    Batched,
    /// Each batch that goes to the disk is signed at once.
    Each,
}

/// What the node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// What is logged, as an `EnvFilter` of the crate tracing-subscriber reads it.
    pub log: String,
    /// How.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// As in the brackets of the file; empty for the file itself.
    pub section: String,
    /// Empty for the section itself.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything that is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConfigErrors {
    /// The config.
    pub file: PathBuf,
    /// In the order of their lines; never empty.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    /// One problem per line: `configs/x.toml:12: [mesh] bootstap: unknown key; …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}", problem.at(&self.file))?;
        }
        Ok(())
    }
}

impl Problem {
    /// The problem as a line of text.
    pub fn at(&self, file: &Path) -> String {
        let Self { line, section, key, message } = self;
        let line = if *line == 0 { String::new() } else { format!(":{line}") };
        let section = if section.is_empty() { String::new() } else { format!(" [{section}]") };
        let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
        let colon = if key.is_empty() && !section.is_empty() { ":" } else { "" };
        format!("{}{line}:{section}{key}{colon} {message}", file.display())
    }
}

impl ConfigErrors {
    fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot be read: {error}; `hansa init DIR` makes a config");
        let problem = Problem { line: 0, section: String::new(), key: String::new(), message };
        Self { file: path.into(), problems: vec![problem] }
    }
}

impl Config {
    /// Reads the file at `path`. Files that it names are not opened: see [`Config::check`].
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ConfigErrors::unreadable(path, &error))?;
        Self::parse(&text, path)
    }

    /// Reads `text` as the content of the file at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        let errors = |problems| ConfigErrors { file: path.into(), problems };
        let folder = path.parent().unwrap_or(Path::new(""));
        let document = reader::parse(text).map_err(|problem| errors(vec![problem]))?;
        let (mut config, reader) =
            reader::Reader::read(text, &document, |root| schema::read(root, folder));
        if !reader.problems.is_empty() {
            return Err(errors(reader.problems));
        }
        config.source = Source { file: path.into(), spots: reader.spots };
        Ok(config)
    }

    /// Every key of the schema, as `section.key`, tables included.
    pub fn keys() -> Vec<String> {
        let document = reader::parse("").expect("an empty text is TOML");
        reader::Reader::read("", &document, |root| schema::read(root, Path::new(""))).1.asked
    }

    /// The file that the config came from.
    pub fn file(&self) -> &Path {
        &self.source.file
    }

    /// The authorities as the core knows them.
    pub fn trust(&self) -> Trust {
        let authority = |authority: &AuthorityConfig| Authority {
            key: authority.key.clone(),
            countries: authority.may_assert.countries.clone(),
            operators: authority.may_assert.operators.clone(),
        };
        Trust::new(self.authorities.iter().map(authority).collect())
    }
}

impl Default for Config {
    /// What an empty file means.
    fn default() -> Self {
        Self::parse("", Path::new("hansa.toml")).expect("the defaults are a config")
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            listen: "/ip4/0.0.0.0/udp/4101/quic-v1".into(),
            data_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4102)),
            bootstrap: Vec::new(),
            mdns: false,
            external: Vec::new(),
            data_external: Vec::new(),
            behind_nat: None,
            shards: Vec::new(),
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
        Self { http, grpc: None, tls: None, plaintext: false }
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            library: "auto".into(),
            devices: DeviceSpec::Auto,
            threads: 0,
            hold: Hold::default(),
            cache_mib: 64,
        }
    }
}

impl AuditConfig {
    /// How long receipts are kept, unless for ever.
    pub fn retention(&self) -> Option<Duration> {
        let days = Some(u64::from(self.retention_days)).filter(|days| *days > 0);
        days.map(|days| Duration::from_secs(days * 24 * 3_600))
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".into(), format: LogFormat::Text }
    }
}
