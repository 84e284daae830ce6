//! Connections that we dialed: kept up with backoff, one stream per channel.

use super::{ALPN, Close, Shared};
use crate::channel::Channel;
use atoll_protocol::PeerId;
use bytes::Bytes;
use futures::future::select_all;
use iroh::{
    EndpointId,
    endpoint::{ConnectOptions, Connection, IdleTimeout, QuicTransportConfig, SendStream, WriteError},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// A peer that says nothing for so long is gone. Views turn and keep-alives go out more often.
const SILENCE_MS_MAX: u32 = 6_000;
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// The queues to one connected peer, one per channel.
#[derive(Debug)]
pub(super) struct Link(Vec<mpsc::Sender<Bytes>>);

impl Link {
    pub(super) fn send(&self, channel: Channel, frame: Bytes) -> bool {
        self.0[channel as usize].try_send(frame).is_ok()
    }
}

/// Keeps a connection to `peer` until the transport closes or the peer is blocked.
pub(super) async fn keep_dialing(shared: Arc<Shared>, peer: PeerId) {
    tokio::select! {
        () = dial_forever(&shared, peer) => {}
        () = shared.closing() => {}
        () = blocked(&shared, peer) => {}
    }
    shared.links.send_if_modified(|links| links.remove(&peer).is_some());
}

async fn blocked(shared: &Shared, peer: PeerId) {
    let mut blocked = shared.blocked.subscribe();
    // The sender lives in `shared`: this cannot fail.
    let _ = blocked.wait_for(|blocked| blocked.contains(&peer)).await;
}

async fn dial_forever(shared: &Shared, peer: PeerId) {
    let Ok(address) = EndpointId::from_bytes(&peer.0) else {
        return tracing::error!(peer = %peer.short(), "a validator's key is not a key that can be dialed");
    };
    let mut backoff = BACKOFF_MIN;
    loop {
        let options = ConnectOptions::new().with_transport_config(transport_config());
        let connecting = async {
            let connecting = shared.endpoint.connect_with_opts(address, ALPN, options).await;
            connecting.ok()?.await.ok()
        };
        if let Some(connection) = connecting.await {
            tracing::debug!(peer = %peer.short(), "connected to a validator");
            let connection = CloseOnDrop(connection);
            let since = Instant::now();
            serve(shared, peer, &connection.0).await;
            if Close::Replaced.ended(&connection.0) {
                shared.replaced.fetch_add(1, Ordering::Relaxed);
            }
            // One that is thrown out at once must not dial at full speed.
            if since.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF_MIN;
            }
            shared.links.send_if_modified(|links| links.remove(&peer).is_some());
            tracing::debug!(peer = %peer.short(), "lost the connection to a validator");
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

fn transport_config() -> QuicTransportConfig {
    let silence = IdleTimeout::from(iroh::endpoint::VarInt::from_u32(SILENCE_MS_MAX));
    QuicTransportConfig::builder()
        .max_idle_timeout(Some(silence))
        .keep_alive_interval(KEEP_ALIVE)
        .build()
}

/// A dialing task may be dropped at any await; its connection must not outlive it.
struct CloseOnDrop(Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        Close::Stopping.apply(&self.0);
    }
}

/// Sends what is put in the peer's queues until the connection ends.
async fn serve(shared: &Shared, peer: PeerId, connection: &Connection) {
    let (mut senders, mut writers) = (Vec::new(), Vec::new());
    for channel in Channel::ALL {
        let (sender, receiver) = mpsc::channel(channel.frames_waiting_max());
        senders.push(sender);
        writers.push(Box::pin(write(connection, channel, receiver)));
    }
    shared.links.send_modify(|links| {
        links.insert(peer, Link(senders));
    });
    tokio::select! {
        _ = select_all(writers) => {}
        _ = connection.closed() => {}
    }
}

async fn write(connection: &Connection, channel: Channel, mut frames: mpsc::Receiver<Bytes>) -> Result<(), WriteError> {
    let mut open: Option<SendStream> = None;
    while let Some(frame) = frames.recv().await {
        let stream = match &mut open {
            Some(stream) => stream,
            closed => {
                let mut stream = connection.open_uni().await?;
                stream.write_all(&[channel as u8]).await?;
                closed.insert(stream)
            }
        };
        // Frames above 4 GiB are not made: every channel's cap is far below.
        let Ok(length) = u32::try_from(frame.len()) else {
            continue;
        };
        stream.write_all(&length.to_le_bytes()).await?;
        stream.write_chunk(frame).await?;
    }
    Ok(())
}
