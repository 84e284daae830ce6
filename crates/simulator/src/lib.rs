//! Whole networks of node machines in virtual time: what happens, and what never does.
//!
//! The machines are `node`'s, the ledger is `ledger`'s, error feedback and merges are `outer`'s: nothing of
//! them is written again. What is simulated is the world around them: lines, disks, clocks, power, the total
//! order, and how long things take. A failure is a scenario and a seed.
//!
//! In reading order: [`Scenario`], [`World`] with its trainer, effects, faults and order, the invariants and
//! the books, [`Report`].
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod again;
mod blobs;
mod books;
mod clock;
mod effects;
mod failure;
mod faults;
mod hardware;
mod invariants;
mod learner;
mod link;
mod lying;
mod merges;
mod order;
mod peer;
mod queue;
mod random;
mod report;
mod rounds;
mod scenario;
mod scoring;
mod shrink;
mod start;
mod svg;
mod text;
mod timeline;
mod trace;
mod trainer;
mod transfers;
mod world;

pub use clock::Micros;
pub use failure::Failure;
pub use invariants::Violation;
pub use learner::{Learner, Stepped, Task, Toy};
pub use report::{Caught, Planted, Report, finish, run, run_planted};
pub use scenario::{
    Audit, Churn, Clock, Deed, Disk, Event, Hold, Learner as LearnerSpec, Line, Order, Profile, Range, Rules, Scenario,
    ScenarioError, Storm,
};
pub use shrink::{Shrunk, shrink};
pub use text::{Shape, Text, TextError};
pub use trace::{KINDS, Row};
pub use world::World;
