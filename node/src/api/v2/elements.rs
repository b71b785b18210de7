//! Elements of tensors as JSON text, both ways, without a JSON value per element: a request may
//! hold tens of millions. Shapes and names are the callers' matter.

use std::io::Write;

use hansa_core::limits::RANK_MAX;
use hansa_runtime::floats::{brain, half};
use hansa_runtime::tensor::{DType, Tensor};
use serde_json::Value;

/// Reads the `data` of a JSON tensor into little-endian bytes: flat, or nested as its shape is.
///
/// `text` is one valid JSON value (serde_json has skipped over it). `count` is what the shape
/// makes; nothing is allocated by it before `text` is seen to be long enough to hold as many.
pub(super) fn read(
    text: &str,
    dtype: DType,
    shape: &[u64],
    count: usize,
) -> Result<Vec<u8>, String> {
    if matches!(dtype, DType::Fp16 | DType::Bf16) {
        return Err(format!(
            "{dtype} has no form in JSON; send it with the binary tensor extension"
        ));
    }
    if !text.starts_with('[') {
        return Err("data is not an array".into());
    }
    let elements_max = text.len() / 2; // Each element takes a character and a comma or bracket.
    if count > elements_max {
        return Err(format!("its shape makes {count} elements, its data holds fewer"));
    }
    let mut data = Vec::with_capacity(count * dtype.size().unwrap_or(4));
    let mut cursor = Cursor { text, at: 0 };
    let mut nesting = Nesting::new(shape, count);
    let mut found = 0;
    while let Some(token) = cursor.next_token()? {
        match token {
            Token::Open => nesting.open()?,
            Token::Close => nesting.close()?,
            Token::Element(element) => {
                if found == count {
                    return Err(format!("its shape makes {count} elements, its data holds more"));
                }
                nesting.element()?;
                push(&mut data, dtype, element).map_err(|r| format!("element {found}: {r}"))?;
                found += 1;
            }
        }
    }
    if found == count {
        Ok(data)
    } else {
        Err(format!("its shape makes {count} elements, its data holds {found}"))
    }
}

enum Token<'a> {
    Open,
    Close,
    Element(&'a str),
}

/// A place in text that is known to be JSON.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn next_token(&mut self) -> Result<Option<Token<'a>>, String> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(|b| b.is_ascii_whitespace() || *b == b',') {
            self.at += 1;
        }
        let start = self.at;
        let Some(first) = bytes.get(start) else { return Ok(None) };
        self.at += 1;
        match first {
            b'[' => return Ok(Some(Token::Open)),
            b']' => return Ok(Some(Token::Close)),
            b'{' => return Err("data is an array of elements, not of objects".into()),
            b'"' => loop {
                self.at += match bytes.get(self.at) {
                    None => return Err("a string does not end".into()),
                    Some(b'"') => break self.at += 1,
                    Some(b'\\') => 2,
                    Some(_) => 1,
                };
            },
            _ => {
                let ends = |b: &u8| b.is_ascii_whitespace() || b",[]".contains(b);
                while bytes.get(self.at).is_some_and(|b| !ends(b)) {
                    self.at += 1;
                }
            }
        }
        let element = self.text.get(start..self.at).ok_or("a string does not end")?;
        Ok(Some(Token::Element(element)))
    }
}

/// Whether brackets are where the shape has them. Flat data has one pair, whatever the shape.
struct Nesting<'a> {
    shape: &'a [u64],
    count: u64,
    /// Children seen so far of each list that is open.
    open: Vec<u64>,
    /// How deep elements lie, once one has been seen.
    depth: Option<usize>,
    /// Whether a list was closed inside another.
    nested: bool,
}

impl<'a> Nesting<'a> {
    fn new(shape: &'a [u64], count: usize) -> Self {
        Self { shape, count: count as u64, open: Vec::new(), depth: None, nested: false }
    }

    fn misfit(&self) -> String {
        format!("its data is nested in another way than its shape {:?}", self.shape)
    }

    fn open(&mut self) -> Result<(), String> {
        if let Some(children) = self.open.last_mut() {
            *children += 1;
            self.nested = true;
        }
        if self.open.len() >= self.shape.len().clamp(1, RANK_MAX) {
            return Err(self.misfit());
        }
        self.open.push(0);
        Ok(())
    }

    fn element(&mut self) -> Result<(), String> {
        let depth = self.open.len();
        if *self.depth.get_or_insert(depth) != depth {
            return Err(self.misfit());
        }
        if let Some(children) = self.open.last_mut() {
            *children += 1;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let level = self.open.len().checked_sub(1).ok_or_else(|| self.misfit())?;
        let children = self.open.pop().unwrap_or_default();
        let flat = level == 0 && !self.nested;
        let wanted = if flat { self.count } else { *self.shape.get(level).unwrap_or(&0) };
        // The flat form's count is checked, and told, by the reader.
        let fits = flat || children == wanted;
        let deep = self.depth.is_none_or(|depth| !self.nested || depth == self.shape.len());
        if fits && deep { Ok(()) } else { Err(self.misfit()) }
    }
}

/// Appends one element.
fn push(data: &mut Vec<u8>, dtype: DType, text: &str) -> Result<(), String> {
    match dtype {
        DType::Bool => data.push(match text {
            "true" => 1,
            "false" => 0,
            _ => return Err(format!("`{}` is not true or false", clip(text))),
        }),
        DType::Int8 => data.extend(integer::<i8>(text, dtype)?.to_le_bytes()),
        DType::Int16 => data.extend(integer::<i16>(text, dtype)?.to_le_bytes()),
        DType::Int32 => data.extend(integer::<i32>(text, dtype)?.to_le_bytes()),
        DType::Int64 => data.extend(integer::<i64>(text, dtype)?.to_le_bytes()),
        DType::Uint8 => data.extend(integer::<u8>(text, dtype)?.to_le_bytes()),
        DType::Uint16 => data.extend(integer::<u16>(text, dtype)?.to_le_bytes()),
        DType::Uint32 => data.extend(integer::<u32>(text, dtype)?.to_le_bytes()),
        DType::Uint64 => data.extend(integer::<u64>(text, dtype)?.to_le_bytes()),
        DType::Fp32 => {
            let value = number::<f32>(text)?;
            check_range(value.is_finite(), text, dtype)?;
            data.extend(value.to_le_bytes());
        }
        DType::Fp64 => {
            let value = number::<f64>(text)?;
            check_range(value.is_finite(), text, dtype)?;
            data.extend(value.to_le_bytes());
        }
        DType::Bytes => {
            let string: String = serde_json::from_str(text)
                .map_err(|_| format!("`{}` is not a string", clip(text)))?;
            let length = u32::try_from(string.len()).map_err(|_| "a string of 4 GiB or more")?;
            data.extend(length.to_le_bytes());
            data.extend(string.as_bytes());
        }
        DType::Fp16 | DType::Bf16 => return Err(format!("{dtype} has no form in JSON")),
    }
    Ok(())
}

/// An integer, also one that is written as a float (`3.0`, `1e3`): JSON knows only numbers.
fn integer<T: std::str::FromStr + TryFrom<i128>>(text: &str, dtype: DType) -> Result<T, String> {
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    let outside = || format!("`{}` is outside the range of {dtype}", clip(text));
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return Err(if text.is_empty() { "no number".into() } else { outside() });
    }
    let value = number::<f64>(text)?;
    if value.fract() != 0.0 {
        return Err(format!("`{}` is not a whole number, and the datatype is {dtype}", clip(text)));
    }
    // Above 2^53 neighbours among the floats are whole numbers apart, and none is surely meant.
    if value.abs() > 2f64.powi(53) {
        return Err(outside());
    }
    #[allow(clippy::cast_possible_truncation)] // Whole and below 2^53.
    T::try_from(value as i128).map_err(|_| outside())
}

/// A number of JSON; not the words that Rust's parser would take as well.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let fault = || format!("`{}` is not a number", clip(text));
    let starts = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    if starts && digits { text.parse().map_err(|_| fault()) } else { Err(fault()) }
}

fn check_range(finite: bool, text: &str, dtype: DType) -> Result<(), String> {
    if finite {
        return Ok(());
    }
    Err(format!("`{}` is outside the range of {dtype}", clip(text)))
}

/// The start of a text, for messages.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(32)]
}

/// One element as it is said in JSON.
enum Element<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Fp32(f32),
    Fp64(f64),
    Bytes(&'a [u8]),
}

/// The elements of a tensor; a cut one at the end is left out.
fn elements(tensor: &Tensor) -> impl Iterator<Item = Element<'_>> {
    let dtype = tensor.dtype;
    let mut rest = &tensor.data[..];
    std::iter::from_fn(move || {
        let size = match dtype.size() {
            Some(size) => size,
            None => {
                let (length, tail) = rest.split_first_chunk()?;
                rest = tail;
                usize::try_from(u32::from_le_bytes(*length)).ok()?
            }
        };
        let (bytes, tail) = rest.split_at_checked(size)?;
        rest = tail;
        element(dtype, bytes)
    })
}

fn element(dtype: DType, bytes: &[u8]) -> Option<Element<'_>> {
    fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
    Some(match dtype {
        DType::Bool => Element::Bool(le::<1>(bytes)? != [0]),
        DType::Int8 => Element::Int(i8::from_le_bytes(le(bytes)?).into()),
        DType::Int16 => Element::Int(i16::from_le_bytes(le(bytes)?).into()),
        DType::Int32 => Element::Int(i32::from_le_bytes(le(bytes)?).into()),
        DType::Int64 => Element::Int(i64::from_le_bytes(le(bytes)?)),
        DType::Uint8 => Element::Uint(u8::from_le_bytes(le(bytes)?).into()),
        DType::Uint16 => Element::Uint(u16::from_le_bytes(le(bytes)?).into()),
        DType::Uint32 => Element::Uint(u32::from_le_bytes(le(bytes)?).into()),
        DType::Uint64 => Element::Uint(u64::from_le_bytes(le(bytes)?)),
        DType::Fp16 => Element::Fp32(half(u16::from_le_bytes(le(bytes)?))),
        DType::Bf16 => Element::Fp32(brain(u16::from_le_bytes(le(bytes)?))),
        DType::Fp32 => Element::Fp32(f32::from_le_bytes(le(bytes)?)),
        DType::Fp64 => Element::Fp64(f64::from_le_bytes(le(bytes)?)),
        DType::Bytes => Element::Bytes(bytes),
    })
}

/// Writes the elements as a flat JSON array. What JSON cannot say is an error: a number that is
/// not finite, a byte string that is not text.
pub(super) fn write(tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), &'static str> {
    const NOT_FINITE: &str = "holds NaN or infinity, which JSON cannot say";
    out.push(b'[');
    for (index, element) in elements(tensor).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let written = match element {
            Element::Bool(value) => write!(out, "{value}"),
            Element::Int(value) => write!(out, "{value}"),
            Element::Uint(value) => write!(out, "{value}"),
            // Debug is the shortest text that reads back to the same bits, as JSON wants it.
            Element::Fp32(value) if value.is_finite() => write!(out, "{value:?}"),
            Element::Fp64(value) if value.is_finite() => write!(out, "{value:?}"),
            Element::Fp32(_) | Element::Fp64(_) => return Err(NOT_FINITE),
            Element::Bytes(bytes) => {
                let text =
                    std::str::from_utf8(bytes).map_err(|_| "holds bytes that are no text")?;
                serde_json::to_writer(&mut *out, text).map_err(Into::into)
            }
        };
        written.expect("memory takes what is written");
    }
    out.push(b']');
    Ok(())
}

/// The first `most` elements for people to look at: never an error, so `"NaN"` and the infinities
/// are strings and bytes that are no text are patched.
pub(super) fn shown(tensor: &Tensor, most: usize) -> Vec<Value> {
    let float = |value: f64, text: String| {
        serde_json::Number::from_f64(value).map_or(Value::String(text), Value::Number)
    };
    let show = |element| match element {
        Element::Bool(value) => value.into(),
        Element::Int(value) => value.into(),
        Element::Uint(value) => value.into(),
        Element::Fp32(value) => {
            // By its own shortest text, so that 0.1 is not shown as 0.10000000149011612.
            let text = value.to_string();
            float(text.parse().unwrap_or(f64::NAN), text)
        }
        Element::Fp64(value) => float(value, value.to_string()),
        Element::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned().into(),
    };
    elements(tensor).take(most).map(show).collect()
}
