//! Tensors between the wire and the runtime.

use hansa_core::plan::Refusal;
use hansa_core::wire::TensorMeta;
use hansa_net::data::Body;
use hansa_runtime::check::{Head, InputLimits};
use hansa_runtime::tensor::{DType, InputError, Signature, Tensor};

use crate::limits::BODY_BYTES_MAX;

/// The tensor that follows on a stream.
pub(super) async fn receive(meta: &TensorMeta, body: &mut Body) -> Result<Tensor, String> {
    let dtype = DType::from_onnx_code(meta.dtype)
        .ok_or_else(|| format!("tensor `{}` is of unknown type {}", meta.name, meta.dtype))?;
    let length = usize::try_from(meta.bytes).ok().filter(|length| *length <= BODY_BYTES_MAX);
    let length = length.ok_or_else(|| format!("tensor `{}` is too large", meta.name))?;
    let data = body.read_exact(length).await.map_err(|error| error.to_string())?;
    Ok(Tensor { name: meta.name.clone(), dtype, shape: meta.shape.clone(), data })
}

pub(super) fn meta(tensor: &Tensor) -> TensorMeta {
    TensorMeta {
        name: tensor.name.clone(),
        dtype: tensor.dtype.onnx_code(),
        shape: tensor.shape.clone(),
        bytes: tensor.data.len() as u64,
    }
}

/// Whether tensors of these descriptions fit the model; asked before their bytes are taken in.
pub(super) fn check(
    signature: &Signature,
    metas: &[TensorMeta],
    outputs: &[String],
) -> Result<(), Refusal> {
    let bad = |error: InputError| Refusal::BadInput { reason: error.to_string() };
    let head = |meta: &'_ TensorMeta| {
        let code = meta.dtype.to_string();
        DType::from_onnx_code(meta.dtype).ok_or(InputError::UnknownDType(code))
    };
    let dtypes: Result<Vec<DType>, _> = metas.iter().map(head).collect();
    let heads = metas.iter().zip(dtypes.map_err(bad)?).map(|(meta, dtype)| Head {
        name: &meta.name,
        dtype,
        shape: &meta.shape,
        bytes: meta.bytes,
    });
    signature.check(heads, outputs, &InputLimits::default()).map_err(bad)
}

/// Rows of a batch, and whether each may be run apart from the others.
pub fn batch_rows<'a>(
    signature: &Signature,
    inputs: impl IntoIterator<Item = (&'a str, &'a [u64])> + Clone,
) -> (u32, bool) {
    let apart = signature.row_axes().and_then(|axes| axes.count(inputs.clone()));
    (signature.rows_of(inputs), apart.is_some())
}

/// Rows of a batch of which nothing is known: the first dimension of the first tensor.
pub(super) fn first_rows(metas: &[TensorMeta]) -> u32 {
    let rows = metas.first().and_then(|meta| meta.shape.first()).copied().unwrap_or(1);
    u32::try_from(rows.max(1)).unwrap_or(u32::MAX)
}
