//! The page that Carna serves, in a real browser.

#[path = "../common/mod.rs"]
mod common;

mod browser;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use browser::Browser;
use common::{Registry, load_balancer};
use fleet::node::testing::node;
use fleet::{Announcement, Load, Role};
use lab::carna::Node;
use lab::topology::SECRET;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;

fn main() -> ExitCode {
    lab::suite::run(
        || Ok(()),
        &[
            ("the_page_shows_the_fleet_as_it_changes", live as lab::suite::Test<()>),
            ("what_other_nodes_say_is_text", hostile),
            ("the_page_says_when_it_is_old_and_recovers", old),
            ("what_nodes_have_to_do_does_not_reach_what_is_routed_by", loads),
        ],
    )
}

const SOON: Duration = Duration::from_secs(40);

/// A node, its page in a browser, and what they look at.
struct Scene {
    browser: Browser,
    registry: Registry,
    node: Node,
    zookeeper: ZooKeeper,
}

impl Scene {
    /// With the load balancer lb-1, which the page shows already.
    fn start() -> Result<Self> {
        let mut browser = Browser::start()?;
        let zookeeper = ZooKeeper::start(1)?;
        let node = load_balancer(&zookeeper, "lb-1")?.start()?;
        let registry = Registry::of(&zookeeper)?;
        registry.until(Role::LoadBalancer, &["lb-1"]).with_context(|| node.log())?;
        browser.open(&node.url("/"))?;
        browser.evaluate("window.mark = 'the same page'")?;
        let mut scene = Self { browser, registry, node, zookeeper };
        let published = scene.registry.get(Role::LoadBalancer, "lb-1")?;
        scene.until_row("lb-1", "up")?;
        scene.until_row("lb-1", &published.version)?;
        Ok(scene)
    }

    /// Waits until an element's text contains this.
    fn until(&mut self, id: &str, wanted: &str) -> Result<()> {
        let mut shown = String::new();
        let mut shows = || {
            shown = self.browser.text(id)?;
            Ok(shown.contains(wanted).then_some(()))
        };
        until(&format!("'{wanted}' in #{id}"), SOON, &mut shows).with_context(|| format!("it is '{shown}'"))
    }

    /// Waits until the row of a node contains this.
    fn until_row(&mut self, name: &str, wanted: &str) -> Result<()> {
        let mut shown = String::new();
        let mut shows = || {
            shown = row(&mut self.browser, name)?;
            Ok(shown.contains(wanted).then_some(()))
        };
        until(&format!("'{wanted}' in the row of {name}"), SOON, &mut shows)
            .with_context(|| format!("it is '{shown}'"))
            .with_context(|| self.node.log())
    }

    fn put(&self, node: &Announcement) -> Result<()> {
        self.registry.put(&path(node), &node.json())
    }

    fn put_load(&self, node: &Announcement, load: Load) -> Result<()> {
        self.registry.put(&load_path(node), &load.json())
    }

    /// That it was never loaded again.
    fn ensure_same_page(&mut self) -> Result<()> {
        let mark = self.browser.evaluate("window.mark")?;
        ensure!(mark == "the same page", "the page was loaded again");
        Ok(())
    }
}

/// What the cells of a node show; nothing when there is no such node.
fn row(browser: &mut Browser, name: &str) -> Result<String> {
    let script = "[...document.querySelectorAll('#fleet tr')].map(({ cells }) => [...cells].map((cell) => cell.innerText).join('|'))";
    let rows = browser.evaluate(script)?;
    let rows = rows.as_array().context("no rows")?.iter().filter_map(|row| row.as_str());
    Ok(rows.into_iter().find(|row| row.starts_with(&format!("{name}|"))).unwrap_or_default().to_owned())
}

fn path(node: &Announcement) -> String {
    format!("/carna/{}/{}", node.role, node.name)
}

fn load_path(node: &Announcement) -> String {
    format!("/carna-load/{}/{}", node.role, node.name)
}

fn live(_: &()) -> Result<()> {
    let mut scene = Scene::start()?;
    let [r2, r3] = ["r2", "r3"].map(|name| node(Role::Registrar, name, "dc2"));
    let d1 = node(Role::Dispatcher, "d1", "dc1");
    for one in [&r2, &r3, &d1] {
        scene.put(one)?;
    }
    scene.put_load(&r2, Load { registrations: Some(1200), ..Load::default() })?;
    scene.put_load(&d1, Load { calls: Some(7), ..Load::default() })?;
    for (name, wanted) in [("r2", "192.0.2.50:5060 udp"), ("r2", "|1,200|"), ("r3", "|up|"), ("d1", "|7|")] {
        scene.until_row(name, wanted)?;
    }
    scene.until("standings", "4 up")?;
    scene.until("calls", "7")?;
    scene.until("registrations", "1,200")?;
    scene.until("changes", "registrar r2 in dc2 appeared")?;
    // The last ones are held.
    scene.registry.remove(&path(&r2))?;
    scene.registry.remove(&path(&r3))?;
    scene.until_row("r2", "|missing|")?;
    scene.until("changes", "registrar r2 in dc2 is missing")?;
    scene.put(&r3)?;
    scene.until("changes", "registrar r3 in dc2 is back")?;
    scene.until("changes", "registrar r2 in dc2 is gone")?;
    ensure!(row(&mut scene.browser, "r2")?.is_empty(), "it is shown still");
    scene.ensure_same_page()?;
    let own = scene.node.url("/");
    for path in ["/", "/status"] {
        let (code, content) = scene.node.get(path)?;
        // What the environment of every node of the lab has.
        ensure!(code == 200 && !content.contains(SECRET), "{code}: {content}");
    }
    let foreign = scene.browser.requests().iter().find(|request| !request.starts_with(&own) && *request != "data:,");
    ensure!(foreign.is_none(), "it has asked for {foreign:?}");
    ensure!(scene.browser.complaints().is_empty(), "{:?}", scene.browser.complaints());
    Ok(())
}

fn hostile(_: &()) -> Result<()> {
    const HOSTILE: &str = "<img src=x onerror=hurt=1><script>hurt=1</script>";
    let mut scene = Scene::start()?;
    let bad =
        Announcement { version: HOSTILE.to_owned(), started: HOSTILE.to_owned(), ..node(Role::Registrar, "r2", "dc1") };
    scene.put(&bad)?;
    scene.until_row("r2", HOSTILE)?;
    let hurt = "typeof hurt + document.querySelectorAll('img, script:not([nonce])').length";
    ensure!(scene.browser.evaluate(hurt)? == "undefined0");
    ensure!(scene.browser.complaints().is_empty(), "{:?}", scene.browser.complaints());
    // Were it HTML, it would not run either.
    scene.browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"hurt=1\" id=trap></b>')")?;
    scene.browser.evaluate("document.getElementById('trap').click()")?;
    ensure!(scene.browser.evaluate("typeof hurt")? == "undefined");
    let complaints = scene.browser.complaints();
    ensure!(complaints.iter().any(|complaint| complaint.contains("Content Security Policy")), "{complaints:?}");
    let headers = "fetch('/').then((answer) => ['cache-control', 'x-content-type-options', 'referrer-policy'] \
                   .map((name) => answer.headers.get(name)).join(' '))";
    ensure!(scene.browser.evaluate(headers)? == "no-store nosniff no-referrer");
    Ok(())
}

fn old(_: &()) -> Result<()> {
    let mut scene = Scene::start()?;
    scene.zookeeper.kill(0)?;
    scene.until("lost", "No connection to ZooKeeper")?;
    scene.until("unready", "This node takes no part")?;
    scene.zookeeper.restart(0)?;
    scene.until("changes", "ZooKeeper is back")?;
    scene.until("pulse", "live")?;
    ensure!(scene.browser.text("old")?.is_empty() && scene.browser.text("lost")?.is_empty());
    scene.node.kill9()?;
    scene.until("old", "Carna does not answer: everything here is as it was at")?;
    scene.until("pulse", "old")?;
    ensure!(row(&mut scene.browser, "lb-1")?.contains("up"), "what was known is not shown any more");
    scene.node = scene.node.again()?;
    scene.until("pulse", "live")?;
    scene.until_row("lb-1", "up")?;
    ensure!(scene.browser.text("old")?.is_empty());
    scene.ensure_same_page()
}

fn loads(_: &()) -> Result<()> {
    let mut scene = Scene::start()?;
    let d1 = node(Role::Dispatcher, "d1", "dc1");
    scene.put(&d1)?;
    scene.until_row("d1", "up")?;
    let written = |scene: &Scene| (scene.node.log().matches("lines of nodes").count(), scene.node.list());
    let before = written(&scene);
    scene.put_load(&d1, Load { calls: Some(1), ..Load::default() })?;
    scene.until_row("d1", "|1|")?;
    scene.registry.remove(&load_path(&d1))?;
    scene.put_load(&d1, Load { calls: Some(2345), ..Load::default() })?;
    scene.until_row("d1", "2,345")?;
    ensure!(written(&scene) == before, "{}", scene.node.log());
    Ok(())
}
