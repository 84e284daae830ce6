//! A ring all-reduce of f32 over TCP: reduce-scatter, then all-gather, 2 (N−1)/N · 4P bytes from each node.
//!
//! Every node sends to the next and receives from the one before. A thread does the sending, so that nodes
//! that all send at once cannot wait for each other; what comes in is passed on in small pieces, so that no
//! link idles while a chunk travels. Chunk c is summed in the order of ranks c, c+1, …, by one node at a time,
//! and then copied: all nodes end with the same bits.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Range,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use thiserror::Error;

/// Bytes received, added and passed on at a time.
const PIECE: usize = 16 * 1024;
/// Between two tries to reach the next node.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Why a ring stands still.
#[derive(Debug, Error)]
pub enum RingError {
    /// It is no ring.
    #[error("rank {rank} of {nodes} nodes: at least 2 nodes are needed, and ranks begin at 0")]
    Place {
        /// Place in the ring.
        rank: usize,
        /// N.
        nodes: usize,
    },
    /// A neighbour is not there in time.
    #[error("no {what} within {wait_s} s: {cause}; do all nodes run, with the same addresses?")]
    Neighbour {
        /// Which, and where.
        what: String,
        /// How long it was waited for.
        wait_s: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// A neighbour fell silent or went away.
    #[error("{what} failed: {cause}; did a neighbour stop?")]
    Exchange {
        /// Receiving or sending.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

/// A node's place in the ring.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// N.
    pub nodes: usize,
    /// Where to listen for the node before.
    pub listen: SocketAddr,
    /// Where the next node listens.
    pub next: SocketAddr,
    /// How long neighbours may take to come, and to be silent later.
    pub wait: Duration,
}

/// An open ring.
pub struct Ring {
    rank: usize,
    nodes: usize,
    before: TcpStream,
    next: mpsc::Sender<Vec<u8>>,
    sender: Option<JoinHandle<io::Result<()>>>,
    sent: u64,
}

/// The chunks that come to a node, in order: N−1 to add to, whose sums are whole then, and N−1 to take over. A
/// node sends its own chunk first and then passes on, piece by piece, all that comes but the last.
fn schedule(rank: usize, nodes: usize) -> impl Iterator<Item = usize> {
    (1..2 * nodes - 1).map(move |step| (rank + 2 * nodes - step) % nodes)
}

/// The values of a chunk.
fn chunk(chunk: usize, nodes: usize, values: usize) -> Range<usize> {
    chunk * values / nodes..(chunk + 1) * values / nodes
}

impl Ring {
    /// Meets both neighbours.
    ///
    /// # Errors
    /// If one of them does not come in time.
    pub fn join(place: &Place) -> Result<Self, RingError> {
        let Place { rank, nodes, wait, .. } = *place;
        if nodes < 2 || rank >= nodes {
            return Err(RingError::Place { rank, nodes });
        }
        let missing = |what: String| {
            move |cause| RingError::Neighbour {
                what,
                wait_s: wait.as_secs(),
                cause,
            }
        };
        let deadline = Instant::now() + wait;
        let listener =
            TcpListener::bind(place.listen).map_err(missing(format!("place to listen, {}", place.listen)))?;
        let next = connect(place.next, deadline).map_err(missing(format!("next node at {}", place.next)))?;
        let before = accept(&listener, deadline).map_err(missing(format!("node before us at {}", place.listen)))?;
        let ready = |stream: &TcpStream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(wait))?;
            stream.set_write_timeout(Some(wait))
        };
        ready(&next).and(ready(&before)).map_err(exchange("preparing"))?;
        let (to_sender, pieces) = mpsc::channel();
        let sender = std::thread::spawn(move || send_all(next, &pieces));
        Ok(Self {
            rank,
            nodes,
            before,
            next: to_sender,
            sender: Some(sender),
            sent: 0,
        })
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// N.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Replaces `values` by their mean over all nodes, which must all give as many.
    ///
    /// # Errors
    /// If a neighbour is gone, or silent for too long.
    pub fn mean(&mut self, values: &mut [f32]) -> Result<(), RingError> {
        let (nodes, count) = (self.nodes, values.len());
        self.send(&values[chunk(self.rank, nodes, count)])?;
        for (step, at) in schedule(self.rank, nodes).enumerate() {
            let (whole, last) = (step + 1 >= nodes, step + 3 == 2 * nodes);
            for piece in values[chunk(at, nodes, count)].chunks_mut(PIECE / 4) {
                self.receive(piece, whole)?;
                if !last {
                    self.send(piece)?;
                }
            }
        }
        let nodes = self.nodes as f32;
        values.iter_mut().for_each(|value| *value /= nodes);
        Ok(())
    }

    fn send(&mut self, values: &[f32]) -> Result<(), RingError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.sent += bytes.len() as u64;
        match self.next.send(bytes) {
            Ok(()) => Ok(()),
            Err(_) => Err(exchange("sending")(self.why_sending_ended())),
        }
    }

    fn why_sending_ended(&mut self) -> io::Error {
        let ended = self.sender.take().and_then(|sender| sender.join().ok());
        match ended {
            Some(Err(error)) => error,
            _ => io::Error::other("the sending thread is gone"),
        }
    }

    /// Adds the values that come to a piece, or replaces them.
    fn receive(&mut self, values: &mut [f32], replace: bool) -> Result<(), RingError> {
        let mut bytes = [0; PIECE];
        let bytes = &mut bytes[..4 * values.len()];
        self.before.read_exact(bytes).map_err(exchange("receiving"))?;
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
            let got = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            *value = if replace { got } else { *value + got };
        }
        Ok(())
    }

    /// Waits until all that was given to the next node is on its way.
    ///
    /// # Errors
    /// If the next node did not take it.
    pub fn leave(mut self) -> Result<(), RingError> {
        let Self { next, sender, .. } = &mut self;
        *next = mpsc::channel().0;
        match sender.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(exchange("sending")(error)),
            _ => Ok(()),
        }
    }
}

fn exchange(what: &'static str) -> impl FnOnce(io::Error) -> RingError {
    move |cause| RingError::Exchange { what, cause }
}

fn send_all(mut next: TcpStream, pieces: &mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    pieces.iter().try_for_each(|bytes| next.write_all(&bytes))
}

fn connect(to: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(TRY_EVERY),
            done => return done,
        }
    }
}

fn accept(listener: &TcpListener, deadline: Instant) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(TRY_EVERY);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_receives_what_the_one_before_sends() {
        for nodes in 2..6 {
            for rank in 0..nodes {
                let received: Vec<usize> = schedule(rank, nodes).collect();
                let before = (rank + nodes - 1) % nodes;
                let sent: Vec<usize> = std::iter::once(before).chain(schedule(before, nodes)).collect();
                assert_eq!(received[..], sent[..sent.len() - 1], "rank {rank} of {nodes}");
                assert_eq!(received.len(), 2 * (nodes - 1));
                // the first sum that is whole is that of the chunk after the own one
                assert_eq!(received[nodes - 2], (rank + 1) % nodes);
            }
        }
    }

    fn free_ports(nodes: usize) -> Vec<SocketAddr> {
        let held: Vec<_> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        held.iter().map(|listener| listener.local_addr().unwrap()).collect()
    }

    fn place(rank: usize, ports: &[SocketAddr], wait: Duration) -> Place {
        Place {
            rank,
            nodes: ports.len(),
            listen: ports[rank],
            next: ports[(rank + 1) % ports.len()],
            wait,
        }
    }

    #[test]
    fn all_nodes_get_the_same_mean() {
        // 100,001 values: chunks of different lengths, each more than a socket buffers
        for (nodes, count) in [(2, 7), (3, 100_001), (4, 2), (5, 100_001)] {
            let ports = free_ports(nodes);
            let value = |rank: usize, at: usize| ((at * 37 + rank * 11) % 101) as f32 * 0.37 - 20.0;
            let all: Vec<(Vec<f32>, u64)> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..nodes)
                    .map(|rank| {
                        let place = place(rank, &ports, Duration::from_secs(20));
                        scope.spawn(move || {
                            let mut ring = Ring::join(&place).unwrap();
                            let mut values: Vec<f32> = (0..count).map(|at| value(rank, at)).collect();
                            ring.mean(&mut values).unwrap();
                            let sent = ring.sent();
                            ring.leave().unwrap();
                            (values, sent)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (values, _) in &all {
                assert_eq!(values, &all[0].0, "{nodes} nodes");
            }
            for (at, mean) in all[0].0.iter().enumerate() {
                let expected: f32 = (0..nodes).map(|rank| value(rank, at)).sum::<f32>() / nodes as f32;
                assert!((mean - expected).abs() < 1e-4, "value {at}: {mean} {expected}");
            }
            let sent: u64 = all.iter().map(|(_, sent)| sent).sum();
            assert_eq!(sent, 2 * (nodes as u64 - 1) * 4 * count as u64);
        }
    }

    #[test]
    fn a_missing_neighbour_is_told() {
        let ports = free_ports(2);
        let error = Ring::join(&place(0, &ports, Duration::from_millis(200))).err().unwrap();
        assert!(error.to_string().contains("next node at"), "{error}");
        let alone = Ring::join(&place(0, &ports[..1], Duration::from_millis(200)))
            .err()
            .unwrap();
        assert!(alone.to_string().contains("at least 2 nodes"), "{alone}");
    }
}
