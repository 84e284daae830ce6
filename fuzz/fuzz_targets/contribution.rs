//! A contribution from a stranger, in every codec: what is accepted decodes to finite values.
#![no_main]

use atoll_fuzz::{BASE, codecs};
use atoll_outer::{Contribution, blob_bytes_max};
use atoll_protocol::{Layout, charter::Codec};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CODECS: LazyLock<[(Codec, Layout); 5]> = LazyLock::new(codecs);

fuzz_target!(|bytes: &[u8]| {
    for (codec, layout) in CODECS.iter() {
        let read = match Contribution::read(bytes.to_vec(), layout, codec, &BASE) {
            Ok(read) => read,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        assert!(bytes.len() as u64 <= blob_bytes_max(layout, codec));
        let (mut values, mut sums) = (vec![1.0f32; layout.parameters], vec![0.0f64; layout.parameters]);
        read.decode_into(&mut values).expect("the layout's length");
        read.add_to(1.0, &mut sums).expect("the layout's length");
        assert!(values.iter().all(|value| value.is_finite()));
        assert!(values.iter().zip(&sums).all(|(value, sum)| f64::from(*value) == *sum));
    }
});
