//! What peers say to each other on the control plane, and the one place that reads and verifies it.
//!
//! A message is a talk (ping, summary, pull, …) and the news that it carries along. It travels as
//! an envelope whose version stands first, so that it can be read when nothing after it can.

use std::sync::Arc;

use super::claim::{Accusation, Claim, ClaimFault, Leave, Proven, Signed};
use super::held::Held;
use super::shards::Shard;
use super::tree::{BUCKETS, GROUP_BUCKETS, GROUPS, Print, bucket};
use crate::advert::{AdvertFault, Record, SignedAdvert, Version};
use crate::charter::Trust;
use crate::codec::{CodecError, Decode, Encode, decode, decode_head, encode, encoded_len};
use crate::coordinate::Coordinate;
use crate::id::PeerId;
use crate::limits::*;
use crate::revocation::{Head, RevocationFault, RevocationList};
use crate::time::Now;
use crate::wire::Extension;

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
        /// Where the one that answers is in the space of round trips.
        at: Coordinate,
    },
    /// Ping that peer for me.
    PingFor {
        /// Whom.
        peer: PeerId,
        /// For the pong to me.
        nonce: u64,
    },
    /// What I know, in a word. Answered if you know otherwise.
    Summary {
        /// Sent by both sides of a new connection, of which one answers.
        greeting: bool,
        /// How many live peers I know, myself included.
        count: u32,
        /// Drawn by the asker, for all prints of this comparison.
        salt: u64,
        /// Print over all live peers, the root of the fingerprint tree.
        root: u64,
    },
    /// The prints of my groups, all of them in order.
    Groups {
        /// The asker's.
        salt: u64,
        /// One for each group.
        prints: Vec<Print>,
    },
    /// The prints of the buckets of those groups in which we differ.
    Buckets {
        /// The asker's.
        salt: u64,
        /// Group and its buckets' prints, in order.
        groups: Vec<(u8, Vec<Print>)>,
    },
    /// All that I know of the peers of some buckets.
    Digest {
        /// Which buckets, in order; none means all.
        buckets: Vec<u16>,
        /// All that I know in them, in order.
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

/// The version of gossip that this build speaks. Version 1 was never released.
pub const GOSSIP_VERSION: u16 = 2;

/// News on its way.
#[derive(Debug)]
pub struct Rumour<T> {
    /// Peers that it has passed; [`COLD`] for what is no news.
    pub hops: u8,
    /// What is said, verified.
    pub said: Arc<T>,
}

impl<T> Clone for Rumour<T> {
    fn clone(&self) -> Self {
        Self { hops: self.hops, said: Arc::clone(&self.said) }
    }
}

/// The hop count of what is not passed on: a joiner's first directory is news to nobody else.
pub const COLD: u8 = u8::MAX;

/// What any message can carry along.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Adverts.
    pub records: Vec<Rumour<Record>>,
    /// Accusations.
    pub accusations: Vec<Rumour<Proven<Accusation>>>,
    /// Leaves.
    pub leaves: Vec<Rumour<Proven<Leave>>>,
}

/// One message, about to be sent or verified after it was received.
#[derive(Clone, Debug)]
pub struct Message {
    /// Of which shard it speaks.
    pub shard: Shard,
    /// The step.
    pub talk: Talk,
    /// The news.
    pub news: News,
    /// What few messages have. Many are under way at once, so the others should be small.
    pub aside: Option<Box<Aside>>,
}

/// What a message says beside its talk and the news.
#[derive(Clone, Debug, Default)]
pub struct Aside {
    /// Lists of revocations.
    pub lists: Vec<Arc<RevocationList>>,
    /// Which lists of revocations the sender has, if it says so.
    pub heads: Option<Vec<Head>>,
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
    /// A list of revocations that an authority did not sign: an honest sender would have seen it.
    #[error("gossip frame with a list that does not count: {0}")]
    List(#[from] RevocationFault),
    /// An accusation or a leave that does not count.
    #[error("gossip frame with a claim that is {0}")]
    Claim(#[from] ClaimFault),
}

#[derive(Decode)]
struct Envelope {
    _version: u16,
    shard: Shard,
    talk: Talk,
    adverts: Vec<(u8, SignedAdvert)>,
    accusations: Vec<(u8, Signed<Accusation>)>,
    leaves: Vec<(u8, Signed<Leave>)>,
    extensions: Vec<Extension>,
}

/// The same, of what need not be copied to be written.
#[derive(Encode)]
struct EnvelopeRef<'a> {
    version: u16,
    shard: Shard,
    talk: &'a Talk,
    adverts: Vec<(u8, &'a SignedAdvert)>,
    accusations: Vec<(u8, &'a Signed<Accusation>)>,
    leaves: Vec<(u8, &'a Signed<Leave>)>,
    extensions: Vec<Extension>,
}

/// The extension of a frame that holds lists of revocations, as notes.
const LISTS: u16 = 1;
/// That which says which lists the sender has.
const HEADS: u16 = 2;

impl Message {
    /// A step that carries no news.
    pub fn of(talk: Talk) -> Self {
        Self { shard: Shard::default(), talk, news: News::default(), aside: None }
    }

    /// The bytes of the wire.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = encode(&self.envelope());
        assert!(bytes.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", bytes.len());
        bytes
    }

    /// How many bytes of the wire it takes.
    pub fn encoded_len(&self) -> usize {
        encoded_len(&self.envelope())
    }

    fn envelope(&self) -> EnvelopeRef<'_> {
        let News { records, accusations, leaves } = &self.news;
        EnvelopeRef {
            version: GOSSIP_VERSION,
            shard: self.shard,
            talk: &self.talk,
            adverts: records.iter().map(|r| (r.hops, r.said.signed())).collect(),
            accusations: accusations.iter().map(|a| (a.hops, a.said.signed())).collect(),
            leaves: leaves.iter().map(|l| (l.hops, l.said.signed())).collect(),
            extensions: self.extensions(),
        }
    }

    /// What peers of an earlier version skip.
    fn extensions(&self) -> Vec<Extension> {
        let Some(aside) = &self.aside else { return Vec::new() };
        let extension = |tag, bytes| Extension { tag, critical: false, bytes };
        let notes: Vec<&str> = aside.lists.iter().map(|list| list.note()).collect();
        let lists = (!notes.is_empty()).then(|| extension(LISTS, encode(&notes)));
        let heads = aside.heads.as_ref().map(|heads| extension(HEADS, encode(heads)));
        lists.into_iter().chain(heads).collect()
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
        if theirs != GOSSIP_VERSION {
            return Err(FrameFault::Version { theirs, ours: GOSSIP_VERSION });
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
                Ok(said) => records.push(Rumour { hops, said }),
                Err(AdvertFault::Forged) => return Err(FrameFault::ForgedAdvert),
                Err(fault) => refused.push(fault),
            }
        }
        let (lists, heads) = read_lists(&envelope.extensions, trust, now)?;
        let accusations = envelope.accusations.into_iter().map(|claim| read(claim, now));
        let leaves = envelope.leaves.into_iter().map(|claim| read(claim, now));
        let news = News {
            records,
            accusations: accusations.collect::<Result<_, _>>()?,
            leaves: leaves.collect::<Result<_, _>>()?,
        };
        let aside = Aside { lists, heads, refused }.boxed();
        Ok(Self { shard: envelope.shard, talk: envelope.talk, news, aside })
    }
}

/// What a frame says of revocations. Lists of authorities that are not trusted here are left out:
/// their sender may trust others.
#[expect(clippy::type_complexity, reason = "two things that are taken apart at once")]
fn read_lists(
    extensions: &[Extension],
    trust: &Trust,
    now: Now,
) -> Result<(Vec<Arc<RevocationList>>, Option<Vec<Head>>), FrameFault> {
    let held = |tag| extensions.iter().find(|extension| extension.tag == tag);
    let mut lists = Vec::new();
    if let Some(extension) = held(LISTS) {
        let notes: Vec<String> = decode(&extension.bytes)?;
        if notes.len() > FRAME_LISTS_MAX {
            return Err(FrameFault::OverLimit("lists"));
        }
        for note in notes {
            match RevocationList::verify(&note, trust, now.utc) {
                Ok(list) => lists.push(list),
                // Its sender may trust others, or have another clock.
                Err(RevocationFault::UnknownAuthority(_) | RevocationFault::FromTheFuture(_)) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
    }
    let Some(extension) = held(HEADS) else { return Ok((lists, None)) };
    let heads: Vec<Head> = decode(&extension.bytes)?;
    if heads.len() > HEADS_MAX || heads.iter().any(|head| head.authority.len() > NAME_BYTES_MAX) {
        return Err(FrameFault::OverLimit("heads"));
    }
    Ok((lists, Some(heads)))
}

fn read<C: Claim>(
    (hops, claim): (u8, Signed<C>),
    now: Now,
) -> Result<Rumour<Proven<C>>, ClaimFault> {
    Ok(Rumour { hops, said: Arc::new(claim.verify(now)?) })
}

impl Message {
    /// What [`Message::open`] would read of this message's bytes, without the cryptography: for
    /// many peers in one process that trust the same authorities.
    ///
    /// # Errors
    /// As for [`Message::open`], those that depend on the reader's clock.
    pub fn reread(
        mut self: Box<Self>,
        now: Now,
        held: impl Fn(PeerId, Version) -> bool,
    ) -> Result<Box<Self>, FrameFault> {
        let mut refused = Vec::new();
        self.news.records.retain(|Rumour { said, .. }| {
            !held(said.advert.peer, said.advert.version)
                && said.advert.timely(now).map_err(|fault| refused.push(fault)).is_ok()
        });
        self.news.accusations.iter().try_for_each(|rumour| rumour.said.timely(now))?;
        self.news.leaves.iter().try_for_each(|rumour| rumour.said.timely(now))?;
        if !refused.is_empty() {
            self.aside.get_or_insert_default().refused = refused;
        }
        Ok(self)
    }
}

impl Aside {
    /// For a message, if there is anything.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        let is_empty = self.lists.is_empty() && self.heads.is_none() && self.refused.is_empty();
        (!is_empty).then(|| Box::new(self))
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
        self.talk.check()
    }
}

impl Talk {
    /// The names of the steps, by [`Talk::kind`].
    pub const KINDS: [&'static str; 10] = [
        "news", "ping", "pong", "ping_for", "summary", "groups", "buckets", "digest", "announce",
        "pull",
    ];

    /// Which step it is.
    pub fn kind(&self) -> usize {
        match self {
            Self::News => 0,
            Self::Ping { .. } => 1,
            Self::Pong { .. } => 2,
            Self::PingFor { .. } => 3,
            Self::Summary { .. } => 4,
            Self::Groups { .. } => 5,
            Self::Buckets { .. } => 6,
            Self::Digest { .. } => 7,
            Self::Announce { .. } => 8,
            Self::Pull { .. } => 9,
        }
    }

    fn check(&self) -> Result<(), FrameFault> {
        let (within, what) = match self {
            Self::Digest { buckets, held } => {
                let ordered = buckets.is_sorted_by(|a, b| a < b)
                    && buckets.last().is_none_or(|last| usize::from(*last) < BUCKETS);
                let inside = |held: &Held| {
                    let bucket = u16::try_from(bucket(held.peer)).expect("ten bits");
                    buckets.is_empty() || buckets.binary_search(&bucket).is_ok()
                };
                if !is_list(held) {
                    return Err(FrameFault::OverLimit("peers"));
                }
                (ordered && held.iter().all(inside), "buckets")
            }
            Self::Announce { held } | Self::Pull { held } => (is_list(held), "peers"),
            Self::Groups { prints, .. } => (prints.len() == GROUPS, "groups"),
            Self::Buckets { groups, .. } => {
                let whole = |(group, prints): &(u8, Vec<Print>)| {
                    usize::from(*group) < GROUPS && prints.len() == GROUP_BUCKETS
                };
                let ordered = groups.is_sorted_by(|a, b| a.0 < b.0);
                (ordered && groups.iter().all(whole), "buckets")
            }
            Self::News
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::PingFor { .. }
            | Self::Summary { .. } => (true, ""),
        };
        if within { Ok(()) } else { Err(FrameFault::OverLimit(what)) }
    }
}

fn is_list(held: &[Held]) -> bool {
    held.len() <= FRAME_PEERS_MAX && held.is_sorted_by(|a, b| a.peer < b.peer)
}

impl News {
    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.accusations.is_empty() && self.leaves.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len() + self.accusations.len() + self.leaves.len()
    }

    /// The news in parcels that each fit a frame beside a small talk.
    pub(super) fn parcels(self) -> Vec<Self> {
        // Room for the envelope and for a talk that names no peers.
        const BUDGET: usize = FRAME_BYTES_MAX - 1_024;
        // Hops, the signature, two ids and the varints of an accusation, which is longer than a
        // leave.
        const CLAIM: usize = 1 + 64 + 2 * 32 + 3 * 9;
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
            claim_room(&mut parcel, &mut parcels, record.said.signed().len() + 4);
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
