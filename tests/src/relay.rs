//! A relay of UDP datagrams that gives loopback the delays of a real network.
//!
//! Each member has a front, the address that it advertises. A datagram that member `a` sends to the
//! front of `b` reaches `b` from the front of `a`, so replies take the same way back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a waiting thread looks whether the relay has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Datagrams leave in this order: by time, then by number, so that no path reorders.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    number: u64,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

/// What went from one member to another.
#[derive(Default)]
struct Carried {
    bytes: AtomicU64,
    largest: AtomicU64,
}

/// A running relay. Dropping it ends its threads.
pub struct Relay {
    /// Address that each member advertises.
    pub fronts: Vec<SocketAddr>,
    carried: Arc<Vec<Vec<Carried>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Stands before `members`, addresses that they bind; `one_way` is the delay between two.
    pub fn start(
        members: &[SocketAddr],
        one_way: impl Fn(usize, usize) -> Duration,
    ) -> io::Result<Self> {
        let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let sockets = (0..members.len()).map(bind).collect::<io::Result<Vec<_>>>()?;
        let fronts = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        let ended = Arc::new(AtomicBool::new(false));
        let none = |_| (0..members.len()).map(|_| Carried::default()).collect();
        let carried: Arc<Vec<Vec<Carried>>> = Arc::new((0..members.len()).map(none).collect());
        let (sender, held) = channel();
        let mut threads = Vec::new();
        for (to, socket) in sockets.iter().enumerate() {
            let socket = socket.try_clone()?;
            socket.set_read_timeout(Some(LOOK))?;
            let paths = (0..members.len()).map(|from| (members[from], one_way(from, to))).collect();
            let (sender, ended, carried) = (sender.clone(), ended.clone(), carried.clone());
            threads.push(std::thread::spawn(move || {
                receive(to, &socket, paths, &carried, &sender, &ended);
            }));
        }
        let members = members.to_vec();
        threads.push(std::thread::spawn(move || deliver(&held, &sockets, &members)));
        Ok(Self { fronts, carried, ended, threads })
    }

    /// Bytes of the datagrams that member `from` has sent to member `to`.
    pub fn carried(&self, from: usize, to: usize) -> u64 {
        self.carried[from][to].bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the largest datagram from member `from` to member `to` since this was last asked.
    pub fn largest(&self, from: usize, to: usize) -> u64 {
        self.carried[from][to].largest.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Addresses of this machine that were free a moment ago.
pub fn free(count: usize) -> Vec<SocketAddr> {
    let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let sockets: Vec<UdpSocket> = (0..count).map(bind).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("an address")).collect()
}

/// Takes what arrives at the front of `to`. A sender that is no member is not heard.
fn receive(
    to: usize,
    socket: &UdpSocket,
    paths: Vec<(SocketAddr, Duration)>,
    carried: &[Vec<Carried>],
    sender: &Sender<Held>,
    ended: &AtomicBool,
) {
    let mut buffer = vec![0; 65_536];
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        let Ok((len, source)) = socket.recv_from(&mut buffer) else { continue };
        let Some(from) = paths.iter().position(|(member, _)| *member == source) else { continue };
        let due = Instant::now() + paths[from].1;
        number += 1;
        carried[from][to].bytes.fetch_add(len as u64, Ordering::Relaxed);
        carried[from][to].largest.fetch_max(len as u64, Ordering::Relaxed);
        if sender.send(Held { due, number, from, to, bytes: buffer[..len].to_vec() }).is_err() {
            return;
        }
    }
}

/// Holds each datagram until it is due. Ends when no front is left.
fn deliver(held: &Receiver<Held>, fronts: &[UdpSocket], members: &[SocketAddr]) {
    let mut queue = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while queue.peek().is_some_and(|Reverse(next): &Reverse<Held>| next.due <= now) {
            let Some(Reverse(next)) = queue.pop() else { break };
            // A member that is gone loses it, as a network would.
            let _ = fronts[next.from].send_to(&next.bytes, members[next.to]);
        }
        let wait =
            queue.peek().map_or(LOOK, |Reverse(next)| next.due.saturating_duration_since(now));
        match held.recv_timeout(wait) {
            Ok(next) => queue.push(Reverse(next)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_delays_keeps_order_and_shows_the_front_of_the_sender() -> io::Result<()> {
        let [a, b] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let (a, b) = (a?, b?);
        b.set_read_timeout(Some(Duration::from_secs(5)))?;
        let delay = Duration::from_millis(20);
        let relay = Relay::start(&[a.local_addr()?, b.local_addr()?], |_, _| delay)?;
        let (mut buffer, mut added) = ([0; 8], Vec::new());
        for index in 0..100u8 {
            let sent = Instant::now();
            a.send_to(&[index], relay.fronts[1])?;
            let (len, source) = b.recv_from(&mut buffer)?;
            added.push(sent.elapsed().checked_sub(delay).expect("not before it is due"));
            assert_eq!((len, source, buffer[0]), (1, relay.fronts[0], index));
        }
        (0..100u8).try_for_each(|index| a.send_to(&[index], relay.fronts[1]).map(drop))?;
        for index in 0..100u8 {
            b.recv_from(&mut buffer)?;
            assert_eq!(buffer[0], index, "order is kept");
        }
        added.sort();
        assert_eq!((relay.carried(0, 1), relay.carried(1, 0)), (200, 0));
        eprintln!("the relay adds p50 {:?}, p90 {:?}", added[50], added[90]);
        Ok(())
    }
}
