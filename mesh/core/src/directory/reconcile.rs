//! Anti-entropy: two peers find out where their directories differ and tell each other only that.
//! It brings a joiner its first directory, heals partitions and catches what rumours missed.

use ring::digest::{Context, SHA256};

use super::members::Member;
use super::message::{COLD, Held, Message, News, Rumour, Standing, Talk};
use super::pace::Timer;
use super::{COURTESY_INTERVAL, Directory, Output, has_way};
use crate::advert::Version;
use crate::id::PeerId;
use crate::limits::FRAME_PEERS_MAX;
use crate::time::{Mono, Now};

/// An answer with more records than this is large. Large ones are paced, and their records are not
/// passed on as rumours: they are a joiner's or a healing side's, and those reconcile by themselves.
const LARGE_ANSWER: usize = 16;
/// A peer may ask for so many large answers at once: the ranges of one digest of 10,000 peers.
const LARGE_ANSWERS_BURST: u32 = 16;

impl Directory {
    /// The first word on a new connection, said by both sides.
    pub(super) fn greet(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        let mut message = Message::of(self.summary(true));
        message.news.records.push(Rumour { hops: 0, record: self.own.clone() });
        self.send_message(now, peer, message, out);
    }

    /// Compares the directory with one peer's, drawn from all, also from those believed down: were
    /// they cut off, somebody must try them again.
    pub(super) fn reconcile(&mut self, now: Mono, out: &mut Vec<Output>) {
        let interval = self.params.reconcile_interval;
        self.timers.set(now + interval.mul_f64(0.75 + self.rng.unit() / 2.0), Timer::Reconcile);
        let connected = &self.connected;
        let drawn =
            self.members.draw(&mut self.rng, 1, |peer, member| has_way(connected, peer, member));
        for peer in drawn {
            let summary = self.summary(false);
            self.send(now, peer, summary, out);
        }
    }

    fn summary(&mut self, greeting: bool) -> Talk {
        let salt = self.nonce();
        let count = u32::try_from(self.members.live() + 1).unwrap_or(u32::MAX);
        Talk::Summary { greeting, count, salt, fingerprint: self.fingerprint(salt) }
    }

    /// Down peers are left out: sides agree on who lives, each at its own time on who is dead.
    pub(super) fn fingerprint(&self, salt: u64) -> [u8; 16] {
        let mut hash = Context::new(&SHA256);
        hash.update(&salt.to_le_bytes());
        for held in self.known().iter().filter(|held| held.standing == Standing::Live) {
            hash.update(&held.peer.0);
            hash.update(&held.version.epoch.to_le_bytes());
            hash.update(&held.version.sequence.to_le_bytes());
        }
        hash.finish().as_ref()[..16].try_into().expect("16 of 32 bytes")
    }

    pub(super) fn answer_summary(
        &mut self,
        now: Mono,
        from: PeerId,
        greeting: bool,
        count: u32,
        out: &mut Vec<Output>,
    ) {
        let alone = self.members.live() <= 1;
        if greeting && count <= 1 {
            // A joiner, which knows only itself: it gets everything at once.
            if !alone && self.may_answer_large(now, from) {
                let others = self.members.iter().filter(|(id, m)| **id != from && !m.is_down());
                let rumour = |member: &Member| Rumour { hops: COLD, record: member.record.clone() };
                let records = others.map(|(_, member)| rumour(member)).collect();
                self.send_news(now, from, News { records, ..News::default() }, out);
            }
            return;
        }
        // Both sides greet and both see the difference; one answer is enough. One that knows
        // nobody else is being told anyway.
        if greeting && (alone || from < self.me) {
            return;
        }
        let known = self.known();
        if known.len() > LARGE_ANSWER && !self.may_answer_large(now, from) {
            return;
        }
        let mut after = None;
        let mut chunks = known.chunks(FRAME_PEERS_MAX).peekable();
        while let Some(held) = chunks.next() {
            let until = chunks.peek().and_then(|_| held.last()).map(|entry| entry.peer);
            self.send(now, from, Talk::Digest { after, until, held: held.to_vec() }, out);
            after = until;
        }
    }

    pub(super) fn answer_digest(
        &mut self,
        now: Now,
        from: PeerId,
        (after, until): (Option<PeerId>, Option<PeerId>),
        theirs: &[Held],
        out: &mut Vec<Output>,
    ) {
        let known = self.known();
        let begin = after.map_or(0, |after| known.partition_point(|held| held.peer <= after));
        let end =
            until.map_or(known.len(), |until| known.partition_point(|held| held.peer <= until));
        let mut news = News::default();
        for ours in known.get(begin..end).unwrap_or_default() {
            let index = theirs.binary_search_by_key(&ours.peer, |held| held.peer);
            self.inform(now, *ours, index.ok().map(|index| theirs[index]), &mut news);
        }
        self.send_answer(now.mono, from, news, out);
        let wanted = self.wanted(theirs);
        self.pull(now.mono, from, wanted, out);
    }

    pub(super) fn answer_pull(
        &mut self,
        now: Now,
        from: PeerId,
        held: &[Held],
        out: &mut Vec<Output>,
    ) {
        let mut news = News::default();
        for theirs in held {
            if let Some(ours) = self.held(theirs.peer) {
                self.inform(now, ours, Some(*theirs), &mut news);
            }
        }
        self.send_answer(now.mono, from, news, out);
    }

    /// What of these the other side knows better, as far as we know.
    pub(super) fn wanted(&self, theirs: &[Held]) -> Vec<Held> {
        let better = |theirs: &Held| {
            let unknown =
                Held { peer: theirs.peer, version: Version::default(), standing: Standing::Gone };
            let ours = self.held(theirs.peer);
            let is_better = match (ours.map(|ours| ours.standing), theirs.standing) {
                (None, standing) => standing == Standing::Live,
                (Some(_), Standing::Live) => ours.is_some_and(|o| o.version < theirs.version),
                (Some(Standing::Live), _) => ours.is_some_and(|o| o.version <= theirs.version),
                (Some(_), _) => false,
            };
            (is_better && theirs.peer != self.me).then(|| ours.unwrap_or(unknown))
        };
        theirs.iter().filter_map(better).collect()
    }

    /// Adds to `news` what we know better than `theirs`.
    fn inform(&self, now: Now, ours: Held, theirs: Option<Held>, news: &mut News) {
        let version = theirs.map(|theirs| theirs.version);
        let theirs_lives = theirs.is_some_and(|theirs| theirs.standing == Standing::Live);
        let theirs_gone = theirs.is_none_or(|theirs| theirs.standing == Standing::Gone);
        let newer = version.is_none_or(|version| version < ours.version);
        let record = if ours.peer == self.me {
            Some(&self.own)
        } else {
            self.members.get(ours.peer).map(|member| &member.record)
        };
        let rumour = record.map(|record| Rumour { hops: COLD, record: record.clone() });
        match ours.standing {
            Standing::Live if newer => news.records.extend(rumour),
            Standing::Down if theirs_lives && version <= Some(ours.version) => {
                // The evidence speaks of our version, so that one must be known first.
                news.records.extend(rumour.filter(|_| newer));
                let member = self.members.get(ours.peer).expect("a down peer is a member");
                news.accusations.extend(member.accusations.iter().map(|(_, a)| a.clone()));
            }
            Standing::Gone if !theirs_gone && version <= Some(ours.version) => {
                match self.members.grave(ours.peer).and_then(|grave| grave.leave.clone()) {
                    Some(leave) => news.leaves.push(leave),
                    None if theirs_lives && !newer => {
                        news.accusations.push(self.accuse(now, ours.peer, ours.version));
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn send_answer(&mut self, now: Mono, to: PeerId, mut news: News, out: &mut Vec<Output>) {
        if news.records.len() > LARGE_ANSWER {
            if !self.may_answer_large(now, to) {
                return;
            }
        } else {
            // Few differences are likely news to others too: they are announced on.
            for rumour in &mut news.records {
                rumour.hops = self.params.eager_hops_max;
            }
        }
        self.send_news(now, to, news, out);
    }

    fn may_answer_large(&mut self, now: Mono, to: PeerId) -> bool {
        let take =
            |member: &mut Member| member.answers.take(now, COURTESY_INTERVAL, LARGE_ANSWERS_BURST);
        self.members.get_mut(to).is_some_and(take)
    }

    fn held(&self, peer: PeerId) -> Option<Held> {
        if peer == self.me {
            return Some(self.held_own());
        }
        self.members.held(peer)
    }

    fn held_own(&self) -> Held {
        Held { peer: self.me, version: self.own.advert.version, standing: Standing::Live }
    }

    /// All that is known, this peer included, in order of ids.
    fn known(&self) -> Vec<Held> {
        let mut known = self.members.all_held();
        let at = known.partition_point(|held| held.peer < self.me);
        known.insert(at, self.held_own());
        known
    }
}
