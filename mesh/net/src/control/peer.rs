//! One peer as the driver knows it: its connections, the frames that wait for it, and the tasks
//! that read and write its gossip streams.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::frames::Offence;
use super::outbox::Outbox;

/// A peer that is connected, being dialled, or both.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Frames that wait for it.
    pub(super) outbox: Arc<Outbox>,
    /// Where this node dialled it last, if it did, and the connection that came of it.
    pub(super) dialled: Option<(ConnectionId, IpAddr)>,
    connections: Vec<ConnectionId>,
    stream: Outbound,
    readers: HashMap<ConnectionId, AbortHandle>,
}

/// The stream that we send on; one, however many connections there are.
#[derive(Debug, Default)]
enum Outbound {
    #[default]
    None,
    Opening(ConnectionId),
    Open(ConnectionId, Writer),
}

/// The task that writes on it.
#[derive(Debug)]
struct Writer {
    task: AbortHandle,
    /// Dropped, it lets the task finish what it began.
    _go_on: oneshot::Sender<()>,
}

/// What the tasks of the streams tell the driver.
pub(super) enum Note {
    /// The stream that we sent on broke.
    WriterBroke(PeerId, ConnectionId),
    /// The peer broke the protocol.
    Offence(PeerId, Offence),
}

impl Peer {
    /// A connection more. Says whether it is the first. A peer that connects anew has perhaps
    /// restarted and knows nothing of the others, so that what we send goes over the newest. More
    /// often both have dialled at once: what is on its way over the other must arrive, so that its
    /// writer is let finish.
    pub(super) fn gain(&mut self, connection: ConnectionId) -> bool {
        self.connections.push(connection);
        self.stream = Outbound::None;
        self.connections.len() == 1
    }

    /// A connection less; its streams are gone with it.
    pub(super) fn lose(&mut self, connection: ConnectionId) {
        self.connections.retain(|open| *open != connection);
        if let Some(reader) = self.readers.remove(&connection) {
            reader.abort();
        }
        self.open_failed(connection);
        self.writer_broke(connection);
    }

    pub(super) fn is_connected(&self) -> bool {
        !self.connections.is_empty()
    }

    /// Where a stream should be opened: something waits, and none is there.
    pub(super) fn wants_stream(&self) -> Option<ConnectionId> {
        match self.stream {
            Outbound::None if !self.outbox.is_empty() => self.connections.last().copied(),
            _ => None,
        }
    }

    /// A stream is being opened.
    pub(super) fn opening(&mut self, connection: ConnectionId) {
        self.stream = Outbound::Opening(connection);
    }

    /// It could not be.
    pub(super) fn open_failed(&mut self, connection: ConnectionId) {
        if matches!(self.stream, Outbound::Opening(at) if at == connection) {
            self.stream = Outbound::None;
        }
    }

    /// It was: `writing` runs on it, and finishes when what it is given ends.
    pub(super) fn write_with<W: Future<Output = ()> + Send + 'static>(
        &mut self,
        connection: ConnectionId,
        writing: impl FnOnce(oneshot::Receiver<()>) -> W,
    ) {
        if matches!(self.stream, Outbound::Opening(at) if at == connection) {
            let (go_on, until) = oneshot::channel();
            let task = tokio::spawn(writing(until)).abort_handle();
            self.stream = Outbound::Open(connection, Writer { task, _go_on: go_on });
        }
    }

    /// It broke.
    pub(super) fn writer_broke(&mut self, connection: ConnectionId) {
        if let Outbound::Open(at, writer) = &self.stream
            && *at == connection
        {
            writer.task.abort();
            self.stream = Outbound::None;
        }
    }

    /// The peer opened a stream: `reading` runs on it. A peer that opens a second one has given up
    /// the first.
    pub(super) fn read_with(
        &mut self,
        connection: ConnectionId,
        reading: impl Future<Output = ()> + Send + 'static,
    ) {
        let reader = tokio::spawn(reading).abort_handle();
        if let Some(old) = self.readers.insert(connection, reader) {
            old.abort();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.readers.values().for_each(AbortHandle::abort);
        if let Outbound::Open(_, writer) = &self.stream {
            writer.task.abort();
        }
    }
}
