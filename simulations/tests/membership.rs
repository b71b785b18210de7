//! Membership in virtual time: what must hold of a mesh whatever its seed.
#![allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::{Advert, Version};
use hansa_core::directory::{Accusation, COLD, Event, Message, News, Params, Proven, Rumour, Talk};
use hansa_core::id::PeerId;
use hansa_core::time::{Mono, Now};
use hansa_core::view::Liveness;
use hansa_sim::links::Quality;
use hansa_sim::run::run_watched;
use hansa_sim::scenario::Scenario;
use hansa_sim::world::{GENESIS, World};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wan(loss: f64) -> Quality {
    let ms = Duration::from_millis;
    Quality { latency: (ms(20), ms(100)), jitter: ms(2), loss }
}

fn loopback() -> Quality {
    let us = Duration::from_micros;
    Quality { latency: (us(100), us(200)), jitter: us(20), loss: 0.0 }
}

/// A mesh of `peers` that came up one after the other, each knowing only the first.
fn mesh(test: &str, seed: u64, peers: usize, quality: Quality, params: Params) -> World {
    println!("{test}: seed {seed}");
    let mut world = World::new(seed, peers + 1, quality, params);
    for host in 0..peers {
        world.start(host, (host > 0).then_some(0));
        world.run_for(Duration::from_millis(50));
    }
    let took = world.run_until_done(s(60), World::converged);
    println!("{test}: {peers} peers meet in {took:?}");
    assert!(took.is_some(), "the mesh never met");
    world
}

fn news(news: News) -> Message {
    Message { news, ..Message::of(Talk::News) }
}

fn downs(world: &World) -> usize {
    let down = |event: &Event| matches!(event, Event::PeerDown { .. });
    world.observations().iter().filter(|observed| down(&observed.event)).count()
}

fn knows(world: &World, host: usize, peer: PeerId) -> Option<Liveness> {
    world.view(host).get(peer).map(|entry| entry.liveness)
}

/// Brings `message` to all others as if host 0 had sent it.
fn inject_everywhere(world: &mut World, message: &Message) {
    let from = world.id(0);
    for host in world.up().into_iter().filter(|host| *host != 0) {
        world.inject(from, host, message);
    }
}

fn accusation(world: &World, accuser: usize, subject: usize) -> Message {
    let claim = Accusation {
        accuser: world.id(accuser),
        subject: world.id(subject),
        version: world.own(subject).advert.version,
        issued: GENESIS + world.now().since(Mono(0)),
    };
    let said = Proven::sign(claim, world.key(accuser)).into();
    let accusations = vec![Rumour { hops: 0, said }];
    news(News { accusations, ..News::default() })
}

#[test]
fn a_partition_of_90_s_heals_to_equal_views() {
    for seed in [1, 2] {
        let mut world = mesh("partition", seed, 30, wan(0.01), Params::default());
        world.cut((0..10).collect(), s(90));
        world.run_for(s(45));
        world.publish(3, "renamed behind the cut");
        world.run_for(s(44));
        assert_ne!(knows(&world, 20, world.id(3)), Some(Liveness::Alive), "the cut cuts");
        world.run_for(s(1));
        let healed = world.run_until_done(s(90), World::converged);
        println!("partition: equal views {healed:?} after the heal");
        assert!(healed.is_some(), "views differ 90 s after the heal");
        assert_eq!(
            world.view(20).get(world.id(3)).unwrap().record.advert.name,
            "renamed behind the cut"
        );
    }
}

#[test]
fn a_side_that_is_cut_off_does_not_bury_the_rest() {
    let mut world = mesh("self-preservation", 3, 40, wan(0.0), Params::default());
    world.cut((0..20).collect(), s(120));
    world.run_for(s(115));
    for host in world.up() {
        let view = world.view(host);
        let down = view.entries().iter().filter(|entry| entry.liveness == Liveness::Down).count();
        // Over 20 % of 40 is 9, and no more.
        assert!(down <= 9, "host {host} believes {down} of 40 dead");
    }
    assert!(world.observations().iter().any(|o| matches!(o.event, Event::DownWithheld { .. })));
    world.run_for(s(5));
    let healed = world.run_until_done(s(90), World::converged);
    println!("self-preservation: equal views {healed:?} after the heal");
    assert!(healed.is_some());
}

#[test]
fn a_partition_floods_neither_side() {
    let mut world = mesh("flood", 5, 100, wan(0.0), Params::default());
    let messages = |world: &mut World, lasting| {
        let before = world.traffic();
        world.run_for(lasting);
        (world.traffic() - before).messages
    };
    world.run_for(s(30));
    let calm = messages(&mut world, s(60));
    world.cut((0..33).collect(), s(120));
    let verdicts = messages(&mut world, s(30));
    let cut = messages(&mut world, s(60));
    println!(
        "flood: {calm} messages a minute, {verdicts} in the first half of the cut, then {cut}"
    );
    assert!(2 * cut < 3 * calm, "{cut} messages in a minute of the cut, {calm} before");
}

#[test]
fn a_dead_peer_never_comes_back_as_a_ghost() {
    let params = Params { down_retention: s(60), ..Params::default() };
    let mut world = mesh("ghosts", 4, 12, wan(0.0), params);
    let old = world.own(5);
    let dead = world.id(5);
    world.publish(5, "last words");
    world.run_for(s(2));
    let last = world.own(5);
    world.kill(5);
    let detected = world.run_until_done(s(30), |world| world.ghosts().is_empty());
    println!("ghosts: all know of the death after {detected:?}");
    assert!(detected.is_some());
    let relay = |hops| {
        let records = [&old, &last].map(|record| Rumour { hops, said: record.clone() });
        news(News { records: records.into(), ..News::default() })
    };
    for round in 0..12 {
        inject_everywhere(&mut world, &relay(if round % 2 == 0 { 0 } else { COLD }));
        world.run_for(s(1));
        assert_eq!(world.ghosts(), [], "round {round}");
    }
    // Its tombstone outlives its place in the view.
    world.run_for(s(120));
    assert_eq!(knows(&world, 1, dead), None, "dropped after its retention");
    inject_everywhere(&mut world, &relay(0));
    world.run_for(s(1));
    assert_eq!(world.ghosts(), []);
    // A joiner that never heard of the death believes the old advert, until the others tell it.
    world.start(12, Some(0));
    world.run_for(s(1));
    world.inject(world.id(0), 12, &relay(0));
    let told = world.run_until_done(s(60), |world| world.ghosts().is_empty());
    println!("ghosts: the joiner is rid of it after {told:?}");
    assert!(told.is_some());
}

#[test]
fn a_restarted_peer_is_taken_at_once() {
    let mut world = mesh("restart", 5, 20, wan(0.0), Params::default());
    for (wait, skew_ms) in [(s(1), 0), (s(20), 0), (s(1), -50_000)] {
        // The last time its clock has gone back, so that its new boot looks older than the last.
        world.kill(7);
        world.run_for(wait);
        world.set_clock(7, skew_ms);
        world.start(7, Some(0));
        let back = world.run_until_done(s(2), |world| {
            let own = world.own(7).advert.version;
            world.up().iter().all(|host| {
                let view = world.view(*host);
                let entry = view.get(world.id(7));
                entry.is_some_and(|entry| {
                    entry.liveness == Liveness::Alive && entry.record.advert.version == own
                })
            })
        });
        println!("restart: off for {wait:?}, clock {skew_ms} ms: taken after {back:?}");
        assert!(back.is_some());
    }
}

#[test]
fn a_joiner_is_known_everywhere_within_two_seconds() {
    let cases =
        [(5, loopback(), Duration::from_millis(200)), (60, wan(0.0), s(2)), (60, wan(0.02), s(2))];
    for (peers, quality, limit) in cases {
        for seed in 10..13 {
            let mut world = mesh("join", seed, peers, quality.clone(), Params::default());
            world.run_for(s(5));
            world.start(peers, Some(0));
            let took = world.run_until_done(limit, World::converged);
            println!("join: one more of {peers}: everybody knows everybody after {took:?}");
            assert!(took.is_some());
        }
    }
}

#[test]
fn the_dead_are_found_and_the_living_are_left_alone() {
    let mut world = mesh("detection", 6, 100, wan(0.02), Params::default());
    world.run_for(s(5));
    let before = downs(&world);
    let dead: BTreeSet<usize> = [3, 21, 48, 77, 96].into();
    dead.iter().for_each(|host| world.kill(*host));
    let took = world.run_until_done(s(30), |world| world.ghosts().is_empty());
    println!("detection: all 475 pairs know after {took:?}");
    assert!(took.is_some_and(|took| took < s(15)), "{took:?}");
    world.run_for(s(10));
    assert_eq!(downs(&world) - before, 5 * 95, "each death is noticed once, and nothing else");
    assert_eq!(before, 0, "nobody was believed dead while all lived");
    assert!(world.converged());
}

#[test]
fn a_mesh_of_five_notices_one_dead_peer_and_a_second() {
    let mut world = mesh("five", 7, 5, loopback(), Params::default());
    for host in [4, 2] {
        world.kill(host);
        let took = world.run_until_done(s(30), |world| world.ghosts().is_empty());
        println!("five: host {host} is found dead after {took:?}");
        assert!(took.is_some());
    }
}

#[test]
fn a_leaver_vanishes_at_once_and_may_return() {
    let mut world = mesh("leave", 8, 30, wan(0.0), Params::default());
    let left = world.id(9);
    let record = world.own(9);
    world.leave(9);
    let gone = |world: &World| world.up().iter().all(|host| knows(world, *host, left).is_none());
    let took = world.run_until_done(s(1), gone);
    println!("leave: gone everywhere after {took:?}");
    assert!(took.is_some());
    let records = vec![Rumour { hops: 0, said: record }];
    inject_everywhere(&mut world, &news(News { records, ..News::default() }));
    world.run_for(s(20));
    assert!(gone(&world), "it came back by an old advert");
    world.start(9, Some(3));
    assert!(world.run_until_done(s(2), World::converged).is_some());
    assert_eq!(downs(&world), 0);
}

#[test]
fn a_peer_behind_nat_lives_by_its_relay() {
    println!("nat: seed 16");
    let mut world = World::new(16, 13, wan(0.01), Params::default());
    world.hide(12, 4);
    world.start(4, None);
    for host in (0..13).filter(|host| *host != 4) {
        world.start(host, Some(4));
    }
    assert!(world.run_until_done(s(10), World::converged).is_some());
    world.run_for(s(90));
    let suspected = |observed: &Event| matches!(observed, Event::PeerSuspect { .. });
    assert!(!world.observations().iter().any(|observed| suspected(&observed.event)));
    world.publish(12, "from behind");
    assert!(world.run_until_done(s(2), World::converged).is_some());
    world.kill(12);
    let took = world.run_until_done(s(40), |world| world.ghosts().is_empty());
    println!("nat: found dead after {took:?}");
    assert!(took.is_some());
}

#[test]
fn two_processes_with_one_key_are_no_flood() {
    let mut world = mesh("twins", 17, 5, loopback(), Params::default());
    for _ in 0..200 {
        // The twin outbids whatever the peer has published.
        let own = world.own(4).advert.clone();
        let epoch = own.version.epoch + 1;
        let version = Version { epoch, sequence: 0 };
        let twin = Advert { version, ..own }.sign(world.key(4));
        let now = Now { mono: world.now(), utc: world.own(4).advert.issued };
        let record = twin.verify(&Default::default(), now).unwrap();
        let records = vec![Rumour { hops: 0, said: record }];
        world.inject(world.id(0), 4, &news(News { records, ..News::default() }));
        world.run_for(Duration::from_millis(50));
    }
    let published = |event: &Event| matches!(event, Event::Published { .. });
    let by_it = world.observations().iter().filter(|o| o.peer == 4 && published(&o.event)).count();
    println!("twins: {by_it} adverts in 10 s");
    assert!((2..=10).contains(&by_it), "a burst of 4, then one every 2 s");
}

#[test]
fn who_publishes_all_the_time_is_paced_and_its_last_word_arrives() {
    let mut world = mesh("pace", 18, 20, wan(0.01), Params::default());
    for step in 0..100 {
        world.publish(3, &format!("name {step}"));
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(s(4));
    let refused = |event: &Event| matches!(event, Event::AdvertRefused { .. });
    assert!(!world.observations().iter().any(|observed| refused(&observed.event)));
    assert!(world.converged());
    assert_eq!(world.view(7).get(world.id(3)).unwrap().record.advert.name, "name 99");
}

#[test]
fn a_liar_takes_nobody_down() {
    let mut world = mesh("liar", 9, 12, wan(0.0), Params::default());
    for _ in 0..30 {
        for subject in 1..12 {
            let lie = accusation(&world, 0, subject);
            inject_everywhere(&mut world, &lie);
        }
        world.run_for(s(1));
    }
    assert_eq!(downs(&world), 0);
    let alive = |world: &World| {
        world.up().iter().all(|host| {
            world.view(*host).entries().iter().all(|entry| entry.liveness == Liveness::Alive)
        })
    };
    assert!(world.run_until_done(s(5), alive).is_some(), "lies stick");
}

#[test]
fn who_is_accused_by_many_refutes_and_lives() {
    let mut world = mesh("refute", 11, 12, wan(0.0), Params::default());
    let before = world.own(11).advert.version;
    let lies = [0, 1, 2].map(|accuser| accusation(&world, accuser, 11));
    for host in 3..11 {
        for lie in &lies {
            world.inject(world.id(0), host, lie);
        }
    }
    let observed = |world: &World, wanted: fn(&Event) -> bool| {
        world.observations().iter().any(|observed| wanted(&observed.event))
    };
    world.run_for(s(1));
    assert!(observed(&world, |event| matches!(event, Event::PeerSuspect { .. })));
    world.run_for(s(20));
    assert!(observed(&world, |event| matches!(event, Event::Refuted { .. })));
    assert!(world.own(11).advert.version > before);
    assert_eq!(downs(&world), 0);
    assert!(world.converged());
}

#[test]
fn a_wall_clock_that_jumps_kills_nobody() {
    let mut world = mesh("clock", 12, 8, wan(0.0), Params::default());
    for skew_ms in [7_200_000, -7_200_000] {
        world.set_clock(3, skew_ms);
        world.publish(3, "from another time");
        world.run_for(s(60));
        assert_eq!(downs(&world), 0, "clock off by {skew_ms} ms");
    }
    world.set_clock(3, 0);
    world.publish(3, "back in time");
    assert!(world.run_until_done(s(30), World::converged).is_some());
}

#[test]
fn an_idle_mesh_is_quiet() {
    let mut world = mesh("idle", 13, 5, loopback(), Params::default());
    world.run_for(s(10));
    let before = world.traffic();
    world.run_for(s(100));
    let after = world.traffic();
    let messages = (after.messages - before.messages) as f64 / 500.0;
    let bytes = (after.bytes - before.bytes) as f64 / 500.0;
    println!("idle: {messages:.2} messages and {bytes:.0} bytes a second and peer");
    assert!(messages < 2.0 && bytes < 100.0);
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| {
        let mut world = mesh("seed", seed, 15, wan(0.05), Params::default());
        world.kill(4);
        world.cut([1, 2, 3].into(), s(20));
        world.run_for(s(60));
        world.hash()
    };
    assert_eq!(run(14), run(14));
    assert_ne!(run(14), run(15));
}

#[test]
fn peers_know_each_other_only_within_a_shard_that_both_name() {
    println!("shards: seed 19");
    let mut world = World::new(19, 60, wan(0.01), Params::default());
    let (eu, us) = ("eu".to_owned(), "us".to_owned());
    for host in 0..60 {
        let shards = match host {
            0 => vec![eu.clone(), us.clone()],
            1..30 => vec![eu.clone()],
            _ => vec![us.clone()],
        };
        world.subscribe(host, shards);
        world.start(host, (host > 0).then_some(0));
    }
    let took = world.run_until_done(s(30), World::converged);
    println!("shards: views are equal within each shard after {took:?}");
    assert!(took.is_some());
    assert_eq!(world.view(0).entries().len(), 60, "who is in both knows all");
    assert_eq!(world.view(5).entries().len(), 30);
    assert_eq!(world.view(50).entries().len(), 31);
    assert_eq!(knows(&world, 5, world.id(50)), None);
    world.publish(0, "the bridge");
    world.kill(7);
    world.run_for(s(20));
    for host in [3, 40] {
        assert_eq!(world.view(host).get(world.id(0)).unwrap().record.advert.name, "the bridge");
    }
    assert_eq!(knows(&world, 0, world.id(7)), Some(Liveness::Down));
    assert_eq!(knows(&world, 40, world.id(7)), None);
}

#[test]
fn a_run_is_the_same_whether_messages_travel_as_bytes_or_as_they_are() {
    let run = |encoded: bool| {
        println!("encoded {encoded}: seed 20");
        let mut world = World::new(20, 40, wan(0.02), Params::default());
        if encoded {
            world.encode_messages();
        }
        for host in 0..40 {
            world.start(host, (host > 0).then_some(0));
            world.run_for(Duration::from_millis(50));
        }
        world.run_for(s(10));
        world.publish(3, "news");
        world.kill(7);
        world.cut([10, 11, 12].into(), s(15));
        world.run_for(s(40));
        assert_eq!(world.faults(), []);
        (world.hash(), world.traffic())
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_round_trip_that_nobody_measured_is_guessed_from_coordinates() {
    let seed = 3;
    println!("coordinates: seed {seed}");
    let places = [[52.3, 4.8], [38.9, -77.5], [37.4, -121.9], [1.4, 104.0], [-23.4, -46.6]];
    let region =
        |at: &[f64; 2]| format!("[[region]]\nname = 'at {at:?}'\nat = {at:?}\npeers = 8\n");
    let regions: String = places.iter().map(region).collect();
    let text = format!(
        "name = 'coordinates'\nseconds = 1200\nsettled = true\n{regions}[links]\nmodel = 'geography'\njitter_ms = 2\n"
    );
    let scenario = Scenario::parse(&text).unwrap();
    let mut errors = Vec::new();
    run_watched(&scenario, seed, &mut |world, _| {
        if world.up().len() < 40 {
            return;
        }
        let pairs = (0..40).flat_map(|a| (0..40).map(move |b| (a, b))).filter(|(a, b)| a != b);
        errors = pairs
            .filter_map(|(a, b)| {
                let view = world.view(a);
                let theirs = view.get(world.id(b))?.record.advert.coordinate;
                let guess = view.at().round_trip(&theirs)?.as_secs_f64();
                let truth = 2.0 * world.links().latency(a, b).as_secs_f64();
                Some((guess - truth).abs() / truth)
            })
            .collect();
    });
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    println!("coordinates: {} pairs, median error {:.0} %", errors.len(), median * 100.0);
    assert!(errors.len() > 40 * 39 * 9 / 10, "few peers know where they are");
    assert!(median < 0.15, "median error {median}");
}
