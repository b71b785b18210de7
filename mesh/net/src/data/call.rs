//! A call as its two ends see it: what is asked, what is answered, what can go wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::id::PeerId;
use quinn::WriteError;

use super::link::Busy;
use super::stream::{Body, BodyError, Sender};
use crate::limits::code;

/// A peer's answer: its header, and the body that follows.
#[derive(Debug)]
pub struct Answer {
    /// Its header.
    pub header: Bytes,
    /// What follows.
    pub body: Body,
    /// The round trip to the peer, as [`super::DataPlane::rtt`] gives it.
    pub rtt: Option<Duration>,
}

/// What a peer asks of this node.
#[derive(Debug)]
pub struct Call {
    /// Who asks, as its key proved.
    pub from: PeerId,
    /// The header.
    pub header: Bytes,
    /// What follows.
    pub body: Body,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The way back of one call. Dropped without an answer, it tells the caller so.
#[derive(Debug)]
pub struct Reply {
    sender: Sender,
    busy: Arc<Busy>,
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The caller left.
    #[error("the caller no longer wants the answer")]
    Cancelled,
    /// The connection died.
    #[error("the connection was lost: {0}")]
    Lost(String),
}

impl Reply {
    pub(super) fn new(sender: Sender, busy: Arc<Busy>) -> Self {
        Self { sender, busy }
    }

    /// Answers. Resolves when quinn has taken all of it, which flow control may delay.
    pub async fn send(
        mut self,
        header: Bytes,
        body: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), ReplyError> {
        self.sender.message(header, body).await.map_err(|error| match error {
            WriteError::Stopped(_) => ReplyError::Cancelled,
            other => ReplyError::Lost(other.to_string()),
        })?;
        self.sender.release();
        if self.busy.is_draining() {
            // The connection closes soon, and closing forgets what is not acknowledged.
            self.sender.stopped().await;
        }
        Ok(())
    }

    /// Refuses the call with one of the codes of [`crate::limits::code`].
    pub fn refuse(self, code: u32) {
        self.sender.reset(code);
    }

    /// Resolves when the caller has left or its connection is lost, so that work can stop.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.sender.stopped()
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection could be made; nothing was sent.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        peer: PeerId,
        /// What was tried and what came of it.
        reason: String,
    },
    /// Another key answered at the address.
    #[error("{addr} is not {peer}: another key answered; its advert is out of date or forged")]
    PeerMismatch {
        /// Who was meant.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
    },
    /// The connection died while the call was in flight; the peer may have worked on it.
    #[error("the connection was lost with the call in flight: {0}")]
    Lost(String),
    /// The peer reset the call.
    #[error("the peer refused the call: {}", code::meaning(*.0))]
    Refused(u64),
    /// The answer began and then stalled.
    #[error("the answer stalled for {0:?}")]
    TimedOut(Duration),
    /// The answer is not one.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl From<BodyError> for CallError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Reset(code) => Self::Refused(code),
            BodyError::Lost(reason) => Self::Lost(reason),
            BodyError::Stalled(time) => Self::TimedOut(time),
            other => Self::Malformed(other.to_string()),
        }
    }
}
