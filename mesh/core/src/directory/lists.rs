//! Lists of revocations and measured places: what makes a record count more or less than its advert
//! says. A list travels as news to a few neighbours, each of whom passes it on once; anti-entropy
//! tells those that it missed. Who signed what was verified before.

use std::sync::Arc;
use std::time::Duration;

use super::message::{Aside, Message, Talk};
use super::{Directory, Event, Output};
use crate::advert::Record;
use crate::id::PeerId;
use crate::limits::{ECHOED_MAX, FRAME_LISTS_MAX, HEADS_MAX};
use crate::physics::{Echoes, Evidence};
use crate::revocation::{Head, RevocationList, Taken};
use crate::time::{Mono, Now, Utc};

impl Directory {
    /// Takes what a message says beside talk and news.
    pub(super) fn take_aside(
        &mut self,
        now: Now,
        from: PeerId,
        Aside { lists, heads, refused }: Aside,
        out: &mut Vec<Output>,
    ) {
        for fault in refused {
            out.push(Output::Event(Event::AdvertRefused { from, reason: fault.into() }));
        }
        for list in lists {
            self.take_list(now, Some(from), &list, out);
        }
        if let Some(heads) = heads {
            self.compare_lists(now.mono, from, &heads, out);
        }
    }

    /// Takes a list that `from` brought, or the host.
    pub(super) fn take_list(
        &mut self,
        now: Now,
        from: Option<PeerId>,
        list: &Arc<RevocationList>,
        out: &mut Vec<Output>,
    ) {
        let (authority, epoch) = (list.says.authority.clone(), list.says.epoch);
        match self.revocations.take(list) {
            Taken::Known | Taken::Older => return,
            Taken::New => {}
            Taken::Disputed => {
                out.push(Output::Event(Event::RevocationsDisputed { authority, epoch }));
            }
        }
        out.push(Output::Revocations(Arc::clone(list)));
        self.judge_all(now.utc);
        for neighbour in self.draw_neighbours(self.params.fanout, |peer| Some(peer) != from) {
            if self.warm_up(now.mono, neighbour, out) {
                self.send_lists(now.mono, neighbour.peer, std::slice::from_ref(list), out);
            }
        }
    }

    /// Tells a peer what it lacks, and asks for what it has.
    pub(super) fn compare_lists(
        &mut self,
        now: Mono,
        from: PeerId,
        theirs: &[Head],
        out: &mut Vec<Output>,
    ) {
        let lacked = self.revocations.lacked_by(theirs);
        if !lacked.is_empty() && self.may_answer_large(now, from) {
            self.send_lists(now, from, &lacked, out);
        }
        if self.revocations.lacks(theirs, &self.trust) {
            let aside = Aside { heads: Some(self.heads()), ..Aside::default() }.boxed();
            let message = Message { shard: self.shard, aside, ..Message::of(Talk::News) };
            self.send_message(now, from, message, out);
        }
    }

    /// Which lists this peer has, if any, for a message.
    pub(super) fn tell_heads(&self) -> Option<Box<Aside>> {
        let heads = (!self.revocations.is_empty()).then(|| self.heads());
        Aside { heads, ..Aside::default() }.boxed()
    }

    /// Which lists this peer has.
    fn heads(&self) -> Vec<Head> {
        let mut heads = self.revocations.heads();
        heads.truncate(HEADS_MAX);
        heads
    }

    fn send_lists(
        &mut self,
        now: Mono,
        to: PeerId,
        lists: &[Arc<RevocationList>],
        out: &mut Vec<Output>,
    ) {
        for lists in lists.chunks(FRAME_LISTS_MAX) {
            let aside = Aside { lists: lists.to_vec(), ..Aside::default() }.boxed();
            let message = Message { shard: self.shard, aside, ..Message::of(Talk::News) };
            self.send_message(now, to, message, out);
        }
    }

    /// Takes an echo of a peer, measured by the host.
    pub(super) fn take_echo(
        &mut self,
        now: Now,
        peer: PeerId,
        rtt: Duration,
        out: &mut Vec<Output>,
    ) {
        let known = self.echoes.get(&peer);
        if known.is_none() && (self.members.get(peer).is_none() || self.echoes.len() >= ECHOED_MAX)
        {
            return;
        }
        let echoes = known.map_or(Echoes { fastest: rtt, count: 1 }, |known| known.and(rtt));
        self.echoes.insert(peer, echoes);
        let Ok(at) = self.members.find(super::Short::of(peer)) else { return };
        let record = Arc::clone(self.members.at(at).record);
        let judged = self.judge(now.utc, Arc::clone(&record));
        if !Arc::ptr_eq(&record, &judged) {
            if judged.evidence == Evidence::Contradicted {
                out.push(Output::Event(Event::PeerContradicted { peer, echoes }));
            }
            self.members.revise(at, judged);
            self.view_stale = true;
        }
    }

    /// The fastest echo of a peer.
    pub fn echoes(&self, peer: PeerId) -> Option<Echoes> {
        self.echoes.get(&peer).copied()
    }

    /// The record as it counts here and now.
    pub(super) fn judge(&self, utc: Utc, record: Arc<Record>) -> Arc<Record> {
        let peer = record.advert.peer;
        let age_max = self.params.revocations_age_max;
        // Most meshes have no lists, and most records are not measured.
        let is_plain = self.revocations.is_empty() && age_max.is_none();
        if is_plain && !record.is_judged() && !self.echoes.contains_key(&peer) {
            return record;
        }
        let evidence = match (self.own.asserted(), record.asserted()) {
            (Ok(own), Ok(its)) if peer != self.me => {
                Evidence::of(&own.location, &its.location, self.echoes(peer))
            }
            _ => Evidence::None,
        };
        record.under(&self.revocations, utc, age_max, evidence)
    }

    /// Judges every record anew: a list came, or one went stale.
    pub(super) fn judge_all(&mut self, utc: Utc) {
        let own = self.judge(utc, Arc::clone(&self.own));
        self.view_stale |= !Arc::ptr_eq(&own, &self.own);
        self.own = own;
        for at in 0..self.members.len() {
            let record = Arc::clone(self.members.at(at).record);
            let judged = self.judge(utc, Arc::clone(&record));
            if !Arc::ptr_eq(&record, &judged) {
                self.members.revise(at, judged);
                self.view_stale = true;
            }
        }
    }
}
