//! Nodes behind NAT serve like any other: through peers that they keep connected with.

use std::time::{Duration, Instant};

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Node, Spec, header};
use serde_json::{Value, json};

/// Relays are named and their connections stand within this.
const PATIENCE: Duration = Duration::from_secs(20);

fn magika() -> std::path::PathBuf {
    models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx")
}

fn question() -> Value {
    let row: Vec<i32> = (0..2048).map(|index| index % 257).collect();
    json!({"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": row}]})
}

fn behind_nat(name: &'static str, location: &'static str) -> Spec {
    Spec { nat: true, ..Spec::new(name, location, location) }
}

/// What `node` knows of `peer`.
fn known(node: &Node, peer: &str) -> Value {
    let seen = node.get("/mesh/v1/peers");
    let peers = seen["peers"].as_array().expect("peers");
    peers.iter().find(|one| one["name"] == peer).cloned().unwrap_or_default()
}

/// Asks until `by` runs the job, which it does once its relays stand.
fn await_served(entry: &Node, by: &str, headers: &[(&str, &str)]) {
    let begun = Instant::now();
    loop {
        let answer = entry.infer("magika", &question(), headers);
        if answer.0 == 200 {
            return assert_eq!(header(&answer, "hansa-executed-by"), by);
        }
        let said = String::from_utf8_lossy(&answer.2).into_owned();
        assert!(begun.elapsed() < PATIENCE, "{} {}: {said}", entry.name, answer.0);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn nodes_behind_nat_run_each_others_jobs_and_those_of_the_rest() {
    let mut mesh = Mesh::with(&[
        Spec::new("paris", "FR", "FR"),
        Spec::new("lyon", "FR", "FR"),
        behind_nat("office", "DE").with("magika", magika()),
        behind_nat("home", "AT"),
    ]);
    for entry in ["paris", "lyon", "home", "office"] {
        await_served(mesh.node(entry), "office", &[]);
    }
    let office = known(mesh.node("paris"), "office");
    assert_eq!(office["data_addrs"], json!([]), "nobody is told an address: {office}");
    assert_eq!(office["control_addrs"], json!([]));
    let begun = Instant::now();
    while known(mesh.node("home"), "office")["relays"].as_array().map_or(0, Vec::len) < 2 {
        assert!(begun.elapsed() < PATIENCE, "it names both others as relays");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The law does not change with the way: a relay is no hop, and sees nothing of a job.
    await_served(mesh.node("home"), "office", &[("Hansa-Locations", "DE")]);
    let refused = mesh.node("home").infer("magika", &question(), &[("Hansa-Locations", "FR")]);
    assert_eq!(refused.0, 403);
    // The relay on the way dies without a word: jobs go on by the other.
    let carries = |name: &&str| mesh.node(name).metric("hansa_tunnels") > 0;
    let relay = ["paris", "lyon"].into_iter().find(carries).expect("one carries the tunnel");
    mesh.kill(relay);
    await_served(mesh.node("home"), "office", &[]);
    let other = if relay == "paris" { "lyon" } else { "paris" };
    assert!(mesh.node(other).metric("hansa_tunnels") > 0, "the other one carries it now");
}
