//! Requests to models that answer step by step ([`hansa_runtime::loops`]).
//!
//! The entry runs the steps, each a job like any: it goes to whichever peer is best for it, and leaves
//! a receipt of its own. What a step leaves for the next is an input of that one, under the policy of
//! the request, so it goes nowhere that the request's own data may not go; and a peer that dies costs a
//! retry of one step. A deadline and a limit of price hold for all steps together; where nobody names
//! a deadline, each step has what a job has.
//!
//! A node that drains goes on with what has begun as long as it runs the steps itself: others take no
//! job of a peer that has left the mesh, so there it ends with their refusal.
//!
//! A step begins when it is asked for and not before: who reads slowly, or no more, holds up its own
//! request, and nothing piles up here. Dropping [`Steps`] cancels the step that runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use hansa_core::limits::DEADLINE_DEFAULT;
use hansa_core::plan::Refusal;
use hansa_core::price::{Amount, Bill};
use hansa_runtime::check::{Head, InputLimits};
use hansa_runtime::loops::Loop;
use hansa_runtime::tensor::Tensor;
use serde_json::Value;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::call::{Called, Found, Named};
use super::sequences::Turn;
use super::statistics::Served;
use super::v2::ApiError;
use crate::jobs::Order;
use crate::node::Node;

/// With this parameter an app asks for fewer steps than its model may make.
const STEPS_MAX: &str = "steps_max";

/// What an app says of how its request is to run.
#[derive(Debug)]
pub struct Course {
    /// Its place in a sequence, if it is of one.
    pub turn: Option<Turn>,
    /// Most steps, if it says so.
    pub steps_max: Option<u64>,
}

/// A request that is answered step by step.
pub struct Steps {
    node: Arc<Node>,
    found: Found,
    looped: Loop,
    /// What every step is given.
    constant: Vec<Tensor>,
    /// What the next step is given besides.
    states: Vec<Tensor>,
    /// Outputs wanted; none means all.
    wanted: Vec<String>,
    /// Steps that were made.
    made: u32,
    /// Steps that may still be made.
    left: u32,
    /// Rows of a step.
    rows: u32,
    /// Time that steps ran.
    service: Duration,
    /// What they cost.
    price: Bill,
    /// The drain waits for it.
    _counted: TaskTrackerToken,
}

impl Course {
    /// Takes it out of a request's parameters. To be called in the order in which requests come in.
    ///
    /// # Errors
    /// They are not understood, or there are too many sequences.
    pub fn take(
        node: &Node,
        named: &Named,
        parameters: &mut BTreeMap<String, Value>,
    ) -> Result<Self, ApiError> {
        let steps_max = steps_max(parameters)?;
        Ok(Self { turn: Turn::take(node, named, parameters)?, steps_max })
    }
}

fn steps_max(parameters: &mut BTreeMap<String, Value>) -> Result<Option<u64>, ApiError> {
    let Some(value) = parameters.remove(STEPS_MAX) else { return Ok(None) };
    let number = value.as_u64();
    let fault = || ApiError::malformed(format!("{STEPS_MAX} is {value}, not a number of steps"));
    number.ok_or_else(fault).map(Some)
}

/// Why a request is refused that has room for one answer only.
fn decoupled(message: String) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "decoupled", message)
}

impl Found {
    /// Whether its model answers step by step.
    pub fn is_looped(&self) -> bool {
        self.signature.looped.is_some()
    }

    /// Whether the request is answered once, as `way` must have it.
    ///
    /// # Errors
    /// Its model answers step by step. In the words of Triton.
    pub fn check_once(&self, way: &str) -> Result<(), ApiError> {
        if !self.is_looped() {
            return Ok(());
        }
        let model = self.name();
        Err(decoupled(format!(
            "{way} doesn't support models with decoupled transaction policy: '{model}' answers step \
             by step; ask POST /v2/models/{model}/generate_stream, or ModelStreamInfer over gRPC"
        )))
    }
}

impl Steps {
    /// Begins a request, and runs nothing yet.
    ///
    /// # Errors
    /// Its inputs or outputs are not the model's, or it asks for what such a model has not.
    pub fn begin(
        node: &Arc<Node>,
        found: Found,
        course: Course,
        inputs: Vec<Tensor>,
        wanted: Vec<String>,
    ) -> Result<Self, ApiError> {
        let model = found.name();
        let once = || ApiError::malformed(format!("model '{model}' answers once"));
        let looped = found.signature.looped.clone().ok_or_else(once)?;
        if course.turn.is_some() {
            return Err(ApiError::malformed(format!(
                "model '{model}' answers each request step by step and keeps nothing between \
                 requests: leave sequence_id out"
            )));
        }
        let left = match course.steps_max.map(u32::try_from) {
            None => looped.steps_max,
            Some(Ok(steps)) if (1..=looped.steps_max).contains(&steps) => steps,
            Some(_) => {
                let (given, most) = (course.steps_max.unwrap_or_default(), looped.steps_max);
                let message = format!("{STEPS_MAX} is {given}, not a number from 1 to {most}");
                return Err(ApiError::malformed(message));
            }
        };
        // Sizes are checked before anything is made by them.
        let (heads, limits) = (inputs.iter().map(Head::from), InputLimits::default());
        found.shown().check_without(heads, &wanted, &limits, |name| looped.begins(name))?;
        let rows = found.rows(&inputs);
        if rows != 1 && left > 1 && found.has_rows(&looped.more) {
            return Err(ApiError::malformed(format!(
                "model '{model}' says of each row whether it goes on, and rows of one request go on \
                 together: ask for one row at a time, not for {rows}"
            )));
        }
        let begun = found.signature.begun(&inputs, rows).map_err(ApiError::malformed)?;
        let (mut states, constant): (Vec<_>, Vec<_>) =
            inputs.into_iter().partition(|input| looped.begins(&input.name));
        states.extend(begun);
        Ok(Self {
            node: node.clone(),
            found,
            looped,
            constant,
            states,
            wanted,
            made: 0,
            left,
            rows: u32::try_from(rows).unwrap_or(u32::MAX),
            service: Duration::ZERO,
            price: Bill::default(),
            _counted: node.tasks.token(),
        })
    }

    /// The request.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Whether there is no further step.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// The next step's answer; none after the last. An error is the last.
    pub async fn next(&mut self) -> Option<Result<Called, ApiError>> {
        if self.is_over() { None } else { Some(self.make().await) }
    }

    /// The same where there is one, as there is at first.
    ///
    /// # Errors
    /// Nobody could or would run it.
    pub async fn make(&mut self) -> Result<Called, ApiError> {
        let made = self.step().await.map_err(|error| match self.made {
            0 => error,
            made => error.about(&format!("step {}", made + 1)),
        });
        match &made {
            Ok(_) => self.made += 1,
            Err(_) => self.left = 0,
        }
        if self.is_over() {
            let (rows, service, runs) = (self.rows, self.service, self.made);
            let served = made.is_ok().then_some(Served { rows, service, is_kept: None, runs });
            self.found.count(&self.node, served);
        }
        made
    }

    /// The answer of a request that has room for one only.
    ///
    /// # Errors
    /// It has more, or nobody could or would run it.
    pub async fn only(&mut self) -> Result<Called, ApiError> {
        let first = self.make().await?;
        if self.is_over() {
            return Ok(first);
        }
        self.found.count(&self.node, None);
        let model = self.found.name();
        let message = format!(
            "generate expects model to produce exactly 1 response, use generate stream for model \
             that generates various number of responses: '{model}' goes on after its first step; \
             ask POST /v2/models/{model}/generate_stream, or for {STEPS_MAX} 1 under `parameters`"
        );
        Err(decoupled(message).receipted(first.receipt))
    }

    async fn step(&mut self) -> Result<Called, ApiError> {
        let mut called = loop {
            let order = self.order()?;
            match self.found.go_on(&self.node, order).await {
                // What it has carried over is of the bundle that it began with.
                Err(error) if self.made == 0 && error.is_unknown_model() => {
                    if !self.found.renew(&self.node).await {
                        return Err(error);
                    }
                }
                ran => break ran?,
            }
        };
        let outputs = std::mem::take(&mut called.answer.outputs);
        let given = self.looped.take(outputs, &self.wanted, self.left <= 1);
        // It ran, and left a receipt.
        let given = given.map_err(|why| broken(why).receipted(called.receipt.clone()))?;
        called.answer.outputs = given.answers;
        self.states = given.states;
        self.left = if given.is_more { self.left.saturating_sub(1) } else { 0 };
        self.service += called.answer.service;
        self.price = self.price.amounts().chain(called.answer.price.amounts()).collect();
        Ok(called)
    }

    fn order(&self) -> Result<Order, ApiError> {
        let inputs = self.constant.iter().chain(&self.states).cloned().collect();
        let order = self.found.order(&self.node, inputs, self.looped.needed(&self.wanted));
        // What the app gave was checked, so it is what the model gave.
        let mut order = order.map_err(|error| match self.made {
            0 => error,
            _ => broken(error.to_string()),
        })?;
        if !order.job.is_timed {
            order.job.deadline = self.node.clock.now().mono + DEADLINE_DEFAULT;
        }
        if let Some(limit) = order.job.limit() {
            let micros = limit.micros.saturating_sub(self.price.micros(limit.currency));
            order.job = order.job.limited(Some(Amount { micros, ..limit }));
        }
        Ok(order)
    }
}

/// The model gave what it should not.
fn broken(reason: String) -> ApiError {
    Refusal::Execution { reason }.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_of_steps_is_a_number() {
        let read = |parameters: Value| steps_max(&mut serde_json::from_value(parameters).unwrap());
        assert_eq!(read(json!({})).unwrap(), None);
        assert_eq!(read(json!({ "steps_max": 7 })).unwrap(), Some(7));
        for bad in [json!("7"), json!(-1), json!(1.5), json!(true)] {
            let refused = read(json!({ "steps_max": bad })).unwrap_err();
            assert!(refused.to_string().contains("not a number of steps"), "{refused}");
        }
    }
}
