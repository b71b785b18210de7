//! What this peer has measured of the others.
