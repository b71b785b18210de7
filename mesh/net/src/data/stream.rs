//! One message of a stream: `u32` little-endian length ‖ header ‖ body ‖ end. A reset is a
//! cancellation, and whatever is dropped half-way resets. A length that no header has, `u32::MAX`,
//! begins a tunnel: the id of the peer that it leads to, then what it carries.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hansa_core::id::PeerId;
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

use super::link::Busy;
use crate::limits::{DATA_IDLE_MAX, HEADER_BYTES_MAX, code};

/// Chunks taken from quinn at once: one lock for many packets.
const CHUNKS: usize = 32;
/// A body's buffer starts at most this large, whatever length was declared.
const FIRST_RESERVE_BYTES: usize = 64 * 1024;

/// The length that begins a tunnel.
const TUNNEL: u32 = u32::MAX;
/// What follows it: the id of a peer.
const TUNNEL_HEADER_BYTES: u32 = 32;

/// What a stream begins with.
#[derive(Debug)]
pub(super) enum Opening {
    /// A message's header.
    Header(Bytes),
    /// What follows is packets for this peer.
    Tunnel(PeerId),
}

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It ended before its length.
    #[error("the body ended after {got} of {expected} bytes")]
    Short {
        /// Bytes that came.
        got: usize,
        /// Bytes that were asked for.
        expected: usize,
    },
    /// It goes on beyond its length.
    #[error("the body is longer than {limit} bytes")]
    Long {
        /// Where it should have ended.
        limit: usize,
    },
    /// The other side reset it.
    #[error("the other side reset the stream: {}", code::meaning(*.0))]
    Reset(u64),
    /// Nothing came for too long.
    #[error("the body stalled for {0:?}")]
    Stalled(Duration),
    /// The connection died.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The header is missing, truncated or longer than a header may be.
    #[error("malformed header: {0}")]
    Header(&'static str),
}

/// The bytes after a header. They are taken from the connection as they are asked for, so an
/// unread body holds its sender back and nothing is ever allocated for a declared length.
/// Dropping an unfinished body tells the sender to stop.
#[derive(Debug)]
pub struct Body {
    recv: RecvStream,
    pending: Bytes,
    ended: bool,
    stall: Option<Duration>,
    upload: Upload,
    /// The call that it belongs to; a tunnel is none.
    busy: Option<Arc<Busy>>,
}

/// Our own half of a call, as long as the answer is not read.
#[derive(Debug)]
pub(super) enum Upload {
    /// Not ours to watch.
    None,
    /// The other side answers before it has read all of it.
    Going(tokio::task::AbortHandle),
    /// All is handed to quinn, but perhaps not yet sent.
    Done(Sender),
}

impl Body {
    /// A call's body, which may pause for `stall`, or for ever.
    pub(super) fn new(recv: RecvStream, stall: Option<Duration>, busy: Arc<Busy>) -> Self {
        let pending = Bytes::new();
        Self { recv, pending, ended: false, stall, upload: Upload::None, busy: Some(busy) }
    }

    /// The receiving half of a tunnel, which is no call: nobody waits for its end.
    pub(super) fn of_tunnel(recv: RecvStream) -> Self {
        let (pending, stall) = (Bytes::new(), Some(DATA_IDLE_MAX));
        Self { recv, pending, ended: false, stall, upload: Upload::None, busy: None }
    }

    /// The same, of a stream that turned out to be one.
    pub(super) fn into_tunnel(mut self) -> Self {
        self.busy = None;
        self.stall = Some(DATA_IDLE_MAX);
        self
    }

    /// The answer has begun: from now on it goes on within `stall`.
    pub(super) fn begun(mut self, stall: Duration, upload: Upload) -> Self {
        self.stall = Some(stall);
        self.upload = upload;
        self
    }

    /// The header. Reads on into the body only what came in the same packet.
    pub(super) async fn header(&mut self) -> Result<Bytes, BodyError> {
        match self.opening().await? {
            Opening::Header(header) => Ok(header),
            Opening::Tunnel(_) => Err(BodyError::Header("longer than a header may be")),
        }
    }

    /// What the stream begins with. Reads on only what came in the same packet.
    pub(super) async fn opening(&mut self) -> Result<Opening, BodyError> {
        const TRUNCATED: BodyError = BodyError::Header("the stream ended within it");
        self.fill(4).await?.ok_or(TRUNCATED)?;
        let prefix = self.pending.split_to(4);
        let length = u32::from_le_bytes(prefix.as_ref().try_into().expect("4 bytes"));
        let bytes = if length == TUNNEL { TUNNEL_HEADER_BYTES } else { length };
        let bytes = usize::try_from(bytes).expect("32 bits fit");
        if bytes > HEADER_BYTES_MAX {
            return Err(BodyError::Header("longer than a header may be"));
        }
        self.fill(bytes).await?.ok_or(TRUNCATED)?;
        let header = self.pending.split_to(bytes);
        Ok(match length {
            TUNNEL => Opening::Tunnel(PeerId(header.as_ref().try_into().expect("32 bytes"))),
            _ => Opening::Header(header),
        })
    }

    /// The next bytes as they came, without a copy; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        if !self.pending.is_empty() {
            return Ok(Some(self.pending.split_to(self.pending.len())));
        }
        let mut one = [Bytes::new()];
        Ok((self.read(&mut one).await? == 1).then(|| std::mem::take(&mut one[0])))
    }

    /// Exactly `bytes` bytes: without a copy when they came in one piece, else in a buffer that
    /// grows as they arrive.
    pub async fn read_exact(&mut self, bytes: usize) -> Result<Bytes, BodyError> {
        let short = |got| BodyError::Short { got, expected: bytes };
        if self.pending.is_empty() && bytes > 0 {
            self.pending = self.chunk().await?.ok_or(short(0))?;
        }
        if self.pending.len() >= bytes {
            return Ok(self.pending.split_to(bytes));
        }
        let mut whole = Vec::with_capacity(bytes.min(FIRST_RESERVE_BYTES));
        whole.extend_from_slice(&std::mem::take(&mut self.pending));
        let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
        while whole.len() < bytes {
            let count = self.read(&mut chunks).await?;
            if count == 0 {
                return Err(short(whole.len()));
            }
            for (at, chunk) in chunks[..count].iter_mut().enumerate() {
                let taken = chunk.len().min(bytes - whole.len());
                if whole.capacity() - whole.len() < taken {
                    // Doubling, but never beyond what was asked for.
                    whole.reserve_exact(taken.max(whole.len().min(bytes - whole.len())));
                }
                whole.extend_from_slice(&chunk[..taken]);
                if taken < chunk.len() {
                    // The other side goes on beyond the length; keep it, in order.
                    let rest = chunk.slice(taken..);
                    let rest = std::iter::once(rest).chain(chunks[at + 1..count].iter().cloned());
                    self.pending = rest
                        .fold(BytesMut::new(), |mut all, part| {
                            all.extend_from_slice(&part);
                            all
                        })
                        .freeze();
                    break;
                }
            }
        }
        Ok(whole.into())
    }

    /// Everything to the end, if that is no more than `limit` bytes.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let first = match self.chunk().await? {
            Some(first) => first,
            None => return Ok(Bytes::new()),
        };
        let mut whole = None;
        let mut bytes = first.len();
        while let Some(chunk) = self.chunk().await? {
            bytes += chunk.len();
            if bytes > limit {
                break;
            }
            whole.get_or_insert_with(|| first.to_vec()).extend_from_slice(&chunk);
        }
        if bytes > limit {
            return Err(BodyError::Long { limit });
        }
        Ok(whole.map_or(first, Bytes::from))
    }

    /// Checks that the message ends here. `limit` is what was read of it, for the error.
    pub async fn expect_end(&mut self, limit: usize) -> Result<(), BodyError> {
        match self.chunk().await? {
            None => Ok(()),
            Some(_) => Err(BodyError::Long { limit }),
        }
    }

    /// Makes `pending` at least `bytes` long; `None` when the message ends before.
    async fn fill(&mut self, bytes: usize) -> Result<Option<()>, BodyError> {
        while self.pending.len() < bytes {
            let mut one = [Bytes::new()];
            if self.read(&mut one).await? == 0 {
                return Ok(None);
            }
            let [chunk] = one;
            self.pending = if self.pending.is_empty() {
                chunk
            } else {
                let mut joined = BytesMut::from(std::mem::take(&mut self.pending));
                joined.extend_from_slice(&chunk);
                joined.freeze()
            };
        }
        Ok(Some(()))
    }

    async fn read(&mut self, chunks: &mut [Bytes]) -> Result<usize, BodyError> {
        if self.ended {
            return Ok(0);
        }
        let read = self.recv.read_chunks(chunks);
        let read = match self.stall {
            None => read.await,
            Some(stall) => match tokio::time::timeout(stall, read).await {
                Ok(read) => read,
                Err(_) => return Err(BodyError::Stalled(stall)),
            },
        };
        let count = read.map_err(|error| match error {
            ReadError::Reset(code) => BodyError::Reset(code.into_inner()),
            other => BodyError::Lost(match &self.busy {
                Some(busy) => busy.why_lost(&other),
                None => other.to_string(),
            }),
        })?;
        self.ended = count.is_none();
        Ok(count.unwrap_or(0))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.ended {
            if let Upload::Done(sender) = &mut self.upload {
                sender.release();
            }
            return;
        }
        if let Upload::Going(upload) = &self.upload {
            upload.abort();
        }
        let _ = self.recv.stop(VarInt::from_u32(code::CANCELLED));
    }
}

/// The sending half. quinn finishes a dropped stream, which would make half a message look whole:
/// this resets instead, until it is [`release`](Sender::release)d.
#[derive(Debug)]
pub(super) struct Sender {
    send: SendStream,
    on_drop: Option<u32>,
}

impl Sender {
    pub(super) fn new(send: SendStream, on_drop: u32) -> Self {
        Self { send, on_drop: Some(on_drop) }
    }

    /// Writes the whole message and its end. The parts are handed to quinn without a copy.
    pub(super) async fn message(
        &mut self,
        header: Bytes,
        body: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), WriteError> {
        assert!(header.len() <= HEADER_BYTES_MAX, "a header of our own is within its limit");
        let bytes = u32::try_from(header.len()).expect("within the limit");
        let prefix = Bytes::copy_from_slice(&bytes.to_le_bytes());
        let mut parts: Vec<Bytes> = [prefix, header].into_iter().chain(body).collect();
        self.send.write_all_chunks(&mut parts).await?;
        let _ = self.send.finish();
        Ok(())
    }

    /// Begins a tunnel to `peer`.
    pub(super) async fn begin_tunnel(&mut self, peer: PeerId) -> Result<(), WriteError> {
        let opening = [&TUNNEL.to_le_bytes(), peer.0.as_slice()].concat();
        self.write(opening.into()).await
    }

    /// Writes on, without a copy.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.send.write_chunk(bytes).await
    }

    /// What was written is to arrive, whatever becomes of this.
    pub(super) fn release(&mut self) {
        self.on_drop = None;
    }

    /// Ends the stream without a message.
    pub(super) fn reset(mut self, code: u32) {
        self.on_drop = Some(code);
    }

    /// Resolves when the other side wants no more, or has received everything.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let stopped = self.send.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(code) = self.on_drop {
            let _ = self.send.reset(VarInt::from_u32(code));
        }
    }
}
