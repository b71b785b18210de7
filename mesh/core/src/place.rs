//! Where a peer stands: ISO 3166-1 countries, ISO 3166-2 subdivisions and named groups of them.

use serde::Serialize;

use crate::codec::{Decode, Encode};

/// A country (`DE`) or one of its subdivisions (`DE-BE`). A country covers its subdivisions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Encode, Decode, Serialize)]
pub struct Place(String);

/// A text that is no ISO 3166 code.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a place: expected an ISO 3166 code such as DE or DE-BE, in capitals")]
pub struct PlaceError(pub String);

impl Place {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The country of the place: itself, or the country of a subdivision.
    pub fn country(&self) -> &str {
        &self.0[..2]
    }

    /// Whether `other` lies in this place.
    pub fn covers(&self, other: &Place) -> bool {
        self == other || (self.0.len() == 2 && other.country() == self.0)
    }
}
