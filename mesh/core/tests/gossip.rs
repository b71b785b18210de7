//! The directory at its border: what peers may send, and what must not change anything. Meshes in
//! virtual time are tested in `simulations/tests/membership.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, AdvertFault, Model, Record, Version};
use hansa_core::charter::Trust;
use hansa_core::directory::{
    Accusation, BUCKETS, COLD, ClaimFault, Directory, Event, FrameFault, GROUP_BUCKETS, GROUPS,
    Held, Input, Leave, Message, News, Output, Params, Proven, Refused, Rumour, Standing, Talk,
};
use hansa_core::id::{Digest, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::limits::*;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::Liveness;
use proptest::prelude::*;

const START: Now = Now { mono: Mono(1_000_000_000_000), utc: Utc(1_800_000_000_000) };

fn later(after: Duration) -> Now {
    Now { mono: START.mono + after, utc: START.utc + after }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn key(index: u16) -> SigningKey {
    let Digest(seed) = Digest::of(&index.to_le_bytes());
    SigningKey::from_seed(&seed)
}

fn advert(index: u16, sequence: u64, issued: Utc) -> Advert {
    Advert {
        peer: key(index).peer_id(),
        version: Version { epoch: START.utc.0, sequence },
        issued,
        name: format!("node-{index}"),
        control_addrs: vec![format!("/ip4/10.0.0.1/udp/{index}/quic-v1")],
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: None,
        devices: Vec::new(),
        models: Vec::new(),
        price: None,
        extensions: Vec::new(),
    }
}

/// An advert with so many models of long names, each about 240 bytes.
fn large_advert(index: u16, models: u8) -> Advert {
    let model = |model: u8| Model {
        name: "m".repeat(200),
        version: "1".into(),
        bundle: Digest([model; 32]),
        slots: 1,
        service_us: 1,
    };
    Advert { models: (0..models).map(model).collect(), ..advert(index, 0, START.utc) }
}

fn record(advert: &Advert, index: u16) -> Arc<Record> {
    let now = Now { utc: advert.issued, ..START };
    advert.sign(&key(index)).verify(&Trust::default(), now).unwrap()
}

/// A message with the advert of one peer.
fn showing(index: u16, sequence: u64) -> Message {
    of_record(record(&advert(index, sequence, START.utc), index))
}

fn of_record(record: Arc<Record>) -> Message {
    of_news(News { records: vec![Rumour { hops: 0, said: record }], ..News::default() })
}

fn of_news(news: News) -> Message {
    Message { news, ..Message::of(Talk::News) }
}

fn of_accusations(accusations: Vec<Proven<Accusation>>) -> Message {
    let accusations = accusations.into_iter().map(|said| Rumour { hops: 0, said: said.into() });
    let accusations = accusations.collect();
    of_news(News { accusations, ..News::default() })
}

fn of_leave(peer: u16, epoch: u64) -> Message {
    let leave = Leave { peer: key(peer).peer_id(), epoch, issued: START.utc };
    of_news(News {
        leaves: vec![Rumour { hops: 0, said: Proven::sign(leave, &key(peer)).into() }],
        ..News::default()
    })
}

fn accusation(accuser: u16, subject: u16) -> Proven<Accusation> {
    let claim = Accusation {
        accuser: key(accuser).peer_id(),
        subject: key(subject).peer_id(),
        version: Version { epoch: START.utc.0, sequence: 0 },
        issued: START.utc,
    };
    Proven::sign(claim, &key(accuser))
}

fn open(bytes: &[u8], now: Now) -> Result<Message, FrameFault> {
    Message::open(bytes, &Trust::default(), now, |_, _| false)
}

/// A directory that is peer 0.
fn directory() -> Directory {
    let own = advert(0, 0, START.utc);
    let trust = Arc::new(Trust::default());
    Directory::new(key(0).into(), own, trust, 7, START, Params::default()).unwrap()
}

/// A directory that is peer 0 and knows `peers`.
fn acquainted(peers: impl IntoIterator<Item = u16>) -> Directory {
    let mut directory = directory();
    for peer in peers {
        feed(&mut directory, START, peer, showing(peer, 0));
    }
    tick(&mut directory, later(ms(100)));
    directory
}

fn feed(directory: &mut Directory, now: Now, from: u16, message: Message) -> Vec<Output> {
    let mut out = Vec::new();
    directory.handle(
        now,
        Input::Message { from: key(from).peer_id(), message: message.into() },
        &mut out,
    );
    out
}

fn tick(directory: &mut Directory, now: Now) -> Vec<Output> {
    let mut out = Vec::new();
    directory.handle(now, Input::Tick, &mut out);
    out
}

fn sent(outputs: &[Output], to: u16) -> Vec<&Message> {
    let peer = key(to).peer_id();
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Send { to, message } if *to == peer => Some(&**message),
        _ => None,
    });
    sent.collect()
}

fn has_event(outputs: &[Output], wanted: impl Fn(&Event) -> bool) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Event(event) if wanted(event)))
}

fn suspects(outputs: &[Output]) -> bool {
    has_event(outputs, |event| matches!(event, Event::PeerSuspect { .. }))
}

/// What a directory believes, for comparing before and after.
fn beliefs(directory: &Directory) -> Vec<(PeerId, Version, Liveness)> {
    let view = directory.view();
    let entries = view.entries().iter();
    entries.map(|e| (e.record.advert.peer, e.record.advert.version, e.liveness)).collect()
}

/// One message of each kind, each with all kinds of news.
fn messages() -> Vec<Message> {
    let held = |index: u16| {
        let version = Version { epoch: START.utc.0, sequence: 300 };
        Held::new(key(index).peer_id(), version, Standing::Down)
    };
    let mut list = vec![held(1), held(2), held(3)];
    list.sort_by_key(|held| held.peer);
    let news = News {
        records: vec![Rumour { hops: COLD, said: record(&advert(1, 0, START.utc), 1) }],
        accusations: vec![Rumour { hops: 1, said: accusation(1, 2).into() }],
        leaves: of_leave(2, START.utc.0).news.leaves,
    };
    let talks = [
        Talk::News,
        Talk::Ping { nonce: 7 },
        Talk::Pong { nonce: u64::MAX, at: Default::default() },
        Talk::PingFor { peer: key(1).peer_id(), nonce: 7 },
        Talk::Summary { greeting: true, count: 3, salt: 9, root: 5 },
        Talk::Groups { salt: 9, prints: vec![[1, 2, 3, 4]; GROUPS] },
        Talk::Buckets { salt: 9, groups: vec![(31, vec![[4, 3, 2, 1]; GROUP_BUCKETS])] },
        Talk::Digest { buckets: Vec::new(), held: list.clone() },
        Talk::Announce { held: list.clone() },
        Talk::Pull { held: list },
    ];
    talks.map(|talk| Message { news: news.clone(), ..Message::of(talk) }).into()
}

#[test]
fn every_message_survives_the_wire() {
    for message in messages() {
        let bytes = message.encode();
        let read = open(&bytes, START).unwrap();
        assert_eq!(read.talk, message.talk);
        assert_eq!(read.encode(), bytes, "{:?}", message.talk);
    }
}

#[test]
fn the_bytes_of_the_wire_do_not_change() {
    // Version, shard, talk, nonce; no adverts, accusations, leaves or extensions.
    assert_eq!(Message::of(Talk::Ping { nonce: 7 }).encode(), [2, 0, 1, 7, 0, 0, 0, 0]);
    // Signatures are deterministic, so the whole vocabulary has one digest.
    let all: Vec<u8> = messages().iter().flat_map(Message::encode).collect();
    assert_eq!(
        Digest::of(&all).to_string(),
        "sha256:8b7e82c3b522e56ff73f50f8a5aed97e4713a13a2e8b68d2427181a0b3e5201c"
    );
}

#[test]
fn a_frame_of_another_version_names_both() {
    let mut bytes = Message::of(Talk::News).encode();
    bytes[0] = 3;
    assert_eq!(open(&bytes, START).unwrap_err(), FrameFault::Version { theirs: 3, ours: 2 });
    // Even when nothing after the version can be read.
    assert!(matches!(open(&[9, 99, 99], START), Err(FrameFault::Version { theirs: 9, .. })));
}

#[test]
fn an_unknown_extension_is_skipped_unless_it_is_critical() {
    let with = |critical: u8| {
        let mut bytes = Message::of(Talk::Ping { nonce: 7 }).encode();
        bytes.pop();
        // One extension: tag 9, critical or not, two bytes.
        bytes.extend([1, 9, critical, 2, 0, 0]);
        open(&bytes, START)
    };
    assert_eq!(with(0).unwrap().talk, Talk::Ping { nonce: 7 });
    assert_eq!(with(1).unwrap_err(), FrameFault::UnknownExtension(9));
}

#[test]
fn lists_over_their_limit_or_out_of_order_are_refused() {
    let held = |count: usize| -> Vec<Held> {
        let version = Version { epoch: u64::MAX, sequence: u64::MAX };
        let held = |index: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&((index as u64 + 1) << 52).to_be_bytes());
            Held::new(PeerId(id), version, Standing::Gone)
        };
        (0..count).map(held).collect()
    };
    let fault = |talk: Talk| open(&Message::of(talk).encode(), START).err();
    let all: Vec<u16> = (0..u16::try_from(BUCKETS).unwrap()).collect();
    let full = Talk::Digest { buckets: all, held: held(FRAME_PEERS_MAX) };
    assert_eq!(fault(full), None, "the largest digest fits a frame");
    let over = Talk::Pull { held: held(FRAME_PEERS_MAX + 1) };
    assert_eq!(fault(over), Some(FrameFault::OverLimit("peers")));
    let reversed = Talk::Announce { held: held(3).into_iter().rev().collect() };
    assert_eq!(fault(reversed), Some(FrameFault::OverLimit("peers")));
    for buckets in [vec![1], vec![1, 0], vec![0, u16::MAX]] {
        let outside = Talk::Digest { buckets, held: held(3) };
        assert_eq!(fault(outside), Some(FrameFault::OverLimit("buckets")));
    }
    for groups in [vec![(32, vec![[0; 4]; GROUP_BUCKETS])], vec![(0, vec![[0; 4]; 31])]] {
        let odd = Talk::Buckets { salt: 0, groups };
        assert_eq!(fault(odd), Some(FrameFault::OverLimit("buckets")));
    }
    let few = Talk::Groups { salt: 0, prints: Vec::new() };
    assert_eq!(fault(few), Some(FrameFault::OverLimit("groups")));
}

#[test]
fn a_forged_advert_is_refused_whichever_byte_was_touched() {
    let mut directory = acquainted([1, 2]);
    let believed = beliefs(&directory);
    let bytes = showing(1, 1).encode();
    let mut forged = 0;
    for at in 0..bytes.len() {
        let mut touched = bytes.clone();
        touched[at] ^= 1;
        match open(&touched, START) {
            Err(FrameFault::ForgedAdvert) => forged += 1,
            Err(_) => {}
            // Nor is the shard, by which the host chooses the directory.
            Ok(_) if at == 1 => {}
            // The hops are not signed; nor are the talk and the lists' lengths, but then the rest
            // reads as something else.
            Ok(message) if at == 4 => assert_eq!(message.news.records.len(), 1),
            Ok(message) => {
                feed(&mut directory, later(ms(200)), 2, message);
                tick(&mut directory, later(ms(300)));
                assert_eq!(beliefs(&directory), believed, "byte {at}");
            }
        }
    }
    assert!(forged > 64, "the signature alone has 64 bytes, and {forged} were noticed");
}

#[test]
fn adverts_from_the_future_the_past_or_too_large_are_left_out_and_reported() {
    let mut directory = acquainted([1]);
    let believed = beliefs(&directory);
    let now = later(ms(500));
    for (issued, fault) in [
        (START.utc.0 + 61_000, AdvertFault::FromTheFuture(60_500)),
        (START.utc.0 - 1_801_000, AdvertFault::Lapsed(1_801_500)),
    ] {
        let strange = of_record(record(&advert(2, 0, Utc(issued)), 2));
        let message = open(&strange.encode(), now).unwrap();
        let refused = &message.aside.as_ref().unwrap().refused;
        assert_eq!(*refused, std::slice::from_ref(&fault));
        let out = feed(&mut directory, now, 1, message);
        assert!(has_event(&out, |event| matches!(
            event,
            Event::AdvertRefused { reason: Refused::Fault(reason), .. } if *reason == fault
        )));
        tick(&mut directory, later(ms(600)));
        assert_eq!(beliefs(&directory), believed);
    }
    let large = large_advert(2, 18).sign(&key(2));
    let len = large.len();
    assert!(len > ADVERT_BYTES_MAX);
    let fault = large.verify(&Trust::default(), START).unwrap_err();
    assert_eq!(fault, AdvertFault::TooLarge(len));
}

#[test]
fn an_own_advert_that_is_too_large_is_refused_and_the_last_one_stands() {
    let own = large_advert(0, 18);
    let trust = Arc::new(Trust::default());
    let new = Directory::new(key(0).into(), own.clone(), trust, 7, START, Params::default());
    assert!(matches!(new.err(), Some(AdvertFault::TooLarge(_))));
    let mut directory = acquainted([1]);
    let before = directory.own().advert.clone();
    let mut out = Vec::new();
    directory.handle(later(ms(200)), Input::Publish(Box::new(own)), &mut out);
    assert!(has_event(&out, |event| matches!(event, Event::PublishRefused { .. })));
    assert_eq!(directory.own().advert, before);
}

#[test]
fn who_finds_that_nobody_can_dial_it_says_in_the_same_advert_who_relays() {
    let mut directory = acquainted([1, 2]);
    let mut out = Vec::new();
    // It dialled one of the two that it knows.
    let peer = key(1).peer_id();
    directory.handle(later(ms(200)), Input::Connected { peer }, &mut out);
    let hidden = Advert { control_addrs: Vec::new(), ..advert(0, 0, START.utc) };
    directory.handle(later(ms(300)), Input::Publish(Box::new(hidden)), &mut out);
    let own = &directory.own().advert;
    assert_eq!((own.version.sequence, &own.relays[..]), (1, &[peer][..]));
}

#[test]
fn a_relay_that_does_not_relay_is_replaced_by_another_for_a_while() {
    let mut directory = acquainted([1, 2]);
    let mut out = Vec::new();
    let [first, second] = [1, 2].map(|peer| key(peer).peer_id());
    directory.handle(later(ms(200)), Input::Connected { peer: first }, &mut out);
    let hidden = Advert { control_addrs: Vec::new(), ..advert(0, 0, START.utc) };
    directory.handle(later(ms(300)), Input::Publish(Box::new(hidden)), &mut out);
    directory.handle(later(ms(400)), Input::Connected { peer: second }, &mut out);
    directory.handle(later(ms(500)), Input::Unrelayed { peer: first }, &mut out);
    tick(&mut directory, later(ms(2_500)));
    assert_eq!(directory.own().advert.relays, [second]);
    // What is no relay of its own is not heard of.
    directory.handle(later(ms(3_000)), Input::Unrelayed { peer: key(7).peer_id() }, &mut out);
    assert_eq!(directory.own().advert.relays, [second]);
    // Nobody else is there: it names none rather than one that is of no use.
    directory.handle(later(ms(4_000)), Input::Unrelayed { peer: second }, &mut out);
    tick(&mut directory, later(ms(8_000)));
    assert!(directory.own().advert.relays.is_empty());
    // Long after, both may be asked again.
    let hour = later(Duration::from_secs(3_600));
    for peer in [1, 2] {
        let back = Advert {
            version: Version { epoch: hour.utc.0, sequence: 0 },
            ..advert(peer, 0, hour.utc)
        };
        feed(&mut directory, hour, peer, of_record(record(&back, peer)));
    }
    let hidden = Advert { control_addrs: Vec::new(), ..advert(0, 0, hour.utc) };
    directory.handle(hour, Input::Publish(Box::new(hidden)), &mut out);
    assert_eq!(directory.own().advert.relays.len(), 2);
}

#[test]
fn a_replayed_advert_changes_nothing() {
    let mut directory = acquainted([1, 2]);
    feed(&mut directory, later(ms(200)), 1, showing(1, 5));
    tick(&mut directory, later(ms(300)));
    let believed = beliefs(&directory);
    for sequence in [0, 4, 5] {
        let out = feed(&mut directory, later(ms(400)), 2, showing(1, sequence));
        assert!(!out.iter().any(|output| matches!(output, Output::ViewChanged)));
        assert_eq!(beliefs(&directory), believed);
    }
}

#[test]
fn what_is_known_is_not_verified_again() {
    let view = acquainted([1]).view();
    let mut bytes = showing(1, 0).encode();
    // The signature stands before three empty lists. Broken, it would be noticed if it were read.
    let at = bytes.len() - 4;
    bytes[at] ^= 1;
    assert_eq!(open(&bytes, START).unwrap_err(), FrameFault::ForgedAdvert);
    let held = |peer, version| view.holds(peer, version);
    let message = Message::open(&bytes, &Trust::default(), START, held).unwrap();
    assert!(message.news.is_empty(), "left out unread");
}

#[test]
fn one_peer_may_not_publish_without_end() {
    let mut directory = acquainted([1]);
    let mut taken = 0;
    let mut refused = 0;
    for sequence in 1..=100 {
        let out = feed(&mut directory, later(ms(200 + sequence * 5)), 1, showing(1, sequence));
        taken += usize::from(has_event(&out, |e| matches!(e, Event::PeerUpdated { .. })));
        refused += usize::from(has_event(&out, |event| {
            matches!(event, Event::AdvertRefused { reason: Refused::TooOften(_), .. })
        }));
    }
    assert_eq!((taken, refused), (7, 93), "a burst of 8, and its first advert was one");
    feed(&mut directory, later(ms(1_200)), 1, showing(1, 101));
    tick(&mut directory, later(ms(1_300)));
    let newest = Version { epoch: START.utc.0, sequence: 101 };
    assert!(directory.view().holds(key(1).peer_id(), newest), "one a second is");
}

#[test]
fn forged_and_untimely_claims_are_refused() {
    for message in [of_accusations(vec![accusation(1, 2)]), of_leave(1, 1)] {
        let mut bytes = message.encode();
        let untimely = FrameFault::Claim(ClaimFault::Untimely);
        assert_eq!(open(&bytes, later(Duration::from_secs(3_600))).unwrap_err(), untimely);
        let signer = bytes.windows(32).position(|id| id == key(1).peer_id().0).unwrap();
        bytes[signer] ^= 1;
        assert_eq!(open(&bytes, START).unwrap_err(), FrameFault::Claim(ClaimFault::Forged));
    }
}

#[test]
fn accusations_count_only_when_enough_known_peers_make_them() {
    let accuse = |accusers: &[u16]| {
        let mut directory = acquainted([1, 2, 3, 4]);
        let accusations = accusers.iter().map(|accuser| accusation(*accuser, 4)).collect();
        suspects(&feed(&mut directory, later(ms(200)), 1, of_accusations(accusations)))
    };
    assert!(!accuse(&[1, 2]));
    assert!(accuse(&[1, 2, 3]));
    assert!(!accuse(&[1, 1, 1, 1]), "one peer counts once");
    assert!(!accuse(&[10, 11, 12, 13, 14]), "keys are cheap");
}

#[test]
fn one_liar_cannot_make_a_peer_publish_without_end() {
    let mut directory = acquainted([1, 2]);
    let mut refuted = 0;
    for step in 0..200 {
        let claim = Accusation {
            accuser: key(1).peer_id(),
            subject: key(0).peer_id(),
            version: directory.own().advert.version,
            issued: START.utc,
        };
        let lie = of_accusations(vec![Proven::sign(claim, &key(1))]);
        let out = feed(&mut directory, later(ms(200 + step * 100)), 2, lie);
        refuted += usize::from(has_event(&out, |event| matches!(event, Event::Refuted { .. })));
    }
    assert!((2..=6).contains(&refuted), "{refuted} refutations in 20 s");
}

#[test]
fn a_joiner_gets_the_whole_directory_in_frames_within_the_limit() {
    let mut directory = directory();
    for peer in 1..=120 {
        let large = record(&large_advert(peer, 15), peer);
        assert!(large.signed().len() > 3_500);
        feed(&mut directory, START, peer, of_record(large));
    }
    let mut greeting = showing(200, 0);
    greeting.talk = Talk::Summary { greeting: true, count: 1, salt: 1, root: 0 };
    let out = feed(&mut directory, START, 200, greeting);
    let frames = sent(&out, 200);
    assert!(frames.len() >= 7, "{} frames for more than 400 kB", frames.len());
    let mut peers = BTreeSet::new();
    for frame in frames {
        assert!(frame.encode().len() <= FRAME_BYTES_MAX);
        peers.extend(frame.news.records.iter().map(|rumour| rumour.said.advert.peer));
    }
    assert_eq!(peers.len(), 120);
}

#[test]
fn a_host_that_slept_accuses_nobody() {
    let mut directory = acquainted(1..6);
    // Awake for long enough that pings are under way, then late by a minute.
    let pinged = (200..3_000).step_by(50).any(|at| {
        let out = tick(&mut directory, later(ms(at)));
        (1..6).any(|peer| sent(&out, peer).iter().any(|m| matches!(m.talk, Talk::Ping { .. })))
    });
    assert!(pinged);
    let out = tick(&mut directory, later(Duration::from_secs(63)));
    assert!(has_event(&out, |event| matches!(event, Event::Stalled { .. })));
    assert!(!suspects(&out));
    assert!(beliefs(&directory).iter().all(|(_, _, liveness)| *liveness == Liveness::Alive));
    // Awake again it notices, in its usual time, that nobody answers.
    assert!((0..100).any(|step| suspects(&tick(&mut directory, later(ms(63_000 + step * 50))))));
}

#[test]
fn a_helper_that_pinged_in_vain_is_a_witness() {
    let mut directory = acquainted(1..6);
    let asked = Talk::PingFor { peer: key(2).peer_id(), nonce: 7 };
    let out = feed(&mut directory, later(ms(110)), 1, Message::of(asked));
    assert!(sent(&out, 2).iter().any(|m| matches!(m.talk, Talk::Ping { .. })));
    let mut accuses = |at| {
        let out = tick(&mut directory, later(ms(at)));
        sent(&out, 2).iter().any(|m| !m.news.accusations.is_empty())
    };
    assert!(!(120..1_600).step_by(20).any(&mut accuses), "it waits for the pong");
    assert!((1_600..1_660).step_by(20).any(&mut accuses), "it says what it saw");
}

#[test]
fn who_hears_that_it_is_accused_asks_by_whom_and_refutes() {
    let mut directory = acquainted([1, 2]);
    let own = directory.own().advert.clone();
    let told = |version, standing| {
        Message::of(Talk::Announce { held: vec![Held::new(own.peer, version, standing)] })
    };
    let asks = |out: &[Output]| sent(out, 1).iter().any(|m| matches!(m.talk, Talk::Pull { .. }));
    let before = Version { epoch: own.version.epoch - 1_000, ..own.version };
    for (at, version, standing, asked) in [
        (200, own.version, Standing::Live, false),
        (210, before, Standing::Accused(3), false),
        (220, own.version, Standing::Accused(1), true),
        (230, own.version, Standing::Accused(2), false),
    ] {
        let out = feed(&mut directory, later(ms(at)), 1, told(version, standing));
        assert_eq!(asks(&out), asked, "{standing:?} of {version:?}");
    }
    let out = feed(&mut acquainted([1]), later(ms(200)), 1, told(own.version, Standing::Down));
    assert!(asks(&out), "who is believed dead asks as well");
    let (accuser, subject, issued) = (key(2).peer_id(), own.peer, START.utc);
    let claim = Accusation { accuser, subject, version: own.version, issued };
    let proof = of_accusations(vec![Proven::sign(claim, &key(2))]);
    let out = feed(&mut directory, later(ms(1_100)), 1, proof);
    assert!(has_event(&out, |event| matches!(event, Event::Refuted { .. })));
    assert!(directory.own().advert.version > own.version);
}

#[test]
fn a_pull_that_accusations_answered_is_not_repeated_at_another_peer() {
    let pulled_again = |answer: Option<Proven<Accusation>>| {
        let mut directory = acquainted(1..6);
        let (peer, version) = (key(5).peer_id(), Version { epoch: START.utc.0, sequence: 0 });
        let told = || {
            let held = vec![Held::new(peer, version, Standing::Accused(1))];
            Message::of(Talk::Announce { held })
        };
        let pulls =
            |out: &[Output], to| sent(out, to).iter().any(|m| matches!(m.talk, Talk::Pull { .. }));
        assert!(pulls(&feed(&mut directory, later(ms(200)), 1, told()), 1));
        assert!(!pulls(&feed(&mut directory, later(ms(210)), 3, told()), 3), "one at a time");
        if let Some(answer) = answer {
            feed(&mut directory, later(ms(300)), 1, of_accusations(vec![answer]));
        }
        (400..1_500).step_by(50).any(|at| {
            let mut out = tick(&mut directory, later(ms(at)));
            // It is dialled first.
            let peer = key(3).peer_id();
            directory.handle(later(ms(at)), Input::Connected { peer }, &mut out);
            pulls(&out, 3)
        })
    };
    assert!(pulled_again(None));
    assert!(!pulled_again(Some(accusation(2, 5))));
    assert!(pulled_again(Some(accusation(2, 4))), "of somebody else");
}

#[test]
fn accusations_leave_room_for_adverts_in_what_is_announced() {
    let all = 1_000;
    let mut directory = acquainted(1..=all);
    let hops = Params::default().eager_hops_max;
    for subjects in (1..=all).collect::<Vec<_>>().chunks(FRAME_NEWS_MAX) {
        let accusations = subjects.iter().filter(|subject| **subject != 1);
        let accusations = accusations.map(|s| Rumour { hops, said: accusation(1, *s).into() });
        let news = News { accusations: accusations.collect(), ..News::default() };
        feed(&mut directory, later(ms(3_000)), 1, of_news(news));
    }
    // One that came too late to be announced as accused.
    let said = record(&advert(all, 1, START.utc), all);
    let news = News { records: vec![Rumour { hops, said }], ..News::default() };
    let mut out = feed(&mut directory, later(ms(3_010)), all, of_news(news));
    for peer in 1..=all {
        let peer = key(peer).peer_id();
        directory.handle(later(ms(3_020)), Input::Connected { peer }, &mut out);
    }
    let out = tick(&mut directory, later(ms(3_200)));
    let lists = (1..=all).flat_map(|peer| sent(&out, peer)).filter_map(|m| match &m.talk {
        Talk::Announce { held } => Some(held.clone()),
        _ => None,
    });
    let lists: Vec<Vec<Held>> = lists.collect();
    assert!(!lists.is_empty());
    for held in lists {
        let live = held.iter().filter(|held| held.standing() == Standing::Live).count();
        assert_eq!((live, held.len() - live), (1, ACCUSED_ANNOUNCEMENTS_MAX));
    }
}

#[test]
fn who_cannot_get_through_for_another_tries_once_more_and_asks_nobody_else() {
    let mut directory = acquainted(1..6);
    let peer = key(2).peer_id();
    let pings = |out: &[Output]| -> Vec<u64> {
        let nonce = |message: &Message| match message.talk {
            Talk::Ping { nonce } => Some(nonce),
            _ => None,
        };
        sent(out, 2).into_iter().filter_map(nonce).collect()
    };
    let ping_for = Message::of(Talk::PingFor { peer, nonce: 7 });
    let first = pings(&feed(&mut directory, later(ms(110)), 1, ping_for));
    assert_eq!(first.len(), 1);
    let mut lose = |at| {
        let mut out = Vec::new();
        directory.handle(later(ms(at)), Input::Unreachable { peer }, &mut out);
        pings(&out)
    };
    assert_eq!(lose(120), first, "the same ping, and no probe of its own");
    assert!(lose(130).is_empty());
    let mut out = Vec::new();
    acquainted(1..6).handle(later(ms(120)), Input::Unreachable { peer }, &mut out);
    assert_eq!(pings(&out).len(), 1, "what is its own doubt is looked into");
}

#[test]
fn nothing_is_due_often_in_a_quiet_directory() {
    let mut directory = directory();
    let mut out = tick(&mut directory, START);
    let mut ticks = 0;
    loop {
        let wakes = out.iter().filter_map(|output| match output {
            Output::WakeAt(at) => Some(*at),
            _ => None,
        });
        let after = wakes.max().expect("something is always due").since(START.mono);
        if after > Duration::from_secs(100) {
            break;
        }
        out = tick(&mut directory, later(after));
        ticks += 1;
    }
    // A probe every 2 s, a reconciliation and a rotation every 10 s, a sweep every 30 s.
    assert!((60..=80).contains(&ticks), "{ticks} wake-ups in 100 s");
}

#[test]
fn who_has_left_is_silent() {
    let mut directory = acquainted([1]);
    let mut out = Vec::new();
    let peer = key(1).peer_id();
    directory.handle(later(ms(200)), Input::Connected { peer }, &mut out);
    out.clear();
    directory.handle(later(ms(200)), Input::Leave, &mut out);
    assert!(sent(&out, 1).iter().any(|message| !message.news.leaves.is_empty()));
    let ping = Message::of(Talk::Ping { nonce: 1 });
    assert!(feed(&mut directory, later(ms(300)), 1, ping).is_empty());
    assert!(tick(&mut directory, later(Duration::from_secs(60))).is_empty());
}

#[test]
fn a_leave_buries_its_own_boot_and_no_other() {
    let left = |message: Message| {
        let mut directory = acquainted([1]);
        let out = feed(&mut directory, later(ms(200)), 1, message);
        has_event(&out, |event| matches!(event, Event::PeerLeft { .. }))
    };
    assert!(left(of_leave(1, START.utc.0)));
    assert!(!left(of_leave(1, START.utc.0 - 1)), "it has come back since");
    assert!(!left(of_leave(7, START.utc.0)), "a stranger has nothing to leave");
}

proptest! {
    #[test]
    fn random_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = open(&bytes, START);
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = open(&versioned, START);
    }

    #[test]
    fn whatever_is_done_to_a_frame_the_directory_goes_on(
        which in 0usize..8,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = messages()[which].encode();
        let at = at.index(bytes.len());
        prop_assert!(open(&bytes[..at], START).is_err(), "a truncated frame is a fault");
        bytes[at] = byte;
        if let Ok(message) = open(&bytes, START) {
            let mut directory = acquainted([1, 2, 3]);
            feed(&mut directory, later(ms(200)), 1, message);
            tick(&mut directory, later(ms(900)));
        }
    }
}
