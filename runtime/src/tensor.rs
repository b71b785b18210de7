//! Tensors outside ONNX Runtime: a name, a type, a shape and bytes. And what a model wants of them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::loops::Loop;
use crate::rows::RowAxes;
use crate::sequence::Sequence;

/// Element types, named as the Open Inference Protocol names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum DType {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Strings or byte strings: each element is a `u32` length (little-endian) and its bytes.
    Bytes,
}

/// Names, ONNX `TensorProto.DataType` codes and sizes in bytes (0: variable).
const DTYPES: [(DType, &str, u8, usize); 14] = [
    (DType::Bool, "BOOL", 9, 1),
    (DType::Int8, "INT8", 3, 1),
    (DType::Int16, "INT16", 5, 2),
    (DType::Int32, "INT32", 6, 4),
    (DType::Int64, "INT64", 7, 8),
    (DType::Uint8, "UINT8", 2, 1),
    (DType::Uint16, "UINT16", 4, 2),
    (DType::Uint32, "UINT32", 12, 4),
    (DType::Uint64, "UINT64", 13, 8),
    (DType::Fp16, "FP16", 10, 2),
    (DType::Bf16, "BF16", 16, 2),
    (DType::Fp32, "FP32", 1, 4),
    (DType::Fp64, "FP64", 11, 8),
    (DType::Bytes, "BYTES", 8, 0),
];

impl DType {
    fn row(self) -> &'static (DType, &'static str, u8, usize) {
        DTYPES.iter().find(|row| row.0 == self).expect("every type has a row")
    }

    /// Bytes of one element; absent for [`DType::Bytes`].
    pub fn size(self) -> Option<usize> {
        Some(self.row().3).filter(|size| *size > 0)
    }

    /// ONNX's code of the type.
    pub fn onnx_code(self) -> u8 {
        self.row().2
    }

    /// The type of an ONNX code.
    pub fn from_onnx_code(code: u8) -> Option<Self> {
        DTYPES.iter().find(|row| row.2 == code).map(|row| row.0)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

impl FromStr for DType {
    type Err = InputError;
    fn from_str(text: &str) -> Result<Self, InputError> {
        let row = DTYPES.iter().find(|row| row.1 == text);
        row.map(|row| row.0).ok_or_else(|| InputError::UnknownDType(text.to_owned()))
    }
}

/// A tensor: row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in the model's signature.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Elements.
    pub data: Bytes,
}

/// What a model says of one of its inputs or outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: DType,
    /// Its dimensions; -1 is any.
    pub shape: Vec<i64>,
}

/// What a model takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// In the model's order.
    pub inputs: Vec<TensorSpec>,
    /// In the model's order.
    pub outputs: Vec<TensorSpec>,
    /// Where the rows of a batch lie, if they can be run apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowAxes>,
    /// What carries a sequence of requests, if its requests come in such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
    /// How it answers step by step, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looped: Option<Loop>,
    /// Outputs whose elements have names, which its bundle has (see [`crate::labels`]).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
    /// Most rows that whoever serves it runs at once, if that is said and every tensor's first axis
    /// is that of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u32>,
}

/// Why tensors do not fit a model. Each says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// No such element type.
    #[error(
        "unknown datatype `{0}`; expected BOOL, INT8…INT64, UINT8…UINT64, FP16, BF16, FP32, FP64 or BYTES"
    )]
    UnknownDType(String),
    /// The model has no such input.
    #[error("the model has no input `{name}`; its inputs are {expected}")]
    UnknownInput {
        /// As named in the request.
        name: String,
        /// The model's.
        expected: String,
    },
    /// The model has no such output.
    #[error("the model has no output `{name}`; its outputs are {expected}")]
    UnknownOutput {
        /// As named in the request.
        name: String,
        /// The model's.
        expected: String,
    },
    /// An input is missing.
    #[error("input `{0}` is missing")]
    Missing(String),
    /// An input is there twice.
    #[error("input `{0}` is given twice")]
    Twice(String),
    /// The element type differs.
    #[error("input `{name}` is {given}, the model takes {expected}")]
    WrongDType {
        /// The input.
        name: String,
        /// The request's.
        given: DType,
        /// The model's.
        expected: DType,
    },
    /// The shape does not fit.
    #[error("input `{name}` has shape {given:?}, the model takes {expected:?} (-1 is any)")]
    WrongShape {
        /// The input.
        name: String,
        /// The request's.
        given: Vec<u64>,
        /// The model's.
        expected: Vec<i64>,
    },
    /// The bytes are not what shape and type make.
    #[error("input `{name}` has {given} bytes, its shape and datatype make {expected}")]
    WrongBytes {
        /// The input.
        name: String,
        /// The request's.
        given: u64,
        /// Elements times size.
        expected: u64,
    },
    /// Larger than an input may be.
    #[error("input `{name}` would take {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The input.
        name: String,
        /// Elements times size, saturated.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// All inputs together are larger than a request may be.
    #[error("the inputs take {bytes} bytes together, the limit is {limit}")]
    RequestTooLarge {
        /// All inputs, saturated.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// More inputs or outputs than a request may name.
    #[error("{given} tensors are named, the limit is {limit}")]
    TooMany {
        /// The request's.
        given: usize,
        /// The limit.
        limit: usize,
    },
    /// An element that its type does not have.
    #[error("element {element} of input `{name}`: {problem}")]
    BadElement {
        /// The input.
        name: String,
        /// Its index.
        element: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}
