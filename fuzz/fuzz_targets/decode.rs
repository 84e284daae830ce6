//! Bytes of a file to text: what is read is what stood there, and what is not has a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| atoll_fuzz::check_text(bytes));
