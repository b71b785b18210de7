//! How peers go: by their own word, or dropped after a long silence. Either way a tombstone stays
//! until no old advert could bring the peer back as a ghost.

use std::sync::Arc;

use super::claim::{Leave, Proven};
use super::held::Short;
use super::members::Grave;
use super::message::{COLD, News, Rumour};
use super::pace::Timer;
use super::{ACCUSATION_RETENTION, Directory, Event, GRAVE_RETENTION, Output, SWEEP_INTERVAL};
use crate::id::PeerId;
use crate::limits::FAREWELLS_MAX;
use crate::time::{Mono, Now};

impl Directory {
    /// Says farewell and falls silent.
    pub(super) fn leave(&mut self, now: Now, out: &mut Vec<Output>) {
        let epoch = self.own.advert.version.epoch;
        let claim = Leave { peer: self.me, epoch, issued: now.utc };
        let leave = Arc::new(Proven::sign(claim, &self.key));
        let connected = &self.connected;
        // No dials: who leaves has no time, and those that hear pass it on.
        let told = self.members.draw(&mut self.rng, FAREWELLS_MAX, |member| {
            !member.is_down() && connected.contains(&member.peer())
        });
        for peer in told {
            let leaves = vec![Rumour { hops: 0, said: Arc::clone(&leave) }];
            let news = News { leaves, ..News::default() };
            self.send_news(now.mono, peer, news, out);
        }
        self.left = true;
    }

    pub(super) fn take_leave(
        &mut self,
        now: Now,
        from: PeerId,
        Rumour { hops, said: leave }: Rumour<Proven<Leave>>,
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
        self.members.bury(Grave { peer, version, dug: now.mono, leave: Some(leave.clone()) });
        self.forget_member(peer);
        if hops != COLD {
            self.hot.push_leave(Rumour { hops, said: leave }, from);
        }
        self.view_stale = true;
        out.push(Output::Event(Event::PeerLeft { peer }));
    }

    /// Drops peers that were down for long, or whose adverts have lapsed by our own clock, and
    /// forgets what no longer matters.
    pub(super) fn sweep(&mut self, now: Mono, out: &mut Vec<Output>) {
        self.timers.set(now + SWEEP_INTERVAL, Timer::Sweep);
        let down = now - self.params.down_retention;
        let dropped = self.members.lapsed(now, GRAVE_RETENTION, down);
        for (peer, version) in dropped {
            self.members.bury(Grave { peer, version, dug: now, leave: None });
            self.forget_member(peer);
            self.view_stale = true;
            out.push(Output::Event(Event::PeerDropped { peer }));
        }
        self.members.forget(now - GRAVE_RETENTION, now - ACCUSATION_RETENTION);
        // Whoever is still a stranger does not join any more, and makes room.
        self.doubters.clear();
    }

    fn forget_member(&mut self, peer: PeerId) {
        self.suspects.remove(&Short::of(peer));
        self.echoes.remove(&peer);
        if self.connected.contains(&peer) {
            self.strangers.insert(peer);
        }
    }
}
