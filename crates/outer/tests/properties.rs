//! What must hold for all inputs: quantization error, error feedback, order and threads, hostile bytes.

mod common;

use atoll_outer::{Contribution, EncodeError, ErrorFeedback, FeedbackError, encode, merge, nano_f32, root};
use atoll_protocol::{Nano, PeerId, Tokens, charter::Codec, layout::Role};
use common::{SplitMix, base, codecs, finite, layout, layout_of, values};
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

fn decoded(contribution: &Contribution) -> Vec<f32> {
    let mut values = vec![f32::NAN; contribution.parameters()];
    contribution.decode_into(&mut values).expect("length");
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_codec_decodes_it_encodes_again_to_the_same_bytes(
        rows in 1usize..70, columns in 2usize..70, seed in prop::collection::vec(finite(), 1..40),
    ) {
        let layout = layout_of(&[(Role::Matrix, rows, columns), (Role::Vector, rows, 1)]);
        let input: Vec<f32> = seed.iter().copied().cycle().take(layout.parameters).collect();
        for (name, codec) in codecs() {
            let blob = encode(&input, &codec, &layout, &base()).expect("finite");
            let contribution = Contribution::read(blob.clone(), &layout, &codec, &base()).expect(name);
            let output = decoded(&contribution);
            prop_assert!(output.iter().all(|x| x.is_finite()), "{}", name);
            if codec == Codec::Dense {
                prop_assert_eq!(bits(&output), bits(&input));
            }
            // One of many ways to write a matrix as a product.
            let factored = matches!(codec, Codec::LowRank { .. });
            let again = encode(&output, &codec, &layout, &base()).expect("finite");
            // Levels of the least scales are subnormal and may round to a neighbour.
            let tiny = matches!(codec, Codec::Int8 { .. } | Codec::Int4 { .. }) && output.iter().any(|x| x.is_subnormal());
            prop_assert!(again == blob || tiny || factored, "{}", name);
        }
    }

    #[test]
    fn errors_are_bounded(seed in any::<u64>()) {
        let layout = layout();
        let input = values(layout.parameters, seed);
        let norm = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        for ((name, codec), share) in codecs().iter().zip([0.0, 1e-4, 0.02, 0.999, 0.9, 0.2, 0.7, 0.5]) {
            let blob = encode(&input, codec, &layout, &base()).expect("finite");
            let output = decoded(&Contribution::read(blob, &layout, codec, &base()).expect(name));
            let lost: Vec<f32> = input.iter().zip(&output).map(|(x, y)| x - y).collect();
            prop_assert!(norm(&lost) <= share * norm(&input), "{name}: {} of {}", norm(&lost), norm(&input));
        }
    }

    #[test]
    fn what_would_be_too_long_is_sent_shorter_and_the_rest_kept(seed in any::<u64>(), times in 2u8..40) {
        let layout = layout();
        for (name, codec) in codecs() {
            let delta = values(layout.parameters, seed);
            let usual = ErrorFeedback::new(layout.parameters)
                .contribute(delta.clone(), &codec, (&layout, &base()), None)
                .expect("finite");
            let read = |blob| Contribution::read(blob, &layout, &codec, &base()).expect(name);
            let usual = read(usual.blob).length();
            let many: Vec<f32> = delta.iter().map(|x| f32::from(times) * x).collect();
            let mut feedback = ErrorFeedback::new(layout.parameters);
            let sent = feedback.contribute(many.clone(), &codec, (&layout, &base()), Some(usual)).expect("finite");
            let sent = read(sent.blob);
            prop_assert!(sent.length() < 1.1 * usual, "{name}: {} for {usual}", sent.length());
            prop_assert!(sent.length() > 0.9 * usual, "{name}: {} for {usual}", sent.length());
            let kept: Vec<f32> = many.iter().zip(decoded(&sent)).map(|(x, sent)| x - sent).collect();
            prop_assert_eq!(bits(feedback.values()), bits(&kept), "{}", name);
            let largest = decoded(&sent).iter().fold(0.0f32, |most, x| most.max(x.abs()));
            prop_assert_eq!(sent.largest(), largest, "{}", name);
        }
    }

    #[test]
    fn error_feedback_conserves_every_bit(seed in any::<u64>(), rounds in 1u64..4) {
        let layout = layout();
        for (name, codec) in codecs() {
            let beta = nano_f32(codec.feedback());
            let mut feedback = ErrorFeedback::new(layout.parameters);
            for round in 0..rounds {
                let before = feedback.values().to_vec();
                let delta = values(layout.parameters, seed.wrapping_add(round));
                let encoded = feedback.contribute(delta.clone(), &codec, (&layout, &base()), None).expect("finite");
                let contribution = Contribution::read(encoded.blob, &layout, &codec, &base()).expect(name);
                let output = decoded(&contribution);
                let sums = delta.iter().zip(&before).map(|(delta, e)| delta + beta * e);
                let kept: Vec<f32> = sums.zip(&output).map(|(sum, sent)| sum - sent).collect();
                prop_assert_eq!(bits(feedback.values()), bits(&kept), "{}", name);
                let mut restored = feedback.clone();
                restored.restore(&contribution).expect("finite");
                let whole: Vec<f32> = kept.iter().zip(&output).map(|(kept, sent)| kept + sent).collect();
                prop_assert_eq!(bits(restored.values()), bits(&whole), "{}", name);
                prop_assert!(codec != Codec::Dense || feedback.values().iter().all(|e| *e == 0.0));
            }
        }
    }

    #[test]
    fn merging_does_not_know_order_or_threads(seed in any::<u64>(), peers in 1usize..6) {
        let layout = layout();
        let mut random = SplitMix(seed);
        for (name, codec) in codecs() {
            let contributions: Vec<(PeerId, Tokens, Contribution)> = (0..peers)
                .map(|peer| {
                    let blob = encode(&values(layout.parameters, random.next()), &codec, &layout, &base());
                    let contribution = Contribution::read(blob.expect("finite"), &layout, &codec, &base());
                    (PeerId([peer as u8; 32]), Tokens(1 + random.next() % 1_000_000), contribution.expect(name))
                })
                .collect();
            let mut inputs: Vec<_> = contributions.iter().map(|(peer, tokens, c)| (*peer, *tokens, c)).collect();
            // In the words of the definition, one dense vector at a time.
            let mut sums = vec![0.0f64; layout.parameters];
            for (_, tokens, contribution) in &inputs {
                contribution.add_to(tokens.0 as f64, &mut sums).expect("length");
            }
            let total = inputs.iter().map(|(_, tokens, _)| tokens.0).sum::<u64>() as f64;
            let expected: Vec<f32> = sums.iter().map(|sum| (sum / total) as f32).collect();
            for threads in [1, 2, 3] {
                inputs.rotate_left(peers / 2);
                inputs.reverse();
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
                let delta = pool.install(|| merge(&layout, &inputs)).expect("inputs");
                prop_assert_eq!(root(&delta), root(&expected), "{} on {} threads", name, threads);
            }
        }
    }

    #[test]
    fn no_changed_byte_is_taken_for_another_value(seed in any::<u64>(), places in prop::collection::vec(any::<usize>(), 200)) {
        let layout = layout_of(&[(Role::Embedding, 9, 66), (Role::Vector, 9, 1), (Role::Matrix, 70, 40)]);
        for (_, codec) in codecs() {
            let blob = encode(&values(layout.parameters, seed), &codec, &layout, &base()).expect("finite");
            for place in &places {
                let mut changed = blob.clone();
                changed[place % blob.len()] ^= 1 << (place / blob.len() % 8);
                if let Ok(contribution) = Contribution::read(changed, &layout, &codec, &base()) {
                    prop_assert!(decoded(&contribution).iter().all(|x| x.is_finite()));
                }
                let cut = place % blob.len();
                prop_assert!(Contribution::read(blob[..cut].to_vec(), &layout, &codec, &base()).is_err());
            }
        }
    }

    #[test]
    fn arbitrary_payloads_never_panic(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let layout = layout_of(&[(Role::Matrix, 20, 80)]);
        for (_, codec) in codecs() {
            let mut blob = encode(&[0.0; 1600], &codec, &layout, &base()).expect("finite");
            // As many as there must be, in the codecs whose payloads have a fixed length.
            let noise: Vec<u8> = noise.iter().copied().cycle().take(noise.len().max(blob.len() - 64)).collect();
            blob.truncate(64);
            blob[56..64].copy_from_slice(&(noise.len() as u64).to_le_bytes());
            blob.extend_from_slice(&noise);
            if let Ok(contribution) = Contribution::read(blob.clone(), &layout, &codec, &base()) {
                let output = decoded(&contribution);
                prop_assert!(output.iter().all(|x| x.is_finite()));
            }
        }
    }
}

#[test]
fn non_finite_values_are_refused_by_name_and_leave_the_feedback_alone() {
    let layout = layout();
    let codec = Codec::Dense;
    let mut input = vec![0.5; layout.parameters];
    let mut feedback = ErrorFeedback::new(layout.parameters);
    let at = layout.tensors[2].offset + 5;
    for value in [f32::INFINITY, f32::NEG_INFINITY] {
        input[at] = value;
        let refused = EncodeError::NonFinite {
            tensor: "tensor.2".into(),
            index: 5,
            value,
        };
        assert_eq!(encode(&input, &codec, &layout, &base()), Err(refused.clone()));
        let result = feedback.contribute(input.clone(), &codec, (&layout, &base()), None);
        assert_eq!(result, Err(FeedbackError::Encode(refused)));
    }
    input[at] = f32::NAN;
    let text = encode(&input, &codec, &layout, &base()).expect_err("NaN").to_string();
    assert_eq!(text, "tensor tensor.2[5] is NaN; only finite values can be encoded");
    assert!(feedback.values().iter().all(|e| *e == 0.0));
    assert!(encode(&input[1..], &codec, &layout, &base()).is_err());
}

#[test]
fn low_rank_goes_on_from_the_round_before_also_after_a_restart() {
    let layout = layout_of(&[(Role::Matrix, 140, 150), (Role::Vector, 9, 1)]);
    let codec = |rank| Codec::LowRank {
        rank,
        feedback: Nano(0),
    };
    // Ten directions of much the same size, and little else.
    let direction = |k: u64, count| values(count, 1 + k);
    let mut delta = values(layout.parameters, 0);
    delta.iter_mut().for_each(|x| *x *= 0.01);
    for (k, row) in (0..10).flat_map(|k| (0..140).map(move |row| (k, row))) {
        let (u, v) = (direction(k, 140), direction(20 + k, 150));
        delta[row * 150..][..150]
            .iter_mut()
            .zip(v)
            .for_each(|(x, v)| *x += 30.0 * u[row] * v);
    }
    let mut feedback = ErrorFeedback::new(layout.parameters);
    let contribute = |feedback: &mut ErrorFeedback, rank| {
        feedback
            .contribute(delta.clone(), &codec(rank), (&layout, &base()), None)
            .expect("finite")
    };
    let first = contribute(&mut feedback, 10);
    let mut restarted = ErrorFeedback::from_bytes(&feedback.to_bytes(), layout.parameters).expect("own bytes");
    let second = contribute(&mut feedback, 10);
    assert_eq!(contribute(&mut restarted, 10), second);
    assert_eq!(restarted, feedback);
    let (first, second) = (first.measured, second.measured);
    assert!(second.residual_milli < 200 && second.residual_milli <= first.residual_milli + 5);
    assert!((5_000..=10_000).contains(&second.rank_milli), "{second:?}");
    // Another rank takes the columns there are, and does better with them than without.
    let known = contribute(&mut feedback, 5).measured;
    let cold = contribute(&mut ErrorFeedback::new(layout.parameters), 5).measured;
    assert!(
        second.residual_milli < known.residual_milli && known.rank_milli > 5_000,
        "{known:?}"
    );
    assert!(known.residual_milli < cold.residual_milli, "{known:?} {cold:?}");
    // Another codec forgets them: what follows is as it was the first time.
    let before = feedback.to_bytes().len();
    feedback
        .contribute(
            delta.clone(),
            &Codec::Int4 { feedback: Nano(0) },
            (&layout, &base()),
            None,
        )
        .expect("finite");
    assert!(feedback.to_bytes().len() < before);
}
