//! Anti-entropy: two peers find out where their directories differ and tell each other only that.
//! It brings a joiner its first directory, heals partitions and catches what rumours missed.

use std::ops::Range;
use std::sync::Arc;

use super::held::{Held, Short, Standing};
use super::members::held_of_grave;
use super::message::{COLD, Message, News, Rumour, Talk};
use super::pace::Timer;
use super::rumour::Announced;
use super::tree::{BUCKETS, GROUP_BUCKETS, Print, bucket};
use super::{COURTESY_INTERVAL, Directory, Output, has_way};
use crate::id::PeerId;
use crate::limits::FRAME_PEERS_MAX;
use crate::time::{Mono, Now};

/// An answer with more records than this is large. Large ones are paced, and their records are not
/// passed on as rumours: they are a joiner's or a healing side's, and those reconcile by themselves.
const LARGE_ANSWER: usize = 16;
/// A peer may ask for so many large answers at once: the digests of 10,000 peers.
const LARGE_ANSWERS_BURST: u32 = 16;
/// A directory of at most so many is told as a whole: finding the difference would take longer.
const TOLD_WHOLE_MAX: usize = 128;

impl Directory {
    /// The first word on a new connection, said by a side that does not know the other or has
    /// something against it. Where both know each other there is nothing to say: news come anyway.
    pub(super) fn greet(&mut self, now: Mono, peer: PeerId, out: &mut Vec<Output>) {
        if self.members.get(peer).is_some_and(|member| member.is_alive()) {
            return;
        }
        let summary = self.summary(true);
        let aside = self.tell_heads();
        let mut message = Message { shard: self.shard, aside, ..Message::of(summary) };
        message.news.records.push(Rumour { hops: 0, said: Arc::clone(&self.own) });
        self.send_message(now, peer, message, out);
    }

    /// Compares the directory with one peer's, drawn from all, also from those believed down: were
    /// they cut off, somebody must try them again.
    pub(super) fn reconcile(&mut self, now: Mono, out: &mut Vec<Output>) {
        let interval = self.params.reconcile_interval;
        self.timers.set(now + interval.mul_f64(0.75 + self.rng.unit() / 2.0), Timer::Reconcile);
        let connected = &self.connected;
        let drawn = self.members.draw(&mut self.rng, 1, |member| has_way(connected, member));
        for peer in drawn {
            let summary = self.summary(false);
            self.send(now, peer, summary, out);
        }
    }

    fn summary(&mut self, greeting: bool) -> Talk {
        let salt = self.nonce();
        let count = u32::try_from(self.members.live() + 1).unwrap_or(u32::MAX);
        Talk::Summary { greeting, count, salt, root: self.members.tree().root(salt) }
    }

    /// Down peers are not in the fingerprint: sides agree on who lives, each at its own time on who
    /// is dead.
    pub(super) fn answer_summary(
        &mut self,
        now: Mono,
        from: PeerId,
        (greeting, count): (bool, u32),
        (salt, root): (u64, u64),
        out: &mut Vec<Output>,
    ) {
        if root == self.members.tree().root(salt) {
            return;
        }
        let alone = self.members.live() <= 1;
        if greeting && count <= 1 {
            // A joiner, which knows only itself: it gets everything at once.
            if !alone && self.may_answer_large(now, from) {
                let others = self.members.iter().filter(|m| m.peer() != from && !m.is_down());
                let cold = |said: &Arc<_>| Rumour { hops: COLD, said: Arc::clone(said) };
                let records = others.map(|member| cold(member.record)).collect();
                self.send_news(now, from, News { records, ..News::default() }, out);
            }
            return;
        }
        // One that knows nobody else is being told anyway.
        if greeting && alone {
            return;
        }
        if self.members.len() + self.members.graves() <= TOLD_WHOLE_MAX {
            let held = self.known_in(0..BUCKETS);
            return self.send(now, from, Talk::Digest { buckets: Vec::new(), held }, out);
        }
        let prints = self.members.tree().groups(salt);
        self.send(now, from, Talk::Groups { salt, prints }, out);
    }

    pub(super) fn answer_groups(
        &mut self,
        now: Mono,
        from: PeerId,
        salt: u64,
        theirs: &[Print],
        out: &mut Vec<Output>,
    ) {
        let tree = self.members.tree();
        let differing = tree.groups(salt).into_iter().zip(theirs).enumerate();
        let differing = differing.filter(|(_, (ours, theirs))| ours != *theirs);
        let groups: Vec<_> = differing
            .map(|(group, _)| (u8::try_from(group).expect("few"), tree.buckets(salt, group)))
            .collect();
        if !groups.is_empty() {
            self.send(now, from, Talk::Buckets { salt, groups }, out);
        }
    }

    pub(super) fn answer_buckets(
        &mut self,
        now: Mono,
        from: PeerId,
        salt: u64,
        theirs: &[(u8, Vec<Print>)],
        out: &mut Vec<Output>,
    ) {
        let mut differing = Vec::new();
        for (group, prints) in theirs {
            let ours = self.members.tree().buckets(salt, usize::from(*group));
            let first = usize::from(*group) * GROUP_BUCKETS;
            let pairs = ours.iter().zip(prints).enumerate();
            differing.extend(pairs.filter(|(_, (a, b))| a != b).map(|(index, _)| first + index));
        }
        if !differing.is_empty() {
            self.send_digest(now, from, &differing, out);
        }
    }

    fn send_digest(&mut self, now: Mono, to: PeerId, buckets: &[usize], out: &mut Vec<Output>) {
        let mut parts = vec![(Vec::new(), Vec::new())];
        let mut all = 0;
        for bucket in buckets {
            let known = self.known_in(*bucket..*bucket + 1);
            all += known.len();
            if parts.last().is_some_and(|(_, held)| held.len() + known.len() > FRAME_PEERS_MAX) {
                parts.push((Vec::new(), Vec::new()));
            }
            let (numbers, held) = parts.last_mut().expect("never empty");
            numbers.push(u16::try_from(*bucket).expect("few"));
            held.extend(known);
        }
        if all > LARGE_ANSWER && !self.may_answer_large(now, to) {
            return;
        }
        for (buckets, held) in parts {
            self.send(now, to, Talk::Digest { buckets, held }, out);
        }
    }

    pub(super) fn answer_digest(
        &mut self,
        now: Now,
        from: PeerId,
        buckets: &[u16],
        theirs: &[Held],
        out: &mut Vec<Output>,
    ) {
        let mut news = News::default();
        let mut unlike = Vec::new();
        let mut theirs = theirs.iter().copied().peekable();
        let all = buckets.is_empty().then_some(0..BUCKETS);
        let each = buckets.iter().map(|bucket| usize::from(*bucket)..usize::from(*bucket) + 1);
        // Both lists are in order, and nearly all that they hold is the same.
        for ours in all.into_iter().chain(each).flat_map(|range| self.known_in(range)) {
            while let Some(unknown) = theirs.next_if(|held| held.peer < ours.peer) {
                unlike.push(unknown);
            }
            let same_peer = theirs.next_if(|held| held.peer == ours.peer);
            if same_peer == Some(ours) {
                continue;
            }
            unlike.extend(same_peer);
            self.inform(now, ours, same_peer, &mut news);
        }
        unlike.extend(theirs);
        self.send_answer(now.mono, from, news, out);
        self.want(now.mono, from, &unlike, out);
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
            let announced = self.lazy.binary_search_by_key(&theirs.peer, Announced::peer);
            match announced.ok().map(|place| &self.lazy[place]) {
                // What was announced is what is pulled: nearly always it is at hand.
                Some(Announced { held, record: Some(record), .. })
                    if held.standing() == Standing::Live
                        && (theirs.standing() == Standing::Unknown
                            || held.stamp().is_newer(theirs.stamp())) =>
                {
                    news.records.push(Rumour { hops: COLD, said: Arc::clone(record) });
                }
                _ => {
                    if let Some(ours) = self.held(theirs.peer) {
                        self.inform(now, ours, Some(*theirs), &mut news);
                    }
                }
            }
        }
        self.send_answer(now.mono, from, news, out);
    }

    /// What we have of a peer of which the other side knows better.
    pub(super) fn better(&self, theirs: Held) -> Option<Held> {
        if theirs.peer == Short::of(self.me) {
            // What is held against us must be refuted, and what they hold says who accuses us.
            let ours = self.held_own();
            let is_accused = !theirs.standing().is_well() && !ours.stamp().is_newer(theirs.stamp());
            return is_accused.then_some(ours);
        }
        if self.fresh.knows(theirs) {
            return None;
        }
        let Some(ours) = self.held(theirs.peer) else {
            return theirs.standing().is_up().then_some(Held::unknown(theirs.peer));
        };
        let newer = theirs.stamp().is_newer(ours.stamp());
        let older = ours.stamp().is_newer(theirs.stamp());
        let more_accusers = theirs.standing().accusers() > ours.standing().accusers();
        let better = match (ours.standing(), theirs.standing()) {
            (Standing::Live | Standing::Accused(_), Standing::Gone) => !older,
            (Standing::Live | Standing::Accused(_), Standing::Accused(_) | Standing::Down) => {
                newer || (!older && more_accusers)
            }
            (_, Standing::Live | Standing::Accused(_)) => newer,
            _ => false,
        };
        better.then_some(ours)
    }

    /// Adds to `news` what we know better than `theirs`.
    fn inform(&self, now: Now, ours: Held, theirs: Option<Held>, news: &mut News) {
        let theirs = theirs.filter(|theirs| theirs.standing() != Standing::Unknown);
        let newer = theirs.is_none_or(|theirs| ours.stamp().is_newer(theirs.stamp()));
        let not_older = theirs.is_some_and(|theirs| !theirs.stamp().is_newer(ours.stamp()));
        let theirs_is_up = theirs.is_some_and(|theirs| theirs.standing().is_up());
        let record = if ours.peer == Short::of(self.me) {
            Some(&self.own)
        } else {
            self.members.get_short(ours.peer).map(|member| member.record)
        };
        let rumour = record.map(|record| Rumour { hops: COLD, said: Arc::clone(record) });
        let accusers = theirs.map_or(0, |theirs| theirs.standing().accusers());
        match ours.standing() {
            Standing::Live if newer => news.records.extend(rumour),
            Standing::Accused(_) if newer => {
                news.records.extend(rumour);
                self.testify(ours.peer, news);
            }
            Standing::Accused(known) if not_older && theirs_is_up && known > accusers => {
                self.testify(ours.peer, news);
            }
            Standing::Down if theirs_is_up && not_older => {
                // The evidence speaks of our version, so that one must be known first.
                news.records.extend(rumour.filter(|_| newer));
                self.testify(ours.peer, news);
            }
            Standing::Gone
                if not_older && theirs.is_some_and(|t| t.standing() != Standing::Gone) =>
            {
                let Some(grave) = self.members.grave_short(ours.peer) else { return };
                match grave.leave.clone() {
                    Some(said) => news.leaves.push(Rumour { hops: COLD, said }),
                    None if theirs_is_up && !newer => {
                        let said = self.accuse(now, grave.peer, grave.version);
                        news.accusations.push(Rumour { hops: COLD, said });
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// All that we hold against a peer.
    fn testify(&self, peer: Short, news: &mut News) {
        let Some(member) = self.members.get_short(peer) else { return };
        let Some(trouble) = self.members.trouble(member.peer()) else { return };
        let cold = |said: &Arc<_>| Rumour { hops: COLD, said: Arc::clone(said) };
        news.accusations.extend(trouble.accusations().map(cold));
    }

    fn send_answer(&mut self, now: Mono, to: PeerId, mut news: News, out: &mut Vec<Output>) {
        let hops = self.params.eager_hops_max;
        if news.records.len() > LARGE_ANSWER {
            if !self.may_answer_large(now, to) {
                return;
            }
        } else {
            // Few differences are likely news to others too: they are announced on.
            news.records.iter_mut().for_each(|rumour| rumour.hops = hops);
        }
        news.accusations.iter_mut().for_each(|rumour| rumour.hops = hops);
        news.leaves.iter_mut().for_each(|rumour| rumour.hops = hops);
        self.send_news(now, to, news, out);
    }

    pub(super) fn may_answer_large(&mut self, now: Mono, to: PeerId) -> bool {
        let contact = self.members.contact(to);
        contact.is_some_and(|c| c.answers.take(now, COURTESY_INTERVAL, LARGE_ANSWERS_BURST))
    }

    pub(super) fn held(&self, peer: Short) -> Option<Held> {
        if peer == Short::of(self.me) { Some(self.held_own()) } else { self.members.held(peer) }
    }

    pub(super) fn held_own(&self) -> Held {
        Held::new(self.me, self.own.advert.version, Standing::Live)
    }

    /// All that is known of the peers of some buckets, this peer included, in order.
    fn known_in(&self, buckets: Range<usize>) -> Vec<Held> {
        let members = self.members.held_in_buckets(buckets.clone());
        let graves = self.members.graves_in_buckets(buckets.clone()).map(held_of_grave);
        let mut known: Vec<Held> = members.chain(graves).collect();
        if buckets.contains(&bucket(Short::of(self.me))) {
            known.push(self.held_own());
        }
        known.sort_unstable_by_key(|held| held.peer);
        known
    }
}
