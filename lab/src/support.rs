//! Which versions of Kamailio and Cassandra are supported: those that the tests have passed with.
//!
//! With the versions that are installed all tests run. With others one or two run for each promise, which this module names. What has
//! passed is left in `target/support/`; `docs/support.json` is what is said to pass, and the table in the README is made of that.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cassandra::Version;
use crate::process::{self, Spawn};
use crate::progress::step;
use crate::{debian, kamailio, workspace};

/// A test that shows whether a promise is kept.
#[derive(Debug)]
struct Test {
    suite: &'static str,
    name: &'static str,
}

/// What the system promises, with the tests that run for it on other versions.
const PROMISES: [(&str, &[Test]); 6] = [
    (
        "nothing is lost",
        &[
            Test { suite: "calls", name: "the_io_process_killed_loses_no_accepted_event" },
            Test { suite: "dialogs", name: "a_dialog_is_recorded_from_its_attempt_to_its_end" },
        ],
    ),
    (
        "nothing blocks",
        &[Test { suite: "faults", name: "a_frozen_cassandra_gives_503_opens_the_breaker_and_recovers" }],
    ),
    ("nothing leaks", &[Test { suite: "leaks", name: "memory_is_flat_over_many_registrations" }]),
    (
        "no one gets in",
        &[Test { suite: "authentication", name: "known_and_unknown_users_get_the_same_answers_for_as_many_reads" }],
    ),
    (
        "bad input gets a clear error",
        &[Test { suite: "faults", name: "a_wrong_parameter_stops_the_start_with_a_sentence" }],
    ),
    (
        "the loss of a node costs no more than it must",
        &[Test { suite: "topology", name: "the_death_of_a_node_of_each_role_is_not_noticed" }],
    ),
];

/// A suite with its servers.
const TEST_LIMIT: Duration = Duration::from_secs(600);

const TABLE_BEGINS: &str = "<!-- made from docs/support.json by `lab support table` -->\n";
const TABLE_ENDS: &str = "<!-- end of the table -->\n";

/// Versions that tests have passed with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Passed {
    tests: Tests,
    kamailio: String,
    /// Where that Kamailio is from.
    from: String,
    cassandra: String,
    /// When they were run by hand; CI runs the others each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by_hand: Option<String>,
}

/// Which tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Tests {
    All,
    /// Those of [`PROMISES`].
    OfPromises,
}

impl Test {
    /// Runs it with the versions that the environment names; its log goes into this directory.
    fn run(&self, logs: &Path) -> Result<()> {
        let cargo = Spawn::new(self.name, "cargo", logs.join(format!("{}.log", self.name)))
            .args(["test", "--workspace", "--test", self.suite, "--", "--exact", self.name])
            .env("LEAK_TEST", "short") // the long one takes some minutes
            .dir(workspace().root());
        let shown = process::run(cargo, TEST_LIMIT)?;
        let ran = shown.contains("test result: ok. 1 passed; 0 failed; 0 ignored;");
        ensure!(ran, "tests/{}.rs has no test {}", self.suite, self.name);
        Ok(())
    }
}

impl Passed {
    /// The versions that the environment names.
    fn with(tests: Tests, from: Option<String>, by_hand: bool) -> Result<Self> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let today = now.split('T').next().map(str::to_owned);
        Ok(Self {
            tests,
            kamailio: kamailio::version()?,
            from: from.map_or_else(this_debian, Ok)?,
            cassandra: Version::wanted()?.number().to_owned(),
            by_hand: today.filter(|_| by_hand),
        })
    }

    fn name(&self) -> String {
        format!("Kamailio {} with Cassandra {}", self.kamailio, self.cassandra)
    }

    fn file_name(&self) -> String {
        format!("kamailio-{}-cassandra-{}", self.kamailio, self.cassandra)
    }

    fn leave(&self) -> Result<()> {
        let dir = passed_dir();
        fs::create_dir_all(&dir)?;
        let file = dir.join(self.file_name() + ".json");
        fs::write(&file, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn row(&self) -> String {
        let tests = match self.tests {
            Tests::All => "all tests",
            Tests::OfPromises => "a test of each promise",
        };
        let when = self.by_hand.as_ref().map_or("in CI".to_owned(), |date| format!("by hand, {date}"));
        format!("| {} ({}) | {} | {tests}, {when} |\n", self.kamailio, self.from, self.cassandra)
    }
}

/// Leaves behind that all tests have passed with the versions that are installed.
pub fn all_passed() -> Result<()> {
    Passed::with(Tests::All, None, false)?.leave()
}

/// Runs the tests of each promise with the versions that the environment names, and leaves behind that they passed. `from`: where that
/// Kamailio is from, if not from this Debian.
pub fn run(from: Option<String>, by_hand: bool) -> Result<()> {
    let passed = Passed::with(Tests::OfPromises, from, by_hand)?;
    let logs = workspace().target().join("tests").join(passed.file_name());
    fs::create_dir_all(&logs)?;
    for (promise, tests) in PROMISES {
        step(format!("{}: {promise}", passed.name()), || tests.iter().try_for_each(|test| test.run(&logs)))?;
    }
    passed.leave()
}

/// Checks that what CI is said to pass is what has passed now.
pub fn check() -> Result<()> {
    let mut passed = Vec::new();
    for entry in fs::read_dir(passed_dir()).context("no tests have passed yet: run `make test`")? {
        passed.push(serde_json::from_str::<Passed>(&fs::read_to_string(entry?.path())?)?);
    }
    passed.retain(|passed| passed.by_hand.is_none());
    let mut said = said()?;
    said.retain(|passed| passed.by_hand.is_none());
    passed.sort();
    said.sort();
    ensure!(
        passed == said,
        "docs/support.json says that CI passes\n{}and it has passed\n{}Change that file and run `lab support table`",
        rows(&said),
        rows(&passed)
    );
    Ok(())
}

/// Puts the table of what is said to pass into the README.
pub fn write_table() -> Result<()> {
    let (file, readme) = readme()?;
    fs::write(&file, with_table(&readme)?).with_context(|| format!("cannot write {}", file.display()))
}

fn this_debian() -> Result<String> {
    Ok(format!("Debian {}", debian::release("VERSION_ID")?))
}

fn passed_dir() -> PathBuf {
    workspace().target().join("support")
}

fn said() -> Result<Vec<Passed>> {
    let text = fs::read_to_string(workspace().root().join("docs/support.json")).context("docs/support.json")?;
    serde_json::from_str(&text).context("docs/support.json is not what it should be")
}

fn readme() -> Result<(PathBuf, String)> {
    let file = workspace().root().join("README.md");
    let text = fs::read_to_string(&file).context("README.md")?;
    Ok((file, text))
}

fn with_table(readme: &str) -> Result<String> {
    let (before, rest) = readme.split_once(TABLE_BEGINS).context("README.md has no place for the table of versions")?;
    let (_, after) = rest.split_once(TABLE_ENDS).context("the table of versions in README.md has no end")?;
    Ok(format!("{before}{TABLE_BEGINS}{}{TABLE_ENDS}{after}", table(&said()?)))
}

fn table(said: &[Passed]) -> String {
    let promises = PROMISES.map(|(promise, _)| promise).join("; ");
    let mut table = "| Kamailio | Apache Cassandra | passed |\n|---|---|---|\n".to_owned();
    table += &rows(said);
    let _ = write!(table, "\nThe promises:\n{promises}.\n"); // to a String, which never fails
    table
}

fn rows(passed: &[Passed]) -> String {
    passed.iter().map(Passed::row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_table_of_what_is_said_to_pass() {
        let (_, readme) = readme().expect("README.md");
        assert!(with_table(&readme).expect("a table") == readme, "run `lab support table`");
    }

    #[test]
    fn each_promise_names_tests_that_there_are() {
        for test in PROMISES.iter().flat_map(|(_, tests)| *tests) {
            let suite = workspace().root().join("tests").join(format!("{}.rs", test.suite));
            let text = fs::read_to_string(&suite).expect(test.suite);
            assert!(text.contains(&format!("\"{}\"", test.name)), "{} has no test {}", suite.display(), test.name);
        }
    }

    #[test]
    fn a_row_says_which_tests_passed_and_when() {
        let passed = |tests, by_hand: Option<&str>| Passed {
            tests,
            kamailio: "6.0.1".to_owned(),
            from: "Debian 13".to_owned(),
            cassandra: "5.0.5".to_owned(),
            by_hand: by_hand.map(str::to_owned),
        };
        assert_eq!(passed(Tests::All, None).row(), "| 6.0.1 (Debian 13) | 5.0.5 | all tests, in CI |\n");
        assert_eq!(
            passed(Tests::OfPromises, Some("2026-11-29")).row(),
            "| 6.0.1 (Debian 13) | 5.0.5 | a test of each promise, by hand, 2026-11-29 |\n"
        );
    }
}
