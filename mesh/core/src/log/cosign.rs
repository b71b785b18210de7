//! Cosignatures (c2sp.org/tlog-cosignature, Ed25519): a peer's statement that it has seen a log at
//! a time, as the continuation of all that it saw of it before.
//!
//! Two clients that are shown different logs under one name find out as soon as their checkpoints
//! are cosigned by one honest peer. As with a log, a cosigner's name is its key:
//! `hansa.cosigner/12D3KooW…`.

use super::checkpoint::{Checkpoint, CheckpointFault};
use super::tree::extends;
use crate::codec::{Decode, Encode};
use crate::id::{Digest, PeerId};
use crate::keys::verify;
use crate::note::{self, ED25519_COSIGNATURE, Line, NoteFault, SignerKey, key_hash};
use crate::time::Utc;

/// What the name of every cosigner of ours begins with.
const NAME: &str = "hansa.cosigner/";

/// A cosignature that verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cosignature {
    /// Whose.
    pub peer: PeerId,
    /// When it was made, by the cosigner's clock, to the second.
    pub at: Utc,
}

/// What a cosigner answers, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CosignAnswer {
    /// The checkpoint with its signature, a note.
    Cosigned(String),
    /// It has seen the log when it had so many entries: the proof has to begin there.
    Seen(u64),
}

/// Why a checkpoint is not cosigned, or a cosignature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CosignFault {
    /// It is no checkpoint of a peer's log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFault),
    /// It does not continue the log that was seen before: kept together, both checkpoints prove
    /// that the log was forked or cut.
    #[error(
        "the log of {log} had {seen} entries, and what is shown of {size} does not continue it"
    )]
    Inconsistent {
        /// Whose log.
        log: PeerId,
        /// What was seen before.
        seen: u64,
        /// What is shown now.
        size: u64,
    },
    /// A line that cannot be checked.
    #[error("the signature line of `{0}` is neither the log's nor a peer's cosignature")]
    Unknown(String),
    /// A peer's line that does not hold.
    #[error("the cosignature of {0} does not verify")]
    Forged(PeerId),
    /// A log vouches for itself.
    #[error("the log of {0} cosigned itself")]
    Own(PeerId),
}

/// The name under which a peer cosigns.
pub fn name(peer: PeerId) -> String {
    format!("{NAME}{peer}")
}

/// Cosigns the checkpoint `note` at `at`, if it continues what was `seen` of that log before (its
/// size and root), as `proof` must show. `signer` is named by [`name`].
pub fn cosign(
    note: &str,
    seen: Option<(u64, Digest)>,
    proof: &[Digest],
    signer: &SignerKey,
    at: Utc,
) -> Result<(String, Checkpoint), CosignFault> {
    let (checkpoint, log) = Checkpoint::open(note)?;
    if let Some((size, root)) = seen
        && !extends((size, &root), (checkpoint.size, &checkpoint.root), proof)
    {
        return Err(CosignFault::Inconsistent { log, seen: size, size: checkpoint.size });
    }
    let seconds = at.0 / 1_000;
    let signature = signer.key().sign(message(&checkpoint.text(), seconds).as_bytes());
    let verifier = signer.verifier();
    let line = Line {
        name: &verifier.name,
        hash: key_hash(&verifier.name, ED25519_COSIGNATURE, &verifier.key),
        signature: [seconds.to_be_bytes().as_slice(), &signature].concat(),
    };
    let cosigned = note::add_line(note, &line).map_err(CheckpointFault::Note)?;
    Ok((cosigned, checkpoint))
}

/// The cosignatures on the checkpoint `note`, each of which must verify. A line that nobody can
/// check is a fault: whatever a proof carries counts.
pub fn cosignatures(note: &str) -> Result<Vec<Cosignature>, CosignFault> {
    let (checkpoint, log) = Checkpoint::open(note)?;
    let (text, lines) = note::lines(note).map_err(CheckpointFault::Note)?;
    let mut found: Vec<Cosignature> = Vec::new();
    for line in lines {
        if line.name == checkpoint.origin && line.hash == key_hash(line.name, 1, &log.0) {
            continue;
        }
        let unknown = || CosignFault::Unknown(line.name.to_owned());
        let peer = line.name.strip_prefix(NAME).and_then(|id| id.parse::<PeerId>().ok());
        let peer = peer.filter(|peer| name(*peer) == line.name).ok_or_else(unknown)?;
        let seconds = read(&line, text, &peer.0).map_err(|fault| match fault {
            NoteFault::Forged(_) => CosignFault::Forged(peer),
            _ => unknown(),
        })?;
        if peer == log {
            return Err(CosignFault::Own(log));
        }
        if found.iter().any(|other| other.peer == peer) {
            return Err(unknown());
        }
        found.push(Cosignature { peer, at: Utc(seconds.saturating_mul(1_000)) });
    }
    Ok(found)
}

/// The time, in seconds, that a cosignature of `text` by the holder of `key` names.
fn read(line: &Line<'_>, text: &str, key: &[u8; 32]) -> Result<u64, NoteFault> {
    let fault = NoteFault::Malformed("not an Ed25519 cosignature");
    if line.hash != key_hash(line.name, ED25519_COSIGNATURE, key) {
        return Err(fault);
    }
    let (seconds, signature) = line.signature.split_first_chunk::<8>().ok_or(fault.clone())?;
    let seconds = u64::from_be_bytes(*seconds);
    if seconds > i64::MAX.unsigned_abs() {
        return Err(fault);
    }
    if !verify(key, message(text, seconds).as_bytes(), signature) {
        return Err(NoteFault::Forged(line.name.to_owned()));
    }
    Ok(seconds)
}

fn message(text: &str, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;
    use crate::keys::SigningKey;
    use crate::log::checkpoint::origin;
    use crate::log::tree::{Frontier, Node, includes, leaf_hash, prove_consistency};
    use crate::note::VerifierKey;

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn digest(text: &str) -> Digest {
        Digest(hex(text).try_into().unwrap())
    }

    /// A tree head of Sigsum's public tests (sigsum-go, pkg/proof), with its log's signature, a
    /// witness's cosignature of version 1, and one leaf's proof.
    #[test]
    fn a_published_cosigned_checkpoint_of_sigsum_verifies() {
        let log = "ac26c0a855ac451a6539478e1a160388f024b385f1363efcda470170076c01e5";
        let witness = "cbe357e6b464049e703b7be6c89201193acc2a18c095b0691aaf50b9b1e1578a";
        let origin =
            "sigsum.org/v1/tree/7c5fafc796c201e0fcd7567c5033a2777ec28363f54ea0ba97b57bece0d96acd";
        assert_eq!(Digest::of(&hex(log)).to_string()[7..], origin[19..]);
        let root = digest("3ddc56fd46e71e517b6936b977a457da7d398108141fcdf5c8386cdd724ab7a8");
        let checkpoint = Checkpoint { origin: origin.into(), size: 4, root };
        let signature = hex(concat!(
            "ccbdd8c784726b732b8edd2039fbad5506e4acccd56e3e5d86c0ee109b3d2662",
            "e6881fe3d09fc48f9ddd31494463c5ec44926ff9158785ad1dd9b5d6434b0804",
        ));
        let key: [u8; 32] = hex(log).try_into().unwrap();
        let line = Line { name: origin, hash: key_hash(origin, 1, &key), signature };
        let note = note::add_line(&checkpoint.text(), &line).unwrap();
        let verifier = VerifierKey { name: origin.into(), key };
        assert_eq!(note::open(&note, &[verifier]).unwrap().1, [origin]);

        let key: [u8; 32] = hex(witness).try_into().unwrap();
        let seconds = 1_683_202_758_u64;
        let signature = hex(concat!(
            "e8d6c447d7847d5c1431ef86f8c60fa0cbacd975388b2a8f202fe4b0f9d0d544",
            "989c9d9351752d86aae2df72b9d7135b6b09de2ccaa6d68edf638105d69be609",
        ));
        let mut line = Line {
            name: "example.org/witness",
            hash: key_hash("example.org/witness", ED25519_COSIGNATURE, &key),
            signature: [seconds.to_be_bytes().as_slice(), &signature].concat(),
        };
        assert_eq!(read(&line, &checkpoint.text(), &key), Ok(seconds));
        line.signature[7] ^= 1;
        assert!(matches!(read(&line, &checkpoint.text(), &key), Err(NoteFault::Forged(_))));

        // The leaf is the record's checksum, signature and key hash; the checksum is the
        // message's hash.
        let message = [[b' '; 26].as_slice(), b"foo-4\n"].concat();
        let submitter = hex("c74b7315630804141db0f88c27c53fe7fcbf59e6ca35a4abaad789ec6b2bc208");
        let leaf = [
            Digest::of(&message).0.to_vec(),
            hex(concat!(
                "79b489a38548a67d78f06221b014d41be58b703237d17b4f203f0dd4ead9e259",
                "7149c2f118894581ce7473a61fa880716af6ff2138bade2cecc4b297099bf104",
            )),
            Digest::of(&submitter).0.to_vec(),
        ];
        let proof = [
            digest("61010ae798308f5b97237615ab8c1b14f2c782c37616e97d0a170b617bc7a4ce"),
            digest("a5c3752be610d605ce5c64ee2e28ee5b94a1cc0a68742f18f24c9b5c82d07298"),
        ];
        assert!(includes(4, &root, 3, &leaf_hash(&leaf.concat()), &proof));
    }

    /// A checkpoint of a log of Certificate Transparency that the public network of witnesses
    /// cosigned in May 2026, with the keys that the log and one witness publish.
    #[test]
    fn a_checkpoint_that_public_witnesses_cosigned_verifies() {
        let log = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f";
        let witness = "BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
        let note = "\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
";
        let key: VerifierKey = log.parse().unwrap();
        // The log signs in two ways, of which one is a note's; lines of others are passed over.
        assert_eq!(note::open(note, std::slice::from_ref(&key)).unwrap().1, [key.name]);
        let (text, lines) = note::lines(note).unwrap();
        assert_eq!(text.parse::<Checkpoint>().unwrap().size, 1_432_088_532);
        let witness = BASE64.decode(witness).unwrap();
        assert_eq!(witness[0], ED25519_COSIGNATURE);
        let witness: [u8; 32] = witness[1..].try_into().unwrap();
        let line = lines.into_iter().find(|line| line.name == "remora.n621.de").unwrap();
        assert_eq!(read(&line, text, &witness), Ok(1_779_573_024));
        for bit in 0..line.signature.len() * 8 {
            let mut changed = Line { signature: line.signature.clone(), ..line };
            changed.signature[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed, text, &witness).is_err(), "bit {bit}");
        }
        let other = text.replace("1432088532", "1432088533");
        assert!(matches!(read(&line, &other, &witness), Err(NoteFault::Forged(_))));
    }

    #[test]
    fn lines_and_messages_have_the_published_form() {
        // The example of the specification, which names no key.
        let line = "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==";
        let body =
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let note = format!("{body}\n— witness.example.com/w1 {line}\n");
        let (text, lines) = note::lines(&note).unwrap();
        assert_eq!(lines[0].hash, [0x8d, 0x66, 0xcf, 0x3f]);
        assert_eq!(lines[0].signature.len(), 8 + 64);
        assert_eq!(lines[0].signature[..8], 1_679_315_147_u64.to_be_bytes());
        let expected = format!("cosignature/v1\ntime 1679315147\n{body}");
        assert_eq!(message(text, 1_679_315_147), expected);
        // A key's hash, from sigsum-go.
        let mut key = [0; 32];
        key[..9].copy_from_slice(&hex("01452c8346344492f8"));
        let hash = key_hash("example.org/key", ED25519_COSIGNATURE, &key);
        assert_eq!(hash, [0x57, 0xbf, 0xe5, 0x80]);
    }

    struct Log {
        peer: PeerId,
        signer: SignerKey,
        frontier: Frontier,
        nodes: std::collections::BTreeMap<Node, Digest>,
    }

    impl Log {
        fn new(seed: u8) -> Self {
            let peer = SigningKey::from_seed(&[seed; 32]).peer_id();
            let signer = SignerKey::new(&origin(peer), [seed; 32]).unwrap();
            Self { peer, signer, frontier: Frontier::default(), nodes: Default::default() }
        }

        fn grow(&mut self, entries: &[&str]) -> (String, (u64, Digest)) {
            for entry in entries {
                let nodes = &mut self.nodes;
                self.frontier.push(leaf_hash(entry.as_bytes()), |node, hash| {
                    nodes.insert(node, hash);
                });
            }
            let (size, root) = (self.frontier.size(), self.frontier.root());
            let checkpoint = Checkpoint { origin: origin(self.peer), size, root };
            (checkpoint.sign(&self.signer).unwrap(), (size, root))
        }

        fn proof(&self, old: u64) -> Vec<Digest> {
            let read = |node| Ok::<_, ()>(self.nodes[&node]);
            prove_consistency(old, self.frontier.size(), read).unwrap()
        }
    }

    fn cosigner(seed: u8) -> (PeerId, SignerKey) {
        let peer = SigningKey::from_seed(&[seed; 32]).peer_id();
        (peer, SignerKey::new(&name(peer), [seed; 32]).unwrap())
    }

    #[test]
    fn peers_cosign_what_continues_and_nothing_else() {
        let mut log = Log::new(1);
        let (a, b) = (cosigner(2), cosigner(3));
        let at = Utc(1_800_000_000_999);
        let (first, seen) = log.grow(&["a", "b", "c"]);
        let (note, _) = cosign(&first, None, &[], &a.1, at).unwrap();
        let (note, _) = cosign(&note, None, &[], &b.1, at).unwrap();
        // To the second, and once for each peer.
        let (note, _) = cosign(&note, None, &[], &a.1, Utc(1_800_000_005_000)).unwrap();
        let expected = [
            Cosignature { peer: b.0, at: Utc(1_800_000_000_000) },
            Cosignature { peer: a.0, at: Utc(1_800_000_005_000) },
        ];
        assert_eq!(cosignatures(&note), Ok(expected.to_vec()));
        assert_eq!(Checkpoint::open(&note).unwrap().1, log.peer);

        let (second, _) = log.grow(&["d", "e"]);
        assert!(cosign(&second, Some(seen), &log.proof(3), &a.1, at).is_ok());
        let mut fork = Log::new(1);
        let (forked, _) = fork.grow(&["a", "b", "x", "d", "e"]);
        let fault = cosign(&forked, Some(seen), &fork.proof(3), &a.1, at).unwrap_err();
        assert_eq!(fault, CosignFault::Inconsistent { log: log.peer, seen: 3, size: 5 });
        let mut cut = Log::new(1);
        let (shorter, _) = cut.grow(&["a", "b"]);
        assert!(matches!(
            cosign(&shorter, Some(seen), &[], &a.1, at),
            Err(CosignFault::Inconsistent { size: 2, .. })
        ));
    }

    #[test]
    fn a_line_that_cannot_be_checked_is_a_fault() {
        let mut log = Log::new(1);
        let (note, _) = log.grow(&["a"]);
        let a = cosigner(2);
        let own = SignerKey::new(&name(log.peer), [1; 32]).unwrap();
        let (vain, _) = cosign(&note, None, &[], &own, Utc(0)).unwrap();
        assert_eq!(cosignatures(&vain), Err(CosignFault::Own(log.peer)));
        let stranger = SignerKey::new("example.org/witness", [9; 32]).unwrap();
        let strange = stranger.sign(&note).unwrap();
        assert_eq!(cosignatures(&strange), Err(CosignFault::Unknown("example.org/witness".into())));
        // A plain signature is not a cosignature.
        let plain = a.1.sign(&note).unwrap();
        assert_eq!(cosignatures(&plain), Err(CosignFault::Unknown(name(a.0))));
        let (good, _) = cosign(&note, None, &[], &a.1, Utc(5_000)).unwrap();
        let line = good.lines().last().unwrap();
        let blob = line.rsplit_once(' ').unwrap().1;
        let other_time = format!("{}B{}", &blob[..15], &blob[16..]);
        assert_eq!(cosignatures(&good.replace(blob, &other_time)), Err(CosignFault::Forged(a.0)));
        let twice = format!("{good}{line}\n");
        assert!(matches!(cosignatures(&twice), Err(CosignFault::Unknown(_))));
    }
}
