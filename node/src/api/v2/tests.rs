//! Requests and answers as clients send and read them, and random ones.
