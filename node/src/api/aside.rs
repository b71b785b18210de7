//! Long work of one request, beside the threads that carry the network: who parses megabytes of
//! JSON on those is not heard by its peers meanwhile, and they give up the connection.

use std::panic::resume_unwind;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::limits::AT_ONCE_BYTES_MAX;

/// Where long work is done: as much at once as there are cores.
#[derive(Debug)]
pub struct Aside(Semaphore);

impl Default for Aside {
    fn default() -> Self {
        Self(Semaphore::new(available_parallelism().map_or(1, usize::from)))
    }
}

impl Aside {
    /// Whether work over so many bytes is done at once.
    pub fn is_short(bytes: usize) -> bool {
        bytes <= AT_ONCE_BYTES_MAX
    }

    /// Does `work` over so many bytes: here if they are few, else aside.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if Self::is_short(bytes) {
            return work();
        }
        let _turn = self.0.acquire().await.expect("it is never closed");
        match spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The process ends.
            Err(_) => std::future::pending().await,
        }
    }
}
