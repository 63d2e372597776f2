//! Whatever bytes come over a link: they are a message or refused, and cost no more memory than their length warrants.

use std::alloc::System;

use bridge::protocol::{Lookup, MAX_MESSAGE, Outcome, Registered, Request, Task, decode, encode, page, pages};
use domain::Binding;
use domain::register::Saved;
use proptest::collection::vec;
use proptest::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a binding, the largest element of any list, takes in memory for each byte that it takes in a message, and more.
const MOST_PER_BYTE: usize = 100;
/// serde believes a list's announced length up to a megabyte; an answer has lists within lists.
const MOST_IN_ADVANCE: usize = 4 << 20;

fn decode_all(bytes: &[u8]) {
    let before = Region::new(ALLOCATOR);
    let _ = decode::<Request>(bytes);
    let _ = decode::<Task>(bytes);
    let _ = decode::<Outcome>(bytes);
    let _ = page(bytes);
    let allocated = before.change().bytes_allocated;
    assert!(allocated <= MOST_IN_ADVANCE + MOST_PER_BYTE * bytes.len(), "{allocated} bytes for {}", bytes.len());
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let bindings = || vec("\\PC{0,20}".prop_map(Binding::of_uri), 0..5);
    prop_oneof![
        vec(bindings().prop_map(Lookup::Bindings), 0..4).prop_map(Outcome::Found),
        bindings().prop_map(Outcome::Contacts),
        vec(("\\PC{0,9}", "\\PC{0,9}"), 0..4).prop_map(|headers| Outcome::Saved(Registered {
            saved: Saved::Updated,
            headers,
            grant: None
        })),
    ]
}

/// A message of ours with some bytes changed, cut off somewhere.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let whole = outcome().prop_map(|outcome| encode(&outcome).expect("it encodes"));
    (whole, vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), any::<prop::sample::Index>()).prop_map(
        |(mut bytes, changes, end)| {
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            bytes
        },
    )
}

fn announcing(length: u64, prefix: &[u8]) -> Vec<u8> {
    [prefix, &encode(&length).expect("it encodes")].concat()
}

fn messages_come_back_as_they_were(outcome: &Outcome, id: u64) {
    let bytes = encode(outcome).expect("it encodes");
    assert_eq!(decode::<Outcome>(&bytes).as_ref(), Ok(outcome));
    let joined: Vec<u8> =
        pages(id, &bytes).iter().flat_map(|message| page(message).expect("a page").2.to_vec()).collect();
    assert_eq!(joined, bytes);
}

// The only test of its binary: what another one allocates would be counted, too.
#[test]
fn any_bytes_are_a_message_or_refused_within_bounded_memory() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let bytes = prop_oneof![vec(any::<u8>(), 0..300), damaged()];
    runner
        .run(&bytes, |bytes| {
            decode_all(&bytes);
            Ok(())
        })
        .expect("within bounds");
    runner
        .run(&(outcome(), any::<u64>()), |(outcome, id)| {
            messages_come_back_as_they_were(&outcome, id);
            Ok(())
        })
        .expect("unchanged");
    for length in [1 << 20, u64::from(u32::MAX), u64::MAX] {
        (0..=255).for_each(|kind| decode_all(&announcing(length, &[kind])));
        (0..=255).for_each(|kind| decode_all(&announcing(length, &[kind, 1, 0])));
    }
    decode_all(&vec![0; MAX_MESSAGE]);
    decode_all(&vec![0xff; MAX_MESSAGE]);
}
