//! What is played: hosts, links, jobs, faults. The yardstick is here too; scenario files are mapped
//! to a [`Setup`] elsewhere.

use std::time::Duration;

use hansa_core::policy::Policy;
use hansa_core::rng::Rng;

use crate::jobs::portable::{exp, exponential, normal};
use crate::jobs::server::Work;

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Row and column of [`Setup::rtt`].
    pub region: usize,
    /// Where its charter says it stands.
    pub place: String,
    /// Who operates it.
    pub operator: String,
    /// Jobs at once and speed of a server; none for an entry that runs nothing.
    pub server: Option<(u16, f64)>,
}

/// One job.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When, since the start.
    pub at: Duration,
    /// Index of the host that takes it.
    pub entry: usize,
    /// What it takes.
    pub work: Work,
    /// Bytes of its inputs.
    pub bytes: u64,
    /// Its law.
    pub policy: Policy,
    /// From its arrival to when it must be answered.
    pub deadline: Duration,
}

/// What befalls a server.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It loses all it has.
    Crash,
    /// It is back.
    Restart,
    /// It is this many times slower.
    Slow(f64),
}

/// All that is played.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Of all chance.
    pub seed: u64,
    /// Servers and entries.
    pub hosts: Vec<Host>,
    /// Round trips between regions.
    pub rtt: Vec<Vec<Duration>>,
    /// What servers say of their work in adverts.
    pub typical: Work,
    /// Jobs, in order of time.
    pub arrivals: Vec<Arrival>,
    /// What goes wrong: when, which host, what.
    pub faults: Vec<(Duration, usize, Fault)>,
    /// Figures count jobs from then on.
    pub warm: Duration,
}

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

/// Work of the yardstick's mean job.
pub const TYPICAL: Work =
    Work { prefill: Duration::from_millis(250), decode: Duration::from_secs(4) };

/// The yardstick: `servers` of 4, 8 or 16 slots and speed 0.5, 1 or 2, 64 entries, eight regions
/// with skewed demand, lognormal work (mean 4 s) after 0.25 s of prefill, at the load `rho`.
pub fn yardstick(seed: u64, servers: usize, rho: f64, lasts: Duration) -> Setup {
    let mut rng = Rng::new(seed);
    let host = |n: usize, server| Host {
        region: n % 8,
        place: REGIONS[n % 8].3.to_owned(),
        operator: format!("Operator {}", n / 8 % 5),
        server,
    };
    let mut hosts: Vec<Host> = (0..servers)
        .map(|n| host(n, Some(([4, 8, 16][rng.below(3)], [0.5, 1.0, 2.0][rng.below(3)]))))
        .collect();
    let slots = hosts.iter().filter_map(|host| host.server);
    let power: f64 = slots.map(|(slots, speed)| f64::from(slots) * speed).sum();
    let rate = rho * power / (TYPICAL.prefill + TYPICAL.decode).as_secs_f64();
    hosts.extend((0..64).map(|n| host(n, None)));
    let demand: f64 = REGIONS.iter().map(|region| region.2).sum();
    let (mut at, mut arrivals) = (0.0, Vec::new());
    loop {
        at += exponential(&mut rng, 1.0 / rate);
        if at >= lasts.as_secs_f64() {
            break;
        }
        let mut point = rng.unit() * demand;
        let region = REGIONS.iter().position(|region| {
            point -= region.2;
            point < 0.0
        });
        let entry = servers + region.unwrap_or(0) + 8 * rng.below(8);
        let decode = TYPICAL.decode.mul_f64(exp(0.9 * normal(&mut rng) - 0.405));
        arrivals.push(Arrival {
            at: Duration::from_secs_f64(at),
            entry,
            work: Work { decode, ..TYPICAL },
            bytes: 4_096,
            policy: Policy::default(),
            deadline: Duration::from_secs(600),
        });
    }
    let rtt = RTT_MS.map(|row| row.map(Duration::from_millis).to_vec()).to_vec();
    Setup { seed, hosts, rtt, typical: TYPICAL, arrivals, faults: Vec::new(), warm: lasts / 4 }
}
