//! Cutting: a model that no single peer can hold becomes stages, each a model of its own.
//!
//! The nodes of the graph stand in one line, each after what it takes; a stage is a stretch of that
//! line. What one stage makes and a later one takes is handed over under the name that it has in
//! the whole; weights go with every node that reads them. So stages of different cuts fit together
//! wherever their ends meet: a stage is known by the whole's digest and the stretch, `from..to` of
//! `of`.
//!
//! ```text
//! graph ─► layout ─► types (ONNX Runtime infers) ─► spans (where to cut) ─► write
//! ```
//!
//! Results are the whole's within float tolerance: ONNX Runtime fuses operators, and fuses none
//! across a cut.

mod graph;
mod layout;
mod spans;
mod types;
mod write;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::graph::Graph;
pub(crate) use self::graph::plain_weights;
use self::layout::{Layout, assumed_bytes};
use self::spans::NoCut;
use self::types::Types;
use crate::bundle::Bundle;
use crate::limits::STAGES_MAX;
use crate::protobuf::WireError;
use crate::runtime::Runtime;
use crate::session::{LoadError, Model};
use crate::tensor::Signature;

/// The file in a stage's folder that says where in the whole it belongs.
pub const STAGE_FILE: &str = "stage.json";
/// The file beside the stages that says how the whole was cut.
pub const CUT_FILE: &str = "cut.json";

/// A stretch of a model, as its record tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Digest of the whole model's bundle.
    pub whole: String,
    /// First node of the whole's line that it has.
    pub from: usize,
    /// First node that it has no more.
    pub to: usize,
    /// Nodes of the whole's line.
    pub of: usize,
    /// Tensors that it takes: of earlier stages, and inputs of the whole.
    pub inputs: Vec<String>,
    /// Tensors that it gives: to later stages, and outputs of the whole.
    pub outputs: Vec<String>,
    /// What its weights take in memory, in bytes.
    pub bytes: u64,
    /// Its arithmetic, estimated for one row: multiply-adds of matrix products, convolutions and
    /// recurrences, and one for every other element.
    pub cost: u64,
    /// What it hands to later stages, in bytes, for one row, unknown dimensions assumed.
    pub hands_over: u64,
    /// What the whole takes and gives.
    pub signature: Signature,
}

/// How a model was cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Digest of the whole model's bundle.
    pub whole: String,
    /// In order.
    pub stages: Vec<Stage>,
}

/// What cut is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// So many stages, about equally slow.
    Stages(usize),
    /// One stage for each of these amounts of memory, in bytes, in this order.
    Fit(Vec<u64>),
}

/// Why a model is not cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// It cannot even be looked over.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Not protobuf.
    #[error("the ONNX file is damaged: {0}")]
    Wire(#[from] WireError),
    /// A graph that ONNX does not allow.
    #[error("this model cannot be cut: {0}")]
    Odd(&'static str),
    /// ONNX Runtime does not load it.
    #[error("this model cannot be cut, since ONNX Runtime refuses it: {0}")]
    Refused(String),
    /// An input or output that is no tensor.
    #[error("this model cannot be cut: its input or output `{0}` is not a tensor that can travel")]
    NoTensor(String),
    /// Nothing to cut between.
    #[error("this model cannot be cut into {wanted} stages, only into {possible}: {why}")]
    Pieces {
        /// As asked.
        wanted: usize,
        /// The most.
        possible: usize,
        /// What stands in the way.
        why: &'static str,
    },
    /// A number of stages that makes no sense.
    #[error("{0} stages: it must be 2 to {STAGES_MAX}")]
    Stages(usize),
    /// A piece that fits no budget.
    #[error(
        "a piece of {needed} bytes cannot be cut further, and no stage may hold more than {largest}"
    )]
    Piece {
        /// What it takes.
        needed: u64,
        /// The largest budget.
        largest: u64,
    },
    /// The budgets do not suffice.
    #[error(
        "the weights of {bytes} bytes do not fit the {count} stages, in this order, that may hold {budget} bytes together; give more or larger ones"
    )]
    Budgets {
        /// The whole's weights.
        bytes: u64,
        /// How many stages.
        count: usize,
        /// What they may hold.
        budget: u64,
    },
    /// The folder is in use.
    #[error("{path} is there already; name a new folder, or remove it", path = path.display())]
    There {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// Cuts the model of `bundle` and writes `OUT/stage-0/model.onnx`, …, and `OUT/cut.json`.
///
/// # Errors
/// When it cannot be cut as wanted, and why; nothing is left behind then but what was written
/// before a disk failed.
pub fn cut(
    runtime: &Runtime,
    bundle: &Bundle,
    wanted: &Wanted,
    out: &Path,
) -> Result<Cut, CutError> {
    if out.join(CUT_FILE).exists() || out.join("stage-0").exists() {
        return Err(CutError::There { path: out.to_owned() });
    }
    let budgets = match wanted {
        Wanted::Stages(count) => vec![u64::MAX; *count],
        Wanted::Fit(budgets) => budgets.clone(),
    };
    if !(2..=STAGES_MAX).contains(&budgets.len()) {
        return Err(CutError::Stages(budgets.len()));
    }
    let model = Model::read(bundle)?;
    let graph = Graph::read(model.bytes())?;
    let layout = Layout::new(&graph);
    let types = Types::infer(runtime, bundle, &graph, &layout.made())?;
    let (places, stretches) = layout.stretches(&types);
    let cuts = stretches.cut(&budgets).map_err(|no| match no {
        NoCut::Pieces(possible) => CutError::Pieces {
            wanted: budgets.len(),
            possible,
            why: if layout.len() <= possible {
                "it has no more nodes"
            } else {
                "elsewhere it would hand over what cannot travel (sequences, maps, tensors of \
                 unknown rank or of types that no request may have)"
            },
        },
        NoCut::Piece(needed) => {
            CutError::Piece { needed, largest: budgets.iter().copied().max().unwrap_or(0) }
        }
        NoCut::Budgets => CutError::Budgets {
            bytes: stretches.bytes[0][places.len() - 1],
            count: budgets.len(),
            budget: budgets.iter().fold(0, |sum, budget| sum.saturating_add(*budget)),
        },
    })?;
    let ends: Vec<usize> = [0].into_iter().chain(cuts).chain([places.len() - 1]).collect();
    let mut stages = Vec::new();
    for (number, ends) in ends.windows(2).enumerate() {
        let range = Range { start: places[ends[0]], end: places[ends[1]] };
        let parts = layout.parts(&range);
        let names = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
        let mut inputs = parts.inputs.iter().chain(&parts.taken).copied();
        let given = parts.given.iter().filter(|name| !parts.outputs.contains(name));
        let mut outputs = parts.outputs.iter().chain(given).copied();
        let stage = Stage {
            whole: bundle.digest.to_string(),
            from: range.start,
            to: range.end,
            of: layout.len(),
            inputs: names(&mut inputs),
            outputs: names(&mut outputs),
            bytes: stretches.bytes[ends[0]][ends[1] - ends[0]],
            cost: stretches.cost(ends[0], ends[1]),
            hands_over: parts.given.iter().map(|name| assumed_bytes(&types.inner[*name])).sum(),
            signature: types.signature.clone(),
        };
        let dir = out.join(format!("stage-{number}"));
        write::stage(bundle, &graph, &parts, &types, &stage, &dir)?;
        stages.push(stage);
    }
    let cut = Cut { whole: bundle.digest.to_string(), stages };
    let json = serde_json::to_vec_pretty(&cut).expect("a cut is JSON");
    write::write(&out.join(CUT_FILE), &json)?;
    Ok(cut)
}

impl Stage {
    /// The record of a bundle that is a stage; none for one that is not.
    ///
    /// # Errors
    /// When there is a record that this version does not understand, or that contradicts itself.
    pub fn of(bundle: &Bundle) -> Result<Option<Self>, CutError> {
        if !bundle.manifest.files.contains_key(STAGE_FILE) {
            return Ok(None);
        }
        let path = bundle.dir().join(STAGE_FILE);
        let bytes = std::fs::read(&path).map_err(|source| CutError::Io { path, source })?;
        let stage: Self = serde_json::from_slice(&bytes)
            .map_err(|_| CutError::Odd("its stage.json is not one of this version"))?;
        let is_stretch = stage.from < stage.to && stage.to <= stage.of;
        if is_stretch { Ok(Some(stage)) } else { Err(CutError::Odd("its stage.json is odd")) }
    }
}
