//! Batches over random meshes: every row has its peer, no peer has what the law forbids, and a
//! split is never later than the best single peer.
//!
//! Random from one seed, printed first: `HANSA_LAW_SEED=<seed> cargo test -p hansa-core --test
//! scattering`.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::{Advert, Model, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::explain::{Choice, explain};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::limits::SHARDS_PER_BATCH_MAX;
use hansa_core::loads::{Loads, Report};
use hansa_core::note::SignerKey;
use hansa_core::plan::{Job, Plan, Refusal, plan};
use hansa_core::policy::{Bounds, Policy, Split};
use hansa_core::rng::Rng;
use hansa_core::scatter::{SHARE_WORK_MIN, Scatter, Unsplittable, WORTH_PERCENT, scatter};
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const NOW: Now = Now { mono: Mono(5_000_000_000), utc: Utc(1_800_000_000_000) };
const BUNDLE: Digest = Digest([7; 32]);
const PLACES: [&str; 4] = ["DE", "FR", "US", "SG"];

/// One holder of the model.
#[derive(Clone, Copy)]
struct Peer {
    place: &'static str,
    service_us: u32,
    slots: u16,
    rtt_us: u64,
    busy: u32,
    liveness: Liveness,
    holds: bool,
}

/// A quick holder that is near and idle.
const QUICK: Peer = Peer {
    place: "DE",
    service_us: 1_000,
    slots: 1,
    rtt_us: 500,
    busy: 0,
    liveness: Liveness::Alive,
    holds: true,
};

fn key(index: usize) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(index).unwrap() + 1; 32])
}

fn id(index: usize) -> PeerId {
    key(index).peer_id()
}

/// What the first of `peers` sees and has measured.
fn mesh(peers: &[Peer]) -> (View, Loads) {
    let signer = SignerKey::new("authority", [250; 32]).unwrap();
    let any = || BTreeSet::from(["*".to_owned()]);
    let authority = Authority { key: signer.verifier(), countries: any(), operators: any() };
    let trust = Trust::new(vec![authority]);
    let mut loads = Loads::new();
    let entry = |(index, peer): (usize, &Peer)| {
        let charter = Charter {
            serial: index.to_string(),
            subject: id(index),
            location: peer.place.parse().unwrap(),
            operator: "any".into(),
            lei: None,
            control: peer.place.parse().unwrap(),
            data_classes: BTreeSet::new(),
            not_before: Utc(NOW.utc.0 - 1_000),
            not_after: Utc(NOW.utc.0 + 1_000_000),
            authorities: BTreeSet::new(),
        };
        let model = Model {
            name: "model".into(),
            version: "1".into(),
            bundle: BUNDLE,
            slots: peer.slots,
            service_us: peer.service_us,
        };
        let device = hansa_core::advert::Device {
            provider: "cpu".into(),
            name: "any".into(),
            id: 0,
            memory_total_mib: 8_000,
            memory_free_mib: 8_000,
            utilisation_percent: None,
        };
        let advert = Advert {
            peer: id(index),
            version: Version { epoch: 1, sequence: 1 },
            issued: NOW.utc,
            name: format!("peer{index}"),
            control_addrs: Vec::new(),
            data_addrs: Vec::new(),
            relays: Vec::new(),
            coordinate: Default::default(),
            charter: Some(charter.sign(&signer).unwrap()),
            devices: vec![device],
            models: if peer.holds { vec![model] } else { Vec::new() },
            price: None,
            extensions: Vec::new(),
        };
        let record = advert.sign(&key(index)).verify(&trust, NOW).unwrap();
        Entry { record, liveness: peer.liveness, since: Mono(0) }
    };
    for (index, peer) in peers.iter().enumerate() {
        if index > 0 {
            loads.measured_rtt(id(index), Duration::from_micros(peer.rtt_us));
        }
        (0..peer.busy).for_each(|_| loads.began(id(index), BUNDLE));
    }
    (View::new(id(0), peers.iter().enumerate().map(entry).collect()), loads)
}

fn job(number: u64, split: Split, rows: u32) -> Job {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let policy = Policy { split, ..Policy::default() };
    let job = Job::new(JobId(id), BUNDLE, policy, &Bounds::default(), Mono(u64::MAX));
    Job { rows, separable: true, bytes: u64::from(rows) * 8_192, ..job }
}

/// The same job, kept to some places.
fn within(job: Job, places: &BTreeSet<&str>) -> Job {
    let allow = Some(places.iter().map(|p| p.parse().unwrap()).collect());
    let policy = job.policy.with(|policy| policy.bounds.locations.allow = allow);
    let fresh = Job::new(job.id, BUNDLE, policy, &Bounds::default(), job.deadline);
    Job { rows: job.rows, bytes: job.bytes, separable: job.separable, ..fresh }
}

/// A number below one of `limits`.
fn pick(rng: &mut Rng, limits: &[usize]) -> usize {
    let limit = limits[rng.below(limits.len())];
    rng.below(limit)
}

fn draw(rng: &mut Rng) -> Vec<Peer> {
    let count = 1 + rng.below(24);
    let peer = |rng: &mut Rng| Peer {
        place: PLACES[rng.below(PLACES.len())],
        service_us: u32::try_from(100 + rng.below(8_000)).unwrap(),
        slots: u16::try_from(1 + rng.below(3)).unwrap(),
        rtt_us: 100 + pick(rng, &[4_000, 4_000, 200_000]) as u64,
        busy: if rng.below(3) == 0 { u32::try_from(rng.below(5)).unwrap() } else { 0 },
        liveness: match rng.below(10) {
            0 => Liveness::Down,
            1 => Liveness::Suspect,
            _ => Liveness::Alive,
        },
        holds: rng.below(8) > 0,
    };
    (0..count).map(|_| peer(rng)).collect()
}

/// What one peer takes for so many rows, by the law: that of the plan for a mesh where only it can
/// run the job.
fn law(view: &View, loads: &Loads, job: &Job, peer: PeerId, rows: u32) -> Duration {
    let others: Vec<PeerId> = view
        .entries()
        .iter()
        .map(|entry| entry.record.advert.peer)
        .filter(|other| *other != peer)
        .collect();
    let bytes = job.bytes * u64::from(rows) / u64::from(job.rows);
    let part = Job { rows, bytes, ..job.shard(job.id, rows, None) };
    match plan(NOW, view, loads, &part, &others) {
        Plan::Local { cost } | Plan::Forward { cost, .. } => cost.total(),
        other => panic!("a share's peer can run it: {other:?}"),
    }
}

#[test]
fn shares_are_all_the_rows_within_the_law_and_sooner_than_the_best_single_peer() {
    let seed = std::env::var("HANSA_LAW_SEED").map_or(20_260_102, |text| text.parse().unwrap());
    eprintln!("HANSA_LAW_SEED={seed}");
    let mut rng = Rng::new(seed);
    let (mut split, mut whole, mut forced, mut refused) = (0, 0, 0, 0);
    for number in 0..400 {
        let peers = draw(&mut rng);
        let (view, loads) = mesh(&peers);
        let places: BTreeSet<&str> = (0..3).map(|_| PLACES[rng.below(PLACES.len())]).collect();
        let rows = u32::try_from(2 + pick(&mut rng, &[30, 2_000])).unwrap();
        let how = if rng.below(3) == 0 { Split::Rows } else { Split::Auto };
        let job = within(job(number, how, rows), &places);
        let open = |peer: &Peer| {
            peer.holds && places.contains(peer.place) && peer.liveness != Liveness::Down
        };
        // This peer does not ask whether it believes itself down.
        let may = |index: usize| {
            open(&peers[index]) || (index == 0 && peers[0].holds && places.contains(peers[0].place))
        };
        let permitted: Vec<PeerId> = (0..peers.len()).filter(|i| may(*i)).map(id).collect();
        let outcome = scatter(NOW, &view, &loads, &job);
        assert_eq!(outcome, scatter(NOW, &view, &loads, &job), "the same again");
        let Scatter { shares, expected, alone } = match outcome {
            Ok(Some(scatter)) => scatter,
            Ok(None) => {
                assert_eq!(how, Split::Auto);
                whole += 1;
                continue;
            }
            Err(Refusal::Unsplittable { why }) => {
                assert_eq!((how, why, permitted.len()), (Split::Rows, Unsplittable::OnePeer, 1));
                refused += 1;
                continue;
            }
            Err(_) => {
                assert_eq!((how, permitted.len()), (Split::Rows, 0));
                refused += 1;
                continue;
            }
        };
        assert_eq!(shares.iter().map(|share| share.rows).sum::<u32>(), rows);
        assert!((2..=SHARDS_PER_BATCH_MAX).contains(&shares.len()));
        let distinct: BTreeSet<PeerId> = shares.iter().map(|share| share.peer).collect();
        assert_eq!(distinct.len(), shares.len(), "nobody has two shares");
        let tolerance = Duration::from_micros(20);
        let mut last = Duration::ZERO;
        for share in &shares {
            assert!(permitted.contains(&share.peer) && share.rows > 0);
            let takes = law(&view, &loads, &job, share.peer, share.rows);
            assert!(takes.abs_diff(share.cost.total()) < tolerance, "{takes:?} {share:?}");
            last = last.max(takes);
        }
        assert!(last.abs_diff(expected) < tolerance, "{last:?} {expected:?}");
        if how == Split::Rows {
            forced += 1;
            continue;
        }
        split += 1;
        assert!(shares.iter().all(|share| share.cost.service >= SHARE_WORK_MIN));
        assert!(expected * 100 < alone * WORTH_PERCENT);
        // No permitted peer that was looked at is sooner alone; with so few all are.
        if permitted.len() <= 16 {
            let singles = permitted.iter().map(|peer| law(&view, &loads, &job, *peer, rows));
            assert!(singles.min().unwrap().abs_diff(alone) < tolerance);
        }
    }
    let tested = [split, whole, forced, refused];
    assert!(tested.iter().all(|count| *count > 10), "{tested:?}: little was tested");
}

#[test]
fn shares_are_in_proportion_to_speed() {
    let slow = Peer { service_us: 3_000, ..QUICK };
    let (view, loads) = mesh(&[QUICK, slow]);
    let Scatter { shares, expected, alone } =
        scatter(NOW, &view, &loads, &job(1, Split::Auto, 400)).unwrap().unwrap();
    let rows = |peer| shares.iter().find(|share| share.peer == peer).unwrap().rows;
    assert!((297..=303).contains(&rows(id(0))), "{shares:?}");
    assert_eq!(alone, Duration::from_millis(400));
    assert!(expected > Duration::from_millis(296) && expected < Duration::from_millis(305));
    // One with work in flight gets less.
    let (view, loads) = mesh(&[QUICK, Peer { busy: 1, ..QUICK }]);
    let busy = scatter(NOW, &view, &loads, &job(1, Split::Auto, 300)).unwrap().unwrap();
    assert!(
        busy.shares.iter().any(|share| share.peer == id(0) && (190..=210).contains(&share.rows))
    );
}

#[test]
fn small_batches_and_far_peers_are_not_split_but_where_it_is_demanded() {
    let far = Peer { rtt_us: 150_000, ..QUICK };
    for (peers, rows) in [([QUICK, QUICK], 8), ([QUICK, far], 150)] {
        let (view, loads) = mesh(&peers);
        assert_eq!(scatter(NOW, &view, &loads, &job(1, Split::Auto, rows)), Ok(None));
        let forced = scatter(NOW, &view, &loads, &job(1, Split::Rows, rows)).unwrap().unwrap();
        assert_eq!(forced.shares.len(), 2);
        assert!(forced.shares.iter().all(|share| share.rows > 0));
    }
    let (view, loads) = mesh(&[QUICK, far]);
    let large = scatter(NOW, &view, &loads, &job(1, Split::Auto, 1_000)).unwrap();
    assert!(large.is_some(), "a large batch is worth a far peer");
}

#[test]
fn what_forbids_a_split_is_kept() {
    let (view, loads) = mesh(&[QUICK; 4]);
    let at = |job: &Job| scatter(NOW, &view, &loads, job);
    assert!(at(&job(1, Split::Auto, 400)).unwrap().is_some());
    assert_eq!(at(&job(1, Split::Never, 400)), Ok(None));
    let mixed = |split| Job { separable: false, ..job(1, split, 400) };
    assert_eq!(at(&mixed(Split::Auto)), Ok(None));
    let refused = |why| Err(Refusal::Unsplittable { why });
    assert_eq!(at(&mixed(Split::Rows)), refused(Unsplittable::NotSeparable));
    assert_eq!(at(&job(1, Split::Rows, 1)), refused(Unsplittable::OneRow));
    // Only the entry splits; a job that was not split there runs nowhere else.
    let passed = Job { path: vec![id(9)], ..job(1, Split::Rows, 400) };
    assert_eq!(at(&passed), Ok(None));
    let planned = plan(NOW, &view, &loads, &passed, &[]);
    assert_eq!(planned, Plan::Refuse(Refusal::Unsupported { clause: "split".into() }));
    let stays = Job { hops_left: 0, ..job(1, Split::Rows, 400) };
    assert_eq!(at(&stays), refused(Unsplittable::OnePeer));
    let shard = job(1, Split::Rows, 400).shard(JobId([9; 16]), 100, None);
    assert_eq!((shard.policy.split, shard.onward.split), (Split::Never, Split::Never));
    assert_eq!((shard.onward.hash(), shard.bytes), (Policy::hash(&shard.onward), 100 * 8_192));
    assert_eq!(at(&shard), Ok(None));
}

#[test]
fn sizes_beyond_all_measure_do_not_overflow() {
    let (view, mut loads) = mesh(&[QUICK; 3]);
    let long = Duration::from_secs(u64::MAX / 4);
    let report = Report { took: long, service: long, rows: 1, ..Report::default() };
    loads.answered(id(1), BUNDLE, report, NOW.mono);
    let huge = Job { bytes: u64::MAX, ..job(1, Split::Rows, u32::MAX) };
    let scatter = scatter(NOW, &view, &loads, &huge).unwrap().unwrap();
    assert_eq!(
        scatter.shares.iter().map(|share| u64::from(share.rows)).sum::<u64>(),
        u32::MAX.into()
    );
}

#[test]
fn the_explanation_tells_the_shares() {
    let (view, loads) = mesh(&[QUICK; 4]);
    let job = job(1, Split::Auto, 400);
    let planned = scatter(NOW, &view, &loads, &job).unwrap().unwrap();
    let Choice::Rows { shares, cost_us, alone_us } = explain(NOW, &view, &loads, &job).plan else {
        panic!("the batch is split")
    };
    let told: Vec<(PeerId, u32)> = shares.iter().map(|share| (share.peer_id, share.rows)).collect();
    let meant: Vec<(PeerId, u32)> =
        planned.shares.iter().map(|share| (share.peer, share.rows)).collect();
    assert_eq!(told, meant);
    assert!(cost_us < alone_us && shares.iter().all(|share| share.peer.starts_with("peer")));
}
