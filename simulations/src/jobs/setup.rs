//! What is played: hosts, links, jobs, faults. Scenario files are mapped to a [`Setup`] by
//! [`stage`](crate::jobs::stage).

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::{Device, Price};
use hansa_core::id::Digest;
use hansa_core::policy::{Bounds, Policy};

use crate::jobs::server::Work;
use crate::scenario::DeviceSpec;

/// Who signs the charters.
pub const AUTHORITY: &str = "authority";

/// What a host's charter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Where it stands.
    pub location: String,
    /// Who operates it.
    pub operator: String,
    /// Whose law reaches the operator.
    pub control: String,
    /// Classes of data that it may see.
    pub data_classes: BTreeSet<String>,
}

/// When a charter counts, since the start; by default always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// It expires, at a whole second.
    pub ends: Option<Duration>,
    /// Its authority revokes it.
    pub revoked: Option<Duration>,
    /// Another takes its place, which counts from then on.
    pub renewed: Option<Duration>,
}

/// What a host runs jobs with.
#[derive(Clone, Debug)]
pub struct Server {
    /// Index in [`Setup::devices`].
    pub device: usize,
    /// Models that it holds: indices in [`Setup::models`].
    pub models: BTreeSet<usize>,
    /// Stages that it holds: of which model, and which.
    pub stages: BTreeSet<(usize, usize)>,
}

/// One host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Row and column of [`Setup::rtt`].
    pub region: usize,
    /// Its charter; without one it sees only jobs of its own.
    pub terms: Option<Terms>,
    /// Whether nobody signed the charter that it shows.
    pub forged: bool,
    /// When its charter counts.
    pub term: Term,
    /// What it promises.
    pub promises: hansa_core::terms::Terms,
    /// Whom it serves.
    pub serve: Bounds,
    /// Where it sends.
    pub send: Bounds,
    /// What its advert says that it computes with.
    pub devices: Vec<Device>,
    /// None for an entry that runs nothing.
    pub server: Option<Server>,
    /// Models that its advert names although it does not hold them.
    pub claims: BTreeSet<usize>,
    /// Its advert says that it has so many times its slots.
    pub boast: Option<u16>,
    /// It echoes nothing, so that nobody can say how far it is.
    pub deaf: bool,
    /// What it asks for its work.
    pub price: Option<Price>,
}

/// What jobs ask for.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// Its bundle.
    pub bundle: Digest,
    /// Times the device's times.
    pub work: f64,
    /// Bytes of a job's input, and of what a stage hands on.
    pub bytes: u64,
    /// Bytes of its output.
    pub output_bytes: u64,
    /// Bundles of its stages, of equal work; none if one server runs all of it.
    pub stages: Vec<Digest>,
    /// What it takes of a server's memory, in bytes.
    pub size: u64,
    /// Who may have it.
    pub law: Policy,
}

impl Model {
    /// One with a bundle of its own, which takes no memory and which all may have.
    pub fn new(name: &str, work: f64, bytes: u64) -> Self {
        let (name, bundle) = (name.to_owned(), Digest::of(name.as_bytes()));
        let (stages, law) = (Vec::new(), Policy::default());
        Self { name, bundle, work, bytes, output_bytes: 0, stages, size: 0, law }
    }

    /// The same in so many stages, if they are several.
    pub fn in_stages(self, stages: u32) -> Self {
        let bundle = |stage: u32| Digest::of(format!("{} {stage}", self.name).as_bytes());
        let stages = if stages > 1 { (0..stages).map(bundle).collect() } else { Vec::new() };
        Self { stages, ..self }
    }

    /// Nodes of its graph as adverts count them: one for each stage.
    pub fn nodes(&self) -> u32 {
        u32::try_from(self.stages.len().max(1)).unwrap_or(u32::MAX)
    }
}

/// What a part of the jobs demands.
#[derive(Clone, Debug, Default)]
pub struct Law {
    /// What it is called.
    pub name: String,
    /// What it says.
    pub policy: Policy,
}

/// How large a job is; how long it takes is the device's to say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    /// Tokens of its input and output, if they are known.
    pub tokens: Option<(f64, f64)>,
    /// Else: drawn from the normal distribution.
    pub chance: f64,
}

/// One job.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When, since the start.
    pub at: Duration,
    /// Index of the host that takes it.
    pub entry: usize,
    /// Index in [`Setup::models`].
    pub model: usize,
    /// Its size.
    pub size: Size,
    /// Index in [`Setup::laws`].
    pub law: usize,
    /// From its arrival to when it must be answered.
    pub deadline: Duration,
}

/// What befalls a server.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It loses all it has.
    Crash,
    /// It is back.
    Restart,
    /// It is this many times slower.
    Slow(f64),
}

/// All that is played.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Of all chance.
    pub seed: u64,
    /// Classes of devices.
    pub devices: Vec<DeviceSpec>,
    /// What servers hold.
    pub models: Vec<Model>,
    /// What jobs demand.
    pub laws: Vec<Law>,
    /// Servers and entries.
    pub hosts: Vec<Host>,
    /// Round trips between regions.
    pub rtt: Vec<Vec<Duration>>,
    /// At most this is added to each message, by chance.
    pub jitter: Duration,
    /// Mean tokens of the jobs, if they have any: adverts tell the time of such a job.
    pub tokens: Option<(f64, f64)>,
    /// Jobs, in order of time.
    pub arrivals: Vec<Arrival>,
    /// What goes wrong: when, which host, what.
    pub faults: Vec<(Duration, usize, Fault)>,
    /// Figures count jobs from then on.
    pub warm: Duration,
    /// How old a snapshot of loads gets before stale strategies see a new one.
    pub snapshot: Duration,
    /// A job whose first byte is not there by then is unmet demand.
    pub late: Duration,
    /// Peers decide for themselves what they hold.
    pub moves: bool,
    /// Charters count only while a list of what their authority revoked is no older than this.
    pub lists_age_max: Option<Duration>,
    /// How many of a hundred jobs an entry may send a second time.
    pub retry_percent: u32,
}

impl DeviceSpec {
    /// What a job of this size takes at speed 1; `times` is its model's.
    pub fn work(&self, size: &Size, times: f64) -> Work {
        let (prefill, decode) = match (size.tokens, self.per_token_ms) {
            (Some((input, output)), Some(each)) => {
                (self.prefill_ms + self.prefill_per_token_ms * input, each * output)
            }
            _ => {
                let sigma = self.service_ms.sigma;
                let spread = libm::exp(sigma * size.chance - sigma * sigma / 2.0);
                (self.prefill_ms, self.service_ms.mean * spread)
            }
        };
        let ms = |ms: f64| Duration::from_secs_f64(ms * times / 1e3);
        Work { prefill: ms(prefill), decode: ms(decode) }
    }

    /// What the mean job takes at speed 1.
    pub fn typical(&self, tokens: Option<(f64, f64)>, times: f64) -> Work {
        // There the lognormal distribution is at its mean.
        self.work(&Size { tokens, chance: self.service_ms.sigma / 2.0 }, times)
    }
}

impl Setup {
    /// The class of a server's devices.
    pub fn device(&self, server: &Server) -> &DeviceSpec {
        &self.devices[server.device]
    }

    /// Memory of a server for models, in bytes.
    pub fn memory(&self, server: &Server) -> u64 {
        self.device(server).memory_mib.map_or(u64::MAX, |mib| u64::from(mib) << 20)
    }

    /// What models take of a server's memory.
    pub fn size<'m>(&self, models: impl IntoIterator<Item = &'m usize>) -> u64 {
        models.into_iter().map(|model| self.models[*model].size).sum()
    }

    /// Jobs of the first model that a server ends in a second.
    pub fn pace(&self, server: &Server) -> f64 {
        let device = self.device(server);
        let work = device.typical(self.tokens, 1.0);
        f64::from(device.slots) * device.speed / (work.prefill + work.decode).as_secs_f64()
    }
}
