//! A Python with the clients that apps use, in the user's cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is installed, pinned: the folder's name says so, and another list makes another folder.
const PACKAGES: [&str; 3] = ["tritonclient[http]==2.73.0", "numpy==2.2.6", "onnxruntime==1.31.1"];

/// The interpreter of a virtual environment that has the pinned packages. Made once, then reused.
pub fn interpreter() -> &'static Path {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| {
        let cache = hansa_runtime::cache::dir().expect("a cache folder");
        let venv = cache.join("test-python-1");
        let python = venv.join("bin").join("python");
        let done = venv.join("done");
        if !done.exists() {
            let draft = cache.join(format!("test-python-{}", std::process::id()));
            std::fs::create_dir_all(&cache).expect("the cache can be written");
            run(Command::new("python3").args(["-m", "venv"]).arg(&draft));
            run(Command::new(draft.join("bin").join("python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(PACKAGES));
            std::fs::write(draft.join("done"), "").expect("the cache can be written");
            // Another test process may have been faster; then its environment serves.
            if std::fs::rename(&draft, &venv).is_err() {
                let _ = std::fs::remove_dir_all(&draft);
            }
        }
        python
    })
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
