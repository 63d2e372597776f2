//! One node's trouble is not the caller's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use scylla::errors::DbError;
use scylla::statement::Consistency::LocalQuorum;
use scylla_proxy::{Condition, Reaction, RequestReaction};
use store::{Store, StoreConfig};

use crate::common::{NOW, aor, binding, round_trip};
use crate::site::{REMOTE, Rules, Site};

/// Which node is asked first is a matter of chance.
const MANY: usize = 50;

/// The first node does this, the others serve.
fn first_node(node: usize, reaction: &RequestReaction) -> Rules {
    if node == 0 { vec![(Condition::True, reaction.clone())] } else { Rules::new() }
}

pub(crate) fn next_node(site: &Site) -> Result<()> {
    let forged = |error| RequestReaction::forge_with_error(error);
    for (name, reaction) in [
        ("overloaded", forged(DbError::Overloaded)),
        ("server-error", forged(DbError::ServerError)),
        ("truncate-error", forged(DbError::TruncateError)),
        ("bootstrapping", forged(DbError::IsBootstrapping)),
        ("cut", RequestReaction::drop_connection()),
    ] {
        site.pass();
        let answered = site.runtime.block_on(answered_in_spite_of(site, name, &reaction));
        answered.with_context(|| format!("{name}\n{}", site.logs()))?;
    }
    Ok(())
}

/// Reads and writes until the bad node was asked first for each kind of statement.
async fn answered_in_spite_of(site: &Site, name: &str, reaction: &RequestReaction) -> Result<()> {
    let store = Store::connect(&site.config(1)).await?;
    let user = format!("retry-{name}");
    round_trip(&store, &user).await?;
    for kind in [Kind::Read, Kind::Write, Kind::Batch] {
        let mut seen = site.script(&user, |node| first_node(node, reaction));
        let mut tried = 0;
        while seen.take()?[0].is_empty() {
            ensure!(tried < MANY, "the bad node is never asked first");
            kind.run(&store, &user).await.with_context(|| format!("{kind:?}"))?;
            tried += 1;
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Read,
    Write,
    Batch,
}

impl Kind {
    async fn run(self, store: &Store, user: &str) -> Result<()> {
        let aor = aor(user);
        let (one, two) = (binding(&format!("sip:{user}@192.0.2.1")), binding(&format!("sip:{user}@192.0.2.2")));
        match self {
            Self::Read => ensure!(!store.bindings(&aor).await?.is_empty(), "nothing found"),
            Self::Write => store.write_bindings(&aor, &[one], NOW).await?,
            Self::Batch => store.write_bindings(&aor, &[one, two], NOW).await?,
        }
        Ok(())
    }
}

pub(crate) fn speculation(site: &Site) -> Result<()> {
    site.pass();
    site.runtime.block_on(async {
        let config = StoreConfig { speculative_after: Some(Duration::from_millis(50)), ..site.config(1) };
        let store = Store::connect(&config).await?;
        round_trip(&store, "slow").await?;
        let mut seen = site.script("slow", |node| first_node(node, &RequestReaction::delay(Duration::from_secs(60))));
        for _ in 0..MANY {
            let start = Instant::now();
            ensure!(store.bindings(&aor("slow")).await?.len() == 1);
            // Far below the request timeout, after which it would fall back.
            ensure!(start.elapsed() < config.request_timeout / 2, "{:?}", start.elapsed());
            let seen = seen.take()?;
            ensure!(seen.concat().iter().all(|consistency| *consistency == LocalQuorum), "{seen:?}");
            if !seen[0].is_empty() && !seen[1].is_empty() {
                return Ok(());
            }
        }
        anyhow::bail!("the slow node is never asked first")
    })
}

pub(crate) fn local_only(site: &Site) -> Result<()> {
    site.pass();
    site.runtime.block_on(async {
        let store = Store::connect(&site.config(0)).await?;
        round_trip(&store, "local").await?;
        let down = |node| {
            if node == REMOTE { Rules::new() } else { vec![(Condition::True, RequestReaction::drop_connection())] }
        };
        let mut seen = site.script("local", down);
        for _ in 0..5 {
            store.bindings(&aor("local")).await.err().context("a read without the local data centre")?;
            let write = store.write_bindings(&aor("local"), &[binding("sip:local@192.0.2.1")], NOW).await;
            write.err().context("a write without the local data centre")?;
        }
        let seen = seen.take()?;
        ensure!(seen[REMOTE].is_empty(), "{seen:?}");
        ensure!(!seen[0].is_empty() && !seen[1].is_empty(), "{seen:?}");
        Ok(())
    })
}
