//! A batch over several peers: its rows are scattered, each share is a job of its own in the air,
//! and what comes back is put together in order. Who gets how many, `hansa_core::scatter` decides;
//! where the rows lie in a model's tensors, the runtime has found out.

use std::sync::Arc;

use futures::future::try_join_all;
use hansa_core::flight::Flight;
use hansa_core::plan::{Job, Refusal};
use hansa_core::receipt;
use hansa_core::scatter::{Share, scatter};
use hansa_core::survey::Preference;
use hansa_runtime::rows::{RowsError, join, split};
use hansa_runtime::tensor::Tensor;

use super::{Answer, Order};
use crate::node::Node;

impl Node {
    /// The shares of the job's batch, if it is to be spread.
    pub(super) fn scatter(&self, job: &Job) -> Result<Option<Vec<Share>>, Refusal> {
        let (view, now) = (self.view(), self.clock.now());
        let scatter = scatter(now, &view, &self.loads(), job)?;
        Ok(scatter.map(|scatter| scatter.shares))
    }

    /// Puts all shares in the air and gathers what they give. The first that is refused ends the
    /// batch, and the others are cancelled.
    pub(super) async fn gather(
        self: &Arc<Self>,
        order: &Order,
        shares: &[Share],
    ) -> Result<Answer, Refusal> {
        let signature = self.describe(order.job.bundle, &order.job.policy).await?;
        let unknown = || Refusal::Execution { reason: "the model's rows are not known".to_owned() };
        let axes = signature.row_axes().cloned().ok_or_else(unknown)?;
        let fault = |error: RowsError| Refusal::Execution { reason: error.to_string() };
        let counts: Vec<u32> = shares.iter().map(|share| share.rows).collect();
        let (inputs, along) = (order.inputs.clone(), axes.inputs.clone());
        let bytes = usize::try_from(order.job.bytes).unwrap_or(usize::MAX);
        let each = counts.clone();
        let parts = self.aside.run(bytes, move || split(&inputs, &along, &each)).await;
        let parts = parts.map_err(fault)?;
        metrics::counter!("hansa_rows_shards_total").increment(shares.len() as u64);
        let firsts = counts.iter().scan(0, |next, rows| {
            let first = *next;
            *next += rows;
            Some(first)
        });
        let flights = shares.iter().zip(parts).zip(firsts).map(|((share, inputs), first)| {
            let part = receipt::Share::Rows { first, rows: share.rows };
            let shard = Order {
                job: order.job.shard(self.draw_job(), share.rows, share.limit),
                inputs,
                outputs: order.outputs.clone(),
                trace: order.trace,
                evidence: order.evidence.shard(self, order.job.id, part),
            };
            let mut flight = Flight::begin(shard.job.clone());
            flight.prefer(vec![Preference { peer: share.peer, expected: share.cost.total() }]);
            async move { self.keep_up(&shard, flight).await }
        });
        let answers = try_join_all(flights).await?;
        let executed_by = answers.iter().flat_map(|answer| answer.executed_by.clone()).collect();
        let longest = |time: fn(&Answer) -> _| answers.iter().map(time).max().unwrap_or_default();
        let (queue, service) = (longest(|answer| answer.queue), longest(|answer| answer.service));
        let in_flight = answers.iter().map(|answer| answer.in_flight).max().unwrap_or_default();
        let price = answers.iter().flat_map(|answer| answer.price.amounts()).collect();
        let parts: Vec<Vec<Tensor>> = answers.into_iter().map(|answer| answer.outputs).collect();
        let bytes = total(&parts);
        let join = move || join(&parts, &axes.outputs, &counts);
        let outputs = self.aside.run(bytes, join).await;
        let outputs = outputs.map_err(fault)?;
        Ok(Answer {
            executed_by,
            outputs,
            queue,
            service,
            in_flight,
            price,
            receipt: None,
            is_kept: None,
        })
    }
}

/// Bytes of all tensors together.
fn total(parts: &[Vec<Tensor>]) -> usize {
    parts.iter().flatten().map(|tensor| tensor.data.len()).sum()
}
