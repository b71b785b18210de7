//! Looks over an ONNX file before ONNX Runtime sees it: that it is protobuf to the end, that it
//! reads no file outside its bundle and no memory address, that its operators are ones that ship
//! with ONNX Runtime, and that it is no larger and no deeper than the limits. Says nothing of
//! whether the graph makes sense: that is ONNX Runtime's to refuse.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::*;
use crate::protobuf::{Fields, Value, WireError, packed};
use crate::tensor::DType;

/// Operator domains that ship with ONNX Runtime and run on tensors alone.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];
/// Operators of those domains that open files or run code by name.
const OPERATORS_REFUSED: [&str; 3] = ["EPContext", "PythonOp", "PythonOpGrad"];
/// What files in ONNX Runtime's own format have at byte 4.
const ORT_FORMAT: &[u8] = b"ORTM";
/// ONNX Runtime reads the offset of such a location as an address in its own memory.
const MEMORY_ADDRESS: &str = "_ORT_MEM_ADDR_";

/// What a model says of itself, as far as the scan counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Nodes, those of subgraphs and functions included.
    pub nodes: usize,
    /// Weights, those of subgraphs included.
    pub initializers: usize,
    /// Names of the external data files, sorted.
    pub external: BTreeSet<String>,
}

/// Why a model is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not protobuf.
    #[error("this is no ONNX file, or a damaged one: {source} in {place}")]
    Wire {
        /// Where.
        place: &'static str,
        /// What.
        source: WireError,
    },
    /// ONNX Runtime's own format, which this scan does not read.
    #[error(
        "this is a model in ONNX Runtime's own format (.ort); convert the .onnx file instead, only that can be looked over"
    )]
    OrtFormat,
    /// Protobuf, but no model.
    #[error("this is no ONNX file: it has no graph")]
    NoGraph,
    /// A string that is not UTF-8 or overlong.
    #[error("the {place} is not UTF-8 or longer than {IDENTIFIER_BYTES_MAX} bytes")]
    Text {
        /// Where.
        place: &'static str,
    },
    /// External data that is not a plain file name.
    #[error(
        "external data at `{location}` lies outside the model's folder; only plain file names in that folder are allowed"
    )]
    Path {
        /// As the model names it.
        location: String,
    },
    /// External data that means an address in memory.
    #[error("external data at `{location}` names a memory address, which no file may")]
    MemoryAddress {
        /// As the model names it.
        location: String,
    },
    /// External data that is not there.
    #[error("the external data file `{location}` is not beside the model; copy it there")]
    NotInBundle {
        /// As the model names it.
        location: String,
    },
    /// External data past the end of its file.
    #[error(
        "external data at `{location}`, offset {offset}, length {length}, lies outside the file's {bytes} bytes"
    )]
    Range {
        /// The file.
        location: String,
        /// Where it starts.
        offset: u64,
        /// How long it is.
        length: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// External data whose entries contradict or do not suffice.
    #[error("an external data entry is malformed: {problem}")]
    External {
        /// What is wrong.
        problem: &'static str,
    },
    /// An operator from elsewhere.
    #[error(
        "operator `{operator}` of domain `{domain}` is not allowed; allowed are those of ONNX and ONNX Runtime that need no library and open no file"
    )]
    Operator {
        /// Its name.
        operator: String,
        /// Its domain.
        domain: String,
    },
    /// Past a limit.
    #[error("{what}: {value} exceeds the limit of {limit}")]
    TooMuch {
        /// What was counted.
        what: &'static str,
        /// How much there is, at least.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// A weight with a negative dimension.
    #[error("a weight has the dimension {dim}")]
    Dimension {
        /// As given.
        dim: i64,
    },
}

/// Looks over a model whose bundle holds `files` (name and size).
pub fn scan(model: &[u8], files: &BTreeMap<&str, u64>) -> Result<Scan, ScanError> {
    Scanner { files: Some(files), ..Scanner::default() }.model(model)
}

/// The external data files that a model names, each a plain name. Does everything that [`scan`]
/// does but look for the files.
pub fn external_files(model: &[u8]) -> Result<BTreeSet<String>, ScanError> {
    Ok(Scanner::default().model(model)?.external)
}

#[derive(Default)]
struct Scanner<'a> {
    files: Option<&'a BTreeMap<&'a str, u64>>,
    /// Domain and name of the functions that the model brings.
    functions: BTreeSet<(&'a str, &'a str)>,
    scan: Scan,
}

impl<'a> Scanner<'a> {
    fn model(mut self, bytes: &'a [u8]) -> Result<Scan, ScanError> {
        // A file can be both: bytes that protobuf skips, and a mark that makes ONNX Runtime read
        // them in its own format, past everything below.
        if bytes.get(4..8) == Some(ORT_FORMAT) {
            return Err(ScanError::OrtFormat);
        }
        // Functions first: nodes before them in the file may call them.
        let functions = messages(bytes, "the model", 25);
        for function in functions {
            let function = function?;
            let (mut name, mut domain) = ("", "");
            for field in Fields::new(function) {
                match at("a function", field)? {
                    (1, Value::Bytes(text)) => name = identifier("name of a function", text)?,
                    (10, Value::Bytes(text)) => domain = identifier("domain of a function", text)?,
                    _ => {}
                }
            }
            self.functions.insert((domain, name));
            cap("functions", self.functions.len(), FUNCTIONS_MAX)?;
        }
        let mut has_graph = false;
        for field in Fields::new(bytes) {
            match at("the model", field)? {
                (7, Value::Bytes(graph)) => {
                    has_graph = true;
                    self.graph(graph, 0)?;
                }
                (20, Value::Bytes(training)) => {
                    for field in Fields::new(training) {
                        if let (1 | 2, Value::Bytes(graph)) = at("the training info", field)? {
                            self.graph(graph, 0)?;
                        }
                    }
                }
                (25, Value::Bytes(function)) => self.function(function)?,
                _ => {}
            }
        }
        if has_graph { Ok(self.scan) } else { Err(ScanError::NoGraph) }
    }

    fn function(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        for field in Fields::new(bytes) {
            match at("a function", field)? {
                (7, Value::Bytes(node)) => self.node(node, 0)?,
                (11, Value::Bytes(attribute)) => self.attribute(attribute, 0)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn graph(&mut self, bytes: &[u8], depth: usize) -> Result<(), ScanError> {
        cap("depth of subgraphs", depth, SUBGRAPH_DEPTH_MAX)?;
        for field in Fields::new(bytes) {
            match at("a graph", field)? {
                (1, Value::Bytes(node)) => self.node(node, depth)?,
                (5, Value::Bytes(tensor)) => self.weight(tensor)?,
                (15, Value::Bytes(sparse)) => self.sparse(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<(), ScanError> {
        self.scan.nodes += 1;
        cap("nodes", self.scan.nodes, NODES_MAX)?;
        let (mut operator, mut domain) = ("", "");
        for field in Fields::new(bytes) {
            match at("a node", field)? {
                (4, Value::Bytes(text)) => operator = identifier("operator of a node", text)?,
                (7, Value::Bytes(text)) => domain = identifier("domain of a node", text)?,
                (5, Value::Bytes(attribute)) => self.attribute(attribute, depth)?,
                _ => {}
            }
        }
        // By name in any domain: a function of that name could hide an operator of that name.
        let known = DOMAINS.contains(&domain) || self.functions.contains(&(domain, operator));
        if known && !OPERATORS_REFUSED.contains(&operator) {
            return Ok(());
        }
        Err(ScanError::Operator { operator: operator.to_owned(), domain: domain.to_owned() })
    }

    fn attribute(&mut self, bytes: &[u8], depth: usize) -> Result<(), ScanError> {
        for field in Fields::new(bytes) {
            match at("an attribute", field)? {
                (5 | 10, Value::Bytes(tensor)) => self.weight(tensor)?,
                (6 | 11, Value::Bytes(graph)) => self.graph(graph, depth + 1)?,
                (22 | 23, Value::Bytes(sparse)) => self.sparse(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sparse(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        for field in Fields::new(bytes) {
            if let (1 | 2, Value::Bytes(tensor)) = at("a sparse weight", field)? {
                self.weight(tensor)?;
            }
        }
        Ok(())
    }

    fn weight(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        const PLACE: &str = "a weight";
        self.scan.initializers += 1;
        cap("weights", self.scan.initializers, INITIALIZERS_MAX)?;
        let mut elements: u64 = 1;
        let mut size: u64 = 1;
        let mut rank = 0;
        let mut is_external = false;
        let mut entries = External::default();
        let mut dim = |number: u64| {
            let dim = number.cast_signed();
            let dim = u64::try_from(dim).map_err(|_| ScanError::Dimension { dim })?;
            elements = elements.saturating_mul(dim);
            rank += 1;
            cap("rank of a weight", rank, RANK_MAX)
        };
        for field in Fields::new(bytes) {
            match at(PLACE, field)? {
                (1, Value::Varint(number)) => dim(number)?,
                (1, Value::Bytes(numbers)) => {
                    for number in packed(numbers) {
                        dim(at(PLACE, number)?)?;
                    }
                }
                (2, Value::Varint(code)) => {
                    let dtype = u8::try_from(code).ok().and_then(DType::from_onnx_code);
                    // Types that no input may have (4-bit, 8-bit floats) count a byte.
                    size = dtype.and_then(DType::size).unwrap_or(1) as u64;
                }
                (13, Value::Bytes(entry)) => entries.add(entry)?,
                (14, Value::Varint(location)) => is_external = location == 1,
                _ => {}
            }
        }
        let weight_bytes = elements.saturating_mul(size);
        if weight_bytes > WEIGHT_BYTES_MAX {
            let limit = WEIGHT_BYTES_MAX;
            return Err(ScanError::TooMuch {
                what: "bytes of a weight",
                value: weight_bytes,
                limit,
            });
        }
        // Entries count whatever `data_location` says: a decoder merges split messages, and the
        // other half may say the opposite.
        if is_external || entries.any {
            self.external(entries, weight_bytes)?;
        }
        Ok(())
    }

    fn external(&mut self, entries: External<'_>, bytes: u64) -> Result<(), ScanError> {
        let location =
            entries.location.ok_or(ScanError::External { problem: "it has no location" })?;
        let owned = || location.to_owned();
        if location.contains(MEMORY_ADDRESS) {
            return Err(ScanError::MemoryAddress { location: owned() });
        }
        let plain = !matches!(location, "" | "." | "..")
            && !location.contains(['/', '\\', '\0', ':'])
            && location == location.trim();
        if !plain {
            return Err(ScanError::Path { location: owned() });
        }
        let offset = entries.offset.unwrap_or(0);
        if let Some(files) = self.files {
            let file = files.get(location).copied();
            let file = file.ok_or_else(|| ScanError::NotInBundle { location: owned() })?;
            let length = entries.length.unwrap_or(bytes);
            if offset.checked_add(length).is_none_or(|end| end > file) {
                let location = owned();
                return Err(ScanError::Range { location, offset, length, bytes: file });
            }
        }
        self.scan.external.insert(owned());
        cap("external data files", self.scan.external.len(), BUNDLE_FILES_MAX)
    }
}

/// The entries of one weight's external data.
#[derive(Default)]
struct External<'a> {
    any: bool,
    location: Option<&'a str>,
    offset: Option<u64>,
    length: Option<u64>,
}

impl<'a> External<'a> {
    fn add(&mut self, entry: &'a [u8]) -> Result<(), ScanError> {
        const PLACE: &str = "an external data entry";
        self.any = true;
        let (mut key, mut value) = ("", "");
        for field in Fields::new(entry) {
            match at(PLACE, field)? {
                (1, Value::Bytes(text)) => key = identifier(PLACE, text)?,
                (2, Value::Bytes(text)) => value = identifier(PLACE, text)?,
                _ => {}
            }
        }
        // Digits only: `parse` would take a plus sign, and others would take less.
        let number = || match value.parse() {
            Ok(number) if value.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => Err(ScanError::External { problem: "offset or length is not a number" }),
        };
        let twice = match key {
            "location" => self.location.replace(value).is_some(),
            "offset" => self.offset.replace(number()?).is_some(),
            "length" => self.length.replace(number()?).is_some(),
            _ => false,
        };
        if twice { Err(ScanError::External { problem: "an entry is there twice" }) } else { Ok(()) }
    }
}

/// The payloads of one repeated message field.
fn messages<'a>(
    bytes: &'a [u8],
    place: &'static str,
    number: u32,
) -> impl Iterator<Item = Result<&'a [u8], ScanError>> {
    Fields::new(bytes).filter_map(move |field| match at(place, field) {
        Ok((found, Value::Bytes(message))) if found == number => Some(Ok(message)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

fn at<T>(place: &'static str, result: Result<T, WireError>) -> Result<T, ScanError> {
    result.map_err(|source| ScanError::Wire { place, source })
}

fn identifier<'a>(place: &'static str, bytes: &'a [u8]) -> Result<&'a str, ScanError> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= IDENTIFIER_BYTES_MAX);
    text.ok_or(ScanError::Text { place })
}

fn cap(what: &'static str, value: usize, limit: usize) -> Result<(), ScanError> {
    if value <= limit {
        return Ok(());
    }
    Err(ScanError::TooMuch { what, value: value as u64, limit: limit as u64 })
}
