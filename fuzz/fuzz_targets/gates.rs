//! Judging a round from its inner products: whatever they are, what is kept out and what is weighed are all that
//! there is, somebody has weight, and the same comes out again.
#![no_main]

use atoll_outer::robust::{
    Gram,
    judge::{Candidate, judge},
};
use atoll_protocol::{Nano, Robust, robust::Weighing};
use libfuzzer_sys::fuzz_target;

/// The rule that looks at all subsets may see no more.
const REPLICAS_MAX: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let [rule, flags, count, tensors, rest @ ..] = bytes else {
        return;
    };
    let count = usize::from(*count) % (REPLICAS_MAX + 1);
    let size = count * (count + 1) / 2;
    let mut values = rest.chunks_exact(8).map(|bytes| {
        let value = f64::from_le_bytes(bytes.try_into().unwrap_or_default());
        if value.is_finite() { value } else { 0.0 }
    });
    let mut next = || (0..size).map(|_| values.next().unwrap_or(1.0)).collect::<Vec<f64>>();
    let grams: Vec<Gram> = (0..=tensors % 3)
        .filter_map(|_| Gram::from_lower(count, next()))
        .collect();
    let rules = Robust {
        rule: Weighing::ALL[usize::from(*rule) % Weighing::ALL.len()],
        mixing: flags & 1 != 0,
        clip: flags & 2 != 0,
        norm_max: Nano(if flags & 4 != 0 { 3_000_000_000 } else { u64::MAX }),
        cosine_max: Nano(if flags & 8 != 0 { 990_000_000 } else { 1_000_000_000 }),
    };
    let candidates: Vec<Candidate> = (0..count as u16)
        .map(|replica| Candidate {
            replica,
            order: u32::from(replica ^ 5),
        })
        .collect();
    let usual = (flags & 16 != 0).then_some(1_000_000);
    let judged = judge(&grams, &candidates, usual, &rules);
    assert_eq!(judged.shares.len(), count);
    for out in &judged.unfit {
        assert_eq!(
            judged.shares[usize::from(out.replica)].weight,
            Nano(0),
            "{out:?} counts"
        );
    }
    assert!(judged.unfit.len() <= count);
    for share in &judged.shares {
        assert!(
            share
                .factors
                .iter()
                .all(|factor| factor.is_finite() && (0.0..=1.0).contains(factor))
        );
    }
    assert_eq!(judge(&grams, &candidates, usual, &rules).shares, judged.shares);
});
