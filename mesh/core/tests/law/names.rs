//! What a model's name means.

use hansa_core::advert::{Advert, Model, Version};
use hansa_core::charter::Charter;
use hansa_core::id::{Digest, PeerId};
use hansa_core::plan::{Refusal, resolve};
use hansa_core::policy::{Clause, Policy};
use hansa_core::time::Utc;
use hansa_core::view::{Entry, Liveness, View};

use crate::world::{START, device, id, key, signer, start, trust};

fn digest(of: u8) -> Digest {
    Digest([of; 32])
}

/// Models that a peer offers: name, version, bundle.
pub(crate) type Offers = &'static [(&'static str, &'static str, u8)];

/// Peers by place, and what each offers; the first is this one.
pub(crate) fn view(peers: &[(&str, Offers)]) -> View {
    let entry = |(index, (place, models)): (usize, &(&str, Offers))| {
        let charter = Charter {
            serial: index.to_string(),
            subject: id(index),
            location: place.parse().unwrap(),
            operator: "Acme Inc.".into(),
            lei: None,
            control: place.parse().unwrap(),
            data_classes: Default::default(),
            not_before: Utc((START - 9) * 1_000),
            not_after: Utc((START + 9) * 1_000),
            authorities: Default::default(),
        };
        let model = |(name, version, bundle): &(&str, &str, u8)| Model {
            name: (*name).into(),
            version: (*version).into(),
            bundle: digest(*bundle),
            slots: 1,
            service_us: 5_000,
        };
        let advert = Advert {
            peer: id(index),
            version: Version::default(),
            issued: start().utc,
            name: format!("peer{index}"),
            control_addrs: Vec::new(),
            data_addrs: Vec::new(),
            relays: Vec::new(),
            coordinate: Default::default(),
            charter: Some(charter.sign(&signer(0)).unwrap()),
            devices: vec![device("cpu", 1_000)],
            models: models.iter().map(model).collect(),
            price: None,
            extensions: Vec::new(),
        };
        let record = advert.sign(&key(index)).verify(trust(), start()).unwrap();
        Entry { record, liveness: Liveness::Alive, since: start().mono }
    };
    View::new(id(0), peers.iter().enumerate().map(entry).collect())
}

pub(crate) fn only(place: &str) -> Policy {
    let mut policy = Policy::default();
    policy.bounds.locations.allow = Some([place.parse().unwrap()].into());
    policy
}

fn meant(view: &View, model: &str, version: Option<&str>, policy: &Policy) -> Result<u8, Refusal> {
    resolve(start(), view, model, version, policy).map(|resolved| resolved.bundle.0[0])
}

#[test]
fn the_highest_number_is_meant_where_no_version_is_named() {
    let offers: Offers = &[("m", "9", 9), ("m", "10", 10), ("m", "beta", 3), ("m", "2", 2)];
    let view = view(&[("DE", &[]), ("FR", offers)]);
    let law = Policy::default();
    assert_eq!(meant(&view, "m", None, &law), Ok(10));
    assert_eq!(meant(&view, "m", Some("9"), &law), Ok(9));
    assert_eq!(meant(&view, "m", Some("beta"), &law), Ok(3));
}

#[test]
fn a_digest_is_exact() {
    let offers: Offers = &[("m", "1", 1), ("m", "2", 2)];
    let view = view(&[("DE", &[]), ("FR", offers), ("US", &[("m", "2", 3)])]);
    let law = Policy::default();
    for bundle in 1..=3 {
        assert_eq!(meant(&view, &format!("m@{}", digest(bundle)), None, &law), Ok(bundle));
    }
    let absent = meant(&view, &format!("m@{}", digest(4)), None, &law);
    assert!(matches!(absent, Err(Refusal::UnknownModel { .. })), "{absent:?}");
    let other = meant(&view, &format!("m@{}", digest(1)), Some("2"), &law);
    assert!(matches!(other, Err(Refusal::UnknownModel { .. })), "{other:?}");
    let broken = meant(&view, "m@sha256:12", None, &law);
    assert!(matches!(broken, Err(Refusal::BadInput { .. })), "{broken:?}");
}

#[test]
fn two_bundles_of_permitted_peers_are_ambiguous() {
    let view = view(&[("DE", &[]), ("FR", &[("m", "1", 1)]), ("US", &[("m", "1", 2)])]);
    let found = meant(&view, "m", None, &Policy::default());
    let digests = vec![digest(1), digest(2)];
    assert_eq!(found, Err(Refusal::AmbiguousModel { model: "m".into(), digests }));
}

#[test]
fn what_no_permitted_peer_holds_does_not_count() {
    let view = view(&[("DE", &[]), ("FR", &[("m", "1", 1)]), ("US", &[("m", "1", 2)])]);
    assert_eq!(meant(&view, "m", None, &only("FR")), Ok(1));
    assert_eq!(meant(&view, "m", None, &only("US")), Ok(2));
    let bundles = Clause { allow: None, deny: [digest(1)].into() };
    let law = Policy { bundles, ..Policy::default() };
    assert_eq!(meant(&view, "m", None, &law), Ok(2));
    // None is permitted: the plan, not the name, says so.
    assert!(meant(&view, "m", None, &only("SG")).is_ok());
}

/// Else any stranger could take over a name by a higher number, and stop every job that names it.
#[test]
fn a_higher_version_of_forbidden_peers_does_not_hide_a_permitted_one() {
    let view = view(&[("DE", &[]), ("FR", &[("m", "1", 1)]), ("US", &[("m", "999", 9)])]);
    assert_eq!(meant(&view, "m", None, &only("FR")), Ok(1));
    assert_eq!(meant(&view, "m", None, &Policy::default()), Ok(9));
    assert_eq!(meant(&view, "m", Some("999"), &only("FR")), Ok(9), "a version is what was named");
}

#[test]
fn an_unknown_name_comes_with_what_is_near() {
    let view = view(&[("DE", &[]), ("FR", &[("magika", "1", 1), ("magika", "3", 3)])]);
    let hint = |model: &str, version| match meant(&view, model, version, &Policy::default()) {
        Err(refusal @ Refusal::UnknownModel { .. }) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(hint("Magika", None).contains("did you mean `magika`"));
    assert!(hint("magika-v3", None).contains("did you mean `magika`"));
    assert!(!hint("whisper", None).contains("did you mean"));
    assert!(!hint("", None).contains("did you mean"));
    let versions = hint("magika", Some("2"));
    assert!(versions.contains("1, 3") && !versions.contains("did you mean"), "{versions}");
}

/// Names of peers that are all down are known: the job is unavailable, its model not unknown.
#[test]
fn a_name_whose_peers_are_down_is_known() {
    let up = view(&[("DE", &[]), ("FR", &[("m", "1", 1)])]);
    let down = up.entries().iter().cloned().map(|entry| {
        let me: PeerId = id(0);
        let liveness =
            if entry.record.advert.peer == me { Liveness::Alive } else { Liveness::Down };
        Entry { liveness, ..entry }
    });
    let view = View::new(id(0), down.collect());
    assert_eq!(meant(&view, "m", None, &Policy::default()), Ok(1));
}
