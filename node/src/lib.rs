//! A Hansa node and its command line: actors around the core, the API that apps speak, the config
//! that operators write.
//!
//! [`cli`] is where the binary starts; [`run`] runs a node made from a [`config`]; [`jobs`] is what
//! happens to a request.

pub mod actors;
pub mod answers;
pub mod api;
pub mod audit;
pub mod bundles;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod demo;
pub mod jobs;
pub mod keyfile;
pub mod law;
pub mod limits;
pub mod meters;
pub mod models;
pub mod node;
pub mod random;
mod reach;
pub mod repository;
pub mod run;
pub mod start;
pub mod telemetry;
