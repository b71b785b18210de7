//! Virtual time, worlds and faults around the very core that is deployed.
//!
//! A [`world::World`] hosts many peers in one thread. It does for them what the node's actors do
//! for one: it carries messages over [`links`] with latency, loss and partitions, wakes each peer
//! when it asks, and crashes and restarts them. Nothing reads a clock, and all chance follows from
//! one seed, so a seed is a run: the same seed gives the same event hash on any machine.
//!
//! [`scenario`] reads what is to happen from a file, [`run`] lets it happen and judges the end,
//! [`record`] makes of it what [`report`] shows. [`runner`] runs many seeds at once and [`store`]
//! keeps each as soon as it is done; [`jobs`] plays jobs through the core's survey and flight;
//! [`compare`] and [`sweep`] put such results side by side.

pub mod adversary;
pub mod advert;
pub mod arrivals;
pub mod calibrate;
pub mod compare;
pub mod connections;
pub mod course;
pub mod engine;
pub mod flow;
pub mod geography;
pub mod jobs;
pub mod ledger;
pub mod links;
pub mod record;
pub mod recording;
pub mod report;
pub mod run;
pub mod runner;
pub mod scenario;
pub mod statistics;
pub mod store;
pub mod sweep;
pub mod table;
pub mod traces;
pub mod world;

/// The example in the README of scenarios compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../scenarios/README.md")]
mod readme_of_scenarios {}
