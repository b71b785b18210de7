//! The newest receipts by their jobs, so that a proof is found at once.

use std::collections::{HashMap, VecDeque};

use hansa_core::id::JobId;

use crate::limits::AUDIT_RECENT_MAX;

/// The newest receipts by their jobs.
#[derive(Default)]
pub(super) struct Recent {
    index: HashMap<JobId, u64>,
    order: VecDeque<(JobId, u64)>,
}

impl Recent {
    /// Where the newest receipt of `job` is.
    pub(super) fn find(&self, job: JobId) -> Option<u64> {
        self.index.get(&job).copied()
    }

    /// Notes where a receipt is; the oldest gives way.
    pub(super) fn note(&mut self, job: JobId, index: u64) {
        if self.order.len() >= AUDIT_RECENT_MAX
            && let Some((oldest, at)) = self.order.pop_front()
            && self.index.get(&oldest) == Some(&at)
        {
            self.index.remove(&oldest);
        }
        self.index.insert(job, index);
        self.order.push_back((job, index));
    }
}
