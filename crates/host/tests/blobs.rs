//! Blobs between real endpoints on this machine: what is fetched, what is refused, what is let go.

use atoll_host::{
    blobs::{Blobs, BlobsError, Keep, Size},
    fetch::Fetcher,
    folder::Folder,
    found::{Plan, begin, corpus_of},
    network::{Network, Settings, bind},
};
use atoll_outer::{Contribution, ErrorFeedback, blob_bytes_max};
use atoll_protocol::{Charter, CheckReason, Hash, Keypair, Layout, PeerId, Round, charter::Member};
use std::{collections::BTreeMap, net::SocketAddr, sync::OnceLock};
use tempfile::TempDir;

fn key(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

/// A run of members 1 and 2, or one with the same rules and other members.
fn charter(numbers: &[u8]) -> Charter {
    static CHARTER: OnceLock<Charter> = OnceLock::new();
    let mut members: Vec<Member> = numbers
        .iter()
        .map(|number| Member {
            name: format!("m{number}"),
            key: key(*number).peer(),
        })
        .collect();
    members.sort_by_key(|member| member.key);
    let founded = CHARTER.get_or_init(|| {
        let line = |n: u32| {
            format!(
                "Sentence {n} tells how {} blocks follow {}.\n",
                n * 7919 % 1000,
                n * 104_729 % 1000
            )
        };
        let texts = (0..40).map(|part| {
            (
                format!("{part:02}.txt"),
                (part * 40..part * 40 + 40).map(line).collect(),
            )
        });
        let plan = Plan {
            vocab_max: 300,
            ..Plan::small("test", 2, 2)
        };
        begin(plan, &corpus_of(texts), members.clone()).unwrap().charter
    });
    Charter {
        members,
        ..founded.clone()
    }
}

/// A node's store and endpoint.
struct Side {
    place: TempDir,
    blobs: Blobs,
    network: Network,
    me: PeerId,
}

impl Side {
    async fn open(number: u8, charter: &Charter, known: &[(PeerId, SocketAddr)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&Folder::at(place.path())).await.unwrap();
        let peers: BTreeMap<_, _> = known
            .iter()
            .map(|(peer, address)| (peer.to_string(), (*address).into()))
            .collect();
        let settings = Settings {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            peers,
        };
        let (network, _) = {
            let endpoint = bind(&key(number), &settings).await.unwrap();
            Network::start(endpoint, key(number).peer(), charter, &blobs).unwrap()
        };
        Self {
            place,
            blobs,
            network,
            me: key(number).peer(),
        }
    }

    fn known(&self) -> (PeerId, SocketAddr) {
        (self.me, self.network.listens()[0])
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.blobs.clone(), self.network.endpoint().clone())
    }

    async fn fetch(&self, hash: &Hash, size: Size, from: &Side) -> Result<bytes::Bytes, BlobsError> {
        let keep = Keep::Contribution(Round(0), from.me);
        self.fetcher().fetch(hash, size, &[from.me], &keep).await
    }

    fn has_file(&self, hash: &Hash) -> bool {
        Folder::at(self.place.path()).blob(hash).exists()
    }

    async fn close(self) {
        self.network.shutdown().await;
    }
}

/// Member 1, and member 2, who knows where 1 is.
async fn two() -> (Side, Side) {
    let charter = charter(&[1, 2]);
    let a = Side::open(1, &charter, &[]).await;
    let b = Side::open(2, &charter, &[a.known()]).await;
    (a, b)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * i / 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_blob_is_the_same_and_a_file_of_its_own() {
    let (a, b) = two().await;
    for count in [1, 1000, 16 * 1024, 300_001] {
        let content = bytes(count);
        let hash = a.blobs.add(content.clone(), &Keep::Run("test")).await.unwrap();
        assert!(!b.blobs.has(&hash).await.unwrap());
        let fetched = b.fetch(&hash, Size::Exactly(count as u64), &a).await.unwrap();
        assert_eq!(fetched, content);
        assert!(b.blobs.has(&hash).await.unwrap());
        assert_eq!(std::fs::read(Folder::at(b.place.path()).blob(&hash)).unwrap(), content);
    }
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_nobody_has_is_not_served() {
    let (a, b) = two().await;
    let hash = Hash::of_blob(b"nobody wrote this");
    let error = b.fetch(&hash, Size::AtMost(100), &a).await.unwrap_err();
    assert!(
        matches!(error, BlobsError::NotServed { hash: of, tried: 1, .. } if of == hash),
        "{error}"
    );
    // nor is one that only the asking node itself could have
    let error = a.fetch(&hash, Size::AtMost(100), &a).await.unwrap_err();
    assert!(matches!(error, BlobsError::NotServed { .. }), "{error}");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_size_than_claimed_is_not_stored() {
    let (a, b) = two().await;
    let content = bytes(100_000);
    let hash = a.blobs.add(content, &Keep::Run("test")).await.unwrap();
    for size in [
        Size::Exactly(99_999),
        Size::Exactly(100_001),
        Size::Exactly(0),
        Size::AtMost(99_999),
    ] {
        let error = b.fetch(&hash, size, &a).await.unwrap_err();
        assert!(
            matches!(error, BlobsError::Size { got: 100_000, .. }),
            "{size}: {error}"
        );
        assert!(!b.blobs.has(&hash).await.unwrap() && !b.has_file(&hash), "{size}");
    }
    // it is judged the same when it is here already
    let error = a.fetch(&hash, Size::AtMost(10), &b).await.unwrap_err();
    assert!(matches!(error, BlobsError::Size { got: 100_000, .. }), "{error}");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_are_served() {
    let a = Side::open(1, &charter(&[1, 2]), &[]).await;
    let hash = a.blobs.add(bytes(5000), &Keep::Run("test")).await.unwrap();
    // the stranger has a charter of its own, in which 1 is a member too
    let stranger = Side::open(9, &charter(&[1, 9]), &[a.known()]).await;
    let error = stranger.fetch(&hash, Size::AtMost(5000), &a).await.unwrap_err();
    assert!(matches!(error, BlobsError::NotServed { .. }), "{error}");
    assert!(!stranger.blobs.has(&hash).await.unwrap() && !stranger.has_file(&hash));
    let member = Side::open(2, &charter(&[1, 2]), &[a.known()]).await;
    assert_eq!(
        member.fetch(&hash, Size::AtMost(5000), &a).await.unwrap().len(),
        5000,
        "a member is"
    );
    for side in [a, stranger, member] {
        side.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_contribution_is_read_against_the_theta_it_was_made_from() {
    let (a, b) = two().await;
    let rules = charter(&[1, 2]);
    let (layout, base, codec) = (Layout::of(&rules.model), Hash([7; 32]), rules.compression.first());
    let delta: Vec<f32> = (0..layout.parameters).map(|i| (i % 17) as f32 - 8.0).collect();
    let blob = ErrorFeedback::new(layout.parameters)
        .contribute(delta, &codec, (&layout, &base), None)
        .unwrap()
        .blob;
    assert!(blob.len() as u64 <= blob_bytes_max(&layout, &codec));
    let cut = blob[..blob.len() - 1].to_vec();
    for (content, base, expected) in [
        (blob.clone(), base, None),
        (blob, Hash([8; 32]), Some(CheckReason::OtherBase)),
        (cut, base, Some(CheckReason::Malformed)),
    ] {
        let hash = a
            .blobs
            .add(content.clone(), &Keep::Contribution(Round(0), a.me))
            .await
            .unwrap();
        let fetched = b.fetch(&hash, Size::Exactly(content.len() as u64), &a).await.unwrap();
        let read = Contribution::read(fetched, &layout, &codec, &base);
        assert_eq!(read.err().map(|error| error.reason()), expected);
    }
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collected_rounds_are_let_go_and_the_run_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let store = Blobs::open(&Folder::at(place.path())).await.unwrap();
    store.add("corpus", &Keep::Run("shard")).await.unwrap();
    for round in 0..12 {
        store
            .add(format!("theta {round}"), &Keep::Theta(Round(round)))
            .await
            .unwrap();
        for member in [1, 2] {
            let keep = Keep::Contribution(Round(round), key(member).peer());
            store
                .add(format!("contribution {round} {member}"), &keep)
                .await
                .unwrap();
        }
    }
    let kept = async |prefix: &str| store.kept(prefix).await.unwrap();
    assert_eq!(
        (kept("theta/").await, kept("contribution/").await, kept("run/").await),
        (12, 24, 1)
    );
    store.collect(Round(0)).await.unwrap();
    assert_eq!(kept("theta/").await, 12, "nothing is before the first round");
    store.collect(Round(10)).await.unwrap();
    assert_eq!(
        (kept("theta/").await, kept("contribution/").await, kept("run/").await),
        (2, 4, 1)
    );
    assert_eq!(
        (kept("theta/0000000010/").await, kept("theta/0000000009/").await),
        (1, 0)
    );
    store.shutdown().await.unwrap();
    // what is kept is still there for the next start
    let store = Blobs::open(&Folder::at(place.path())).await.unwrap();
    assert_eq!(store.kept("").await.unwrap(), 7);
    assert_eq!(store.read(&Hash::of_blob(b"theta 11")).await.unwrap(), "theta 11");
    store.shutdown().await.unwrap();
}

/// How a file may be damaged.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Flipped,
    Cut,
    Gone,
}

fn harm(path: &std::path::Path, harm: Harm) {
    let good = std::fs::read(path).unwrap();
    match harm {
        Harm::Flipped => {
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 1;
            std::fs::write(path, bad).unwrap();
        }
        Harm::Cut => std::fs::write(path, &good[..good.len() / 2]).unwrap(),
        Harm::Gone => std::fs::remove_file(path).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_fetched_again_while_the_node_runs() {
    let (a, b) = two().await;
    let content = bytes(300_001);
    let hash = a.blobs.add(content.clone(), &Keep::Run("test")).await.unwrap();
    b.fetch(&hash, Size::AtMost(300_001), &a).await.unwrap();
    // opened again each time, so that nothing is read from files that are open already
    b.blobs.shutdown().await.unwrap();
    let data = Folder::at(b.place.path()).blob(&hash);
    for how in [Harm::Flipped, Harm::Cut, Harm::Gone] {
        for path in [data.clone(), data.with_extension("obao4")] {
            harm(&path, how);
            let again = Blobs::open(&Folder::at(b.place.path())).await.unwrap();
            let _gate = again.gate(b.network.endpoint(), [a.me, b.me].into());
            assert_eq!(again.read(&hash).await.unwrap(), content, "{how:?} {}", path.display());
            let told = again.mended();
            assert!(told.len() == 1 && told[0].from.is_some(), "{told:?}");
            assert!(told[0].event()["text"].as_str().unwrap().contains(&hash.to_string()));
            again.shutdown().await.unwrap();
            assert_eq!(std::fs::read(&data).unwrap(), content, "the file is whole again");
            let last = Blobs::open(&Folder::at(b.place.path())).await.unwrap();
            assert_eq!(last.read(&hash).await.unwrap(), content);
            assert_eq!(last.mended(), [], "and stays so");
            last.shutdown().await.unwrap();
        }
    }
    a.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_that_nobody_has_is_said_once_and_had_when_somebody_does() {
    let (a, b) = two().await;
    let content = bytes(100_000);
    let hash = b.blobs.add_durably(content.clone(), &Keep::Run("test")).await.unwrap();
    harm(&Folder::at(b.place.path()).blob(&hash), Harm::Cut);
    for _ in 0..2 {
        assert!(matches!(b.blobs.read(&hash).await, Err(BlobsError::Damaged { .. })));
        assert_eq!(b.blobs.look(&hash).await.unwrap(), None);
        assert!(!b.blobs.has(&hash).await.unwrap(), "what cannot be read is not here");
    }
    let fetched = b.fetch(&hash, Size::AtMost(100_000), &a).await;
    assert!(
        matches!(fetched, Err(BlobsError::NotServed { .. })),
        "it may come yet: {fetched:?}"
    );
    let told = b.blobs.mended();
    assert!(told.len() == 1 && told[0].from.is_none(), "{told:?}");
    a.blobs.add(content.clone(), &Keep::Run("test")).await.unwrap();
    assert_eq!(b.fetch(&hash, Size::AtMost(100_000), &a).await.unwrap(), content);
    assert!(b.blobs.has(&hash).await.unwrap());
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_learns_from_whom_it_serves_that_a_blob_is_damaged() {
    let charter = charter(&[1, 2, 3]);
    let c = Side::open(3, &charter, &[]).await;
    let a = Side::open(1, &charter, &[c.known()]).await;
    let b = Side::open(2, &charter, &[a.known()]).await;
    let content = bytes(400_000);
    let hash = a.blobs.add_durably(content.clone(), &Keep::Run("test")).await.unwrap();
    c.blobs.add(content.clone(), &Keep::Run("test")).await.unwrap();
    let path = Folder::at(a.place.path()).blob(&hash);
    let mut bad = content.clone();
    bad[200_000] ^= 1;
    std::fs::write(&path, bad).unwrap(); // in place: what is open sees it too
    let mut tries = 0;
    while b.fetch(&hash, Size::AtMost(400_000), &a).await.is_err() {
        tries += 1;
        assert!(tries < 200, "it is never mended");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(tries > 0, "the damage was served");
    assert_eq!(std::fs::read(&path).unwrap(), content);
    let told = a.blobs.mended();
    assert!(
        told.iter()
            .any(|mended| mended.from.as_ref().is_some_and(|from| from.contains(&c.me.short()))),
        "{told:?}"
    );
    for side in [a, b, c] {
        side.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_damaged_or_missing_is_made_again_from_the_files() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::at(place.path());
    let store = Blobs::open(&folder).await.unwrap();
    let mut hashes = Vec::new();
    for count in [1usize, 20_000, 300_001] {
        hashes.push(store.add(bytes(count), &Keep::Run("test")).await.unwrap());
    }
    store.shutdown().await.unwrap();
    let index = folder.blobs().join("blobs.db");
    let good = std::fs::read(&index).unwrap();
    let flips = (0..24).map(|part| Some(part * good.len() / 24 + 3)).chain([None]);
    let (mut made_again, mut unused) = (0, 0);
    for place_of_flip in flips {
        std::fs::write(&index, &good).unwrap();
        match place_of_flip {
            Some(byte) => {
                let mut bad = good.clone();
                bad[byte] ^= 1;
                std::fs::write(&index, bad).unwrap();
            }
            None => std::fs::remove_file(&index).unwrap(),
        }
        let store = Blobs::open(&folder).await.unwrap();
        for (hash, count) in hashes.iter().zip([1usize, 20_000, 300_001]) {
            assert_eq!(
                store.read(hash).await.unwrap(),
                bytes(count),
                "flip at {place_of_flip:?}"
            );
        }
        let told = store.mended();
        match told.first() {
            Some(mended) => {
                assert!(mended.path.ends_with("blobs.db") && mended.from.as_ref().unwrap().starts_with("3 "));
                made_again += 1;
            }
            None => unused += 1, // an unused part of a page: what is read is the same
        }
        store.shutdown().await.unwrap();
        Blobs::sweep(&folder).await.unwrap();
        assert!(hashes.iter().all(|hash| folder.blob(hash).exists()), "they are kept");
    }
    assert!(
        made_again > 1 && unused > 0,
        "{made_again} made again, {unused} in unused parts"
    );
    let aside = place.path().join("damaged-1/blobs/blobs.db");
    assert_eq!(
        std::fs::metadata(aside).unwrap().len(),
        good.len() as u64,
        "nothing is deleted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_any_more_is_collected_at_a_clean_end() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::at(place.path());
    let store = Blobs::open(&folder).await.unwrap();
    let mut thetas = Vec::new();
    for round in 0..3 {
        thetas.push(
            store
                .add(bytes(50_000 + round as usize), &Keep::Theta(Round(round)))
                .await
                .unwrap(),
        );
    }
    store.collect(Round(2)).await.unwrap();
    store.shutdown().await.unwrap();
    Blobs::sweep(&folder).await.unwrap();
    let there: Vec<bool> = thetas.iter().map(|hash| folder.blob(hash).exists()).collect();
    assert_eq!(there, [false, false, true]);
}
