//! Frames that wait for one peer's stream: bounded, and when full the oldest goes, since gossip
//! repairs what is lost and the newest says more.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_FRAMES_MAX};

/// The queue of one peer, kept over reconnections.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    /// Adds a frame and says how many old ones it displaced.
    pub(super) fn push(&self, frame: Bytes) -> u64 {
        let mut queue = self.queue.lock().expect("no holder panics");
        let mut displaced = 0;
        while queue.frames.len() >= OUTBOX_FRAMES_MAX
            || queue.bytes + frame.len() > OUTBOX_BYTES_MAX
        {
            let Some(old) = queue.frames.pop_front() else { break };
            queue.bytes -= old.len();
            displaced += 1;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        drop(queue);
        self.filled.notify_one();
        displaced
    }

    /// Everything that waits, oldest first; waits until there is something.
    pub(super) async fn take(&self) -> VecDeque<Bytes> {
        loop {
            let taken = self.drain();
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    /// Everything that waits.
    pub(super) fn drain(&self) -> VecDeque<Bytes> {
        let mut queue = self.queue.lock().expect("no holder panics");
        queue.bytes = 0;
        std::mem::take(&mut queue.frames)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().expect("no holder panics").frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_drops_the_oldest() {
        let outbox = Outbox::default();
        for n in 0..OUTBOX_FRAMES_MAX {
            assert_eq!(outbox.push(Bytes::from(n.to_string())), 0);
        }
        assert_eq!(outbox.push(Bytes::from_static(b"new")), 1);
        let frames = outbox.drain();
        assert_eq!(frames.len(), OUTBOX_FRAMES_MAX);
        assert_eq!(frames.front(), Some(&Bytes::from_static(b"1")));
        assert_eq!(frames.back(), Some(&Bytes::from_static(b"new")));
        assert!(outbox.is_empty());
    }

    #[test]
    fn large_frames_displace_as_many_bytes_as_they_need() {
        let outbox = Outbox::default();
        let half = Bytes::from(vec![0; OUTBOX_BYTES_MAX / 2]);
        assert_eq!(outbox.push(half.clone()), 0);
        assert_eq!(outbox.push(half.clone()), 0);
        assert_eq!(outbox.push(half), 1);
        assert_eq!(outbox.drain().len(), 2);
    }
}
