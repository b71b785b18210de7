//! The actors of a node. Each exists because it owns something: the swarm's socket, the directory,
//! the data endpoint, a device's sessions, the API's listener. A handler receives, calls one
//! function, dispatches; the rules live in functions that need no actor to be tested.
//!
//! ```text
//! supervisor ─┬─ swarm ─┐
//!             ├─ peer   ├ restarted together, with a budget
//!             ├─ data ──┘
//!             ├─ engine     one for the devices, restarted alone
//!             └─ api        restarted alone
//! ```

pub mod api;
pub mod data;
pub mod engine;
pub mod peer;
pub mod supervisor;
pub mod swarm;
