//! What checking the signature of one advert takes on this machine, beside the constant that the
//! simulator charges for it. `cargo bench -p hansa-sim --bench verify`.

#![allow(clippy::print_stdout)] // A bench is read by people.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hansa_core::advert::Advert;
use hansa_core::charter::Trust;
use hansa_core::keys::SigningKey;
use hansa_core::time::{Mono, Now};
use hansa_sim::advert::common;
use hansa_sim::world::{GENESIS, SIGNATURE_CHECK};

const CHECKS: usize = 20_000;

fn main() {
    let key = SigningKey::from_seed(&[7; 32]);
    let (trust, now) = (Trust::default(), Now { mono: Mono(0), utc: GENESIS });
    let advert = Advert { issued: GENESIS, ..common(0, key.peer_id(), None) };
    let signed = advert.sign(&key);
    let mut times: Vec<Duration> = (0..CHECKS)
        .map(|_| {
            let signed = signed.clone();
            let began = Instant::now();
            black_box(signed.verify(&trust, now)).expect("a good signature");
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let (p50, p99, charged) =
        (us(times[CHECKS / 2]), us(times[CHECKS * 99 / 100]), us(SIGNATURE_CHECK));
    println!("one advert, {CHECKS} times: p50 {p50:.1} µs, p99 {p99:.1} µs");
    println!("charged: {charged:.1} µs, {:.2} of p50", charged / p50);
}
