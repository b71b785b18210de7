//! Random worlds: topologies, charters, policies, models and faults from one seed.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::{Device, Price};
use hansa_core::policy::{Bounds, Clause, Policy, Split};
use hansa_core::rng::{Rng, mix};
use hansa_sim::arrivals::{exponential, normal};
use hansa_sim::jobs::law::groups;
use hansa_sim::jobs::setup::{
    AUTHORITY, Arrival, Fault, Host, Law, Model, Server, Setup, Size, Term, Terms,
};
use hansa_sim::scenario::{DeviceSpec, ServiceSpec};

const PLACES: [&str; 12] =
    ["NL", "DE-BE", "DE", "FR", "CH", "US-VA", "US-CA", "US", "SG", "JP", "BR", "IN"];
const OPERATORS: [&str; 4] = ["Acme", "Nord", "Sakura", "Verde"];
const CLASSES: [&str; 3] = ["finance", "health", "personal"];
const PURPOSES: [&str; 3] = ["care", "research", "support"];
const LISTS: [&str; 9] =
    ["EU", "EEA,CH", "US", "!US", "!US-CA", "EU,!DE", "DE-BE,US-VA", "!EU", "SG,JP,IN"];

/// A world of some `jobs` jobs.
pub(crate) fn random(seed: u64, jobs: usize) -> Setup {
    let rng = &mut Rng::new(mix(seed ^ 0x30_41d5));
    let regions = 1 + rng.below(6);
    let devices = (0..1 + rng.below(4)).map(|_| device(rng)).collect();
    let models = (0..1 + rng.below(4)).map(|n| model(rng, n)).collect();
    let laws = (0..1 + rng.below(10)).map(|_| Law { name: "law".into(), policy: policy(rng) });
    let mut setup = Setup {
        seed,
        devices,
        models,
        laws: laws.collect(),
        hosts: Vec::new(),
        rtt: round_trips(rng, regions),
        jitter: Duration::from_millis(rng.below(10) as u64),
        tokens: None,
        arrivals: Vec::new(),
        faults: Vec::new(),
        warm: Duration::ZERO,
        snapshot: Duration::from_secs(1),
        late: Duration::from_secs(2),
        moves: false,
        lists_age_max: None,
        retry_percent: hansa_core::flight::RETRY_PERCENT,
    };
    let places: Vec<&str> = (0..regions).map(|_| pick(rng, &PLACES)).collect();
    for _ in 0..4 + rng.below(40) {
        let region = rng.below(regions);
        let host = host(rng, &setup, region, places[region]);
        setup.hosts.push(host);
    }
    // Some entries run nothing, others serve too.
    let mut entries: Vec<usize> = (0..setup.hosts.len()).filter(|_| rng.below(8) == 0).collect();
    for _ in 0..1 + rng.below(5) {
        let region = rng.below(regions);
        entries.push(setup.hosts.len());
        let host = Host { server: None, ..host(rng, &setup, region, places[region]) };
        setup.hosts.push(host);
    }
    let servers = setup.hosts.iter().filter_map(|host| host.server.as_ref());
    let rate = (0.2 + rng.unit()) * servers.map(|server| setup.pace(server)).sum::<f64>();
    let mut at = 0.0;
    for _ in 0..jobs {
        at += exponential(rng) / rate.max(1.0);
        setup.arrivals.push(Arrival {
            at: Duration::from_secs_f64(at),
            entry: pick(rng, &entries),
            model: rng.below(setup.models.len()),
            size: Size { tokens: None, chance: normal(rng) },
            law: rng.below(setup.laws.len()),
            deadline: Duration::from_secs(pick(rng, &[1, 10, 60, 600])),
        });
    }
    // Charters end, are revoked and renewed while jobs run; a charter ends at a whole second.
    for host in &mut setup.hosts {
        let mut moment =
            |one_in| (rng.below(one_in) == 0).then(|| Duration::from_secs_f64(rng.unit() * at));
        let (ends, revoked) = (moment(8), moment(8));
        let ends = ends.map(|ends| Duration::from_secs(ends.as_secs() + 1));
        host.term = Term { ends, revoked, renewed: moment(4) };
    }
    setup.lists_age_max =
        (rng.below(8) == 0).then(|| Duration::from_secs_f64((1.0 + rng.unit() * at).floor()));
    for _ in 0..rng.below(20) {
        let (begin, host) = (rng.unit() * at, rng.below(setup.hosts.len()));
        let end = begin + rng.unit() * at / 4.0;
        let [fault, mend] = match rng.below(2) {
            0 => [Fault::Crash, Fault::Restart],
            _ => [Fault::Slow(10.0), Fault::Slow(1.0)],
        };
        let time = Duration::from_secs_f64;
        setup.faults.extend([(time(begin), host, fault), (time(end), host, mend)]);
    }
    setup
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len())]
}

/// Each with an even chance.
fn some(rng: &mut Rng, of: &[&str]) -> BTreeSet<String> {
    of.iter().filter(|_| rng.below(2) == 0).map(|one| (*one).to_owned()).collect()
}

fn device(rng: &mut Rng) -> DeviceSpec {
    DeviceSpec {
        slots: 1 + u32::try_from(rng.below(16)).expect("few"),
        speed: 0.3 + 3.0 * rng.unit(),
        prefill_ms: 200.0 * rng.unit(),
        service_ms: ServiceSpec { mean: 20.0 + 2_000.0 * rng.unit(), sigma: rng.unit() },
        ..DeviceSpec::default()
    }
}

fn model(rng: &mut Rng, n: usize) -> Model {
    Model::new(&format!("model-{n}"), 0.2 + 2.0 * rng.unit(), 1 + rng.below(65_536) as u64)
}

fn round_trips(rng: &mut Rng, regions: usize) -> Vec<Vec<Duration>> {
    let apart: Vec<u64> = (0..regions * regions).map(|_| 5 + rng.below(250) as u64).collect();
    let ms = |a: usize, b: usize| match a.cmp(&b) {
        Ordering::Equal => 1 + apart[a] % 10,
        Ordering::Less => apart[a * regions + b],
        Ordering::Greater => apart[b * regions + a],
    };
    let row = |a| (0..regions).map(|b| Duration::from_millis(ms(a, b))).collect();
    (0..regions).map(row).collect()
}

fn host(rng: &mut Rng, setup: &Setup, region: usize, place: &str) -> Host {
    let held = (0..setup.models.len()).filter(|_| rng.below(3) > 0).collect();
    let terms = Terms {
        location: place.to_owned(),
        operator: pick(rng, &OPERATORS).to_owned(),
        control: pick(rng, &PLACES)[..2].to_owned(),
        data_classes: some(rng, &CLASSES),
    };
    let computes = Device {
        provider: pick(rng, &["cpu", "cuda"]).to_owned(),
        name: String::new(),
        id: 0,
        memory_total_mib: pick(rng, &[8_192, 81_920]),
        memory_free_mib: 4_096,
        utilisation_percent: None,
    };
    Host {
        region,
        terms: (rng.below(10) > 0).then_some(terms),
        forged: rng.below(20) == 0,
        term: Term::default(),
        promises: hansa_core::terms::Terms {
            purposes: some(rng, &PURPOSES),
            keeps_receipts: rng.below(3) > 0,
        },
        serve: if rng.below(6) == 0 { bounds(rng) } else { Bounds::default() },
        send: if rng.below(6) == 0 { bounds(rng) } else { Bounds::default() },
        devices: vec![computes],
        server: Some(Server {
            device: rng.below(setup.devices.len()),
            models: held,
            stages: BTreeSet::new(),
        }),
        claims: (rng.below(20) == 0).then(|| rng.below(setup.models.len())).into_iter().collect(),
        boast: (rng.below(20) == 0).then_some(10),
        deaf: rng.below(4) == 0,
        price: (rng.below(3) == 0).then(|| Price {
            currency: pick(rng, &["EUR", "USD"]).to_owned(),
            per_device_second_micros: 1 + rng.below(1_000) as u64,
            per_gb_micros: 0,
        }),
    }
}

fn bounds(rng: &mut Rng) -> Bounds {
    let mut demand = hansa_core::policy::Demand::default();
    for key in ["locations", "control"] {
        if rng.below(3) == 0 {
            demand.set(key, pick(rng, &LISTS), &groups()).expect("a list of places");
        }
    }
    let mut bounds = demand.policy.bounds;
    if rng.below(4) == 0 {
        bounds.operators.allow = Some(some(rng, &OPERATORS));
    }
    if rng.below(4) == 0 {
        bounds.operators.deny.insert(pick(rng, &OPERATORS).to_owned());
    }
    if rng.below(4) == 0 {
        bounds.data_classes.insert(pick(rng, &CLASSES).to_owned());
    }
    if rng.below(10) == 0 {
        bounds.authorities.allow = Some(some(rng, &[AUTHORITY, "another"]));
    }
    if rng.below(20) == 0 {
        bounds.signatures_min = 2;
    }
    bounds
}

fn policy(rng: &mut Rng) -> Policy {
    let mut policy = Policy { bounds: bounds(rng), ..Policy::default() };
    if rng.below(6) == 0 {
        let bundle = Model::new(&format!("model-{}", rng.below(4)), 1.0, 1).bundle;
        policy.bundles = match rng.below(2) {
            0 => Clause { allow: Some([bundle].into()), ..Clause::default() },
            _ => Clause { deny: [bundle].into(), ..Clause::default() },
        };
    }
    if rng.below(4) == 0 {
        policy.hops_max = Some(u8::try_from(rng.below(3)).expect("few"));
    }
    if rng.below(6) == 0 {
        policy.device.provider = Some("cuda".into());
    }
    if rng.below(6) == 0 {
        policy.device.memory_mib_min = Some(40_000);
    }
    if rng.below(6) == 0 {
        policy.purpose = Some(pick(rng, &PURPOSES).to_owned());
    }
    policy.rtt_evidence = rng.below(8) == 0;
    if rng.below(6) == 0 {
        policy.price_micros_max = Some(pick(rng, &[0, 1_000_000_000_000]));
        policy.price_currency = Some("EUR".into());
    }
    policy.receipt_required = rng.below(8) == 0;
    if rng.below(20) == 0 {
        policy.split = Split::Rows;
    }
    policy
}
