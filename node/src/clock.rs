//! The only place where the node reads clocks for the core.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hansa_core::time::{Mono, Now, Utc};

/// Monotonic time since the node's start, and wall time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let utc = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), utc: Utc(utc) }
    }

    /// `at` as the operating system's instant, for waiting.
    pub fn instant(&self, at: Mono) -> Instant {
        self.start + std::time::Duration::from_nanos(at.0)
    }
}
