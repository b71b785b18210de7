//! Runs many seeds at once, each in a thread of its own, and hands each result on as soon as it is
//! there. One line on standard error says how far they are.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::record::{Progress, record};
use crate::recording::Recording;
use crate::scenario::Scenario;

/// The line is drawn anew this often …
const REDRAW: Duration = Duration::from_millis(250);
/// … and where it goes to a file, a new one is written this often.
const REWRITE: Duration = Duration::from_secs(60);

/// What came of a seed.
#[derive(Debug)]
pub enum Finished {
    /// It ran to its end.
    Run(Box<Recording>),
    /// The simulator itself failed.
    Panicked {
        /// The seed.
        seed: u64,
        /// What it said.
        message: String,
    },
}

/// The least that repeats a run.
pub fn command(name: &str, seed: u64) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=".contains(c);
    if name.chars().all(plain) {
        return format!("hansa-sim run {name} --seeds {seed}");
    }
    format!("hansa-sim run '{}' --seeds {seed}", name.replace('\'', "'\\''"))
}

/// Runs `scenario` under each of `seeds`, at most `threads` at once, and calls `done` with each
/// result in the order in which they end. Stops starting new ones when `done` fails.
pub fn run_seeds<E>(
    scenario: &Scenario,
    seeds: &[u64],
    threads: usize,
    mut done: impl FnMut(Finished) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let progress: Vec<Progress> = seeds.iter().map(|_| Progress::default()).collect();
    let (sender, receiver) = channel();
    let mut line = Line::new(scenario, seeds.len());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, seeds.len().max(1)) {
            let (next, progress, sender) = (&next, &progress, sender.clone());
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(index).copied() else { return };
                    // First of all, so that a run that hangs can be repeated.
                    eprintln!("seed {seed}");
                    let run = || record(scenario, seed, &progress[index]);
                    let finished = match catch_unwind(AssertUnwindSafe(run)) {
                        Ok(recording) => Finished::Run(Box::new(recording)),
                        Err(panic) => {
                            let text = panic.downcast_ref::<String>().cloned();
                            let text =
                                text.or(panic.downcast_ref::<&str>().map(ToString::to_string));
                            Finished::Panicked { seed, message: text.unwrap_or_default() }
                        }
                    };
                    if sender.send(finished).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(REDRAW) {
                Ok(finished) => {
                    line.finished += 1;
                    line.clear();
                    if let Err(error) = done(finished) {
                        next.store(seeds.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => line.draw(&progress),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    })
}

/// The line on a terminal, drawn over the one before; in a file, one a minute.
struct Line {
    shown: bool,
    terminal: bool,
    started: Instant,
    written: Instant,
    seeds: usize,
    finished: usize,
    each: Duration,
}

impl Line {
    fn new(scenario: &Scenario, seeds: usize) -> Self {
        Self {
            shown: false,
            terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
            written: Instant::now(),
            seeds,
            finished: 0,
            each: scenario.duration(),
        }
    }

    fn draw(&mut self, progress: &[Progress]) {
        if !self.terminal && self.written.elapsed() < REWRITE {
            return;
        }
        self.written = Instant::now();
        let passed: f64 = progress.iter().map(|seed| seed.passed().as_secs_f64()).sum();
        let seeds = f64::from(u32::try_from(self.seeds).unwrap_or(u32::MAX));
        let part = (passed / (self.each.as_secs_f64() * seeds)).clamp(0.0, 1.0);
        let took = self.started.elapsed();
        let left = took.as_secs_f64() * (1.0 - part) / part.max(1e-6);
        let left = if part > 0.01 { format!(", {left:.0} s left") } else { String::new() };
        let line = format!(
            "{:.0} %  {} of {} seeds, {} s{left}",
            part * 100.0,
            self.finished,
            self.seeds,
            took.as_secs(),
        );
        if self.terminal {
            let bars = (0..30).map(|bar| if f64::from(bar) < part * 30.0 { '█' } else { '·' });
            eprint!("\r\x1b[2K{} {line}", bars.collect::<String>());
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
        self.shown = self.terminal;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_a_run_can_be_pasted() {
        assert_eq!(command("a/x=1.toml", 3), "hansa-sim run a/x=1.toml --seeds 3");
        assert_eq!(command("it's", 3), "hansa-sim run 'it'\\''s' --seeds 3");
    }

    #[test]
    fn all_seeds_run_whatever_the_number_of_threads_and_give_the_same() {
        let scenario = Scenario::parse("name = 'x'\npeers = 4\nseconds = 5").unwrap();
        let run = |threads| {
            let mut hashes = std::collections::BTreeMap::new();
            let finished = run_seeds(&scenario, &[1, 2, 3], threads, |finished| match finished {
                Finished::Run(recording) => {
                    hashes.insert(recording.seed, recording.hash);
                    Ok(())
                }
                Finished::Panicked { message, .. } => Err(message),
            });
            assert_eq!(finished, Ok(()));
            hashes
        };
        assert_eq!(run(1), run(3));
        assert_eq!(run(2).len(), 3);
    }
}
