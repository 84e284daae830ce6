//! Connections that other validators dialed: one each, one stream per channel, frames with a cap.

use super::{Close, Shared};
use crate::channel::{CHANNELS, Channel};
use atoll_protocol::PeerId;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use iroh::endpoint::{Connection, RecvStream};
use thiserror::Error;

/// What an honest validator never does.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("channel {0} does not exist")]
    NoSuchChannel(u8),
    #[error("more than one stream for a channel")]
    SecondStream,
    #[error("a frame of {got} bytes on channel {channel:?}, at most {max} are allowed")]
    TooLong { channel: Channel, got: usize, max: usize },
}

/// Serves one connection until either side ends it. Everything it does ends with this future.
pub(super) async fn serve(shared: &Shared, connection: Connection) {
    let peer = PeerId(*connection.remote_id().as_bytes());
    if *shared.closing.borrow() {
        return Close::Stopping.apply(&connection);
    }
    if !shared.is_welcome(&peer) {
        tracing::debug!(peer = %peer.short(), "refused a connection: not a validator, or blocked");
        return Close::NotAValidator.apply(&connection);
    }
    if let Some(older) = shared.accepted.lock().insert(peer, connection.clone()) {
        Close::Replaced.apply(&older);
    }
    let close = tokio::select! {
        ended = read(shared, peer, &connection) => match ended {
            Ok(()) => Close::Stopping,
            Err(violation) => {
                tracing::warn!(peer = %peer.short(), %violation, "a validator broke the framing rules");
                Close::Violation
            }
        },
        () = shared.closing() => Close::Stopping,
    };
    close.apply(&connection);
    let mut accepted = shared.accepted.lock();
    if accepted
        .get(&peer)
        .is_some_and(|ours| ours.stable_id() == connection.stable_id())
    {
        accepted.remove(&peer);
    }
}

/// Reads all streams of a connection. Ok when the connection has ended.
async fn read(shared: &Shared, peer: PeerId, connection: &Connection) -> Result<(), Violation> {
    let mut streams = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = connection.accept_uni() => match accepted {
                Ok(_) if streams.len() == CHANNELS => return Err(Violation::SecondStream),
                Ok(stream) => streams.push(read_stream(shared, peer, stream)),
                Err(_) => return Ok(()),
            },
            Some(ended) = streams.next() => ended?,
        }
    }
}

async fn read_stream(shared: &Shared, peer: PeerId, mut stream: RecvStream) -> Result<(), Violation> {
    let mut number = [0];
    if stream.read_exact(&mut number).await.is_err() {
        return Ok(());
    }
    let channel = Channel::of_byte(number[0]).ok_or(Violation::NoSuchChannel(number[0]))?;
    let max = shared.frame_bytes_max[channel as usize];
    loop {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).await.is_err() {
            return Ok(());
        }
        let got = u32::from_le_bytes(length) as usize;
        if got > max {
            return Err(Violation::TooLong { channel, got, max });
        }
        let mut frame = vec![0; got];
        if stream.read_exact(&mut frame).await.is_err() {
            return Ok(());
        }
        // A full queue stops the reading, and QUIC stops the sender. The queue is fair: each peer
        // has one frame in line, so nobody can crowd the others out.
        if shared.inbound[channel as usize]
            .send((peer, Bytes::from(frame)))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}
