//! Protobuf's wire format: a reader over bytes that may be anything, and a writer. The reader keeps
//! nothing, allocates nothing, never reads twice; what a field means is the caller's to know.
//!
//! Hand-written rather than derived: the scan must see every occurrence of every field, also those
//! that a merging decoder would fold away, and must not build the message to do so.

/// Why bytes are not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A number or a field goes on past the end.
    #[error("it is cut off")]
    Truncated,
    /// More than ten bytes, or a tag or length past 32 bits.
    #[error("a number is too long")]
    Varint,
    /// Field number 0, or a wire type that ONNX does not use.
    #[error("a field has an unknown wire type")]
    Tag,
}

/// A field's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire types 1 and 5: eight or four bytes, little-endian.
    Fixed(&'a [u8]),
    /// Wire type 2: a message, a string, packed numbers.
    Bytes(&'a [u8]),
}

/// Reads a message field by field.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Over the encoding of one message.
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let tag = u32::try_from(self.varint(5)?).map_err(|_| WireError::Varint)?;
        let number = tag >> 3;
        if number == 0 {
            return Err(WireError::Tag);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(10)?),
            1 => Value::Fixed(self.take(8)?),
            5 => Value::Fixed(self.take(4)?),
            2 => {
                let length = u32::try_from(self.varint(5)?).map_err(|_| WireError::Varint)?;
                Value::Bytes(self.take(length as usize)?)
            }
            _ => return Err(WireError::Tag),
        };
        Ok((number, value))
    }

    fn varint(&mut self, bytes_max: usize) -> Result<u64, WireError> {
        let mut number = 0;
        for index in 0..bytes_max {
            let [byte] = *self.take(1)? else { unreachable!("one byte was taken") };
            // The tenth byte holds one bit; decoders drop what lies above.
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(WireError::Varint)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Packed varints, as `dims` may come.
pub(crate) fn packed(bytes: &[u8]) -> impl Iterator<Item = Result<u64, WireError>> {
    let mut fields = Fields { rest: bytes };
    std::iter::from_fn(move || {
        if fields.rest.is_empty() {
            return None;
        }
        let number = fields.varint(10);
        if number.is_err() {
            fields.rest = &[];
        }
        Some(number)
    })
}

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Its encoding.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Adds a number.
    pub(crate) fn varint(&mut self, field: u32, number: u64) {
        self.field(field, Value::Varint(number));
    }

    /// Adds a string, a message, packed numbers.
    pub(crate) fn bytes(&mut self, field: u32, bytes: impl AsRef<[u8]>) {
        self.field(field, Value::Bytes(bytes.as_ref()));
    }

    /// Adds a field as it was read.
    pub(crate) fn field(&mut self, field: u32, value: Value<'_>) {
        let wire_type = match value {
            Value::Varint(_) => 0,
            Value::Fixed(bytes) => {
                if bytes.len() == 8 {
                    1
                } else {
                    5
                }
            }
            Value::Bytes(_) => 2,
        };
        self.number(u64::from(field) << 3 | wire_type);
        match value {
            Value::Varint(number) => self.number(number),
            Value::Fixed(bytes) => self.0.extend_from_slice(bytes),
            Value::Bytes(bytes) => {
                self.number(bytes.len() as u64);
                self.0.extend_from_slice(bytes);
            }
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, WireError> {
        Fields::new(bytes).collect()
    }

    #[test]
    fn each_wire_type_is_read() {
        let fields = read(b"\x08\x96\x01\x12\x02hi\x1d\0\0\0\0\x21\0\0\0\0\0\0\0\0").unwrap();
        assert_eq!(fields[..2], [(1, Value::Varint(150)), (2, Value::Bytes(b"hi"))]);
        assert_eq!(fields[2..], [(3, Value::Fixed(&[0; 4])), (4, Value::Fixed(&[0; 8]))]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let fields = [
            (1, Value::Varint(u64::MAX)),
            (16, Value::Bytes(b"hi")),
            (3, Value::Fixed(&[1; 4])),
            (4, Value::Fixed(&[2; 8])),
        ];
        let mut message = Message::default();
        fields.iter().for_each(|(field, value)| message.field(*field, *value));
        assert_eq!(read(&message.into_bytes()).unwrap(), fields);
    }

    #[test]
    fn what_is_no_protobuf_is_said_so() {
        assert_eq!(read(b"\x12\x03hi"), Err(WireError::Truncated));
        assert_eq!(read(b"\x08"), Err(WireError::Truncated));
        assert_eq!(read(b"\x0b"), Err(WireError::Tag));
        assert_eq!(read(b"\x00\x00"), Err(WireError::Tag));
        assert_eq!(read(&[0x88, 0x80, 0x80, 0x80, 0x80, 0x01]), Err(WireError::Varint));
        assert_eq!(read(&[&[0x08][..], &[0xff; 10]].concat()), Err(WireError::Varint));
        assert_eq!(read(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x7f]), Err(WireError::Varint));
    }

    proptest! {
        #[test]
        fn random_bytes_end_and_stay_inside(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let read: usize = Fields::new(&bytes)
                .map_while(Result::ok)
                .map(|(_, value)| if let Value::Bytes(bytes) = value { bytes.len() } else { 1 })
                .sum();
            prop_assert!(read <= bytes.len());
        }
    }
}
