//! Two laws at once: an intersection, never more.

use std::collections::BTreeSet;

use hansa_core::charter::{Charter, CharterFault};
use hansa_core::gate::within;
use hansa_core::policy::{Bounds, Clause};
use hansa_core::time::Utc;
use proptest::prelude::*;

use crate::oracle::{Truth, may_see};
use crate::random::check;
use crate::world::{START, bounds, id, start, truth};

fn standing(truth: &Truth) -> Result<Charter, CharterFault> {
    Ok(Charter {
        serial: "1".into(),
        subject: id(0),
        location: truth.location.parse().unwrap(),
        operator: truth.operator.into(),
        lei: None,
        control: truth.control.parse().unwrap(),
        data_classes: truth.data_classes.clone(),
        not_before: Utc(truth.from * 1_000),
        not_after: Utc(truth.until * 1_000),
        authorities: truth.authorities.clone(),
    })
}

fn passes(law: &Bounds, truth: &Truth) -> bool {
    within(law, &standing(truth), start().utc).is_ok()
}

#[test]
fn the_gate_and_the_oracle_agree_on_every_law_and_charter() {
    check("gate = oracle", 4_000, &(bounds(), truth()), |(law, truth)| {
        let utc = start().utc;
        prop_assert_eq!(passes(&law, &truth), may_see(&law, &truth, utc.0));
        prop_assert!(utc.0 > START);
        Ok(())
    });
}

#[test]
fn what_passes_two_laws_narrowed_passes_each_of_them() {
    check("narrow never widens", 8_000, &(bounds(), bounds(), truth()), |(a, b, truth)| {
        let both = passes(&a, &truth) && passes(&b, &truth);
        prop_assert!(both || !passes(&a.narrow(&b), &truth), "{:?} widens", a.narrow(&b));
        Ok(())
    });
}

/// Where no law speaks of authorities, or only one signed, the intersection is exact.
#[test]
fn narrowed_laws_pass_exactly_what_passes_each_but_for_authorities() {
    check("narrow is exact", 8_000, &(bounds(), bounds(), truth()), |(mut a, mut b, mut truth)| {
        if truth.authorities.len() > 1 && truth.data_classes.is_empty() {
            truth.authorities = truth.authorities.into_iter().take(1).collect();
        } else {
            (a.authorities, b.authorities) = (Clause::default(), Clause::default());
        }
        let both = passes(&a, &truth) && passes(&b, &truth);
        prop_assert_eq!(both, passes(&a.narrow(&b), &truth));
        prop_assert_eq!(both, passes(&b.narrow(&a), &truth));
        Ok(())
    });
}

/// One law trusts alpha's word, the other beta's. A charter that both signed passes each, but
/// nobody whom both trust vouches for it, so that it does not pass the two at once.
#[test]
fn narrowed_laws_want_authorities_that_both_permit() {
    let trusts = |name: &str| Bounds {
        authorities: Clause { allow: Some([name.to_owned()].into()), deny: BTreeSet::new() },
        ..Bounds::default()
    };
    let truth = Truth {
        vouched: true,
        from: START - 1,
        until: START + 9,
        location: "DE",
        control: "DE",
        operator: "Acme Inc.",
        authorities: ["alpha".to_owned(), "beta".to_owned()].into(),
        data_classes: BTreeSet::new(),
    };
    let (alpha, beta) = (trusts("alpha"), trusts("beta"));
    assert!(passes(&alpha, &truth) && passes(&beta, &truth));
    assert!(!passes(&alpha.narrow(&beta), &truth));
}
