//! The actors of a node. Each exists because it owns something: the swarm's socket, the directory,
//! the data endpoint, a device's sessions, the API's listener. A handler receives, calls one
//! function, dispatches; the rules live in functions that need no actor to be tested.
//!
//! ```text
//! supervisor ─┬─ swarm ─┐
//!             ├─ peer   ├ restarted together, with a budget
//!             ├─ data ──┘
//!             ├─ engine     one for the devices, restarted alone
//!             └─ api        restarted alone
//! ```

pub mod api;
pub mod data;
pub mod engine;
pub mod peer;
pub mod supervisor;
pub mod swarm;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// A task that an actor owns: it ends with the actor, however that ends, and the actor hears of its
/// end, however it ends.
pub(crate) struct Task {
    abort: AbortHandle,
    ended: CancellationToken,
}

impl Task {
    /// Runs `work`; `tell` is called when it ends, panics or is aborted.
    pub(crate) fn run(
        work: impl Future<Output = ()> + Send + 'static,
        tell: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (work, ended) = (tokio::spawn(work), CancellationToken::new());
        let task = Self { abort: work.abort_handle(), ended: ended.clone() };
        tokio::spawn(async move {
            let _ = work.await; // However it ended.
            ended.cancel();
            tell();
        });
        task
    }

    /// Resolves when the work has ended.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
