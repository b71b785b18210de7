//! One run of one session: tensors in, tensors out, whatever happens in between. Which job runs
//! when is [`crate::engine`]'s.

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ort::memory::Allocator;
use ort::session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue};

use crate::engine::{EngineError, Request};
use crate::limits::ROWS_FOUND_WITHIN;
use crate::rows::RowAxes;
use crate::separable::row_axes;
use crate::tensor::{Signature, Tensor};
use crate::values::{Input, output, symbols, zeros};

/// What stops an instance's run from outside.
pub(crate) struct Slot {
    /// The job that runs. Held while `options` change, so that no job is stopped for another.
    job: Mutex<Option<u64>>,
    options: RunOptions<NoSelectedOutputs>,
}

impl Slot {
    pub(crate) fn new() -> ort::Result<Self> {
        Ok(Self { job: Mutex::new(None), options: RunOptions::new()? })
    }

    pub(crate) fn set(&self, job: Option<u64>) -> ort::Result<()> {
        let mut running = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        *running = job;
        if job.is_none() { self.options.unterminate() } else { Ok(()) }
    }

    pub(crate) fn stop(&self, job: u64) {
        let running = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if *running == Some(job)
            && let Err(error) = self.options.terminate()
        {
            tracing::warn!(%error, "a run could not be stopped");
        }
    }
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
pub(crate) fn warm_up(
    session: &mut Session,
    slot: &Slot,
    signature: &Signature,
) -> Option<Duration> {
    let inputs = signature.inputs.iter().map(|spec| zeros(&spec.name, spec.datatype, &spec.shape));
    let inputs = inputs.collect::<Option<Vec<_>>>()?;
    let request = Request { inputs, outputs: Vec::new(), deadline: None };
    let allocator = Allocator::default();
    guarded(session, slot, &allocator, &request)
        .inspect_err(|error| tracing::debug!(%error, "the model does not run on zeros"))
        .ok()?;
    let started = Instant::now();
    guarded(session, slot, &allocator, &request).ok()?;
    Some(started.elapsed())
}

/// The axes of the model's rows, if the time suffices to find out. A model that fails on the way is
/// none the worse: its batches stay whole.
pub(crate) fn find_rows(
    session: &mut Session,
    slot: &Slot,
    signature: &Signature,
) -> Option<RowAxes> {
    /// No job runs yet, so its id is free.
    const EXPERIMENT: u64 = 0;
    slot.set(Some(EXPERIMENT)).ok()?;
    let symbols: Vec<Vec<String>> = session.inputs().iter().map(symbols).collect();
    let allocator = Allocator::default();
    let (over, watch) = channel::<()>();
    let found = thread::scope(|scope| {
        scope.spawn(move || {
            if watch.recv_timeout(ROWS_FOUND_WITHIN) == Err(RecvTimeoutError::Timeout) {
                slot.stop(EXPERIMENT);
            }
        });
        let found = row_axes(signature, &symbols, |inputs| {
            let request = Request { inputs, outputs: Vec::new(), deadline: None };
            guarded(session, slot, &allocator, &request).ok()
        });
        drop(over);
        found
    });
    slot.set(None).ok()?;
    tracing::debug!(?found, "whether rows can be run apart");
    found
}
