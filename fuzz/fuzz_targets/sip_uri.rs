//! Any text, as a SIP URI.
#![no_main]

#[path = "../../domain/tests/promises/mod.rs"]
mod promises;

libfuzzer_sys::fuzz_target!(|text: &str| promises::sip_uri(text));
