//! Any bytes, as a message between a worker and the I/O process. libFuzzer watches the memory (`-malloc_limit_mb`).
#![no_main]

use bridge::protocol::{Outcome, Request, Task, decode, encode, page};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = page(bytes);
    let _ = decode::<Request>(bytes);
    let _ = decode::<Task>(bytes);
    if let Ok(outcome) = decode::<Outcome>(bytes) {
        let again = encode(&outcome).expect("what was decoded can be encoded");
        assert_eq!(decode::<Outcome>(&again), Ok(outcome));
    }
});
