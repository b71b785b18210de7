//! A stage as files: an ONNX file of its own, its weights beside it, and the record of where in the
//! whole it belongs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::graph::{Data, Graph, Weight, field};
use super::layout::Parts;
use super::types::{Types, value_info};
use super::{CutError, STAGE_FILE, Stage};
use crate::bundle::{Bundle, MODEL_FILE};
use crate::labels::Labels;
use crate::protobuf::{Message, Value};
use crate::scan;
use crate::text::Text;

/// The file that a stage's weights are in; mapped rather than read, it costs no memory twice.
const WEIGHTS_FILE: &str = "weights.bin";
/// Weights of fewer bytes stay inside the ONNX file.
const WEIGHT_BYTES_MIN: u64 = 4 * 1024;
/// Where weights begin in their file: what systems map from.
const ALIGNMENT: u64 = 4096;
/// Lowest ONNX version in which weights need not be inputs as well.
const IR_VERSION_MIN: u64 = 4;

impl Graph<'_> {
    /// The model whose graph is `graph`, all else being the whole's.
    pub(super) fn model(&self, graph: Message) -> Vec<u8> {
        let mut model = Message::default();
        model.varint(field::MODEL_IR_VERSION, self.ir_version.max(IR_VERSION_MIN));
        self.model.iter().for_each(|(number, value)| model.field(*number, *value));
        model.bytes(field::MODEL_GRAPH, graph.into_bytes());
        model.into_bytes()
    }
}

/// Writes a stage into the new folder `dir`.
pub(super) fn stage(
    bundle: &Bundle,
    graph: &Graph<'_>,
    parts: &Parts<'_>,
    types: &Types,
    record: &Stage,
    dir: &Path,
) -> Result<(), CutError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    let mut message = Message::default();
    message.bytes(field::GRAPH_NAME, format!("{}/{}-{}", graph.name, record.from, record.to));
    for &index in &parts.nodes {
        message.bytes(field::GRAPH_NODE, graph.nodes[index].raw);
    }
    let mut weights = Weights::create(bundle, dir, graph)?;
    for name in &parts.weights {
        let weight = &graph.weights[name];
        if weight.is_sparse {
            message.bytes(field::GRAPH_SPARSE, weight.raw);
        } else {
            message.bytes(field::GRAPH_INITIALIZER, weights.put(weight)?);
        }
    }
    weights.finish()?;
    let of_whole: BTreeMap<&str, &[u8]> =
        graph.inputs.iter().chain(&graph.outputs).copied().collect();
    let info = |name: &str| match (of_whole.get(name), types.inner.get(name)) {
        (Some(info), _) => info.to_vec(),
        (None, Some(found)) => value_info(name, found.dtype.onnx_code().into(), &found.dims),
        (None, None) => unreachable!("only typed tensors travel"),
    };
    record.inputs.iter().for_each(|name| message.bytes(field::GRAPH_INPUT, info(name)));
    record.outputs.iter().for_each(|name| message.bytes(field::GRAPH_OUTPUT, info(name)));
    let outer: BTreeSet<&str> =
        record.inputs.iter().chain(&record.outputs).map(String::as_str).collect();
    let inside = parts.nodes.iter().flat_map(|index| &graph.nodes[*index].outputs);
    let inside: BTreeSet<&str> = inside.copied().filter(|name| !outer.contains(name)).collect();
    for value in graph.values.iter().filter(|(name, _)| inside.contains(*name)) {
        message.bytes(field::GRAPH_VALUE_INFO, value.1);
    }
    let is_here =
        |name: &str| parts.weights.contains(name) || inside.contains(name) || outer.contains(name);
    for (_, annotation) in graph.quantizations.iter().filter(|(name, _)| is_here(name)) {
        message.bytes(field::GRAPH_QUANTIZATION, annotation);
    }
    let mut model = graph.model(message);
    // Where it comes from, for tools that show a model's properties. Fields merge when appended.
    let mut property = Message::default();
    property.bytes(1, "hansa.stage");
    property.bytes(2, format!("{} {}-{}/{}", record.whole, record.from, record.to, record.of));
    let mut metadata = Message::default();
    metadata.bytes(field::MODEL_METADATA, property.into_bytes());
    model.extend(metadata.into_bytes());
    copy_rest(bundle, &model, dir)?;
    copy_told(bundle, dir)?;
    write(&dir.join(MODEL_FILE), &model)?;
    let record = serde_json::to_vec_pretty(record).expect("a record is JSON");
    write(&dir.join(STAGE_FILE), &record)
}

/// Copies external data that subgraphs and attributes name: those are kept as they are.
fn copy_rest(bundle: &Bundle, model: &[u8], dir: &Path) -> Result<(), CutError> {
    let named = scan::external_files(model).expect("made of a model that was scanned");
    for name in named.iter().filter(|name| !dir.join(name).exists()) {
        let from = bundle.dir().join(name);
        fs::copy(&from, dir.join(name)).map_err(at(&from))?;
    }
    Ok(())
}

/// Copies what says how text becomes tokens and what classes are called, so that whoever has a stage
/// can tell it.
fn copy_told(bundle: &Bundle, dir: &Path) -> Result<(), CutError> {
    // One that cannot be used is no reason not to cut the model.
    let text = Text::files(&bundle.manifest).unwrap_or_default();
    let labels = Labels::files(&bundle.manifest).unwrap_or_default();
    for (name, _) in text.into_iter().chain(labels) {
        let (from, to) = (bundle.file(&name), dir.join(&name));
        let folder = to.parent().expect("it is in the stage's folder");
        fs::create_dir_all(folder).map_err(at(folder))?;
        fs::copy(&from, &to).map_err(at(&from))?;
    }
    Ok(())
}

/// The file of a stage's weights, made when the first one needs it.
struct Weights<'a> {
    bundle: &'a Bundle,
    dir: &'a Path,
    name: String,
    file: Option<BufWriter<File>>,
    end: u64,
}

impl<'a> Weights<'a> {
    fn create(bundle: &'a Bundle, dir: &'a Path, graph: &Graph<'_>) -> Result<Self, CutError> {
        // Not the name of a file that subgraphs of the whole read.
        let taken: BTreeSet<&str> = graph
            .weights
            .values()
            .filter_map(|weight| match weight.data {
                Data::External { file, .. } => Some(file),
                _ => None,
            })
            .chain(bundle.manifest.files.keys().map(String::as_str))
            .collect();
        let mut name = WEIGHTS_FILE.to_owned();
        while taken.contains(name.as_str()) {
            name.insert_str(0, "stage-");
        }
        Ok(Self { bundle, dir, name, file: None, end: 0 })
    }

    /// The encoding of a weight whose elements are in the file from now on, if that pays.
    fn put(&mut self, weight: &Weight<'_>) -> Result<Vec<u8>, CutError> {
        let (begin, length) = match &weight.data {
            Data::Raw(bytes) if weight.bytes >= WEIGHT_BYTES_MIN => {
                let begin = self.align()?;
                self.write(bytes)?;
                (begin, bytes.len() as u64)
            }
            Data::External { file, offset, length } => {
                let length = length.unwrap_or(weight.bytes);
                let begin = self.align()?;
                self.copy(file, *offset, length)?;
                (begin, length)
            }
            _ => return Ok(weight.raw.to_vec()),
        };
        let mut message = Message::default();
        for found in crate::protobuf::Fields::new(weight.raw) {
            match found? {
                (field::TENSOR_RAW | field::TENSOR_EXTERNAL | field::TENSOR_LOCATION, _) => {}
                (number, value) => message.field(number, value),
            }
        }
        let (begin, length) = (begin.to_string(), length.to_string());
        for (key, value) in [("location", &self.name), ("offset", &begin), ("length", &length)] {
            let mut entry = Message::default();
            entry.bytes(1, key);
            entry.bytes(2, value);
            message.bytes(field::TENSOR_EXTERNAL, entry.into_bytes());
        }
        message.field(field::TENSOR_LOCATION, Value::Varint(1));
        Ok(message.into_bytes())
    }

    fn align(&mut self) -> Result<u64, CutError> {
        let begin = self.end.next_multiple_of(ALIGNMENT);
        let gap = usize::try_from(begin - self.end).expect("less than a page");
        self.write(&vec![0; gap])?;
        Ok(begin)
    }

    fn copy(&mut self, name: &str, offset: u64, length: u64) -> Result<(), CutError> {
        let path = self.bundle.dir().join(name);
        let mut source = File::open(&path).map_err(at(&path))?;
        source.seek(SeekFrom::Start(offset)).map_err(at(&path))?;
        let mut source = source.take(length);
        let file = self.file()?;
        let copied = io::copy(&mut source, file).map_err(at(&path))?;
        self.end += copied;
        if copied == length { Ok(()) } else { Err(CutError::Odd("external data is cut off")) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CutError> {
        let path = self.dir.join(&self.name);
        self.file()?.write_all(bytes).map_err(at(&path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn file(&mut self) -> Result<&mut BufWriter<File>, CutError> {
        let path = self.dir.join(&self.name);
        if self.file.is_none() {
            self.file = Some(BufWriter::new(File::create(&path).map_err(at(&path))?));
        }
        Ok(self.file.as_mut().expect("made just now"))
    }

    fn finish(self) -> Result<(), CutError> {
        let path = self.dir.join(&self.name);
        match self.file {
            Some(mut file) => file.flush().map_err(at(&path)),
            None => Ok(()),
        }
    }
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CutError> {
    fs::write(path, bytes).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CutError + use<> {
    let path = path.to_owned();
    move |source| CutError::Io { path, source }
}
