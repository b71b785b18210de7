//! A receipt on its way into the log.

use hansa_core::id::{Digest, JobId};
use hansa_core::receipt::{Receipt, ReceiptFault, Salt, leaf};

/// A sealed receipt, and what is kept apart from it.
#[derive(Clone)]
pub struct Entry {
    /// The receipt's bytes.
    pub bytes: Vec<u8>,
    /// Its leaf in the log: what the receipt of a job lists of its parts.
    pub leaf: Digest,
    /// What opens its commitments.
    pub salt: Salt,
    /// The job that it speaks of.
    pub job: JobId,
    /// The charter of its keeper that it names.
    pub charter: Digest,
    /// Whether it is acknowledged only when no loss of power can lose it.
    pub is_durable: bool,
}

impl Entry {
    /// Seals a receipt.
    pub fn seal(receipt: &Receipt, salt: Salt) -> Result<Self, ReceiptFault> {
        let bytes = receipt.seal()?;
        let (job, charter) = (receipt.job, receipt.keeper().charter);
        Ok(Self { leaf: leaf(&bytes), bytes, salt, job, charter, is_durable: false })
    }

    /// The same, to be acknowledged only when no loss of power can lose it.
    pub fn durable(self) -> Self {
        Self { is_durable: true, ..self }
    }

    /// An entry as it was kept.
    pub(super) fn open(bytes: Vec<u8>, salt: Salt) -> Result<Self, ReceiptFault> {
        let receipt = Receipt::open(&bytes)?;
        let (job, charter) = (receipt.job, receipt.keeper().charter);
        Ok(Self { leaf: leaf(&bytes), bytes, salt, job, charter, is_durable: true })
    }
}
