//! One run of one session: tensors in, tensors out, whatever happens in between. Which jobs run
//! when is [`crate::engine`]'s.

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use ort::memory::Allocator;
use ort::session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue};

use crate::declared::DeclaredError;
use crate::engine::{EngineError, Request};
use crate::limits::{BATCH_PROBE_ROWS, ROWS_FOUND_WITHIN};
use crate::queue::Run;
use crate::ragged::Ragged;
use crate::rows::RowAxes;
use crate::separable::{is_padded_alike, row_axes};
use crate::sharing::Sharing;
use crate::tensor::{Signature, Tensor};
use crate::values::{Input, output, symbols, zeros};

/// What stops an instance's run from outside.
pub(crate) struct Slot {
    /// The jobs that run and are still wanted. Held while `options` change, so that no job is
    /// stopped for another.
    jobs: Mutex<Vec<u64>>,
    options: RunOptions<NoSelectedOutputs>,
}

impl Slot {
    pub(crate) fn new() -> ort::Result<Self> {
        Ok(Self { jobs: Mutex::default(), options: RunOptions::new()? })
    }

    pub(crate) fn begin(&self, jobs: impl Iterator<Item = u64>) {
        let mut running = self.lock();
        running.clear();
        running.extend(jobs);
    }

    pub(crate) fn end(&self) -> ort::Result<()> {
        self.lock().clear();
        self.options.unterminate()
    }

    /// A job is not wanted any more; the run of which it was the last is stopped.
    pub(crate) fn leave(&self, job: u64) {
        let mut running = self.lock();
        let Some(place) = running.iter().position(|id| *id == job) else { return };
        running.swap_remove(place);
        if running.is_empty()
            && let Err(error) = self.options.terminate()
        {
            tracing::warn!(%error, "a run could not be stopped");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs requests of so many rows each as one batch, and each alone where that fails: one whose
/// values the model refuses must not spoil the others'.
pub(crate) fn run_together(
    session: &mut Session,
    slot: &Slot,
    allocator: &Allocator,
    requests: &[&Request],
    counts: &[u32],
    sharing: Option<&Sharing>,
) -> Vec<Result<Vec<Tensor>, EngineError>> {
    if let (Some(sharing), [_, _, ..]) = (sharing, requests) {
        let parts: Vec<Vec<Tensor>> =
            requests.iter().map(|request| request.inputs.clone()).collect();
        let outputs = sharing
            .run(&parts, counts, |inputs| guarded(session, slot, allocator, &whole(inputs)).ok());
        if let Some(parts) = outputs {
            return requests.iter().zip(parts).map(|(request, part)| pick(request, part)).collect();
        }
    }
    requests.iter().map(|request| guarded(session, slot, allocator, request)).collect()
}

/// A request of all outputs.
fn whole(inputs: Vec<Tensor>) -> Request {
    Request { inputs, outputs: Vec::new(), deadline: None, priority: 0 }
}

/// The outputs that a request wants, in its order.
fn pick(request: &Request, outputs: Vec<Tensor>) -> Result<Vec<Tensor>, EngineError> {
    if request.outputs.is_empty() {
        return Ok(outputs);
    }
    let wanted = request.outputs.iter().map(|name| {
        let found = outputs.iter().find(|output| output.name == *name).cloned();
        found.ok_or_else(|| EngineError::Failed { said: "an output is missing".into() })
    });
    wanted.collect()
}

/// A run that panics answers its job and leaves the engine going.
pub(crate) fn guarded(
    session: &mut Session,
    slot: &Slot,
    allocator: &Allocator,
    request: &Request,
) -> Result<Vec<Tensor>, EngineError> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(session, slot, allocator, request)));
    ran.unwrap_or_else(|panic| Err(EngineError::Failed { said: panic_message(&*panic) }))
}

fn run(
    session: &mut Session,
    slot: &Slot,
    allocator: &Allocator,
    request: &Request,
) -> Result<Vec<Tensor>, EngineError> {
    let inputs = request.inputs.iter().map(|tensor| Input::new(tensor, allocator));
    let inputs = inputs.collect::<ort::Result<Vec<_>>>().map_err(|error| fault(&error))?;
    let values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = request
        .inputs
        .iter()
        .zip(&inputs)
        .map(|(tensor, input)| (tensor.name.as_str().into(), input.value().into()))
        .collect();
    // All outputs are computed either way, and options that select some cannot be shared with
    // the thread that stops the run.
    let outputs = session.run_with_options(values, &slot.options);
    let mut outputs = outputs.map_err(|error| fault(&error))?;
    let names: Vec<String> = match &request.outputs[..] {
        [] => outputs.keys().map(str::to_owned).collect(),
        wanted => wanted.to_vec(),
    };
    let tensors = names.iter().map(|name| {
        let value = outputs.remove(name).ok_or_else(|| ort::Error::new("an output is missing"))?;
        output(name, value, &inputs)
    });
    tensors.collect::<ort::Result<Vec<_>>>().map_err(|error| fault(&error))
}

pub(crate) fn fault(error: &ort::Error) -> EngineError {
    let said = error.to_string();
    match error.code() {
        ort::ErrorCode::InvalidArgument => EngineError::Refused { said },
        _ => EngineError::Failed { said },
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or("it panicked".to_owned())
}

/// Runs the model on zeros, twice, since the first run also fills ONNX Runtime's arena. Models
/// that do not run on zeros are none the worse: their service time comes with their first job.
pub(crate) fn warm_up(session: &mut Session, slot: &Slot, signature: &Signature) -> Option<Run> {
    let inputs = signature.inputs.iter().map(|spec| zeros(&spec.name, spec.datatype, &spec.shape));
    try_out(session, slot, inputs.collect::<Option<_>>()?)
}

/// The same on [`BATCH_PROBE_ROWS`] rows: what more rows cost.
pub(crate) fn warm_up_rows(
    session: &mut Session,
    slot: &Slot,
    signature: &Signature,
    axes: &RowAxes,
) -> Option<Run> {
    let inputs = signature.inputs.iter().map(|spec| {
        let mut shape = spec.shape.clone();
        if let Some(axis) = axes.inputs.get(&spec.name) {
            *shape.get_mut(*axis)? = BATCH_PROBE_ROWS.into();
        }
        zeros(&spec.name, spec.datatype, &shape)
    });
    try_out(session, slot, inputs.collect::<Option<_>>()?)
}

fn try_out(session: &mut Session, slot: &Slot, inputs: Vec<Tensor>) -> Option<Run> {
    let bytes = inputs.iter().map(|input| input.data.len() as u64).sum();
    let (request, allocator) = (whole(inputs), Allocator::default());
    guarded(session, slot, &allocator, &request)
        .inspect_err(|error| tracing::debug!(%error, "the model does not run on zeros"))
        .ok()?;
    let started = Instant::now();
    guarded(session, slot, &allocator, &request).ok()?;
    Some(Run { bytes, took: started.elapsed() })
}

/// The axes of the model's rows, if the time suffices to find out. A model that fails on the way is
/// none the worse: its batches stay whole.
pub(crate) fn find_rows(
    session: &mut Session,
    slot: &Slot,
    signature: &Signature,
) -> Option<RowAxes> {
    let symbols: Vec<Vec<String>> = session.inputs().iter().map(symbols).collect();
    let found = experiment(session, slot, |run| row_axes(signature, &symbols, run));
    tracing::debug!(?found, "whether rows can be run apart");
    found.flatten()
}

/// How the model's jobs share runs, if they can: padded as its bundle declares, unless that shows to
/// change answers, or takes too long to find out.
///
/// # Errors
/// The declaration does not go with the model's rows.
pub(crate) fn find_sharing(
    session: &mut Session,
    slot: &Slot,
    signature: &Signature,
    ragged: Option<Ragged>,
) -> Result<Option<Sharing>, DeclaredError> {
    const IGNORED: &str = "requests are not padded as ragged.json says";
    let Some(rows) = signature.row_axes().cloned() else {
        if ragged.is_some() {
            tracing::warn!("{IGNORED}: the model's rows cannot be run together");
        }
        return Ok(None);
    };
    ragged.as_ref().map_or(Ok(()), |ragged| ragged.check(&rows))?;
    let mut sharing = Sharing { rows, ragged };
    if sharing.ragged.is_some() {
        let is_so = experiment(session, slot, |run| is_padded_alike(signature, &sharing, run));
        if is_so != Some(true) {
            tracing::warn!(
                "{IGNORED}: padded, the model gives something else, or fails, or is too slow to tell; \
                 name its mask, other axes or other values"
            );
            sharing.ragged = None;
        }
    }
    Ok(Some(sharing))
}

/// Lets the model be tried out for as long as that may take.
fn experiment<T>(
    session: &mut Session,
    slot: &Slot,
    find: impl FnOnce(&mut dyn FnMut(Vec<Tensor>) -> Option<Vec<Tensor>>) -> T,
) -> Option<T> {
    /// No job runs yet, so its id is free.
    const EXPERIMENT: u64 = 0;
    slot.begin([EXPERIMENT].into_iter());
    let allocator = Allocator::default();
    let (over, watch) = channel::<()>();
    let found = thread::scope(|scope| {
        scope.spawn(move || {
            if watch.recv_timeout(ROWS_FOUND_WITHIN) == Err(RecvTimeoutError::Timeout) {
                slot.leave(EXPERIMENT);
            }
        });
        let found = find(&mut |inputs| guarded(session, slot, &allocator, &whole(inputs)).ok());
        drop(over);
        found
    });
    slot.end().ok()?;
    Some(found)
}
