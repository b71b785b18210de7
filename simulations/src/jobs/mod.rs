//! Jobs over the mesh in virtual time: entries take them, servers run them, the very core decides
//! where ([`hansa_core::survey`], [`hansa_core::flight`], [`hansa_core::quote`]) and checkers watch
//! every byte. Other [`strategy`]s stand beside it, from random to one that knows everything.
//!
//! They are played over a [`mesh::Mesh`]: a [`gossiping::Gossiping`] one, where views come from the
//! gossip of the same peers and faults befall both, or, where nothing could change a view, a
//! [`mesh::Fixed`] one, which is faster.

pub mod bound;
pub mod checkers;
pub mod figures;
mod findings;
pub mod gossiping;
pub mod law;
pub mod mesh;
pub mod play;
pub mod portable;
pub mod prequal;
pub mod server;
pub mod setup;
pub mod sharing;
pub mod stage;
pub mod staged;
pub mod strategy;
mod ways;
pub mod yardstick;
