//! Sequences of requests to models that carry a state from one to the next
//! ([`hansa_runtime::sequence`]).
//!
//! The entry keeps the states, and sends them as inputs like any: under the same policy, to whichever
//! peer is best for that request. So a sequence is bound to its entry, and to no executor; one that
//! dies costs a retry and no state. All requests of a sequence carry the same constraints, since a state
//! may go only where the data may that it was made of. They run one after the other, in the order in
//! which they came in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::http::StatusCode;
use bytes::Bytes;
use hansa_core::id::Digest;
use hansa_core::limits::NAME_BYTES_MAX;
use hansa_core::plan::Refusal;
use hansa_core::policy::Policy;
use hansa_runtime::check::{Head, InputLimits};
use hansa_runtime::sequence::{SequenceId, Step};
use hansa_runtime::tensor::Tensor;
use serde_json::Value;
use tokio::sync::Notify;

use super::call::{Called, Found, Named};
use super::loops::Course;
use super::v2::ApiError;
use crate::limits::{SEQUENCE_IDLE_MAX, SEQUENCE_STATE_BYTES_MAX, SEQUENCES_MAX};
use crate::node::Node;

/// The sequences that are under way at this entry.
#[derive(Debug, Default)]
pub struct Sequences(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<Key, Slot>,
    /// When idle ones were looked for.
    swept: Option<Instant>,
}

/// The model, as apps name it, and the sequence.
type Key = (String, SequenceId);

/// What a request demands, and which bundle it means: those of a sequence all say the same, for a
/// state goes nowhere that the data it was made of may not go.
type Terms = (Policy, Digest);

#[derive(Debug)]
struct Slot {
    /// What the last request left, by output, under which terms; none before the first was answered.
    kept: Option<(Terms, BTreeMap<String, Tensor>)>,
    used: Instant,
    /// Tickets of requests that have not ended; the smallest runs.
    waiting: BTreeSet<u64>,
    next: u64,
    /// Told when one ends.
    ended: Arc<Notify>,
}

/// A request's place in its sequence, taken when it came in.
#[derive(Debug)]
pub struct Turn {
    /// Where it stands.
    pub step: Step,
    key: Key,
    ticket: u64,
    ended: Arc<Notify>,
    sequences: Arc<Sequences>,
}

impl Turn {
    /// Takes out of a request's parameters which sequence it is of; none if it is of none. To be
    /// called in the order in which requests come in.
    ///
    /// # Errors
    /// They are not understood, or there are too many sequences.
    pub fn take(
        node: &Node,
        named: &Named,
        parameters: &mut BTreeMap<String, Value>,
    ) -> Result<Option<Self>, ApiError> {
        match step(parameters)? {
            None => Ok(None),
            Some(step) => node.sequences.turn(named.model.clone(), step, Instant::now()).map(Some),
        }
    }

    /// Waits for the requests before it. What its sequence left before a first one counts no more.
    async fn come(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.is_next() {
                break;
            }
            ended.await;
        }
        if self.step.start
            && let Some(slot) = self.sequences.lock().slots.get_mut(&self.key)
        {
            slot.kept = None;
        }
    }

    fn is_next(&self) -> bool {
        let table = self.sequences.lock();
        let slot = table.slots.get(&self.key);
        slot.is_none_or(|slot| slot.waiting.first() == Some(&self.ticket))
    }

    /// What the request before left.
    fn states(&self, terms: &Terms) -> Result<BTreeMap<String, Tensor>, ApiError> {
        if self.step.start {
            return Ok(BTreeMap::new());
        }
        let table = self.sequences.lock();
        let (model, id) = (&self.key.0, shown(&self.key.1));
        match table.slots.get(&self.key).and_then(|slot| slot.kept.as_ref()) {
            Some((own, states)) if own == terms => Ok(states.clone()),
            Some(_) => Err(ApiError::malformed(format!(
                "sequence {id} of model '{model}' keeps the constraints and the version of its \
                 first request: say the same, or begin another"
            ))),
            None => Err(ApiError::malformed(format!(
                "inference request for sequence {id} to model '{model}' must specify the START flag \
                 on the first request of the sequence; it has not begun at this node, or was idle \
                 for {SEQUENCE_IDLE_MAX:?}"
            ))),
        }
    }

    /// Keeps what this request left, for the next one.
    fn keep(self, terms: Terms, mut states: BTreeMap<String, Tensor>) -> Result<(), ApiError> {
        let bytes: usize = states.values().map(|state| state.data.len()).sum();
        if bytes > SEQUENCE_STATE_BYTES_MAX {
            return Err(ApiError::too_large(format!(
                "the sequence's state has {bytes} bytes; at most {SEQUENCE_STATE_BYTES_MAX} are kept"
            )));
        }
        // A slice would keep the batch that it was a part of.
        states.values_mut().for_each(|state| state.data = Bytes::copy_from_slice(&state.data));
        if let Some(slot) = self.sequences.lock().slots.get_mut(&self.key) {
            slot.kept = Some((terms, states));
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.sequences.lock();
        if let Some(slot) = table.slots.get_mut(&self.key) {
            slot.waiting.remove(&self.ticket);
            slot.used = Instant::now();
            if self.step.end {
                slot.kept = None;
            }
            if slot.waiting.is_empty() && slot.kept.is_none() {
                table.slots.remove(&self.key);
            }
        }
        drop(table);
        self.ended.notify_waiters();
    }
}

impl Sequences {
    fn turn(self: &Arc<Self>, model: String, step: Step, now: Instant) -> Result<Turn, ApiError> {
        let key = (model, step.id.clone());
        let mut table = self.lock();
        let sweep = SEQUENCE_IDLE_MAX / 4;
        if table.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= sweep) {
            table.slots.retain(|_, slot| !slot.is_idle(now));
            table.swept = Some(now);
        }
        if table.slots.len() >= SEQUENCES_MAX && !table.slots.contains_key(&key) {
            let message = format!("{SEQUENCES_MAX} sequences are under way here, the most");
            let code = StatusCode::SERVICE_UNAVAILABLE;
            return Err(ApiError::new(code, "too_many_sequences", message).after(sweep));
        }
        let slot = table.slots.entry(key.clone()).or_insert_with(|| Slot {
            kept: None,
            used: now,
            waiting: BTreeSet::new(),
            next: 0,
            ended: Arc::default(),
        });
        let ticket = slot.next;
        slot.next += 1;
        slot.waiting.insert(ticket);
        let ended = slot.ended.clone();
        drop(table);
        Ok(Turn { step, key, ticket, ended, sequences: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no holder panics")
    }
}

impl Slot {
    fn is_idle(&self, now: Instant) -> bool {
        self.waiting.is_empty() && now.saturating_duration_since(self.used) >= SEQUENCE_IDLE_MAX
    }
}

/// Which request of which sequence the parameters say; none where they say the defaults that
/// clients send with every request.
fn step(parameters: &mut BTreeMap<String, Value>) -> Result<Option<Step>, ApiError> {
    let id = match parameters.remove("sequence_id") {
        None => None,
        Some(Value::String(text)) if text.len() > NAME_BYTES_MAX => {
            let message = format!("sequence_id has more than {NAME_BYTES_MAX} bytes");
            return Err(ApiError::malformed(message));
        }
        Some(Value::String(text)) => {
            Some(text).filter(|text| !text.is_empty()).map(SequenceId::Text)
        }
        Some(value) => match value.as_u64() {
            Some(number) => Some(number).filter(|number| *number > 0).map(SequenceId::Number),
            None => {
                let message = format!("sequence_id is {value}, neither a number nor a text");
                return Err(ApiError::malformed(message));
            }
        },
    };
    let mut flag = |key: &str| match parameters.remove(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => {
            Err(ApiError::malformed(format!("parameter `{key}` is {other}, not true or false")))
        }
    };
    let (start, end) = (flag("sequence_start")?, flag("sequence_end")?);
    match id {
        None if start || end => {
            Err(ApiError::malformed("sequence_start and sequence_end need a sequence_id"))
        }
        None => Ok(None),
        Some(id) => Ok(Some(Step { id, start, end })),
    }
}

fn shown(id: &SequenceId) -> String {
    match id {
        SequenceId::Number(number) => number.to_string(),
        SequenceId::Text(text) => text.clone(),
    }
}

impl Found {
    /// Answers a request, in its turn if its model's come in sequences.
    ///
    /// # Errors
    /// Its inputs or outputs are not the model's, nobody could or would run it, or its sequence has
    /// not begun here.
    pub async fn answer(
        &mut self,
        node: &Arc<Node>,
        course: Course,
        mut inputs: Vec<Tensor>,
        mut outputs: Vec<String>,
    ) -> Result<Called, ApiError> {
        let model = self.name();
        if let Some(steps) = course.steps_max {
            return Err(ApiError::malformed(format!(
                "model '{model}' answers once, so steps_max {steps} says nothing: leave it out, or put \
                 a loop.json into its bundle"
            )));
        }
        let (sequence, turn) = match (&self.signature.sequence, course.turn) {
            (None, None) => loop {
                let order = self.order(node, inputs.clone(), outputs.clone())?;
                match self.run(node, order).await {
                    Err(error) if error.is_unknown_model() && self.renew(node).await => {}
                    ran => return ran,
                }
            },
            (Some(_), None) => {
                return Err(ApiError::malformed(format!(
                    "inference request to model '{model}' must specify a non-zero or non-empty \
                     correlation ID: its requests come in sequences, give sequence_id and \
                     sequence_start"
                )));
            }
            (None, Some(_)) => {
                return Err(ApiError::malformed(format!(
                    "model '{model}' keeps nothing between requests: leave sequence_id out, or put \
                     a sequence.json into its bundle"
                )));
            }
            (Some(sequence), Some(turn)) => (sequence, turn),
        };
        let policy = &self.demand().policy;
        if policy.retain_nothing && !turn.step.end {
            return Err(ApiError::unsupported(
                "Hansa-Retention: none lets nothing be kept, and a sequence keeps its state",
            ));
        }
        // Sizes are checked before anything is made by them.
        let shown = self.signature.for_apps();
        shown.check(inputs.iter().map(Head::from), &outputs, &InputLimits::default())?;
        let deadline = node.clock.instant(self.deadline()).into();
        let came = tokio::time::timeout_at(deadline, turn.come()).await;
        came.map_err(|_| Refusal::Deadline)?;
        let terms = (policy.clone(), self.resolved.bundle);
        let states = turn.states(&terms)?;
        let rows = self.rows(&inputs);
        let brought = self.signature.brought(&turn.step, &states, rows);
        inputs.extend(brought.map_err(ApiError::malformed)?);
        if !outputs.is_empty() {
            outputs.extend(sequence.states.keys().cloned());
        }
        let order = self.order(node, inputs, outputs)?;
        let mut called = self.run(node, order).await?;
        let mut states = BTreeMap::new();
        for output in std::mem::take(&mut called.answer.outputs) {
            match sequence.states.contains_key(&output.name) {
                true => drop(states.insert(output.name.clone(), output)),
                false => called.answer.outputs.push(output),
            }
        }
        turn.keep(terms, states)?;
        Ok(called)
    }
}

#[cfg(test)]
mod tests {
    use hansa_runtime::tensor::DType;
    use serde_json::json;

    use super::*;

    fn read(parameters: Value) -> Result<Option<Step>, ApiError> {
        step(&mut serde_json::from_value(parameters).unwrap())
    }

    fn request(sequences: &Arc<Sequences>, start: bool, end: bool) -> Turn {
        let step = Step { id: SequenceId::Number(7), start, end };
        sequences.turn("m".into(), step, Instant::now()).unwrap()
    }

    fn terms(purpose: Option<&str>) -> Terms {
        let purpose = purpose.map(str::to_owned);
        (Policy { purpose, ..Policy::default() }, Digest([1; 32]))
    }

    fn left(byte: u8) -> BTreeMap<String, Tensor> {
        let data = Bytes::from(vec![byte]);
        let state = Tensor { name: "s".into(), dtype: DType::Uint8, shape: vec![1], data };
        [("s".to_owned(), state)].into()
    }

    async fn waits(turn: &Turn) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), turn.come()).await.is_err()
    }

    #[test]
    fn the_defaults_that_clients_send_are_no_sequence() {
        let defaults = json!({ "sequence_id": 0, "sequence_start": false, "sequence_end": false });
        assert_eq!(read(defaults).unwrap(), None);
        assert_eq!(read(json!({ "sequence_id": "" })).unwrap(), None);
        let first = read(json!({ "sequence_id": 7, "sequence_start": true })).unwrap().unwrap();
        assert_eq!(first, Step { id: SequenceId::Number(7), start: true, end: false });
        for bad in [
            json!({ "sequence_start": true }),
            json!({ "sequence_id": -1 }),
            json!({ "sequence_id": 1, "sequence_end": 1 }),
            json!({ "sequence_id": "x".repeat(1_000) }),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().status(), 400, "{bad}");
        }
    }

    #[tokio::test]
    async fn requests_take_turns_in_the_order_in_which_they_came() {
        let (sequences, terms) = (Arc::new(Sequences::default()), terms(None));
        let first = request(&sequences, true, false);
        let second = request(&sequences, false, true);
        first.come().await;
        assert!(waits(&second).await, "the first is not done");
        assert_eq!(first.states(&terms).unwrap(), BTreeMap::new());
        first.keep(terms.clone(), left(1)).unwrap();
        second.come().await;
        assert_eq!(second.states(&terms).unwrap(), left(1));
        second.keep(terms.clone(), left(2)).unwrap();
        assert!(sequences.lock().slots.is_empty(), "it ended");
        let refused = request(&sequences, false, false).states(&terms).unwrap_err();
        assert!(refused.to_string().contains("must specify the START flag"));
        assert!(sequences.lock().slots.is_empty(), "one that never began takes no place");
    }

    #[tokio::test]
    async fn one_that_leaves_before_its_turn_lets_nobody_overtake() {
        let sequences = Arc::new(Sequences::default());
        let first = request(&sequences, true, false);
        let second = request(&sequences, false, false);
        let third = request(&sequences, false, false);
        first.come().await;
        drop(second);
        assert!(waits(&third).await, "the first still runs");
        first.keep(terms(None), left(1)).unwrap();
        third.come().await;
        assert_eq!(third.states(&terms(None)).unwrap(), left(1));
    }

    #[tokio::test]
    async fn a_state_goes_only_where_the_data_may_that_it_was_made_of() {
        let sequences = Arc::new(Sequences::default());
        let first = request(&sequences, true, false);
        first.come().await;
        first.keep(terms(Some("care")), left(1)).unwrap();
        let next = request(&sequences, false, false);
        let refused = next.states(&terms(None)).unwrap_err();
        assert!(refused.to_string().contains("keeps the constraints"), "{refused}");
        assert_eq!(next.states(&terms(Some("care"))).unwrap(), left(1));
    }

    #[tokio::test]
    async fn a_first_request_that_fails_leaves_nothing_of_what_was_before() {
        let sequences = Arc::new(Sequences::default());
        let old = request(&sequences, true, false);
        old.come().await;
        old.keep(terms(None), left(1)).unwrap();
        let again = request(&sequences, true, false);
        again.come().await;
        drop(again);
        assert!(request(&sequences, false, false).states(&terms(None)).is_err());
    }

    #[test]
    fn a_state_that_is_too_large_is_refused_and_a_full_table_takes_no_more() {
        let (sequences, terms) = (Arc::new(Sequences::default()), terms(None));
        let mut states = left(1);
        states.get_mut("s").unwrap().data = vec![0; SEQUENCE_STATE_BYTES_MAX + 1].into();
        let refused = request(&sequences, true, false).keep(terms.clone(), states);
        assert_eq!(refused.unwrap_err().status(), 413);
        let turn = |number, now| {
            let step = Step { id: SequenceId::Number(number), start: true, end: false };
            sequences.turn("m".into(), step, now)
        };
        let now = Instant::now();
        for number in 0..SEQUENCES_MAX as u64 {
            turn(number, now).unwrap().keep(terms.clone(), left(1)).unwrap();
        }
        let full = turn(u64::MAX, now).unwrap_err();
        assert_eq!((full.status().as_u16(), full.retry_after_s().is_some()), (503, true));
        turn(u64::MAX, now + 2 * SEQUENCE_IDLE_MAX).expect("idle ones give way");
    }
}
