//! What the real-process tests share: building and starting `hansa` as an operator would, and
//! small clients. The tests are in `tests/tests`, the benches in `tests/benches`.

pub mod mesh;
#[path = "../../runtime/tests/common/onnx.rs"]
pub mod onnx;
pub mod python;
pub mod relay;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout")
}

/// The built binary `hansa`, of the same profile as the tests.
pub fn hansa() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "hansa-node", "--bin", "hansa"]);
        // What cargo tells a test of its package: build scripts would take it for a change of their
        // own, and half of the tree would be built anew, here and again outside.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&name);
            }
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build.current_dir(root()).status().expect("cargo runs");
        assert!(built.success(), "hansa does not build");
        // This test's own executable lies in target/PROFILE/deps.
        let own = std::env::current_exe().expect("a test has a path");
        let profile = own.ancestors().find(|folder| folder.ends_with("deps"));
        let profile = profile.and_then(Path::parent).expect("tests run from target/PROFILE/deps");
        profile.join("hansa")
    })
}

/// Runs `hansa` with `arguments` to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new(hansa())
        .args(arguments)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("hansa runs")
}

/// Runs `hansa` with `arguments`, which must succeed, and reads the JSON that it prints.
pub fn run_json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = run(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "hansa {arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}
