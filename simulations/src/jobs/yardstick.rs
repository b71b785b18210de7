//! The yardstick: one world that all strategies are measured in, made without a file.

use std::time::Duration;

use hansa_core::policy::Policy;
use hansa_core::rng::Rng;

use crate::jobs::portable::{exponential, normal};
use crate::jobs::setup::{Arrival, Host, Law, Model, Server, Setup, Size, Terms};
use crate::scenario::{DeviceSpec, ServiceSpec};

/// Latitude, longitude, share of the demand, place.
const REGIONS: [(f64, f64, f64, &str); 8] = [
    (52.3, 4.8, 1.6, "NL"),
    (38.9, -77.5, 2.0, "US"),
    (37.4, -121.9, 1.2, "CA"),
    (1.4, 104.0, 0.7, "SG"),
    (35.8, 140.4, 0.6, "JP"),
    (-33.9, 151.2, 0.3, "AU"),
    (-23.4, -46.5, 0.6, "BR"),
    (19.1, 72.9, 1.0, "IN"),
];
/// Roughly the great-circle round trips of these regions in ms: 4 + km / 75, 8 within one.
const RTT_MS: [[u64; 8]; 8] = [
    [8, 86, 122, 144, 128, 225, 134, 95],
    [86, 8, 55, 211, 148, 213, 106, 174],
    [122, 55, 8, 185, 114, 163, 142, 185],
    [144, 211, 185, 8, 75, 88, 217, 56],
    [128, 148, 114, 75, 8, 108, 251, 94],
    [225, 213, 163, 88, 108, 8, 182, 139],
    [134, 106, 142, 217, 251, 182, 8, 187],
    [95, 174, 185, 56, 94, 139, 187, 8],
];

/// The yardstick: `servers` of 4, 8 or 16 slots and speed 0.5, 1 or 2, 64 entries, eight regions
/// with skewed demand, lognormal work (mean 4 s) after 0.25 s of prefill, at the load `rho`.
pub fn yardstick(seed: u64, servers: usize, rho: f64, lasts: Duration) -> Setup {
    let mut rng = Rng::new(seed);
    let host = |n: usize, server| Host {
        region: n % 8,
        terms: Some(Terms {
            location: REGIONS[n % 8].3.to_owned(),
            operator: format!("Operator {}", n / 8 % 5),
            control: REGIONS[n % 8].3.to_owned(),
            data_classes: [].into(),
        }),
        server,
        ..Host::default()
    };
    let server = |rng: &mut Rng| Server {
        device: 3 * rng.below(3) + rng.below(3),
        models: [0].into(),
        stages: [].into(),
    };
    let mut hosts: Vec<Host> = (0..servers).map(|n| host(n, Some(server(&mut rng)))).collect();
    hosts.extend((0..64).map(|n| host(n, None)));
    let mut setup = Setup {
        seed,
        devices: devices(),
        models: vec![Model::new("model", 1.0, 4_096)],
        laws: vec![Law { name: "anywhere".into(), policy: Policy::default() }],
        hosts,
        rtt: RTT_MS.map(|row| row.map(Duration::from_millis).to_vec()).to_vec(),
        jitter: Duration::ZERO,
        tokens: None,
        arrivals: Vec::new(),
        faults: Vec::new(),
        warm: lasts / 4,
        snapshot: Duration::from_secs(2),
        late: Duration::from_secs(2),
        moves: false,
        lists_age_max: None,
        retry_percent: hansa_core::flight::RETRY_PERCENT,
    };
    let servers_of = setup.hosts.iter().filter_map(|host| host.server.as_ref());
    let rate = rho * servers_of.map(|server| setup.pace(server)).sum::<f64>();
    let demand: f64 = REGIONS.iter().map(|region| region.2).sum();
    let mut at = 0.0;
    loop {
        at += exponential(&mut rng, 1.0 / rate);
        if at >= lasts.as_secs_f64() {
            return setup;
        }
        let mut point = rng.unit() * demand;
        let region = REGIONS.iter().position(|region| {
            point -= region.2;
            point < 0.0
        });
        let entry = servers + region.unwrap_or(0) + 8 * rng.below(8);
        setup.arrivals.push(Arrival {
            at: Duration::from_secs_f64(at),
            entry,
            model: 0,
            size: Size { tokens: None, chance: normal(&mut rng) },
            law: 0,
            deadline: Duration::from_secs(600),
        });
    }
}

/// 4, 8 or 16 slots of speed 0.5, 1 or 2.
fn devices() -> Vec<DeviceSpec> {
    let device = |slots, speed| DeviceSpec {
        slots,
        speed,
        service_ms: ServiceSpec { mean: 4_000.0, sigma: 0.9 },
        ..DeviceSpec::default()
    };
    let speeds = [0.5, 1.0, 2.0];
    [4, 8, 16].into_iter().flat_map(|slots| speeds.map(|speed| device(slots, speed))).collect()
}
