//! Lets a scenario happen under one seed and judges what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hansa_core::rng::{Rng, mix};
use hansa_core::time::Mono;
use serde::Serialize;

use crate::adversary::Adversaries;
use crate::ledger::Tally;
use crate::links::{Links, Quality};
use crate::scenario::{FaultKind, FaultSpec, LieAbout, Scenario};
use crate::world::{World, Wrong};

/// Larger worlds keep figures only, not every observation.
const OBSERVED_PEERS: usize = 500;

/// Nothing is published in the last so many seconds: views are judged after quiet.
const QUIET_S: u64 = 10;

/// What was published this shortly before the end need not be known everywhere: anti-entropy, which
/// catches the last, comes round in a little more.
const SPREADING: Duration = Duration::from_secs(15);

/// So many differences of views are told.
const DIFFERENCES_MAX: usize = 4;

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The seed, from which all of it follows.
    pub seed: u64,
    /// Hash over all events.
    pub hash: String,
    /// From an advert's publication until another peer has it, over all pairs of peers that were
    /// up and not cut off all that time.
    pub dissemination_ms: Quantiles,
    /// From a peer's death until another peer believes it, over all such pairs.
    pub detection_ms: Quantiles,
    /// Verdicts of death on peers that lived and could be reached.
    pub false_downs: usize,
    /// Peers believed in at the end although they are dead, over all pairs.
    pub ghosts: usize,
    /// Where views were not true at the end; the first few.
    pub differences: Vec<String>,
    /// What went wrong before.
    #[serde(skip)]
    pub wrongs: Vec<Wrong>,
    /// Where a forged charter counted at the end.
    pub believed: Vec<String>,
    /// Frames that a peer could not read.
    pub unreadable: usize,
    /// Messages carried.
    pub messages: u64,
    /// Bytes carried.
    pub bytes: u64,
}

/// How a figure is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// How many were measured.
    pub count: usize,
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// All are at most this.
    pub max: u64,
}

impl Outcome {
    /// What went wrong, in words; nothing when all is well.
    pub fn complaints(&self) -> Vec<String> {
        let checks = [
            (
                self.differences.is_empty(),
                format!("the views did not converge: {}", self.differences.join("; ")),
            ),
            (self.ghosts == 0, format!("{} ghosts are believed in", self.ghosts)),
            (self.false_downs == 0, format!("{} false verdicts of death", self.false_downs)),
            (
                self.believed.is_empty(),
                format!("forged charters count: {}", self.believed.join("; ")),
            ),
            (self.unreadable == 0, format!("{} frames could not be read", self.unreadable)),
        ];
        checks.into_iter().filter(|(well, _)| !well).map(|(_, complaint)| complaint).collect()
    }
}

impl Quantiles {
    fn of(tally: &Tally) -> Self {
        let at = |share| tally.quantile(share, tally.count()).unwrap_or_default();
        let count = usize::try_from(tally.count()).expect("fits in memory");
        Self { count, p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
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

/// Runs `scenario` under `seed`.
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    run_watched(scenario, seed, &mut |_| {})
}

/// The same, and shows the world to `watch` at its beginning, after each act and at its end.
pub fn run_watched(scenario: &Scenario, seed: u64, watch: &mut dyn FnMut(&mut World)) -> Outcome {
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
    if scenario.peers > OBSERVED_PEERS {
        world.forget_observations();
    }
    let mut adversaries = Adversaries::new(&mut world);
    let mut rng = Rng::new(mix(seed ^ 0xac75));
    hide(&mut world, scenario, &mut rng);
    watch(&mut world);
    if scenario.settled {
        world.follow(false);
        world.start_settled();
        world.follow(scenario.warmup_s == 0);
    }
    let mut acts = script(scenario);
    let mut befallen: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    while let Some((at, act)) = acts.pop_first() {
        world.run_until(at);
        watch(&mut world);
        match act {
            Act::Start { host } => {
                // Whoever comes back asks the first peer that is up, as the first joiners did.
                let bootstrap = world.up().into_iter().find(|host| !world.is_hidden(*host));
                world.start(host, bootstrap);
            }
            Act::Warm => world.follow(true),
            Act::Republish { host } => {
                if world.is_up(host) {
                    world.publish(host, &format!("node-{host}-at-{}", at.0));
                }
            }
            Act::Publish => {
                let up = world.up();
                let host = up[rng.below(up.len())];
                world.publish(host, &format!("node-{host}-at-{}", at.0));
            }
            Act::Begin { fault } => {
                let spec = &scenario.fault[fault];
                let whom = whom(&mut rng, &world.up(), spec, scenario);
                let lasting =
                    Duration::from_secs(spec.until_s.unwrap_or(scenario.seconds) - spec.at_s);
                match spec.kind {
                    FaultKind::Partition => world.cut(whom.clone(), lasting),
                    FaultKind::Crash | FaultKind::Restart | FaultKind::RegionLost => {
                        whom.iter().for_each(|host| world.kill(*host));
                        if spec.until_s.is_some() {
                            acts.extend(
                                whom.iter().map(|host| (at + lasting, Act::Start { host: *host })),
                            );
                        }
                    }
                    FaultKind::Loss => world.links_mut().set_loss(spec.by.unwrap_or(0.0)),
                    FaultKind::Reorder => world.links_mut().set_reorder(spec.by.unwrap_or(0.0)),
                    FaultKind::ClockJump => {
                        let jump = spec.jump_ms.unwrap_or(0);
                        whom.iter().for_each(|host| world.set_clock(*host, jump));
                    }
                    FaultKind::LyingAdverts => {
                        let about = spec.about.unwrap_or(LieAbout::Capacity);
                        whom.iter().for_each(|host| adversaries.lie(&mut world, *host, about));
                    }
                    FaultKind::ForgedCharters => {
                        whom.iter().for_each(|host| adversaries.forge(&mut world, *host));
                    }
                    FaultKind::Replay => {
                        adversaries.remember(&world);
                        let every = Duration::from_secs(1);
                        let mut again = at + every;
                        while again < at + lasting {
                            acts.insert((again, Act::Replay { fault }));
                            again = again + every;
                        }
                    }
                    // From the beginning; and what only jobs feel.
                    FaultKind::Nat | FaultKind::Gray => {}
                }
                if spec.until_s.is_some() {
                    acts.insert((at + lasting, Act::End { fault }));
                }
                befallen.insert(fault, whom);
            }
            Act::Replay { fault } => {
                for host in befallen.get(&fault).into_iter().flatten() {
                    adversaries.replay(&mut world, *host, &mut rng);
                }
            }
            Act::End { fault } => match scenario.fault[fault].kind {
                FaultKind::Loss => world.links_mut().set_loss(scenario.links.loss),
                FaultKind::Reorder => world.links_mut().set_reorder(scenario.links.reorder),
                FaultKind::ClockJump => {
                    befallen
                        .remove(&fault)
                        .into_iter()
                        .flatten()
                        .for_each(|host| world.set_clock(host, 0));
                }
                _ => {}
            },
        }
    }
    world.run_until(Mono(0) + scenario.duration());
    watch(&mut world);
    let believed = adversaries.believed(&world);
    Outcome { believed, ..judge(&world, seed) }
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

fn judge(world: &World, seed: u64) -> Outcome {
    let ledger = world.ledger();
    let traffic = world.traffic();
    Outcome {
        seed,
        hash: world.hash().to_string(),
        dissemination_ms: Quantiles::of(&ledger.dissemination),
        detection_ms: Quantiles::of(&ledger.detection),
        false_downs: usize::try_from(ledger.false_downs).expect("few"),
        ghosts: world.ghosts().len(),
        differences: world.differences(DIFFERENCES_MAX, SPREADING),
        wrongs: world.wrongs().to_vec(),
        believed: Vec::new(),
        unreadable: world.faults().len(),
        messages: traffic.messages,
        bytes: traffic.bytes,
    }
}
