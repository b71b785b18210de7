//! Classes of peers that the gate cannot tell apart: the same charter, promises, evidence and devices. A mesh of
//! ten thousand peers has a few hundred, so a policy is judged by class, and then once more of the
//! one peer that is chosen.

use crate::advert::Device;
use crate::charter::{Charter, CharterFault};
use crate::codec::encode;
use crate::id::Digest;
use crate::physics::Evidence;
use crate::terms::Terms;

/// What a class has in common, as a digest, so that nobody forges a peer into another's class.
/// Dates are not in it: validity in time is each charter's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(Digest);

impl Class {
    /// The class of a peer of this standing with these devices.
    pub(crate) fn of(
        standing: &Result<Charter, CharterFault>,
        terms: &Terms,
        evidence: Evidence,
        devices: &[Device],
    ) -> Self {
        let charter = match standing {
            Ok(charter) => Ok((
                charter.location.as_str(),
                charter.control.as_str(),
                charter.operator.as_str(),
                &charter.data_classes,
                &charter.authorities,
            )),
            Err(CharterFault::Absent) => Err(0u8),
            Err(CharterFault::Revoked { .. }) => Err(1),
            Err(CharterFault::Unchecked { .. }) => Err(2),
            Err(_) => Err(3),
        };
        let devices: Vec<(&str, u32)> = devices
            .iter()
            .map(|device| (device.provider.as_str(), device.memory_total_mib))
            .collect();
        Self(Digest::of(&encode(&(charter, terms, evidence as u8, devices))))
    }

    /// A class of its own for each name.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(Digest::of(name.as_bytes()))
    }
}
