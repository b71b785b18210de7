//! BYTES into ONNX Runtime's strings and back. Theirs may hold any bytes, as ours may; ort's own
//! calls take and give text without zero bytes only.
#![allow(unsafe_code)]

use bytes::{Bytes, BytesMut};
use ort::AsPointer as _;
use ort::memory::Allocator;
use ort::ortsys;
use ort::value::{DynTensor, DynValue, TensorElementType};

use crate::check::elements;

/// A tensor of strings of this shape. `data` passed [`crate::check`]: it has as many elements as the
/// shape makes, and none is cut off.
pub(crate) fn value(shape: &[i64], data: &[u8], allocator: &Allocator) -> ort::Result<DynValue> {
    let mut value = std::ptr::null_mut();
    ortsys![
        unsafe CreateTensorAsOrtValue(
            allocator.ptr().cast_mut(),
            shape.as_ptr(),
            shape.len(),
            TensorElementType::String.into(),
            &mut value
        )?;
        nonNull(value)
    ];
    // SAFETY: the value was just made, is a tensor in CPU memory, and nobody else owns it.
    let tensor = unsafe { DynValue::from_ptr(value, Some(allocator)) };
    for (index, element) in elements(data).enumerate() {
        let element = element.expect("BYTES were checked");
        let mut place: *mut std::ffi::c_char = std::ptr::null_mut();
        ortsys![
            unsafe GetResizedStringTensorElementBuffer(
                value.as_ptr(),
                index,
                element.len(),
                &mut place
            )?
        ];
        if place.is_null() {
            return Err(ort::Error::new("ONNX Runtime made no room for a string"));
        }
        // SAFETY: ONNX Runtime just made room for as many bytes there, within a value that is ours
        // alone, and refuses an index that the shape does not make.
        unsafe { std::ptr::copy_nonoverlapping(element.as_ptr(), place.cast(), element.len()) };
    }
    Ok(tensor)
}

/// The strings of a tensor that has this many, each with its length before it.
pub(crate) fn bytes(tensor: &DynTensor, count: usize) -> ort::Result<Bytes> {
    if count == 0 {
        return Ok(Bytes::new());
    }
    let mut length = 0;
    ortsys![unsafe GetStringTensorDataLength(tensor.ptr(), &mut length)?];
    let (mut joined, mut offsets) = (vec![0u8; length], vec![0usize; count]);
    ortsys![
        unsafe GetStringTensorContent(
            tensor.ptr(),
            joined.as_mut_ptr().cast(),
            joined.len(),
            offsets.as_mut_ptr(),
            offsets.len()
        )?
    ];
    offsets.push(length);
    let mut data = BytesMut::with_capacity(length + 4 * count);
    for ends in offsets.windows(2) {
        let text = &joined[ends[0]..ends[1]];
        let length = u32::try_from(text.len());
        let length = length.map_err(|_| ort::Error::new("a string exceeds 4 GiB"))?;
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(text);
    }
    Ok(data.freeze())
}
