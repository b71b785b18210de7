//! The same world twice: real processes behind relays that delay, and the simulator.

#![allow(clippy::print_stdout)] // Distributions are read by people.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hansa_sim::calibrate::calibrate;
use hansa_sim::jobs::mesh::Fixed;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::setup::Setup;
use hansa_sim::jobs::stage::stage;
use hansa_sim::jobs::strategy::named;
use hansa_sim::links::Links;
use hansa_sim::record::{Progress, record};
use hansa_sim::recording::{DISSEMINATION_MS, Distribution};
use hansa_sim::scenario::{DeviceSpec, Scenario};
use hansa_tests::mesh::{Behind, Mesh, Node, Spec, header};
use hansa_tests::relay::{Relay, free};

/// Real and simulated times may differ by so much.
const BAR: f64 = 0.15;
/// The same where compilers and other tests share the cores with the real processes.
const BAR_WHEN_BUSY: f64 = 0.6;
/// The seed of the world that the real processes are.
const SEED: u64 = 1;
/// Peers join this long after each other.
const JOIN_EVERY: Duration = Duration::from_millis(1_500);
/// Enough worlds for the simulator's quantiles to be its own and not one seed's.
const SEEDS: std::ops::Range<u64> = 0..10;

const NAMES: [&str; 20] = [
    "n00", "n01", "n02", "n03", "n04", "n05", "n06", "n07", "n08", "n09", "n10", "n11", "n12",
    "n13", "n14", "n15", "n16", "n17", "n18", "n19",
];

/// The small form, which also holds on a machine that does other things.
#[test]
fn simulation_agrees_with_real_nodes() {
    compare("eight.toml", BAR_WHEN_BUSY);
}

#[test]
#[ignore = "needs a quiet machine: cargo test -p hansa-tests --test fidelity -- --ignored --nocapture --test-threads 1"]
fn simulation_agrees_with_eight_real_nodes_within_15_percent() {
    compare("eight.toml", BAR);
}

#[test]
#[ignore = "needs a quiet machine: cargo test -p hansa-tests --test fidelity -- --ignored --nocapture --test-threads 1"]
fn simulation_agrees_with_twenty_real_nodes_within_15_percent() {
    compare("twenty.toml", BAR);
}

fn compare(file: &str, bar: f64) {
    let path = hansa_tests::root().join("tests/worlds").join(file);
    let mut scenario = Scenario::open(&path).unwrap_or_else(|error| panic!("{error}"));
    let setup = stage(&scenario, SEED).expect("the world is possible");
    let real = Real::start(&scenario, &setup);
    let server = setup.hosts.iter().position(|host| host.server.is_some()).expect("one serves");
    scenario.device = vec![device(&real.mesh.nodes[server])];
    let spread = (real.dissemination(), simulated_dissemination(&scenario));
    let jobs = (real.jobs(&setup), simulated_jobs(&scenario));
    let within =
        [told("dissemination", &spread.0, &spread.1, bar), told("jobs", &jobs.0, &jobs.1, bar)];
    let percent = bar * 100.0;
    assert!(within.into_iter().all(|is| is), "they differ by more than {percent} %");
}

/// Prints both distributions and their ratios; says whether p50 and p90 agree.
fn told(what: &str, real: &Distribution, simulated: &Distribution, bar: f64) -> bool {
    let mut within = true;
    println!("{what}: {} real samples, {} simulated", real.count, simulated.count);
    let quantiles = [
        ("p50", real.p50, simulated.p50, true),
        ("p90", real.p90, simulated.p90, true),
        ("p99", real.p99, simulated.p99, false),
    ];
    for (name, real, simulated, judged) in quantiles {
        let ratio = real / simulated;
        println!("  {name} real {real:7.1} ms  simulated {simulated:7.1} ms  ratio {ratio:.3}");
        within &= !judged || (ratio - 1.0).abs() <= bar;
    }
    within
}

/// Real processes and the relays between them.
struct Real {
    mesh: Mesh,
    _relays: [Relay; 2],
}

impl Real {
    /// Starts the peers of the scenario one after the other and waits until each sees all.
    fn start(scenario: &Scenario, setup: &Setup) -> Self {
        let links = Links::of(scenario, SEED).expect("the matrix can be read");
        let (control, data) = (free(scenario.peers), free(scenario.peers));
        let relays = [
            Relay::start(&control, |a, b| links.latency(a, b)).expect("a relay"),
            // The simulator's jobs take the matrix as it is.
            Relay::start(&data, |a, b| setup.rtt[setup.hosts[a].region][setup.hosts[b].region] / 2)
                .expect("a relay"),
        ];
        let magika = hansa_runtime::models::magika(hansa_runtime::wheel::Progress::Stderr)
            .expect("magika can be fetched")
            .join("model.onnx");
        let mut mesh = Mesh::new();
        for (peer, host) in setup.hosts.iter().enumerate() {
            let behind = Behind {
                control: (control[peer], relays[0].fronts[peer]),
                data: (data[peer], relays[1].fronts[peer]),
            };
            let extra = "[telemetry]\nformat = \"json\"\nlog = \"info,hansa_node=debug\"\n";
            let mut spec =
                Spec { behind: Some(behind), extra, ..Spec::new(NAMES[peer], "SE", "SE") };
            if host.server.is_some() {
                spec = spec.with("magika", magika.clone());
            }
            let started = Instant::now();
            mesh.start(&spec);
            std::thread::sleep(JOIN_EVERY.saturating_sub(started.elapsed()));
        }
        mesh.await_all(Duration::from_secs(20));
        Self { mesh, _relays: relays }
    }

    /// From when each node begins to join to when each that was up has its record.
    fn dissemination(&self) -> Distribution {
        let logs: Vec<Vec<Taken>> = self.mesh.nodes.iter().map(taken).collect();
        let mut samples = Vec::new();
        for (index, node) in self.mesh.nodes.iter().enumerate() {
            let published = logs[index].iter().find(|taken| taken.peer == node.peer_id());
            let published = published.unwrap_or_else(|| panic!("{} says nothing", node.name)).at;
            for log in &logs[..index] {
                let taken = log.iter().find(|taken| taken.peer == node.peer_id());
                samples.push((taken.expect("all see all").at - published) * 1e3);
            }
        }
        Distribution::of(samples)
    }

    /// From request to answer, of the very jobs of the simulated world.
    fn jobs(&self, setup: &Setup) -> Distribution {
        let body = question();
        let entries: std::collections::BTreeSet<usize> =
            setup.arrivals.iter().map(|arrival| arrival.entry).collect();
        // Connections are open in the simulator from the beginning.
        for entry in entries {
            for (server, _) in setup.hosts.iter().enumerate().filter(|(_, h)| h.server.is_some()) {
                let only = [("Hansa-Operators", NAMES[server])];
                let answer = self.mesh.nodes[entry].infer("magika", &body, &only);
                assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.2));
            }
        }
        let start = Instant::now();
        let samples = std::thread::scope(|scope| {
            let jobs: Vec<_> = setup
                .arrivals
                .iter()
                .map(|arrival| {
                    std::thread::sleep(arrival.at.saturating_sub(start.elapsed()));
                    let (entry, body) = (&self.mesh.nodes[arrival.entry], &body);
                    let job = scope.spawn(move || {
                        let asked = Instant::now();
                        let answer = entry.infer("magika", body, &[]);
                        assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.2));
                        let took = asked.elapsed().as_secs_f64() * 1e3;
                        (took, header(&answer, "hansa-executed-by").to_owned(), entry.name.clone())
                    });
                    (arrival.at, job)
                })
                .collect();
            let counted = jobs.into_iter().filter(|(at, _)| *at >= setup.warm);
            counted.map(|(_, job)| job.join().expect("answered")).collect::<Vec<_>>()
        });
        let mut ways = BTreeMap::<(String, String), Vec<f64>>::new();
        for (took, by, entry) in &samples {
            ways.entry((entry.clone(), by.clone())).or_default().push(*took);
        }
        for ((entry, by), times) in ways {
            let (count, p50) = (times.len(), Distribution::of(times).p50);
            println!("  {entry} to {by}: {count} jobs, p50 {p50:.1} ms");
        }
        Distribution::of(samples.into_iter().map(|(took, _, _)| took).collect())
    }
}

/// What `hansa-sim calibrate` says of a node, pasted into a scenario.
fn device(node: &Node) -> DeviceSpec {
    let measured = calibrate(&node.url(), None).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{measured}");
    let text = format!("name = 'x'\npeers = 2\nseconds = 1\n{measured}");
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{error}")).device.remove(0)
}

#[test]
fn a_device_is_calibrated_and_what_cannot_be_is_told() {
    let magika = hansa_runtime::models::magika(hansa_runtime::wheel::Progress::Stderr)
        .expect("magika can be fetched")
        .join("model.onnx");
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika),
        Spec::new("dublin", "IE", "IE"),
    ]);
    let device = device(mesh.node("berlin"));
    assert!(device.prefill_ms > 0.0 && device.slots > 0, "{device:?}");
    let fault = |url: &str, model| calibrate(url, model).expect_err("a fault").to_string();
    let (berlin, dublin) = (mesh.node("berlin").url(), mesh.node("dublin").url());
    for (said, words) in [
        (fault(&berlin, Some("bert")), "berlin holds magika, not `bert`"),
        (fault(&dublin, None), "dublin holds no model"),
        (fault("http://127.0.0.1:1", None), "give the address of a node's API"),
        (fault("nonsense", None), "give the address of a node's API"),
    ] {
        assert!(said.contains(words), "{said}");
    }
}

/// A node had a peer's record, in seconds of the day.
struct Taken {
    peer: String,
    at: f64,
}

/// What a node's log says: when it began itself, and when it had others' records.
fn taken(node: &Node) -> Vec<Taken> {
    let text = std::fs::read_to_string(&node.log).expect("a log");
    let lines =
        text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let taken = |line: serde_json::Value| {
        let at = second_of_day(line["timestamp"].as_str()?)?;
        // The swarm is up: the node begins to dial.
        if let Some(own) = line["local_peer_id"].as_str() {
            return Some(Taken { peer: own.to_owned(), at });
        }
        let event = line["event"].as_str()?;
        let (_, rest) = event.split_once("peer: ")?;
        let is_news = event.starts_with("PeerJoined") || event.starts_with("PeerUpdated");
        let peer = rest.split([',', ' ']).next().filter(|_| is_news)?;
        Some(Taken { peer: peer.to_owned(), at })
    };
    lines.filter_map(taken).collect()
}

/// Of a timestamp such as `2026-11-23T10:14:53.123456Z`.
fn second_of_day(timestamp: &str) -> Option<f64> {
    let (_, time) = timestamp.trim_end_matches('Z').split_once('T')?;
    time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

/// One request for magika.
fn question() -> serde_json::Value {
    let row: Vec<i32> = (0..2048).map(|index| index % 257).collect();
    serde_json::json!({"inputs": [
        {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [row]},
    ]})
}

fn simulated_dissemination(scenario: &Scenario) -> Distribution {
    let mut joining = scenario.clone();
    let every = u64::try_from(JOIN_EVERY.as_millis()).expect("short");
    (joining.settled, joining.warmup_s) = (false, 0);
    joining.join_within_ms = every * joining.peers as u64;
    joining.seconds = joining.join_within_ms / 1_000 + 30;
    joining.arrivals.clear();
    let run = |seed| record(&joining, seed, &Progress::default());
    let mut samples = Vec::new();
    for recording in SEEDS.map(run) {
        assert_eq!(recording.violations, [], "seed {}", recording.seed);
        samples.extend(&recording.distributions[DISSEMINATION_MS].kept);
    }
    Distribution::of(samples)
}

fn simulated_jobs(scenario: &Scenario) -> Distribution {
    let mut samples = Vec::new();
    for seed in SEEDS {
        let setup = stage(scenario, seed).expect("the world is possible");
        let method = named("hansa").expect("a strategy");
        samples.extend(play(&setup, &mut Fixed::new(&setup), method).ttft_ms(|_| true));
    }
    Distribution::of(samples)
}
