//! Crashes at every point: one validator between any two of its frames or at any time, or all at once.

use super::{
    cast::Cast,
    manner::Fuse,
    validator::Loss,
    world::{World, config, good, runner},
};
use crate::channel::Channel;
use commonware_runtime::{
    Clock as _, Runner as _,
    deterministic::{Checkpoint, FaultConfig, PartialWriteMode, Runner, WriteConfig},
};
use commonware_utils::probability;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

const VICTIM: usize = 2;

/// What an undisturbed run of a seed takes: frames of the victim, and time.
fn undisturbed(seed: u64) -> (usize, Duration) {
    let cast = Cast::new(4, 2);
    runner(seed).start(|context| async {
        let fuse = Fuse::never();
        let mut world = World::with(context, &cast, &[0, 1, 3], good()).await;
        world.wake(VICTIM, fuse.clone()).await;
        world.until_done(&cast.all()).await;
        let time = world.context.current().duration_since(UNIX_EPOCH).expect("since then");
        (fuse.sent(), time)
    })
}

/// Where the victim's last frame went, and the runtime's hash over all that happened.
type Crashed = (Option<Channel>, String);

/// The victim's life ends after its `frames`th frame and begins again after a while.
fn crash_after(cast: &Arc<Cast>, seed: u64, frames: usize, away: Duration) -> Crashed {
    let fuse = Fuse::after(frames);
    let crashed = runner(seed).start(|context| async {
        let mut world = World::with(context, cast, &[0, 1, 3], good()).await;
        world.wake(VICTIM, fuse.clone()).await;
        let last = world.patiently("the last frame", fuse.blown()).await;
        world.crash(VICTIM).await;
        world.sleep(away).await;
        world.wake(VICTIM, Fuse::never()).await;
        world.until_done(&cast.all()).await;
        assert_eq!(world.network.blocked().await, [], "a restart looked like a lie");
        (last, world.context.auditor().state())
    });
    cast.assert_one_history(&cast.all());
    crashed
}

/// Short enough to come back into the same view, long enough to miss a few.
fn away(point: usize) -> Duration {
    Duration::from_millis([20, 400, 5_000][point % 3])
}

#[test]
fn one_of_four_crashes_between_any_two_of_its_frames() {
    let (frames, _) = undisturbed(11);
    let (mut channels, mut repeated) = (BTreeSet::new(), 0);
    for point in 1..=frames {
        let cast = Cast::new(4, 2);
        let (last, _) = crash_after(&cast, 11, point, away(point));
        channels.extend(last.map(|channel| channel as u8));
        repeated += repeats(&cast, VICTIM);
    }
    for channel in [
        Channel::Votes,
        Channel::Certificates,
        Channel::Blocks,
        Channel::Transactions,
    ] {
        assert!(
            channels.contains(&(channel as u8)),
            "never after a frame on {channel:?}"
        );
    }
    assert!(repeated > 0, "no crash came between a delivery and its write");
}

#[test]
fn a_seed_repeats_a_run_with_a_crash() {
    let run = |frames| crash_after(&Cast::new(4, 2), 11, frames, away(1));
    assert_eq!(run(40), run(40));
    assert_ne!(run(40), run(41));
}

/// Deliveries of blocks that were delivered before.
fn repeats(cast: &Cast, who: usize) -> usize {
    let disk = cast.disks[who].read();
    let heights: BTreeSet<_> = disk.received.iter().collect();
    assert_eq!(
        heights.len(),
        disk.blocks.len(),
        "each height is delivered at least once"
    );
    disk.received.len() - heights.len()
}

#[test]
fn each_of_four_crashes_at_any_time_and_again_while_it_recovers() {
    const POINTS: u32 = 60;
    let time = undisturbed(12).1 * 9 / 10;
    for point in 0..POINTS {
        let (cast, victim) = (Cast::new(4, 2), point as usize % 4);
        runner(12).start(|context| async {
            let mut world = World::with(context, &cast, &cast.all(), good()).await;
            world.sleep(time * point / POINTS).await;
            assert!(cast.is_under_way(), "the crash comes too late");
            for again in [0, 3 * point] {
                world.crash(victim).await;
                world.sleep(away(point as usize)).await;
                world.wake(victim, Fuse::never()).await;
                world.sleep(Duration::from_millis(again.into())).await;
            }
            world.until_done(&cast.all()).await;
            assert_eq!(world.network.blocked().await, [], "a restart looked like a lie");
        });
        cast.assert_one_history(&cast.all());
        repeats(&cast, victim);
    }
}

/// Runs all four for a while, then takes the power away.
fn power_cut(runner: Runner, cast: &Arc<Cast>, time: Duration) -> Checkpoint {
    let (_, checkpoint) = runner.start_and_recover(|context| async {
        let world = World::with(context, cast, &cast.all(), good()).await;
        world.sleep(time).await;
    });
    checkpoint
}

#[test]
fn the_power_fails_for_all_four_at_once_and_again_while_they_recover() {
    const POINTS: u32 = 40;
    let time = undisturbed(13).1 * 9 / 10;
    // Of what was written and not synced, some bytes are on disk and some are not.
    let torn = FaultConfig::default().write(WriteConfig {
        failure_rate: probability!(0.0),
        retention_rate: probability!(0.5),
        mode: PartialWriteMode::Subset,
    });
    for point in 0..POINTS {
        let (cast, faults) = (Cast::new(4, 2), [FaultConfig::default(), torn.clone()]);
        let faults = faults[point as usize % 2].clone();
        let first = Runner::new(config(13).with_storage_fault_config(faults));
        let once = power_cut(first, &cast, time * point / POINTS);
        assert!(cast.is_under_way(), "the crash comes too late");
        let twice = power_cut(Runner::from(once), &cast, Duration::from_millis(u64::from(point) * 7));
        Runner::from(twice).start(|context| async {
            let world = World::with(context, &cast, &cast.all(), good()).await;
            world.until_done(&cast.all()).await;
            assert_eq!(world.network.blocked().await, [], "a restart looked like a lie");
        });
        cast.assert_one_history(&cast.all());
        for who in cast.all() {
            repeats(&cast, who);
        }
    }
}

/// The victim loses its engine's storage with its `frames`th frame, and goes on as `lost` says. The views in which
/// it has said two things.
fn lose_votes(seed: u64, frames: usize, away: Duration, lost: Loss) -> Vec<u64> {
    let cast = Cast::new(4, 2);
    let fuse = Fuse::after(frames);
    runner(seed).start(|context| async {
        let mut world = World::with(context, &cast, &[0, 1, 3], good()).await;
        world.wake(VICTIM, fuse.clone()).await;
        world.patiently("the last frame", fuse.blown()).await;
        world.crash(VICTIM).await;
        world.sleep(away).await;
        world.wake_without_votes(VICTIM, lost).await;
        if lost == Loss::Listens {
            world.ended(VICTIM).await;
            assert!(cast.disks[VICTIM].read().heard);
            world.wake_without_votes(VICTIM, Loss::Votes).await; // from what it has heard
        }
        world.until_done(&[0, 1, 3]).await;
        if lost == Loss::Listens {
            world.until_done(&cast.all()).await;
            assert_eq!(world.network.blocked().await, [], "whoever listened looks like a liar");
        }
    });
    cast.assert_one_history(&[0, 1, 3]);
    cast.ballots.contradictions(&cast.peers(&[VICTIM])[0])
}

#[test]
fn whoever_has_lost_its_votes_listens_first_and_never_contradicts_itself() {
    let (frames, _) = undisturbed(11);
    let mut careless = 0;
    for point in (3..=frames * 3 / 4).step_by(4) {
        let away = away(point);
        assert_eq!(
            lose_votes(11, point, away, Loss::Listens),
            [0; 0],
            "after frame {point}"
        );
        careless += lose_votes(11, point, away, Loss::Votes).len();
    }
    assert!(careless > 0, "there is nothing to listen for");
}
