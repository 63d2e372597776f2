//! Any text, as a stored Path.
#![no_main]

#[path = "../../domain/tests/promises/mod.rs"]
mod promises;

libfuzzer_sys::fuzz_target!(|text: &str| promises::path(text));
