//! Round trips between regions: from their coordinates, or from a file of measurements.
//!
//! The model is 4 ms and 1 ms for each 70 km of the great circle: light in fibre needs 1 ms of
//! round trip for 100 km, and cables are 1.4 times as long as the circle. Against the 45 pairs of
//! IBM Cloud's published averages (ten regions, 25 August 2024) its median error is 7 %; nine of
//! ten are within 41 %. It is worst, down to 0.58 of the truth, where no cable goes the short way:
//! Europe to Japan, South America to Australia. Who needs those pairs right gives a matrix.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Milliseconds of a round trip within a place.
const BASE_MS: f64 = 4.0;
/// Kilometres of great circle in each further millisecond of a round trip.
const KM_PER_MS: f64 = 70.0;
/// The Earth's mean radius in kilometres.
const EARTH_KM: f64 = 6_371.0;

/// Kilometres between two places, given as latitude and longitude in degrees.
pub fn distance_km(a: [f64; 2], b: [f64; 2]) -> f64 {
    let radians = |degrees: f64| degrees / 180.0 * std::f64::consts::PI;
    let half_sine = |from: f64, to: f64| {
        let sine = libm::sin(radians(to - from) / 2.0);
        sine * sine
    };
    let across = libm::cos(radians(a[0])) * libm::cos(radians(b[0])) * half_sine(a[1], b[1]);
    let haversine = (half_sine(a[0], b[0]) + across).min(1.0);
    2.0 * EARTH_KM * libm::asin(haversine.sqrt())
}

/// Milliseconds of a round trip between two places, by the model.
pub fn round_trip_ms(a: [f64; 2], b: [f64; 2]) -> f64 {
    BASE_MS + distance_km(a, b) / KM_PER_MS
}

/// Round trips between all regions of a scenario, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundTrips(Vec<Vec<f64>>);

/// Why a matrix cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// It cannot be read.
    #[error("{}: {error}; `links.matrix` is relative to the scenario's folder", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{}:{line}: {problem}; {fix}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
        /// What to do.
        fix: &'static str,
    },
}

impl RoundTrips {
    /// By the model.
    pub fn of_places(places: &[[f64; 2]]) -> Self {
        let row = |a: &[f64; 2]| places.iter().map(|b| round_trip_ms(*a, *b)).collect();
        Self(places.iter().map(row).collect())
    }

    /// From a CSV file whose first row and first column name the regions. It may hold more regions
    /// than `names`, and a pair may be in it once; an empty field within a region is the model's.
    pub fn read(file: &Path, names: &[&str]) -> Result<Self, MatrixError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| MatrixError::Read { file: file.to_owned(), error })?;
        let fault =
            |line, problem, fix| MatrixError::Line { file: file.to_owned(), line, problem, fix };
        let mut lines = text.lines().map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
        let header = lines.next().unwrap_or_default();
        let mut trips = vec![vec![None; names.len()]; names.len()];
        for (index, fields) in lines.enumerate() {
            let Some(row) = names.iter().position(|name| *name == fields[0]) else { continue };
            for (name, field) in header.iter().zip(&fields).skip(1) {
                let Some(column) = names.iter().position(|known| known == name) else { continue };
                if field.is_empty() {
                    continue;
                }
                let ms = field.parse::<f64>().ok().filter(|ms| *ms >= 0.0 && ms.is_finite());
                let Some(ms) = ms else {
                    let problem = format!("`{field}` is no round trip to `{name}`");
                    return Err(fault(index + 2, problem, "write milliseconds, such as 81.5"));
                };
                trips[row][column] = Some(ms);
            }
        }
        let mut matrix = Vec::new();
        for row in 0..names.len() {
            let mut filled = Vec::new();
            for column in 0..names.len() {
                let within = (row == column).then_some(BASE_MS);
                let Some(ms) = trips[row][column].or(trips[column][row]).or(within) else {
                    let problem = format!("no round trip of {} and {}", names[row], names[column]);
                    let fix = "add a row and a column for each [[region]], by its name";
                    return Err(fault(1, problem, fix));
                };
                filled.push(ms);
            }
            matrix.push(filled);
        }
        Ok(Self(matrix))
    }

    /// Half of each: one way.
    pub fn one_way(&self) -> Vec<Vec<Duration>> {
        let half = |ms: &f64| Duration::from_secs_f64(ms / 2_000.0);
        self.0.iter().map(|row| row.iter().map(half).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some of IBM Cloud's published averages of 27 July to 25 August 2024, in milliseconds.
    const PUBLISHED: [([f64; 2], [f64; 2], f64); 8] = [
        ([50.1, 8.7], [38.9, -77.0], 91.0),     // Frankfurt, Washington
        ([51.5, -0.1], [50.1, 8.7], 13.0),      // London, Frankfurt
        ([32.8, -96.8], [38.9, -77.0], 31.0),   // Dallas, Washington
        ([32.8, -96.8], [35.7, 139.7], 143.0),  // Dallas, Tokyo
        ([-33.9, 151.2], [35.7, 139.7], 115.0), // Sydney, Tokyo
        ([-23.5, -46.6], [38.9, -77.0], 119.0), // São Paulo, Washington
        ([50.1, 8.7], [-33.9, 151.2], 250.0),   // Frankfurt, Sydney
        ([51.5, -0.1], [40.4, -3.7], 27.0),     // London, Madrid
    ];

    #[test]
    fn the_model_is_near_what_clouds_publish() {
        for (a, b, published) in PUBLISHED {
            let ratio = round_trip_ms(a, b) / published;
            assert!((0.8..1.1).contains(&ratio), "{a:?} {b:?}: {ratio}");
        }
    }

    #[test]
    fn a_matrix_names_its_regions_in_any_order_and_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rtt.csv");
        std::fs::write(&file, ",b,c,a\na,80,9,\nb,6,9,\n").unwrap();
        let trips = RoundTrips::read(&file, &["a", "b"]).unwrap();
        assert_eq!(trips, RoundTrips(vec![vec![4.0, 80.0], vec![80.0, 6.0]]));
        let error = RoundTrips::read(&file, &["a", "d"]).unwrap_err().to_string();
        assert!(error.contains("rtt.csv:1: no round trip of a and d; add a row"), "{error}");
        std::fs::write(&file, ",a,b\na,4,much\n").unwrap();
        let error = RoundTrips::read(&file, &["a", "b"]).unwrap_err().to_string();
        assert!(error.contains("rtt.csv:2: `much` is no round trip to `b`"), "{error}");
    }
}
