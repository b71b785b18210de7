//! How much capacity the regions need to hold a goal: each for its own peak, or together, when one
//! works while another sleeps (the question that SkyWalker, a load balancer across regions, asks). Walls are policies, as
//! in any job: a part of the jobs may not leave its region.
//!
//! The demand stays as the scenario says it; the fleet is varied. First each region gets the fewest
//! servers that hold the goal for its own jobs. Then all may share, and all regions shrink by one
//! factor, the smallest that holds the goal in each of them still.

use hansa_core::policy::Policy;
use hansa_core::rng::{Rng, mix};

use super::law;
use super::mesh::Fixed;
use super::play::play;
use super::setup::{Host, Law, Setup};
use super::stage::stage;
use super::strategy::Method;
use crate::recording::{Recording, Violation};
use crate::scenario::{Constraints, Scenario, SharingSpec};

/// Halvings of the factor: to half a percent.
const HALVINGS: u32 = 8;
/// More servers than so many times the scenario's are not tried.
const FLEETS_MAX: usize = 64;

/// Searches, and records what it found as facts.
pub fn record(
    scenario: &Scenario,
    spec: &SharingSpec,
    seed: u64,
    method: &dyn Fn() -> Method,
    recording: &mut Recording,
) -> Result<u64, String> {
    let mut search = Search::new(scenario, spec, seed, method)?;
    let own = search.own_peaks()?;
    let slots = search.slots(&own);
    recording.fact("slots, each region its own peak", slots, "slots");
    for stay in &spec.stay {
        let shared = search.shared(&own, *stay);
        let percent = stay * 100.0;
        let needed = search.slots(&shared);
        recording.fact(&format!("slots, {percent} % may not leave"), needed, "slots");
        let saved = (1.0 - needed / slots) * 100.0;
        recording.fact(&format!("saved, {percent} % may not leave"), saved, "%");
    }
    recording.violations.extend(search.violation);
    Ok(search.hash)
}

struct Search<'a> {
    base: Setup,
    goal_ms: f64,
    method: &'a dyn Fn() -> Method,
    /// Entries, and the servers of each region that fleets are made of.
    entries: Vec<Host>,
    servers: Vec<Vec<Host>>,
    hash: u64,
    violation: Option<Violation>,
}

impl<'a> Search<'a> {
    fn new(
        scenario: &Scenario,
        spec: &SharingSpec,
        seed: u64,
        method: &'a dyn Fn() -> Method,
    ) -> Result<Self, String> {
        let mut base = stage(scenario, seed)?;
        let groups = law::groups();
        let own = Constraints { locations: Some("own".into()), ..Constraints::default() };
        let mut laws = vec![Law { name: "anywhere".into(), policy: Policy::default() }];
        for region in &scenario.region {
            let policy = law::policy(&own, &region.location, &groups);
            let policy = policy.map_err(|error| error.to_string())?;
            laws.push(Law { name: format!("only {}", region.name), policy });
        }
        base.laws = laws;
        let mut servers = vec![Vec::new(); scenario.region.len()];
        let (mut entries, mut moved) = (Vec::new(), vec![0; base.hosts.len()]);
        for (index, host) in std::mem::take(&mut base.hosts).into_iter().enumerate() {
            if host.server.is_some() {
                servers[host.region].push(host);
            } else {
                moved[index] = entries.len();
                entries.push(host);
            }
        }
        base.arrivals.iter_mut().for_each(|arrival| arrival.entry = moved[arrival.entry]);
        base.faults.clear();
        let (goal_ms, violation) = (spec.goal_ttft_ms, None);
        Ok(Self { base, goal_ms, method, entries, servers, hash: 0, violation })
    }

    /// So many servers in each region, cut from those that the scenario has there.
    fn fleet(&self, counts: &[usize]) -> Vec<Host> {
        let here = self.servers.iter().zip(counts);
        let servers = here.flat_map(|(servers, count)| servers.iter().cycle().take(*count));
        self.entries.iter().chain(servers).cloned().collect()
    }

    fn slots(&self, counts: &[usize]) -> f64 {
        let fleet = self.fleet(counts);
        let servers = fleet.iter().filter_map(|host| host.server.as_ref());
        servers.map(|server| f64::from(self.base.device(server).slots)).sum()
    }

    /// Whether this fleet holds the goal in each region, when this part of the jobs stays at home.
    fn holds(&mut self, counts: &[usize], stay: f64) -> Vec<bool> {
        let mut setup = Setup { hosts: self.fleet(counts), ..self.base.clone() };
        let mut rng = Rng::new(mix(setup.seed ^ 0x57a9));
        for arrival in &mut setup.arrivals {
            let region = self.entries[arrival.entry].region;
            arrival.law = if rng.unit() < stay { region + 1 } else { 0 };
        }
        let figures = play(&setup, &mut Fixed::new(&setup), (self.method)());
        self.hash = mix(self.hash ^ figures.hash);
        self.violation = self.violation.take().or(figures.checkers.first.clone());
        let region = |job: usize| self.entries[setup.arrivals[job].entry].region;
        let jobs = setup.arrivals.iter().filter(|arrival| arrival.at >= setup.warm);
        let mut left = vec![0_u64; counts.len()];
        jobs.for_each(|arrival| left[self.entries[arrival.entry].region] += 1);
        // One in a hundred may be late; one that never got its first byte is.
        let may = left.iter().map(|jobs| jobs / 100).collect::<Vec<u64>>();
        for (ttft, job) in &figures.ttft {
            let in_time = ttft.as_secs_f64() * 1e3 <= self.goal_ms;
            left[region(*job)] -= u64::from(in_time);
        }
        left.iter().zip(may).map(|(late, may)| *late <= may).collect()
    }

    /// The fewest servers with which each region holds the goal alone: all regions are searched at
    /// once, since none feels another.
    fn own_peaks(&mut self) -> Result<Vec<usize>, String> {
        let mut enough: Vec<usize> = self.servers.iter().map(Vec::len).collect();
        let mut too_few = vec![0; enough.len()];
        let most: Vec<usize> = enough.iter().map(|count| count * FLEETS_MAX).collect();
        loop {
            let held = self.holds(&enough, 1.0);
            if held.iter().all(|held| *held) {
                break;
            }
            for (region, _) in held.iter().enumerate().filter(|(_, held)| !**held) {
                too_few[region] = enough[region];
                enough[region] *= 2;
                if enough[region] > most[region] {
                    return Err(
                        "no fleet holds `sharing.goal_ttft_ms`: is it over the prefill?".into()
                    );
                }
            }
        }
        while enough.iter().zip(&too_few).any(|(enough, few)| enough - few > 1) {
            let middle = |(enough, few): (&usize, &usize)| (enough + few).div_ceil(2);
            let tried: Vec<usize> = enough.iter().zip(&too_few).map(middle).collect();
            for (region, held) in self.holds(&tried, 1.0).into_iter().enumerate() {
                // The last of a region that is found already is `enough` itself.
                if held || tried[region] == enough[region] {
                    enough[region] = tried[region];
                } else {
                    too_few[region] = tried[region];
                }
            }
        }
        Ok(enough)
    }

    /// The fleet of `own`, made smaller by the smallest factor that holds the goal.
    fn shared(&mut self, own: &[usize], stay: f64) -> Vec<usize> {
        let all = 1_usize << HALVINGS;
        let fleet = |parts: usize| -> Vec<usize> {
            own.iter().map(|count| (count * parts).div_ceil(all)).collect()
        };
        let (mut too_few, mut enough) = (0, all);
        while enough - too_few > 1 {
            let middle = (too_few + enough) / 2;
            if self.holds(&fleet(middle), stay).into_iter().all(|held| held) {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        fleet(enough)
    }
}
