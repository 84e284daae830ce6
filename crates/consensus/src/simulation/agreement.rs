//! Without faults: everything submitted is in one history, and a seed repeats it.

use super::{
    cast::Cast,
    world::{World, lossy, runner},
};
use atoll_protocol::Block;
use commonware_runtime::Runner as _;

/// The runtime's hash over every poll, write and frame, and the history that came of it.
fn run(n: u8, seed: u64) -> (String, Vec<Block>) {
    let cast = Cast::new(n, 2);
    let trace = runner(seed).start(|context| async {
        let world = World::with(context, &cast, &cast.all(), lossy()).await;
        world.until_done(&cast.all()).await;
        assert_eq!(world.network.blocked().await, [], "nobody has done wrong");
        world.context.auditor().state()
    });
    cast.assert_one_history(&cast.all());
    for who in cast.all() {
        assert_all_is_in(&cast, who);
    }
    let blocks = cast.disks[0].read().blocks.clone();
    (trace, blocks)
}

/// Its history has the statements of all, and proofs.
fn assert_all_is_in(cast: &Cast, who: usize) {
    let disk = cast.disks[who].read();
    for keypair in &cast.keypairs {
        let kinds = disk.kinds(keypair.peer());
        for kind in ["join", "commit", "reveal", "check", "leave"] {
            assert!(
                kinds.contains(&kind),
                "{kind} of {} is missing: {kinds:?}",
                keypair.peer()
            );
        }
    }
    assert!(disk.blocks.len() >= 12, "{} blocks", disk.blocks.len());
    assert!(
        disk.certificates > disk.blocks.len() / 2,
        "{} proofs",
        disk.certificates
    );
    let views = cast.ballots.views(&cast.keypairs[who].peer());
    assert!(views > disk.blocks.len() / 2, "voted in {views} views");
}

#[test]
fn four_agree_over_lossy_links_and_a_seed_repeats_the_run() {
    let (first, again, other) = (run(4, 1), run(4, 1), run(4, 2));
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
}

#[test]
fn seven_agree_over_lossy_links() {
    for seed in 0..3 {
        run(7, seed);
    }
}
