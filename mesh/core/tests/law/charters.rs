//! What a charter must be: each fault has its own reason, and no changed bit passes.

use std::collections::BTreeSet;

use hansa_core::charter::{Authority, Charter, CharterFault, Trust};
use hansa_core::gate::{Rule, within};
use hansa_core::limits::CHARTER_BYTES_MAX;
use hansa_core::note::{NoteFault, SignerKey};
use hansa_core::policy::{Bounds, Clause};
use hansa_core::time::Utc;

use crate::world::id;

const FROM: u64 = 1_767_225_600_000; // 2026-01-01
const UNTIL: u64 = 1_769_904_000_000; // 2026-02-01

fn signer(name: &str) -> SignerKey {
    SignerKey::new(name, [name.as_bytes()[0]; 32]).unwrap()
}

fn authority(name: &str, countries: &[&str], operators: &[&str]) -> Authority {
    let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    Authority { key: signer(name).verifier(), countries: set(countries), operators: set(operators) }
}

/// `tuv` may say of two countries and one operator what it likes, `bund` anything.
fn trust() -> Trust {
    Trust::new(vec![
        authority("tuv", &["DE", "IE"], &["Nordlicht GmbH"]),
        authority("bund", &["*"], &["*"]),
    ])
}

fn charter() -> Charter {
    Charter {
        serial: "7f3a".into(),
        subject: id(0),
        location: "DE-BE".parse().unwrap(),
        operator: "Nordlicht GmbH".into(),
        lei: None,
        control: "DE".parse().unwrap(),
        data_classes: ["finance".to_owned(), "health".to_owned()].into(),
        not_before: Utc(FROM),
        not_after: Utc(UNTIL),
        authorities: BTreeSet::new(),
    }
}

fn verify(note: &str) -> Result<Charter, CharterFault> {
    trust().verify(note, id(0))
}

/// A note by `tuv` of the usual text with one replacement.
fn with(from: &str, to: &str) -> String {
    let text = charter().text();
    assert!(text.contains(from), "{from}");
    signer("tuv").sign(&text.replacen(from, to, 1)).unwrap()
}

#[test]
fn an_honest_charter_says_what_its_authority_said() {
    let note = charter().sign(&signer("tuv")).unwrap();
    let read = verify(&note).unwrap();
    let authorities = BTreeSet::from(["tuv".to_owned()]);
    assert_eq!(read, Charter { authorities, ..charter() });
    assert_eq!(Charter::read_unverified(&note).unwrap(), charter());
}

#[test]
fn a_changed_text_is_forged() {
    let note = charter().sign(&signer("tuv")).unwrap().replace("DE-BE", "DE-BY");
    assert_eq!(verify(&note), Err(CharterFault::Note(NoteFault::Forged("tuv".into()))));
}

#[test]
fn anothers_key_under_a_trusted_name_is_nobody() {
    let note = charter().sign(&SignerKey::new("tuv", [77; 32]).unwrap()).unwrap();
    assert_eq!(verify(&note), Err(CharterFault::UnknownAuthority("tuv".into())));
}

#[test]
fn a_charter_that_nobody_trusted_signed_names_its_signers() {
    let note = charter().sign(&signer("x")).unwrap();
    let note = signer("y").sign(&note).unwrap();
    assert_eq!(verify(&note), Err(CharterFault::UnknownAuthority("x, y".into())));
}

#[test]
fn a_stolen_charter_is_anothers() {
    let note = Charter { subject: id(5), ..charter() }.sign(&signer("tuv")).unwrap();
    assert_eq!(verify(&note), Err(CharterFault::ForeignKey(id(5))));
}

#[test]
fn an_authority_asserts_only_what_it_may() {
    let place = |text: &str| text.parse().unwrap();
    for (charter, what) in [
        (Charter { location: place("FR"), ..charter() }, "location FR"),
        (Charter { control: place("US"), ..charter() }, "control US"),
        (Charter { operator: "Acme".into(), ..charter() }, "operator Acme"),
    ] {
        let over = CharterFault::OverAsserting { authority: "tuv".into(), what: what.into() };
        let note = charter.sign(&signer("tuv")).unwrap();
        assert_eq!(verify(&note), Err(over.clone()));
        // Nor does the word of one who may make up for it: a signer that oversteps is not believed.
        assert_eq!(verify(&signer("bund").sign(&note).unwrap()), Err(over));
        assert!(verify(&charter.sign(&signer("bund")).unwrap()).is_ok());
    }
}

#[test]
fn a_charter_too_large_is_not_read() {
    let mut note = charter().sign(&signer("tuv")).unwrap();
    let padding = "x".repeat(100);
    for number in 0.. {
        if note.len() > CHARTER_BYTES_MAX {
            break;
        }
        note = signer(&format!("{padding}{number}")).sign(&note).unwrap();
    }
    assert_eq!(verify(&note), Err(CharterFault::TooLarge(note.len())));
}

#[test]
fn a_line_that_is_not_as_it_must_be_is_named() {
    let long = format!("operator {}", "x".repeat(257));
    for (from, to, line) in [
        ("hansa/charter/v1", "hansa/charter/v2", 1),
        ("serial 7f3a", "serial ", 2),
        ("serial 7f3a", "number 7f3a", 2),
        ("subject 12D3KooW", "subject QmW", 3),
        ("location DE-BE", "location Berlin", 4),
        ("location DE-BE", "location UK", 4),
        ("location DE-BE\n", "", 4),
        ("operator Nordlicht GmbH", &long, 5),
        ("control DE", "control de", 6),
        ("not-before 2026-01-01T00:00:00Z", "not-before yesterday", 8),
        ("not-before 2026-01-01T00:00:00Z", "not-before 1969-01-01T00:00:00Z", 8),
        ("not-after 2026-02-01T00:00:00Z", "not-after 2026-02-30T00:00:00Z", 9),
        ("not-after 2026-02-01T00:00:00Z\n", "", 9),
        ("not-after 2026-02-01T00:00:00Z", "not-after 2026-02-01T00:00:00Z\nnote x", 10),
        ("not-after 2026-02-01", "not-after 2026-01-01", 9),
        ("not-after 2026-02-01", "not-after 2025-12-31", 9),
    ] {
        let found = verify(&with(from, to));
        assert!(
            matches!(found, Err(CharterFault::Line { line: at, .. }) if at == line),
            "{to}: {found:?}"
        );
    }
    let ends = verify(&with("not-after 2026-02-01", "not-after 2026-01-01")).unwrap_err();
    assert!(ends.to_string().contains("ends before it begins"), "{ends}");
}

#[test]
fn one_meaning_has_one_text() {
    for (from, to) in [
        ("finance,health", "health,finance"),
        ("finance,health", "finance,health,health"),
        ("finance,health", "finance,,health"),
        ("finance,health", ",finance"),
        ("finance,health", ","),
        ("01-01T00:00:00Z", "01-01T00:00:00.000Z"),
        ("01-01T00:00:00Z", "01-01T00:00:00+00:00"),
        ("01-01T00:00:00Z", "01-01t00:00:00z"),
        ("01-01T00:00:00Z", "01-01T01:00:00+01:00"),
    ] {
        let found = verify(&with(from, to));
        assert!(matches!(found, Err(CharterFault::Line { .. })), "{to}: {found:?}");
    }
}

/// A text of the form may say something else than the charter that was to be signed.
#[test]
fn nothing_is_signed_that_reads_back_as_something_else() {
    let classes = |class: &str| BTreeSet::from([class.to_owned()]);
    for bad in [
        Charter { data_classes: classes("a,b"), ..charter() },
        Charter { data_classes: classes("-"), ..charter() },
        Charter { data_classes: classes(""), ..charter() },
        Charter { operator: "Acme\ncontrol US".into(), ..charter() },
        Charter { operator: String::new(), ..charter() },
        Charter { serial: "1\n".into(), ..charter() },
        Charter { not_after: Utc(FROM), ..charter() },
        Charter { not_after: Utc(u64::MAX), ..charter() },
    ] {
        assert!(bad.sign(&signer("tuv")).is_err(), "{bad:?}");
    }
    let none = Charter { data_classes: BTreeSet::new(), ..charter() };
    assert_eq!(verify(&none.sign(&signer("tuv")).unwrap()).unwrap().data_classes, BTreeSet::new());
}

#[test]
fn a_charter_counts_from_its_first_moment_to_before_its_last() {
    let standing = verify(&charter().sign(&signer("tuv")).unwrap());
    let at = |utc| within(&Bounds::default(), &standing, Utc(utc));
    assert_eq!(at(FROM - 1), Err(Rule::CharterExpired));
    assert_eq!(at(FROM), Ok(()));
    assert_eq!(at(UNTIL - 1), Ok(()));
    assert_eq!(at(UNTIL), Err(Rule::CharterExpired));
}

#[test]
fn without_a_charter_that_counts_nobody_passes() {
    let at = |standing| within(&Bounds::default(), &standing, Utc(FROM));
    assert_eq!(at(Err(CharterFault::Absent)), Err(Rule::NoCharter));
    assert_eq!(at(verify("no note")), Err(Rule::CharterInvalid));
    assert_eq!(at(verify(&charter().sign(&signer("x")).unwrap())), Err(Rule::CharterInvalid));
}

#[test]
fn k_of_n_authorities_must_have_signed() {
    let by = |names: &[&str]| {
        let mut note = charter().sign(&signer(names[0])).unwrap();
        for name in &names[1..] {
            note = signer(name).sign(&note).unwrap();
        }
        verify(&note)
    };
    let needs = |signatures_min| Bounds { signatures_min, ..Bounds::default() };
    let at = |bounds: &Bounds, standing| within(bounds, &standing, Utc(FROM));
    assert_eq!(at(&needs(1), by(&["tuv"])), Ok(()));
    assert_eq!(at(&needs(2), by(&["tuv"])), Err(Rule::Signatures));
    assert_eq!(at(&needs(2), by(&["tuv", "tuv"])), Err(Rule::Signatures), "one twice is one");
    assert_eq!(at(&needs(2), by(&["tuv", "x"])), Err(Rule::Signatures), "the unknown do not count");
    assert_eq!(at(&needs(2), by(&["tuv", "bund"])), Ok(()));
    assert_eq!(at(&needs(3), by(&["tuv", "bund"])), Err(Rule::Signatures));
    let deny = Clause { allow: None, deny: ["bund".to_owned()].into() };
    let without = Bounds { authorities: deny, ..needs(2) };
    assert_eq!(at(&without, by(&["tuv", "bund"])), Err(Rule::Signatures));
    assert_eq!(at(&Bounds { signatures_min: 0, ..without }, by(&["bund"])), Err(Rule::Authority));
}

#[test]
fn every_flipped_bit_of_a_charter_is_refused() {
    let note = charter().sign(&signer("tuv")).unwrap();
    let mut flips = 0;
    for bit in 0..note.len() * 8 {
        let mut bytes = note.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A charter arrives as a string: what is no UTF-8 is refused before it is read.
        let Ok(flipped) = String::from_utf8(bytes) else { continue };
        assert!(verify(&flipped).is_err(), "bit {bit}: {flipped}");
        flips += 1;
    }
    assert!(flips > 2_000, "{flips} flips");
}

/// A bit that is flipped in one signature of two may make that signer unknown, never the charter
/// another one.
#[test]
fn a_flipped_bit_of_two_signatures_adds_nothing() {
    let note = signer("bund").sign(&charter().sign(&signer("tuv")).unwrap()).unwrap();
    for bit in 0..note.len() * 8 {
        let mut bytes = note.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(flipped) = String::from_utf8(bytes) else { continue };
        let Ok(read) = verify(&flipped) else { continue };
        assert_eq!(read.authorities.len(), 1, "bit {bit}: {flipped}");
        assert_eq!(Charter { authorities: BTreeSet::new(), ..read }, charter());
    }
}

#[test]
fn what_is_no_note_is_refused_as_one() {
    let note = charter().sign(&signer("tuv")).unwrap();
    for (bad, why) in [
        (String::new(), "empty"),
        (charter().text(), "unsigned"),
        (note.trim_end().to_owned(), "no last newline"),
        (note.replace('\n', "\r\n"), "lines of another system"),
        (note.replace("— tuv ", "- tuv "), "a hyphen for a dash"),
        (note.replace("— tuv ", "— tuv  "), "two spaces"),
        (note.replace("Nordlicht GmbH", "Nordlicht\tGmbH"), "a control character"),
        (note.replace("=\n", "\n"), "base64 without its end"),
    ] {
        let found = verify(&bad);
        let refused = matches!(found, Err(CharterFault::Note(NoteFault::Malformed(_))));
        assert!(refused, "{why}: {found:?}");
    }
}
