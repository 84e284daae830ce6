//! Inner products and weights of a round: what is read is finite and is written back to the same bytes.
#![no_main]

use atoll_outer::robust::judge::Matrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Matrix::from_bytes(bytes) {
        Ok(matrix) => {
            assert_eq!(matrix.to_bytes(), bytes, "one encoding for each matrix");
            assert!(matrix.gram.lower().iter().all(|value| value.is_finite()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
