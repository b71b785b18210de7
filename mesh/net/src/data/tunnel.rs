//! The way to a peer that cannot be dialled: through a relay, a peer that it keeps a connection with.
//!
//! ```text
//! caller ── stream ──► relay ── stream ──► peer     u32::MAX ‖ the peer's id, then packets, each
//!        ◄──────────────────────────────────        after its length (u16, little-endian)
//! caller ◄────────── QUIC, hansa/1 ────────► peer   what the packets carry
//! ```
//!
//! Inside runs a connection like any other, its ends pinned to their keys, so the relay carries
//! sealed packets: it sees who speaks with whom and how much, and no byte of a job. To quinn a
//! tunnel is an address of a socket of its own, which this file is: those addresses (of 240.0.0.0/4,
//! which is reserved) mean nothing elsewhere, and none is ever told to another peer. A full queue
//! drops packets as any router does, and the connection inside slows down.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;

use super::link::Carrying;
use super::stream::{Body, BodyError, Sender};
use crate::limits::*;

/// Where quinn finds the nth tunnel.
fn addr_of(nth: u32) -> SocketAddr {
    (Ipv4Addr::from(0xf000_0000 | nth), 1).into()
}

/// The ends of tunnels at this node, as quinn sees them: a socket that reaches all of them.
#[derive(Debug)]
pub(super) struct Tunnels {
    ends: Mutex<HashMap<SocketAddr, End>>,
    opened: AtomicU32,
    arrive: mpsc::Sender<(SocketAddr, Bytes)>,
    arrived: Mutex<mpsc::Receiver<(SocketAddr, Bytes)>>,
}

/// This node's end of one tunnel.
#[derive(Debug)]
struct End {
    leave: mpsc::Sender<Bytes>,
    carrying: AbortHandle,
}

/// A tunnel on which no connection stands yet. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Fresh<'a> {
    tunnels: &'a Tunnels,
    /// Where quinn finds it.
    pub(super) addr: SocketAddr,
}

impl Tunnels {
    pub(super) fn new() -> Arc<Self> {
        let (arrive, arrived) = mpsc::channel(TUNNEL_QUEUE_MAX);
        let (ends, opened) = (Mutex::default(), AtomicU32::new(0));
        Arc::new(Self { ends, opened, arrive, arrived: Mutex::new(arrived) })
    }

    /// Takes the two halves of a stream as a tunnel. What it holds is given back when it ends.
    pub(super) fn open(
        self: &Arc<Self>,
        (sender, body): (Sender, Body),
        held: (Option<OwnedSemaphorePermit>, Carrying),
    ) -> Fresh<'_> {
        let addr = addr_of(self.opened.fetch_add(1, Ordering::Relaxed));
        let (leave, leaving) = mpsc::channel(TUNNEL_QUEUE_MAX);
        let (arrive, tunnels) = (self.arrive.clone(), Arc::downgrade(self));
        let carrying = async move {
            let _held = held;
            let ended = tokio::select! {
                ended = carry_out(sender, leaving) => ended.map_err(|error| error.to_string()),
                ended = carry_in(body, addr, arrive) => ended.map_err(|error| error.to_string()),
            };
            tracing::debug!(%addr, ?ended, "a tunnel ended");
            if let Some(tunnels) = tunnels.upgrade() {
                tunnels.ends().remove(&addr);
            }
        };
        // Under the lock: one that ends at once still finds its entry.
        let mut ends = self.ends();
        let carrying = tokio::spawn(carrying).abort_handle();
        ends.insert(addr, End { leave, carrying });
        Fresh { tunnels: self, addr }
    }

    /// Resolves when the tunnel at this address has ended; `None` if none is there.
    pub(super) fn ended(&self, addr: SocketAddr) -> Option<impl Future<Output = ()> + use<>> {
        let leave = self.ends().get(&addr)?.leave.clone();
        Some(async move { leave.closed().await })
    }

    /// Ends the tunnel at this address, if one is there.
    pub(super) fn close(&self, addr: SocketAddr) {
        if let Some(end) = self.ends().remove(&addr) {
            end.carrying.abort();
        }
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, End>> {
        self.ends.lock().expect("no holder panics")
    }
}

impl Fresh<'_> {
    /// Resolves when it has ended.
    pub(super) async fn ended(&self) {
        if let Some(ended) = self.tunnels.ended(self.addr) {
            ended.await;
        }
    }

    /// A connection stands on it, or may: the tunnel ends with its stream.
    pub(super) fn keep(self) {
        // It only borrows; what is forgotten is that it closes.
        std::mem::forget(self);
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        self.tunnels.close(self.addr);
    }
}

/// Packets of this node's connection, to the stream, until the tunnel is closed.
async fn carry_out(
    mut sender: Sender,
    mut leaving: mpsc::Receiver<Bytes>,
) -> Result<(), quinn::WriteError> {
    while let Some(packets) = leaving.recv().await {
        sender.write(packets).await?;
    }
    Ok(())
}

/// Packets of the other end, from the stream to quinn.
async fn carry_in(
    mut body: Body,
    addr: SocketAddr,
    arrive: mpsc::Sender<(SocketAddr, Bytes)>,
) -> Result<(), BodyError> {
    loop {
        let length = body.read_exact(2).await?;
        let length = u16::from_le_bytes(length.as_ref().try_into().expect("2 bytes"));
        let packet = body.read_exact(length.into()).await?;
        if arrive.send((addr, packet)).await.is_err() {
            return Ok(());
        }
    }
}

impl AsyncUdpSocket for Tunnels {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(leave) = self.ends().get(&transmit.destination).map(|end| end.leave.clone())
        else {
            return Ok(());
        };
        let packets = transmit.contents.chunks(transmit.segment_size.unwrap_or(usize::MAX));
        let mut framed = BytesMut::with_capacity(transmit.contents.len() + 2 * packets.len());
        for packet in packets {
            let length = u16::try_from(packet.len()).expect("a packet of UDP");
            framed.put_u16_le(length);
            framed.put_slice(packet);
        }
        // Full: the packets are lost.
        let _ = leave.try_send(framed.freeze());
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = self.arrived.lock().expect("no holder panics");
        let mut count = 0;
        while count < buffers.len().min(metas.len()) {
            let (addr, packet) = match arrived.poll_recv(cx) {
                Poll::Ready(Some(next)) => next,
                Poll::Ready(None) => unreachable!("this socket holds a sender"),
                Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Pending => break,
            };
            // Longer than what quinn has agreed to, or nothing: not a packet.
            let Some(buffer) = buffers[count].get_mut(..packet.len()).filter(|b| !b.is_empty())
            else {
                continue;
            };
            buffer.copy_from_slice(&packet);
            let (len, stride) = (packet.len(), packet.len());
            metas[count] = RecvMeta { addr, len, stride, ecn: None, dst_ip: None };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr_of(u32::MAX))
    }

    fn max_transmit_segments(&self) -> usize {
        TUNNEL_SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// What leaves for a tunnel is queued or lost; nobody waits.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
