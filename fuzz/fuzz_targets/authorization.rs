//! Any bytes, as the body of an Authorization header.
#![no_main]

#[path = "../../domain/tests/promises/mod.rs"]
mod promises;

libfuzzer_sys::fuzz_target!(|body: &[u8]| promises::authorization(body));
