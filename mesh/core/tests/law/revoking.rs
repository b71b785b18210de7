//! Revocations: how lists are read, which of them count, how they travel, and that what they revoke
//! is used no more. Beside them what peers promise and what was measured of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, Version};
use hansa_core::charter::{Authority, Charter, CharterFault, Trust};
use hansa_core::directory::{Aside, Directory, Event, Input, Message, Output, Params, Talk};
use hansa_core::gate::{self, Rule, Standing};
use hansa_core::id::Digest;
use hansa_core::keys::SigningKey;
use hansa_core::limits::{ECHOES_MIN, REVOKED_MAX};
use hansa_core::note::{NoteFault, SignerKey};
use hansa_core::physics::Evidence;
use hansa_core::policy::Policy;
use hansa_core::revocation::{Revocation, RevocationFault, RevocationList, Revocations, Taken};
use hansa_core::terms::Terms;
use hansa_core::time::{Mono, Now, Utc};

const NOW: Now = Now { mono: Mono(1_000_000_000_000), utc: Utc(1_767_300_000_000) };
const DAY: Duration = Duration::from_secs(86_400);

fn signer(name: &str) -> SignerKey {
    SignerKey::new(name, [name.as_bytes()[0]; 32]).unwrap()
}

fn trust() -> Trust {
    let any = || BTreeSet::from(["*".to_owned()]);
    let authority =
        |name| Authority { key: signer(name).verifier(), countries: any(), operators: any() };
    Trust::new(vec![authority("tuv"), authority("bund")])
}

fn says(epoch: u64, serials: &[&str]) -> Revocation {
    Revocation {
        authority: "tuv".into(),
        epoch,
        issued: NOW.utc,
        next_update: NOW.utc + DAY * 7,
        serials: serials.iter().map(|serial| (*serial).to_owned()).collect(),
    }
}

fn list(epoch: u64, serials: &[&str]) -> Arc<RevocationList> {
    let note = says(epoch, serials).sign(&signer("tuv")).unwrap();
    RevocationList::verify(&note, &trust(), NOW.utc).unwrap()
}

fn key(peer: u8) -> SigningKey {
    SigningKey::from_seed(&[peer; 32])
}

fn charter_of(peer: u8, location: &str) -> String {
    let charter = Charter {
        serial: format!("serial-{peer}"),
        subject: key(peer).peer_id(),
        location: location.parse().unwrap(),
        operator: "Nordlicht GmbH".into(),
        lei: None,
        control: "DE".parse().unwrap(),
        data_classes: BTreeSet::new(),
        not_before: Utc(NOW.utc.0 - 1_000),
        not_after: NOW.utc + DAY * 30,
        authorities: BTreeSet::new(),
    };
    charter.sign(&signer("tuv")).unwrap()
}

fn advert(peer: u8, location: &str) -> Advert {
    Advert {
        peer: key(peer).peer_id(),
        version: Version { epoch: NOW.utc.0, sequence: 0 },
        issued: NOW.utc,
        name: format!("peer {peer}"),
        control_addrs: vec![format!("/ip4/127.0.0.1/udp/{peer}/quic-v1")],
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: Some(charter_of(peer, location)),
        devices: Vec::new(),
        models: Vec::new(),
        price: None,
        extensions: Vec::new(),
    }
}

/// The directory of a peer that knows the `others`.
fn directory(me: u8, others: &[(u8, &str)], params: Params) -> Directory {
    let (key_of_me, own) = (Arc::new(key(me)), advert(me, "DE"));
    let trust = Arc::new(trust());
    let mut directory =
        Directory::new(key_of_me, own, trust.clone(), me.into(), NOW, params).unwrap();
    for (peer, location) in others {
        let record = advert(*peer, location).sign(&key(*peer)).verify(&trust, NOW).unwrap();
        let mut message = Message::of(Talk::News);
        message.news.records.push(hansa_core::directory::Rumour { hops: 0, said: record });
        directory.handle(
            NOW,
            Input::Message { from: key(*peer).peer_id(), message: message.into() },
            &mut vec![],
        );
    }
    directory
}

fn feed(directory: &mut Directory, now: Now, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    directory.handle(now, input, &mut out);
    out
}

/// What the gate of `directory` says of a peer, for a job without constraints.
fn verdict(directory: &Directory, peer: u8, policy: &Policy) -> Result<(), Rule> {
    let record = directory.record(key(peer).peer_id()).unwrap();
    gate::admit(policy, Digest([0; 32]), &**record, NOW.utc)
}

#[test]
fn a_list_says_what_was_signed() {
    let text = "hansa/revocations/v1\nauthority tuv\nepoch 3\nissued 2026-01-01T20:40:00Z\n\
                next-update 2026-01-08T20:40:00Z\nserial 07\nserial a\n";
    assert_eq!(says(3, &["a", "07"]).text(), text);
    assert_eq!(list(3, &["a", "07"]).says, says(3, &["a", "07"]));
    let read = Revocation::read_unverified(list(3, &["07", "a"]).note()).unwrap();
    assert_eq!(read, says(3, &["a", "07"]));
}

#[test]
fn a_list_that_does_not_count_says_why() {
    let fault = |note: &str| RevocationList::verify(note, &trust(), NOW.utc).unwrap_err();
    let note = list(3, &["a", "b"]).note().to_owned();
    let forged = RevocationFault::Note(NoteFault::Forged("tuv".into()));
    assert_eq!(fault(&note.replace("serial a", "serial c")), forged);
    // Signed by another trusted authority than it names.
    let foreign = signer("bund").sign(&says(3, &["a"]).text()).unwrap();
    assert_eq!(fault(&foreign), RevocationFault::UnknownAuthority("tuv".into()));
    assert!(says(3, &["a"]).sign(&signer("bund")).is_err());
    let ahead = Revocation { issued: NOW.utc + DAY, ..says(1, &[]) };
    let ahead = ahead.sign(&signer("tuv")).unwrap();
    assert!(matches!(fault(&ahead), RevocationFault::FromTheFuture(_)));
    for (from, to, at) in [
        ("revocations/v1", "revocations/v2", 1),
        ("authority tuv\n", "", 2),
        ("epoch 3", "epoch 0", 3),
        ("epoch 3", "epoch 03", 3),
        ("epoch 3", "epoch three", 3),
        ("2026-01-01T", "2026-13-01T", 4),
        ("2026-01-08T", "2025-01-08T", 5),
        ("serial a\nserial b", "serial b\nserial a", 6),
        ("serial a\nserial b", "serial a\nserial a", 7),
        ("serial b\n", "more b\n", 7),
    ] {
        let text = says(3, &["a", "b"]).text().replace(from, to);
        match fault(&signer("tuv").sign(&text).unwrap()) {
            RevocationFault::Line { line, .. } => assert_eq!(line, at, "{to:?}"),
            other => panic!("{to:?}: {other:?}"),
        }
    }
    let many: Vec<String> = (0..=REVOKED_MAX).map(|serial| format!("{serial:05}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = says(1, &many).sign(&signer("tuv")).unwrap_err();
    assert_eq!(many, RevocationFault::TooMany(REVOKED_MAX + 1));
}

#[test]
fn the_newest_list_counts_in_whatever_order_lists_come() {
    let lists = [list(1, &["a"]), list(2, &["a", "b"]), list(3, &["b"])];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut held = Revocations::default();
        for at in order {
            held.take(&lists[at]);
        }
        let kept: Vec<u64> = held.lists().map(|list| list.says.epoch).collect();
        assert_eq!(kept, [3], "{order:?}");
        assert_eq!(held.take(&lists[2]), Taken::Known);
        assert_eq!(held.take(&lists[0]), Taken::Older);
    }
}

#[test]
fn two_lists_of_one_epoch_are_told_of_and_both_revoke() {
    let (first, second) = (list(2, &["serial-1"]), list(2, &["serial-2"]));
    for (first, second) in [(&first, &second), (&second, &first)] {
        let mut own = directory(0, &[(1, "FR"), (2, "IE"), (3, "IE")], Params::default());
        feed(&mut own, NOW, Input::Revocations(first.clone()));
        let out = feed(&mut own, NOW, Input::Revocations(second.clone()));
        let disputed = Event::RevocationsDisputed { authority: "tuv".into(), epoch: 2 };
        assert!(out.iter().any(|o| matches!(o, Output::Event(event) if *event == disputed)));
        let again = feed(&mut own, NOW, Input::Revocations(first.clone()));
        assert!(!again.iter().any(|output| matches!(output, Output::Revocations(_))));
        let verdicts = [1, 2, 3].map(|peer| verdict(&own, peer, &Policy::default()));
        assert_eq!(verdicts, [Err(Rule::Revoked), Err(Rule::Revoked), Ok(())]);
    }
}

#[test]
fn a_revoked_peer_is_used_no_more_and_a_newer_list_can_restore_it() {
    let mut own = directory(0, &[(1, "FR"), (2, "IE")], Params::default());
    assert_eq!(verdict(&own, 1, &Policy::default()), Ok(()));
    let out = feed(&mut own, NOW, Input::Revocations(list(1, &["serial-1"])));
    assert!(out.iter().any(|output| matches!(output, Output::Revocations(_))));
    assert_eq!(verdict(&own, 1, &Policy::default()), Err(Rule::Revoked));
    assert_eq!(verdict(&own, 2, &Policy::default()), Ok(()));
    // An advert that comes later is judged by it, too.
    let mut late = directory(3, &[], Params::default());
    feed(&mut late, NOW, Input::Revocations(list(1, &["serial-1"])));
    let record = own.record(key(1).peer_id()).unwrap().clone();
    let mut message = Message::of(Talk::News);
    message.news.records.push(hansa_core::directory::Rumour { hops: 0, said: record });
    feed(&mut late, NOW, Input::Message { from: key(0).peer_id(), message: message.into() });
    assert_eq!(verdict(&late, 1, &Policy::default()), Err(Rule::Revoked));
    feed(&mut own, NOW, Input::Revocations(list(2, &[])));
    assert_eq!(verdict(&own, 1, &Policy::default()), Ok(()));
    // Its own, too.
    feed(&mut own, NOW, Input::Revocations(list(3, &["serial-0"])));
    assert!(matches!(own.own().charter, Err(CharterFault::Revoked { .. })));
}

#[test]
fn whoever_wants_word_of_revocations_uses_nobody_without_it() {
    let params = Params { revocations_age_max: Some(DAY), ..Params::default() };
    let mut own = directory(0, &[(1, "FR")], params);
    assert_eq!(verdict(&own, 1, &Policy::default()), Err(Rule::Unchecked));
    feed(&mut own, NOW, Input::Revocations(list(1, &["another"])));
    assert_eq!(verdict(&own, 1, &Policy::default()), Ok(()));
    let (mono, utc) = (NOW.mono + DAY + Duration::from_secs(60), NOW.utc + DAY);
    feed(&mut own, Now { mono, utc }, Input::Tick);
    // The advert has lapsed by then; the record of one's own has not.
    assert!(matches!(own.own().charter, Err(CharterFault::Unchecked { .. })));
    feed(&mut own, Now { mono, utc }, Input::Revocations(fresh(2, utc)));
    assert!(own.own().charter.is_ok());
}

fn fresh(epoch: u64, issued: Utc) -> Arc<RevocationList> {
    let says = Revocation { issued, next_update: issued + DAY, ..says(epoch, &[]) };
    let note = says.sign(&signer("tuv")).unwrap();
    RevocationList::verify(&note, &trust(), issued).unwrap()
}

#[test]
fn lists_reach_those_that_were_not_there_when_they_came() {
    let mut knowing = directory(0, &[(1, "FR"), (2, "IE")], Params::default());
    let mut joiner = directory(1, &[(0, "DE")], Params::default());
    feed(&mut knowing, NOW, Input::Connected { peer: key(1).peer_id() });
    feed(&mut knowing, NOW, Input::Revocations(list(4, &["serial-2"])));
    // What it said when the list came is lost; anti-entropy is not.
    let mut now = NOW;
    let mut said = Vec::new();
    while !said
        .iter()
        .any(|m: &Message| m.aside.as_ref().is_some_and(|aside| aside.heads.is_some()))
    {
        now =
            Now { mono: now.mono + Duration::from_secs(1), utc: now.utc + Duration::from_secs(1) };
        assert!(now.mono < NOW.mono + Duration::from_secs(300), "no summary told of the list");
        said = sent(feed(&mut knowing, now, Input::Tick), 1);
    }
    for _ in 0..4 {
        let mut answers = Vec::new();
        for message in said.drain(..) {
            let bytes = message.encode();
            let message = Message::open(&bytes, &trust(), now, |_, _| false).unwrap();
            let from = key(0).peer_id();
            answers.extend(sent(
                feed(&mut joiner, now, Input::Message { from, message: message.into() }),
                0,
            ));
        }
        for message in answers {
            let from = key(1).peer_id();
            said.extend(sent(
                feed(&mut knowing, now, Input::Message { from, message: message.into() }),
                1,
            ));
        }
    }
    let out = feed(&mut joiner, now, Input::Revocations(list(4, &["serial-2"])));
    assert!(!out.iter().any(|output| matches!(output, Output::Revocations(_))), "it came");
}

fn sent(out: Vec<Output>, whom: u8) -> Vec<Message> {
    let peer = key(whom).peer_id();
    let message = |output| match output {
        Output::Send { to, message } if to == peer => Some(*message),
        _ => None,
    };
    out.into_iter().filter_map(message).collect()
}

#[test]
fn a_frame_with_a_forged_list_is_refused_and_a_strangers_passed_over() {
    let mut message = Message::of(Talk::News);
    let lists = vec![list(1, &["a"])];
    message.aside = Some(Aside { lists: lists.clone(), ..Aside::default() }.into());
    let open = |trust: &Trust, bytes: &[u8]| Message::open(bytes, trust, NOW, |_, _| false);
    let read = open(&trust(), &message.encode()).unwrap().aside.unwrap();
    assert_eq!(read.lists, lists);
    assert!(open(&Trust::default(), &message.encode()).unwrap().aside.is_none());
    let mut bytes = message.encode();
    let at = bytes.windows(8).position(|window| window == b"serial a").unwrap() + 7;
    bytes[at] = b'b';
    assert!(open(&trust(), &bytes).is_err());
}

#[test]
fn a_peer_that_answers_too_soon_is_contradicted_and_refused_where_evidence_is_demanded() {
    let mut own = directory(0, &[(1, "SG"), (2, "FR")], Params::default());
    let strict = Policy { rtt_evidence: true, ..Policy::default() };
    assert_eq!(verdict(&own, 1, &strict), Err(Rule::NoRttEvidence));
    let mut contradicted = 0;
    for peer in [1, 2] {
        for _ in 0..ECHOES_MIN {
            let (peer, rtt) = (key(peer).peer_id(), Duration::from_millis(8));
            let out = feed(&mut own, NOW, Input::Echo { peer, rtt });
            let is_it = |o: &&Output| matches!(o, Output::Event(Event::PeerContradicted { .. }));
            contradicted += out.iter().filter(is_it).count();
        }
    }
    assert_eq!(contradicted, 1);
    assert_eq!(verdict(&own, 1, &strict), Err(Rule::Contradicted));
    assert_eq!(verdict(&own, 2, &strict), Ok(()));
    // Who does not ask for evidence is not kept from anybody by it.
    assert_eq!(verdict(&own, 1, &Policy::default()), Ok(()));
    let entry = own.view().get(key(1).peer_id()).unwrap().record.evidence;
    assert_eq!(entry, Evidence::Contradicted);
    let nobody = Input::Echo { peer: key(9).peer_id(), rtt: Duration::ZERO };
    feed(&mut own, NOW, nobody);
    assert_eq!(own.echoes(key(9).peer_id()), None);
}

#[test]
fn only_who_promises_a_purpose_or_receipts_gets_jobs_that_demand_them() {
    let charter = trust().verify(&charter_of(1, "DE"), key(1).peer_id());
    let of = |purposes: &[&str], keeps_receipts| Terms {
        purposes: purposes.iter().map(|purpose| (*purpose).to_owned()).collect(),
        keeps_receipts,
    };
    let admit = |policy: &Policy, terms: Option<&Terms>| {
        let standing = Standing { charter: &charter, terms, evidence: Evidence::None };
        gate::admit(policy, Digest([0; 32]), standing, NOW.utc)
    };
    let care = Policy { purpose: Some("care".into()), ..Policy::default() };
    assert_eq!(admit(&care, None), Err(Rule::Purpose));
    assert_eq!(admit(&care, Some(&of(&["research"], true))), Err(Rule::Purpose));
    assert_eq!(admit(&care, Some(&of(&["care"], false))), Ok(()));
    for policy in [
        Policy { receipt_required: true, ..Policy::default() },
        Policy { audit_fail_closed: true, ..Policy::default() },
    ] {
        assert_eq!(admit(&policy, Some(&of(&["care"], false))), Err(Rule::Receipt));
        assert_eq!(admit(&policy, Some(&of(&[], true))), Ok(()));
        // At the entry, too, where data does not move.
        let here = |terms: &Terms| {
            let standing =
                Standing { charter: &charter, terms: Some(terms), evidence: Evidence::None };
            gate::admit_entry(&policy, Digest([0; 32]), standing, NOW.utc)
        };
        assert_eq!(here(&of(&[], false)), Err(Rule::Receipt));
    }
}

#[test]
fn a_peer_runs_a_job_that_demands_evidence_of_it_though_it_measures_only_others() {
    let own = directory(1, &[], Params::default());
    let strict = Policy { rtt_evidence: true, ..Policy::default() };
    let (record, bundle) = (own.own(), Digest([0; 32]));
    assert_eq!(gate::admit_own(&strict, bundle, &**record, NOW.utc), Ok(()));
    assert_eq!(gate::admit(&strict, bundle, &**record, NOW.utc), Err(Rule::NoRttEvidence));
}
