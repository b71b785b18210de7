//! The keys that vary how membership is kept, `[gossip]`, and who holds what, `[placement]`.

use std::time::Duration;

use hansa_core::directory::Params;
use serde::Deserialize;

/// Names the keys of `[gossip]` once: those of a time, in milliseconds, and those of a number.
macro_rules! overrides {
    (times: $($time:ident => $ms:ident),*; numbers: $($number:ident: $kind:ty),*) => {
        /// `[gossip]`: [`Params`] by name; times end in `_ms`. What is left out is as nodes do it.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct GossipSpec {
            /// Shards that the mesh is divided into: peer `n` subscribes to the `n % shards`th alone.
            pub shards: Option<usize>,
            $(#[doc = concat!("[`Params::", stringify!($time), "`], in milliseconds.")]
            pub $ms: Option<u64>,)*
            $(#[doc = concat!("[`Params::", stringify!($number), "`].")]
            pub $number: Option<$kind>,)*
        }

        impl GossipSpec {
            /// The paces that peers keep.
            pub fn params(&self) -> Params {
                let mut params = Params::default();
                $(if let Some(ms) = self.$ms { params.$time = Duration::from_millis(ms); })*
                $(if let Some(number) = self.$number { params.$number = number; })*
                params
            }
        }
    };
}

overrides! {
    times: probe_interval => probe_interval_ms, ping_timeout => ping_timeout_ms,
        indirect_timeout => indirect_timeout_ms, suspect_timeout => suspect_timeout_ms,
        suspect_timeout_min => suspect_timeout_min_ms, lazy_interval => lazy_interval_ms,
        pull_retry => pull_retry_ms, reconcile_interval => reconcile_interval_ms,
        view_interval => view_interval_ms, down_retention => down_retention_ms,
        advert_refresh => advert_refresh_ms, advert_interval => advert_interval_ms;
    numbers: helpers: usize, accusers: usize, fanout: usize, eager_hops_max: u8,
        lazy_fanout: usize, lazy_rounds: u8, advert_burst: u32
}

/// `[placement]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementSpec {
    /// Which peers hold which models.
    pub strategy: PlacementStrategy,
    /// A job whose first byte is not there by then is unmet demand, in milliseconds.
    pub late_ms: u64,
}

impl Default for PlacementSpec {
    fn default() -> Self {
        Self { strategy: PlacementStrategy::default(), late_ms: 2_000 }
    }
}

/// `placement.strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementStrategy {
    /// Each model is on its share of the peers, drawn by the seed.
    #[default]
    Spread,
    /// Each model is where most of its jobs come from.
    NearDemand,
    /// Each operator holds all models itself.
    Everywhere,
    /// It begins as `spread`, and then each peer decides for itself, as nodes would.
    Demand,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_nodes_do_it() {
        let spec: GossipSpec = toml::from_str("fanout = 9\nprobe_interval_ms = 1500").unwrap();
        let expected =
            Params { fanout: 9, probe_interval: Duration::from_millis(1_500), ..Params::default() };
        assert_eq!(spec.params(), expected);
        assert_eq!(GossipSpec::default().params(), Params::default());
    }
}
