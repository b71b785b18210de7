//! Jobs in the air.
