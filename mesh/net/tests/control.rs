//! The control plane: how peers meet, speak, and turn strangers away.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::within;
use futures::StreamExt as _;
use hansa_core::id::PeerId;
use hansa_net::control::SendError;
use hansa_net::limits::FRAME_BYTES_MAX;
use hansa_net::{ControlConfig, ControlError, ControlEvent, ControlHandle, ControlPlane};
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, SwarmBuilder, identify};
use tokio::sync::mpsc;

struct Node {
    handle: ControlHandle,
    events: mpsc::Receiver<ControlEvent>,
}

impl Node {
    async fn start(seed: u8, config: ControlConfig) -> Self {
        let started = ControlPlane::start(&[seed; 32], config).await;
        let (handle, events) = started.expect("listens");
        Self { handle, events }
    }

    /// On loopback, meeting others at `bootstrap`.
    async fn local(seed: u8, bootstrap: &[&Node]) -> Self {
        let bootstrap = bootstrap.iter().map(|node| node.addr()).collect();
        Self::start(seed, ControlConfig { listen: vec![loopback()], bootstrap, ..<_>::default() })
            .await
    }

    fn peer(&self) -> PeerId {
        self.handle.local_peer()
    }

    fn addr(&self) -> String {
        self.handle.addrs()[0].clone()
    }

    /// Waits for the event that `wanted` makes something of.
    async fn until<T>(&mut self, mut wanted: impl FnMut(ControlEvent) -> Option<T>) -> T {
        within(async {
            loop {
                let event = self.events.recv().await.expect("the plane runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        })
        .await
    }

    async fn connected(&mut self) -> PeerId {
        self.until(|event| match event {
            ControlEvent::Connected { peer, .. } => Some(peer),
            _ => None,
        })
        .await
    }

    async fn frame(&mut self) -> (PeerId, Bytes) {
        self.until(|event| match event {
            ControlEvent::Frame { from, bytes } => Some((from, bytes)),
            _ => None,
        })
        .await
    }
}

fn loopback() -> String {
    "/ip4/127.0.0.1/udp/0/quic-v1".into()
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn frames_arrive_in_order_both_ways() {
    let mut one = Node::local(1, &[]).await;
    let mut two = Node::local(2, &[&one]).await;
    assert_eq!(two.connected().await, one.peer());
    assert_eq!(one.connected().await, two.peer());
    for n in 0..100 {
        two.handle.send(one.peer(), text(&format!("{n}"))).expect("queued");
        one.handle.send(two.peer(), text(&format!("{n}"))).expect("queued");
    }
    for n in 0..100 {
        assert_eq!(one.frame().await, (two.peer(), text(&format!("{n}"))));
        assert_eq!(two.frame().await, (one.peer(), text(&format!("{n}"))));
    }
}

#[tokio::test]
async fn three_peers_speak_after_meeting_through_one() {
    let mut one = Node::local(1, &[]).await;
    let mut two = Node::local(2, &[&one]).await;
    let mut three = Node::local(3, &[&one]).await;
    assert_eq!(two.connected().await, one.peer());
    assert_eq!(three.connected().await, one.peer());
    // Gossip would tell two where three is; a send then dials by itself.
    two.handle.learn(three.peer(), three.handle.addrs()).expect("taken");
    two.handle.send(three.peer(), text("two to three")).expect("queued");
    assert_eq!(three.frame().await, (two.peer(), text("two to three")));
    three.handle.send(two.peer(), text("back")).expect("queued");
    assert_eq!(two.frame().await, (three.peer(), text("back")));
    one.handle.send(three.peer(), text("one to three")).expect("queued");
    assert_eq!(three.frame().await, (one.peer(), text("one to three")));
    one.connected().await;
}

/// Peers that hear of each other through a third dial at the same moment, and then there are two
/// connections, one of which replaces the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_frame_is_lost_when_both_dial_at_once() {
    const FRAMES: usize = 40;
    for round in 0..40_u64 {
        let mut one = Node::local(1, &[]).await;
        let mut two = Node::local(2, &[]).await;
        one.handle.learn(two.peer(), two.handle.addrs()).expect("taken");
        two.handle.learn(one.peer(), one.handle.addrs()).expect("taken");
        let send = |from: ControlHandle, to: PeerId, late: u64| async move {
            tokio::time::sleep(Duration::from_micros(late)).await;
            for n in 0..FRAMES {
                from.send(to, text(&n.to_string())).expect("queued");
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        };
        let _ = tokio::join!(
            tokio::spawn(send(one.handle.clone(), two.peer(), 0)),
            tokio::spawn(send(two.handle.clone(), one.peer(), round * 100)),
        );
        for node in [&mut one, &mut two] {
            let mut came = BTreeSet::new();
            while came.len() < FRAMES {
                let frame = tokio::time::timeout(Duration::from_secs(5), node.frame()).await;
                let Ok((_, frame)) = frame else {
                    panic!("round {round}: {} of {FRAMES} came: {came:?}", came.len());
                };
                let number = std::str::from_utf8(&frame).expect("a number").parse::<usize>();
                assert!(came.insert(number.expect("a number")), "each comes once");
            }
        }
    }
}

#[tokio::test]
async fn the_largest_frame_arrives_and_a_larger_one_is_refused_here() {
    let mut one = Node::local(1, &[]).await;
    let mut two = Node::local(2, &[&one]).await;
    two.connected().await;
    let largest = common::pattern(FRAME_BYTES_MAX);
    two.handle.send(one.peer(), largest.clone()).expect("queued");
    assert!(one.frame().await.1 == largest);
    let larger = common::pattern(FRAME_BYTES_MAX + 1);
    let refused = two.handle.send(one.peer(), larger);
    assert_eq!(refused, Err(SendError::TooLarge(FRAME_BYTES_MAX + 1)));
}

#[tokio::test]
async fn a_bootstrap_peer_that_comes_late_or_again_is_met() {
    let place = Node::local(1, &[]).await;
    let addr = place.addr();
    place.handle.shutdown().await;
    let bootstrap =
        ControlConfig { listen: vec![loopback()], bootstrap: vec![addr.clone()], ..<_>::default() };
    let mut two = Node::start(2, bootstrap).await;
    let at_place = ControlConfig { listen: vec![addr], ..<_>::default() };
    for _ in 0..2 {
        // The port is free again once the last packet of the goodbye is out.
        let (one, _events) = within(async {
            loop {
                match ControlPlane::start(&[1; 32], at_place.clone()).await {
                    Ok(started) => return started,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
        .await;
        assert_eq!(two.connected().await, one.local_peer());
        one.shutdown().await;
        let gone = |event| matches!(event, ControlEvent::Disconnected { .. }).then_some(());
        two.until(gone).await;
    }
}

#[tokio::test]
async fn a_node_that_names_itself_as_bootstrap_is_not_disturbed() {
    let place = Node::local(1, &[]).await;
    let addr = place.addr();
    place.handle.shutdown().await;
    drop(place);
    let config =
        ControlConfig { listen: vec![addr.clone()], bootstrap: vec![addr], ..<_>::default() };
    let one = within(async {
        loop {
            match ControlPlane::start(&[1; 32], config.clone()).await {
                Ok((handle, events)) => return Node { handle, events },
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    let mut two = Node::local(2, &[&one]).await;
    assert_eq!(two.connected().await, one.peer());
}

#[tokio::test]
async fn an_unknown_or_unreachable_peer_is_said_to_be_so() {
    let mut one = Node::local(1, &[]).await;
    let stranger = Node::local(2, &[]).await;
    let reason = |event| match event {
        ControlEvent::Unreachable { peer, reason } => Some((peer, reason)),
        _ => None,
    };
    one.handle.send(stranger.peer(), text("hello")).expect("queued");
    let (peer, why) = one.until(reason).await;
    assert_eq!(peer, stranger.peer());
    assert!(why.contains("no address"), "{why}");
    assert_eq!(one.handle.counters().dropped, 1);
    // Another peer lives at the address that is given for it.
    let other = Node::local(3, &[]).await;
    one.handle.dial(stranger.peer(), vec![other.addr()]).expect("taken");
    let (peer, why) = one.until(reason).await;
    assert_eq!(peer, stranger.peer());
    assert!(why.contains("another key answered"), "{why}");
}

#[tokio::test]
async fn a_port_in_use_or_a_bad_address_fails_the_start_with_what_to_do() {
    let one = Node::local(1, &[]).await;
    let listen = |addr: String| ControlConfig { listen: vec![addr], ..<_>::default() };
    let taken = ControlPlane::start(&[2; 32], listen(one.addr())).await.expect_err("taken");
    assert!(matches!(taken, ControlError::AddressInUse { .. }), "{taken}");
    let said = taken.to_string();
    assert!(said.contains("127.0.0.1:") && said.contains("set [mesh] listen"), "{said}");
    for bad in ["127.0.0.1:4101", "/ip4/127.0.0.1/tcp/4101", "/dns4/localhost/udp/0/quic-v1"] {
        let error = ControlPlane::start(&[2; 32], listen(bad.into())).await.expect_err(bad);
        assert!(matches!(error, ControlError::Address { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_unspecified_address_is_advertised_as_real_ones_with_a_real_port() {
    let any = "/ip4/0.0.0.0/udp/0/quic-v1".to_owned();
    let external = "/ip4/203.0.113.7/udp/4101/quic-v1".to_owned();
    let config =
        ControlConfig { listen: vec![any], external: vec![external.clone()], ..<_>::default() };
    let node = Node::start(1, config).await;
    let addrs = node.handle.addrs();
    assert_eq!(addrs[0], external);
    for addr in &addrs[1..] {
        assert!(!addr.contains("0.0.0.0") && !addr.contains("/udp/0/"), "{addr}");
        assert!(!addr.contains("127.0.0.1"), "no use to others beside a real one: {addr}");
    }
}

#[tokio::test]
async fn mdns_alone_makes_two_peers_meet() {
    let any = || ControlConfig {
        listen: vec!["/ip4/0.0.0.0/udp/0/quic-v1".into()],
        mdns: true,
        ..<_>::default()
    };
    if !multicast_works() {
        eprintln!("skipped: this machine carries no multicast between its own sockets");
        return;
    }
    let mut one = Node::start(0xa1, any()).await;
    let two = Node::start(0xa2, any()).await;
    // Others may be on this network too.
    while one.connected().await != two.peer() {}
}

fn multicast_works() -> bool {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let heard = || -> std::io::Result<bool> {
        let ear = std::net::UdpSocket::bind("0.0.0.0:0")?;
        ear.join_multicast_v4(&group, &std::net::Ipv4Addr::UNSPECIFIED)?;
        ear.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mouth = std::net::UdpSocket::bind("0.0.0.0:0")?;
        mouth.send_to(b"hansa", (group, ear.local_addr()?.port()))?;
        Ok(ear.recv(&mut [0; 16]).is_ok())
    };
    heard().unwrap_or(false)
}

/// A peer of the next protocol version: it speaks gossip, but not ours.
fn of_another_version() -> Swarm<identify::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_quic()
        .with_behaviour(|keypair| {
            identify::Behaviour::new(identify::Config::new("/hansa/2".into(), keypair.public()))
        })
        .expect("cannot fail")
        .build()
}

#[tokio::test]
async fn a_peer_of_another_protocol_version_is_refused_once_and_left_alone() {
    let mut one = Node::local(1, &[]).await;
    let mut other = of_another_version();
    let peer: PeerId = other.local_peer_id().to_string().parse().expect("an Ed25519 key");
    other.listen_on(loopback().parse().expect("an address")).expect("listens");
    let addr = within(async {
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = other.select_next_some().await {
                return address.to_string();
            }
        }
    })
    .await;
    tokio::spawn(async move { while other.next().await.is_some() {} });
    one.handle.dial(peer, vec![addr]).expect("taken");
    one.handle.send(peer, text("hello")).expect("queued");
    let (refused, reason) = one
        .until(|event| match event {
            ControlEvent::Refused { peer, reason } => Some((peer, reason)),
            _ => None,
        })
        .await;
    assert_eq!(refused, peer);
    assert!(reason.contains("/hansa/gossip/1"), "{reason}");
    one.until(|event| matches!(event, ControlEvent::Disconnected { .. }).then_some(())).await;
    for _ in 0..50 {
        one.handle.send(peer, text("again")).expect("queued");
    }
    // Nothing is dialled and nothing more is said: the next event is of another peer.
    let two = Node::local(2, &[&one]).await;
    let next = within(one.events.recv()).await.expect("the plane runs");
    assert!(matches!(next, ControlEvent::Connected { peer, .. } if peer == two.peer()), "{next:?}");
    assert!(one.handle.counters().dropped >= 50);
}

#[tokio::test]
async fn a_slow_host_holds_its_peers_back_and_loses_little() {
    let mut one = Node::local(1, &[]).await;
    let mut two = Node::local(2, &[&one]).await;
    two.connected().await;
    // Far more than every queue on the way holds, while nobody listens at the other end.
    const FRAMES: u64 = 6_000;
    for n in 0..FRAMES {
        while two.handle.send(one.peer(), Bytes::from(vec![0; 2_000])).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let settle = async {
        let mut last = two.handle.counters();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = two.handle.counters();
            if now == last {
                return now;
            }
            last = now;
        }
    };
    let counters = within(settle).await;
    assert!(counters.dropped > 0, "old frames make room for new: {counters:?}");
    let received = one.handle.counters().received;
    assert!(received < FRAMES, "the reader waits for its host: {received}");
    // Once the host listens again, what was held back comes.
    for _ in 0..received {
        one.frame().await;
    }
    one.frame().await;
}
