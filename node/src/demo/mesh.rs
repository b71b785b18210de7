//! The demo's mesh: five node processes on this machine, made with the very commands that an
//! operator uses, in a folder that goes away with them.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hansa_core::charter::Authority;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::NodeLine;
use super::picture::READER;
use super::show::{Assets, Voice};
use crate::client::Client;
use crate::run::START_WITHIN;

/// Who is in the demo: name, location, control, operator, authority, models, stage of the reader.
pub const CAST: [Role; 5] = [
    Role::new("berlin", "DE", "DE", "Nordlicht GmbH", "eu", &["magika"], None),
    Role::new("paris", "FR", "FR", "Lumière SA", "eu", &["magika", "silero-vad"], None),
    Role::new("dublin", "IE", "US", "Acme Cloud Ltd", "eu", &["magika"], Some(0)),
    Role::new("virginia", "US", "US", "Acme Cloud Inc", "world", &["silero-vad"], Some(1)),
    Role::new("singapore", "SG", "SG", "Merlion Pte", "world", &[], Some(2)),
];
/// What a node gives models of its memory, in MiB: the reader, of 10.4 MiB, fits none whole.
const MEMORY_MIB: u32 = 9;
/// What a stage of it may take.
const STAGE_FIT: &str = "5MiB,5MiB,5MiB";

/// A node's part.
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub location: &'static str,
    /// Whose law reaches its operator.
    pub control: &'static str,
    operator: &'static str,
    authority: &'static str,
    models: &'static [&'static str],
    /// Which stage of the reader it has.
    pub stage: Option<usize>,
}

impl Role {
    const fn new(
        name: &'static str,
        location: &'static str,
        control: &'static str,
        operator: &'static str,
        authority: &'static str,
        models: &'static [&'static str],
        stage: Option<usize>,
    ) -> Self {
        Self { name, location, control, operator, authority, models, stage }
    }

    /// Whether it holds `model`.
    pub fn holds(&self, model: &str) -> bool {
        self.models.contains(&model)
    }
}

/// A running node.
pub struct Running {
    /// Its part.
    pub role: &'static Role,
    /// Its id.
    pub peer_id: String,
    /// Address of its API.
    pub http: String,
    /// Whether it was not killed.
    pub is_up: bool,
    process: Child,
    // A node that was started so stops when this closes, however this process ends.
    _lifeline: Option<ChildStdin>,
}

/// The mesh. Dropping it stops every node and removes the folder.
pub struct Mesh {
    /// The nodes, in the order of [`CAST`].
    pub nodes: Vec<Running>,
    /// What its nodes run.
    pub assets: Assets,
    folder: PathBuf,
    /// Names and public keys.
    authorities: Vec<(String, String)>,
    interrupted: &'static AtomicBool,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

impl Mesh {
    /// Fetches what is missing, writes five configs, starts five processes and waits until every
    /// one sees all others.
    pub fn start(say: &Voice) -> anyhow::Result<Self> {
        // Nodes get the terminal's interrupt too, and drain; this process then cleans up.
        watch_signals()?;
        let assets = say.fetch()?;
        let folder = std::env::temp_dir().join(format!("hansa-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let (nodes, authorities) = (Vec::new(), Vec::new());
        let mut mesh = Self { nodes, assets, folder, authorities, interrupted: &INTERRUPTED };
        let authorities = ["eu", "world"].map(|name| mesh.authority(name));
        mesh.authorities = authorities.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let (reader, stages) = (mesh.assets.reader(), mesh.folder.join(STAGES));
        let (reader, stages) = (reader.display().to_string(), stages.display().to_string());
        mesh.hansa(&["models", "cut", &reader, "--fit", STAGE_FIT, "--out", &stages])?;
        let mut bootstrap = None;
        for role in &CAST {
            let config = mesh.configure(role, bootstrap.as_deref())?;
            mesh.launch(role, &config)?;
            if bootstrap.is_none() {
                bootstrap = Some(mesh.await_addresses(0)?);
            }
        }
        for index in 1..CAST.len() {
            mesh.await_addresses(index)?;
        }
        mesh.await_views()?;
        Ok(mesh)
    }

    /// The nodes as the report names them.
    pub fn lines(&self) -> Vec<NodeLine> {
        let line = |node: &Running| NodeLine {
            name: node.role.name.into(),
            peer_id: node.peer_id.clone(),
            location: node.role.location.into(),
            control: node.role.control.into(),
            http: node.http.clone(),
        };
        self.nodes.iter().map(line).collect()
    }

    /// A client of the node of that name.
    pub fn client(&self, name: &str) -> Client {
        let node = self.nodes.iter().find(|node| node.role.name == name).expect("one of the cast");
        Client::new(&node.http)
    }

    /// Kills a node as a crash would: no goodbye.
    pub fn kill(&mut self, name: &str) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.role.name == name) {
            // It may be dead already; dead is what is wanted.
            let _ = node.process.kill();
            let _ = node.process.wait();
            node.is_up = false;
        }
    }

    /// Whether the user wants to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Returns when the user wants to stop.
    pub fn wait_until_interrupted(&self) {
        while !self.is_interrupted() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Notes SIGINT and SIGTERM in [`INTERRUPTED`] from now on.
fn watch_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::SeqCst);
    })?;
    Ok(())
}

/// Starting.
impl Mesh {
    /// Runs `hansa` itself with `arguments`, for its effect.
    fn hansa(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(std::env::current_exe()?)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("hansa {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A new authority; returns its name and public key.
    fn authority(&self, name: &str) -> anyhow::Result<(String, String)> {
        let name = format!("{name}.demo.example");
        let made =
            self.hansa(&["authority", "new", &format!("{name}.key"), "--name", &name, "--json"])?;
        let made: Value = serde_json::from_str(&made)?;
        Ok((name, made["key"].as_str().context("authority new prints a key")?.to_owned()))
    }

    /// Whom its nodes believe.
    pub fn believed(&self) -> anyhow::Result<Vec<Authority>> {
        let all = || ["*".to_owned()].into();
        let authority = |(_, key): &(String, String)| {
            Ok(Authority { key: key.parse()?, countries: all(), operators: all() })
        };
        self.authorities.iter().map(authority).collect()
    }

    /// An identity, a charter and a config for `role`; returns the config's path.
    fn configure(&self, role: &Role, bootstrap: Option<&str>) -> anyhow::Result<PathBuf> {
        let home = self.folder.join(role.name);
        let made = self.hansa(&["init", role.name, "--json"])?;
        let made: Value = serde_json::from_str(&made)?;
        let peer = made["peer_id"].as_str().context("init prints a peer id")?;
        let charter = home.join("charter.txt");
        self.hansa(&[
            "authority",
            "issue",
            "--key",
            &format!("{}.demo.example.key", role.authority),
            "--subject",
            peer,
            "--location",
            role.location,
            "--control",
            role.control,
            "--operator",
            role.operator,
            "--days",
            "1",
            "--out",
            &charter.display().to_string(),
        ])?;
        let config = home.join("hansa.toml");
        std::fs::write(&config, self.config_text(role, bootstrap))?;
        Ok(config)
    }

    fn launch(&mut self, role: &'static Role, config: &Path) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.log(role))?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["run", "--until-stdin-ends", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let lifeline = process.stdin.take();
        let (peer_id, http) = (String::new(), String::new());
        self.nodes.push(Running { role, peer_id, http, is_up: true, process, _lifeline: lifeline });
        Ok(())
    }

    fn log(&self, role: &Role) -> PathBuf {
        self.folder.join(role.name).join("log.txt")
    }

    /// Waits until a node says where it listens; returns a bootstrap address.
    fn await_addresses(&mut self, index: usize) -> anyhow::Result<String> {
        let role = self.nodes[index].role;
        let file = self.folder.join(role.name).join("data").join("addresses.json");
        let log = self.log(role);
        let interrupted = self.interrupted;
        let node = &mut self.nodes[index];
        let addresses = await_some(interrupted, || {
            if let Some(status) = node.process.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{} ended ({status}) instead of starting:\n{said}", role.name);
            }
            let text = std::fs::read_to_string(&file).ok();
            Ok(text.and_then(|text| serde_json::from_str::<Value>(&text).ok()))
        })?;
        let text = |key: &str| addresses[key].as_str().unwrap_or_default().to_owned();
        node.peer_id = text("peer_id");
        node.http = text("http").trim_start_matches("http://").to_owned();
        Ok(addresses["control"][0].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until every node is routable from every other.
    fn await_views(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let client = Client::new(&node.http);
            await_some(self.interrupted, || {
                let seen = client.get("/mesh/v1/peers")?;
                let alive = seen["peers"].as_array().map_or(0, |peers| {
                    peers.iter().filter(|peer| peer["liveness"] == "alive").count()
                });
                Ok((alive == self.nodes.len()).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// Polls until there is something, the user interrupts, or the time to start is over.
fn await_some<T>(
    interrupted: &AtomicBool,
    mut poll: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let patience = Instant::now() + START_WITHIN;
    loop {
        if let Some(found) = poll()? {
            return Ok(found);
        }
        if interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        if Instant::now() > patience {
            bail!("the mesh did not come up within {} s", START_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where the stages lie in the demo's folder.
const STAGES: &str = "reader-in-stages";

impl Mesh {
    /// What an operator would write, on ports that the system picks.
    fn config_text(&self, role: &Role, bootstrap: Option<&str>) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut text = format!(
            "[node]\nname = {}\ndata_dir = \"data\"\n\
         [identity]\nkey_file = \"identity.key\"\ncharter_file = \"charter.txt\"\n\
         [mesh]\nlisten = \"/ip4/127.0.0.1/udp/0/quic-v1\"\ndata_listen = \"127.0.0.1:0\"\n\
         mdns = false\nbootstrap = [{}]\n\
         [api]\nhttp = \"127.0.0.1:0\"\n\
         [runtime]\nthreads = 1\n\
         devices = [{{ provider = \"cpu\", id = 0, memory_mib = {MEMORY_MIB} }}]\n",
            quoted(role.name),
            bootstrap.map(quoted).unwrap_or_default(),
        );
        for (name, key) in &self.authorities {
            text += &format!(
                "[[authority]]\nname = {}\nkey = {}\nmay_assert = {{ countries = [\"*\"], operators = [\"*\"] }}\n",
                quoted(name),
                quoted(key),
            );
        }
        let whole = self.assets.models().into_iter().filter(|(name, _)| role.holds(name));
        let whole = whole.map(|(name, path)| (name, path.to_owned()));
        let stage = role
            .stage
            .map(|number| (READER, self.folder.join(STAGES).join(format!("stage-{number}"))));
        for (name, path) in whole.chain(stage) {
            let path = quoted(&path.display().to_string());
            text +=
                &format!("[[model]]\nname = {}\nversion = \"1\"\npath = {path}\n", quoted(name));
        }
        text
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // The demo owes nobody a drain any more.
            let _ = node.process.kill();
        }
        for node in &mut self.nodes {
            let _ = node.process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
