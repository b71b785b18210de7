//! A UDP relay in user space: a path with delay and loss between two ends, and a switch that makes
//! everything vanish silently. It keeps order and knows nothing of what it carries.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Packets under way in one direction; more are lost, as on a real path.
const PACKETS_MAX: usize = 16 * 1024;

/// What a packet meets, each way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Path {
    /// Time under way.
    pub(crate) delay: Duration,
    /// Share of packets lost, in thousandths.
    pub(crate) loss_permille: u64,
    /// What the losses are drawn from.
    pub(crate) seed: u64,
}

/// A running relay; it ends when it is dropped.
pub(crate) struct Relay {
    addr: SocketAddr,
    dark: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Relays between whoever sends to [`Relay::addr`] and `target`.
    pub(crate) async fn start(target: SocketAddr, path: Path) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
        let addr = front.local_addr().expect("bound");
        let dark = Arc::new(AtomicBool::new(false));
        let fate =
            Arc::new(Fate { path, dark: Arc::clone(&dark), drawn: AtomicU64::new(path.seed) });
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_all(front, target, fate));
        Self { addr, dark, _tasks: tasks }
    }

    /// Where to send instead of to the target.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing arrives, either way, and nobody is told.
    pub(crate) fn vanish(&self) {
        self.dark.store(true, Ordering::Relaxed);
    }
}

struct Fate {
    path: Path,
    dark: Arc<AtomicBool>,
    drawn: AtomicU64,
}

impl Fate {
    fn arrives(&self) -> bool {
        // splitmix64: one draw per packet.
        let state = self.drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        !self.dark.load(Ordering::Relaxed) && (z ^ (z >> 31)) % 1_000 >= self.path.loss_permille
    }
}

type Packet = (Instant, Vec<u8>);

async fn carry_all(front: Arc<UdpSocket>, target: SocketAddr, fate: Arc<Fate>) {
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Packet>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((bytes, client)) = front.recv_from(&mut buffer).await else { continue };
        let to_target = match clients.get(&client) {
            Some(to_target) => to_target,
            None => {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
                back.connect(target).await.expect("an address");
                let (to_target, packets) = mpsc::channel(PACKETS_MAX);
                tasks.spawn(deliver(packets, Arc::clone(&back), None, Arc::clone(&fate)));
                let (to_client, packets) = mpsc::channel(PACKETS_MAX);
                tasks.spawn(deliver(packets, Arc::clone(&front), Some(client), Arc::clone(&fate)));
                tasks.spawn(collect(back, to_client, Arc::clone(&fate)));
                clients.entry(client).or_insert(to_target)
            }
        };
        if fate.arrives() {
            let _ =
                to_target.try_send((Instant::now() + fate.path.delay, buffer[..bytes].to_vec()));
        }
    }
}

async fn collect(back: Arc<UdpSocket>, to_client: mpsc::Sender<Packet>, fate: Arc<Fate>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // A closed target answers with an ICMP error; to the relay that is silence.
        let Ok(bytes) = back.recv(&mut buffer).await else { continue };
        if fate.arrives() {
            let _ =
                to_client.try_send((Instant::now() + fate.path.delay, buffer[..bytes].to_vec()));
        }
    }
}

async fn deliver(
    mut packets: mpsc::Receiver<Packet>,
    socket: Arc<UdpSocket>,
    to: Option<SocketAddr>,
    fate: Arc<Fate>,
) {
    while let Some((at, packet)) = packets.recv().await {
        tokio::time::sleep_until(at).await;
        if fate.dark.load(Ordering::Relaxed) {
            continue;
        }
        let _ = match to {
            Some(client) => socket.send_to(&packet, client).await,
            None => socket.send(&packet).await,
        };
    }
}
