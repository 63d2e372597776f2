//! Consistency, as the nodes see it on the wire.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use scylla::errors::{DbError, WriteType};
use scylla::statement::Consistency::{self, LocalOne, LocalQuorum};
use scylla_proxy::{Condition, Reaction, RequestReaction};
use store::{Store, StoreError};

use crate::common::{NOW, aor, binding, round_trip};
use crate::site::{REQUEST_TIMEOUT, Rules, Site, at};

/// A trouble, what a node does in it, and whether an error tells of it.
type Trouble = (&'static str, RequestReaction, fn(&StoreError) -> bool);

/// In which one replica alone may know more.
fn too_few() -> [Trouble; 4] {
    let consistency = LocalQuorum;
    let forged = |error| RequestReaction::forge_with_error(error);
    let timeout = |error: &StoreError| *error == StoreError::Timeout;
    [
        ("unavailable", forged(DbError::Unavailable { consistency, required: 2, alive: 1 }), |error| {
            matches!(error, StoreError::Unavailable(_))
        }),
        (
            "read-timeout",
            forged(DbError::ReadTimeout { consistency, received: 1, required: 2, data_present: true }),
            timeout,
        ),
        (
            "read-failure",
            forged(DbError::ReadFailure { consistency, received: 1, required: 2, numfailures: 1, data_present: true }),
            |error| matches!(error, StoreError::Failed(_)),
        ),
        ("silence", RequestReaction::drop_frame(), timeout),
    ]
}

/// All nodes do this with statements at LOCAL_QUORUM.
fn at_quorum(reaction: &RequestReaction) -> Rules {
    vec![(at(LocalQuorum), reaction.clone())]
}

fn count(seen: &[Consistency], wanted: Consistency) -> usize {
    seen.iter().filter(|consistency| **consistency == wanted).count()
}

pub(crate) fn local_quorum(site: &Site) -> Result<()> {
    site.runtime.block_on(async {
        let store = site.store().await?;
        let mut seen = site.script("quorum", |_| Rules::new());
        round_trip(&store, "quorum").await?;
        store.write_bindings(&aor("quorum"), &[binding("sip:a@192.0.2.1"), binding("sip:b@192.0.2.1")], NOW).await?;
        ensure!(store.credentials(&aor("quorum")).await?.is_none(), "nobody of that name");
        ensure!(store.alias(&aor("quorum")).await?.is_none(), "no alias of that name");
        ensure!(seen.take_all()? == [LocalQuorum; 5]);
        Ok(())
    })
}

pub(crate) fn fallback(site: &Site) -> Result<()> {
    site.runtime.block_on(async {
        let store = site.store().await?;
        for (name, reaction, _) in too_few() {
            let user = format!("fallback-{name}");
            round_trip(&store, &user).await?;
            let mut seen = site.script(&user, |_| at_quorum(&reaction));
            let found = store.bindings(&aor(&user)).await.context(name)?;
            ensure!(found.len() == 1, "{name}: {found:?}");
            let seen = seen.take_all()?;
            ensure!(count(&seen, LocalOne) == 1 && count(&seen, LocalQuorum) >= 1, "{name}: {seen:?}");
        }
        Ok(())
    })
}

pub(crate) fn silent_node(site: &Site) -> Result<()> {
    site.pass();
    site.runtime.block_on(async {
        let store = site.store().await?;
        round_trip(&store, "silent").await?;
        let mut seen = site.script("silent", |node| {
            let silent = if node == 0 { Condition::True } else { at(LocalQuorum) };
            vec![(silent, RequestReaction::drop_frame())]
        });
        // Which node is asked first is a matter of chance.
        for _ in 0..20 {
            ensure!(store.bindings(&aor("silent")).await?.len() == 1);
            if count(&seen.take()?[0], LocalOne) > 0 {
                return Ok(());
            }
        }
        anyhow::bail!("the silent node is never asked first")
    })
}

pub(crate) fn empty_fallback(site: &Site) -> Result<()> {
    site.runtime.block_on(async {
        let store = site.store().await?;
        for (name, reaction, expected) in too_few() {
            let user = format!("empty-{name}");
            let mut seen = site.script(&user, |_| at_quorum(&reaction));
            let error = store.bindings(&aor(&user)).await.err().context("no bindings, as if that were known")?;
            ensure!(expected(&error), "{name}: {error:?}");
            let error = store.credentials(&aor(&user)).await.err().context("no subscriber, as if that were known")?;
            ensure!(expected(&error), "{name}: {error:?}");
            let error = store.alias(&aor(&user)).await.err().context("no alias, as if that were known")?;
            ensure!(expected(&error), "{name}: {error:?}");
            // One that is slow to answer is overtaken by another.
            ensure!(count(&seen.take_all()?, LocalOne) >= 3, "{name}: each asks one replica");
        }
        Ok(())
    })
}

pub(crate) fn no_fallback(site: &Site) -> Result<()> {
    site.runtime.block_on(async {
        let store = site.store().await?;
        for (name, error) in [("overloaded", DbError::Overloaded), ("invalid", DbError::Invalid)] {
            let user = format!("other-{name}");
            round_trip(&store, &user).await?;
            let reaction = RequestReaction::forge_with_error(error);
            let mut seen = site.script(&user, |_| at_quorum(&reaction));
            ensure!(matches!(store.bindings(&aor(&user)).await, Err(StoreError::Failed(_))), "{name}");
            let seen = seen.take_all()?;
            ensure!(count(&seen, LocalOne) == 0 && !seen.is_empty(), "{name}: {seen:?}");
        }
        Ok(())
    })
}

pub(crate) fn writes(site: &Site) -> Result<()> {
    let consistency = LocalQuorum;
    let forged = |error| RequestReaction::forge_with_error(error);
    let write_type = WriteType::Simple;
    site.runtime.block_on(async {
        let store = site.store().await?;
        for (name, reaction) in [
            ("unavailable", forged(DbError::Unavailable { consistency, required: 2, alive: 1 })),
            ("timeout", forged(DbError::WriteTimeout { consistency, received: 1, required: 2, write_type })),
            ("silence", RequestReaction::drop_frame()),
        ] {
            let user = format!("write-{name}");
            let mut seen = site.script(&user, |_| vec![(Condition::True, reaction.clone())]);
            write(&store, &user, 1).await.err().context("a write of one")?;
            write(&store, &user, 2).await.err().context("a write of two")?;
            let seen = seen.take_all()?;
            ensure!(seen.len() >= 2 && seen.iter().all(|consistency| *consistency == LocalQuorum), "{name}: {seen:?}");
        }
        Ok(())
    })
}

async fn write(store: &Store, user: &str, bindings: usize) -> Result<(), StoreError> {
    let bindings: Vec<_> = (0..bindings).map(|number| binding(&format!("sip:{user}@192.0.2.{number}"))).collect();
    store.write_bindings(&aor(user), &bindings, NOW).await
}

pub(crate) fn frozen(site: &Site) -> Result<()> {
    site.pass();
    let store = site.runtime.block_on(site.store())?;
    site.runtime.block_on(round_trip(&store, "frozen"))?;
    site.nodes[1].freeze()?;
    let held = site.runtime.block_on(with_one_replica(&store));
    site.nodes[1].thaw()?;
    held.with_context(|| site.nodes[0].log())
}

async fn with_one_replica(store: &Store) -> Result<()> {
    // Whichever node is picked first, and whichever is picked for the fallback.
    for _ in 0..6 {
        let start = Instant::now();
        let found = store.bindings(&aor("frozen")).await?;
        ensure!(found.len() == 1, "{found:?}");
        ensure!(start.elapsed() < 2 * REQUEST_TIMEOUT, "{:?}", start.elapsed());
    }
    ensure!(store.bindings(&aor("nobody")).await.is_err(), "no bindings, as if that were known");
    ensure!(write(store, "frozen", 1).await.is_err(), "written to one replica");
    Ok(())
}
