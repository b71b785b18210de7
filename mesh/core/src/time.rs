//! Time as the core sees it: always passed in, never read.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Decode, Encode};

/// A reading of one peer's monotonic clock, in nanoseconds since a start of its own. Two peers'
/// readings cannot be compared; the wire carries durations instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mono(pub u64);

impl Mono {
    /// The time from `earlier` to this, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall time, in milliseconds since 1970-01-01T00:00:00Z. Used only where signatures name dates.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize,
)]
#[serde(transparent)]
pub struct Utc(pub u64);

impl Add<Duration> for Utc {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What both clocks say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For everything that waits or measures.
    pub mono: Mono,
    /// For validity of what was signed.
    pub utc: Utc,
}
