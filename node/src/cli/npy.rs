//! NumPy's `.npy` files (format versions 1 to 3), as inputs and outputs of `hansa infer`.

use bytes::Bytes;
use hansa_runtime::tensor::{DType, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's type codes, little-endian or without an order.
const TYPES: [(&str, DType); 13] = [
    ("|b1", DType::Bool),
    ("|i1", DType::Int8),
    ("<i2", DType::Int16),
    ("<i4", DType::Int32),
    ("<i8", DType::Int64),
    ("|u1", DType::Uint8),
    ("<u2", DType::Uint16),
    ("<u4", DType::Uint32),
    ("<u8", DType::Uint64),
    ("<f2", DType::Fp16),
    ("<f4", DType::Fp32),
    ("<f8", DType::Fp64),
    ("<V2", DType::Bf16),
];

/// Reads the array of an `.npy` file as the tensor `name`.
pub fn read(name: &str, file: &[u8]) -> Result<Tensor, String> {
    let cut = || "the file is cut short".to_owned();
    let rest = file.strip_prefix(MAGIC).ok_or("not an .npy file")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            (usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?, rest)
        }
        other => return Err(format!(".npy format version {other} is not known")),
    };
    if rest.len() < length {
        return Err(cut());
    }
    let (header, data) = rest.split_at(length);
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
    let descr = quoted(header, "descr").ok_or("its header names no descr")?;
    let found = TYPES.iter().find(|(code, _)| *code == descr);
    let (_, dtype) = found.ok_or_else(|| {
        format!(
            "its type {descr} is not supported; convert with .astype('<f4') or another of {}",
            TYPES.map(|(code, _)| code).join(" ")
        )
    })?;
    if after(header, "fortran_order").is_some_and(|value| value.starts_with("True")) {
        return Err("it is in Fortran order; save np.ascontiguousarray(array)".into());
    }
    let shape = after(header, "shape").and_then(|value| value.strip_prefix('('));
    let shape = shape.and_then(|value| value.split(')').next()).ok_or("its header has no shape")?;
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Result<Vec<u64>, _> = dims.map(str::parse).collect();
    let shape = shape.map_err(|_| "its shape is not made of numbers")?;
    let size = dtype.size().expect("every type here has a size") as u64;
    let bytes = shape.iter().try_fold(size, |bytes, dim| bytes.checked_mul(*dim));
    if bytes != Some(data.len() as u64) {
        return Err(format!(
            "it holds {} bytes, its shape {shape:?} makes another number",
            data.len()
        ));
    }
    Ok(Tensor { name: name.into(), dtype: *dtype, shape, data: Bytes::copy_from_slice(data) })
}

/// Writes `tensor` as an `.npy` file; strings have no such form.
pub fn write(tensor: &Tensor) -> Result<Vec<u8>, String> {
    let found = TYPES.iter().find(|(_, dtype)| *dtype == tensor.dtype);
    let (code, _) = found.ok_or_else(|| format!("{} has no .npy form", tensor.dtype))?;
    let dims: Vec<String> = tensor.shape.iter().map(|dim| format!("{dim},")).collect();
    let mut header =
        format!("{{'descr': '{code}', 'fortran_order': False, 'shape': ({}), }}", dims.concat());
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| "a shape that long".to_owned())?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), &tensor.data].concat())
}

/// The text after `'key':`.
fn after<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}':"))?;
    Some(rest.trim_start())
}

fn quoted<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    after(header, key)?.strip_prefix('\'')?.split('\'').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_survive_their_files() {
        for shape in [vec![], vec![3], vec![2, 3], vec![0, 5]] {
            let elements: u64 = shape.iter().product();
            let data: Vec<u8> = (0..elements * 4).map(|byte| byte.to_le_bytes()[0]).collect();
            let tensor = Tensor { name: "x".into(), dtype: DType::Fp32, shape, data: data.into() };
            let file = write(&tensor).unwrap();
            assert_eq!((file.len() - tensor.data.len()) % 64, 0);
            assert_eq!(read("x", &file), Ok(tensor));
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let tensor = Tensor {
            name: "x".into(),
            dtype: DType::Int64,
            shape: vec![2],
            data: vec![0; 16].into(),
        };
        let file = write(&tensor).unwrap();
        for length in 0..file.len() {
            assert!(read("x", &file[..length]).is_err(), "{length}");
        }
    }
}
