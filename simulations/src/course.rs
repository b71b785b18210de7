//! The course of a world: what its scenario does to it, act after act.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hansa_core::rng::{Rng, mix};
use hansa_core::time::Mono;

use crate::adversary::Adversaries;
use crate::links::{Links, Quality};
use crate::scenario::{FaultKind, FaultSpec, LieAbout, Scenario};
use crate::world::World;

/// Nothing is published in the last so many seconds: views are judged after quiet.
const QUIET_S: u64 = 10;

/// What befell the peers, for whoever lets them do more than gossip.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A peer is up, for the first time or again.
    Up(usize),
    /// It is down, with all that it had in hand.
    Down(usize),
    /// These are cut off from all others until then.
    Cut(BTreeSet<usize>, Mono),
    /// It is this many times slower than it was made.
    Slow(usize, f64),
}

/// A scenario under one seed, on its way.
pub struct Course<'a> {
    pub(crate) scenario: &'a Scenario,
    /// The peers, the links and their time.
    pub world: World,
    adversaries: Adversaries,
    rng: Rng,
    acts: BTreeSet<(Mono, Act)>,
    befallen: BTreeMap<usize, BTreeSet<usize>>,
}

/// What happens to the world from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Start {
        host: usize,
    },
    Publish,
    Republish {
        host: usize,
    },
    /// What happened so far was not measured.
    Warm,
    /// A fault of the scenario, by its index, begins.
    Begin {
        fault: usize,
    },
    /// It ends, for those whom it befell.
    End {
        fault: usize,
    },
    /// Peers that replay old records do so again.
    Replay {
        fault: usize,
    },
}

impl<'a> Course<'a> {
    /// The world of `scenario`, everybody still off.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let ms = Duration::from_millis;
        let [shortest, longest] = scenario.links.latency_ms;
        let quality = Quality {
            latency: (ms(shortest), ms(longest)),
            jitter: ms(scenario.links.jitter_ms),
            loss: scenario.links.loss,
        };
        let mut world = World::new(seed, scenario.peers, quality, scenario.gossip.params());
        if let Ok(links) = Links::of(scenario, seed) {
            world.set_links(links);
        }
        if let Some(shards) = scenario.gossip.shards {
            let shard = |host| vec![format!("shard-{}", host % shards)];
            (0..scenario.peers).for_each(|host| world.subscribe(host, shard(host)));
        }
        let adversaries = Adversaries::new(&mut world);
        let mut rng = Rng::new(mix(seed ^ 0xac75));
        hide(&mut world, scenario, &mut rng);
        let (acts, befallen) = (script(scenario), BTreeMap::new());
        Self { scenario, world, adversaries, rng, acts, befallen }
    }

    /// Switches on those who are there from the beginning; says who.
    pub fn begin(&mut self) -> Vec<Change> {
        if !self.scenario.settled {
            return Vec::new();
        }
        self.world.follow(false);
        self.world.start_settled();
        self.world.follow(self.scenario.warmup_s == 0);
        self.world.up().into_iter().map(Change::Up).collect()
    }

    /// When the next act is due.
    pub fn next(&self) -> Option<Mono> {
        self.acts.first().map(|(at, _)| *at)
    }

    /// Lets time pass until the next act is due, and lets it happen.
    pub fn act(&mut self) -> Vec<Change> {
        let Some((at, act)) = self.acts.pop_first() else { return Vec::new() };
        let world = &mut self.world;
        world.run_until(at);
        match act {
            Act::Start { host } => {
                // Whoever comes back asks the first peer that is up, as the first joiners did.
                let mut up = world.up().into_iter();
                let bootstrap =
                    up.find(|other| !world.is_hidden(*other) && world.shares_shards(host, *other));
                world.start(host, bootstrap);
                return vec![Change::Up(host)];
            }
            Act::Warm => world.follow(true),
            Act::Republish { host } => {
                if world.is_up(host) {
                    world.publish(host, &format!("node-{host}-at-{}", at.0));
                }
            }
            Act::Publish => {
                let up = world.up();
                let host = up[self.rng.below(up.len())];
                world.publish(host, &format!("node-{host}-at-{}", at.0));
            }
            Act::Begin { fault } => return self.befall(at, fault),
            Act::Replay { fault } => {
                for host in self.befallen.get(&fault).into_iter().flatten() {
                    self.adversaries.replay(world, *host, &mut self.rng);
                }
            }
            Act::End { fault } => {
                let whom = self.befallen.remove(&fault).unwrap_or_default();
                match self.scenario.fault[fault].kind {
                    FaultKind::Loss => world.links_mut().set_loss(self.scenario.links.loss),
                    FaultKind::Reorder => {
                        world.links_mut().set_reorder(self.scenario.links.reorder);
                    }
                    FaultKind::ClockJump => whom.iter().for_each(|host| world.set_clock(*host, 0)),
                    FaultKind::Gray => {
                        return whom.into_iter().map(|host| Change::Slow(host, 1.0)).collect();
                    }
                    _ => {}
                }
            }
        }
        Vec::new()
    }

    /// Lets time pass to the end of the scenario.
    pub fn end(&mut self) {
        self.world.run_until(Mono(0) + self.scenario.duration());
    }

    /// Where a forged charter counts.
    pub fn believed(&self) -> Vec<String> {
        self.adversaries.believed(&self.world)
    }

    fn befall(&mut self, at: Mono, fault: usize) -> Vec<Change> {
        let (scenario, world) = (self.scenario, &mut self.world);
        let spec = &scenario.fault[fault];
        let whom = whom(&mut self.rng, &world.up(), spec, scenario);
        let lasting = Duration::from_secs(spec.until_s.unwrap_or(scenario.seconds) - spec.at_s);
        // Where jobs are played, such adverts are made with the stage and told from the beginning.
        let is_told = !scenario.has_jobs();
        let mut changes = Vec::new();
        match spec.kind {
            FaultKind::Partition => {
                world.cut(whom.clone(), lasting);
                changes.push(Change::Cut(whom.clone(), at + lasting));
            }
            FaultKind::Crash | FaultKind::Restart | FaultKind::RegionLost => {
                whom.iter().for_each(|host| world.kill(*host));
                changes.extend(whom.iter().copied().map(Change::Down));
                if spec.until_s.is_some() {
                    let back = whom.iter().map(|host| (at + lasting, Act::Start { host: *host }));
                    self.acts.extend(back);
                }
            }
            FaultKind::Loss => world.links_mut().set_loss(spec.by.unwrap_or(0.0)),
            FaultKind::Reorder => world.links_mut().set_reorder(spec.by.unwrap_or(0.0)),
            FaultKind::ClockJump => {
                let jump = spec.jump_ms.unwrap_or(0);
                whom.iter().for_each(|host| world.set_clock(*host, jump));
            }
            FaultKind::LyingAdverts if is_told => {
                let about = spec.about.unwrap_or(LieAbout::Capacity);
                whom.iter().for_each(|host| self.adversaries.lie(world, *host, about));
            }
            FaultKind::ForgedCharters if is_told => {
                whom.iter().for_each(|host| self.adversaries.forge(world, *host));
            }
            FaultKind::Replay => {
                self.adversaries.remember(world);
                let every = Duration::from_secs(1);
                let mut again = at + every;
                while again < at + lasting {
                    self.acts.insert((again, Act::Replay { fault }));
                    again = again + every;
                }
            }
            FaultKind::Gray => {
                let times = spec.by.unwrap_or(1.0);
                changes.extend(whom.iter().map(|host| Change::Slow(*host, times)));
            }
            // From the beginning.
            FaultKind::Nat | FaultKind::LyingAdverts | FaultKind::ForgedCharters => {}
        }
        if spec.until_s.is_some() {
            self.acts.insert((at + lasting, Act::End { fault }));
        }
        self.befallen.insert(fault, whom);
        changes
    }
}

/// Puts peers behind NAT; the first one stays in the open, since others join through it.
fn hide(world: &mut World, scenario: &Scenario, rng: &mut Rng) {
    for spec in scenario.fault.iter().filter(|spec| spec.kind == FaultKind::Nat) {
        let others: Vec<usize> = (1..scenario.peers).collect();
        let whom = whom(rng, &others, spec, scenario);
        Adversaries::hide(world, &whom, rng);
    }
}

fn script(scenario: &Scenario) -> BTreeSet<(Mono, Act)> {
    let mut acts = BTreeSet::new();
    let join = Duration::from_millis(scenario.join_within_ms);
    let seconds = |s: u64| Mono(0) + Duration::from_secs(s);
    let quiet = seconds(scenario.seconds - QUIET_S.min(scenario.seconds / 4));
    for host in 0..scenario.peers {
        let part = u32::try_from(host).expect("few peers");
        let at = Mono(0) + join * part / u32::try_from(scenario.peers).expect("few peers");
        if !scenario.settled {
            acts.insert((at, Act::Start { host }));
        }
    }
    if scenario.warmup_s > 0 {
        acts.insert((seconds(scenario.warmup_s), Act::Warm));
    }
    if let Some(every) = scenario.republish_s {
        let every = Duration::from_secs(every);
        let peers = u32::try_from(scenario.peers).expect("few peers");
        for host in 0..scenario.peers {
            let mut at = Mono(0) + join + every * u32::try_from(host).expect("few peers") / peers;
            while at < quiet {
                acts.insert((at, Act::Republish { host }));
                at = at + every;
            }
        }
    }
    if let Some(every) = scenario.publish_every_ms {
        let every = Duration::from_millis(every);
        let mut at = Mono(0) + join + Duration::from_secs(5);
        while at < quiet {
            acts.insert((at, Act::Publish));
            at = at + every;
        }
    }
    for (fault, spec) in scenario.fault.iter().enumerate() {
        acts.insert((seconds(spec.at_s), Act::Begin { fault }));
    }
    acts
}

/// Whom a fault befalls: all of its region, or so many of those that are up.
fn whom(rng: &mut Rng, up: &[usize], spec: &FaultSpec, scenario: &Scenario) -> BTreeSet<usize> {
    let regions = scenario.region_of_peers();
    let named = spec.region.as_ref();
    let here =
        |host: &usize| named.is_none_or(|name| scenario.region[regions[*host]].name == *name);
    let up: Vec<usize> = up.iter().copied().filter(here).collect();
    let of = if named.is_some() { up.len() } else { scenario.peers };
    let millis = |share: f64| (0..=1_000).rfind(|m| f64::from(*m) <= share * 1_000.0).unwrap_or(0);
    let share = spec.share.map(|share| usize::try_from(millis(share)).expect("a share"));
    let count = match (share, spec.count) {
        (Some(millis), _) => (of * millis + 500) / 1_000,
        (None, Some(count)) => count,
        (None, None) if named.is_some() => of,
        (None, None) => 0,
    };
    let mut drawn = BTreeSet::new();
    while drawn.len() < count.min(up.len()) {
        drawn.insert(up[rng.below(up.len())]);
    }
    drawn
}
