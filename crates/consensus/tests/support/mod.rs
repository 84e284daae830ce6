//! Validators over real iroh endpoints on 127.0.0.1, in one process.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "shared by test binaries that use parts of it"
)]

use atoll_consensus::{ALPN, Config, Finalized, Handle, Transport, start};
use atoll_ledger::State;
use atoll_protocol::{
    Action, Block, Charter, Domain, Hash, Keypair, Millis, PeerId, Transaction, tiny_charter,
    transaction::SignedTransaction,
};
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, address_lookup::memory::MemoryLookup, endpoint::presets,
    protocol::Router,
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

/// Longer than anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

pub fn keypairs(n: u8) -> Vec<Keypair> {
    let mut keypairs: Vec<_> = (1..=n).map(|i| Keypair::from_seed(&[i; 32])).collect();
    keypairs.sort_by_key(Keypair::peer);
    keypairs
}

pub fn charter(keypairs: &[Keypair]) -> Arc<Charter> {
    let members = keypairs.iter().enumerate();
    let mut charter = tiny_charter(members.map(|(i, keypair)| (format!("v{i}"), keypair.peer())));
    charter.round.quorum.numerator = 3;
    charter.deadlines.grace = Millis(24 * 60 * 60 * 1000);
    charter.deadlines.reveal = Millis(60_000);
    charter.deadlines.check = Millis(60_000);
    charter.deadlines.merge = Millis(60_000);
    charter.validate().expect("a charter");
    Arc::new(charter)
}

pub fn sign(charter: &Charter, keypair: &Keypair, action: Action) -> SignedTransaction {
    let body = Transaction {
        genesis: charter.genesis(),
        action,
    };
    keypair.sign(Domain::Transaction, body)
}

/// The endpoint of `keypair`, known to `lookup`.
pub async fn endpoint(keypair: &Keypair, lookup: &MemoryLookup) -> Endpoint {
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&keypair.seed()))
        .relay_mode(RelayMode::Disabled)
        .address_lookup(lookup.clone())
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .expect("an address")
        .bind()
        .await
        .expect("a port");
    let _ = lookup.set_endpoint_info(EndpointAddr::new(endpoint.id()).with_ip_addr(endpoint.bound_sockets()[0]));
    endpoint
}

/// What an owner has on disk.
#[derive(Clone)]
pub struct Disk {
    pub state: State,
    pub blocks: Vec<Block>,
    pub certificates: BTreeMap<Hash, Vec<u8>>,
}

impl Disk {
    pub fn empty(charter: &Arc<Charter>) -> Self {
        Self {
            state: State::genesis(charter.clone()),
            blocks: Vec::new(),
            certificates: BTreeMap::new(),
        }
    }
}

pub struct Node {
    pub keypair: Keypair,
    pub handle: Handle,
    pub disk: watch::Receiver<Disk>,
    router: Router,
}

impl Node {
    pub async fn start(
        charter: &Arc<Charter>,
        keypair: &Keypair,
        lookup: &MemoryLookup,
        folder: &Path,
        disk: Disk,
    ) -> Self {
        let endpoint = endpoint(keypair, lookup).await;
        let validators: Vec<PeerId> = charter.keys().collect();
        let transport = Transport::new(endpoint.clone(), keypair.peer(), validators).expect("a transport");
        let router = Router::builder(endpoint).accept(ALPN, transport.clone()).spawn();
        let config = Config {
            charter: charter.clone(),
            keypair: keypair.clone(),
            folder: folder.join(keypair.peer().short()),
            state: disk.state.clone(),
            may_have_voted: disk.state.height().0 > 0,
            leader_timeout: Config::LEADER_TIMEOUT,
        };
        let (handle, finalized) = start(config, transport).await.expect("starts");
        let (sender, receiver) = watch::channel(disk);
        tokio::spawn(own(finalized, sender));
        Self {
            keypair: keypair.clone(),
            handle,
            disk: receiver,
            router,
        }
    }

    /// Submits, and waits until the own final state has it: refused again means it is in.
    pub async fn submit_and_wait(&self, transaction: SignedTransaction) {
        self.handle.submit(transaction.clone()).expect("admissible");
        let mut disk = self.disk.clone();
        let included = disk.wait_for(|disk| {
            disk.blocks
                .iter()
                .any(|block| block.transactions.contains(&transaction))
        });
        patiently("a transaction in a final block", included)
            .await
            .expect("the node runs");
    }

    pub async fn reach(&self, height: u64) -> Disk {
        let mut disk = self.disk.clone();
        let reached = disk.wait_for(|disk| disk.state.height().0 >= height);
        patiently("a height", reached).await.expect("the node runs").clone()
    }

    pub async fn stop(self) -> Disk {
        assert_eq!(patiently("the stop", self.handle.stop()).await, None);
        self.router.shutdown().await.expect("shuts down");
        self.disk.borrow().clone()
    }
}

/// An owner: apply, "write", acknowledge.
async fn own(mut finalized: mpsc::Receiver<Finalized>, disk: watch::Sender<Disk>) {
    while let Some(mut final_block) = finalized.recv().await {
        let block = final_block.block.clone();
        let certificate = final_block.certificate.take();
        disk.send_modify(|disk| {
            assert_eq!(
                block.header.height.0,
                disk.state.height().0 + 1,
                "in order, without gaps"
            );
            disk.state = disk.state.apply(&block).expect("a final block applies").0;
            if let Some(certificate) = certificate {
                disk.certificates.insert(block.digest(), certificate);
            }
            disk.blocks.push(block);
        });
        final_block.acknowledge();
    }
}
