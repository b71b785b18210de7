//! Peers behind NAT, which dial and cannot be dialled: they are reached through a relay.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{echoing, pattern, plane, within};
use hansa_core::id::PeerId;
use hansa_net::data::{Relay, Way};
use hansa_net::limits::{ADDRS_PER_PEER_MAX, DIAL_TIMEOUT, TUNNELS_ASKED_MAX, code};
use hansa_net::{CallError, DataPlane};
use libp2p::identity::Keypair;
use quinn::crypto::rustls::QuicClientConfig;

const HEADER: Bytes = Bytes::from_static(b"header");

/// The plane as a relay.
fn relay(plane: &DataPlane) -> Relay {
    Relay { peer: plane.local_peer(), addrs: vec![plane.local_addr()] }
}

/// Through these relays and in no other way.
fn through(relays: &[&DataPlane]) -> Way {
    Way { addrs: Vec::new(), relays: relays.iter().map(|plane| relay(plane)).collect() }
}

/// A plane that relays for everybody who stays with it.
fn relaying(seed: u8) -> DataPlane {
    let plane = echoing(seed);
    plane.admit_tunnels(|_, _| true);
    plane
}

/// A plane that echoes, stays with these relays and tells nobody its address.
async fn hidden(seed: u8, relays: &[&DataPlane]) -> DataPlane {
    let plane = echoing(seed);
    hide(&plane, relays).await;
    plane
}

/// Makes a plane stay with these relays and take tunnels from them.
async fn hide(plane: &DataPlane, relays: &[&DataPlane]) {
    let own: Vec<PeerId> = relays.iter().map(|relay| relay.local_peer()).collect();
    plane.admit_tunnels(move |from, _| own.contains(&from));
    for other in relays {
        stay(plane, other).await;
    }
}

/// Returns when both ends know that they are connected.
async fn stay(plane: &DataPlane, with: &DataPlane) {
    within(plane.stay_with(&relay(with))).await.expect("the relay is there");
    within(async {
        while !with.is_connected(&plane.local_peer()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn ask(from: &DataPlane, peer: PeerId, way: Way, bytes: usize) -> Result<(), CallError> {
    let mut answer = from.call(peer, way, HEADER, vec![pattern(bytes)]).await?;
    assert_eq!(answer.header, HEADER);
    assert!(answer.body.read_exact(bytes).await? == pattern(bytes), "the body came back whole");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_behind_nat_is_called_through_its_relay() {
    let (relay, asking) = (relaying(1), echoing(2));
    let target = hidden(3, &[&relay]).await;
    for bytes in [0, 1, 4_096, 5_000_000] {
        within(ask(&asking, target.local_peer(), through(&[&relay]), bytes)).await.expect("echoed");
    }
    assert!(asking.is_connected(&target.local_peer()), "it is a connection like any other");
    assert!(target.is_connected(&asking.local_peer()), "for the other end too");
    within(ask(&target, asking.local_peer(), Way::default(), 10)).await.expect("the same one");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_peers_behind_nat_speak_through_the_relay_of_the_one_that_is_asked() {
    let (first, second) = (relaying(1), relaying(2));
    let (asking, target) = (hidden(3, &[&first]).await, hidden(4, &[&second]).await);
    within(ask(&asking, target.local_peer(), through(&[&second]), 100_000)).await.expect("echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_asks_its_own_ward_without_a_detour() {
    let relay = relaying(1);
    let target = hidden(2, &[&relay]).await;
    within(ask(&relay, target.local_peer(), through(&[&relay]), 1_000)).await.expect("echoed");
    assert_eq!(relay.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_refuses_at_once_what_it_does_not_relay() {
    let (asking, _) = plane(2);
    let target = PeerId([7; 32]);
    let refused = async |relay: &DataPlane, target: PeerId| {
        let begun = Instant::now();
        let error = within(ask(&asking, target, through(&[relay]), 1)).await.expect_err("no way");
        assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(code::meaning(code::NO_WAY.into())), "{error}");
        assert!(begun.elapsed() < DIAL_TIMEOUT, "{:?}", begun.elapsed());
    };
    // Nobody of that name has dialled it.
    let (stranger, _) = plane(4);
    refused(&relaying(1), stranger.local_peer()).await;
    // It relays for nobody.
    let selfish = echoing(5);
    let ward = hidden(6, &[&selfish]).await;
    refused(&selfish, ward.local_peer()).await;
    // It relays, but not for that one.
    let choosy = echoing(8);
    choosy.admit_tunnels(move |_, to| to == target);
    let ward = hidden(9, &[&choosy]).await;
    refused(&choosy, ward.local_peer()).await;
    // It does, and not for who asks.
    let strict = echoing(12);
    let stranger = asking.local_peer();
    strict.admit_tunnels(move |from, _| from != stranger);
    let ward = hidden(13, &[&strict]).await;
    refused(&strict, ward.local_peer()).await;
    // It is no relay of that one's own.
    let public = echoing(10);
    let relay = relaying(11);
    within(relay.warm(public.local_peer(), &[public.local_addr()])).await.expect("dialled");
    refused(&relay, public.local_peer()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_with_a_relay_can_try_whether_it_relays() {
    let (relay, other) = (relaying(1), echoing(2));
    let target = hidden(3, &[&relay, &other]).await;
    assert!(within(target.is_relayed_by(relay.local_peer())).await);
    // It relays for nobody, or is not connected.
    assert!(!within(target.is_relayed_by(other.local_peer())).await);
    assert!(!within(target.is_relayed_by(PeerId([7; 32]))).await);
    within(async {
        while relay.tunnels() + target.tunnels() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_of_relay_and_peer_dialled_the_tunnel_runs_over_it() {
    let (relay, (asking, _)) = (relaying(1), plane(2));
    let target = echoing(3);
    within(relay.warm(target.local_peer(), &[target.local_addr()])).await.expect("dialled");
    hide(&target, &[&relay]).await;
    within(ask(&asking, target.local_peer(), through(&[&relay]), 1_000)).await.expect("echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_runs_anew_keeps_the_connection_by_which_it_is_reached() {
    let (relay, (asking, _)) = (relaying(1), plane(2));
    let target = hidden(3, &[&relay]).await;
    // The mesh hears of the new life after the peer has dialled.
    relay.renew(&target.local_peer());
    within(ask(&asking, target.local_peer(), through(&[&relay]), 1_000)).await.expect("echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_addresses_that_lead_nowhere_hold_no_relay_up() {
    let (relay, (asking, _)) = (relaying(1), plane(2));
    let target = hidden(3, &[&relay]).await;
    // Sockets that answer nothing: a packet to them is lost without a word.
    let bind = |_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let silent: Vec<_> = (0..ADDRS_PER_PEER_MAX).map(bind).collect();
    let addrs = silent.iter().map(|socket| socket.local_addr().expect("bound")).collect();
    let way = Way { addrs, ..through(&[&relay]) };
    within(ask(&asking, target.local_peer(), way, 1_000)).await.expect("echoed");
    let last = silent.last().expect("some");
    last.set_nonblocking(true).expect("it can be");
    assert!(last.recv(&mut [0; 2_048]).is_err(), "the relay had its turn before the last address");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_a_relay_that_dies_are_lost_and_the_next_go_by_another() {
    let (first, second) = (relaying(1), relaying(2));
    let (target, mut incoming) = plane(3);
    hide(&target, &[&first, &second]).await;
    let (asking, _) = plane(4);
    let (peer, way) = (target.local_peer(), through(&[&first, &second]));
    let (caller, held_way) = (asking.clone(), way.clone());
    let held = tokio::spawn(async move { ask(&caller, peer, held_way, 10).await });
    let call = within(incoming.recv()).await.expect("a call");
    drop(first);
    let died = Instant::now();
    let error = within(held).await.expect("no panic").expect_err("its way is cut");
    assert!(matches!(error, CallError::Lost(_)), "{error}");
    assert!(died.elapsed() < DIAL_TIMEOUT, "{:?}", died.elapsed());
    drop(call);
    tokio::spawn(common::echo(incoming));
    within(ask(&asking, peer, way, 10)).await.expect("by the other relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_nowhere_is_passed_by_for_a_relay() {
    let (relay, (asking, _)) = (relaying(1), plane(2));
    let target = hidden(3, &[&relay]).await;
    // Somebody else lives at the address that it has in its own network.
    let neighbour = echoing(4);
    let way = Way { addrs: vec![neighbour.local_addr()], ..through(&[&relay]) };
    within(ask(&asking, target.local_peer(), way, 1_000)).await.expect("echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dials_takes_the_place_of_its_tunnel() {
    let (first, second) = (relaying(1), relaying(2));
    let (target, own) = (echoing(3), [&first, &second].map(DataPlane::local_peer));
    target.admit_tunnels(move |from, _| own.contains(&from));
    stay(&target, &first).await;
    let peer = target.local_peer();
    within(ask(&second, peer, through(&[&first]), 1_000)).await.expect("through the first");
    let (asking, _) = plane(4);
    within(ask(&asking, peer, through(&[&second]), 1)).await.expect_err("it is not a relay yet");
    // As a node does again and again. The other end learns of the straight connection a little later.
    within(async {
        loop {
            target.stay_with(&relay(&second)).await.expect("the relay is there");
            if ask(&asking, peer, through(&[&second]), 1_000).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A connection of somebody who keeps to no rule above TLS.
async fn raw(server: &DataPlane) -> (quinn::Endpoint, quinn::Connection) {
    let mut tls =
        libp2p::tls::make_client_config(&Keypair::generate_ed25519(), None).expect("a certificate");
    tls.alpn_protocols = vec![b"hansa/1".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("QUIC's suite");
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address"));
    let endpoint = endpoint.expect("a free port");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, server.local_addr(), "any").expect("a config");
    let connection = within(connecting).await.expect("connected");
    (endpoint, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_in_tunnels_and_too_many_of_them_hurt_nobody_else() {
    let relay = relaying(1);
    let target = hidden(2, &[&relay]).await;
    let (_endpoint, hostile) = raw(&relay).await;
    let opening = [&u32::MAX.to_le_bytes(), target.local_peer().0.as_slice()].concat();
    let mut open = Vec::new();
    for nth in 0..TUNNELS_ASKED_MAX {
        let (mut send, recv) = hostile.open_bi().await.expect("a stream");
        send.write_all(&opening).await.expect("written");
        // No packet, one of no bytes, one of junk, one longer than any, half a one.
        let junk: &[&[u8]] = &[&[], &[0, 0], &[3, 0, 1, 2, 3], &[255; 70_000], &[9, 0, 1]];
        send.write_all(junk[nth % junk.len()]).await.expect("written");
        open.push((send, recv));
    }
    let (mut send, mut recv) = hostile.open_bi().await.expect("a stream");
    send.write_all(&opening).await.expect("written");
    let refused = within(recv.read_to_end(10)).await.expect_err("one too many");
    let busy = quinn::ReadError::Reset(quinn::VarInt::from_u32(code::BUSY));
    assert_eq!(refused, quinn::ReadToEndError::Read(busy));
    let (asking, _) = plane(3);
    within(ask(&asking, target.local_peer(), through(&[&relay]), 100_000)).await.expect("echoed");
    // What it gives back it may use again.
    drop(open);
    within(async {
        loop {
            let (mut send, mut recv) = hostile.open_bi().await.expect("a stream");
            send.write_all(&opening).await.expect("written");
            let wait = Duration::from_millis(100);
            if tokio::time::timeout(wait, recv.read_to_end(10)).await.is_err() {
                return;
            }
        }
    })
    .await;
}
