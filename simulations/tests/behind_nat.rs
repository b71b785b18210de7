//! Jobs for peers that nobody can dial: they go through a relay, as long as it is there, and the
//! relay gets none of them.
#![allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.

use std::time::Duration;

use hansa_sim::jobs::figures::Figures;
use hansa_sim::jobs::gossiping::Gossiping;
use hansa_sim::jobs::play::play;
use hansa_sim::jobs::stage::stage;
use hansa_sim::jobs::strategy::named;
use hansa_sim::scenario::Scenario;

/// A round trip between Amsterdam and Singapore, at least.
const RTT: Duration = Duration::from_millis(150);
/// A job's first byte takes as long.
const WORK: Duration = Duration::from_millis(100);

/// Eight peers in Singapore that serve nothing, and in Amsterdam an entry and six peers behind NAT
/// that serve. No job may leave the Netherlands.
fn scenario(model: &str, more: &str) -> Scenario {
    let region = |name: &str, at: &str, place: &str, peers: &str| {
        format!("[[region]]\nname = '{name}'\nat = {at}\nlocation = '{place}'\n{peers}\n")
    };
    let text = format!(
        "name = 'x'\nseconds = 60\nsettled = true\nreplay = false\n{}{}{}\
         [links]\nmodel = 'geography'\njitter_ms = 1\n\
         [[device]]\nslots = 8\nprefill_ms = 100\nservice_ms = {{ mean = 100, sigma = 0 }}\n\
         [[model]]\nname = 'm'\n{model}\n\
         [[policy]]\nname = 'at home'\nrequire = {{ locations = 'own' }}\ndeadline_ms = 20000\n\
         [[arrivals]]\nkind = 'poisson'\nrate = 10\nfrom_s = 5\nuntil_s = 50\n\
         [routing]\nstrategy = 'hansa'\n\
         [[fault]]\nkind = 'nat'\nregion = 'home'\nat_s = 0\n{more}",
        region("cloud", "[1.4, 104.0]", "SG", "peers = 8\nentries = 8\nweight = 0"),
        region("office", "[52.3, 4.8]", "NL", "peers = 1\nentries = 1"),
        region("home", "[52.3, 4.8]", "NL", "peers = 6\nweight = 0"),
    );
    Scenario::parse(&text).unwrap()
}

/// The entry is behind NAT, too: whatever it sends home goes through Singapore.
const NOBODY_IN_THE_OPEN: &str = "[[fault]]\nkind = 'nat'\nregion = 'office'\nat_s = 0\n";

/// Plays it, and sees to it that all jobs are answered and none has gone where it may not.
fn answered(scenario: &Scenario, seed: u64) -> Figures {
    println!("seed {seed}");
    let setup = stage(scenario, seed).unwrap();
    let mut mesh = Gossiping::new(scenario, &setup, seed);
    let figures = play(&setup, &mut mesh, named("hansa").expect("a strategy"));
    assert_eq!(figures.checkers.first, None, "seed {seed}");
    let jobs = setup.arrivals.len() as u64;
    assert_eq!((figures.answered, figures.refused), (jobs, 0), "seed {seed}");
    assert_eq!(figures.flows, [((1, 2), jobs)].into(), "seed {seed}");
    figures
}

#[test]
fn a_peer_behind_nat_is_sent_jobs_through_its_relay() {
    let figures = answered(&scenario("", ""), 1);
    assert_eq!(figures.sends, figures.answered, "none is sent twice");
    // Some have the entry itself as a relay, and are asked and answer sooner.
    let is_far = |ttft: Duration| ttft >= WORK + 2 * RTT;
    let far = figures.ttft.iter().filter(|(ttft, _)| is_far(*ttft)).count();
    assert!(far > 0 && far < figures.ttft.len(), "{far} of {} took the detour", figures.ttft.len());
}

#[test]
fn two_peers_behind_nat_talk_through_a_relay_of_the_one_that_is_asked() {
    let figures = answered(&scenario("", NOBODY_IN_THE_OPEN), 2);
    let (fastest, _) = figures.ttft[0];
    assert!(fastest >= WORK + 2 * RTT, "{fastest:?}");
}

#[test]
fn activations_go_from_stage_to_stage_through_relays() {
    let figures = answered(&scenario("stages = 3", NOBODY_IN_THE_OPEN), 3);
    assert_eq!(figures.passes.len() as u64, figures.answered);
    for pass in &figures.passes {
        // To the first stage, twice to the next, and home.
        assert!(pass.hosts.len() == 3 && pass.took >= 2 * WORK + 4 * RTT, "{pass:?}");
        let jitter = Duration::from_millis(8);
        assert!(pass.mended > 0 || pass.took <= pass.law + pass.waited + jitter, "{pass:?}");
    }
}

#[test]
fn jobs_on_a_relay_that_dies_go_on_by_another() {
    // Where both that hold a stage were lost by their relays, jobs find none for ten seconds.
    for (kind, count, model, sends) in
        [("crash", 5, "", 1), ("partition", 5, "", 1), ("crash", 1, "stages = 3", 3)]
    {
        let region = format!("region = 'cloud'\ncount = {count}");
        let dies = format!("[[fault]]\nkind = '{kind}'\n{region}\nat_s = 20\n");
        let scenario = scenario(model, &(dies + NOBODY_IN_THE_OPEN));
        let lost = |seed| {
            let figures = answered(&scenario, seed);
            figures.sends - figures.answered * sends
        };
        let lost: Vec<u64> = (1..=4).map(lost).collect();
        println!("{kind} {model}: {lost:?} were lost");
        assert!(lost.iter().sum::<u64>() > 4, "{lost:?}");
    }
}

#[test]
fn a_seed_is_a_run_behind_nat() {
    let hash = |seed| answered(&scenario("", ""), seed).hash;
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}
