//! Validators over real iroh connections: agreement, restart, one alone, and rules that are broken.

mod support;

use atoll_consensus::{ALPN, Config, StartError, Transport, start, verify_certificate};
use atoll_protocol::{Action, PeerId};
use iroh::{address_lookup::memory::MemoryLookup, protocol::Router};
use support::{Disk, Node, charter, endpoint, keypairs, patiently, sign};

/// Join, leave, join again …: the `n`th such statement of a peer.
fn turn(n: u32) -> Action {
    match n % 2 {
        0 => Action::Join { sequence: n / 2 },
        _ => Action::Leave { sequence: n / 2 + 1 },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_validators_agree_and_one_that_was_away_catches_up() {
    let keypairs = keypairs(4);
    let charter = charter(&keypairs);
    let (lookup, folder) = (MemoryLookup::new(), tempfile::tempdir().expect("a folder"));
    let mut nodes = Vec::new();
    for keypair in &keypairs {
        let disk = Disk::empty(&charter);
        nodes.push(Node::start(&charter, keypair, &lookup, folder.path(), disk).await);
    }
    for n in 0..4 {
        for node in &nodes {
            node.submit_and_wait(sign(&charter, &node.keypair, turn(n))).await;
        }
    }
    let height = nodes[3].disk.borrow().state.height().0;
    let away = nodes.pop().expect("four").stop().await;
    for n in 4..6 {
        for node in &nodes {
            node.submit_and_wait(sign(&charter, &node.keypair, turn(n))).await;
        }
    }
    let back = Node::start(&charter, &keypairs[3], &lookup, folder.path(), away).await;
    nodes.push(back);
    nodes[3].submit_and_wait(sign(&charter, &keypairs[3], turn(4))).await;
    let top = nodes[3].disk.borrow().state.height().0;
    assert!(top >= height + 7);

    let validators: Vec<PeerId> = charter.keys().collect();
    let mut roots = Vec::new();
    for node in &nodes {
        let disk = node.reach(top).await;
        roots.push(disk.blocks[top as usize - 1].header.state);
        assert!(!disk.certificates.is_empty());
        for (digest, certificate) in &disk.certificates {
            let info = verify_certificate(&charter.genesis(), &validators, digest, certificate).expect("real");
            assert!(info.signers.len() >= 3);
        }
    }
    assert!(
        roots.windows(2).all(|pair| pair[0] == pair[1]),
        "one state root: {roots:?}"
    );
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_validator_alone_decides_and_goes_on_after_a_restart() {
    let keypairs = keypairs(1);
    let charter = charter(&keypairs);
    let (lookup, folder) = (MemoryLookup::new(), tempfile::tempdir().expect("a folder"));
    let mut disk = Disk::empty(&charter);
    for n in 0..3 {
        let node = Node::start(&charter, &keypairs[0], &lookup, folder.path(), disk).await;
        node.submit_and_wait(sign(&charter, &keypairs[0], turn(n))).await;
        disk = node.stop().await;
        assert!(disk.state.height().0 > u64::from(n));
    }

    let endpoint = endpoint(&keypairs[0], &lookup).await;
    let transport = Transport::new(endpoint, keypairs[0].peer(), charter.keys().collect()).expect("a transport");
    let config = Config {
        charter: charter.clone(),
        keypair: keypairs[0].clone(),
        folder: folder.path().join(keypairs[0].peer().short()),
        state: Disk::empty(&charter).state,
        may_have_voted: false,
        leader_timeout: Config::LEADER_TIMEOUT,
    };
    let again = transport.clone();
    match start(config.clone(), transport).await {
        Err(StartError::Behind { ours, acknowledged, .. }) => assert!(ours < acknowledged),
        other => panic!("a lost ledger was not noticed: {other:?}"),
    }
    assert_eq!(start(config, again).await.map(|_| ()), Err(StartError::Used));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_panics_is_an_error_with_its_words() {
    let keypairs = keypairs(1);
    let charter = charter(&keypairs);
    let folder = tempfile::tempdir().expect("a folder");
    let occupied = folder.path().join("a file");
    std::fs::write(&occupied, b"not a folder").expect("written");
    let endpoint = endpoint(&keypairs[0], &MemoryLookup::new()).await;
    let transport = Transport::new(endpoint, keypairs[0].peer(), charter.keys().collect()).expect("a transport");
    let config = Config {
        charter: charter.clone(),
        keypair: keypairs[0].clone(),
        folder: occupied,
        state: Disk::empty(&charter).state,
        may_have_voted: false,
        leader_timeout: Config::LEADER_TIMEOUT,
    };
    let error = start(config, transport).await.map(|_| ()).expect_err("cannot start");
    let text = error.to_string();
    assert!(
        text.starts_with("the consensus store ") && text.contains("a file") && text.contains("atoll repair"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_the_framing_rules_or_is_a_stranger_is_disconnected() {
    let (keypairs, lookup) = (keypairs(3), MemoryLookup::new());
    let validators: Vec<PeerId> = keypairs[..2].iter().map(|keypair| keypair.peer()).collect();
    let listening = endpoint(&keypairs[0], &lookup).await;
    let transport = Transport::new(listening.clone(), keypairs[0].peer(), validators).expect("a transport");
    let _router = Router::builder(listening.clone()).accept(ALPN, transport).spawn();
    let close_code = |reason| match reason {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("closed in another way: {other}"),
    };

    let validator = endpoint(&keypairs[1], &lookup).await;
    let too_long = [&[0u8][..], &u32::MAX.to_le_bytes()].concat();
    for bytes in [too_long, vec![6]] {
        let connection = validator.connect(listening.id(), ALPN).await.expect("connects");
        let mut stream = connection.open_uni().await.expect("a stream");
        stream.write_all(&bytes).await.expect("written");
        let reason = patiently("the violation's end", connection.closed()).await;
        assert_eq!(close_code(reason), 2, "{bytes:?}");
    }

    let stranger = endpoint(&keypairs[2], &lookup).await;
    let connection = stranger.connect(listening.id(), ALPN).await.expect("connects");
    let reason = patiently("the stranger's end", connection.closed()).await;
    assert_eq!(close_code(reason), 1);
}
