//! Which bytes travel. The golden bytes are those of version 1: a change that they notice needs
//! another version, or an extension.

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::advert::{Advert, AdvertFault, Model, Price, SignedAdvert, Version};
use hansa_core::chain::Link;
use hansa_core::charter::{CharterFault, Trust};
use hansa_core::codec::{decode, encode};
use hansa_core::coordinate::Coordinate;
use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId};
use hansa_core::limits::*;
use hansa_core::place::Place;
use hansa_core::plan::{Job, Refusal};
use hansa_core::policy::{Bounds, Clause, DeviceNeeds, Policy, Split};
use hansa_core::price::{Amount, Bill};
use hansa_core::rng::Rng;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::wire::{
    AnswerHeader, Ask, Done, Extension, HeaderFault, JobHeader, Stretch, TensorMeta, TraceContext,
    WIRE_VERSION,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::random::check;
use crate::world::{device, id, key, later};

const JOB: &str = "0130313233343536373839616263646566028a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39401fc80c3c9010102024445024652010544452d4259000102555301010e4e6f72646c6963687420476d624800010105616c7068610104626574610201066865616c74680101010101010101010101010101010101010101010101010101010101010101010100010103010401046375646101fb204e0101046361726501fb204e010345555201000189e7d4f88a5391f772db6106d2eeb8573230561d95feb19dcc276c1fa32680c707070707070707070707070707070707080808080808080801000101010101010101010101010101010101010101010101010101010101010101010178010202fb2c01fb600901017900";
const ANSWER: &str = "013031323334353637383961626364656600ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d10101790101020800fafc701101000300";
const REFUSAL: &str = "01303132333435363738396162636465660102020201030300";
const ADVERT: &str = "f28a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5cfd00a8da769b01000002fdd4535c18a3010000066265726c696e011f2f6970342f3139322e302e322e312f7564702f343030312f717569632d76310200c0000201fba20f0120010db8000000000000000000000001fba20f018139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39400000000fbffff010661206e6f746501046375646103616e7900fbc05dfbc05d0001066d6167696b610131010101010101010101010101010101010101010101010101010101010101010102fbdc050103455552fb2c01000025fc57d3e66d652fc21a3633036da439bfa81489aa997730e141383fd68460a36d9effc12686ab6a20b6b3e50c187ad82deae5c187e431ac386556fa2654060b";

/// Of the golden advert, and so for good.
fn start() -> Now {
    Now { mono: Mono(0), utc: Utc(1_800_000_000_980) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn places(values: &[&str]) -> BTreeSet<Place> {
    values.iter().map(|value| value.parse().unwrap()).collect()
}

/// Every clause has something to say, so that none can go missing unnoticed.
fn policy() -> Policy {
    let bounds = Bounds {
        locations: Clause { allow: Some(places(&["DE", "FR"])), deny: places(&["DE-BY"]) },
        control: Clause { allow: None, deny: places(&["US"]) },
        operators: Clause { allow: Some(names(&["Nordlicht GmbH"])), deny: names(&[]) },
        authorities: Clause { allow: Some(names(&["alpha"])), deny: names(&["beta"]) },
        signatures_min: 2,
        data_classes: names(&["health"]),
    };
    Policy {
        bounds,
        bundles: Clause { allow: Some([Digest([1; 32])].into()), deny: BTreeSet::new() },
        split: Split::Never,
        hops_max: Some(3),
        stages_max: Some(4),
        device: DeviceNeeds { provider: Some("cuda".into()), memory_mib_min: Some(20_000) },
        retain_nothing: true,
        purpose: Some("care".into()),
        price_micros_max: Some(20_000),
        price_currency: Some("EUR".into()),
        rtt_evidence: true,
        receipt_required: false,
        audit_fail_closed: true,
    }
}

fn job() -> JobHeader {
    let meta =
        |name: &str| TensorMeta { name: name.into(), dtype: 1, shape: vec![2, 300], bytes: 2_400 };
    JobHeader {
        version: WIRE_VERSION,
        job: JobId(*b"0123456789abcdef"),
        path: vec![id(0), id(1)],
        hops_left: 1,
        remaining_us: 30_000_000,
        policy: policy(),
        policy_hash: policy().hash(),
        trace: TraceContext { trace: [7; 16], span: [8; 8], flags: 1 },
        ask: Ask::Infer {
            bundle: Digest([1; 32]),
            inputs: vec![meta("x")],
            outputs: vec!["y".into()],
        },
        extensions: Vec::new(),
    }
}

fn answer(outcome: Result<Done, Refusal>) -> AnswerHeader {
    let job = JobId(*b"0123456789abcdef");
    AnswerHeader { version: WIRE_VERSION, job, outcome, extensions: Vec::new() }
}

fn done() -> Done {
    Done {
        executed_by: id(2),
        outputs: vec![TensorMeta { name: "y".into(), dtype: 1, shape: vec![2], bytes: 8 }],
        bytes: 0,
        queue_us: 250,
        service_us: 70_000,
        in_flight: 3,
    }
}

fn refusal() -> Refusal {
    Refusal::PolicyUnsatisfiable {
        failed: BTreeMap::from([(Rule::Location, 3), (Rule::CharterExpired, 1)]),
    }
}

fn advert() -> Advert {
    Advert {
        peer: id(0),
        version: Version { epoch: 1_767_225_600_000, sequence: 2 },
        issued: start().utc,
        name: "berlin".into(),
        control_addrs: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
        data_addrs: vec!["192.0.2.1:4002".parse().unwrap(), "[2001:db8::1]:4002".parse().unwrap()],
        relays: vec![id(1)],
        coordinate: Coordinate::default(),
        charter: Some("a note".into()),
        devices: vec![device("cuda", 24_000)],
        models: vec![Model {
            name: "magika".into(),
            version: "1".into(),
            bundle: Digest([1; 32]),
            slots: 2,
            service_us: 1_500,
        }],
        price: Some(Price {
            currency: "EUR".into(),
            per_device_second_micros: 300,
            per_gb_micros: 0,
        }),
        extensions: Vec::new(),
    }
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    assert_eq!(WIRE_VERSION, 1);
    assert_eq!(hex(&job().encode()), JOB);
    assert_eq!(hex(&answer(Ok(done())).encode()), ANSWER);
    assert_eq!(hex(&answer(Err(refusal())).encode()), REFUSAL);
    assert_eq!(hex(&encode(&advert().sign(&key(0)))), ADVERT);
    assert_eq!(JobHeader::decode(&job().encode()), Ok(job()));
    assert_eq!(AnswerHeader::decode(&answer(Ok(done())).encode()), Ok(answer(Ok(done()))));
    assert_eq!(AnswerHeader::decode(&answer(Err(refusal())).encode()), Ok(answer(Err(refusal()))));
    let record = advert().sign(&key(0)).verify(&Trust::default(), start()).unwrap();
    assert_eq!(record.advert, advert());
}

/// An ask as it travels, apart from the rest of its header.
fn ask_bytes(ask: Ask) -> String {
    let header = JobHeader { ask: ask.clone(), ..job() };
    assert_eq!(JobHeader::decode(&header.encode()), Ok(header));
    hex(&encode(&ask))
}

#[test]
fn the_asks_of_version_1_keep_their_numbers() {
    let (bundle, digest) = (Digest([1; 32]), "01".repeat(32));
    let asks = [
        (Ask::Describe { bundle }, format!("01{digest}")),
        (Ask::Quote { bundle, rows: 2, rtt_us: 300 }, format!("02{digest}02fb2c01")),
        (Ask::Decline { bundle }, format!("03{digest}")),
        (Ask::Manifest { bundle }, format!("04{digest}")),
        (
            Ask::Chunks { bundle, file: 2, first: 70_000, count: 4 },
            format!("05{digest}02fc7011010004"),
        ),
    ];
    for (ask, golden) in asks {
        assert_eq!(ask.bundle(), bundle);
        assert_eq!(ask_bytes(ask), golden);
    }
}

fn stretch(from: u32, to: u32) -> Stretch {
    let link = Link { peer: id(0), bundle: Digest([2; 32]), from, to };
    Stretch { link, takes: vec!["x".into()] }
}

fn stage(route: Vec<Stretch>) -> Ask {
    let tensors = vec![TensorMeta { name: "x".into(), dtype: 1, shape: vec![2], bytes: 8 }];
    Ask::Stage {
        whole: Digest([1; 32]),
        route,
        tensors,
        outputs: vec!["y".into()],
        by: vec![id(1)],
    }
}

#[test]
fn the_asks_of_stages_keep_their_bytes() {
    let (whole, own) = ("01".repeat(32), "02".repeat(32));
    let (peer, by) = (hex(&id(0).0), format!("01{}", hex(&id(1).0)));
    let tensor = "010178010102".to_owned() + "08";
    let route = format!("01{peer}{own}000501{}", "0178");
    assert_eq!(
        ask_bytes(stage(vec![stretch(0, 5)])),
        format!("06{whole}{route}{tensor}010179{by}")
    );
    let Ask::Stage { tensors, .. } = stage(Vec::new()) else { unreachable!() };
    let deliver = Ask::Deliver { whole: Digest([1; 32]), tensors, by: vec![id(1)] };
    assert_eq!(ask_bytes(deliver), format!("07{whole}{tensor}{by}"));
}

/// What it is to cost, as a bill of one amount.
fn bill() -> Bill {
    ["0.02 EUR".parse::<Amount>().unwrap()].into_iter().collect()
}

#[test]
fn money_and_a_named_deadline_keep_their_bytes_and_can_be_skipped() {
    let money = "0701455552fb204e";
    let fresh =
        Job::new(JobId([1; 16]), Digest([1; 32]), policy(), &Bounds::default(), Mono(1_000));
    assert_eq!(JobHeader::extensions_of(&fresh), []);
    let job_of = Job { is_timed: true, spent: bill(), ..fresh };
    let header = JobHeader { extensions: JobHeader::extensions_of(&job_of), ..job() };
    let plain = |golden: &'static str| golden.strip_suffix("00").unwrap();
    assert_eq!(hex(&header.encode()), format!("{}020100000200{money}", plain(JOB)));
    let read = JobHeader::decode(&header.encode()).unwrap();
    assert!(read.names_deadline() && !job().names_deadline());
    assert_eq!((read.spent(), job().spent()), (bill(), Bill::default()));
    let charged = answer(Ok(done())).charging(&bill());
    assert_eq!(hex(&charged.encode()), format!("{}010100{money}", plain(ANSWER)));
    assert_eq!(AnswerHeader::decode(&charged.encode()).unwrap().price(), bill());
    assert_eq!(answer(Ok(done())).charging(&Bill::default()), answer(Ok(done())));
    assert!([&header.extensions, &charged.extensions].into_iter().flatten().all(|e| !e.critical));
}

#[test]
fn a_priority_keeps_its_bytes_and_can_be_skipped() {
    let fresh =
        Job::new(JobId([1; 16]), Digest([1; 32]), policy(), &Bounds::default(), Mono(1_000));
    let urgent = Job { priority: 7, ..fresh };
    let header = JobHeader { extensions: JobHeader::extensions_of(&urgent), ..job() };
    let plain = JOB.strip_suffix("00").unwrap();
    assert_eq!(hex(&header.encode()), format!("{plain}0105000107"));
    assert_eq!(JobHeader::decode(&header.encode()).unwrap().priority(), 7);
    assert_eq!(job().priority(), 0);
    let torn = vec![Extension { tag: 5, critical: false, bytes: vec![251] }];
    let torn = JobHeader { extensions: torn, ..job() };
    assert!(matches!(JobHeader::decode(&torn.encode()), Err(HeaderFault::Codec(_))));
}

#[test]
fn money_that_is_none_is_refused() {
    let with = |bytes: Vec<u8>| vec![Extension { tag: 1, critical: false, bytes }];
    let read = |bytes: Vec<u8>| {
        let header = AnswerHeader { extensions: with(bytes), ..answer(Ok(done())) };
        AnswerHeader::decode(&header.encode()).map(|header| header.price())
    };
    assert_eq!(read(encode(&bill())), Ok(bill()));
    let of = |codes: Vec<[u8; 3]>| {
        encode(&codes.into_iter().map(|code| (code, 1u64)).collect::<BTreeMap<_, _>>())
    };
    let over = Err(HeaderFault::OverLimit("the price"));
    assert_eq!(read(of(vec![*b"eur"])), over);
    assert_eq!(read(of(vec![[0xff; 3]])), over);
    let many = (b'A'..=b'Z').map(|letter| [b'X', b'X', letter]).collect();
    assert_eq!(read(of(many)), over);
    assert!(matches!(read(vec![1]), Err(HeaderFault::Codec(_))));
    let policy = Policy { price_currency: None, ..policy() };
    let half = JobHeader { policy_hash: policy.hash(), policy, ..job() };
    let found = JobHeader::decode(&half.encode());
    assert_eq!(found, Err(HeaderFault::OverLimit("the policy")));
    let nowhere = Price { currency: "euro".into(), ..advert().price.unwrap() };
    let signed = Advert { price: Some(nowhere), ..advert() }.sign(&key(0));
    let fault = signed.verify(&Trust::default(), start()).unwrap_err();
    assert_eq!(fault, AdvertFault::OverLimit("price"));
}

#[test]
fn a_route_has_stages_and_each_goes_on_where_the_last_ends() {
    let refused = |route: Vec<Stretch>| {
        let header = JobHeader { ask: stage(route), ..job() };
        assert_eq!(JobHeader::decode(&header.encode()), Err(HeaderFault::OverLimit("the route")));
    };
    refused(Vec::new());
    refused(vec![stretch(5, 5)]);
    refused(vec![stretch(0, 5), stretch(6, 9)]);
    refused(vec![stretch(0, 5), stretch(0, 5)]);
    let long = u32::try_from(STAGES_MAX).unwrap();
    refused((0..=long).map(|at| stretch(at, at + 1)).collect());
}

#[test]
fn another_version_is_named_even_when_nothing_after_it_can_be_read() {
    for version in [0, 2, 250, 251, 300, u16::MAX] {
        let header = JobHeader { version, ..job() };
        assert_eq!(JobHeader::decode(&header.encode()), Err(HeaderFault::Version(version)));
        let head = encode(&version);
        assert_eq!(JobHeader::decode(&head), Err(HeaderFault::Version(version)));
        let strange = [head, vec![0xff; 40]].concat();
        assert_eq!(AnswerHeader::decode(&strange), Err(HeaderFault::Version(version)));
    }
}

#[test]
fn an_unknown_extension_is_skipped_unless_it_is_critical() {
    let with = |critical| vec![Extension { tag: 9, critical, bytes: vec![1, 2] }];
    assert!(JobHeader::decode(&JobHeader { extensions: with(false), ..job() }.encode()).is_ok());
    let header = AnswerHeader { extensions: with(false), ..answer(Ok(done())) };
    assert!(AnswerHeader::decode(&header.encode()).is_ok());
    let signed = Advert { extensions: with(false), ..advert() }.sign(&key(0));
    assert!(signed.verify(&Trust::default(), start()).is_ok());

    let unknown = HeaderFault::UnknownExtension(9);
    let header = JobHeader { extensions: with(true), ..job() };
    assert_eq!(JobHeader::decode(&header.encode()), Err(unknown));
    let header = AnswerHeader { extensions: with(true), ..answer(Ok(done())) };
    assert_eq!(AnswerHeader::decode(&header.encode()), Err(HeaderFault::UnknownExtension(9)));
    let signed = Advert { extensions: with(true), ..advert() }.sign(&key(0));
    let fault = signed.verify(&Trust::default(), start()).unwrap_err();
    assert_eq!(fault, AdvertFault::UnknownExtension(9));
}

#[test]
fn what_is_over_its_limit_is_refused_by_name() {
    type Change = fn(&mut JobHeader);
    let tensor = |name: &str, rank| TensorMeta {
        name: name.into(),
        dtype: 1,
        shape: vec![1; rank],
        bytes: 0,
    };
    let infer = |inputs: Vec<TensorMeta>, outputs| {
        let ask = Ask::Infer { bundle: Digest([1; 32]), inputs, outputs };
        JobHeader::decode(&JobHeader { ask, ..job() }.encode())
    };
    let over = |what| Err(HeaderFault::OverLimit(what));
    assert_eq!(infer(vec![tensor("x", 1); TENSORS_MAX + 1], vec![]), over("tensors"));
    assert_eq!(infer(vec![tensor("x", RANK_MAX + 1)], vec![]), over("a tensor"));
    assert_eq!(infer(vec![tensor(&"x".repeat(257), 1)], vec![]), over("a tensor"));
    assert_eq!(infer(vec![], vec![String::new(); TENSORS_MAX + 1]), over("outputs"));

    for count in [0, CHUNKS_ASKED_MAX + 1, u32::MAX] {
        let ask = Ask::Chunks { bundle: Digest([1; 32]), file: 0, first: 0, count };
        assert_eq!(JobHeader::decode(&JobHeader { ask, ..job() }.encode()), over("chunks"));
    }

    let changes: [(&'static str, Change); 4] = [
        ("hops", |header| header.hops_left = HOPS_MAX + 1),
        ("hops", |header| header.path = vec![id(0); usize::from(HOPS_MAX) + 1]),
        ("remaining time", |header| header.remaining_us = u64::MAX),
        ("extensions", |header| {
            let one = Extension { tag: 1, critical: false, bytes: Vec::new() };
            header.extensions = vec![one; EXTENSIONS_MAX + 1];
        }),
    ];
    for (what, change) in changes {
        let mut header = job();
        change(&mut header);
        assert_eq!(JobHeader::decode(&header.encode()), over(what));
    }
}

#[test]
fn a_policy_that_is_not_well_formed_is_refused() {
    type Change = fn(&mut Policy);
    fn many() -> BTreeSet<String> {
        (0..=NARROWED_VALUES_MAX).map(|n| n.to_string()).collect()
    }
    fn nowhere(text: &str) -> Place {
        decode(&encode(&text.to_owned())).unwrap()
    }
    let changes: [Change; 9] = [
        |policy| policy.bounds.operators.allow = Some(many()),
        |policy| policy.bounds.operators.deny = many(),
        |policy| policy.bounds.authorities.deny = many(),
        |policy| policy.bounds.data_classes = many(),
        |policy| {
            policy.bundles.deny =
                (0..=POLICY_VALUES_MAX).map(|n| Digest::of(&n.to_le_bytes())).collect()
        },
        |policy| policy.hops_max = Some(HOPS_MAX + 1),
        |policy| policy.bounds.locations.allow = Some([nowhere("UK")].into()),
        |policy| policy.bounds.locations.deny = [nowhere("")].into(),
        |policy| policy.bounds.control.deny = [nowhere("ÄÖ")].into(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut policy = policy();
        change(&mut policy);
        let header = JobHeader { policy_hash: policy.hash(), policy, ..job() };
        let found = JobHeader::decode(&header.encode());
        assert_eq!(found, Err(HeaderFault::OverLimit("the policy")), "change {index}");
    }
}

#[test]
fn a_policy_that_is_not_its_hash_is_refused() {
    let header = JobHeader { policy: Policy::default(), ..job() };
    assert_eq!(JobHeader::decode(&header.encode()), Err(HeaderFault::PolicyHash));
    let header = JobHeader { policy_hash: Digest([0; 32]), ..job() };
    assert_eq!(JobHeader::decode(&header.encode()), Err(HeaderFault::PolicyHash));
}

/// What a peer sends on is what it received and its own law, and both have limits: their sum must
/// still be one that the next peer reads.
#[test]
fn a_law_narrowed_by_a_law_can_still_be_read() {
    let denies = |tag: &str| Bounds {
        operators: Clause {
            allow: None,
            deny: (0..POLICY_VALUES_MAX).map(|n| format!("{tag}{n}")).collect(),
        },
        ..Bounds::default()
    };
    let mut policy = Policy { bounds: denies("a"), ..Policy::default() };
    for node in ["b", "c", "d", "e"] {
        policy = policy.narrow(&denies(node));
    }
    let header = JobHeader { policy_hash: policy.hash(), policy, ..job() };
    let bytes = header.encode();
    assert!(bytes.len() <= HEADER_BYTES_MAX);
    assert_eq!(JobHeader::decode(&bytes), Ok(header));
}

#[test]
fn an_advert_is_taken_only_whole_fresh_and_signed() {
    let verify = |signed: SignedAdvert, now| signed.verify(&Trust::default(), now).map(|_| ());
    let signed = advert().sign(&key(0));
    assert_eq!(verify(signed.clone(), start()), Ok(()));
    let skew = u64::try_from(CLOCK_SKEW_MAX.as_millis()).unwrap();
    let early = Advert { issued: later(start(), skew + 5).utc, ..advert() }.sign(&key(0));
    assert_eq!(verify(early, start()), Err(AdvertFault::FromTheFuture(skew + 5)));
    let life = u64::try_from(ADVERT_LIFETIME.as_millis()).unwrap();
    assert_eq!(verify(signed.clone(), later(start(), life)), Ok(()));
    let lapsed = Err(AdvertFault::Lapsed(life + 1));
    assert_eq!(verify(signed.clone(), later(start(), life + 1)), lapsed);

    let large = Advert { charter: Some("x".repeat(ADVERT_BYTES_MAX)), ..advert() }.sign(&key(0));
    assert!(matches!(verify(large, start()), Err(AdvertFault::TooLarge(_))));
    let many = Advert { relays: vec![id(1); ADVERT_ADDRS_MAX + 1], ..advert() }.sign(&key(0));
    assert_eq!(verify(many, start()), Err(AdvertFault::OverLimit("relays")));
    // A charter that is none does not keep its peer out, only from what needs a charter.
    let record = signed.clone().verify(&Trust::default(), start()).unwrap();
    assert!(matches!(record.charter, Err(CharterFault::Note(_))));

    let bytes = encode(&signed);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(flipped) = decode::<SignedAdvert>(&flipped) else { continue };
        assert!(verify(flipped, start()).is_err(), "bit {bit}");
    }
}

#[test]
fn no_part_of_a_header_is_a_header_and_none_panics() {
    let (job, answer) = (job().encode(), answer(Err(refusal())).encode());
    for length in 0..job.len() {
        assert!(JobHeader::decode(&job[..length]).is_err(), "{length} bytes of a job");
    }
    for length in 0..answer.len() {
        assert!(AnswerHeader::decode(&answer[..length]).is_err(), "{length} bytes of an answer");
    }
    let advert = encode(&advert().sign(&key(0)));
    for length in 0..advert.len() {
        assert!(decode::<SignedAdvert>(&advert[..length]).is_err(), "{length} bytes of an advert");
    }
    let trailing = [job, vec![0]].concat();
    assert!(matches!(JobHeader::decode(&trailing), Err(HeaderFault::Codec(_))));
}

#[test]
fn random_bytes_never_panic() {
    let good = [job().encode(), answer(Ok(done())).encode(), encode(&advert().sign(&key(0)))];
    let read = |bytes: &[u8]| {
        let _ = JobHeader::decode(bytes);
        let _ = AnswerHeader::decode(bytes);
        let _ = decode::<SignedAdvert>(bytes).map(|advert| {
            let _ = advert.claim();
            let _ = advert.verify(&Trust::default(), start());
        });
    };
    check("random bytes", 4_000, &(vec(any::<u8>(), 0..300), any::<u64>()), |(bytes, seed)| {
        read(&bytes);
        read(&[&[1], bytes.as_slice()].concat());
        // What nearly is a header gets further.
        let mut rng = Rng::new(seed);
        let mut near = good[rng.below(good.len())].clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(near.len());
            near[at] = rng.next_u64().to_le_bytes()[0];
        }
        read(&near);
        Ok(())
    });
}
