//! The files of the law: the node's charter, and lists of revocations, of the config and as they came
//! from peers. A file that is not what it should be is told of once and changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::charter::{Charter, Trust};
use hansa_core::id::Digest;
use hansa_core::limits::{CHARTER_BYTES_MAX, DISPUTED_MAX, REVOCATION_BYTES_MAX};
use hansa_core::revocation::{Revocation, RevocationList, Revocations, Taken};
use hansa_core::time::Utc;

use crate::actors::peer::PeerMessage;
use crate::limits::{LAW_LOOK_EVERY, LISTS_KEPT_MAX};
use crate::node::Node;

/// Its operator hears of a charter that ends when so much of it is left.
const WARNINGS: [Duration; 4] = [
    Duration::from_secs(7 * 24 * 3_600),
    Duration::from_secs(24 * 3_600),
    Duration::from_secs(3_600),
    Duration::ZERO,
];

impl Node {
    /// Looks at the files now and then, for as long as it is polled.
    pub(super) async fn watch_files(&self) {
        let mut seen = BTreeMap::<PathBuf, String>::new();
        let mut warned = 0;
        loop {
            for path in &self.config.policy.revocations {
                if let Some(note) = changed(&mut seen, path, REVOCATION_BYTES_MAX).await {
                    self.take_list_file(path, &note);
                }
            }
            if let Some(path) = &self.config.identity.charter_file
                && let Some(note) = changed(&mut seen, path, CHARTER_BYTES_MAX).await
                && self.law.note().is_none_or(|known| *known != note)
                && self.renew(path, note).await == Renewal::Later
            {
                seen.remove(path);
            }
            warned = self.warn_of_expiry(warned);
            tokio::time::sleep(LAW_LOOK_EVERY).await;
        }
    }

    /// Takes a list of the config.
    fn take_list_file(&self, path: &Path, note: &str) {
        match RevocationList::verify(note, &self.trust, self.clock.now().utc) {
            Ok(list) => self.tell_peer(PeerMessage::Revocations(list)),
            Err(fault) => {
                tracing::error!(file = %path.display(), %fault, "list of revocations refused");
            }
        }
    }

    /// Takes a new charter, if it counts here and is valid. Otherwise the old one stands.
    async fn renew(&self, path: &Path, note: String) -> Renewal {
        let (file, utc) = (path.display(), self.clock.now().utc);
        let charter = match self.trust.verify(&note, self.me) {
            Ok(charter) if charter.valid_at(utc) => charter,
            Ok(charter) if utc < charter.not_before => {
                tracing::debug!(%file, serial = charter.serial, "new charter is not valid yet");
                return Renewal::Later;
            }
            Ok(charter) => {
                tracing::error!(%file, serial = charter.serial, "new charter refused: it has expired");
                return Renewal::Done;
            }
            Err(fault) => {
                tracing::error!(%file, %fault, "new charter refused; the old one stands");
                return Renewal::Done;
            }
        };
        // Receipts name it: it is in the log before the first of them.
        if let Some(audit) = &self.audit {
            let note = note.clone();
            if let Err(error) = audit.ask(move |log| log.add_charter(&note)).await {
                tracing::error!(%file, %error, "new charter cannot be logged yet");
                return Renewal::Later;
            }
        }
        let Charter { serial, location, not_after, .. } = &charter;
        tracing::info!(serial, %location, ?not_after, "new charter");
        metrics::counter!("hansa_charter_renewals_total").increment(1);
        self.law.note.store(Some(Arc::new(note)));
        self.tell_peer(PeerMessage::Refresh);
        Renewal::Done
    }

    /// Tells when the charter ends soon; `warned` counts how often that was done for this one.
    fn warn_of_expiry(&self, warned: usize) -> usize {
        let (charter, utc) = (self.law.charter(), self.clock.now().utc);
        let Ok(charter) = &*charter else { return warned };
        let left = Duration::from_millis(charter.not_after.0.saturating_sub(utc.0));
        metrics::gauge!("hansa_charter_seconds_left").set(left.as_secs_f64());
        let due = WARNINGS.iter().filter(|within| left <= **within).count();
        if due > warned {
            let (hours, serial) = (left.as_secs() / 3_600, &charter.serial);
            tracing::warn!(hours, serial, "the charter expires: put a new one in its file");
        }
        due
    }

    /// Keeps a list for the next start.
    pub fn keep_list(&self, list: &Arc<RevocationList>) {
        let taken = self.law.lists.lock().expect("no holder panics").take(list);
        metrics::gauge!("hansa_revoked_serials", "authority" => list.says.authority.clone())
            .set(list.says.serials.len() as f64);
        let Revocation { authority, epoch, serials, .. } = &list.says;
        tracing::info!(authority, epoch, serials = serials.len(), "list of revocations");
        let (folder, list) = (self.law.folder.clone(), Arc::clone(list));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&folder, &list, taken) {
                tracing::warn!(folder = %folder.display(), %error, "list cannot be kept");
            }
        });
    }
}

/// What became of a new charter.
#[derive(PartialEq, Eq)]
enum Renewal {
    /// It stands or is refused.
    Done,
    /// It is looked at again.
    Later,
}

/// The text of the file, if it is another than the last time. One that cannot be read is as before.
async fn changed(
    seen: &mut BTreeMap<PathBuf, String>,
    path: &Path,
    bytes_max: usize,
) -> Option<String> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&owned, bytes_max)).await.ok()?;
    let text = match read {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(file = %path.display(), %error, "cannot be read");
            return None;
        }
    };
    if seen.get(path) == Some(&text) {
        return None;
    }
    seen.insert(path.to_owned(), text.clone());
    Some(text)
}

/// No more is read than may be there, and one byte.
fn read(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(bytes_max).expect("a few thousand") + 1;
    io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(path)?, most), &mut text)?;
    Ok(text)
}

/// The lists that were kept. What does not count any more is left out.
pub(super) fn kept(folder: &Path, trust: &Trust, utc: Utc) -> Revocations {
    let mut lists = Revocations::default();
    let Ok(files) = std::fs::read_dir(folder) else { return lists };
    for file in files.flatten().take(LISTS_KEPT_MAX) {
        let note = read(&file.path(), REVOCATION_BYTES_MAX).unwrap_or_default();
        if let Ok(list) = RevocationList::verify(&note, trust, utc) {
            lists.take(&list);
        }
    }
    lists
}

/// One file for each authority, and one for each list that disputes it.
fn write(folder: &Path, list: &RevocationList, taken: Taken) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let Digest(name) = Digest::of(list.says.authority.as_bytes());
    let name: String = name[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let path = |number: usize| match number {
        0 => folder.join(format!("{name}.txt")),
        _ => folder.join(format!("{name}-{number}.txt")),
    };
    let number = match taken {
        Taken::Disputed => (1..DISPUTED_MAX).find(|number| !path(*number).exists()).unwrap_or(1),
        _ => 0,
    };
    let draft = folder.join(format!("{name}.draft"));
    std::fs::write(&draft, list.note())?;
    std::fs::rename(&draft, path(number))?;
    if number == 0 {
        // What disputed an older one is of no more use.
        (1..DISPUTED_MAX).for_each(|number| drop(std::fs::remove_file(path(number))));
    }
    Ok(())
}
