//! Where each host's view of the mesh comes from: the seam between jobs and gossip.

use std::sync::Arc;

use hansa_core::advert::{Advert, Model, Record, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::{Digest, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::note::SignerKey;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

use crate::jobs::setup::{Host, Setup};

/// The bundle that all servers hold.
pub const BUNDLE: Digest = Digest([7; 32]);
/// Wall time at the start.
pub const UTC: Utc = Utc(1_800_000_000_000);

/// Gives each host's view.
pub trait Views {
    /// What the host knows now.
    fn view(&self, host: usize) -> Arc<View>;
}

/// Views that know everybody from the start and never change.
#[derive(Debug)]
pub struct Fixed {
    views: Vec<Arc<View>>,
    records: Vec<Arc<Record>>,
}

impl Fixed {
    /// Signs an advert and a charter for each host.
    pub fn new(setup: &Setup) -> Self {
        let authority = SignerKey::new("authority", [9; 32]).expect("a name");
        let any = || ["*".to_owned()].into();
        let key = authority.verifier();
        let trust = Trust::new(vec![Authority { key, countries: any(), operators: any() }]);
        let record = |(n, host)| record(n, host, setup, &authority, &trust);
        let records: Vec<Arc<Record>> = (0..).zip(&setup.hosts).map(record).collect();
        let alive = |record: &Arc<Record>| Entry {
            record: record.clone(),
            liveness: Liveness::Alive,
            since: Mono(0),
        };
        let entries: Vec<Entry> = records.iter().map(alive).collect();
        let view = |record: &Arc<Record>| Arc::new(View::new(record.advert.peer, entries.clone()));
        // Only entries plan; a server's view is never asked for, so it is one that all share.
        let shared = view(&records[0]);
        let views = records.iter().zip(&setup.hosts).map(|(record, host)| {
            if host.server.is_none() { view(record) } else { shared.clone() }
        });
        Self { views: views.collect(), records }
    }

    /// Who a host is.
    pub fn peer(&self, host: usize) -> PeerId {
        self.records[host].advert.peer
    }

    /// What a host's charter says.
    pub fn charter(&self, host: usize) -> &Charter {
        self.records[host].charter.as_ref().expect("all hosts have one")
    }

    /// A host's verified advert.
    pub fn record(&self, host: usize) -> &Record {
        &self.records[host]
    }
}

impl Views for Fixed {
    fn view(&self, host: usize) -> Arc<View> {
        self.views[host].clone()
    }
}

fn record(n: u32, host: &Host, setup: &Setup, authority: &SignerKey, trust: &Trust) -> Arc<Record> {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    let key = SigningKey::from_seed(&seed);
    let charter = Charter {
        serial: n.to_string(),
        subject: key.peer_id(),
        location: host.place.parse().expect("a place"),
        operator: host.operator.clone(),
        control: host.place[..2].parse().expect("a place"),
        data_classes: Default::default(),
        not_before: Utc(UTC.0 - 1_000_000),
        not_after: Utc(UTC.0 + 100_000_000_000),
        authorities: Default::default(),
    };
    let model = |(slots, speed): (u16, f64)| Model {
        name: "model".into(),
        version: "1".into(),
        bundle: BUNDLE,
        slots,
        service_us: u32::try_from(
            (setup.typical.prefill + setup.typical.decode).div_f64(speed).as_micros(),
        )
        .unwrap_or(u32::MAX),
    };
    let advert = Advert {
        peer: key.peer_id(),
        version: Version { epoch: 1, sequence: 1 },
        issued: UTC,
        name: format!("node-{n}"),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: Some(charter.sign(authority).expect("a charter")),
        devices: Vec::new(),
        models: host.server.map(model).into_iter().collect(),
        price: None,
        extensions: Vec::new(),
    };
    advert.sign(&key).verify(trust, Now { mono: Mono(0), utc: UTC }).expect("an advert")
}
