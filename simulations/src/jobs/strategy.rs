//! Who gets the job: strategies that choose at once, beside the core's own.
//!
//! One is added in a few lines: the worked example is in `simulations/scenarios/README.md`.

use std::time::Duration;

use hansa_core::quote::Load;
use hansa_core::rng::Rng;
use hansa_core::survey::Asking;
use hansa_core::time::Mono;

use crate::jobs::prequal::Prequal;

/// What a strategy may read when it chooses.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Hosts that the policy permits.
    pub permitted: &'a [usize],
    /// The entry.
    pub entry: usize,
    /// Thousandths of a job that a host ends in a second; zero for entries.
    pub weight: &'a [u64],
    /// Load by host as it was at the last snapshot, up to two seconds ago.
    pub stale: &'a [Load],
    /// Load by host now, jobs on their way there counted: no real peer knows this.
    pub truth: &'a [Load],
    /// Round trip from the entry, by host.
    pub rtt: &'a [Duration],
    /// When it is.
    pub now: Mono,
    /// Of this strategy alone.
    pub rng: &'a mut Rng,
}

/// Chooses a host for each job at once. `None` refuses the job.
pub trait Strategy {
    /// One of `ask.permitted`.
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize>;
}

/// When the first byte would come if the job went to a host with this load.
pub fn expected(load: &Load, rtt: Duration) -> Duration {
    let slots = u32::from(load.slots.max(1));
    load.hold * (load.in_flight + 1).saturating_sub(slots) / slots + load.first + rtt
}

/// How jobs are placed in a run.
pub enum Method {
    /// By a strategy, at once.
    Direct(Box<dyn Strategy>),
    /// By the core: a survey of so many peers, then a flight.
    Hansa(Asking),
}

/// A method by name, for command lines.
pub fn named(name: &str) -> Option<Method> {
    let direct = |strategy: Box<dyn Strategy>| Some(Method::Direct(strategy));
    match name {
        "random" => direct(Box::new(Random)),
        "weighted-random" => direct(Box::new(Weighted)),
        "round-robin" => direct(Box::new(RoundRobin(0))),
        "power-of-two" => direct(Box::new(FreshTwoChoices)),
        "stale-two-choices" => direct(Box::new(TwoChoices)),
        "stale-least-loaded" => direct(Box::new(LeastLoaded)),
        "prequal" => direct(Box::<Prequal>::default()),
        "omniscient" => direct(Box::new(Omniscient)),
        "blind" => direct(Box::new(Blind)),
        "hansa" => Some(Method::Hansa(Asking::default())),
        "hansa-unasked" => Some(Method::Hansa(Asking { most: 0, ..Asking::default() })),
        _ => {
            let most = name.strip_prefix("hansa-")?.parse().ok()?;
            Some(Method::Hansa(Asking { most, ..Asking::default() }))
        }
    }
}

struct Random;
impl Strategy for Random {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let permitted = ask.permitted;
        (!permitted.is_empty()).then(|| permitted[ask.rng.below(permitted.len())])
    }
}

struct Weighted;
impl Strategy for Weighted {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let total: u64 = ask.permitted.iter().map(|host| ask.weight[*host]).sum();
        let wide = u128::from(ask.rng.next_u64()) * u128::from(total);
        let mut point = u64::try_from(wide >> 64).ok()?;
        ask.permitted.iter().copied().find(|host| {
            let hit = point < ask.weight[*host];
            point = point.saturating_sub(ask.weight[*host]);
            hit
        })
    }
}

struct RoundRobin(usize);
impl Strategy for RoundRobin {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        self.0 += 1;
        ask.permitted.get(self.0 % ask.permitted.len().max(1)).copied()
    }
}

struct TwoChoices;
impl Strategy for TwoChoices {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let (one, other) = (Random.choose(ask)?, Random.choose(ask)?);
        [one, other].into_iter().min_by_key(|host| expected(&ask.stale[*host], ask.rtt[*host]))
    }
}

/// Two drawn at random, as if asked without delay.
struct FreshTwoChoices;
impl Strategy for FreshTwoChoices {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let (one, other) = (Random.choose(ask)?, Random.choose(ask)?);
        [one, other].into_iter().min_by_key(|host| expected(&ask.truth[*host], ask.rtt[*host]))
    }
}

struct LeastLoaded;
impl Strategy for LeastLoaded {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let cost = |host: &usize| expected(&ask.stale[*host], ask.rtt[*host]);
        ask.permitted.iter().copied().min_by_key(cost)
    }
}

struct Omniscient;
impl Strategy for Omniscient {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let cost = |host: &usize| expected(&ask.truth[*host], ask.rtt[*host]);
        ask.permitted.iter().copied().min_by_key(cost)
    }
}

/// Ignores the policy: the checkers must catch it.
struct Blind;
impl Strategy for Blind {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let servers: Vec<usize> = (0..ask.weight.len()).filter(|n| ask.weight[*n] > 0).collect();
        (!servers.is_empty()).then(|| servers[ask.rng.below(servers.len())])
    }
}
