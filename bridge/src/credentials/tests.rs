//! The rules of the cache, against a reader that is scripted and a clock that stands.

use std::sync::atomic::{AtomicUsize, Ordering};

use domain::digest::Ha1s;
use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use super::*;
use crate::metrics::get;

/// How long a read takes.
const READ: Duration = Duration::from_millis(4);

/// Answers what it is told to, and counts.
#[derive(Default)]
struct Scripted {
    answer: Mutex<Option<&'static str>>,
    fails: Mutex<bool>,
    reads: AtomicUsize,
}

impl Scripted {
    fn with_password(password: &'static str) -> Arc<Self> {
        let reader = Arc::new(Self::default());
        reader.set(Some(password));
        reader
    }

    fn set(&self, password: Option<&'static str>) {
        *self.answer.lock().expect("unpoisoned") = password;
    }

    fn fail(&self, fails: bool) {
        *self.fails.lock().expect("unpoisoned") = fails;
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Reader for Scripted {
    async fn read(&self, aor: &Aor) -> Result<Option<Subscriber>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        // What is there when the read begins.
        let (answer, fails) = (*self.answer.lock().expect("unpoisoned"), *self.fails.lock().expect("unpoisoned"));
        sleep(READ).await;
        if fails { Err(StoreError::Timeout) } else { Ok(answer.map(|password| subscriber(aor, password))) }
    }
}

fn subscriber(aor: &Aor, password: &str) -> Subscriber {
    Subscriber {
        aor: aor.clone(),
        enabled: true,
        ha1s: Ha1s::of_password(aor, password),
        account_id: password.to_owned(),
        max_contacts: 0,
        max_calls: 0,
        attrs: std::collections::BTreeMap::new(),
        updated_at: None,
    }
}

fn aor(user: &str) -> Aor {
    Aor::new(user, "example.com").expect("an AoR")
}

/// The account stands for the password, so that a comparison takes no time.
fn is(password: &'static str) -> impl Fn(Option<&Subscriber>) -> Result<(), ()> {
    move |subscriber| subscriber.filter(|subscriber| subscriber.account_id == password).map(drop).ok_or(())
}

fn cache() -> Arc<Credentials> {
    let config =
        CacheConfig { entries: 100, lifetime: Duration::from_secs(60), negative_lifetime: Duration::from_secs(5) };
    Arc::new(Credentials::new(config, Box::leak(Box::default())))
}

/// Whether a request that comes now is accepted, and how long that takes. `patience` as of now.
async fn ask(
    cache: &Credentials,
    reader: &Scripted,
    user: &str,
    password: &'static str,
    patience: Option<Duration>,
) -> (Result<bool, StoreError>, Duration) {
    let asked = Instant::now();
    let aor = aor(user);
    let question = Question { aor: &aor, asked, patience: patience.map(|patience| asked + patience) };
    let answer = cache.check(reader, question, is(password)).await;
    (answer.map(|judged| judged.is_ok()), asked.elapsed())
}

const PATIENT: Option<Duration> = Some(Duration::from_secs(2));

#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_cost_one_read() {
    let (cache, reader) = (cache(), Scripted::with_password("right"));
    let mut all = JoinSet::new();
    for _ in 0..1000 {
        let (cache, reader) = (cache.clone(), reader.clone());
        all.spawn(async move { ask(&cache, &reader, "alice", "right", None).await.0 });
    }
    assert!(all.join_all().await.into_iter().all(|answer| answer == Ok(true)));
    assert_eq!(reader.reads(), 1);
    assert_eq!(get(&cache.metrics.credential_cache_misses), 1);
    assert_eq!(get(&cache.metrics.credential_cache_hits), 999);
}

#[tokio::test(start_paused = true)]
async fn who_is_remembered_is_accepted_without_a_read_for_the_lifetime() {
    let (cache, reader) = (cache(), Scripted::with_password("right"));
    ask(&cache, &reader, "alice", "right", None).await.0.expect("read");
    reader.set(None);
    advance(Duration::from_secs(59)).await;
    assert_eq!(ask(&cache, &reader, "alice", "right", None).await, (Ok(true), Duration::ZERO));
    assert!(cache.accepted(&aor("alice"), is("right")).is_some());
    advance(Duration::from_secs(1)).await;
    assert!(cache.accepted(&aor("alice"), is("right")).is_none());
    assert_eq!(ask(&cache, &reader, "alice", "right", None).await.0, Ok(false));
    assert_eq!(reader.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_password_works_at_once() {
    let (cache, reader) = (cache(), Scripted::with_password("old"));
    ask(&cache, &reader, "alice", "old", None).await.0.expect("read");
    reader.set(Some("new"));
    assert_eq!(ask(&cache, &reader, "alice", "new", None).await, (Ok(true), READ));
    assert_eq!(ask(&cache, &reader, "alice", "old", None).await, (Ok(false), READ));
}

#[tokio::test(start_paused = true)]
async fn a_new_password_is_waited_for_within_the_second() {
    let (cache, reader) = (cache(), Scripted::with_password("old"));
    assert_eq!(ask(&cache, &reader, "alice", "wrong", PATIENT).await.0, Ok(false));
    reader.set(Some("new"));
    let (answer, took) = ask(&cache, &reader, "alice", "new", PATIENT).await;
    assert_eq!((answer, took), (Ok(true), PAUSE));
    assert_eq!(reader.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_aor_is_read_at_most_once_a_second_whoever_asks() {
    for known in [Some("right"), None] {
        let (cache, reader) = (cache(), Arc::new(Scripted::default()));
        reader.set(known);
        let mut all = JoinSet::new();
        for number in 0..300_u32 {
            let (cache, reader) = (cache.clone(), reader.clone());
            let patience = (number % 2 == 0).then_some(Duration::from_secs(3));
            all.spawn(async move {
                sleep(Duration::from_millis(10) * number).await;
                ask(&cache, &reader, "alice", "wrong", patience).await.0
            });
        }
        assert!(all.join_all().await.into_iter().all(|answer| answer == Ok(false)));
        assert_eq!(reader.reads(), 4, "in three seconds, and once for the last of them");
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_is_compared_with_the_read_of_this_second() {
    let (cache, reader) = (cache(), Scripted::with_password("right"));
    ask(&cache, &reader, "alice", "wrong", None).await.0.expect("read");
    for patience in [None, Some(Duration::from_millis(900))] {
        let (answer, took) = ask(&cache, &reader, "alice", "wrong", patience).await;
        assert_eq!((answer, took), (Ok(false), Duration::ZERO));
    }
    assert_eq!(reader.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_known_and_an_unknown_user_take_the_same_time_and_reads() {
    let script = [(0, None), (0, None), (300, None), (300, PATIENT), (0, PATIENT), (1500, PATIENT), (5000, None)];
    let mut taken = Vec::new();
    for known in [Some("right"), None] {
        let (cache, reader) = (cache(), Arc::new(Scripted::default()));
        reader.set(known);
        let mut times = Vec::new();
        for (pause, patience) in script {
            advance(Duration::from_millis(pause)).await;
            let (answer, took) = ask(&cache, &reader, "alice", "wrong", patience).await;
            assert_eq!(answer, Ok(false));
            times.push((took, reader.reads()));
        }
        taken.push(times);
    }
    assert_eq!(taken[0], taken[1]);
}

#[tokio::test(start_paused = true)]
async fn a_read_under_way_is_not_fresh_for_who_came_after_it_began() {
    let (cache, reader) = (cache(), Scripted::with_password("old"));
    let first = tokio::spawn({
        let (cache, reader) = (cache.clone(), reader.clone());
        async move { ask(&cache, &reader, "alice", "old", PATIENT).await.0 }
    });
    sleep(READ / 2).await;
    reader.set(Some("new"));
    let (answer, took) = ask(&cache, &reader, "alice", "new", PATIENT).await;
    assert_eq!((answer, took), (Ok(true), READ - READ / 2 + READ));
    assert_eq!(first.await.expect("no panic"), Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_shared_by_those_who_waited_and_forgotten() {
    let (cache, reader) = (cache(), Scripted::with_password("right"));
    reader.fail(true);
    let mut all = JoinSet::new();
    for _ in 0..100 {
        let (cache, reader) = (cache.clone(), reader.clone());
        all.spawn(async move { ask(&cache, &reader, "alice", "right", PATIENT).await.0 });
    }
    assert!(all.join_all().await.into_iter().all(|answer| answer == Err(StoreError::Timeout)));
    assert_eq!(reader.reads(), 1);
    reader.fail(false);
    advance(Duration::from_millis(1)).await;
    assert_eq!(ask(&cache, &reader, "alice", "right", PATIENT).await.0, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_gave_up_leaves_its_turn_to_the_next() {
    let (cache, reader) = (cache(), Scripted::with_password("right"));
    let first = tokio::time::timeout(READ / 2, ask(&cache, &reader, "alice", "right", None)).await;
    assert!(first.is_err());
    assert_eq!(ask(&cache, &reader, "alice", "right", None).await.0, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn whether_there_is_a_subscriber_is_remembered_for_each_lifetime() {
    for (known, lifetime) in [(Some("right"), 60), (None, 5)] {
        let (cache, reader) = (cache(), Arc::new(Scripted::default()));
        reader.set(known);
        let find = async || cache.find(&*reader, &aor("alice")).await.expect("read").is_some();
        assert_eq!(find().await, known.is_some());
        advance(Duration::from_secs(lifetime) - 2 * READ).await;
        assert_eq!((find().await, reader.reads()), (known.is_some(), 1));
        advance(2 * READ).await;
        assert_eq!((find().await, reader.reads()), (known.is_some(), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_flushed_is_read_again() {
    let (cache, reader) = (cache(), Scripted::with_password("right"));
    for user in ["alice", "bob"] {
        ask(&cache, &reader, user, "right", None).await.0.expect("read");
    }
    assert_eq!(cache.stats().entries, 2);
    assert_eq!(cache.flush(Some(&aor("alice"))), 1);
    assert_eq!(cache.flush(Some(&aor("alice"))), 0);
    reader.set(None);
    assert_eq!(ask(&cache, &reader, "alice", "right", None).await.0, Ok(false));
    assert_eq!(ask(&cache, &reader, "bob", "right", None).await.0, Ok(true));
    assert_eq!(cache.flush(None), 2);
    assert_eq!(ask(&cache, &reader, "bob", "right", None).await.0, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let (cache, reader) = (cache(), Arc::new(Scripted::default()));
    for number in 0..1000 {
        ask(&cache, &reader, &number.to_string(), "wrong", None).await.0.expect("read");
    }
    assert!(cache.stats().entries <= 100);
}

#[tokio::test(start_paused = true)]
async fn with_a_lifetime_of_zero_every_request_reads() {
    let config = CacheConfig { entries: 100, lifetime: Duration::ZERO, negative_lifetime: Duration::ZERO };
    let (cache, reader) = (Credentials::new(config, Box::leak(Box::default())), Scripted::with_password("right"));
    for reads in 1..=3 {
        assert_eq!(ask(&cache, &reader, "alice", "right", PATIENT).await, (Ok(true), READ));
        assert_eq!(reader.reads(), reads);
        advance(Duration::from_millis(1)).await;
    }
}
