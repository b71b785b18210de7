//! Virtual time, worlds and faults around the very core that is deployed.
//!
//! A [`world::World`] hosts many peers in one thread. It does for them what the node's actors do
//! for one: it carries messages over [`links`] with latency, loss and partitions, wakes each peer
//! when it asks, and crashes and restarts them. Nothing reads a clock, and all chance follows from
//! one seed, so a seed is a run: the same seed gives the same event hash on any machine.
//!
//! [`scenario`] reads what is to happen from a file, [`run`] lets it happen and judges the end.

pub mod engine;
pub mod jobs;
pub mod links;
pub mod run;
pub mod scenario;
pub mod world;
