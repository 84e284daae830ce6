//! A network that runs: validators start, crash and start again, and a test waits for what it expects.

use super::{
    cast::Cast,
    disk::{Content, Disk},
    lies::Lie,
    manner::{Fuse, Manner},
    network::Network,
    validator::{Life, Loss},
};
use commonware_p2p::simulated::Link;
use commonware_runtime::{
    Clock as _, Handle, Spawner as _, Supervisor as _,
    deterministic::{Config, Context, Runner},
};
use commonware_utils::probability;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Virtual time that is longer than anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longer than it takes until an aborted life has let go of its storage.
const LAST_BREATH: Duration = Duration::from_millis(10);

/// Links of a good network: everything arrives, in a few milliseconds.
pub(super) fn good() -> Link {
    Link {
        latency: Duration::from_millis(8),
        jitter: Duration::from_millis(3),
        success_rate: probability!(1.0),
    }
}

/// Links that lose one frame in fifty.
pub(super) fn lossy() -> Link {
    Link {
        latency: Duration::from_millis(20),
        jitter: Duration::from_millis(10),
        success_rate: probability!(49, 50),
    }
}

/// A runtime whose clock moves by a tenth of a millisecond each time all tasks had their turn.
pub(super) fn config(seed: u64) -> Config {
    Config::new().with_seed(seed).with_cycle(Duration::from_micros(100))
}

pub(super) fn runner(seed: u64) -> Runner {
    Runner::new(config(seed))
}

/// The part of a run that lives in a runtime. Nothing of it may be kept when the runtime has ended.
pub(super) struct World {
    pub(super) context: Context,
    pub(super) network: Network,
    cast: Arc<Cast>,
    lives: BTreeMap<usize, Handle<()>>,
}

impl World {
    /// A network with all of `who`.
    pub(super) async fn with(context: Context, cast: &Arc<Cast>, who: &[usize], link: Link) -> Self {
        let mut world = Self {
            network: Network::start(context.child("network"), cast, link).await,
            context,
            cast: cast.clone(),
            lives: BTreeMap::new(),
        };
        for who in who {
            world.wake(*who, Fuse::never()).await;
        }
        world
    }

    /// Starts a validator, from what it has on disk.
    pub(super) async fn wake(&mut self, who: usize, fuse: Arc<Fuse>) {
        let manner = Manner {
            fuse,
            ..self.manner(who)
        };
        let network = self.network.enter(who, manner).await;
        let life = self.life(who);
        let context = self.context.child("validator").with_attribute("who", who);
        let life = context.spawn(move |context| life.live(context, network));
        self.lives.insert(who, life);
    }

    /// Starts a validator whose engine has lost its storage: one of another name is empty.
    pub(super) async fn wake_without_votes(&mut self, who: usize, lost: Loss) {
        let network = self.network.enter(who, self.manner(who)).await;
        let life = Life {
            prefix: format!("again-v{who}-"),
            lost,
            ..self.life(who)
        };
        let context = self.context.child("validator").with_attribute("who", who);
        let life = context.spawn(move |context| life.live(context, network));
        self.lives.insert(who, life);
    }

    /// Waits until a life ends by itself.
    pub(super) async fn ended(&mut self, who: usize) {
        let life = self.lives.remove(&who).expect("it lives");
        let ended = self.patiently("the end of a life", life).await;
        ended.expect("it ends by itself");
        self.context.sleep(LAST_BREATH).await;
    }

    /// Starts one that lies.
    pub(super) async fn wake_liar(&mut self, who: usize, lie: Lie) {
        let manner = Manner {
            lie,
            ..self.manner(who)
        };
        let network = self.network.enter(who, manner).await;
        let life = self.life(who);
        let context = self.context.child("liar");
        self.lives
            .insert(who, context.spawn(move |context| life.live(context, network)));
    }

    /// Starts two with one key, each of which speaks to its own audience.
    pub(super) async fn wake_twins(&mut self, who: usize, audiences: [&[usize]; 2]) {
        let manners = audiences.map(|audience| Manner {
            audience: Some(self.network.keys(audience)),
            ..self.manner(who)
        });
        let context = self.context.child("twins");
        let [one, other] = self.network.enter_twice(&context, who, manners).await;
        let twin = Life {
            prefix: "twin-".into(),
            disk: Disk::empty(&self.cast.charter),
            works: false,
            ..self.life(who)
        };
        let life = self.life(who);
        self.lives.insert(
            who,
            context.spawn(move |context| async move {
                let child = context.child("other");
                child.spawn(move |context| twin.live(context, other));
                life.live(context.child("one"), one).await;
            }),
        );
    }

    fn manner(&self, who: usize) -> Manner {
        Manner {
            me: self.network.keys(&[who]).remove(0),
            ballots: self.cast.ballots.clone(),
            fuse: Fuse::never(),
            audience: None,
            lie: Lie::None,
        }
    }

    fn life(&self, who: usize) -> Life {
        Life {
            cast: self.cast.clone(),
            who,
            prefix: format!("v{who}-"),
            disk: self.cast.disks[who].clone(),
            works: true,
            lost: Loss::None,
        }
    }

    /// Aborts a validator and all its tasks, wherever they are.
    pub(super) async fn crash(&mut self, who: usize) {
        let life = self.lives.remove(&who).expect("it lives");
        life.abort();
        assert!(life.await.is_err(), "it did not end by itself");
        self.context.sleep(LAST_BREATH).await;
    }

    pub(super) async fn sleep(&self, time: Duration) {
        self.context.sleep(time).await;
    }

    /// Waits within our patience.
    pub(super) async fn patiently<T: Send + 'static>(
        &self,
        what: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.context.timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => {
                let heights: Vec<u64> = self.cast.all().iter().map(|who| self.cast.height(*who)).collect();
                panic!("waited too long for {what}; the validators are at {heights:?}")
            }
        }
    }

    /// Waits until the disks of all of `who` are as expected.
    pub(super) async fn until(
        &self,
        what: &str,
        who: &[usize],
        reached: impl Fn(&Content) -> bool + Send + Sync + 'static,
    ) {
        let disks: Vec<_> = who.iter().map(|who| self.cast.disks[*who].clone()).collect();
        let all = async move {
            for disk in disks {
                disk.watch(&reached).await;
            }
        };
        self.patiently(what, all).await;
    }

    /// Waits until all of `honest` know that the run is over.
    pub(super) async fn until_done(&self, honest: &[usize]) {
        let peers = self.cast.peers(honest);
        self.until("the end of the run", honest, move |content| content.is_done(&peers))
            .await;
    }
}
