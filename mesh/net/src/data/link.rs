//! One connection with one peer: how many calls are on it, its pulse, and the streams that the
//! peer opens.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use hansa_core::id::PeerId;
use quinn::{Connection, VarInt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::call::{Call, Reply};
use super::liveness::{Echoes, Pulses, Stake, Verdict};
use super::pool::Pool;
use super::stream::{Body, Opening, Sender};
use super::{DataLimits, Shared};
use crate::limits::*;

const ASK: u8 = 1;
const ANSWER: u8 = 2;

/// A connection with a peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) peer: PeerId,
    /// Whether this node dialled.
    pub(super) ours: bool,
    pub(super) since: Instant,
    /// Whether it runs through a tunnel.
    pub(super) is_around: bool,
    /// Ends and lengths of tunnels that run over it.
    tunnels: AtomicUsize,
    /// The peer has brought a tunnel to this node.
    pub(super) relayed: Notify,
    calls: AtomicUsize,
    /// How many of those this node made.
    asked: AtomicUsize,
    /// When the last call ended, in ms after `since`.
    used_ms: AtomicU64,
    parked: AtomicBool,
    wake: Notify,
    retired: AtomicBool,
    /// It is closed, as far as was noticed: to ask quinn takes the lock that it sends under.
    closed: AtomicBool,
    silent: OnceLock<Duration>,
    echoes: Mutex<Echoes>,
}

/// A tunnel over a link, which keeps it from being closed as idle.
#[derive(Debug)]
pub(super) struct Carrying(Arc<Link>);

impl Drop for Carrying {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One outstanding call, either way; the link pulses while there is one.
#[derive(Debug)]
pub(super) struct Busy {
    link: Arc<Link>,
    shared: Arc<Shared>,
    /// Calls of the peer hold one of a limited number of permits.
    permit: Option<OwnedSemaphorePermit>,
}

impl Link {
    pub(super) fn new(
        connection: Connection,
        peer: PeerId,
        ours: bool,
        is_around: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            peer,
            ours,
            since: Instant::now(),
            is_around,
            tunnels: AtomicUsize::new(0),
            relayed: Notify::new(),
            calls: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            used_ms: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            wake: Notify::new(),
            retired: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            silent: OnceLock::new(),
            echoes: Mutex::default(),
        })
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// It was found closed.
    pub(super) fn note_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Takes the place of one tunnel over it, unless there are `most` already.
    pub(super) fn carry(self: &Arc<Self>, most: usize) -> Option<Carrying> {
        let carrying = Carrying(Arc::clone(self));
        let before = self.tunnels.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(carrying)
    }

    pub(super) fn close(&self, code: u32) {
        self.note_closed();
        self.connection.close(VarInt::from_u32(code), code::meaning(code.into()).as_bytes());
    }

    /// No new call begins here; when the last is done it closes.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.echoes.lock().expect("no holder panics").rtt()
    }

    /// For how long no call was on it; `None` while one is.
    pub(super) fn idle(&self) -> Option<Duration> {
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        (self.calls.load(Ordering::Relaxed) == 0).then(|| self.since.elapsed().saturating_sub(used))
    }

    /// The same if no tunnel runs over it either: nothing is lost with it.
    pub(super) fn spare(&self) -> Option<Duration> {
        self.idle().filter(|_| self.tunnels.load(Ordering::Relaxed) == 0)
    }

    /// Whether it may be of a former life of a peer that runs anew, and nothing is lost with it. What
    /// the peer has dialled just now is of the new one.
    pub(super) fn is_outlived(&self) -> bool {
        self.spare().is_some() && (self.ours || self.since.elapsed() > LIFE_TOLD_WITHIN)
    }

    /// Why a stream of this link died.
    pub(super) fn why_lost(&self, error: &impl std::fmt::Display) -> String {
        match self.silent.get() {
            Some(silence) => format!("the peer was not heard for {} ms", silence.as_millis()),
            None => match self.connection.close_reason() {
                Some(reason) => reason.to_string(),
                None => error.to_string(),
            },
        }
    }

    fn stake(&self) -> Stake {
        if self.asked.load(Ordering::Relaxed) > 0 {
            Stake::Asking
        } else if self.calls.load(Ordering::Relaxed) > 0 {
            Stake::Serving
        } else {
            Stake::Nothing
        }
    }

    /// The round trips that were measured since the last call.
    pub(super) fn take_echoes(&self) -> Vec<Duration> {
        self.echoes.lock().expect("no holder panics").take()
    }

    /// Asks the peer for an echo.
    pub(super) fn echo(&self) {
        let nonce = self.echoes.lock().expect("no holder panics").launch(Instant::now());
        let _ = self.connection.send_datagram(datagram(ASK, nonce));
    }

    /// Answers the peer's echoes and, while calls are outstanding, watches that it lives.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut pulses = Pulses::default();
        self.echo();
        loop {
            let calm = self.idle().is_some_and(|idle| idle > PULSE_LINGER);
            if calm && !self.retired.load(Ordering::Relaxed) {
                self.parked.store(true, Ordering::SeqCst);
                // A call that began before the flag was up has not woken us.
                if self.calls.load(Ordering::SeqCst) == 0 && self.echo_until_woken().await.is_err()
                {
                    return;
                }
                self.parked.store(false, Ordering::SeqCst);
                pulses.resume();
            }
            let began = Instant::now();
            if self.echo_for(PULSE).await.is_err() {
                return;
            }
            if self.retired.load(Ordering::Relaxed)
                && self.spare().is_some_and(|time| time > RETIRED_IDLE)
            {
                return self.close(code::REPLACED);
            }
            let heard = frames_heard(&self.connection);
            // quinn's own estimate also knows of queues on the way and of hosts slow to answer.
            let rtt = self.rtt().unwrap_or_default().max(self.connection.rtt());
            match pulses.pulse(began.elapsed(), heard, self.stake(), rtt) {
                Verdict::Fine => {}
                Verdict::Echo => self.echo(),
                Verdict::Dead(silence) => {
                    let _ = self.silent.set(silence);
                    tracing::info!(peer = %self.peer, ?silence, "lost: not heard");
                    return self.close(code::SILENT);
                }
            }
        }
    }

    async fn echo_until_woken(&self) -> Result<(), quinn::ConnectionError> {
        loop {
            tokio::select! {
                () = self.wake.notified() => return Ok(()),
                datagram = self.connection.read_datagram() => self.take(&datagram?),
            }
        }
    }

    async fn echo_for(&self, time: Duration) -> Result<(), quinn::ConnectionError> {
        let end = tokio::time::sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                datagram = self.connection.read_datagram() => self.take(&datagram?),
            }
        }
    }

    fn take(&self, datagram: &[u8]) {
        let Some((kind, nonce)) = datagram.split_first() else { return };
        let Ok(nonce) = nonce.try_into().map(u64::from_le_bytes) else { return };
        match *kind {
            ASK => {
                let _ = self.connection.send_datagram(self::datagram(ANSWER, nonce));
            }
            ANSWER => {
                self.echoes.lock().expect("no holder panics").land(nonce, Instant::now());
            }
            _ => {}
        }
    }

    /// Hands the streams that the peer opens to the host, each as soon as its header is there, and
    /// tunnels to the pool.
    pub(super) async fn serve(self: Arc<Self>, shared: Arc<Shared>, pool: Weak<Pool>) {
        while let Ok((send, recv)) = self.connection.accept_bi().await {
            let sender = Sender::new(send, code::UNANSWERED);
            if shared.draining.load(Ordering::Relaxed) {
                sender.reset(code::DRAINING);
                continue;
            }
            let Ok(permit) = Arc::clone(&shared.inbound).try_acquire_owned() else {
                sender.reset(code::BUSY);
                continue;
            };
            let busy = self.busy(&shared, Some(permit));
            let mut reading = receive(sender, recv, busy, pool.clone()).boxed();
            // Most headers are here with the packet that opened the stream: no task for those.
            if futures::poll!(&mut reading).is_pending() {
                tokio::spawn(reading);
            }
        }
    }

    /// Notes a call, so that the link is watched; with a permit it is the peer's.
    pub(super) fn busy(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Busy {
        if permit.is_none() {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
        shared.calls.fetch_add(1, Ordering::Relaxed);
        Busy { link: Arc::clone(self), shared: Arc::clone(shared), permit }
    }
}

/// Reads what a stream begins with and hands it on; its own faults end this stream alone.
async fn receive(sender: Sender, recv: quinn::RecvStream, busy: Busy, pool: Weak<Pool>) {
    let limits = busy.limits();
    let (header_timeout, body_stall) = (limits.header_timeout, limits.body_stall);
    let busy = Arc::new(busy);
    let from = busy.link.peer;
    let mut body = Body::new(recv, Some(body_stall), Arc::clone(&busy));
    let opening = match tokio::time::timeout(header_timeout, body.opening()).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(error)) => {
            tracing::debug!(peer = %from, %error, "stream refused");
            return sender.reset(code::MALFORMED);
        }
        Err(_) => {
            tracing::debug!(peer = %from, "stream refused: no header in time");
            return sender.reset(code::STALLED);
        }
    };
    let Some(pool) = pool.upgrade() else { return };
    match opening {
        Opening::Header(header) => {
            let reply = Reply::new(sender, busy);
            let _ = pool.calls.send(Call { from, header, body, reply }).await;
        }
        Opening::Tunnel(to) => {
            let link = Arc::clone(&busy.link);
            drop(busy);
            let end = (sender, body.into_tunnel());
            pool.take_tunnel(&link, to, end).await;
        }
    }
}

impl Busy {
    pub(super) fn limits(&self) -> &DataLimits {
        &self.shared.limits
    }

    pub(super) fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    pub(super) fn why_lost(&self, error: &impl std::fmt::Display) -> String {
        self.link.why_lost(error)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let used = u64::try_from(self.link.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.link.used_ms.store(used, Ordering::Relaxed);
        if self.permit.is_none() {
            self.link.asked.fetch_sub(1, Ordering::Relaxed);
        }
        self.link.calls.fetch_sub(1, Ordering::SeqCst);
        if self.shared.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.calm.notify_waiters();
        }
    }
}

fn datagram(kind: u8, nonce: u64) -> Bytes {
    let mut datagram = [kind; 9];
    datagram[1..].copy_from_slice(&nonce.to_le_bytes());
    Bytes::copy_from_slice(&datagram)
}

/// Authenticated frames that came in so far, of the kinds that a living peer sends.
fn frames_heard(connection: &Connection) -> u64 {
    let frames = connection.stats().frame_rx;
    frames.acks + frames.stream + frames.datagram + frames.ping + frames.max_data
}

/// Inbound calls that may be open at once.
pub(super) fn inbound_permits(limits: &DataLimits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits.inbound_calls_max))
}
