//! Checkpoints (c2sp.org/tlog-checkpoint): a log's size and root, as a note that its keeper signs.
//!
//! A log's origin names its keeper, `hansa.log/12D3KooW…`, and a peer's name is its key: nobody
//! needs a list of keys to check a checkpoint. Who stands behind the key, a charter says.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::id::{Digest, PeerId};
use crate::note::{self, NoteFault, SignerKey, VerifierKey};

/// What the origin of every log of ours begins with.
const ORIGIN: &str = "hansa.log/";

/// A log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries it has.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Digest,
}

/// Why a note is no checkpoint of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFault {
    /// No note, or a signature on it does not hold.
    #[error("checkpoint: {0}")]
    Note(#[from] NoteFault),
    /// Its lines are not those of a checkpoint.
    #[error("checkpoint: {0}")]
    Form(&'static str),
    /// It is not a peer's log.
    #[error("the checkpoint's origin `{0}` is not `hansa.log/` and a peer's id")]
    Origin(String),
    /// Its log did not sign it.
    #[error("the checkpoint is not signed by its log, {0}")]
    Unsigned(PeerId),
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.0))
    }

    /// The checkpoint as its keeper's note.
    pub fn sign(&self, signer: &SignerKey) -> Result<String, NoteFault> {
        signer.sign(&self.text())
    }

    /// Reads a note as a peer's checkpoint, which that peer must have signed. Other signatures are
    /// passed over; cosignatures are [`super::cosign`]'s.
    pub fn open(note: &str) -> Result<(Self, PeerId), CheckpointFault> {
        let (text, _) = note::lines(note)?;
        let checkpoint: Self = text.parse()?;
        let peer = keeper(&checkpoint.origin)
            .ok_or_else(|| CheckpointFault::Origin(checkpoint.origin.clone()))?;
        let key = VerifierKey { name: checkpoint.origin.clone(), key: peer.0 };
        match note::open(note, &[key])? {
            (_, signers) if signers.is_empty() => Err(CheckpointFault::Unsigned(peer)),
            _ => Ok((checkpoint, peer)),
        }
    }
}

/// The origin of a peer's log.
pub fn origin(peer: PeerId) -> String {
    format!("{ORIGIN}{peer}")
}

/// Whose log has this origin.
pub fn keeper(log: &str) -> Option<PeerId> {
    let peer = log.strip_prefix(ORIGIN)?.parse().ok()?;
    // Base58 has one text for each key, but that is not for us to rely on.
    (origin(peer) == log).then_some(peer)
}

/// The text of a checkpoint. Extension lines, which C2SP advises against, are refused.
impl FromStr for Checkpoint {
    type Err = CheckpointFault;
    fn from_str(text: &str) -> Result<Self, CheckpointFault> {
        let lines: Vec<&str> = text.split('\n').collect();
        let [origin, size, root, ""] = lines[..] else {
            return Err(CheckpointFault::Form("it is not three lines: origin, size and root"));
        };
        let size = decimal(size).ok_or(CheckpointFault::Form("its size is not a number"))?;
        let root = digest(root).ok_or(CheckpointFault::Form("its root is not a hash in base64"))?;
        if origin.is_empty() {
            return Err(CheckpointFault::Form("its origin is empty"));
        }
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

/// A number as it must be written: digits, and no zero before others.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A hash in base64.
pub(super) fn digest(text: &str) -> Option<Digest> {
    Some(Digest(BASE64.decode(text).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tree::leaf_hash;

    #[test]
    fn a_checkpoint_of_go_has_the_published_text() {
        let text =
            "go.sum database tree\n123456789012\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n";
        let checkpoint = Checkpoint {
            origin: "go.sum database tree".into(),
            size: 123_456_789_012,
            root: leaf_hash(b"hello world"),
        };
        assert_eq!(checkpoint.text(), text);
        assert_eq!(text.parse(), Ok(checkpoint));
    }

    #[test]
    fn a_checkpoint_that_the_go_database_signed_verifies() {
        let key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let note = "go.sum database tree\n35225469\nvt5T6GaLCXvyHFl9VUvvItR43XZxfLgftEcTyO3eJCQ=\n\
            \n— sum.golang.org Az3grpukl5AXaVfYkLiDGORx/DN2nlcS5kZHR5uYOBV2KA2HgXpD+gu9HHONebHLAyaKbbTM75QTtPydhKCExixSfwQ=\n";
        let (text, signers) = note::open(note, &[key.parse().unwrap()]).unwrap();
        assert_eq!(signers, ["sum.golang.org"]);
        assert_eq!(text.parse::<Checkpoint>().unwrap().size, 35_225_469);
    }

    /// That of c2sp.org/tlog-checkpoint has another origin than what was signed: it is the Go
    /// database's own of that size, whose key hash its line still has.
    #[test]
    fn the_example_of_the_specification_is_one_and_verifies_under_the_name_that_was_signed() {
        let key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let text =
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let line = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=";
        assert_eq!(text.parse::<Checkpoint>().unwrap().size, 20_852_163);
        let renamed = format!("{text}\n— example.com/behind-the-sofa {line}\n");
        assert_eq!(note::open(&renamed, &[key.parse().unwrap()]).unwrap().1.len(), 0);
        let signed = text.replace("example.com/behind-the-sofa", "go.sum database tree");
        let note = format!("{signed}\n— sum.golang.org {line}\n");
        let (text, signers) = note::open(&note, &[key.parse().unwrap()]).unwrap();
        assert_eq!((text, signers), (signed.as_str(), vec!["sum.golang.org".to_owned()]));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let good = "Log\n123\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n";
        assert!(good.parse::<Checkpoint>().is_ok());
        for (from, to) in [
            ("Log\n", "\n"),
            ("Log\n", ""),
            ("123", "0123"),
            ("123", "+123"),
            ("123", "-34"),
            ("123", "0x7b"),
            ("123", "3438945738945739845734895735"),
            ("wBb0=\n", "wBb0="),
            ("wBb0=\n", "wBTOOBIG=\n"),
            ("wBb0=\n", "wBb1=\n"),
            ("wBb0=\n", "wBb0=\nextension\n"),
            ("wBb0=\n", "wBb0=\n\n"),
        ] {
            let text = good.replacen(from, to, 1);
            assert!(text.parse::<Checkpoint>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_log_is_believed_by_its_own_key_only() {
        let [own, other] = [1, 2].map(|seed| {
            let peer = crate::keys::SigningKey::from_seed(&[seed; 32]).peer_id();
            (peer, SignerKey::new(&origin(peer), [seed; 32]).unwrap())
        });
        let checkpoint =
            Checkpoint { origin: origin(own.0), size: 7, root: leaf_hash(b"not asked here") };
        let note = checkpoint.sign(&own.1).unwrap();
        assert_eq!(Checkpoint::open(&note), Ok((checkpoint.clone(), own.0)));
        let foreign = checkpoint.sign(&other.1).unwrap();
        assert_eq!(Checkpoint::open(&foreign), Err(CheckpointFault::Unsigned(own.0)));
        let elsewhere = Checkpoint { origin: "example.com/log".into(), ..checkpoint };
        let fault = Checkpoint::open(&elsewhere.sign(&own.1).unwrap()).unwrap_err();
        assert_eq!(fault, CheckpointFault::Origin("example.com/log".into()));
    }
}
