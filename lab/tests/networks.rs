//! Networks of their own and the link between them.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::networks::{Link, Network};
use lab::process::{self, Spawn};
use lab::{RunDir, wait};

const MOMENT: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(10);

fn socket(network: &Network) -> Result<UdpSocket> {
    let address = network.address();
    let socket = network.inside(|| UdpSocket::bind((address, 0)).context("cannot bind"))?;
    socket.set_read_timeout(Some(MOMENT))?;
    Ok(socket)
}

/// Who a datagram of `from` comes from at `to`, if it does.
fn pass(from: &UdpSocket, to: &UdpSocket) -> Result<Option<SocketAddr>> {
    from.send_to(b"there", to.local_addr()?).context("the sender was told of the cut")?;
    Ok(to.recv_from(&mut [0; 16]).ok().map(|(_, from)| from))
}

#[test]
fn a_link_passes_all_nothing_while_it_is_cut_and_all_again() -> Result<()> {
    let link = Link::new()?;
    let [one, two] = [socket(&link.ends[0])?, socket(&link.ends[1])?];
    let passes = || Ok::<_, anyhow::Error>(pass(&one, &two)? == Some(one.local_addr()?));
    wait::until("the link", LIMIT, || passes().unwrap_or(false))?;
    link.cut()?;
    ensure!(pass(&one, &two)?.is_none() && pass(&two, &one)?.is_none(), "something has passed a cut link");
    let neighbour = socket(&link.ends[0])?;
    ensure!(pass(&neighbour, &one)?.is_some(), "the cut goes through a network");
    link.heal()?;
    wait::until("the healed link", LIMIT, || passes().unwrap_or(false))?;
    Ok(())
}

#[test]
fn what_is_started_inside_a_network_is_inside() -> Result<()> {
    let link = Link::new()?;
    let dir = RunDir::new("networks")?;
    let addresses = || {
        let ip = Spawn::new("ip", "ip", dir.join("ip.log")).args(["-brief", "address"]);
        process::run(ip, LIMIT)
    };
    let inside = link.ends[1].inside(addresses)?;
    ensure!(inside.contains("wan@") && inside.contains("10.2.0.254"), "{inside}");
    std::fs::remove_file(dir.join("ip.log"))?;
    let outside = addresses()?;
    ensure!(!outside.contains("10.2.0.254"), "{outside}");
    Ok(())
}
