//! A server: slots, a queue that is first come first served, prefill and decode at a device's speed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hansa_core::quote::{Load, Reservations};
use hansa_core::time::Mono;

/// Work of one job on a device of speed 1.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Until the first byte.
    pub prefill: Duration,
    /// From the first byte to the last.
    pub decode: Duration,
}

/// What a job that got a slot will do.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Which.
    pub job: usize,
    /// From now to its first byte.
    pub first: Duration,
    /// From now to its last.
    pub last: Duration,
}

/// A job that runs.
#[derive(Clone, Copy, Debug)]
struct Run {
    since: Mono,
    first: Duration,
    last: Duration,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    slots: u16,
    speed: f64,
    /// Divides the speed: 10 is a gray failure.
    slowness: f64,
    up: bool,
    /// Mean time that a job holds a slot, and to its first byte, when nothing is wrong.
    nominal: (Duration, Duration),
    /// Mean time that a job holds a slot, learnt from those that ended.
    hold: Duration,
    /// Mean time to a job's first byte, learnt likewise.
    first: Duration,
    queue: VecDeque<(usize, Work)>,
    running: BTreeMap<usize, Run>,
    /// Its soft reservations.
    pub reservations: Reservations,
}

impl Server {
    /// An idle one. `typical` is what its advert says of its work.
    pub fn new(slots: u16, speed: f64, typical: Work) -> Self {
        let (hold, first) = (typical.prefill + typical.decode, typical.prefill);
        let nominal = (hold.div_f64(speed), first.div_f64(speed));
        Self {
            slots,
            speed,
            slowness: 1.0,
            up: true,
            nominal,
            hold: nominal.0,
            first: nominal.1,
            queue: VecDeque::new(),
            running: BTreeMap::new(),
            reservations: Reservations::default(),
        }
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a job has a slot.
    pub fn is_running(&self, job: usize) -> bool {
        self.running.contains_key(&job)
    }

    /// What it says of its load.
    pub fn load(&self) -> Load {
        let in_flight = self.running.len() + self.queue.len();
        let in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
        Load { in_flight, slots: self.slots, hold: self.hold, first: self.first }
    }

    /// Its load as who knows all sees it: slow when it is slow, out of reach when it is down.
    pub fn truth(&self) -> Load {
        let load = self.load();
        let in_flight = if self.up { load.in_flight } else { u32::MAX / 2 };
        let slow = |time: Duration| time.mul_f64(self.slowness);
        let (hold, first) = self.nominal;
        Load { in_flight, hold: slow(hold), first: slow(first), ..load }
    }

    /// A job arrives.
    pub fn push(&mut self, job: usize, work: Work) {
        self.queue.push_back((job, work));
    }

    /// Gives free slots to those that wait.
    pub fn start(&mut self, now: Mono) -> Option<Started> {
        if self.running.len() >= usize::from(self.slots) {
            return None;
        }
        let (job, work) = self.queue.pop_front()?;
        let pace = self.slowness / self.speed;
        let first = work.prefill.mul_f64(pace);
        let last = first + work.decode.mul_f64(pace);
        self.running.insert(job, Run { since: now, first, last });
        Some(Started { job, first, last })
    }

    /// A job ended, if it still ran.
    pub fn done(&mut self, job: usize) -> bool {
        let Some(run) = self.running.remove(&job) else { return false };
        self.hold = (self.hold * 63 + run.last) / 64;
        self.first = (self.first * 7 + run.first) / 8;
        true
    }

    /// Nobody wants the job any more. One that ran longer than most tells how slow the server is.
    pub fn cancel(&mut self, job: usize, now: Mono) {
        self.queue.retain(|(queued, _)| *queued != job);
        let Some(run) = self.running.remove(&job) else { return };
        let so_far = now.since(run.since);
        if so_far > self.hold {
            self.hold = (self.hold * 63 + so_far) / 64;
        }
        if so_far.min(run.first) > self.first {
            self.first = (self.first * 7 + so_far.min(run.first)) / 8;
        }
    }

    /// It crashes: the jobs that it loses.
    pub fn crash(&mut self) -> Vec<usize> {
        self.up = false;
        self.reservations = Reservations::default();
        let running = std::mem::take(&mut self.running).into_keys();
        running.chain(self.queue.drain(..).map(|(job, _)| job)).collect()
    }

    /// It is back.
    pub fn restart(&mut self) {
        self.up = true;
    }

    /// Jobs that start from now on take this many times as long.
    pub fn slow(&mut self, slowness: f64) {
        self.slowness = slowness;
    }
}
