//! Whole networks in virtual time: the wiring that a node runs, in commonware's deterministic runtime
//! and over simulated links. A seed repeats a run to the last poll.
//!
//! `cast` says who takes part, `statements` what they submit; `disk` keeps what they decide and `ballots`
//! what each has signed, over every crash; `network` links them, `manner` is how each speaks and `lies`
//! what a liar says; `validator` is one life of one of them and `world` starts, crashes and watches them.
//! The tests are in `agreement`, `byzantine`, `crashes` and `partition`.

mod agreement;
mod ballots;
mod byzantine;
mod cast;
mod crashes;
mod disk;
mod lies;
mod manner;
mod network;
mod partition;
mod statements;
mod validator;
mod world;
