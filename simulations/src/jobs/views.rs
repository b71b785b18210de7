//! Where each host's view of the mesh comes from: the seam between jobs and gossip.

use std::sync::Arc;

use hansa_core::advert::{Advert, Model, Record, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::PeerId;
use hansa_core::keys::SigningKey;
use hansa_core::note::SignerKey;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

use crate::jobs::setup::{AUTHORITY, Host, Setup, Terms};

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
        let authority = SignerKey::new(AUTHORITY, [9; 32]).expect("a name");
        let forger = SignerKey::new(AUTHORITY, [8; 32]).expect("a name");
        let any = || ["*".to_owned()].into();
        let key = authority.verifier();
        let trust = Trust::new(vec![Authority { key, countries: any(), operators: any() }]);
        let record = |(n, host): (u32, &Host)| {
            let signer = if host.forged { &forger } else { &authority };
            record(n, host, setup, signer, &trust)
        };
        let records: Vec<Arc<Record>> = (0..).zip(&setup.hosts).map(record).collect();
        let alive = |record: &Arc<Record>| Entry {
            record: record.clone(),
            liveness: Liveness::Alive,
            since: Mono(0),
        };
        let entries: Vec<Entry> = records.iter().map(alive).collect();
        let view = |record: &Arc<Record>| Arc::new(View::new(record.advert.peer, entries.clone()));
        // Only entries plan; the view of others is never asked for, so it is one that all share.
        let mut entry = vec![false; records.len()];
        setup.arrivals.iter().for_each(|arrival| entry[arrival.entry] = true);
        let shared = view(&records[0]);
        let views = records.iter().zip(entry);
        let views = views.map(|(record, is)| if is { view(record) } else { shared.clone() });
        Self { views: views.collect(), records }
    }

    /// Who a host is.
    pub fn peer(&self, host: usize) -> PeerId {
        self.records[host].advert.peer
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

fn record(n: u32, host: &Host, setup: &Setup, signer: &SignerKey, trust: &Trust) -> Arc<Record> {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    let key = SigningKey::from_seed(&seed);
    let charter = |terms: &Terms| {
        let charter = Charter {
            serial: n.to_string(),
            subject: key.peer_id(),
            location: terms.location.parse().expect("a place"),
            operator: terms.operator.clone(),
            control: terms.control.parse().expect("a place"),
            data_classes: terms.data_classes.clone(),
            not_before: Utc(UTC.0 - 1_000_000),
            not_after: Utc(UTC.0 + 100_000_000_000),
            authorities: Default::default(),
        };
        charter.sign(signer).expect("a charter")
    };
    let mut models = Vec::new();
    if let Some(server) = &host.server {
        let device = setup.device(server);
        let slots = u16::try_from(device.slots).unwrap_or(u16::MAX);
        for model in server.models.iter().map(|model| &setup.models[*model]) {
            let work = device.typical(setup.tokens, model.work);
            let service = (work.prefill + work.decode).div_f64(device.speed);
            models.push(Model {
                name: model.name.clone(),
                version: "1".into(),
                bundle: model.bundle,
                slots: slots.saturating_mul(host.boast.unwrap_or(1)),
                service_us: u32::try_from(service.as_micros()).unwrap_or(u32::MAX),
            });
        }
    }
    let advert = Advert {
        peer: key.peer_id(),
        version: Version { epoch: 1, sequence: 1 },
        issued: UTC,
        name: format!("node-{n}"),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: host.terms.as_ref().map(charter),
        devices: host.devices.clone(),
        models,
        price: None,
        extensions: Vec::new(),
    };
    advert.sign(&key).verify(trust, Now { mono: Mono(0), utc: UTC }).expect("an advert")
}
