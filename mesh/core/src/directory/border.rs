//! The border of the directory: what happened goes in, what is to be done comes out.

use std::sync::Arc;
use std::time::Duration;

use super::message::Message;
use crate::advert::{Advert, AdvertFault, Version};
use crate::id::PeerId;
use crate::limits::PEERS_MAX;
use crate::physics::Echoes;
use crate::revocation::RevocationList;
use crate::time::Mono;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A moment named by [`Output::WakeAt`] has come.
    Tick,
    /// A message came, read by [`Message::open`], over the authenticated connection of `from`.
    Message {
        /// Who sent it.
        from: PeerId,
        /// What it says.
        message: Box<Message>,
    },
    /// A connection to a peer is up, whoever dialled.
    Connected {
        /// Which.
        peer: PeerId,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// Which.
        peer: PeerId,
    },
    /// A message or a job did not get through to a peer: it is probed at once.
    Unreachable {
        /// Which.
        peer: PeerId,
    },
    /// This peer has something new to say of itself. Peer, version and date are filled in here.
    Publish(Box<Advert>),
    /// The host has a list of revocations: from a file, or from another shard.
    Revocations(Arc<RevocationList>),
    /// A peer echoed a number that nobody could guess: evidence of how far it can be.
    Echo {
        /// Which.
        peer: PeerId,
        /// From the question to its answer.
        rtt: Duration,
    },
    /// A relay of this peer's own does not relay to it, whatever the reason: another is named.
    Unrelayed {
        /// Which.
        peer: PeerId,
    },
    /// This peer leaves. It says so and is silent from then on.
    Leave,
}

/// What the host is to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Deliver a message; dial first if there is no connection, and report
    /// [`Input::Unreachable`] when that fails.
    Send {
        /// To whom.
        to: PeerId,
        /// What.
        message: Box<Message>,
    },
    /// A connection to the peer is needed, and these are its control addresses.
    Dial {
        /// Which peer.
        peer: PeerId,
        /// Multiaddrs.
        addrs: Vec<String>,
    },
    /// Call with [`Input::Tick`] at this time. It replaces earlier ones.
    WakeAt(Mono),
    /// A round trip was measured, to the peer itself and back.
    Rtt {
        /// To whom.
        peer: PeerId,
        /// How long.
        rtt: Duration,
    },
    /// A list of revocations that was not known: keep it, so that a restart does not forget it.
    Revocations(Arc<RevocationList>),
    /// [`super::Directory::view`] has news.
    ViewChanged,
    /// For logs and metrics.
    Event(Event),
}

/// What an operator may want to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// This peer signed a new advert.
    Published {
        /// Its version.
        version: Version,
    },
    /// Others hold an advert of this peer that it did not sign in this boot: its clock went back, or
    /// another process runs with its key. Once is the former, again and again the latter.
    Outbid {
        /// What they hold.
        version: Version,
    },
    /// What this peer wants to say of itself does not fit an advert; the last one stands.
    PublishRefused {
        /// Why.
        fault: AdvertFault,
    },
    /// A peer is new here, or came back after it had left.
    PeerJoined {
        /// Which.
        peer: PeerId,
        /// Its first version here.
        version: Version,
    },
    /// A known peer has a newer advert.
    PeerUpdated {
        /// Which.
        peer: PeerId,
        /// Its new version.
        version: Version,
    },
    /// A peer is suspected.
    PeerSuspect {
        /// Which.
        peer: PeerId,
        /// How many accuse it, this peer perhaps included.
        accusers: usize,
    },
    /// A suspected or down peer answers again.
    PeerAlive {
        /// Which.
        peer: PeerId,
    },
    /// A peer is believed dead.
    PeerDown {
        /// Which.
        peer: PeerId,
    },
    /// A peer would be declared down, but too many are: perhaps it is this peer that is cut off.
    DownWithheld {
        /// Which.
        peer: PeerId,
    },
    /// A peer left by its own word.
    PeerLeft {
        /// Which.
        peer: PeerId,
    },
    /// A peer was down, or silent, for so long that it was dropped.
    PeerDropped {
        /// Which.
        peer: PeerId,
    },
    /// An advert was not taken.
    AdvertRefused {
        /// Who brought it.
        from: PeerId,
        /// Why.
        reason: Refused,
    },
    /// An authority signed two lists of revocations with one epoch. What either revokes is revoked.
    RevocationsDisputed {
        /// Which.
        authority: String,
        /// Of both.
        epoch: u64,
    },
    /// A peer answers sooner than anybody could from where its charter places it.
    PeerContradicted {
        /// Which.
        peer: PeerId,
        /// What was measured.
        echoes: Echoes,
    },
    /// This peer refuted an accusation of itself.
    Refuted {
        /// Whose.
        accuser: PeerId,
    },
    /// The host called so late that open probes and suspicions mean nothing; they start anew.
    Stalled {
        /// How late.
        late: Duration,
    },
}

/// Why a directory does not take an advert.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not verify here.
    #[error(transparent)]
    Fault(#[from] AdvertFault),
    /// Its subject published too often; a later one is taken.
    #[error("{0} publishes more often than one may")]
    TooOften(PeerId),
    /// The first bytes of its key are those of this peer, which was here first.
    #[error("its short id is that of {0}")]
    ShortIdTaken(PeerId),
    /// There is no room for one more peer.
    #[error("the directory is full ({PEERS_MAX} peers)")]
    Full,
}
