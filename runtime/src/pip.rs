//! The machine's own pip, as a downloader of one wheel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::limits::{PIP_LINES_MAX, PIP_RETRIES, PIP_TIMEOUT};
use crate::wheel::{FetchError, Progress, Wheel, at};

/// Downloads the wheel into a folder and says where it is. Which file came, the caller checks.
pub(crate) fn download(
    python: &Path,
    wheel: &Wheel,
    into: &Path,
    progress: Progress,
) -> Result<PathBuf, FetchError> {
    let package = wheel.name;
    let probe = Command::new(python)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FetchError::NoPython { package, source })?;
    if !probe.status.success() {
        return Err(FetchError::NoPip { package });
    }
    let pure = wheel.platforms == ["any"];
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--no-input", "--python-version", "3.12"])
        .args(["--implementation", if pure { "py" } else { "cp" }])
        .args(["--timeout", &PIP_TIMEOUT.as_secs().to_string()])
        .args(["--retries", &PIP_RETRIES.to_string()]);
    for platform in wheel.platforms {
        pip.args(["--platform", platform]);
    }
    pip.arg("--dest").arg(into).arg(format!("{package}=={}", wheel.version));
    pip.env("PIP_REQUIRE_VIRTUALENV", "false").stdin(Stdio::null()).stderr(Stdio::piped());
    pip.stdout(match progress {
        Progress::Quiet => Stdio::null(),
        Progress::Stderr => Stdio::from(io::stderr()),
    });
    let output = pip
        .spawn()
        .and_then(Child::wait_with_output)
        .map_err(|source| FetchError::NoPython { package, source })?;
    let failed = |said: String| FetchError::Network { package, version: wheel.version, said };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        return Err(failed(lines[lines.len().saturating_sub(PIP_LINES_MAX)..].join("; ")));
    }
    let mut wheels = fs::read_dir(into)
        .map_err(at(into))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().ok_or_else(|| failed("nothing was saved".to_owned()))
}
