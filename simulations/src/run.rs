//! Lets a scenario happen under one seed and judges what came of it.

use std::time::Duration;

use hansa_core::time::Mono;
use serde::Serialize;

use crate::course::Course;
use crate::ledger::Tally;
use crate::scenario::Scenario;
use crate::world::{World, Wrong};

/// Larger worlds keep figures only, not every observation.
const OBSERVED_PEERS: usize = 500;

/// What was published this shortly before the end need not be known everywhere: anti-entropy, which
/// catches the last, comes round in a little more.
const SPREADING: Duration = Duration::from_secs(15);
/// Where links lose packets, anti-entropy's own may be lost, too.
const SPREADING_LOSSY: Duration = Duration::from_secs(30);

/// A world is shown this often, whatever happens in it.
const WATCHED_EVERY: Duration = Duration::from_secs(1);

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
    /// Such verdicts in the wake of a cut, on the word of those who were cut off.
    pub hearsay_downs: usize,
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

/// Runs `scenario` under `seed`.
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    run_watched(scenario, seed, &mut |_, _| {})
}

/// The same, and shows the world to `watch` at its beginning, each second, before each act, and, with
/// the word that it is, at its end.
pub fn run_watched(
    scenario: &Scenario,
    seed: u64,
    watch: &mut dyn FnMut(&mut World, bool),
) -> Outcome {
    let mut course = Course::new(scenario, seed);
    if scenario.peers > OBSERVED_PEERS {
        course.world.forget_observations();
    }
    watch(&mut course.world, false);
    course.begin();
    while let Some(at) = course.next() {
        pass_until(&mut course.world, at, watch);
        watch(&mut course.world, false);
        course.act();
    }
    let end = (Mono(0) + scenario.duration()).max(course.world.now());
    pass_until(&mut course.world, end, watch);
    watch(&mut course.world, true);
    judge(&course, seed)
}

/// Lets time pass until `end`.
fn pass_until(world: &mut World, end: Mono, watch: &mut dyn FnMut(&mut World, bool)) {
    while world.now() + WATCHED_EVERY < end {
        world.run_until(world.now() + WATCHED_EVERY);
        watch(world, false);
    }
    world.run_until(end);
}

/// What came of a course that has ended.
pub fn judge(course: &Course<'_>, seed: u64) -> Outcome {
    let world = &course.world;
    let (ledger, traffic) = (world.ledger(), world.traffic());
    let is_lossy = course.scenario.links.loss > 0.0;
    let spreading = if is_lossy { SPREADING_LOSSY } else { SPREADING };
    let differences = world.differences(DIFFERENCES_MAX, spreading);
    // A ghost is a difference, too; where there is none, nobody need be looked for.
    let ghosts = if differences.is_empty() { 0 } else { world.ghosts().len() };
    Outcome {
        seed,
        hash: world.hash().to_string(),
        dissemination_ms: Quantiles::of(&ledger.dissemination),
        detection_ms: Quantiles::of(&ledger.detection),
        false_downs: usize::try_from(ledger.false_downs).expect("few"),
        hearsay_downs: usize::try_from(ledger.hearsay_downs).expect("few"),
        ghosts,
        differences,
        wrongs: world.wrongs().to_vec(),
        believed: course.believed(),
        unreadable: world.faults().len(),
        messages: traffic.messages,
        bytes: traffic.bytes,
    }
}
