//! What peers that this node dialled see of it: an address that is none of its own means that
//! something between translates it, and that nobody there can dial it unasked.

use std::collections::HashMap;
use std::net::IpAddr;

use libp2p::PeerId;

/// The word of each connected peer.
#[derive(Debug, Default)]
pub(super) struct Seen {
    words: HashMap<PeerId, bool>,
}

impl Seen {
    /// `peer`, at `theirs`, sees this node, which listens at `own`, at `observed`. Gives whether most
    /// who say anything see another address than its own; none, if that is said by nobody.
    ///
    /// One in a private network says nothing about those outside, whatever it sees: there may be a
    /// proxy of its own between. One liar among honest peers changes nothing.
    pub(super) fn note(
        &mut self,
        peer: PeerId,
        theirs: IpAddr,
        observed: IpAddr,
        own: &[IpAddr],
    ) -> Option<bool> {
        let is_comparable = own.iter().any(|ip| ip.is_ipv4() == observed.is_ipv4());
        if is_comparable && !is_local(theirs) {
            self.words.insert(peer, !own.contains(&observed));
        }
        self.verdict()
    }

    /// The peer is gone, and its word with it. Gives what the others say.
    pub(super) fn forget(&mut self, peer: &PeerId) -> Option<bool> {
        self.words.remove(peer);
        self.verdict()
    }

    fn verdict(&self) -> Option<bool> {
        let translated = self.words.values().filter(|word| **word).count();
        (!self.words.is_empty()).then(|| 2 * translated > self.words.len())
    }
}

/// Whether an address is of a network of its own.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an IP")
    }

    #[test]
    fn a_node_is_behind_nat_if_most_peers_see_an_address_that_is_not_its_own() {
        let own = [ip("192.168.1.5"), ip("127.0.0.1")];
        let (public, router) = (ip("203.0.113.1"), ip("198.51.100.20"));
        let mut seen = Seen::default();
        let [first, second, third] = [(); 3].map(|()| PeerId::random());
        // A neighbour in the office, and one process beside the other, say nothing.
        assert_eq!(seen.note(first, ip("192.168.1.7"), own[0], &own), None);
        assert_eq!(seen.note(first, own[1], own[1], &own), None);
        // Nor does one behind a proxy of its own, which sees everybody at one address.
        assert_eq!(seen.note(first, ip("10.0.0.3"), ip("10.0.0.1"), &own), None);
        // It listens nowhere in IPv6.
        assert_eq!(seen.note(first, ip("2001:db8::1"), ip("2001:db8::2"), &own), None);
        assert_eq!(seen.note(first, public, router, &own), Some(true));
        // Two that see it as it is outvote a liar; one and one is no majority.
        assert_eq!(seen.note(second, public, own[0], &own), Some(false));
        assert_eq!(seen.note(third, public, own[0], &own), Some(false));
        assert_eq!(seen.forget(&second), Some(false));
        assert_eq!(seen.forget(&third), Some(true));
        // Nobody says anything any more: what was said last stands.
        assert_eq!(seen.forget(&first), None);
    }
}
