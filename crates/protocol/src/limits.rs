//! Every limit in one place. Limits meet at compile time.

/// Members a charter may name.
pub const MEMBERS_MAX: usize = 1024;
/// Validators of a run: consensus sends votes from each to each. Every member validates, so a charter
/// that names more members can be simulated, audited and replayed, but not yet run.
pub const VALIDATORS_MAX: usize = 100;
/// Bytes of one encoded, signed transaction.
pub const TRANSACTION_BYTES_MAX: usize = 8 * 1024;
/// Transactions in one block.
pub const BLOCK_TRANSACTIONS_MAX: usize = 256;
/// Bytes of one encoded block.
pub const BLOCK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a block header, with room to spare.
pub const HEADER_BYTES_MAX: usize = 256;
/// Bytes of one contribution, shard or checkpoint file.
pub const BLOB_BYTES_MAX: u64 = 8 << 30;
/// The largest magnitude in a contribution: no parameter moves by this much in a round, and one that says so would
/// only break the model.
pub const VALUE_MAX: f32 = 100.0;
/// Parameters of a model: one θ is one blob of four bytes each.
pub const PARAMETERS_MAX: u64 = BLOB_BYTES_MAX / 4;
/// Bytes of an encoded charter.
pub const CHARTER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a name of a run or a member.
pub const NAME_BYTES_MAX: usize = 64;
/// Columns of a low-rank factor.
pub const RANK_MAX: u32 = 1024;
/// Members of a run whose rule looks at all subsets of the contributions.
pub const SUBSETS_MEMBERS_MAX: usize = 24;
/// Contributions that one merge may keep out: as many as would leave no majority anyway.
pub const UNFIT_MAX: usize = MEMBERS_MAX / 2;
/// Peers that decide about one accusation.
pub const JURY_MAX: usize = 99;
/// Bytes of what somebody says against a verdict.
pub const APPEAL_BYTES_MAX: usize = 1000;
/// Rounds in one run.
pub const ROUNDS_MAX: u32 = 1_000_000;
/// How far a block's time may be ahead of a validator's own clock.
pub const CLOCK_SKEW_MS_MAX: u64 = 1_000;
/// The shortest deadline of a charter: a proposer whose clock is ahead must not be able to skip a phase.
pub const DEADLINE_MS_MIN: u64 = 2 * CLOCK_SKEW_MS_MAX;

/// Bytes of the largest `Check` transaction: every replica refused, three bytes each, and the frame.
const CHECK_BYTES_MAX: usize = MEMBERS_MAX * 3 + 256;
/// Bytes of the largest `MergeRoot` transaction: seven bytes for each contribution that is kept out, and the frame.
const MERGE_ROOT_BYTES_MAX: usize = UNFIT_MAX * 7 + 384;
/// Bytes of the largest member in a charter: key, name and its length.
const MEMBER_BYTES_MAX: usize = 32 + 4 + NAME_BYTES_MAX;

const _: () = assert!(CHECK_BYTES_MAX <= TRANSACTION_BYTES_MAX && MERGE_ROOT_BYTES_MAX <= TRANSACTION_BYTES_MAX);
const _: () = assert!(TRANSACTION_BYTES_MAX + HEADER_BYTES_MAX <= BLOCK_BYTES_MAX);
const _: () = assert!(BLOCK_TRANSACTIONS_MAX * CHECK_BYTES_MAX + HEADER_BYTES_MAX <= BLOCK_BYTES_MAX);
const _: () = assert!(BLOCK_TRANSACTIONS_MAX * MERGE_ROOT_BYTES_MAX + HEADER_BYTES_MAX <= BLOCK_BYTES_MAX);
const _: () = assert!(MEMBERS_MAX * MEMBER_BYTES_MAX < CHARTER_BYTES_MAX);
const _: () = assert!(MEMBERS_MAX <= u16::MAX as usize && VALIDATORS_MAX <= MEMBERS_MAX);
