//! C2SP signed notes (c2sp.org/signed-note): a text, a blank line, and signature lines
//! `— NAME BASE64`, where the base64 holds a 4-byte key hash and an Ed25519 signature of the text.
//!
//! Keys have the text forms of Go's sumdb: `NAME+HASH+BASE64(0x01 ‖ public key)` to verify,
//! `PRIVATE+KEY+NAME+HASH+BASE64(0x01 ‖ seed)` to sign.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};

use crate::keys::{SigningKey, verify};

/// The algorithm byte of Ed25519.
const ED25519: u8 = 1;
/// That of Ed25519 cosignatures with a time (c2sp.org/tlog-cosignature).
pub(crate) const ED25519_COSIGNATURE: u8 = 4;
/// More signatures on one note are refused.
const SIGNATURES_MAX: usize = 16;

/// Why a note or a key is not one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NoteFault {
    /// Not a note's form.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// Not a key's form.
    #[error("not a key of the form {0}")]
    Key(&'static str),
    /// A signature by a known key does not verify: the text was changed.
    #[error("the signature of `{0}` does not verify: the text was changed or the key is another's")]
    Forged(String),
}

/// The public half of a signer: its name and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    /// The name that signature lines carry.
    pub name: String,
    /// Ed25519 public key.
    pub key: [u8; 32],
}

/// A signer: a name and a private key.
pub struct SignerKey {
    name: String,
    seed: [u8; 32],
    key: SigningKey,
}

impl VerifierKey {
    fn hash(&self) -> [u8; 4] {
        key_hash(&self.name, ED25519, &self.key)
    }
}

/// The 4 bytes that say which key a signature is of, and by which algorithm.
pub(crate) fn key_hash(name: &str, algorithm: u8, key: &[u8; 32]) -> [u8; 4] {
    let bytes = [name.as_bytes(), b"\n", &[algorithm], key].concat();
    digest(&SHA256, &bytes).as_ref()[..4].try_into().expect("four of 32 bytes")
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64.encode([&[ED25519], self.key.as_slice()].concat());
        write!(f, "{}+{:08x}+{key}", self.name, u32::from_be_bytes(self.hash()))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteFault;
    fn from_str(text: &str) -> Result<Self, NoteFault> {
        let fault = NoteFault::Key("NAME+HASH+BASE64 (as `hansa authority new` prints it)");
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(fault);
        };
        let key = key_bytes(key).ok_or(fault.clone())?;
        let parsed = Self { name: name.into(), key };
        let agrees = hash == format!("{:08x}", u32::from_be_bytes(parsed.hash()));
        if agrees && is_name(name) { Ok(parsed) } else { Err(fault) }
    }
}

impl SignerKey {
    /// The signer `name` whose key follows from `seed`.
    pub fn new(name: &str, seed: [u8; 32]) -> Result<Self, NoteFault> {
        if !is_name(name) {
            return Err(NoteFault::Malformed("a name is not empty and has no space and no +"));
        }
        Ok(Self { name: name.into(), key: SigningKey::from_seed(&seed), seed })
    }

    /// The public half.
    pub fn verifier(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), key: self.key.public() }
    }

    /// The private text form. It is a secret.
    pub fn secret_text(&self) -> String {
        let seed = BASE64.encode([&[ED25519], self.seed.as_slice()].concat());
        let hash = u32::from_be_bytes(self.verifier().hash());
        format!("PRIVATE+KEY+{}+{hash:08x}+{seed}", self.name)
    }

    /// Reads the private text form.
    pub fn from_secret_text(text: &str) -> Result<Self, NoteFault> {
        let fault = NoteFault::Key("PRIVATE+KEY+NAME+HASH+BASE64");
        let rest = text.trim().strip_prefix("PRIVATE+KEY+").ok_or(fault.clone())?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(hash), Some(seed)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(fault);
        };
        let key = Self::new(name, key_bytes(seed).ok_or(fault.clone())?)?;
        let agrees = hash == format!("{:08x}", u32::from_be_bytes(key.verifier().hash()));
        if agrees { Ok(key) } else { Err(fault) }
    }

    /// Adds this signer's line to a note, in place of an earlier one, or makes a note of a bare
    /// text.
    pub fn sign(&self, note: &str) -> Result<String, NoteFault> {
        let text = split(note).map_or(note, |(text, _)| text);
        check_text(text)?;
        let (hash, signature) = (self.verifier().hash(), self.key.sign(text.as_bytes()));
        add_line(note, &Line { name: &self.name, hash, signature: signature.to_vec() })
    }

    /// The key itself, for what is signed otherwise than as a note's text.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// A signature line of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The signer's name.
    pub(crate) name: &'a str,
    /// Which key, and by which algorithm.
    pub(crate) hash: [u8; 4],
    /// What the algorithm made.
    pub(crate) signature: Vec<u8>,
}

/// The note with `line`, instead of an earlier one by the same key if there is one.
pub(crate) fn add_line(note: &str, line: &Line<'_>) -> Result<String, NoteFault> {
    let (text, others) = match split(note) {
        Some(_) => lines(note)?,
        None => (note, Vec::new()),
    };
    let others = others.iter().filter(|other| (other.name, other.hash) != (line.name, line.hash));
    let mut signed = format!("{text}\n");
    for Line { name, hash, signature } in others.chain([line]) {
        let signature = BASE64.encode([hash.as_slice(), signature].concat());
        signed.push_str(&format!("— {name} {signature}\n"));
    }
    Ok(signed)
}

/// The text of `note` and its signature lines, none of them verified.
pub(crate) fn lines(note: &str) -> Result<(&str, Vec<Line<'_>>), NoteFault> {
    let (text, lines) = split(note).ok_or(NoteFault::Malformed("it has no signature"))?;
    check_text(text)?;
    let mut parsed = Vec::new();
    // Not `str::lines`, which would pass over a carriage return.
    for line in lines.trim_end_matches('\n').split('\n') {
        if parsed.len() >= SIGNATURES_MAX {
            return Err(NoteFault::Malformed("it has too many signatures"));
        }
        let fault = NoteFault::Malformed("a signature line is not `— NAME BASE64`");
        let (name, signature) =
            line.strip_prefix("— ").and_then(|line| line.split_once(' ')).ok_or(fault.clone())?;
        let signature = BASE64.decode(signature).map_err(|_| fault.clone())?;
        let Some((hash, signature)) = signature.split_first_chunk::<4>() else {
            return Err(fault);
        };
        if !is_name(name) || signature.is_empty() {
            return Err(fault);
        }
        parsed.push(Line { name, hash: *hash, signature: signature.to_vec() });
    }
    Ok((text, parsed))
}

/// The text of `note` and the names of those of `known` whose signatures verify. Lines of unknown
/// signers are passed over; a known signer's bad signature is an error.
pub fn open<'a>(note: &'a str, known: &[VerifierKey]) -> Result<(&'a str, Vec<String>), NoteFault> {
    let (text, lines) = lines(note)?;
    let mut signers = Vec::new();
    for Line { name, hash, signature } in lines {
        let Some(key) = known.iter().find(|key| key.name == name && key.hash() == hash) else {
            continue;
        };
        if !verify(&key.key, text.as_bytes(), &signature) {
            return Err(NoteFault::Forged(name.into()));
        }
        if !signers.contains(&key.name) {
            signers.push(key.name.clone());
        }
    }
    Ok((text, signers))
}

/// Names of all signature lines, verified or not: for showing a note.
pub fn signer_names(note: &str) -> Vec<String> {
    let lines = split(note).map_or("", |(_, lines)| lines).lines();
    let name = |line: &str| Some(line.strip_prefix("— ")?.split_once(' ')?.0.to_owned());
    lines.filter_map(name).collect()
}

/// The text, its last newline included, and the signature lines.
fn split(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    let (text, lines) = (&note[..=at], &note[at + 2..]);
    // `rfind` took the last blank line, so none is left among the signatures.
    (lines.starts_with("— ") && lines.ends_with('\n')).then_some((text, lines))
}

fn check_text(text: &str) -> Result<(), NoteFault> {
    if !text.ends_with('\n') {
        return Err(NoteFault::Malformed("its text does not end with a newline"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(NoteFault::Malformed("its text has control characters"));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let is_strange = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !name.is_empty() && !name.contains(is_strange)
}

fn key_bytes(text: &str) -> Option<[u8; 32]> {
    let bytes = BASE64.decode(text).ok()?;
    let (algorithm, key) = bytes.split_first()?;
    if *algorithm == ED25519 { key.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Go's golang.org/x/mod/sumdb/note.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_published_note_of_go_verifies() {
        let key: VerifierKey = KEY.parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        let (text, signers) = open(NOTE, &[key]).unwrap();
        assert!(text.ends_with("problem is.\n"));
        assert_eq!(signers, ["PeterNeumann"]);
    }

    /// The keys of Go's note_test.go, and what its second signer adds.
    const SECRET: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
    const ENOCH_LINE: &str = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

    #[test]
    fn the_keys_of_go_sign_what_go_signs() {
        let peter = SignerKey::from_secret_text(SECRET).unwrap();
        assert_eq!(peter.secret_text(), SECRET);
        assert_eq!(peter.verifier().to_string(), KEY);
        let text = NOTE.split_once("\n\n").unwrap().0.to_owned() + "\n";
        assert_eq!(peter.sign(&text).unwrap(), NOTE);
        // Go's example draws the second key from zeros.
        let enoch = SignerKey::new("EnochRoot", [0; 32]).unwrap();
        assert_eq!(enoch.verifier().to_string(), ENOCH);
        let both = format!("{NOTE}{ENOCH_LINE}");
        assert_eq!(enoch.sign(NOTE).unwrap(), both);
        let [peter, enoch] = [KEY, ENOCH].map(|key| key.parse::<VerifierKey>().unwrap());
        let signers = |known: &[VerifierKey]| open(&both, known).unwrap().1.join(" ");
        assert_eq!(signers(std::slice::from_ref(&peter)), "PeterNeumann");
        assert_eq!(signers(&[peter, enoch]), "PeterNeumann EnochRoot");
        assert_eq!(signers(&[]), "");
    }

    #[test]
    fn a_signer_replaces_its_own_line() {
        let peter = SignerKey::from_secret_text(SECRET).unwrap();
        let line = NOTE.lines().last().unwrap();
        let spoiled = format!("{}{ENOCH_LINE}", NOTE.replace("/ZJkuBS9", "/AAkuBS9"));
        let signed = peter.sign(&spoiled).unwrap();
        assert_eq!(signed, NOTE.replace(line, &format!("{}{line}", ENOCH_LINE)));
    }

    #[test]
    fn no_part_and_no_mangling_of_a_key_is_a_key() {
        for key in [KEY, SECRET] {
            let is_key = |text: &str| match key == SECRET {
                true => SignerKey::from_secret_text(text).is_ok(),
                false => text.parse::<VerifierKey>().is_ok(),
            };
            assert!(is_key(key));
            for start in 0..key.len() {
                for end in start + 1..=key.len() {
                    let whole = start == 0 && end == key.len();
                    assert_eq!(is_key(&key[start..end]), whole, "{}", &key[start..end]);
                }
                let mut mangled = key.as_bytes().to_vec();
                mangled[start] += 1;
                let mangled = String::from_utf8(mangled).unwrap();
                assert!(!is_key(&mangled), "{mangled}");
            }
        }
        // Wrong length and unknown algorithm, the hash adjusted.
        for bad in [
            "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
            "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert!(bad.parse::<VerifierKey>().is_err());
        }
    }

    #[test]
    fn the_examples_of_the_specification_verify() {
        let key = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        let note = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
        let (text, signers) = open(note, &[key.parse().unwrap()]).unwrap();
        assert_eq!(
            (text, signers),
            ("This is an example message.\n", vec!["example.com/foo".into()])
        );
        // Its poem has an empty line, and a signer whose key is not given.
        let poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
        assert_eq!(open(poem, &[]).unwrap().0.lines().count(), 4);
    }

    #[test]
    fn a_changed_byte_of_a_note_is_found() {
        let key: VerifierKey = KEY.parse().unwrap();
        let changed = NOTE.replace("answer", "Answer");
        assert_eq!(open(&changed, &[key]), Err(NoteFault::Forged("PeterNeumann".into())));
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let key: VerifierKey = KEY.parse().unwrap();
        let line = NOTE.lines().last().unwrap();
        for bad in [
            String::new(),
            "no signature\n".to_owned(),
            "no blank line\n— PeterNeumann x08go/ZJ\n".to_owned(),
            NOTE.trim_end().to_owned(),
            NOTE.replace("— ", "- "),
            NOTE.replace("JnAM=", "JnAM"),
            NOTE.replace('\n', "\r\n"),
            NOTE.replace(line, &format!("{line}\r")),
            NOTE.replace(line, &format!("{line} ")),
            NOTE.replace("problem is.", "problem\u{7} is."),
            NOTE.replace(line, "— PeterNeumann x08g"),
            NOTE.replace("— PeterNeumann", "— Bad Name"),
            NOTE.replace("— PeterNeumann", "— Bell\u{7}"),
            format!("\u{1}{NOTE}"),
            format!("{NOTE}Unexpected line.\n"),
            NOTE.replace(line, &[line; SIGNATURES_MAX + 1].join("\n")),
        ] {
            let opened = open(&bad, std::slice::from_ref(&key));
            assert!(matches!(opened, Err(NoteFault::Malformed(_))), "{bad:?}: {opened:?}");
        }
        for bad in ["", "PeterNeumann", &KEY.replace("c74f20a3", "c74f20a4"), &KEY[..60]] {
            assert!(matches!(bad.parse::<VerifierKey>(), Err(NoteFault::Key(_))), "{bad}");
        }
        assert!(SignerKey::new("two words", [1; 32]).is_err());
        assert!(SignerKey::from_secret_text(KEY).is_err());
    }

    #[test]
    fn another_key_under_a_known_name_is_a_stranger() {
        let [mine, other] = [1, 2].map(|seed| SignerKey::new("a", [seed; 32]).unwrap());
        let note = other.sign("text\n").unwrap();
        assert_eq!(open(&note, &[mine.verifier()]).unwrap().1, Vec::<String>::new());
    }

    #[test]
    fn several_sign_one_text_and_unknown_signers_are_passed_over() {
        let [a, b] = [("a", [1; 32]), ("b", [2; 32])].map(|(n, s)| SignerKey::new(n, s).unwrap());
        let note = b.sign(&a.sign("text\n").unwrap()).unwrap();
        let both = open(&note, &[a.verifier(), b.verifier()]).unwrap();
        assert_eq!(both, ("text\n", vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(open(&note, &[b.verifier()]).unwrap().1, ["b"]);
        let again = SignerKey::from_secret_text(&a.secret_text()).unwrap();
        assert_eq!(again.verifier(), a.verifier());
    }
}
