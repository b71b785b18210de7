//! How peers go: by their own word, or dropped after a long silence. Either way a tombstone stays
//! until no old advert could bring the peer back as a ghost.

use super::claim::{Leave, Proven};
use super::members::Grave;
use super::message::News;
use super::pace::Timer;
use super::{Directory, Event, GRAVE_RETENTION, Output, SWEEP_INTERVAL};
use crate::id::PeerId;
use crate::limits::FAREWELLS_MAX;
use crate::time::{Mono, Now};

impl Directory {
    /// Says farewell and falls silent.
    pub(super) fn leave(&mut self, now: Now, out: &mut Vec<Output>) {
        let epoch = self.own.advert.version.epoch;
        let claim = Leave { peer: self.me, epoch, issued: now.utc };
        let leave = Proven::sign(claim, &self.key);
        let connected = &self.connected;
        // No dials: who leaves has no time, and those that hear pass it on.
        let told = self.members.draw(&mut self.rng, FAREWELLS_MAX, |peer, member| {
            !member.is_down() && connected.contains(&peer)
        });
        for peer in told {
            let news = News { leaves: vec![leave.clone()], ..News::default() };
            self.send_news(now.mono, peer, news, out);
        }
        self.left = true;
    }

    pub(super) fn take_leave(
        &mut self,
        now: Now,
        from: PeerId,
        leave: Proven<Leave>,
        out: &mut Vec<Output>,
    ) {
        let peer = leave.claim().peer;
        let version = leave.claim().version();
        if peer == self.me {
            // This peer left, and now it is back with a clock that went back.
            if version >= self.own.advert.version {
                self.outbid(now.mono, version, out);
            }
            return;
        }
        // Only members are buried by their word: anybody can make keys and leave with them.
        match self.members.get(peer) {
            Some(member) if member.version() <= version => {}
            _ => return,
        }
        self.hot.push_leave(leave.clone(), from);
        self.members.bury(peer, Grave { version, dug: now.mono, leave: Some(leave) });
        self.view_stale = true;
        out.push(Output::Event(Event::PeerLeft { peer }));
    }

    /// Drops peers that were down for long, or whose adverts have lapsed by our own clock, and
    /// forgets what no longer matters.
    pub(super) fn sweep(&mut self, now: Mono, out: &mut Vec<Output>) {
        self.timers.set(now + SWEEP_INTERVAL, Timer::Sweep);
        let retention = self.params.down_retention;
        let dropped: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| {
                (member.is_down() && now.since(member.since) >= retention)
                    || now.since(member.taken) >= GRAVE_RETENTION
            })
            .map(|(peer, member)| (*peer, member.version()))
            .collect();
        for (peer, version) in dropped {
            self.members.bury(peer, Grave { version, dug: now, leave: None });
            self.view_stale = true;
            out.push(Output::Event(Event::PeerDropped { peer }));
        }
        self.members.forget_graves(now - GRAVE_RETENTION);
        let retry = self.params.pull_retry;
        self.pulls.retain(|_, (_, asked)| now.since(*asked) < retry);
    }
}
