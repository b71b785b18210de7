//! The paces of membership. The defaults were measured in simulation up to 10,000 peers.

use std::time::Duration;

use crate::limits::ADVERT_REFRESH;

/// How often, how long and to how many. Scenarios vary them; nodes take the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// One peer is probed this often.
    pub probe_interval: Duration,
    /// A ping unanswered for this long is repeated through helpers.
    pub ping_timeout: Duration,
    /// The helpers have this long before the probe has failed.
    pub indirect_timeout: Duration,
    /// How many helpers ping in our stead.
    pub helpers: usize,
    /// A suspect has this long to refute, when one peer suspects it.
    pub suspect_timeout: Duration,
    /// And this long when [`Params::accusers`] peers do.
    pub suspect_timeout_min: Duration,
    /// So many independent accusers count like an own failed probe.
    pub accusers: usize,
    /// So many peers are neighbours: news go to them, over connections that stay warm.
    pub neighbours: usize,
    /// One of them is exchanged this often.
    pub rotate_interval: Duration,
    /// News are pushed to so many neighbours.
    pub fanout: usize,
    /// For at most their first so many hops; fewer in a mesh that fewer hops cover.
    pub eager_hops_max: u8,
    /// After that they are announced to so many neighbours …
    pub lazy_fanout: usize,
    /// … so many times …
    pub lazy_rounds: u8,
    /// … this far apart.
    pub lazy_interval: Duration,
    /// A pull unanswered for this long may be repeated at another peer.
    pub pull_retry: Duration,
    /// The directory is reconciled with one peer this often.
    pub reconcile_interval: Duration,
    /// A view is published at most this often.
    pub view_interval: Duration,
    /// A peer that is down stays visible for this long.
    pub down_retention: Duration,
    /// An own advert is signed anew this often.
    pub advert_refresh: Duration,
    /// Of one peer's new adverts, one is taken in this time …
    pub advert_interval: Duration,
    /// … after a burst of so many. A peer paces itself at half of both.
    pub advert_burst: u32,
    /// A charter does not count unless each authority that signed it issued a list of revocations
    /// within this time; without it no list is demanded, and those that are there count.
    pub revocations_age_max: Option<Duration>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_millis(500),
            indirect_timeout: Duration::from_millis(1_000),
            helpers: 3,
            suspect_timeout: Duration::from_secs(6),
            suspect_timeout_min: Duration::from_secs(3),
            accusers: 3,
            neighbours: 32,
            rotate_interval: Duration::from_secs(10),
            fanout: 4,
            eager_hops_max: 5,
            lazy_fanout: 3,
            lazy_rounds: 3,
            lazy_interval: Duration::from_millis(140),
            pull_retry: Duration::from_millis(600),
            reconcile_interval: Duration::from_secs(10),
            view_interval: Duration::from_millis(20),
            down_retention: Duration::from_secs(600),
            advert_refresh: ADVERT_REFRESH,
            advert_interval: Duration::from_secs(1),
            advert_burst: 8,
            revocations_age_max: None,
        }
    }
}
