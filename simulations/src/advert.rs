//! What simulated peers say of themselves.

use hansa_core::advert::{Advert, Device, Model, Version};
use hansa_core::id::{Digest, PeerId};
use hansa_core::time::Utc;

/// What a common node says of itself: about 600 bytes.
pub fn common(host: usize, peer: PeerId, relay: Option<PeerId>) -> Advert {
    let device = Device {
        provider: "cuda".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        id: 0,
        memory_total_mib: 81_559,
        memory_free_mib: 70_000,
        utilisation_percent: Some(20),
    };
    let model = |index: u8| Model {
        name: format!("model-{index}"),
        version: "1".into(),
        bundle: Digest([index; 32]),
        slots: 4,
        service_us: 1_500,
    };
    let advert = Advert {
        peer,
        version: Version::default(),
        issued: Utc(0),
        name: format!("node-{host}"),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: None,
        devices: vec![device],
        models: (0..6).map(model).collect(),
        price: None,
        extensions: Vec::new(),
    };
    reached(advert, host, relay)
}

/// The advert of a host that can be dialled, or, behind NAT, only through a relay.
pub fn reached(advert: Advert, host: usize, relay: Option<PeerId>) -> Advert {
    if relay.is_some() {
        return Advert { relays: relay.into_iter().collect(), ..advert };
    }
    let byte = |shift: usize| u8::try_from(host >> shift & 0xff).expect("masked");
    let ip = [10, byte(16), byte(8), byte(0)];
    let control = format!("/ip4/{}.{}.{}.{}/udp/7700/quic-v1", ip[0], ip[1], ip[2], ip[3]);
    Advert { control_addrs: vec![control], data_addrs: vec![(ip, 7701).into()], ..advert }
}
