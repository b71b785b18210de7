//! The one place that names bincode: how every structure of the wire becomes bytes and comes back.
//!
//! Little-endian varints (bincode 2 `standard`). Decoding is bounded by a byte limit that also
//! bounds allocation, and refuses trailing bytes. Tensors never pass through here.

pub use bincode::{Decode, Encode};

use crate::limits::FRAME_BYTES_MAX;

/// Why bytes are not the structure that was asked for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// Longer than the limit for any structure.
    #[error("{bytes} bytes, the limit is {FRAME_BYTES_MAX}")]
    TooLong {
        /// The length that was offered.
        bytes: usize,
    },
    /// Cut short, or not such a structure.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The structure ended before the bytes did.
    #[error("{0} bytes follow the structure")]
    Trailing(usize),
}

/// Encodes `value`. Encoding into memory cannot fail for the types of this crate.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard())
        .expect("the types of the wire encode into memory")
}

/// The same, behind what `bytes` holds: for what is made so often that to count its bytes first
/// costs more than room that is left over.
pub fn encode_onto<T: Encode>(bytes: &mut Vec<u8>, value: &T) {
    bincode::encode_into_std_write(value, bytes, bincode::config::standard())
        .expect("the types of the wire encode into memory");
}

/// How many bytes [`encode`] makes of `value`.
pub fn encoded_len<T: Encode>(value: &T) -> usize {
    let mut size = bincode::enc::write::SizeWriter::default();
    bincode::encode_into_writer(value, &mut size, bincode::config::standard())
        .expect("the types of the wire encode into memory");
    size.bytes_written
}

/// Decodes the whole of `bytes`, which must not be longer than [`FRAME_BYTES_MAX`].
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLong { bytes: bytes.len() });
    }
    // The limit counts claimed memory, not only bytes read: 16 times covers the widest element
    // of any list here against its shortest encoding.
    let config = bincode::config::standard().with_limit::<{ 16 * FRAME_BYTES_MAX }>();
    let (value, used) = bincode::decode_from_slice(bytes, config)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(CodecError::Trailing(rest)),
    }
}

/// Decodes the structure at the head of `bytes` and leaves what follows unread.
pub fn decode_head<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<{ 16 * FRAME_BYTES_MAX }>();
    let (value, _) = bincode::decode_from_slice(bytes, config)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_is_an_error_and_not_an_allocation() {
        // A nine-byte frame that claims 2^62 strings.
        let mut bytes = vec![253];
        bytes.extend((1u64 << 62).to_le_bytes());
        assert!(matches!(decode::<Vec<String>>(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn bytes_after_the_structure_are_refused() {
        let mut bytes = encode(&7u32);
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(CodecError::Trailing(1)));
    }
}
