//! A model is named, a bundle is meant: what a name means to one who may use only permitted peers.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::gate;
use crate::holders::{ModelVersion, Versions};
use crate::id::{Digest, IdError};
use crate::plan::Refusal;
use crate::policy::{Law, Policy};
use crate::time::Now;
use crate::view::View;

/// Versions that a message names.
const VERSIONS_SHOWN_MAX: usize = 8;
/// A name is a misspelling of another when so few characters differ…
const NEAR_EDITS_MAX: usize = 2;
/// …of names no longer than this…
const NEAR_BYTES_MAX: usize = 64;
/// …among so many. An unknown name must not cost more than a known one by much.
const NEAR_NAMES_MAX: usize = 1_024;

/// The model that an app means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The name, without a digest.
    pub name: String,
    /// The version.
    pub version: String,
    /// The bundle.
    pub bundle: Digest,
}

/// What an app means by `model`: `NAME`, or `NAME@sha256:…` for exactly that bundle. Without a
/// version, the highest.
pub fn resolve(
    now: Now,
    view: &View,
    model: &str,
    version: Option<&str>,
    policy: &Policy,
) -> Result<Resolved, Refusal> {
    let (name, exact) = match model.split_once('@') {
        Some((name, digest)) => {
            let digest = digest.parse().map_err(|error: IdError| Refusal::BadInput {
                reason: format!("`{model}`: {error}"),
            })?;
            (name, Some(digest))
        }
        None => (model, None),
    };
    let unknown = |hint| Refusal::UnknownModel { model: model.to_owned(), hint };
    let versions = view.index().named(name).ok_or_else(|| unknown(near(view, name)))?;
    // Highest first.
    let meant: Vec<(&ModelVersion, &BTreeSet<Digest>)> = versions
        .iter()
        .rev()
        .filter(|(held, _)| version.is_none_or(|wanted| held.0 == wanted))
        .filter(|(_, bundles)| exact.is_none_or(|digest| bundles.contains(&digest)))
        .collect();
    let (highest, bundles) = *meant
        .first()
        .ok_or_else(|| unknown(format!("; its versions are {}", offered(versions))))?;
    let resolved = |version: &ModelVersion, bundle| {
        Ok(Resolved { name: name.to_owned(), version: version.0.clone(), bundle })
    };
    if let Some(bundle) = exact {
        return resolved(highest, bundle);
    }
    if let ([_], 1) = (&meant[..], bundles.len()) {
        return resolved(highest, *bundles.first().expect("one"));
    }
    // Only what permitted peers hold counts: else a stranger that advertises a higher version, or
    // another bundle under the name, would decide what the name means for everybody.
    let law = Law::new(policy.clone());
    for (version, bundles) in &meant {
        let permitted = |bundle: &&Digest| is_offered(now, view, &law, **bundle);
        let digests: Vec<Digest> = bundles.iter().filter(permitted).copied().collect();
        match digests[..] {
            [] => {}
            [bundle] => return resolved(version, bundle),
            _ => return Err(Refusal::AmbiguousModel { model: model.to_owned(), digests }),
        }
    }
    // None is permitted: whichever is taken, the plan says why.
    resolved(highest, *bundles.first().expect("a version has a bundle"))
}

/// Whether a live peer that the law permits holds `bundle` now.
fn is_offered(now: Now, view: &View, law: &Law, bundle: Digest) -> bool {
    let here = view.get(view.me()).is_some_and(|entry| {
        let holds = entry.record.advert.models.iter().any(|held| held.bundle == bundle);
        holds && gate::admit_entry(law, bundle, &*entry.record, now.utc).is_ok()
    });
    let in_stages = || {
        view.stages(bundle).any(|(entry, _)| {
            let record = &*entry.record;
            if entry.record.advert.peer == view.me() {
                gate::admit_entry(law, bundle, record, now.utc).is_ok()
            } else {
                gate::admit(law, bundle, record, now.utc).is_ok()
            }
        })
    };
    here || in_stages()
        || view.permitted(law, bundle).all().any(|offer| {
            let record = &*view.entries()[offer.entry as usize].record;
            gate::admit(law, bundle, record, now.utc).is_ok()
        })
}

/// The highest versions, lowest first, for a message.
fn offered(versions: &Versions) -> String {
    let shown = versions.keys().skip(versions.len().saturating_sub(VERSIONS_SHOWN_MAX));
    let shown: Vec<&str> = shown.map(|version| version.0.as_str()).collect();
    shown.join(", ")
}

/// A name that is offered and near, for a message.
fn near(view: &View, name: &str) -> String {
    let name = name.to_lowercase();
    let distance = |known: &str| {
        let known = known.to_lowercase();
        if !name.is_empty() && (known.starts_with(&name) || name.starts_with(&known)) {
            return Some(0);
        }
        let alike = name.len().max(known.len()) <= NEAR_BYTES_MAX
            && name.len().abs_diff(known.len()) <= NEAR_EDITS_MAX;
        alike.then(|| edits(&name, &known)).filter(|edits| *edits <= NEAR_EDITS_MAX)
    };
    let names = view.index().names().take(NEAR_NAMES_MAX);
    let found = names.filter_map(|known| Some((distance(known)?, known))).min();
    found.map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?"))
}

/// How many characters are added, dropped or changed on the way from one text to the other.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, a) in (1..).zip(from.chars()) {
        let mut corner = std::mem::replace(&mut row[0], above);
        for (left, b) in to.chars().enumerate() {
            let changed = corner + usize::from(a != b);
            corner = row[left + 1];
            row[left + 1] = changed.min(corner + 1).min(row[left] + 1);
        }
    }
    row[row.len() - 1]
}
