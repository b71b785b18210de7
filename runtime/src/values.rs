//! Tensors into ONNX Runtime's values and back, with as few copies as alignment allows. `unsafe`,
//! since ort has no safe way to lend it bytes of a type known only at run time.
#![allow(unsafe_code)]

use bytes::{Bytes, BytesMut};
use ort::AsPointer as _;
use ort::memory::{Allocator, MemoryInfo};
use ort::ortsys;
use ort::value::{
    DynTensor, DynValue, Outlet, PrimitiveTensorElementType, Shape, TensorElementType, ValueType,
};

use crate::limits::{OUTPUT_IN_PLACE_BYTES_MIN, RANK_MAX};
use crate::strings;
use crate::tensor::{DType, Tensor, TensorSpec};

/// The largest alignment that an element type asks for.
const ALIGNMENT: usize = 8;

/// Our name of ONNX Runtime's element type; absent for those that no tensor outside it may have.
pub(crate) fn dtype(element: TensorElementType) -> Option<DType> {
    use TensorElementType as Element;
    Some(match element {
        Element::Bool => DType::Bool,
        Element::Int8 => DType::Int8,
        Element::Int16 => DType::Int16,
        Element::Int32 => DType::Int32,
        Element::Int64 => DType::Int64,
        Element::Uint8 => DType::Uint8,
        Element::Uint16 => DType::Uint16,
        Element::Uint32 => DType::Uint32,
        Element::Uint64 => DType::Uint64,
        Element::Float16 => DType::Fp16,
        Element::Bfloat16 => DType::Bf16,
        Element::Float32 => DType::Fp32,
        Element::Float64 => DType::Fp64,
        Element::String => DType::Bytes,
        _ => return None,
    })
}

fn element_type(dtype: DType) -> TensorElementType {
    use TensorElementType as Element;
    match dtype {
        DType::Bool => Element::Bool,
        DType::Int8 => Element::Int8,
        DType::Int16 => Element::Int16,
        DType::Int32 => Element::Int32,
        DType::Int64 => Element::Int64,
        DType::Uint8 => Element::Uint8,
        DType::Uint16 => Element::Uint16,
        DType::Uint32 => Element::Uint32,
        DType::Uint64 => Element::Uint64,
        DType::Fp16 => Element::Float16,
        DType::Bf16 => Element::Bfloat16,
        DType::Fp32 => Element::Float32,
        DType::Fp64 => Element::Float64,
        DType::Bytes => Element::String,
    }
}

/// An input as ONNX Runtime reads it, and the bytes that it reads it from.
pub(crate) struct Input {
    // Declared first, so dropped first: it points into `bytes`.
    value: DynValue,
    bytes: Bytes,
}

impl Input {
    /// Takes a tensor that passed the checks of [`crate::check`]: byte count, elements and limits
    /// are right. Lends its bytes where they are aligned, else copies them once.
    pub(crate) fn new(tensor: &Tensor, allocator: &Allocator) -> ort::Result<Self> {
        // Dimensions passed the check, so they are ONNX's.
        let shape: Vec<i64> = tensor.shape.iter().map(|dim| dim.cast_signed()).collect();
        if tensor.dtype == DType::Bytes {
            let value = strings::value(&shape, &tensor.data, allocator)?;
            return Ok(Self { value, bytes: Bytes::new() });
        }
        let size = tensor.dtype.size().expect("all others have a size");
        let elements = usize::try_from(tensor.shape.iter().product::<u64>()).ok();
        assert_eq!(
            elements.and_then(|elements| elements.checked_mul(size)),
            Some(tensor.data.len()),
            "shape and bytes were checked"
        );
        let bytes = aligned(&tensor.data, size);
        let info = MemoryInfo::default();
        let mut value = std::ptr::null_mut();
        // SAFETY: `bytes` is aligned, has the length that the assertion above proves, and lives in
        // the same struct as the value that points into it, in a heap that does not move. ONNX
        // Runtime does not write to inputs, so the shared bytes stay as they are.
        ortsys![
            unsafe CreateTensorWithDataAsOrtValue(
                info.ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                shape.as_ptr(),
                shape.len(),
                element_type(tensor.dtype).into(),
                &mut value
            )?;
            nonNull(value)
        ];
        // SAFETY: the value was just made, is a tensor in CPU memory, and nobody else owns it.
        let value = unsafe { DynValue::from_ptr(value, Some(allocator)) };
        Ok(Self { value, bytes })
    }

    pub(crate) fn value(&self) -> &DynValue {
        &self.value
    }
}

/// A weight for several sessions; none of a type that few weights have, or if the elements are not
/// what type and shape make.
pub(crate) fn weight(dtype: DType, dims: &[u64], elements: &[u8]) -> Option<DynValue> {
    let shape = dims.iter().map(|dim| i64::try_from(*dim).ok()).collect::<Option<Vec<i64>>>()?;
    match dtype {
        DType::Fp32 => typed(shape, elements, f32::from_le_bytes),
        DType::Int8 => typed(shape, elements, i8::from_le_bytes),
        DType::Uint8 => typed(shape, elements, u8::from_le_bytes),
        DType::Int32 => typed(shape, elements, i32::from_le_bytes),
        DType::Int64 => typed(shape, elements, i64::from_le_bytes),
        _ => None,
    }
}

/// ONNX Runtime shares only weights in memory that is not its own, so the value owns a copy.
fn typed<T, const N: usize>(
    shape: Vec<i64>,
    elements: &[u8],
    read: fn([u8; N]) -> T,
) -> Option<DynValue>
where
    T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
{
    let (elements, rest) = elements.as_chunks();
    let elements: Vec<T> = elements.iter().copied().map(read).collect();
    let value = ort::value::Tensor::from_array((shape, elements)).ok()?;
    rest.is_empty().then(|| value.into_dyn())
}

/// The same bytes at an address that elements of `size` may be read from.
fn aligned(bytes: &Bytes, size: usize) -> Bytes {
    if bytes.as_ptr().addr().is_multiple_of(size) {
        return bytes.clone();
    }
    let mut copy = BytesMut::with_capacity(bytes.len() + ALIGNMENT);
    let padding = copy.as_ptr().addr().wrapping_neg() % ALIGNMENT;
    copy.resize(padding, 0);
    copy.extend_from_slice(bytes);
    copy.freeze().slice(padding..)
}

/// An output that is handed out where ONNX Runtime wrote it. Keeps the session's memory until it
/// is dropped, also when the engine is unloaded first.
struct InPlace {
    value: DynTensor,
    bytes: usize,
}

impl AsRef<[u8]> for InPlace {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the tensor is in CPU memory and holds this many bytes (`output` asked); the value
        // owns them, nothing writes to them any more, and they do not move.
        unsafe { std::slice::from_raw_parts(self.value.data_ptr().cast(), self.bytes) }
    }
}

/// A value that a run returned, as a tensor. `inputs` are those of the run: a model may hand an
/// input's own memory back, which must then be copied.
pub(crate) fn output(name: &str, value: DynValue, inputs: &[Input]) -> ort::Result<Tensor> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(ort::Error::new(format!("output `{name}` is no tensor")));
    };
    let Some(dtype) = dtype(*ty) else {
        return Err(ort::Error::new(format!("output `{name}` has elements of type {ty}")));
    };
    let shape: Vec<u64> = shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(0)).collect();
    let tensor: DynTensor = value.downcast()?;
    let data = if dtype == DType::Bytes {
        let count = usize::try_from(shape.iter().product::<u64>()).unwrap_or(usize::MAX);
        strings::bytes(&tensor, count)?
    } else {
        bytes(tensor, inputs)?
    };
    Ok(Tensor { name: name.to_owned(), dtype, shape, data })
}

fn bytes(value: DynTensor, inputs: &[Input]) -> ort::Result<Bytes> {
    if !value.memory_info().is_cpu_accessible() {
        return Err(ort::Error::new("an output was left on the device"));
    }
    let bytes = value.size().ok_or_else(|| ort::Error::new("an output has no size"))?;
    if bytes == 0 {
        return Ok(Bytes::new());
    }
    let start = value.data_ptr().addr();
    let lent = inputs.iter().any(|input| {
        let from = input.bytes.as_ptr().addr();
        (from..from + input.bytes.len()).contains(&start)
    });
    let owner = InPlace { value, bytes };
    if bytes < OUTPUT_IN_PLACE_BYTES_MIN || lent {
        return Ok(Bytes::copy_from_slice(owner.as_ref()));
    }
    Ok(Bytes::from_owner(owner))
}

/// Zeros of a shape, for a first run.
pub(crate) fn zeros(name: &str, dtype: DType, shape: &[i64]) -> Option<Tensor> {
    let shape: Vec<u64> = shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect();
    let elements = shape
        .iter()
        .try_fold(1usize, |count, dim| count.checked_mul(usize::try_from(*dim).ok()?))?;
    // An empty string is its length, four zero bytes.
    let bytes = elements.checked_mul(dtype.size().unwrap_or(4))?;
    let data = (bytes as u64 <= crate::limits::TENSOR_BYTES_MAX).then(|| vec![0; bytes])?;
    Some(Tensor { name: name.to_owned(), dtype, shape, data: data.into() })
}

/// Names of an input's dimensions, empty where they have none.
pub(crate) fn symbols(outlet: &Outlet) -> Vec<String> {
    match outlet.dtype() {
        ValueType::Tensor { dimension_symbols, .. } => dimension_symbols.iter().cloned().collect(),
        _ => Vec::new(),
    }
}

/// The shape of a value as the signature says it.
/// What a model says of an input or output; absent if that is no tensor that may travel.
pub(crate) fn spec(outlet: &Outlet) -> Option<TensorSpec> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return None };
    let (name, datatype) = (outlet.name().to_owned(), dtype(*ty)?);
    (shape.len() <= RANK_MAX).then(|| TensorSpec { name, datatype, shape: dims(shape) })
}

fn dims(shape: &Shape) -> Vec<i64> {
    shape.iter().map(|dim| if *dim < 0 { -1 } else { *dim }).collect()
}
