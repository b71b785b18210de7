//! What light says of where a peer is: an answer within a round trip of t ms to a question that
//! nobody could guess comes from within 149.9 km × t, since nothing is faster than light in vacuum.
//!
//! It refutes and never proves. Whoever answers can be as slow as it likes, and a relay or a VPN only
//! adds delay: a peer that is measured near may not claim to be far, but one that is far may claim
//! anything that its delay does not exclude. In fibre light makes about 100 km per ms of round trip,
//! so that a lie of less than a third of the way is not found even on a straight cable; on ways of
//! the internet it is more. Countries are known as circles (`places.txt`): 570 km around the middle of
//! DE, 4,580 km for the US with Alaska and Hawaii, so that nothing is said of neighbours. Earth is
//! taken for a sphere, 0.6 % allowed for. A peer's own place is what its own charter says: one that is
//! itself elsewhere finds honest peers contradicted. Measuring is the host's.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;

use crate::limits::ECHOES_MIN;
use crate::place::Place;

/// How far one can be, in km, for each ms of round trip: half of what light in vacuum makes in it.
pub const KM_PER_MS: f64 = 149.9;

const EARTH_RADIUS_KM: f64 = 6_371.0;
/// A sphere's distances may be too long by so much, as a share.
const SPHERE_ERROR: f64 = 0.006;

/// The fastest of a peer's echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Echoes {
    /// The fastest round trip.
    pub fastest: Duration,
    /// How many there were.
    pub count: u32,
}

/// What echoes say of a peer's claimed place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Nothing: too few echoes, or no place is claimed that a circle is known of.
    #[default]
    None,
    /// It could be where it says.
    Plausible,
    /// It cannot be where it says.
    Contradicted,
}

impl Echoes {
    /// These and one more.
    pub fn and(self, rtt: Duration) -> Self {
        Self { fastest: self.fastest.min(rtt), count: self.count.saturating_add(1) }
    }

    /// How far whoever answered can be, in km.
    pub fn reach_km(self) -> f64 {
        self.fastest.as_secs_f64() * 1_000.0 * KM_PER_MS
    }
}

impl Evidence {
    /// What `echoes` of a peer that claims to be in `claimed` say, as measured from `own`.
    pub fn of(own: &Place, claimed: &Place, echoes: Option<Echoes>) -> Self {
        let echoes = echoes.filter(|echoes| echoes.count >= ECHOES_MIN);
        match (echoes, apart_km(own, claimed)) {
            (Some(echoes), Some(apart)) if apart > echoes.reach_km() => Self::Contradicted,
            (Some(_), Some(_)) => Self::Plausible,
            _ => Self::None,
        }
    }
}

/// The least that lies between two places, in km; none if a circle of one is not known.
pub fn apart_km(a: &Place, b: &Place) -> Option<f64> {
    let (a, b) = (circle(a)?, circle(b)?);
    Some((between_km(a, b) * (1.0 - SPHERE_ERROR) - a.radius_km - b.radius_km).max(0.0))
}

#[derive(Clone, Copy, Debug)]
struct Circle {
    latitude: f64,
    longitude: f64,
    radius_km: f64,
}

fn between_km(a: Circle, b: Circle) -> f64 {
    let (a_lat, b_lat) = (a.latitude.to_radians(), b.latitude.to_radians());
    let (north, east) = ((a_lat - b_lat) / 2.0, (a.longitude - b.longitude).to_radians() / 2.0);
    let h = north.sin().powi(2) + a_lat.cos() * b_lat.cos() * east.sin().powi(2);
    2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
}

/// The circle of a place, or else of its country.
fn circle(place: &Place) -> Option<Circle> {
    static CIRCLES: OnceLock<BTreeMap<&str, Circle>> = OnceLock::new();
    let circles = CIRCLES.get_or_init(|| {
        let lines = include_str!("places.txt").lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| read(line).expect("a line of places.txt is one")).collect()
    });
    circles.get(place.as_str()).or_else(|| circles.get(place.country())).copied()
}

fn read(line: &'static str) -> Option<(&'static str, Circle)> {
    let mut words = line.split(' ');
    let code = words.next()?;
    let mut number = || words.next()?.parse().ok();
    Some((code, Circle { latitude: number()?, longitude: number()?, radius_km: number()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(code: &str) -> Place {
        code.parse().unwrap()
    }

    fn echoes(ms: f64, count: u32) -> Option<Echoes> {
        Some(Echoes { fastest: Duration::from_secs_f64(ms / 1_000.0), count })
    }

    #[test]
    fn every_circle_is_of_a_place_and_on_earth() {
        for line in include_str!("places.txt").lines().filter(|line| !line.starts_with('#')) {
            let (code, circle) = read(line).unwrap();
            place(code);
            assert!(circle.latitude.abs() <= 90.0 && circle.longitude.abs() <= 180.0, "{line}");
            assert!((100.0..6_000.0).contains(&circle.radius_km), "{line}");
        }
    }

    #[test]
    fn a_peer_that_answers_too_soon_is_not_where_it_says() {
        let (de, sg) = (place("DE"), place("SG"));
        let apart = apart_km(&de, &sg).unwrap();
        assert!((9_000.0..10_000.0).contains(&apart), "{apart}"); // 10,300 km less two radii.
        let of = |ms, count| Evidence::of(&de, &sg, echoes(ms, count));
        assert_eq!(of(20.0, 10), Evidence::Contradicted);
        assert_eq!(of(160.0, 10), Evidence::Plausible);
        assert_eq!(of(20.0, 9), Evidence::None); // Too few.
        assert_eq!(Evidence::of(&de, &sg, None), Evidence::None);
        assert_eq!(Evidence::of(&de, &place("AQ"), echoes(0.1, 99)), Evidence::None);
        assert_eq!(Evidence::of(&de, &place("FR"), echoes(0.1, 99)), Evidence::Plausible);
        assert_eq!(Evidence::of(&de, &place("DE-BE"), echoes(0.1, 99)), Evidence::Plausible);
        assert_eq!(Evidence::of(&de, &place("US-VA"), echoes(9.0, 99)), Evidence::Contradicted);
    }

    proptest::proptest! {
        /// Whoever stands where it says, in the middle of a circle or at its edge, is never
        /// contradicted, whatever detours its packets take.
        #[test]
        fn the_honest_are_never_contradicted(
            a in 0usize..290, b in 0usize..290, detour in 1.0f64..5.0, shift in 0.0f64..1.0,
        ) {
            let lines = include_str!("places.txt").lines().filter(|line| !line.starts_with('#'));
            let known: Vec<_> = lines.map(|line| read(line).unwrap()).collect();
            let ((from, one), (to, two)) = (known[a], known[b]);
            // From anywhere in one circle to anywhere in the other it is as far as this at least.
            let least = between_km(one, two) - (one.radius_km + two.radius_km) * shift;
            let ms = least.max(0.0) * detour / KM_PER_MS;
            let found = Evidence::of(&place(from), &place(to), echoes(ms, 10));
            proptest::prop_assert_ne!(found, Evidence::Contradicted);
        }

        /// More echoes only tell more: what was contradicted stays so.
        #[test]
        fn an_echo_more_never_clears(ms in 0.1f64..200.0, more in 0.1f64..200.0) {
            let (de, au) = (place("DE"), place("AU"));
            let before = echoes(ms, 10);
            let after = before.map(|held| held.and(Duration::from_secs_f64(more / 1_000.0)));
            proptest::prop_assert!(Evidence::of(&de, &au, after) >= Evidence::of(&de, &au, before));
        }
    }
}
