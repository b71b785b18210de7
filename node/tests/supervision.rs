//! The supervision tree on real sockets: what fails is started again, on the same addresses.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_node::actors::supervisor::{Supervisor, SupervisorMessage};
use hansa_node::config::Config;
use hansa_node::node::Node;
use hansa_node::{keyfile, telemetry};
use ractor::Actor;

/// A node of its own on free ports that stay the same over restarts.
fn node(folder: &std::path::Path) -> Arc<Node> {
    keyfile::create_identity(&folder.join("identity.key")).expect("a key");
    let udp = || UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port");
    let (control, data) = (udp(), udp());
    let http = TcpListener::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port");
    let text = format!(
        "[node]\nname = \"alone\"\ndata_dir = \"data\"\n\
         [identity]\nkey_file = \"identity.key\"\n\
         [mesh]\nlisten = \"/ip4/127.0.0.1/udp/{}/quic-v1\"\ndata_listen = \"{data}\"\n\
         [api]\nhttp = \"{http}\"\n",
        control.port()
    );
    let path = folder.join("hansa.toml");
    std::fs::write(&path, &text).expect("a config");
    let config = Config::load(&path).expect("a good config");
    Node::new(config, telemetry::count().expect("metrics")).expect("a node")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_fails_is_started_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(folder.path());
    let (supervisor, ended) =
        Actor::spawn(None, Supervisor, node.clone()).await.expect("the node starts");
    let url = format!("http://{}/mesh/v1/peers", node.http_address());
    let serves = |url: &str| ureq::get(url).call().is_ok();
    assert!(tokio::task::block_in_place(|| serves(&url)));

    // Whichever actor dies, without a chance to clean up: what it stood for comes back.
    let mut killed = 0;
    for child in supervisor.get_cell().get_children() {
        let alive = |cell: &ractor::ActorCell| {
            supervisor.get_cell().get_children().iter().any(|now| now.get_id() == cell.get_id())
        };
        if !alive(&child) {
            continue; // It fell with one that was killed before.
        }
        child.kill();
        killed += 1;
        let patience = Instant::now() + Duration::from_secs(10);
        while alive(&child)
            || node.peer().is_none()
            || node.data().is_none()
            || !tokio::task::block_in_place(|| serves(&url))
        {
            assert!(Instant::now() < patience, "{:?} is not replaced", child.get_id());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(killed >= 3, "the mesh side, the engines and the API were killed");

    supervisor.cast(SupervisorMessage::Stop).expect("it runs");
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it stops").expect("cleanly");
    assert!(!tokio::task::block_in_place(|| serves(&url)));
}
