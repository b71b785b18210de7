//! Network coordinates: a guess of the round trip to a peer that was never pinged (Vivaldi: Dabek,
//! Cox, Kaashoek, Morris 2004; three dimensions and a height for the access link).
//!
//! Left out: any defence against a peer that lies of where it is. A coordinate only ranks; what was
//! measured always comes before it, and the gate never reads it.

// Floats here become integers only within RADIUS_MAX.
#![allow(clippy::cast_possible_truncation)]

use std::time::Duration;

use crate::codec::{Decode, Encode};

/// Where a peer is in the space of round trips, and how sure it is: 10 to 20 bytes encoded, 23 if
/// it lies. The default is a peer that does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Coordinate {
    /// Place, in µs.
    axes: [i32; 3],
    /// What the access link adds to every round trip, in µs.
    height: u32,
    /// Expected relative error, in 1/65,535.
    error: u16,
}

/// A peer that is less sure of its place than this, in 1/65,535, says nothing with it.
const ERROR_MAX: u16 = u16::MAX / 2;
/// No round trip on Earth is longer: coordinates further out are drawn in to this, in µs.
const RADIUS_MAX: f64 = 2_000_000.0;
/// How far one sample moves a coordinate, and its error: the paper's `c_c` and `c_e`.
const PULL: f64 = 0.25;
/// Heights stay above zero so that no two peers fall together for ever, in µs.
const HEIGHT_MIN: f64 = 10.0;

impl Default for Coordinate {
    fn default() -> Self {
        Self { axes: [0; 3], height: 0, error: u16::MAX }
    }
}

impl Coordinate {
    /// The round trip between two peers that both know where they are.
    pub fn round_trip(&self, other: &Self) -> Option<Duration> {
        (self.error <= ERROR_MAX && other.error <= ERROR_MAX).then(|| self.distance(other))
    }

    /// The round trip that two coordinates suggest.
    pub fn distance(&self, other: &Self) -> Duration {
        let us = Place::of(self).distance(&Place::of(other));
        Duration::from_micros(us as u64) // Finite and not negative: of bounded integers.
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    axes: [f64; 3],
    height: f64,
}

impl Place {
    /// A coordinate off the wire may say anything: it is drawn in.
    fn of(coordinate: &Coordinate) -> Self {
        let axes = coordinate.axes.map(|axis| f64::from(axis).clamp(-RADIUS_MAX, RADIUS_MAX));
        Self { axes, height: f64::from(coordinate.height).clamp(0.0, RADIUS_MAX) }
    }

    fn distance(&self, other: &Self) -> f64 {
        let squares = self.axes.iter().zip(other.axes).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f64>().sqrt() + self.height + other.height
    }
}

/// This peer's own coordinate, moved by each round trip that it measures.
#[derive(Clone, Debug)]
pub struct Position {
    place: Place,
    error: f64,
    /// Samples so far: they choose the way out where two peers stand on one point.
    samples: u64,
}

impl Default for Position {
    fn default() -> Self {
        Self { place: Place { axes: [0.0; 3], height: HEIGHT_MIN }, error: 1.0, samples: 0 }
    }
}

impl Position {
    /// A round trip to a peer that says it is at `theirs`.
    pub fn observe(&mut self, rtt: Duration, theirs: &Coordinate) {
        let rtt = (rtt.as_micros() as f64).clamp(1.0, RADIUS_MAX);
        self.samples += 1;
        let their_error = f64::from(theirs.error) / f64::from(u16::MAX);
        let theirs = Place::of(theirs);
        let apart = self.place.distance(&theirs);
        let weight = self.error / (self.error + their_error).max(1e-6);
        let wrong = ((apart - rtt).abs() / rtt).min(1.0);
        self.error = wrong * PULL * weight + self.error * (1.0 - PULL * weight);
        let mut way: [f64; 3] = std::array::from_fn(|n| self.place.axes[n] - theirs.axes[n]);
        let mut flat = way.iter().map(|axis| axis * axis).sum::<f64>().sqrt();
        if flat < 1.0 {
            way = std::array::from_fn(|n| {
                let word = crate::rng::mix(self.samples * 3 + n as u64) >> 11;
                word as f64 / (1u64 << 52) as f64 - 1.0
            });
            flat = way.iter().map(|axis| axis * axis).sum::<f64>().sqrt().max(1e-6);
        }
        let force = PULL * weight * (rtt - apart);
        // In the height space the unit vector's height is the sum of both heights over the norm.
        let lift = (self.place.height + theirs.height) / apart.max(1.0);
        for (axis, way) in self.place.axes.iter_mut().zip(way) {
            *axis = (*axis + force * way / flat).clamp(-RADIUS_MAX, RADIUS_MAX);
        }
        self.place.height = (self.place.height + force * lift).clamp(HEIGHT_MIN, RADIUS_MAX);
    }

    /// As it is told to others.
    pub fn coordinate(&self) -> Coordinate {
        Coordinate {
            axes: self.place.axes.map(|axis| axis as i32), // Within RADIUS_MAX.
            height: self.place.height as u32,
            error: (self.error * f64::from(u16::MAX)) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::rng::Rng;

    #[test]
    fn round_trips_between_eight_regions_are_learnt_within_a_few_hundred_samples() {
        let seed = 11;
        eprintln!("seed {seed}");
        let mut rng = Rng::new(seed);
        let site =
            |n: usize| (f64::from((n % 4) as u32) * 40e3, f64::from((n / 4 % 2) as u32) * 60e3);
        let rtt = |a: usize, b: usize| {
            let ((ax, ay), (bx, by)) = (site(a), site(b));
            Duration::from_micros(4_000 + ((ax - bx).powi(2) + (ay - by).powi(2)).sqrt() as u64)
        };
        let mut peers = vec![Position::default(); 64];
        for _ in 0..64 * 300 {
            let (a, b) = (rng.below(64), rng.below(64));
            let theirs = peers[b].coordinate();
            if a != b {
                peers[a].observe(rtt(a, b), &theirs);
            }
        }
        let mut errors: Vec<f64> = (0..64 * 64)
            .map(|n| (n / 64, n % 64))
            .filter(|(a, b)| a != b)
            .map(|(a, b)| {
                let guess = peers[a].coordinate().distance(&peers[b].coordinate()).as_secs_f64();
                let truth = rtt(a, b).as_secs_f64();
                (guess - truth).abs() / truth
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < 0.15, "median error {}", errors[errors.len() / 2]);
    }

    #[test]
    fn a_coordinate_is_small_and_a_lie_moves_nobody_off_the_map() {
        let lie = Coordinate { axes: [i32::MIN, i32::MAX, i32::MIN], height: u32::MAX, error: 0 };
        let bytes = encode(&lie);
        assert!(bytes.len() <= 23, "{}", bytes.len());
        assert_eq!(decode::<Coordinate>(&bytes), Ok(lie));
        let mut own = Position::default();
        (0..1_000).for_each(|_| own.observe(Duration::from_millis(3), &lie));
        let reach = own.coordinate().distance(&Coordinate::default());
        assert!(reach < Duration::from_secs(8), "{reach:?}");
        let real = Coordinate { axes: [-60_000, 60_000, 30_000], height: 9_000, error: 9_000 };
        assert!(encode(&real).len() <= 20);
    }
}
