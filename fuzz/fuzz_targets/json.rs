//! One field of a line of JSON, and what looks like a secret: any text ends in a value or a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| atoll_fuzz::check_json(line));
