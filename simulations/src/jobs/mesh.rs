//! What jobs are played over: who knows whom, how far it is, what befalls the hosts. The seam
//! between jobs and gossip.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::{Advert, Model, Record, Stage, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::PeerId;
use hansa_core::keys::SigningKey;
use hansa_core::limits::ECHOES_MIN;
use hansa_core::note::SignerKey;
use hansa_core::physics::{Echoes, Evidence};
use hansa_core::revocation::{Revocation, RevocationList, Revocations};
use hansa_core::rng::{Rng, mix};
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

use crate::course::Change;
use crate::jobs::setup::{AUTHORITY, Fault, Host, Setup, Term, Terms};
use crate::recording::ReplayEvent;
use crate::world::GENESIS;

/// So long a peer that has a job may be silent, at this distance, before it counts as lost: what
/// the data plane of a node waits.
pub fn silence(rtt: Duration) -> Duration {
    Duration::from_millis(700).max(4 * rtt + Duration::from_millis(400))
}

/// So long after a list of revocations its authority means to sign the next.
const LIST_LASTS: Duration = Duration::from_secs(3_600);

/// A message that does not arrive: its sender, if it waits for an answer, gives up after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence(pub Duration);

/// What jobs are played over.
pub trait Mesh {
    /// Who a host is.
    fn peer(&self, host: usize) -> PeerId;

    /// The advert that it began with, verified.
    fn record(&self, host: usize) -> &Record;

    /// What the host knows now.
    fn view(&self, host: usize) -> Arc<View>;

    /// The wall clock of a host.
    fn utc(&self, host: usize) -> Utc;

    /// The round trip between two hosts, as it is at its best, by the way that one's calls to the
    /// other take.
    fn rtt(&self, a: usize, b: usize) -> Duration;

    /// Round trips that hosts measured since this was last asked.
    fn measured(&mut self) -> Vec<(usize, PeerId, Duration)>;

    /// Sees to it that a host can call another: it dials, if they have no connection.
    ///
    /// # Errors
    /// There is no way.
    fn dial(&mut self, _: usize, _: usize) -> Result<(), Silence> {
        Ok(())
    }

    /// How long `bytes` take from a host to another now, one of which has called the other.
    ///
    /// # Errors
    /// They do not arrive.
    fn carry(&mut self, from: usize, to: usize, bytes: u64) -> Result<Duration, Silence>;

    /// Whom it finds up at the beginning.
    fn begin(&mut self) -> Vec<Change>;

    /// When something next befalls a host.
    fn next(&self) -> Option<Mono>;

    /// Lets that happen.
    fn change(&mut self) -> Vec<Change>;

    /// The silence after which calls between two hosts are given up, if such a change, which befell
    /// neither of them, ends them.
    fn broken_by(&self, _: &Change, _: usize, _: usize) -> Option<Silence> {
        None
    }

    /// Lets time pass.
    fn advance(&mut self, until: Mono);

    /// Lets a host that is up say something else of itself.
    fn publish(&mut self, host: usize, advert: Advert);

    /// Takes a note for the replay, if one is kept.
    fn note(&mut self, _: ReplayEvent) {}
}

/// What happens to a host of a fixed mesh.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Fault(Fault),
    Revoke,
    Renew,
    /// The newest list is too old, if that matters here.
    Stale,
}

/// A mesh in which everybody knows everybody from the start, has measured how far all are whose place
/// a law asks for, and hears at once what becomes of charters; nothing else changes it.
#[derive(Clone, Debug)]
pub struct Fixed {
    views: Vec<Arc<View>>,
    records: Vec<Arc<Record>>,
    /// Regions of the hosts, and the round trips between them.
    regions: Vec<usize>,
    rtt: Vec<Vec<Duration>>,
    jitter: Duration,
    /// Entries know how far all servers are.
    measured: Vec<(usize, PeerId, Duration)>,
    faults: VecDeque<(Duration, usize, Turn)>,
    /// Adverts of hosts when their charters are renewed.
    renewals: BTreeMap<usize, Arc<Record>>,
    /// Serials that were revoked, and all lists so far.
    revoked: BTreeSet<String>,
    lists: Revocations,
    lists_age_max: Option<Duration>,
    /// Who echoes, if any law asks for that.
    echoes: Vec<bool>,
    is_entry: Vec<bool>,
    chance: Rng,
    now: Mono,
}

impl Fixed {
    /// Signs an advert and a charter for each host.
    pub fn new(setup: &Setup) -> Self {
        let key = |n: usize| {
            let mut seed = [3; 32];
            seed[..4].copy_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
            SigningKey::from_seed(&seed)
        };
        let keys: Vec<SigningKey> = (0..setup.hosts.len()).map(key).collect();
        let records = records(setup, &trust(), |host| &keys[host]);
        // Only entries plan, and who hands a stage on; the view of others is never asked for, so it
        // is one that all share.
        let in_stages = setup.models.iter().any(|model| !model.stages.is_empty());
        let mut entry = vec![in_stages; records.len()];
        setup.arrivals.iter().for_each(|arrival| entry[arrival.entry] = true);
        let shared = Arc::new(View::new(records[0].advert.peer, Vec::new()));
        let asks = setup.laws.iter().any(|law| law.policy.rtt_evidence);
        let faults = setup.faults.iter().map(|(at, host, fault)| (*at, *host, Turn::Fault(*fault)));
        let mut faults: Vec<_> = faults.collect();
        let mut renewals = BTreeMap::new();
        for (n, host) in setup.hosts.iter().enumerate() {
            faults.extend(host.term.revoked.map(|at| (at, n, Turn::Revoke)));
            let Some(at) = host.term.renewed else { continue };
            faults.push((at, n, Turn::Renew));
            renewals.insert(n, renewal(setup, n, at, &keys[n]));
        }
        faults.sort_by_key(|(at, host, _)| (*at, *host));
        let mut mesh = Self {
            views: vec![shared; records.len()],
            regions: setup.hosts.iter().map(|host| host.region).collect(),
            rtt: setup.rtt.clone(),
            jitter: setup.jitter,
            measured: Vec::new(),
            faults: faults.into(),
            renewals,
            revoked: BTreeSet::new(),
            lists: Revocations::default(),
            lists_age_max: setup.lists_age_max,
            echoes: setup.hosts.iter().map(|host| asks && !host.deaf).collect(),
            is_entry: entry.clone(),
            chance: Rng::new(mix(setup.seed ^ 0xa18)),
            now: Mono(0),
            records,
        };
        mesh.judge(GENESIS);
        let hosts = 0..setup.hosts.len();
        let pairs = hosts.clone().filter(|host| entry[*host]).flat_map(|entry| {
            let servers = hosts.clone().filter(|host| setup.hosts[*host].server.is_some());
            servers.map(move |server| (entry, server))
        });
        mesh.measured = pairs.map(|(a, b)| (a, mesh.peer(b), mesh.rtt(a, b))).collect();
        mesh
    }
}

impl Fixed {
    /// The authority signs its next list, and all have it.
    fn revoke(&mut self, host: usize, utc: Utc) {
        let issued = Utc(utc.0 / 1_000 * 1_000);
        self.revoked.insert(host.to_string());
        let says = Revocation {
            authority: AUTHORITY.to_owned(),
            epoch: u64::try_from(self.revoked.len()).unwrap_or(u64::MAX),
            issued,
            next_update: issued + LIST_LASTS,
            serials: self.revoked.clone(),
        };
        let note = says.sign(&signer([9; 32])).expect("a list");
        let list = RevocationList::verify(&note, &trust(), utc).expect("a list that counts");
        self.lists.take(&list);
        if let Some(age_max) = self.lists_age_max {
            let at = Duration::from_millis(issued.0 - GENESIS.0) + age_max.min(LIST_LASTS);
            let place = self.faults.partition_point(|(other, _, _)| *other <= at);
            self.faults.insert(place, (at, host, Turn::Stale));
        }
        self.judge(utc);
    }

    /// Everybody who plans sees the records as they count now.
    fn judge(&mut self, utc: Utc) {
        let (lists, age_max) = (&self.lists, self.lists_age_max);
        for record in &mut self.records {
            *record = Arc::clone(record).under(lists, utc, age_max, Evidence::None);
        }
        for host in (0..self.records.len()).filter(|host| self.is_entry[*host]) {
            let seen = |(other, record): (usize, &Arc<Record>)| Entry {
                record: record.clone().under(lists, utc, age_max, self.evidence(host, other)),
                liveness: Liveness::Alive,
                since: Mono(0),
            };
            let entries = self.records.iter().enumerate().map(seen).collect();
            self.views[host] = Arc::new(View::new(self.peer(host), entries));
        }
    }

    /// What round trips from one host say of where another claims to be.
    fn evidence(&self, from: usize, of: usize) -> Evidence {
        let [own, its] = [from, of].map(|host| self.records[host].asserted().as_ref());
        let echoes = Echoes { fastest: self.rtt(from, of), count: ECHOES_MIN };
        match (own, its) {
            (Ok(own), Ok(its)) if self.echoes[of] && from != of => {
                Evidence::of(&own.location, &its.location, Some(echoes))
            }
            _ => Evidence::None,
        }
    }
}

/// The advert of a host with another charter, from this moment on.
fn renewal(setup: &Setup, n: usize, at: Duration, key: &SigningKey) -> Arc<Record> {
    let host = Host { term: Term::default(), ..setup.hosts[n].clone() };
    let signer = signer(if host.forged { [8; 32] } else { [9; 32] });
    let serial = format!("{n}-renewed");
    let mut advert = advert(serial, n, key.peer_id(), &host, setup, &signer);
    let now = Now { mono: Mono(0) + at, utc: GENESIS + at };
    (advert.version.sequence, advert.issued) = (2, now.utc);
    advert.sign(key).verify(&trust(), now).expect("an advert")
}

impl Mesh for Fixed {
    fn peer(&self, host: usize) -> PeerId {
        self.records[host].advert.peer
    }

    fn record(&self, host: usize) -> &Record {
        &self.records[host]
    }

    fn view(&self, host: usize) -> Arc<View> {
        self.views[host].clone()
    }

    fn utc(&self, _: usize) -> Utc {
        GENESIS + self.now.since(Mono(0))
    }

    fn rtt(&self, a: usize, b: usize) -> Duration {
        if a == b { Duration::ZERO } else { self.rtt[self.regions[a]][self.regions[b]] }
    }

    fn measured(&mut self) -> Vec<(usize, PeerId, Duration)> {
        std::mem::take(&mut self.measured)
    }

    fn carry(&mut self, from: usize, to: usize, _: u64) -> Result<Duration, Silence> {
        if from == to {
            return Ok(Duration::ZERO);
        }
        Ok(self.rtt(from, to) / 2 + self.jitter.mul_f64(self.chance.unit()))
    }

    fn begin(&mut self) -> Vec<Change> {
        (0..self.records.len()).map(Change::Up).collect()
    }

    fn next(&self) -> Option<Mono> {
        self.faults.front().map(|(at, _, _)| Mono(0) + *at)
    }

    fn change(&mut self) -> Vec<Change> {
        let fault = self.faults.pop_front().into_iter();
        let mut changes = Vec::new();
        for (at, host, turn) in fault {
            match turn {
                Turn::Fault(Fault::Crash) => changes.push(Change::Down(host)),
                Turn::Fault(Fault::Restart) => changes.push(Change::Up(host)),
                Turn::Fault(Fault::Slow(times)) => changes.push(Change::Slow(host, times)),
                Turn::Revoke => self.revoke(host, GENESIS + at),
                Turn::Renew => {
                    self.records[host] = self.renewals[&host].clone();
                    self.judge(GENESIS + at);
                }
                Turn::Stale => self.judge(GENESIS + at),
            }
        }
        changes
    }

    fn advance(&mut self, until: Mono) {
        self.now = until;
    }

    fn publish(&mut self, _: usize, _: Advert) {
        unreachable!("nothing changes what these peers know, so nobody has news to tell");
    }
}

/// Whom all hosts trust.
pub(super) fn trust() -> Trust {
    let any = || ["*".to_owned()].into();
    let key = signer([9; 32]).verifier();
    Trust::new(vec![Authority { key, countries: any(), operators: any() }])
}

fn signer(seed: [u8; 32]) -> SignerKey {
    SignerKey::new(AUTHORITY, seed).expect("a name")
}

/// What all hosts of `setup` say of themselves, verified.
pub(super) fn records<'k>(
    setup: &Setup,
    trust: &Trust,
    key: impl Fn(usize) -> &'k SigningKey,
) -> Vec<Arc<Record>> {
    let (authority, forger) = (signer([9; 32]), signer([8; 32]));
    let now = Now { mono: Mono(0), utc: GENESIS };
    let record = |(n, host): (usize, &Host)| {
        let signer = if host.forged { &forger } else { &authority };
        let advert = advert(n.to_string(), n, key(n).peer_id(), host, setup, signer);
        advert.sign(key(n)).verify(trust, now).expect("an advert")
    };
    setup.hosts.iter().enumerate().map(record).collect()
}

/// What a host's advert offers when it holds these models.
pub(super) fn offers(setup: &Setup, host: &Host, held: &BTreeSet<usize>) -> Vec<Model> {
    let Some(server) = &host.server else { return Vec::new() };
    let device = setup.device(server);
    let slots = u16::try_from(device.slots).unwrap_or(u16::MAX);
    let offer = |model: &usize| {
        let model = &setup.models[*model];
        let work = device.typical(setup.tokens, model.work);
        let service = (work.prefill + work.decode).div_f64(device.speed);
        Model {
            name: model.name.clone(),
            version: "1".into(),
            bundle: model.bundle,
            slots: slots.saturating_mul(host.boast.unwrap_or(1)),
            service_us: u32::try_from(service.as_micros()).unwrap_or(u32::MAX),
        }
    };
    held.union(&host.claims).map(offer).collect()
}

fn advert(
    serial: String,
    n: usize,
    peer: PeerId,
    host: &Host,
    setup: &Setup,
    signer: &SignerKey,
) -> Advert {
    let charter = |terms: &Terms| {
        let charter = Charter {
            serial: serial.clone(),
            subject: peer,
            location: terms.location.parse().expect("a place"),
            operator: terms.operator.clone(),
            lei: None,
            control: terms.control.parse().expect("a place"),
            data_classes: terms.data_classes.clone(),
            not_before: Utc(GENESIS.0 - 1_000_000),
            not_after: host.term.ends.map_or(Utc(GENESIS.0 + 100_000_000_000), |at| GENESIS + at),
            authorities: Default::default(),
        };
        charter.sign(signer).expect("a charter")
    };
    let held = host.server.as_ref().map(|server| &server.models);
    let models = held.map_or_else(Vec::new, |held| offers(setup, host, held));
    let mut advert = Advert {
        peer,
        version: Version { epoch: 1, sequence: 1 },
        issued: GENESIS,
        name: format!("node-{n}"),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: host.terms.as_ref().map(charter),
        devices: host.devices.clone(),
        models,
        price: host.price.clone(),
        extensions: Vec::new(),
    };
    advert.offer_stages(&stages(setup, host));
    advert.promise(&host.promises);
    advert
}

/// The stages that a host serves.
fn stages(setup: &Setup, host: &Host) -> Vec<Stage> {
    let Some(server) = &host.server else { return Vec::new() };
    let device = setup.device(server);
    let stage = |(model, stage): &(usize, usize)| {
        let whole = &setup.models[*model];
        let work = device.typical(setup.tokens, whole.work / f64::from(whole.nodes()));
        let service = (work.prefill + work.decode).div_f64(device.speed);
        let from = u32::try_from(*stage).unwrap_or(u32::MAX);
        Stage {
            name: whole.name.clone(),
            version: "1".into(),
            whole: whole.bundle,
            bundle: whole.stages[*stage],
            from,
            to: from + 1,
            of: whole.nodes(),
            slots: u16::try_from(device.slots).unwrap_or(u16::MAX),
            service_us: u32::try_from(service.as_micros()).unwrap_or(u32::MAX),
        }
    };
    server.stages.iter().map(stage).collect()
}
