//! Private keys at rest: a node's identity and an authority's signer. A key file is made once,
//! readable by its owner only, and is not read when others could read it too.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hansa_core::keys::SigningKey;
use hansa_core::note::SignerKey;
use ring::rand::{SecureRandom, SystemRandom};

/// First line of an identity key file.
const HEAD: &str = "hansa identity key v1";
/// No key file is longer; more is some other file.
const BYTES_MAX: u64 = 4 * 1024;

/// Where a secret comes from: never from the config itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file that only its owner can read.
    File(PathBuf),
    /// An environment variable that holds what the file would hold (`env:NAME`).
    Env(String),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It exists; keys are never overwritten.
    #[error("{} exists already and is left as it is; a key that is overwritten is lost", .0.display())]
    Exists(PathBuf),
    /// Others can read it.
    #[error("{path} can be read by others than its owner (mode {mode:o}): run `chmod 600 {path}`, and make a new key if others may have read it", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The environment has no such variable.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// It holds something else.
    #[error("{origin} is not {expected}")]
    Form {
        /// The file or variable.
        origin: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl Secret {
    /// The text of the secret.
    pub fn read(&self) -> Result<String, KeyFileError> {
        match self {
            Self::File(path) => read_private(path),
            Self::Env(name) => std::env::var(name).map_err(|_| KeyFileError::Unset(name.clone())),
        }
    }

    /// The seed of the identity that it holds.
    pub fn identity(&self) -> Result<[u8; 32], KeyFileError> {
        parse_identity(&self.read()?).ok_or_else(|| KeyFileError::Form {
            origin: self.to_string(),
            expected: "an identity key as `hansa init` makes it",
        })
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

/// Makes an identity and writes it to `path`.
pub fn create_identity(path: &Path) -> Result<SigningKey, KeyFileError> {
    let seed = draw_seed();
    write_private(path, &format!("{HEAD}\n{}\n", BASE64.encode(seed)))?;
    Ok(SigningKey::from_seed(&seed))
}

/// Writes an authority's signer to `path`.
pub fn write_signer(path: &Path, signer: &SignerKey) -> Result<(), KeyFileError> {
    write_private(path, &format!("{}\n", signer.secret_text()))
}

/// Reads an authority's signer.
pub fn read_signer(path: &Path) -> Result<SignerKey, KeyFileError> {
    SignerKey::from_secret_text(&read_private(path)?).map_err(|_| KeyFileError::Form {
        origin: path.display().to_string(),
        expected: "an authority's private key as `hansa authority new` makes it",
    })
}

/// Random bytes for a new key.
pub fn draw_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).expect("the operating system gives random bytes");
    seed
}

fn parse_identity(text: &str) -> Option<[u8; 32]> {
    let seed = text.strip_prefix(HEAD)?.strip_prefix('\n')?;
    BASE64.decode(seed.trim_end()).ok()?.try_into().ok()
}

fn write_private(path: &Path, text: &str) -> Result<(), KeyFileError> {
    let fault = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => KeyFileError::Exists(path.into()),
        _ => KeyFileError::File { path: path.into(), source },
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)
}

fn read_private(path: &Path) -> Result<String, KeyFileError> {
    let fault = |source| KeyFileError::File { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(fault)?;
    // Of the open file, not of the path: what is checked is what is read.
    let mode = file.metadata().map_err(fault)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.into(), mode });
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, BYTES_MAX), &mut text)
        .map_err(fault)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn an_identity_survives_its_file_and_is_never_overwritten() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        let key = create_identity(&path).unwrap();
        let seed = Secret::File(path.clone()).identity().unwrap();
        assert_eq!(SigningKey::from_seed(&seed).peer_id(), key.peer_id());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create_identity(&path), Err(KeyFileError::Exists(_))));
        assert_eq!(Secret::File(path).identity().unwrap(), seed);
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let folder = folder();
        let path = folder.path().join("identity.key");
        create_identity(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Secret::File(path).identity().unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("mode 640"), "{error}");
    }

    #[test]
    fn an_authority_key_survives_its_file_and_is_not_taken_for_an_identity() {
        let folder = folder();
        let path = folder.path().join("authority.key");
        let signer = SignerKey::new("test.example", draw_seed()).unwrap();
        write_signer(&path, &signer).unwrap();
        assert_eq!(read_signer(&path).unwrap().verifier(), signer.verifier());
        let error = Secret::File(path).identity().unwrap_err();
        assert!(matches!(error, KeyFileError::Form { .. }), "{error}");
    }
}
