//! Whether the other end of a connection with calls on it still lives, and how far away it is.
//! Pure: time and what was heard are passed in.
//!
//! While calls are outstanding the link pulses every [`PULSE`] and sends a 9-byte echo every
//! [`ECHO_EVERY`], on each pulse once the peer is quiet. *Heard* is any authenticated frame, an
//! acknowledgement included, so a busy host process does not look dead: the QUIC stack answers.
//! Silence beyond [`silence_max`] is death. On a LAN that is 700 ms; the bound grows with the
//! measured round trip so that several echoes must be lost in a row on a long path. After a pulse
//! that comes very late (this process was starved or stopped) the peer gets the time of two round
//! trips more, so a sleeper accuses nobody on waking.
//!
//! Who asks wants to know at once, to ask another. Who answers loses only work that nobody wants,
//! while closing too early loses every answer: it waits [`SERVING_PATIENCE`] times as long.
//!
//! Idle connections send nothing of this; QUIC's own idle timeout watches them.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::limits::{ECHO_EVERY, PULSE, SERVING_PATIENCE, SILENCE_MIN};

/// What this end has at stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stake {
    /// No call is outstanding.
    Nothing,
    /// The peer waits for answers of this end.
    Serving,
    /// This end waits for an answer.
    Asking,
}

/// What a pulse finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing to do.
    Fine,
    /// An echo is due.
    Echo,
    /// The peer was silent for this long.
    Dead(Duration),
}

/// A pulse this late is no evidence against the peer.
const LATE: Duration = PULSE.saturating_mul(3);

/// How long a peer at this distance may be silent while it is asked.
pub fn silence_max(rtt: Duration) -> Duration {
    SILENCE_MIN.max(4 * rtt + 2 * ECHO_EVERY)
}

/// The record of one connection's pulses.
#[derive(Debug, Default)]
pub(super) struct Pulses {
    heard: u64,
    silence: Duration,
    since_echo: Duration,
}

impl Pulses {
    /// Calls begin after a pause: what was not heard before does not count.
    pub(super) fn resume(&mut self) {
        self.silence = Duration::ZERO;
        self.since_echo = ECHO_EVERY;
    }

    /// A pulse: `elapsed` since the last, `heard` frames in all.
    pub(super) fn pulse(
        &mut self,
        elapsed: Duration,
        heard: u64,
        stake: Stake,
        rtt: Duration,
    ) -> Verdict {
        let calling = stake != Stake::Nothing;
        self.since_echo += elapsed;
        if heard != self.heard || !calling {
            self.heard = heard;
            self.silence = Duration::ZERO;
        } else {
            self.silence += elapsed;
        }
        let patience = if stake == Stake::Asking { 1 } else { SERVING_PATIENCE };
        let silence_max = patience * silence_max(rtt);
        if elapsed > LATE {
            self.silence = self.silence.min(silence_max.saturating_sub(2 * rtt.max(PULSE)));
            self.since_echo = ECHO_EVERY;
        }
        if self.silence >= silence_max {
            return Verdict::Dead(self.silence);
        }
        if calling && (self.since_echo >= ECHO_EVERY || self.silence >= ECHO_EVERY) {
            self.since_echo = Duration::ZERO;
            return Verdict::Echo;
        }
        Verdict::Fine
    }
}

/// Echoes under way and the round trips that they measured.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    key: RandomState,
    sent: u64,
    flying: VecDeque<(u64, Instant)>,
    measured: VecDeque<Duration>,
    /// Those that nobody asked for yet.
    fresh: Vec<Duration>,
}

/// Echoes and round trips that are remembered.
const ECHOES: usize = 8;
/// Round trips that are kept for whoever asks for each.
const FRESH_MAX: usize = 16;

impl Echoes {
    /// The nonce of a new echo, which nobody can guess who has not received it.
    pub(super) fn launch(&mut self, now: Instant) -> u64 {
        self.sent += 1;
        let nonce = self.key.hash_one(self.sent);
        if self.flying.len() == ECHOES {
            self.flying.pop_front();
        }
        self.flying.push_back((nonce, now));
        nonce
    }

    /// An echo came back.
    pub(super) fn land(&mut self, nonce: u64, now: Instant) {
        let Some(at) = self.flying.iter().position(|(known, _)| *known == nonce) else { return };
        let (_, launched) = self.flying.remove(at).expect("found above");
        if self.measured.len() == ECHOES {
            self.measured.pop_front();
        }
        let rtt = now.saturating_duration_since(launched);
        self.measured.push_back(rtt);
        if self.fresh.len() < FRESH_MAX {
            self.fresh.push(rtt);
        }
    }

    /// The round trips that were measured since the last call, as far as they are kept.
    pub(super) fn take(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.fresh)
    }

    /// The best of the last round trips: the distance, without the noise of busy hosts.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.measured.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: Duration = Duration::from_micros(200);

    /// Pulses in silence until death, at most `max`.
    fn pulses_until_dead(pulses: &mut Pulses, rtt: Duration, max: u32) -> Option<u32> {
        (1..=max).find(|_| matches!(pulses.pulse(PULSE, 7, Stake::Asking, rtt), Verdict::Dead(_)))
    }

    #[test]
    fn a_silent_peer_on_a_lan_is_dead_within_800_ms() {
        let mut pulses = Pulses::default();
        pulses.resume();
        pulses.pulse(PULSE, 7, Stake::Asking, LAN);
        let dead = pulses_until_dead(&mut pulses, LAN, 20).expect("it is noticed");
        assert!(PULSE * dead <= Duration::from_millis(800), "{dead} pulses");
    }

    #[test]
    fn a_far_peer_gets_time_for_several_lost_echoes() {
        let far = Duration::from_millis(200);
        let mut pulses = Pulses::default();
        pulses.resume();
        pulses.pulse(PULSE, 7, Stake::Asking, far);
        let dead = pulses_until_dead(&mut pulses, far, 50).expect("it is noticed");
        assert!(PULSE * dead >= 6 * far, "{dead} pulses");
    }

    #[test]
    fn a_peer_that_is_heard_lives_and_an_idle_one_is_not_judged() {
        let mut pulses = Pulses::default();
        pulses.resume();
        for heard in 0..100 {
            assert!(!matches!(pulses.pulse(PULSE, heard, Stake::Asking, LAN), Verdict::Dead(_)));
        }
        for _ in 0..100 {
            assert_eq!(pulses.pulse(PULSE, 99, Stake::Nothing, LAN), Verdict::Fine);
        }
    }

    #[test]
    fn who_answers_waits_longer_for_who_asked() {
        let mut pulses = Pulses::default();
        pulses.resume();
        pulses.pulse(PULSE, 7, Stake::Serving, LAN);
        let dead = (1..=100)
            .find(|_| matches!(pulses.pulse(PULSE, 7, Stake::Serving, LAN), Verdict::Dead(_)));
        let dead = PULSE * dead.expect("it is noticed");
        assert!(dead >= 5 * SILENCE_MIN && dead <= Duration::from_secs(8), "{dead:?}");
    }

    #[test]
    fn a_process_that_slept_accuses_nobody_on_waking() {
        let mut pulses = Pulses::default();
        pulses.resume();
        pulses.pulse(PULSE, 7, Stake::Asking, LAN);
        let slept = Duration::from_secs(3_600);
        assert_eq!(pulses.pulse(slept, 7, Stake::Asking, LAN), Verdict::Echo);
        assert!(!matches!(pulses.pulse(PULSE, 7, Stake::Asking, LAN), Verdict::Dead(_)));
        // But a peer that does not answer that either is dead.
        assert!(pulses_until_dead(&mut pulses, LAN, 2).is_some());
    }

    #[test]
    fn only_a_known_echo_counts_and_only_once() {
        let mut echoes = Echoes::default();
        let start = Instant::now();
        let nonce = echoes.launch(start);
        echoes.land(nonce ^ 1, start + LAN);
        assert_eq!(echoes.rtt(), None);
        echoes.land(nonce, start + 2 * LAN);
        echoes.land(nonce, start + LAN);
        assert_eq!(echoes.rtt(), Some(2 * LAN));
    }
}
