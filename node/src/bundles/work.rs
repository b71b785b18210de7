//! What a pull still has to fetch: one queue for all holders, and who was asked for what.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use hansa_core::id::PeerId;
use hansa_core::limits::CHUNKS_ASKED_MAX;
use hansa_runtime::limits::CHUNK_BYTES;
use hansa_runtime::manifest::Span;
use hansa_runtime::store::Partial;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::*;

/// What is to be fetched, shared by all asks of one pull.
pub(super) struct Work<'a> {
    partial: &'a Arc<Partial>,
    state: Mutex<State>,
    /// Something came back to the queue, or all is done.
    wake: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Span>,
    flying: Vec<Flying>,
    /// Holders that are asked no more.
    left: BTreeSet<PeerId>,
}

/// An ask in flight.
struct Flying {
    span: Span,
    holder: PeerId,
    since: Instant,
    /// Somebody else was asked for the same.
    is_doubled: bool,
}

impl<'a> Work<'a> {
    /// Everything that is missing in `partial`.
    pub(super) fn new(partial: &'a Arc<Partial>) -> Self {
        // A small bundle is to be shared, too.
        let chunks = partial.bytes_left().div_ceil(CHUNK_BYTES as u64);
        let share = chunks / (PULL_HOLDERS_MAX * PULL_ASKS_MAX) as u64;
        let most = u32::try_from(share).unwrap_or(u32::MAX).clamp(1, CHUNKS_ASKED_MAX);
        let queue = partial.missing(most).into();
        let state = Mutex::new(State { queue, ..State::default() });
        Self { partial, state, wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Where the chunks go.
    pub(super) fn partial(&self) -> &'a Arc<Partial> {
        self.partial
    }

    /// `holder` is asked from now on.
    pub(super) fn welcome(&self, holder: PeerId) {
        self.lock().left.remove(&holder);
    }

    /// `holder` is asked no more. Whether that is news.
    pub(super) fn leave(&self, holder: PeerId) -> bool {
        let is_news = self.lock().left.insert(holder);
        self.wake.notify_waiters();
        is_news
    }

    /// Whether nothing is missing.
    pub(super) fn is_done(&self) -> bool {
        self.partial.bytes_left() == 0
    }

    /// The next span for `holder`; none when all is here, or it is asked no more. At the end it may
    /// be one that another holder is slow with.
    pub(super) async fn take(&self, holder: PeerId) -> Option<Span> {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.lock();
                if self.is_done() || state.left.contains(&holder) {
                    return None;
                }
                let since = Instant::now();
                let span = state.queue.pop_front().or_else(|| {
                    let slow = state.flying.iter_mut().find(|flying| {
                        !flying.is_doubled
                            && flying.holder != holder
                            && flying.since.elapsed() > PULL_PATIENCE
                    })?;
                    slow.is_doubled = true;
                    Some(slow.span)
                });
                if let Some(span) = span {
                    let is_doubled = false;
                    state.flying.push(Flying { span, holder, since, is_doubled });
                    return Some(span);
                }
            }
            let _ = timeout(PULL_PATIENCE, woken).await;
        }
    }

    /// An ask has ended; the chunks from `reached` on did not come.
    pub(super) fn ended(&self, span: Span, holder: PeerId, reached: u32) {
        let mut state = self.lock();
        let is_it = |flying: &Flying| flying.span == span && flying.holder == holder;
        if let Some(at) = state.flying.iter().position(is_it) {
            state.flying.swap_remove(at);
        }
        let count = span.first + span.count - reached;
        if count > 0 {
            state.queue.push_front(Span { first: reached, count, ..span });
        }
        drop(state);
        self.wake.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use hansa_runtime::bundle::Bundle;
    use hansa_runtime::store::Store;

    use super::*;

    const ONE: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);

    /// A bundle of four chunks, none of which is here, and the folder that keeps it.
    fn partial() -> (tempfile::TempDir, Bundle, Arc<Partial>) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(CHUNK_BYTES * 3 + 1).collect();
        std::fs::write(source.join("model.onnx"), bytes).unwrap();
        let bundle = Bundle::open(&source).unwrap();
        let store = Store::open(&dir.path().join("store"), 1 << 30).unwrap();
        let partial = store.begin(bundle.manifest.clone()).unwrap();
        (dir, bundle, Arc::new(partial))
    }

    fn now(work: &Work<'_>, holder: PeerId) -> Option<Option<Span>> {
        work.take(holder).now_or_never()
    }

    fn chunk(first: u32) -> Span {
        Span { file: 0, first, count: 1 }
    }

    #[tokio::test]
    async fn what_one_holder_did_not_deliver_another_is_asked_for() {
        let (_dir, _, partial) = partial();
        let work = Work::new(&partial);
        let taken: Vec<_> = (0..4).map(|_| now(&work, ONE)).collect();
        assert_eq!(taken, (0..4).map(|first| Some(Some(chunk(first)))).collect::<Vec<_>>());
        assert_eq!(now(&work, OTHER), None, "it waits: something may come back");
        work.ended(chunk(2), ONE, 2);
        assert_eq!(now(&work, OTHER), Some(Some(chunk(2))));
    }

    #[tokio::test]
    async fn a_holder_that_left_is_given_nothing_until_it_is_welcome_again() {
        let (_dir, _, partial) = partial();
        let work = Work::new(&partial);
        assert!(work.leave(ONE) && !work.leave(ONE), "the second time it is no news");
        assert_eq!(now(&work, ONE), Some(None));
        work.welcome(ONE);
        assert_eq!(now(&work, ONE), Some(Some(chunk(0))));
    }

    #[tokio::test]
    async fn when_all_is_here_nobody_waits() {
        let (_dir, bundle, partial) = partial();
        let work = Work::new(&partial);
        while let Some(Some(_)) = now(&work, ONE) {}
        for first in 0..4 {
            let bytes = bundle.read(chunk(first)).unwrap();
            partial.write(0, first, &bytes).unwrap();
            work.ended(chunk(first), ONE, first + 1);
        }
        assert!(work.is_done());
        assert_eq!(now(&work, OTHER), Some(None));
    }
}
