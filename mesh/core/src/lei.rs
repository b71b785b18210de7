//! Legal entity identifiers (ISO 17442): which entry of which register a legal name means.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::codec::{Decode, Encode};

/// Characters of an identifier, the two check digits among them.
const LENGTH: usize = 20;

/// A legal entity identifier: twenty capitals and digits, of which the last two check the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Lei([u8; LENGTH]);

/// A text that is no identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeiError {
    /// Not of the form.
    #[error("`{0}` is not a legal entity identifier: expected 18 capitals or digits and 2 digits")]
    Form(String),
    /// A character of it is mistyped.
    #[error(
        "`{0}` is not a legal entity identifier: its check digits do not fit; was it mistyped?"
    )]
    Check(String),
}

impl Lei {
    /// The identifier as text; nothing, if it came off the wire and is no text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether it is one: what came off the wire need not be.
    pub fn is_valid(&self) -> bool {
        self.as_str().parse::<Self>().is_ok()
    }
}

impl FromStr for Lei {
    type Err = LeiError;
    fn from_str(text: &str) -> Result<Self, LeiError> {
        let form = || LeiError::Form(text.to_owned());
        let bytes: [u8; LENGTH] = text.as_bytes().try_into().map_err(|_| form())?;
        let (body, check) = bytes.split_at(LENGTH - 2);
        let is_body = body.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !is_body || !check.iter().all(u8::is_ascii_digit) {
            return Err(form());
        }
        // ISO 7064, MOD 97-10: a letter counts as the two digits of 10 to 35.
        let rest = bytes.iter().fold(0u32, |rest, b| match b {
            b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
            _ => (rest * 100 + 10 + u32::from(b - b'A')) % 97,
        });
        if rest == 1 { Ok(Self(bytes)) } else { Err(LeiError::Check(text.to_owned())) }
    }
}

impl fmt::Display for Lei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Lei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Lei {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_are_in_the_register_are_read() {
        // GLEIF's own, and a bank's.
        for text in ["506700GE1G29325QX363", "7LTWFZYICNSX8D621K86"] {
            let lei: Lei = text.parse().unwrap();
            assert_eq!((lei.to_string().as_str(), lei.is_valid()), (text, true));
        }
    }

    #[test]
    fn every_digit_or_letter_that_is_mistyped_as_another_is_found() {
        let good = "506700GE1G29325QX363";
        for at in 0..LENGTH {
            for other in ('0'..='9').chain('A'..='Z') {
                let mut text: Vec<char> = good.chars().collect();
                let was = std::mem::replace(&mut text[at], other);
                let text: String = text.into_iter().collect();
                // Two check digits cannot tell of all that a letter for a digit changes.
                if was != other && was.is_ascii_digit() == other.is_ascii_digit() {
                    assert!(text.parse::<Lei>().is_err(), "{text}");
                }
            }
        }
        for bad in
            ["", "506700GE1G29325QX36", "506700ge1g29325qx363", "506700GE1G29325QX3630", "ÄÖ"]
        {
            assert!(matches!(bad.parse::<Lei>(), Err(LeiError::Form(_))), "{bad}");
        }
        assert!(!Lei([0xff; LENGTH]).is_valid());
    }
}
