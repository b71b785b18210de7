//! Jobs over the mesh in virtual time: entries take them, servers run them, the very core decides
//! where ([`hansa_core::survey`], [`hansa_core::flight`], [`hansa_core::quote`]) and checkers watch
//! every byte. Other [`strategy`]s stand beside it, from random to one that knows everything.
//!
//! Left out: hedging, and gossip. Views come through [`views::Views`]; [`views::Fixed`] makes them
//! from signed adverts.

pub mod checkers;
pub mod figures;
pub mod law;
pub mod play;
pub mod portable;
pub mod prequal;
pub mod server;
pub mod setup;
pub mod sharing;
pub mod stage;
pub mod staged;
pub mod strategy;
pub mod views;
pub mod yardstick;
