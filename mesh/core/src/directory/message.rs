//! What peers say to each other on the control plane, and the one place that reads and verifies it.
//!
//! A message is a talk (ping, summary, pull, …) and the news that it carries along. It travels as
//! an envelope whose version stands first, so that it can be read when nothing after it can.

use std::sync::Arc;

use super::claim::{Accusation, ClaimFault, Leave, Proven, Signed};
use crate::advert::{AdvertFault, Record, SignedAdvert, Version};
use crate::charter::Trust;
use crate::codec::{CodecError, Decode, Encode, decode, decode_head, encode};
use crate::id::PeerId;
use crate::limits::*;
use crate::time::Now;
use crate::wire::{Extension, WIRE_VERSION};

/// What a digest says of a peer beside its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Standing {
    /// It answers, or has not failed to for long enough.
    Live,
    /// It is believed dead.
    Down,
    /// It left, or was dead for so long that only its tombstone is kept.
    Gone,
}

/// What one peer knows of another, without the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Held {
    /// Of whom.
    pub peer: PeerId,
    /// The newest version that is known.
    pub version: Version,
    /// What is believed of it.
    pub standing: Standing,
}

/// One step of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Talk {
    /// Nothing but the news.
    News,
    /// Answer at once, so that I know you live and how far you are.
    Ping {
        /// Echoed; an adversary cannot guess it, so an answer cannot come before the question.
        nonce: u64,
    },
    /// The answer to a ping, own or passed on.
    Pong {
        /// The asker's.
        nonce: u64,
    },
    /// Ping that peer for me.
    PingFor {
        /// Whom.
        peer: PeerId,
        /// For the pong to me.
        nonce: u64,
    },
    /// What I know, in a word. Answered with digests if you know otherwise.
    Summary {
        /// Sent by both sides of a new connection, of which one answers.
        greeting: bool,
        /// How many live peers I know, myself included.
        count: u32,
        /// Drawn by the asker, so that nobody can prepare a collision.
        salt: u64,
        /// Hash over salt, ids and versions of all live peers, by id.
        fingerprint: [u8; 16],
    },
    /// What I know of all peers in a range of ids, in order.
    Digest {
        /// The range begins after this id, or at the lowest.
        after: Option<PeerId>,
        /// And ends with this one, or the highest.
        until: Option<PeerId>,
        /// All that I know in it.
        held: Vec<Held>,
    },
    /// What is new; pull what you lack.
    Announce {
        /// The news, without the records.
        held: Vec<Held>,
    },
    /// Tell me what you know better of these.
    Pull {
        /// And this is what I know.
        held: Vec<Held>,
    },
}

/// A record on its way.
#[derive(Clone, Debug)]
pub struct Rumour {
    /// Peers that it has passed; [`COLD`] for one that is no news.
    pub hops: u8,
    /// The record.
    pub record: Arc<Record>,
}

/// The hop count of records that are not passed on: a joiner's first directory is news to nobody
/// else.
pub const COLD: u8 = u8::MAX;

/// What any message can carry along.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Adverts, verified.
    pub records: Vec<Rumour>,
    /// Accusations, verified.
    pub accusations: Vec<Proven<Accusation>>,
    /// Leaves, verified.
    pub leaves: Vec<Proven<Leave>>,
}

/// One message, about to be sent or verified after it was received.
#[derive(Clone, Debug)]
pub struct Message {
    /// The step.
    pub talk: Talk,
    /// The news.
    pub news: News,
    /// Adverts that were left out when it was read. Their sender may be honest, with another clock
    /// or another version.
    pub refused: Vec<AdvertFault>,
}

/// Why a frame is not a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameFault {
    /// Not a frame.
    #[error("gossip frame: {0}")]
    Codec(#[from] CodecError),
    /// Of a version that this build cannot read.
    #[error("the peer speaks gossip version {theirs}, this one speaks {ours}; update the older")]
    Version {
        /// The sender's.
        theirs: u16,
        /// This build's.
        ours: u16,
    },
    /// It demands what this version does not know.
    #[error("gossip frame demands extension {0}, which this version does not know")]
    UnknownExtension(u16),
    /// A list is longer than its limit, or not in order.
    #[error("gossip frame: {0} is over its limit or out of order")]
    OverLimit(&'static str),
    /// An advert that its subject did not sign: an honest sender would have seen it.
    #[error("gossip frame with a forged advert")]
    ForgedAdvert,
    /// An accusation or a leave that does not count.
    #[error("gossip frame with a claim that is {0}")]
    Claim(#[from] ClaimFault),
}

#[derive(Encode, Decode)]
struct Envelope {
    version: u16,
    talk: Talk,
    adverts: Vec<(u8, SignedAdvert)>,
    accusations: Vec<Signed<Accusation>>,
    leaves: Vec<Signed<Leave>>,
    extensions: Vec<Extension>,
}

impl Message {
    /// A step that carries no news.
    pub fn of(talk: Talk) -> Self {
        Self { talk, news: News::default(), refused: Vec::new() }
    }

    /// The bytes of the wire.
    pub fn encode(&self) -> Vec<u8> {
        let News { records, accusations, leaves } = &self.news;
        let bytes = encode(&Envelope {
            version: WIRE_VERSION,
            talk: self.talk.clone(),
            adverts: records.iter().map(|r| (r.hops, r.record.signed().clone())).collect(),
            accusations: accusations.iter().map(|a| a.signed().clone()).collect(),
            leaves: leaves.iter().map(|l| l.signed().clone()).collect(),
            extensions: Vec::new(),
        });
        assert!(bytes.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", bytes.len());
        bytes
    }

    /// Reads a frame and verifies all that is signed in it. `held` says which adverts need no
    /// verification because they are known ([`crate::view::View::holds`]); they are left out.
    pub fn open(
        bytes: &[u8],
        trust: &Trust,
        now: Now,
        held: impl Fn(PeerId, Version) -> bool,
    ) -> Result<Self, FrameFault> {
        let theirs: u16 = decode_head(bytes)?;
        if theirs != WIRE_VERSION {
            return Err(FrameFault::Version { theirs, ours: WIRE_VERSION });
        }
        let envelope: Envelope = decode(bytes)?;
        envelope.check()?;
        let mut records = Vec::new();
        let mut refused = Vec::new();
        for (hops, advert) in envelope.adverts {
            match advert.claim() {
                Ok((peer, version)) if held(peer, version) => continue,
                _ => {}
            }
            match advert.verify(trust, now) {
                Ok(record) => records.push(Rumour { hops, record }),
                Err(AdvertFault::Forged) => return Err(FrameFault::ForgedAdvert),
                Err(fault) => refused.push(fault),
            }
        }
        let accusations = envelope.accusations.into_iter().map(|claim| claim.verify(now));
        let leaves = envelope.leaves.into_iter().map(|claim| claim.verify(now));
        let news = News {
            records,
            accusations: accusations.collect::<Result<_, _>>()?,
            leaves: leaves.collect::<Result<_, _>>()?,
        };
        Ok(Self { talk: envelope.talk, news, refused })
    }
}

impl Envelope {
    /// Limits come before signatures, so that nonsense costs no cryptography.
    fn check(&self) -> Result<(), FrameFault> {
        let lists = [
            (self.adverts.len(), FRAME_NEWS_MAX, "adverts"),
            (self.accusations.len(), FRAME_NEWS_MAX, "accusations"),
            (self.leaves.len(), FRAME_NEWS_MAX, "leaves"),
            (self.extensions.len(), EXTENSIONS_MAX, "extensions"),
        ];
        if let Some((_, _, what)) = lists.iter().find(|(len, max, _)| len > max) {
            return Err(FrameFault::OverLimit(what));
        }
        if let Some(tag) = Extension::first_unknown_critical(&self.extensions) {
            return Err(FrameFault::UnknownExtension(tag));
        }
        if let Talk::Digest { held, .. } | Talk::Announce { held } | Talk::Pull { held } =
            &self.talk
        {
            let ordered = held.windows(2).all(|pair| pair[0].peer < pair[1].peer);
            if held.len() > FRAME_PEERS_MAX || !ordered {
                return Err(FrameFault::OverLimit("peers"));
            }
        }
        if let Talk::Digest { after, until, held } = &self.talk {
            let inside = |entry: &Held| {
                after.is_none_or(|after| entry.peer > after)
                    && until.is_none_or(|until| entry.peer <= until)
            };
            if !held.iter().all(inside) || matches!((after, until), (Some(a), Some(u)) if a > u) {
                return Err(FrameFault::OverLimit("digest range"));
            }
        }
        Ok(())
    }
}

impl News {
    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.accusations.is_empty() && self.leaves.is_empty()
    }

    /// The news in parcels that each fit a frame beside a small talk.
    pub(super) fn parcels(self) -> Vec<Self> {
        // Room for the envelope and for a talk that names no peers.
        const BUDGET: usize = FRAME_BYTES_MAX - 1_024;
        // The signature, two ids and the varints of an accusation, which is longer than a leave.
        const CLAIM: usize = 64 + 2 * 32 + 3 * 9;
        let mut parcels = Vec::new();
        let mut parcel = Self::default();
        let mut left = BUDGET;
        let mut claim_room = |parcel: &mut Self, parcels: &mut Vec<Self>, size: usize| {
            let full = parcel.records.len() == FRAME_NEWS_MAX
                || parcel.accusations.len() == FRAME_NEWS_MAX
                || parcel.leaves.len() == FRAME_NEWS_MAX;
            if size > left || full {
                parcels.push(std::mem::take(parcel));
                left = BUDGET;
            }
            left -= size;
        };
        for record in self.records {
            // Hops and the varint of the body's length.
            claim_room(&mut parcel, &mut parcels, record.record.signed().len() + 4);
            parcel.records.push(record);
        }
        for accusation in self.accusations {
            claim_room(&mut parcel, &mut parcels, CLAIM);
            parcel.accusations.push(accusation);
        }
        for leave in self.leaves {
            claim_room(&mut parcel, &mut parcels, CLAIM);
            parcel.leaves.push(leave);
        }
        if !parcel.is_empty() {
            parcels.push(parcel);
        }
        parcels
    }
}
