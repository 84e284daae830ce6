//! The node's one endpoint, and where the others are.

use crate::{
    blobs::Blobs,
    folder::{FolderError, read_limited, write_whole},
    lookup::Lookup,
    place::Place,
};
use atoll_consensus::Transport;
use atoll_protocol::{Charter, Keypair, PeerId};
use iroh::{
    Endpoint, RelayMode, SecretKey,
    endpoint::{Connection, presets},
    protocol::{AcceptError, ProtocolHandler, Router},
};
use iroh_blobs::BlobsProtocol;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why there is no network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// An address for somebody else.
    #[error("{0} is not a member of this run, so it needs no address; members are named in charter.toml")]
    NotAMember(PeerId),
    /// A member's key is not one.
    #[error(transparent)]
    Validators(#[from] atoll_consensus::ValidatorsError),
    /// The settings are not readable.
    #[error("{}: {message}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}: {message}. Choose another with --bind, or port 0 for any free one")]
    Bind {
        /// The address, or the name that stands for it.
        address: Place,
        /// What the system said.
        message: String,
    },
}

/// `node.toml`: what is this node's own and no part of the charter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub bind: Place,
    /// Where the others listen, by key.
    #[serde(default)]
    pub peers: BTreeMap<String, Place>,
}

/// Addresses that an operator gave now; they win over the settings on disk.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Where to listen.
    pub bind: Option<Place>,
    /// Where others listen.
    pub peers: Vec<(PeerId, Place)>,
}

impl Settings {
    /// The settings at `path`, if there are any, with `addresses` put in. Only members have addresses.
    pub fn with(path: &Path, addresses: &Addresses, charter: &Charter) -> Result<Self, NetworkError> {
        let mut settings = if path.exists() {
            Self::read(path)?
        } else {
            Self::any_port()
        };
        settings.bind = addresses.bind.clone().unwrap_or(settings.bind);
        for (peer, address) in &addresses.peers {
            if !charter.keys().any(|key| key == *peer) {
                return Err(NetworkError::NotAMember(*peer));
            }
            settings.peers.insert(peer.to_string(), address.clone());
        }
        Ok(settings)
    }

    /// Any free port on every address, nobody known.
    pub fn any_port() -> Self {
        Self {
            bind: SocketAddr::from(([0, 0, 0, 0], 0)).into(),
            peers: BTreeMap::new(),
        }
    }

    /// Reads the settings at `path`.
    pub fn read(path: &Path) -> Result<Self, NetworkError> {
        let refuse = |message| NetworkError::Settings {
            path: path.to_path_buf(),
            message,
        };
        let text = String::from_utf8(read_limited(path, 64 * 1024)?).map_err(|error| refuse(error.to_string()))?;
        let settings: Self = toml::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        for key in settings.peers.keys() {
            key.parse::<PeerId>()
                .map_err(|error| refuse(format!("peers: {error}")))?;
        }
        Ok(settings)
    }

    /// Writes the settings to `path`.
    pub fn write(&self, path: &Path) -> Result<(), NetworkError> {
        let text = toml::to_string(self).map_err(|error| NetworkError::Settings {
            path: path.to_path_buf(),
            message: error.to_string(),
        })?;
        Ok(write_whole(path, text.as_bytes())?)
    }
}

/// Listens where the settings say. Also gives where the members are dialed.
pub async fn bind(keypair: &Keypair, settings: &Settings) -> Result<Bound, NetworkError> {
    let refuse = |message: String| NetworkError::Bind {
        address: settings.bind.clone(),
        message,
    };
    let peers = settings.peers.iter();
    let lookup = Lookup::new(peers.filter_map(|(key, place)| Some((key.parse().ok()?, place))));
    let addresses = settings
        .bind
        .addresses()
        .await
        .map_err(|error| refuse(error.to_string()))?;
    let address = addresses
        .first()
        .ok_or_else(|| refuse("the name has no address".into()))?;
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&keypair.seed()))
        .relay_mode(RelayMode::Disabled)
        .address_lookup(lookup.clone())
        .clear_ip_transports()
        .bind_addr(*address);
    let builder = builder.map_err(|error| refuse(error.to_string()))?;
    let endpoint = builder.bind().await.map_err(|error| refuse(error.to_string()))?;
    Ok(Bound { endpoint, lookup })
}

/// A socket that is listened on, before anybody is answered.
pub struct Bound {
    endpoint: Endpoint,
    lookup: Lookup,
}

/// Consensus' protocol handler, which also notes where members dial from.
#[derive(Debug, Clone)]
struct Noting {
    transport: Transport,
    members: BTreeSet<PeerId>,
    lookup: Lookup,
}

impl ProtocolHandler for Noting {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        if self.members.contains(&PeerId(*connection.remote_id().as_bytes())) {
            self.lookup.saw(&connection);
        }
        self.transport.accept(connection).await
    }

    async fn shutdown(&self) {
        self.transport.shutdown().await;
    }
}

/// The endpoint with both protocols on it.
pub struct Network {
    router: Router,
    endpoint: Endpoint,
    lookup: Lookup,
}

impl Network {
    /// Answers the charter's members and nobody else.
    pub fn start(
        Bound { endpoint, lookup }: Bound,
        me: PeerId,
        charter: &Charter,
        blobs: &Blobs,
    ) -> Result<(Self, Transport), NetworkError> {
        let members: BTreeSet<PeerId> = charter.keys().collect();
        let transport = Transport::new(endpoint.clone(), me, members.iter().copied().collect())?;
        let noting = Noting {
            transport: transport.clone(),
            members: members.clone(),
            lookup: lookup.clone(),
        };
        let gate = blobs.gate(&endpoint, members);
        let router = Router::builder(endpoint.clone())
            .accept(atoll_consensus::ALPN, noting)
            .accept(iroh_blobs::ALPN, BlobsProtocol::new(blobs.store(), Some(gate)))
            .spawn();
        let network = Self {
            router,
            endpoint,
            lookup,
        };
        Ok((network, transport))
    }

    /// A member with where it is dialed, for people.
    pub fn describe(&self, charter: &Charter, peer: &PeerId) -> String {
        format!("{} ({})", charter.name_of(peer), self.lookup.describe(peer))
    }

    /// The endpoint, to fetch with.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where this node listens.
    pub fn listens(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    /// Bytes sent and received so far, everything included.
    pub fn traffic(&self) -> (u64, u64) {
        let socket = &self.endpoint.metrics().socket;
        (
            socket.send_ipv4.get() + socket.send_ipv6.get() + socket.send_relay.get(),
            socket.recv_data_ipv4.get() + socket.recv_data_ipv6.get() + socket.recv_data_relay.get(),
        )
    }

    /// Closes every connection.
    pub async fn shutdown(&self) {
        let _ = self.router.shutdown().await; // nothing more can be done at this point
        self.endpoint.close().await;
    }
}
