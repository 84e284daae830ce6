//! Where members are dialed: where the operator said, and where they were last seen to dial from.

use crate::place::Place;
use atoll_protocol::PeerId;
use futures::{StreamExt as _, stream, stream::BoxStream};
use iroh::{
    EndpointAddr, EndpointId, TransportAddr,
    address_lookup::{AddressLookup, EndpointInfo, Error, Item},
    endpoint::Connection,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

/// What is known of one member.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Where the operator says that it listens.
    place: Option<Place>,
    /// Where it last dialed from. A node sends from the port that it listens on, so this finds one that has moved.
    seen: Option<SocketAddr>,
    /// Why the place could not be looked up the last time.
    failure: Option<String>,
}

/// The members' addresses. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lookup(Arc<RwLock<BTreeMap<EndpointId, Known>>>);

fn id_of(peer: &PeerId) -> Option<EndpointId> {
    EndpointId::from_bytes(&peer.0).ok()
}

impl Lookup {
    pub(crate) fn new<'a>(places: impl IntoIterator<Item = (PeerId, &'a Place)>) -> Self {
        let known = places.into_iter().filter_map(|(peer, place)| {
            let place = Some(place.clone());
            Some((
                id_of(&peer)?,
                Known {
                    place,
                    ..Known::default()
                },
            ))
        });
        Self(Arc::new(RwLock::new(known.collect())))
    }

    fn change(&self, id: EndpointId, change: impl FnOnce(&mut Known)) {
        change(
            self.0
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(id)
                .or_default(),
        );
    }

    fn known(&self, id: &EndpointId) -> Known {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(id).cloned().unwrap_or_default()
    }

    /// Notes where a member dialed from.
    pub(crate) fn saw(&self, connection: &Connection) {
        let from = connection.paths().iter().find_map(|path| match path.remote_addr() {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        });
        if let Some(from) = from {
            self.change(connection.remote_id(), |known| known.seen = Some(from));
        }
    }

    /// Where `peer` is dialed, for people.
    pub(crate) fn describe(&self, peer: &PeerId) -> String {
        let known = id_of(peer).map(|id| self.known(&id)).unwrap_or_default();
        match (known.place, known.failure, known.seen) {
            (Some(place), Some(failure), _) => format!("{place}, which cannot be looked up: {failure}"),
            (Some(place), None, _) => place.to_string(),
            (None, _, Some(seen)) => seen.to_string(),
            (None, _, None) => "no address known".to_string(),
        }
    }
}

impl AddressLookup for Lookup {
    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, Error>>> {
        let (lookup, known) = (self.clone(), self.known(&id));
        if known.place.is_none() && known.seen.is_none() {
            return None;
        }
        let found = async move {
            let mut addresses: Vec<SocketAddr> = known.seen.into_iter().collect();
            if let Some(place) = known.place {
                let looked_up = place.addresses().await;
                let failure = looked_up.as_ref().err().map(ToString::to_string);
                lookup.change(id, |known| known.failure = failure);
                addresses.extend(looked_up.into_iter().flatten());
            }
            let address = EndpointAddr::from_parts(id, addresses.into_iter().map(TransportAddr::Ip));
            Ok(Item::new(EndpointInfo::from(address), "atoll", None))
        };
        Some(stream::once(found).boxed())
    }
}
