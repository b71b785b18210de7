//! What a node costs that does nothing: resident memory and processor time of a node without a
//! model, alone and in a mesh of five. Reads Linux's `/proc`.
//!
//! Bars: ≤ 60 MB resident, ≤ 1 % of a core.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod common;

use std::time::{Duration, Instant};

use common::verdict;
use hansa_tests::mesh::{Mesh, Node, Spec};

const WATCHED: Duration = Duration::from_secs(20);
/// After the start, until what starting cost is over.
const SETTLED: Duration = Duration::from_secs(5);
/// Of `/proc/PID/stat`, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    let mut mesh = Mesh::new();
    mesh.start(&Spec::new("berlin", "DE", "DE"));
    watch("alone", &mesh.nodes);
    for (name, place) in [("paris", "FR"), ("dublin", "IE"), ("austin", "US"), ("tuas", "SG")] {
        mesh.start(&Spec::new(name, place, place));
    }
    mesh.await_all(Duration::from_secs(10));
    watch("mesh of five", &mesh.nodes);
}

fn watch(when: &str, nodes: &[Node]) {
    std::thread::sleep(SETTLED);
    let before: Vec<f64> = nodes.iter().map(processor_s).collect();
    let started = Instant::now();
    std::thread::sleep(WATCHED);
    let elapsed = started.elapsed().as_secs_f64();
    for (node, before) in nodes.iter().zip(before) {
        let percent = (processor_s(node) - before) / elapsed * 100.0;
        let mb = resident_mb(node);
        println!(
            "{when}, {:>6}: {mb:.1} MB resident ({:.2} of the bar, {}), \
             {percent:.2} % of a core ({})",
            node.name,
            mb / 60.0,
            verdict(mb <= 60.0),
            verdict(percent <= 1.0)
        );
    }
}

fn resident_mb(node: &Node) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.id()));
    let status = status.expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1_024.0 / 1e6
}

/// Time that the process has run, in user space and in the kernel.
fn processor_s(node: &Node) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.process.id()));
    let stat = stat.expect("Linux");
    let fields = stat.rsplit_once(')').expect("the name is in brackets").1;
    // utime and stime are the 14th and 15th; the name was the second.
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>());
    ticks.map(|ticks| ticks.expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}
