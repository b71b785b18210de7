//! A second opinion on who may see a job's data, written from the words of the design and without
//! the gate, the charter reader or the intersection of policies: it looks at what was meant (the
//! truth of a made-up peer, the laws as they were drawn), and asks each law by itself.

use std::collections::BTreeSet;

use hansa_core::place::Place;
use hansa_core::policy::{Bounds, Clause};

/// What is true of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    /// Whether authorities that this mesh trusts vouch for all of the below.
    pub(crate) vouched: bool,
    /// From this second of UTC…
    pub(crate) from: u64,
    /// …to before this one.
    pub(crate) until: u64,
    pub(crate) location: &'static str,
    pub(crate) control: &'static str,
    pub(crate) operator: &'static str,
    pub(crate) authorities: BTreeSet<String>,
    pub(crate) data_classes: BTreeSet<String>,
}

/// Whether `law` lets the peer see data at `utc_ms`.
pub(crate) fn may_see(law: &Bounds, peer: &Truth, utc_ms: u64) -> bool {
    if !peer.vouched || utc_ms < peer.from * 1_000 || utc_ms >= peer.until * 1_000 {
        return false;
    }
    let signed = peer.authorities.iter().filter(|name| named(&law.authorities, name)).count();
    signed >= usize::from(law.signatures_min).max(1)
        && lies_in(&law.locations, peer.location)
        && lies_in(&law.control, peer.control)
        && named(&law.operators, peer.operator)
        && law.data_classes.iter().all(|class| peer.data_classes.contains(class))
}

fn named(clause: &Clause<String>, value: &str) -> bool {
    let listed = |set: &BTreeSet<String>| set.iter().any(|one| one == value);
    !listed(&clause.deny) && clause.allow.as_ref().is_none_or(listed)
}

/// Denied is what is listed, what lies in it, and what is too vague to be outside of it.
fn lies_in(clause: &Clause<Place>, place: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('-'))
    };
    let denied = |listed: &Place| inside(place, listed.as_str()) || inside(listed.as_str(), place);
    let allowed = |listed: &Place| inside(place, listed.as_str());
    !clause.deny.iter().any(denied)
        && clause.allow.as_ref().is_none_or(|allow| allow.iter().any(allowed))
}
