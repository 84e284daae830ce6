//! A network in two halves: nothing becomes final, and nothing is lost when it heals.

use super::{
    cast::Cast,
    world::{World, good, runner},
};
use commonware_runtime::Runner as _;
use std::time::Duration;

#[test]
fn two_halves_of_four_wait_for_each_other() {
    for seed in 0..4 {
        let cast = Cast::new(4, 2);
        let heights = || cast.all().iter().map(|who| cast.height(*who)).collect::<Vec<_>>();
        runner(seed).start(|context| async {
            let world = World::with(context, &cast, &cast.all(), good()).await;
            let some = 2 + seed;
            world
                .until("some blocks", &cast.all(), move |content| {
                    content.state.height().0 >= some
                })
                .await;
            world.network.cut(&[0, 1], &[2, 3]).await;
            // What was certified before the cut may still become final.
            world.sleep(Duration::from_secs(5)).await;
            let before = heights();
            world.sleep(Duration::from_secs(60)).await;
            assert_eq!(heights(), before, "half of them decided something");
            world.network.heal(&[0, 1], &[2, 3]).await;
            world.until_done(&cast.all()).await;
            let top = before.iter().max().copied().unwrap_or_default();
            assert!(
                heights().iter().all(|height| *height >= top + 5),
                "{before:?} {:?}",
                heights()
            );
            assert_eq!(world.network.blocked().await, []);
        });
        cast.assert_one_history(&cast.all());
    }
}
