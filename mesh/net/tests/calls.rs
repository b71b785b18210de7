//! The data plane between honest peers.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{PATIENCE, echoing, pattern, plane, within};
use futures::FutureExt as _;
use hansa_net::limits::{DIAL_TIMEOUT, code};
use hansa_net::{BodyError, Call, CallError, DataError, DataLimits, DataPlane};

const HEADER: Bytes = Bytes::from_static(b"header");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_every_size_come_back_intact() {
    let server = echoing(1);
    let (client, _) = plane(2);
    for bytes in [0, 1, 4 * 1024, 64 * 1024 * 1024] {
        let sent = pattern(bytes);
        let addrs = [server.local_addr()];
        let call = client.call(server.local_peer(), &addrs, HEADER, vec![sent.clone()]);
        let mut answer = within(call).await.expect("answered");
        assert_eq!(answer.header, HEADER);
        let body = within(answer.body.read_exact(bytes)).await;
        assert!(body.expect("whole") == sent, "{bytes} bytes differ");
        answer.body.expect_end(bytes).await.expect("nothing follows");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_streams_while_the_request_is_still_sent_does_not_lock_up() {
    let (server, mut incoming) = plane(1);
    tokio::spawn(async move {
        let mut call = incoming.recv().await.expect("a call");
        let first = call.body.chunk().await.expect("readable").expect("some");
        // Answers after the first packet, and the answer is larger than every window.
        let _ = call.reply.send(first.slice(..1), vec![pattern(64 * 1024 * 1024)]).await;
    });
    let (client, _) = plane(2);
    let body = vec![pattern(64 * 1024 * 1024)];
    let addrs = [server.local_addr()];
    let call = client.call(server.local_peer(), &addrs, HEADER, body);
    let mut answer = within(call).await.expect("answered");
    let body = within(answer.body.read_to_end(usize::MAX)).await;
    assert_eq!(body.expect("whole").len(), 64 * 1024 * 1024);
}

#[tokio::test]
async fn five_hundred_calls_share_one_connection_dialled_once() {
    let server = echoing(1);
    let (client, _) = plane(2);
    let calls = (0..500u32).map(|n| {
        let (client, server) = (client.clone(), server.clone());
        async move {
            let body = vec![Bytes::copy_from_slice(&n.to_le_bytes()), pattern(4 * 1024)];
            let addrs = [server.local_addr()];
            let mut answer = client.call(server.local_peer(), &addrs, HEADER, body).await?;
            let body = answer.body.read_to_end(8 * 1024).await?;
            assert_eq!(body[..4], n.to_le_bytes());
            assert!(body[4..] == pattern(4 * 1024));
            Ok::<(), CallError>(())
        }
    });
    let all = futures::future::try_join_all(calls);
    within(all).await.expect("all answered");
    assert_eq!(server.connections(), 1);
    assert_eq!(client.connections(), 1);
}

#[tokio::test]
async fn when_both_dial_at_once_one_connection_remains() {
    let (one, two) = (echoing(1), echoing(2));
    let addrs_of_two = [two.local_addr()];
    let there = one.call(two.local_peer(), &addrs_of_two, HEADER, vec![]);
    let addrs = [one.local_addr()];
    let back = two.call(one.local_peer(), &addrs, HEADER, vec![]);
    let (there, back) = within(async { tokio::join!(there, back) }).await;
    drop((there.expect("answered"), back.expect("answered")));
    let settled = async {
        while one.connections() + two.connections() > 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(settled).await;
    for (from, to) in [(&one, &two), (&two, &one)] {
        // Without an address: it must be the open connection that carries this.
        from.call(to.local_peer(), &[], HEADER, vec![]).await.expect("answered");
    }
}

#[tokio::test]
async fn a_peer_without_an_address_is_called_over_the_connection_that_it_opened() {
    let (public, hidden) = (echoing(1), echoing(2));
    hidden.warm(public.local_peer(), &[public.local_addr()]).await.expect("connected");
    let call = async {
        while !public.is_connected(&hidden.local_peer()) {
            tokio::task::yield_now().await;
        }
        public.call(hidden.local_peer(), &[], HEADER, vec![]).await
    };
    let answer = within(call).await.expect("answered");
    assert_eq!(answer.header, HEADER);
}

#[tokio::test]
async fn a_peer_that_runs_anew_is_met_on_a_new_connection_and_no_call_in_flight_is_lost() {
    let (server, mut incoming) = plane(1);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    let (client, _) = plane(2);
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call(peer, &addrs, HEADER, vec![]).await }
    });
    let held = within(incoming.recv()).await.expect("a call");
    client.renew(&peer);
    assert!(client.is_connected(&peer), "a call is in flight");
    held.reply.send(HEADER, vec![]).await.expect("the caller waits");
    let mut answer = within(slow).await.expect("no panic").expect("answered");
    answer.body.expect_end(0).await.expect("it is empty");
    drop(answer);
    within(async {
        while client.is_connected(&peer) {
            client.renew(&peer);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    tokio::spawn(common::echo(incoming));
    within(client.call(peer, &addrs, HEADER, vec![])).await.expect("answered anew");
    assert!(client.is_connected(&peer));
}

#[tokio::test]
async fn a_peer_that_runs_anew_elsewhere_is_not_waited_for_where_it_was() {
    let (client, server) = (echoing(1), echoing(2));
    let peer = server.local_peer();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let before = [silent.local_addr().expect("bound")];
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.warm(peer, &before).await }
    });
    // Its first packet is out: the dial goes on, for seconds if nobody ends it.
    silent.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
    let received = tokio::task::spawn_blocking(move || silent.recv(&mut [0; 2048]).map(|_| silent));
    let _silent = received.await.expect("no panic").expect("a packet");
    let started = Instant::now();
    within(client.warm(peer, &[server.local_addr()])).await.expect("it is there");
    assert!(started.elapsed() < DIAL_TIMEOUT / 2, "{:?}", started.elapsed());
    within(waiting).await.expect("no panic").expect("who waited for it is told");
}

#[tokio::test]
async fn dropping_a_call_cancels_it_at_the_peer() {
    let (server, mut incoming) = plane(1);
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call(peer, &addrs, HEADER, vec![pattern(10)]).await })
    };
    let received = within(incoming.recv()).await.expect("a call");
    let cancelled = received.reply.cancelled();
    call.abort();
    within(cancelled).await;
    let late = received.reply.send(HEADER, vec![]).await;
    assert_eq!(late, Err(hansa_net::data::ReplyError::Cancelled));
    // The connection is as good as before.
    tokio::spawn(common::echo(incoming));
    client.call(peer, &[], HEADER, vec![]).await.expect("answered");
}

#[tokio::test]
async fn a_call_cancelled_while_it_is_sent_never_looks_whole() {
    let (server, mut incoming) = plane(1);
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    let caller = client.clone();
    let call =
        tokio::spawn(
            async move { caller.call(peer, &addrs, HEADER, vec![pattern(100 << 20)]).await },
        );
    let mut received = within(incoming.recv()).await.expect("a call");
    received.body.chunk().await.expect("readable").expect("some");
    call.abort();
    let rest = within(received.body.read_to_end(usize::MAX)).await;
    assert_eq!(rest, Err(BodyError::Reset(code::CANCELLED.into())));
}

#[tokio::test]
async fn a_host_that_drops_or_refuses_a_call_is_heard() {
    let (server, mut incoming) = plane(1);
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    tokio::spawn(async move {
        drop(incoming.recv().await.expect("a call"));
        incoming.recv().await.expect("a call").reply.refuse(code::BUSY);
        std::future::pending::<()>().await
    });
    for expected in [code::UNANSWERED, code::BUSY] {
        let call = client.call(peer, &addrs, HEADER, vec![pattern(10)]);
        let refused = within(call).await.expect_err("refused");
        assert_eq!(refused, CallError::Refused(expected.into()));
    }
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_as_busy() {
    let limits = DataLimits { inbound_calls_max: 2, ..DataLimits::default() };
    let (server, mut incoming) = common::plane_within(1, limits);
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    let mut held = Vec::new();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let client = client.clone();
        waiting.spawn(async move { client.call(peer, &addrs, HEADER, vec![]).await });
        held.push(within(incoming.recv()).await.expect("a call"));
    }
    let third = within(client.call(peer, &addrs, HEADER, vec![])).await;
    let third = third.expect_err("refused");
    assert_eq!(third, CallError::Refused(code::BUSY.into()));
    for call in held {
        call.reply.send(HEADER, vec![]).await.expect("taken");
    }
    while let Some(answered) = waiting.join_next().await {
        answered.expect("no panic").expect("answered");
    }
}

#[tokio::test]
async fn draining_answers_what_is_in_flight_and_refuses_what_is_new() {
    let (server, mut incoming) = plane(1);
    let (client, _) = plane(2);
    let (peer, addrs) = (server.local_peer(), [server.local_addr()]);
    let first = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut answer = client.call(peer, &addrs, HEADER, vec![]).await?;
            Ok::<_, CallError>(answer.body.read_to_end(1 << 20).await?)
        })
    };
    let call = within(incoming.recv()).await.expect("a call");
    let mut draining = server.drain(PATIENCE).boxed();
    assert!(futures::poll!(&mut draining).is_pending(), "a call is in flight");
    let refused = within(client.call(peer, &addrs, HEADER, vec![])).await.expect_err("refused");
    assert_eq!(refused, CallError::Refused(code::DRAINING.into()));
    let Call { reply, body, .. } = call;
    drop(body);
    let answered = reply.send(HEADER, vec![pattern(1 << 20)]);
    let (answered, ()) = within(async { tokio::join!(answered, draining) }).await;
    answered.expect("taken");
    let body = first.await.expect("no panic").expect("answered");
    assert!(body == pattern(1 << 20));
}

#[tokio::test]
async fn round_trips_are_measured_by_echoes() {
    let server = echoing(1);
    let (client, _) = plane(2);
    assert_eq!(client.rtt(&server.local_peer()), None);
    client.warm(server.local_peer(), &[server.local_addr()]).await.expect("connected");
    let measured = async {
        loop {
            match client.rtt(&server.local_peer()) {
                Some(rtt) => return rtt,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let rtt = within(measured).await;
    assert!(rtt < Duration::from_millis(200), "{rtt:?}");
}

#[tokio::test]
async fn a_port_in_use_is_a_typed_error() {
    let (taken, _) = plane(1);
    let addr = taken.local_addr();
    let error = DataPlane::bind(&[2; 32], addr, DataLimits::default()).err().expect("refused");
    assert!(matches!(error, DataError::AddressInUse { addr: named } if named == addr));
    assert!(error.to_string().contains("set [mesh] data_listen"), "{error}");
}

#[tokio::test]
async fn an_unreachable_peer_is_a_typed_error_within_the_dial_timeout() {
    let (client, _) = plane(2);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr: SocketAddr = silent.local_addr().expect("bound");
    let (other, _) = plane(3);
    let addrs = [addr];
    let call = client.call(other.local_peer(), &addrs, HEADER, vec![]);
    let error = within(call).await.expect_err("nobody is there");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    let error = client.call(other.local_peer(), &[], HEADER, vec![]).await.expect_err("no address");
    assert!(error.to_string().contains("no address is known"), "{error}");
}
