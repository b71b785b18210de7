//! What travels on the data plane: one header before a job's tensors, one before its answer's.
//!
//! Versions: a header starts with its version. A later version adds [`Extension`]s; one that this
//! version does not know is skipped, or refused when it is marked critical. Gossip frames are in
//! [`crate::directory`].

use std::time::Duration;

use crate::chain::Link;
use crate::codec::{CodecError, Decode, Encode, decode, encode};
use crate::id::{Digest, JobId, PeerId};
use crate::limits::*;
use crate::log::tree::PROOF_HASHES_MAX;
use crate::plan::{Job, Refusal};
use crate::policy::Policy;
use crate::price::Bill;
use crate::receipt::Used;

/// The version that this build speaks, on both planes.
pub const WIRE_VERSION: u16 = 1;

/// A field of a later version.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Extension {
    /// What it is.
    pub tag: u16,
    /// Whether a peer that does not know it must refuse.
    pub critical: bool,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// On a job: its app named the deadline.
const NAMED_DEADLINE: u16 = 1;
/// On a job: the [`Bill`] of the stages before.
const SPENT: u16 = 2;
/// On a job: its [`Lineage`], for receipts.
const LINEAGE: u16 = 3;
/// On a job in stages: the [`Run`]s of the stages before.
const RUNS: u16 = 4;
/// On a job: how urgent it is.
const PRIORITY: u16 = 5;
/// On an answer: its [`Bill`].
const PRICE: u16 = 1;
/// On an answer: the leaf of the executor's receipt.
const RECEIPT: u16 = 2;

/// Where a job or a part of one comes from: what the receipt of whoever takes it says of that.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lineage {
    /// The job that it is a part of.
    pub parent: Option<JobId>,
    /// From 1: tries that the sender has made.
    pub attempt: u8,
    /// [`Groups::digest`](crate::place::Groups::digest) of the entry.
    pub groups: Digest,
}

/// What a stage tells of its run to the job's entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// Who ran it.
    pub peer: PeerId,
    /// First node of the whole that it has.
    pub from: u32,
    /// First node that it has no more.
    pub to: u32,
    /// The leaf of its receipt, if it keeps one.
    pub receipt: Option<Digest>,
    /// What it took.
    pub used: Used,
}

impl Extension {
    fn optional(tag: u16, bytes: Vec<u8>) -> Self {
        Self { tag, critical: false, bytes }
    }

    /// Nothing, for what is free: most jobs of most meshes.
    fn of_bill(tag: u16, bill: &Bill) -> Option<Self> {
        (!bill.is_free()).then(|| Self::optional(tag, encode(bill)))
    }

    fn bill(extensions: &[Self], tag: u16) -> Result<Bill, HeaderFault> {
        let Some(held) = extensions.iter().find(|extension| extension.tag == tag) else {
            return Ok(Bill::default());
        };
        let bill: Bill = decode(&held.bytes)?;
        if bill.is_well_formed() { Ok(bill) } else { Err(HeaderFault::OverLimit("the price")) }
    }

    fn read<T: Decode<()>>(extensions: &[Self], tag: u16) -> Result<Option<T>, HeaderFault> {
        let held = extensions.iter().find(|extension| extension.tag == tag);
        Ok(held.map(|held| decode(&held.bytes)).transpose()?)
    }

    /// The first extension that this version must not skip. It knows none yet.
    pub fn first_unknown_critical(extensions: &[Self]) -> Option<u16> {
        extensions.iter().find(|extension| extension.critical).map(|extension| extension.tag)
    }
}

/// W3C trace context, so that a request's spans join across peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TraceContext {
    /// The whole request.
    pub trace: [u8; 16],
    /// The span that sends.
    pub span: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

/// A tensor whose bytes follow the header, in the order of the metas.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TensorMeta {
    /// Name in the model's signature.
    pub name: String,
    /// ONNX `TensorProto.DataType` code.
    pub dtype: u8,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Bytes that follow.
    pub bytes: u64,
}

/// What is asked of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// Run a bundle over the tensors that follow.
    Infer {
        /// The bundle.
        bundle: Digest,
        /// The tensors that follow.
        inputs: Vec<TensorMeta>,
        /// Outputs wanted; empty means all.
        outputs: Vec<String>,
    },
    /// Say a bundle's signature (JSON follows the answer's header).
    Describe {
        /// The bundle.
        bundle: Digest,
    },
    /// Say how soon the job could run (a [`Quote`](crate::quote::Quote) follows the answer's
    /// header), and keep a place for it for a moment.
    Quote {
        /// The bundle.
        bundle: Digest,
        /// Rows of its batch.
        rows: u32,
        /// Round trip as the asker measured it, in µs: the place is kept that much longer.
        rtt_us: u32,
    },
    /// The job went elsewhere: the place that a quote kept is free.
    Decline {
        /// The bundle.
        bundle: Digest,
    },
    /// Say which files the bundle has: its canonical manifest follows the answer's header.
    Manifest {
        /// The bundle.
        bundle: Digest,
    },
    /// Send chunks of one of the bundle's files, which follow the answer's header. Whoever asks
    /// holds each against the manifest.
    Chunks {
        /// The bundle.
        bundle: Digest,
        /// Number of the file, in the order of the manifest.
        file: u32,
        /// The first chunk.
        first: u32,
        /// How many, [`CHUNKS_ASKED_MAX`] at most.
        count: u32,
    },
    /// Run a stage over tensors that follow, and hand what comes of it to the next.
    Stage {
        /// The whole model's bundle: what the policy speaks of.
        whole: Digest,
        /// This stage and those after it, the receiver's first.
        route: Vec<Stretch>,
        /// The tensors that follow: what this stage and those after it take, as far as it is made.
        tensors: Vec<TensorMeta>,
        /// Outputs of the whole that the entry wants; it gets each from the stage that makes it.
        outputs: Vec<String>,
        /// Who ran the stages before.
        by: Vec<PeerId>,
    },
    /// Outputs of a job in stages, for its entry.
    Deliver {
        /// The whole model's bundle.
        whole: Digest,
        /// The tensors that follow.
        tensors: Vec<TensorMeta>,
        /// Who ran the stages so far, the sender last.
        by: Vec<PeerId>,
    },
    /// Cosign the sender's log ([`crate::log::cosign`]); what comes of it follows the answer's header.
    Cosign {
        /// Its checkpoint, a note.
        checkpoint: String,
        /// How many entries it had when the receiver saw it last, as the sender thinks.
        from: u64,
        /// That it continues what it was then.
        proof: Vec<Digest>,
    },
}

/// A stage on a job's way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stretch {
    /// Who runs what.
    pub link: Link,
    /// Names of the tensors that it takes.
    pub takes: Vec<String>,
}

impl Ask {
    /// The bundle that is spoken of: what the policy is held against.
    pub fn bundle(&self) -> Digest {
        match self {
            Self::Infer { bundle, .. }
            | Self::Describe { bundle }
            | Self::Quote { bundle, .. }
            | Self::Decline { bundle }
            | Self::Manifest { bundle }
            | Self::Chunks { bundle, .. } => *bundle,
            Self::Stage { whole, .. } | Self::Deliver { whole, .. } => *whole,
            // It tells of no model.
            Self::Cosign { .. } => Digest([0; 32]),
        }
    }
}

/// The header of a job on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JobHeader {
    /// [`WIRE_VERSION`] of the sender.
    pub version: u16,
    /// The job.
    pub job: JobId,
    /// Peers that the job has passed, entry first, the sender last.
    pub path: Vec<PeerId>,
    /// Hops that it may still make after this one.
    pub hops_left: u8,
    /// Time left until its deadline, in µs: a duration, since clocks differ.
    pub remaining_us: u64,
    /// Its law.
    pub policy: Policy,
    /// [`Policy::hash`], so that a peer that would read the policy differently notices.
    pub policy_hash: Digest,
    /// Its trace.
    pub trace: TraceContext,
    /// What is asked.
    pub ask: Ask,
    /// Fields of later versions.
    pub extensions: Vec<Extension>,
}

/// What an executor reports beside the outputs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Done {
    /// Who ran it.
    pub executed_by: PeerId,
    /// The tensors that follow.
    pub outputs: Vec<TensorMeta>,
    /// Bytes that follow when no tensors are named (a description, a manifest, chunks).
    pub bytes: u64,
    /// Time that it waited at the executor, in µs.
    pub queue_us: u64,
    /// Time that it ran, in µs.
    pub service_us: u64,
    /// Jobs in flight at the executor for this bundle, this one not counted.
    pub in_flight: u32,
}

/// The header of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AnswerHeader {
    /// [`WIRE_VERSION`] of the sender.
    pub version: u16,
    /// The job that is answered.
    pub job: JobId,
    /// What came of it.
    pub outcome: Result<Done, Refusal>,
    /// Fields of later versions.
    pub extensions: Vec<Extension>,
}

/// Why a header is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderFault {
    /// Not a header.
    #[error("header: {0}")]
    Codec(#[from] CodecError),
    /// Of a version that this build cannot read.
    #[error("the peer speaks wire version {0}, this one speaks {WIRE_VERSION}")]
    Version(u16),
    /// It demands what this version does not know.
    #[error("header demands extension {0}, which this version does not know")]
    UnknownExtension(u16),
    /// A field is over its limit.
    #[error("header: {0} is over its limit")]
    OverLimit(&'static str),
    /// The policy's hash is not its sender's.
    #[error("the policy does not hash to what its sender says: the peers read it differently")]
    PolicyHash,
}

impl JobHeader {
    /// The bytes of the wire.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads and checks a header: version, extensions, limits, policy hash.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        check_version(bytes)?;
        let header: Self = decode(bytes)?;
        check_extensions(&header.extensions)?;
        if header.path.len() > usize::from(HOPS_MAX) || header.hops_left > HOPS_MAX {
            return Err(HeaderFault::OverLimit("hops"));
        }
        if header.remaining_us > u64::try_from(DEADLINE_MAX.as_micros()).expect("an hour") {
            return Err(HeaderFault::OverLimit("remaining time"));
        }
        match &header.ask {
            Ask::Infer { inputs: tensors, outputs, .. } => {
                check_tensors(tensors)?;
                check_names(outputs)?;
            }
            Ask::Stage { tensors, outputs, route, by, .. } => {
                check_tensors(tensors)?;
                check_names(outputs)?;
                check_route(route)?;
                check_peers(by)?;
            }
            Ask::Deliver { tensors, by, .. } => {
                check_tensors(tensors)?;
                check_peers(by)?;
            }
            Ask::Chunks { count, .. } if !(1..=CHUNKS_ASKED_MAX).contains(count) => {
                return Err(HeaderFault::OverLimit("chunks"));
            }
            Ask::Cosign { proof, .. } if proof.len() > PROOF_HASHES_MAX => {
                return Err(HeaderFault::OverLimit("the proof"));
            }
            Ask::Cosign { .. }
            | Ask::Chunks { .. }
            | Ask::Manifest { .. }
            | Ask::Describe { .. }
            | Ask::Quote { .. }
            | Ask::Decline { .. } => {}
        }
        if !header.policy.is_well_formed() {
            return Err(HeaderFault::OverLimit("the policy"));
        }
        if header.policy.hash() != header.policy_hash {
            return Err(HeaderFault::PolicyHash);
        }
        Extension::bill(&header.extensions, SPENT)?;
        Extension::read::<Lineage>(&header.extensions, LINEAGE)?;
        Extension::read::<u32>(&header.extensions, PRIORITY)?;
        if Extension::read::<Vec<Run>>(&header.extensions, RUNS)?
            .is_some_and(|runs| runs.len() > STAGES_MAX)
        {
            return Err(HeaderFault::OverLimit("stages"));
        }
        Ok(header)
    }

    /// What travels of `job` in extensions: peers of an earlier version can do without.
    pub fn extensions_of(job: &Job) -> Vec<Extension> {
        let named = job.is_timed.then(|| Extension::optional(NAMED_DEADLINE, Vec::new()));
        let urgent =
            (job.priority > 0).then(|| Extension::optional(PRIORITY, encode(&job.priority)));
        named.into_iter().chain(Extension::of_bill(SPENT, &job.spent)).chain(urgent).collect()
    }

    /// The header with where its job comes from. Peers of an earlier version skip that.
    pub fn descending(mut self, lineage: &Lineage) -> Self {
        self.extensions.push(Extension::optional(LINEAGE, encode(lineage)));
        self
    }

    /// Where the job comes from, if the sender says so.
    pub fn lineage(&self) -> Option<Lineage> {
        Extension::read(&self.extensions, LINEAGE).ok().flatten() // It was looked at when decoded.
    }

    /// The header with what the stages before have run.
    pub fn telling(mut self, runs: &Vec<Run>) -> Self {
        if !runs.is_empty() {
            self.extensions.push(Extension::optional(RUNS, encode(runs)));
        }
        self
    }

    /// What the stages before have run, as far as they keep receipts.
    pub fn runs(&self) -> Vec<Run> {
        Extension::read(&self.extensions, RUNS).ok().flatten().unwrap_or_default()
    }

    /// Whether the app named the deadline.
    pub fn names_deadline(&self) -> bool {
        self.extensions.iter().any(|extension| extension.tag == NAMED_DEADLINE)
    }

    /// How urgent the job is where it waits: 0 where the sender does not say.
    pub fn priority(&self) -> u32 {
        Extension::read(&self.extensions, PRIORITY).ok().flatten().unwrap_or_default()
    }

    /// What the stages before have charged.
    pub fn spent(&self) -> Bill {
        Extension::bill(&self.extensions, SPENT).unwrap_or_default() // It was looked at when decoded.
    }

    /// The time left.
    pub fn remaining(&self) -> Duration {
        Duration::from_micros(self.remaining_us)
    }
}

impl AnswerHeader {
    /// The header with what the answer costs. Peers of an earlier version skip that.
    pub fn charging(mut self, bill: &Bill) -> Self {
        self.extensions.extend(Extension::of_bill(PRICE, bill));
        self
    }

    /// The header with the leaf of the receipt that the executor keeps.
    pub fn proving(mut self, leaf: Option<Digest>) -> Self {
        self.extensions.extend(leaf.map(|leaf| Extension::optional(RECEIPT, encode(&leaf))));
        self
    }

    /// The leaf of the executor's receipt, if it keeps one.
    pub fn receipt(&self) -> Option<Digest> {
        Extension::read(&self.extensions, RECEIPT).ok().flatten()
    }

    /// What the answer costs.
    pub fn price(&self) -> Bill {
        Extension::bill(&self.extensions, PRICE).unwrap_or_default() // It was looked at when decoded.
    }

    /// The bytes of the wire.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads and checks a header: version, extensions, limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        check_version(bytes)?;
        let header: Self = decode(bytes)?;
        check_extensions(&header.extensions)?;
        if let Ok(done) = &header.outcome {
            check_tensors(&done.outputs)?;
        }
        Extension::bill(&header.extensions, PRICE)?;
        Extension::read::<Digest>(&header.extensions, RECEIPT)?;
        Ok(header)
    }
}

/// The version stands first, so that it can be read when nothing after it can.
fn check_version(bytes: &[u8]) -> Result<(), HeaderFault> {
    let (version, _): (u16, _) = prefix(bytes)?;
    if version == WIRE_VERSION { Ok(()) } else { Err(HeaderFault::Version(version)) }
}

/// The varint at the head of a structure.
fn prefix(bytes: &[u8]) -> Result<(u16, usize), CodecError> {
    let used = match bytes.first() {
        Some(0..=250) => 1,
        Some(251) => 3,
        _ => return Err(CodecError::Malformed("no version".into())),
    };
    let head = bytes.get(..used).ok_or_else(|| CodecError::Malformed("no version".into()))?;
    Ok((decode(head)?, used))
}

fn check_extensions(extensions: &[Extension]) -> Result<(), HeaderFault> {
    if extensions.len() > EXTENSIONS_MAX {
        return Err(HeaderFault::OverLimit("extensions"));
    }
    match Extension::first_unknown_critical(extensions) {
        Some(tag) => Err(HeaderFault::UnknownExtension(tag)),
        None => Ok(()),
    }
}

fn check_names(names: &[String]) -> Result<(), HeaderFault> {
    if names.len() <= TENSORS_MAX { Ok(()) } else { Err(HeaderFault::OverLimit("outputs")) }
}

fn check_peers(peers: &[PeerId]) -> Result<(), HeaderFault> {
    if peers.len() <= STAGES_MAX { Ok(()) } else { Err(HeaderFault::OverLimit("stages")) }
}

/// A route has stages, and each begins where the one before it ends: so every job arrives.
fn check_route(route: &[Stretch]) -> Result<(), HeaderFault> {
    let follows = |pair: &[Stretch]| pair[0].link.to == pair[1].link.from;
    let advances = |stretch: &Stretch| stretch.link.from < stretch.link.to;
    let fits = !route.is_empty() && route.len() <= STAGES_MAX && route.iter().all(advances);
    if !fits || !route.windows(2).all(follows) {
        return Err(HeaderFault::OverLimit("the route"));
    }
    route.iter().try_for_each(|stretch| check_names(&stretch.takes))
}

fn check_tensors(tensors: &[TensorMeta]) -> Result<(), HeaderFault> {
    if tensors.len() > TENSORS_MAX {
        return Err(HeaderFault::OverLimit("tensors"));
    }
    let within =
        |tensor: &TensorMeta| tensor.shape.len() <= RANK_MAX && tensor.name.len() <= NAME_BYTES_MAX;
    if tensors.iter().all(within) { Ok(()) } else { Err(HeaderFault::OverLimit("a tensor")) }
}
