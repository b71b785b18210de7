//! A mesh of real node processes, made with the commands that an operator uses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{hansa, run, run_json};

/// Authorities, identities and running nodes in one temporary folder.
pub struct Mesh {
    /// Running nodes, in the order of their start. They go before the folder with their logs.
    pub nodes: Vec<Node>,
    folder: TempDir,
    authority: String,
}

/// What a node is to be.
#[derive(Clone)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// Location and control of its charter; none: it has no charter.
    pub charter: Option<(&'static str, &'static str)>,
    /// Names and paths of its models.
    pub models: Vec<(&'static str, PathBuf)>,
    /// More lines for its config.
    pub extra: &'static str,
    /// More lines for its `[runtime]`.
    pub runtime: &'static str,
    /// Threads of each model's instance.
    pub threads: usize,
    /// Whether it learns of the mesh by mDNS instead of a bootstrap address.
    pub mdns: bool,
    /// Whether nobody is told where it listens, as behind a NAT.
    pub nat: bool,
    /// Where its planes listen and what they advertise instead; none: any ports, themselves.
    pub behind: Option<Behind>,
}

/// What a node behind relays binds, and the fronts that it advertises.
#[derive(Clone, Copy)]
pub struct Behind {
    /// The control plane: bound, front.
    pub control: (SocketAddr, SocketAddr),
    /// The data plane: bound, front.
    pub data: (SocketAddr, SocketAddr),
}

impl Spec {
    /// A node with a charter and no model.
    pub fn new(name: &'static str, location: &'static str, control: &'static str) -> Self {
        let charter = Some((location, control));
        Self {
            name,
            charter,
            models: Vec::new(),
            extra: "",
            runtime: "",
            threads: 1,
            mdns: false,
            nat: false,
            behind: None,
        }
    }

    /// The same with a model.
    pub fn with(mut self, name: &'static str, path: impl Into<PathBuf>) -> Self {
        self.models.push((name, path.into()));
        self
    }
}

/// A running node. Dropping it kills the process.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its process.
    pub process: Child,
    /// What it wrote of its addresses: `peer_id`, `http`, `grpc`, `control`, `data`.
    pub addresses: Value,
    /// Its log, JSON lines.
    pub log: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- log of {}\n{log}", self.name);
        }
    }
}

impl Node {
    /// Base URL of its API.
    pub fn url(&self) -> String {
        let http = self.addresses["http"].as_str().expect("an address");
        if http.contains("://") { http.to_owned() } else { format!("http://{http}") }
    }

    /// Its id.
    pub fn peer_id(&self) -> &str {
        self.addresses["peer_id"].as_str().expect("an id")
    }

    /// Sends its process a signal, such as STOP.
    pub fn signal(&self, signal: &str) {
        let process = self.process.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &process]).status();
        assert!(sent.expect("it runs").success());
    }

    /// Asks its API for JSON; panics unless it answers.
    pub fn get(&self, path: &str) -> Value {
        let (status, _, body) = request("GET", &format!("{}{path}", self.url()), &[], b"");
        assert!(status < 500, "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    /// One of its metrics, summed over labels; 0 while nothing was counted.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, _, body) = request("GET", &format!("{}/metrics", self.url()), &[], b"");
        let text = String::from_utf8(body).expect("text");
        let own = text.lines().filter(|line| !line.starts_with('#') && line.starts_with(name));
        own.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Names of the peers that it can route to now, itself included.
    pub fn alive(&self) -> Vec<String> {
        let seen = self.get("/mesh/v1/peers");
        let peers = seen["peers"].as_array().cloned().unwrap_or_default();
        let alive = peers.iter().filter(|peer| peer["liveness"] == "alive");
        let mut names: Vec<String> =
            alive.filter_map(|peer| Some(peer["name"].as_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// Runs JSON inference; returns status, headers (lower case) and body.
    pub fn infer(&self, model: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}/v2/models/{model}/infer", self.url());
        request("POST", &url, headers, body.to_string().as_bytes())
    }
}

/// Status, headers in lower case, body.
pub type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// One HTTP request on a connection of its own.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build();
    let agent: ureq::Agent = config.into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).expect("a request");
    let mut answer = agent.run(request).unwrap_or_else(|error| panic!("{method} {url}: {error}"));
    let headers = answer.headers().iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers = headers.collect();
    let bytes = answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body");
    (answer.status().as_u16(), headers, bytes)
}

/// A header of an answer, or nothing.
pub fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.1.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// Once a process: no test relies on another's having run before.
fn install_onnxruntime() {
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| {
        let done = run(crate::root(), &["onnxruntime", "install"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    });
}

impl Mesh {
    /// An empty mesh with one authority that may assert anything.
    pub fn new() -> Self {
        install_onnxruntime();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = run_json(
            folder.path(),
            &["authority", "new", "test.key", "--name", "test.example", "--json"],
        );
        let authority = made["key"].as_str().expect("a key").to_owned();
        Self { folder, authority, nodes: Vec::new() }
    }

    /// The public key of its authority.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Identity, charter and config of a node that is not started; returns the config's path.
    pub fn prepare(&self, spec: &Spec) -> PathBuf {
        let home = self.folder().join(spec.name);
        let made = run_json(self.folder(), &["init", spec.name, "--json"]);
        let peer = made["peer_id"].as_str().expect("an id");
        if let Some((location, control)) = spec.charter {
            let charter = home.join("charter.txt").display().to_string();
            let issued = run(
                self.folder(),
                &[
                    "authority",
                    "issue",
                    "--key",
                    "test.key",
                    "--subject",
                    peer,
                    "--location",
                    location,
                    "--control",
                    control,
                    "--operator",
                    spec.name,
                    "--days",
                    "1",
                    "--out",
                    &charter,
                ],
            );
            assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
        }
        let config = home.join("hansa.toml");
        std::fs::write(&config, self.config(spec)).expect("a config can be written");
        config
    }

    fn config(&self, spec: &Spec) -> String {
        let first = self.nodes.first().filter(|_| !spec.mdns);
        let bootstrap = first.and_then(|node| node.addresses["control"][0].as_str());
        let bootstrap = bootstrap.map(|addr| format!("{addr:?}")).unwrap_or_default();
        let charter = match spec.charter {
            Some(_) => "charter_file = \"charter.txt\"\n",
            None => "",
        };
        // mDNS speaks on the network's interfaces, not on loopback.
        let ip = if spec.mdns { "0.0.0.0" } else { "127.0.0.1" };
        let multiaddr =
            |addr: SocketAddr| format!("/ip4/{}/udp/{}/quic-v1", addr.ip(), addr.port());
        let any = format!("listen = \"/ip4/{ip}/udp/0/quic-v1\"\ndata_listen = \"{ip}:0\"");
        let listen = spec.behind.map_or(any, |Behind { control, data }| {
            format!(
                "listen = {:?}\nexternal = [{:?}]\ndata_listen = \"{}\"\ndata_external = [\"{}\"]",
                multiaddr(control.0),
                multiaddr(control.1),
                data.0,
                data.1
            )
        });
        let nat = if spec.nat { "behind_nat = true\n" } else { "" };
        let mut text = format!(
            "[node]\nname = {:?}\ndata_dir = \"data\"\n\
             [identity]\nkey_file = \"identity.key\"\n{charter}\
             [mesh]\n{listen}\n\
             mdns = {}\n{nat}bootstrap = [{bootstrap}]\n\
             [api]\nhttp = \"127.0.0.1:0\"\ngrpc = \"127.0.0.1:0\"\n\
             [runtime]\nthreads = {}\n{}\n\
             [[authority]]\nname = \"test.example\"\nkey = {:?}\n\
             may_assert = {{ countries = [\"*\"], operators = [\"*\"] }}\n",
            spec.name, spec.mdns, spec.threads, spec.runtime, self.authority,
        );
        for (name, path) in &spec.models {
            text += &format!("[[model]]\nname = {name:?}\nversion = \"1\"\npath = {path:?}\n");
        }
        text + spec.extra
    }

    /// Prepares and starts a node, and waits until it is ready.
    pub fn start(&mut self, spec: &Spec) -> &Node {
        let config = self.prepare(spec);
        let node = launch(spec.name, &config);
        self.nodes.push(node);
        self.nodes.last().expect("just started")
    }

    /// Starts all of `specs` and waits until each sees all.
    pub fn with(specs: &[Spec]) -> Self {
        let mut mesh = Self::new();
        for spec in specs {
            mesh.start(spec);
        }
        mesh.await_all(Duration::from_secs(10));
        mesh
    }

    /// Waits until every node can route to every other; panics after `patience`.
    pub fn await_all(&self, patience: Duration) -> Duration {
        let started = Instant::now();
        for node in &self.nodes {
            while node.alive().len() != self.nodes.len() {
                assert!(started.elapsed() < patience, "{} sees only {:?}", node.name, node.alive());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        started.elapsed()
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a started node")
    }

    /// Starts a node that was killed again, with the config that it had.
    pub fn restart(&mut self, name: &'static str) -> &Node {
        let config = self.folder().join(name).join("hansa.toml");
        self.nodes.retain(|node| node.name != name);
        let addresses = config.with_file_name("data").join("addresses.json");
        let _ = std::fs::remove_file(addresses); // A killed node leaves them.
        self.nodes.push(launch(name, &config));
        self.nodes.last().expect("just started")
    }

    /// Kills a node as a crash would.
    pub fn kill(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name).expect("a started node");
        node.process.kill().expect("it runs");
        node.process.wait().expect("it ends");
    }

    /// Starts a killed node again, with what it was.
    pub fn revive(&mut self, name: &'static str) {
        let config = self.folder().join(name).join("hansa.toml");
        // It may not be taken for its predecessor.
        let _ = std::fs::remove_file(config.with_file_name("data").join("addresses.json"));
        let node = launch(name, &config);
        let place = self.nodes.iter().position(|node| node.name == name);
        self.nodes[place.expect("a started node")] = node;
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

/// Starts a node from its config and waits until it says where it listens.
pub fn launch(name: &str, config: &Path) -> Node {
    let home = config.parent().expect("a config lies in a folder");
    let log = home.join("log.txt");
    let process = Command::new(hansa())
        .args(["run", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).expect("a log can be written"))
        .spawn()
        .expect("hansa starts");
    let mut node = Node { name: name.into(), process, addresses: Value::Null, log };
    let file = home.join("data").join("addresses.json");
    let patience = Instant::now() + Duration::from_secs(30);
    while node.addresses.is_null() {
        if let Ok(Some(status)) = node.process.try_wait() {
            panic!("{name} ended ({status}) instead of starting");
        }
        assert!(Instant::now() < patience, "{name} does not start");
        std::thread::sleep(Duration::from_millis(5));
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        node.addresses = serde_json::from_str(&text).unwrap_or(Value::Null);
    }
    node
}
