//! Frames on a stream: `u32` little-endian length ‖ content, one way, as long as the stream lives.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use hansa_core::id::PeerId;
use tokio::sync::{mpsc, oneshot};

use super::outbox::Outbox;
use super::{ControlEvent, Shared};
use crate::limits::*;

/// A peer broke the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Offence {
    /// A frame larger than a frame may be.
    #[error("it announced a frame of {0} bytes, the limit is {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// A frame that began and did not go on.
    #[error("a frame of it stalled for {FRAME_TIMEOUT:?}")]
    Stalled,
}

/// Reads frames into the host's queue until the stream ends. Waits while the queue is full or the
/// peer is over its rate, and then flow control makes the peer wait.
pub(super) async fn read(
    mut stream: impl AsyncRead + Unpin,
    from: PeerId,
    events: mpsc::Sender<ControlEvent>,
    shared: Arc<Shared>,
) -> Result<(), Offence> {
    let mut rate = Rate::new(Instant::now());
    let mut prefix = [0; 4];
    // A stream may rest between frames for as long as it likes.
    while stream.read_exact(&mut prefix[..1]).await.is_ok() {
        let rest = async {
            if stream.read_exact(&mut prefix[1..]).await.is_err() {
                return Ok(None);
            }
            let bytes = usize::try_from(u32::from_le_bytes(prefix)).expect("32 bits fit");
            if bytes > FRAME_BYTES_MAX {
                return Err(Offence::TooLarge(bytes));
            }
            let mut frame = vec![0; bytes];
            Ok(stream.read_exact(&mut frame).await.is_ok().then_some(frame))
        };
        let frame = tokio::time::timeout(FRAME_TIMEOUT, rest).await;
        let Some(frame) = frame.map_err(|_| Offence::Stalled)?? else { return Ok(()) };
        let pause = rate.take(Instant::now(), frame.len());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        shared.received.add(1);
        let event = ControlEvent::Frame { from, bytes: frame.into() };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes what comes into the outbox, until `until` ends; then closes the stream and waits for the
/// other end to do so too, so that all of it arrives: a stream that is dropped while its protocol is
/// still being negotiated takes with it what was written.
///
/// # Errors
/// The stream broke while frames were to be written.
pub(super) async fn write(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    outbox: &Outbox,
    shared: &Shared,
    mut until: oneshot::Receiver<()>,
) -> io::Result<()> {
    loop {
        let frames = tokio::select! {
            biased;
            _ = &mut until => break,
            frames = outbox.take() => frames,
        };
        let count = frames.len() as u64;
        let writing = async {
            stream.write_all(&joined(&frames)).await?;
            stream.flush().await
        };
        match in_time(writing).await {
            Ok(()) => shared.sent.add(count),
            Err(error) => {
                shared.dropped.add(count);
                return Err(error);
            }
        }
    }
    let _ = in_time(async {
        stream.close().await?;
        stream.read(&mut [0]).await
    })
    .await;
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(FRAME_TIMEOUT, work).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// Several frames in one write make fewer packets.
fn joined(frames: &VecDeque<Bytes>) -> Vec<u8> {
    let mut all = Vec::with_capacity(frames.iter().map(|frame| 4 + frame.len()).sum());
    for frame in frames {
        let bytes = u32::try_from(frame.len()).expect("checked where it was sent");
        all.extend_from_slice(&bytes.to_le_bytes());
        all.extend_from_slice(frame);
    }
    all
}

/// What one peer may send: a bucket that holds one second's worth of frames and of bytes.
#[derive(Debug)]
struct Rate {
    frames: f64,
    bytes: f64,
    at: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { frames: FRAMES_PER_SECOND.into(), bytes: FRAME_BYTES_PER_SECOND.into(), at: now }
    }

    /// Notes a frame and says how long to wait before the next is read.
    fn take(&mut self, now: Instant, bytes: usize) -> Duration {
        let frames_max = f64::from(FRAMES_PER_SECOND);
        let bytes_max = f64::from(FRAME_BYTES_PER_SECOND);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.frames = (self.frames + passed * frames_max).min(frames_max) - 1.0;
        self.bytes = (self.bytes + passed * bytes_max).min(bytes_max) - bytes as f64;
        let debt = (-self.frames / frames_max).max(-self.bytes / bytes_max).max(0.0);
        Duration::from_secs_f64(debt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_over_its_rate_waits_and_one_within_it_does_not() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let waits = (0..FRAMES_PER_SECOND).filter(|_| !rate.take(start, 10).is_zero()).count();
        assert_eq!(waits, 0, "a second's worth at once is fine");
        assert!(!rate.take(start, 10).is_zero());
        let later = start + Duration::from_secs(1);
        assert!(rate.take(later, 10).is_zero());
        assert!(rate.take(later, 2 * FRAME_BYTES_PER_SECOND as usize) > Duration::from_millis(900));
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_an_offence_and_is_not_allocated() {
        let (events, mut incoming) = mpsc::channel(4);
        let mut stream = joined(&VecDeque::from([Bytes::from_static(b"fine")]));
        stream.extend_from_slice(&u32::MAX.to_le_bytes());
        let stream = futures::io::Cursor::new(stream);
        let read = read(stream, PeerId([1; 32]), events, Arc::default()).await;
        assert_eq!(read, Err(Offence::TooLarge(u32::MAX as usize)));
        let expected =
            ControlEvent::Frame { from: PeerId([1; 32]), bytes: Bytes::from_static(b"fine") };
        assert_eq!(incoming.recv().await, Some(expected));
    }

    #[tokio::test]
    async fn a_truncated_frame_ends_the_stream_and_nothing_else() {
        let (events, mut incoming) = mpsc::channel(4);
        let stream = futures::io::Cursor::new(vec![9, 0, 0, 0, 1, 2]);
        assert_eq!(read(stream, PeerId([1; 32]), events, Arc::default()).await, Ok(()));
        assert_eq!(incoming.recv().await, None);
    }
}
