//! What a config names must be there: the key, the charter and its authority, the models, the
//! certificate. Nothing is opened for good and nothing is changed.

use std::path::Path;
use std::time::Duration;

use hansa_core::charter::{Charter, CharterFault};
use hansa_core::id::PeerId;
use hansa_core::keys::SigningKey;
use hansa_core::limits::CHARTER_BYTES_MAX;
use hansa_core::time::Utc;

use super::{Config, ConfigErrors, ModelSource, Problem};

/// A charter that ends sooner than this is worth a warning.
const CHARTER_ENDS_SOON: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What a config that can run says of its node.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Findings {
    /// The node's id.
    pub peer_id: PeerId,
    /// Its charter.
    pub charter: Option<Charter>,
    /// What works and should be looked at.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Looks at every file that the config names, as of `now`.
    pub fn check(&self, now: Utc) -> Result<Findings, ConfigErrors> {
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let seed = self.identity.key_file.identity();
        let me = seed.map(|seed| SigningKey::from_seed(&seed).peer_id());
        let me = me.map_err(|error| {
            problems.push(self.problem("identity.key_file", error.to_string()));
        });
        let mut charter = None;
        if let (Some(path), Ok(me)) = (&self.identity.charter_file, me) {
            match self.check_charter(path, me, now) {
                Ok((read, warning)) => {
                    charter = Some(read);
                    warnings.extend(warning);
                }
                Err(reason) => problems.push(self.problem("identity.charter_file", reason)),
            }
        }
        for (index, model) in self.models.iter().enumerate() {
            let ModelSource::Path(path) = &model.source else { continue };
            if let Err(reason) = check_model(path) {
                problems.push(self.problem(&format!("model.{index}.path"), reason));
            }
        }
        if let Some(dir) = &self.repository.dir
            && !dir.is_dir()
        {
            let reason = format!("{} is not a folder", dir.display());
            problems.push(self.problem("repository.dir", reason));
        }
        if let Some(tls) = &self.api.tls {
            if let Err(error) = std::fs::File::open(&tls.cert) {
                let reason = format!("{}: {error}", tls.cert.display());
                problems.push(self.problem("api.tls.cert", reason));
            }
            if let Err(error) = tls.key.read() {
                problems.push(self.problem("api.tls.key", error.to_string()));
            }
        }
        problems.sort_by_key(|problem| problem.line);
        match me {
            Ok(peer_id) if problems.is_empty() => Ok(Findings { peer_id, charter, warnings }),
            _ => Err(ConfigErrors { file: self.source.file.clone(), problems }),
        }
    }

    /// The charter at `path`, and a warning if it ends soon.
    fn check_charter(
        &self,
        path: &Path,
        me: PeerId,
        now: Utc,
    ) -> Result<(Charter, Option<Problem>), String> {
        let at = path.display();
        let note = read_charter(path).map_err(|error| format!("{at}: {error}"))?;
        let charter = self.trust().verify(&note, me).map_err(|fault| match fault {
            CharterFault::UnknownAuthority(_) => {
                format!("{at}: {fault}; add an [[authority]] with its key")
            }
            CharterFault::ForeignKey(_) => format!("{at}: {fault}; this node is {me}"),
            _ => format!("{at}: {fault}"),
        })?;
        if now < charter.not_before {
            return Err(format!("{at}: the charter is not valid yet; is the clock right?"));
        }
        if !charter.valid_at(now) {
            return Err(format!("{at}: the charter has expired; ask the authority for a new one"));
        }
        let soon = !charter.valid_at(now + CHARTER_ENDS_SOON);
        let warning = soon.then(|| {
            let hours = (charter.not_after.0 - now.0) / 3_600_000;
            let left =
                if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) };
            self.problem("identity.charter_file", format!("the charter expires in {left}"))
        });
        Ok((charter, warning))
    }

    /// A problem at `spot`, which is `section.key`.
    fn problem(&self, spot: &str, message: String) -> Problem {
        let line = self.source.spots.get(spot).copied().unwrap_or(0);
        let (section, key) = spot.rsplit_once('.').unwrap_or(("", spot));
        let section = match section.split_once('.') {
            Some((list, index)) if index.parse::<usize>().is_ok() => format!("[{list}]"),
            _ => section.to_owned(),
        };
        Problem { line, section, key: key.to_owned(), message }
    }
}

/// The text of a charter. No more is read than a charter may have, and one byte.
fn read_charter(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let most = u64::try_from(CHARTER_BYTES_MAX).expect("a few thousand") + 1;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, most), &mut text)?;
    Ok(text)
}

fn check_model(path: &Path) -> Result<(), String> {
    let at = path.display();
    let meta = std::fs::metadata(path).map_err(|error| format!("{at}: {error}"))?;
    if meta.is_dir() {
        return match path.join("model.onnx").is_file() {
            true => Ok(()),
            false => Err(format!("{at} is a folder without model.onnx")),
        };
    }
    match path.extension().is_some_and(|extension| extension == "onnx") {
        true => Ok(()),
        false => Err(format!("{at} is neither an .onnx file nor a folder with model.onnx")),
    }
}
