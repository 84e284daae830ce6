//! Whole networks in virtual time: the wiring that a node runs, in commonware's deterministic runtime
//! and over simulated links. A seed repeats a run to the last poll.
//!
//! `cast` says who takes part and keeps what outlives a crash, `statements` what they submit; `network`
//! links them, `ballots` remembers what each has signed; `validator` is one life of one of them and
//! `world` starts, crashes and watches them. The tests are in `agreement`, `byzantine`, `crashes` and
//! `partition`.

mod agreement;
mod ballots;
mod byzantine;
mod cast;
mod crashes;
mod network;
mod partition;
mod statements;
mod validator;
mod world;
