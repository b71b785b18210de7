//! Messages on their way: connections are dialled, open and break, and each end learns of it.

use std::collections::BTreeSet;

use hansa_core::directory::{Input, Message};

use super::{Happening, SIGNATURE_CHECK, World, described};
use crate::connections::{Pair, Slot, ordered};
use crate::links::{DIAL_TIMEOUT, IDLE_TIMEOUT};
use crate::recording::ReplayEvent;

impl World {
    /// The connection between two hosts, which one dials if there is none.
    pub(super) fn dial(&mut self, from: u32, to: u32) -> Slot {
        let pair = ordered(from, to);
        if let Some(slot) = self.connections.find(pair) {
            return slot;
        }
        let slot = self.connections.open(from, to, self.now);
        let number = self.connections.at(slot).number;
        let (a, b) = (from as usize, to as usize);
        let dialable = self.is_up(b) && self.sites[b].relay.is_none();
        let reachable = dialable && self.links.cut_until(a, b, self.now).is_none();
        let after = if reachable {
            self.links.draw_delay(a, b) + self.links.draw_delay(b, a)
        } else {
            DIAL_TIMEOUT
        };
        self.queue.push(self.now + after, Happening::Opened { pair, number });
        slot
    }

    pub(super) fn opened(&mut self, pair: Pair, number: u32) {
        let Some(slot) = self.connections.find(pair) else { return };
        let waiting = match self.connections.at(slot).number == number {
            true => self.connections.waiting(slot),
            false => return,
        };
        let connection = self.connections.at(slot);
        let dialable = self.sites[connection.dialled as usize].relay.is_none();
        let (a, b) = (pair.0 as usize, pair.1 as usize);
        let reachable = self.links.cut_until(a, b, self.now).is_none();
        if !self.is_up(a) || !self.is_up(b) || !reachable || !dialable {
            self.connections.remove(pair);
            let failed: BTreeSet<_> = waiting.iter().map(|(from, to, _)| (*from, *to)).collect();
            for (from, to) in failed {
                let peer = self.id(to as usize);
                self.feed(from as usize, Input::Unreachable { peer });
            }
            return;
        }
        self.connections.at_mut(slot).open = true;
        for (from, to, message) in waiting {
            self.send(from, to, message);
        }
        for (host, other) in [(a, b), (b, a)] {
            let peer = self.id(other);
            self.feed(host, Input::Connected { peer });
        }
    }

    pub(super) fn send(&mut self, from: u32, to: u32, message: Box<Message>) {
        let pair = ordered(from, to);
        let slot = self.dial(from, to);
        let (a, b) = (from as usize, to as usize);
        let connection = self.connections.at_mut(slot);
        if !connection.open {
            return self.connections.wait(slot, from, to, message);
        }
        let bytes = message.encoded_len() as u64;
        let delay = self.links.draw_delay(a, b) + self.links.queue(a, bytes, self.now);
        self.traffic.messages += 1;
        self.traffic.bytes += bytes;
        let kind = &mut self.traffic.kinds[message.talk.kind()];
        *kind = (kind.0 + 1, kind.1 + bytes);
        self.traffic.records += message.news.records.len() as u64;
        let records = message.news.records.iter().map(|rumour| rumour.said.signed().len() as u64);
        self.traffic.record_bytes += records.sum::<u64>();
        self.hash.absorb(u64::from(from) << 32 | bytes);
        let number = connection.number;
        let mut at = self.now + delay;
        if let Some(healed) = self.links.cut_until(a, b, self.now) {
            if healed.since(self.now) >= IDLE_TIMEOUT {
                return self.queue.push(self.now + IDLE_TIMEOUT, Happening::Lost { pair, number });
            }
            at = healed + self.links.retransmission_after(a, b) + delay;
        }
        // A stream keeps order: what comes after a delayed message waits for it.
        let arrival = &mut connection.arrivals[usize::from(to == pair.1)];
        at = at.max(*arrival);
        *arrival = at;
        if self.replay.is_some() {
            let (sent, until) = (Self::millis(self.now), Self::millis(at));
            let what = described(&message).to_owned();
            self.note(ReplayEvent::Message { at: sent, until, from: a, to: b, what, bytes });
        }
        self.queue.push(at, Happening::Delivered { from, to, slot, number, message });
    }

    /// Both ends of a connection learn that it is gone.
    pub(super) fn close(&mut self, pair: Pair) {
        if self.connections.remove(pair) {
            let at = self.now + self.links.latency(pair.0 as usize, pair.1 as usize);
            for (host, other) in [pair, (pair.1, pair.0)] {
                self.queue.push(at, Happening::Reset { host, other });
            }
        }
    }

    /// A message is there. Its signatures are checked after those that came before, and it is
    /// taken, at once but as of the time when they are checked.
    pub(super) fn receive(&mut self, from: u32, to: u32, message: Box<Message>) {
        self.hash.absorb(u64::from(from) << 32 | u64::from(to));
        let now = self.clock(to as usize);
        let directory = self.directory(to as usize);
        let trust = &self.sites[to as usize].trust;
        let held = |peer, version| directory.holds(peer, version);
        let read = if self.encoded {
            Message::open(&message.encode(), trust, now, held).map(Box::new)
        } else {
            message.reread(now, held)
        };
        let message = match read {
            Ok(message) => message,
            Err(fault) => return self.faults.push(fault),
        };
        let signatures = message.news.len();
        self.traffic.signatures += signatures as u64;
        let host = &mut self.hosts[to as usize];
        let charged = u32::try_from(signatures).expect("a frame's");
        host.busy = host.busy.max(self.now) + SIGNATURE_CHECK * charged;
        let from = self.id(from as usize);
        self.feed(to as usize, Input::Message { from, message });
    }
}
