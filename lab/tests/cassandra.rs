//! A real Cassandra starts, keeps its data through everything, and stops.

use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use lab::cassandra::{Cassandra, Options};
use lab::relay::DelayRelay;
use lab::{net, wait};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_node_with_passwords_behind_a_relay_keeps_its_data() {
    let relay_address = net::loopback();
    let options = Options { auth: true, broadcast_rpc_address: Some(relay_address), ..Options::default() };
    let mut node = Cassandra::start(options).expect("a start");
    let target = SocketAddrV4::new(node.address(), node.port());
    let relay = DelayRelay::start(relay_address, node.port(), target, Duration::from_millis(5)).expect("a relay");
    assert_eq!(node.contact_point(), relay.address().to_string());

    node.execute("CREATE KEYSPACE k WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1}")
        .expect("a keyspace");
    node.execute("CREATE TABLE k.t (id int PRIMARY KEY)").expect("a table");
    node.execute("INSERT INTO k.t (id) VALUES (1)").expect("a row");
    let error = node.execute("SELECT * FROM k.nothing").expect_err("no such table");
    assert!(format!("{error:#}").contains("nothing"), "{error:#}");
    assert!(node.nodetool(&["status"]).expect("nodetool").contains("\nUN "));

    node.freeze().expect("a freeze");
    assert!(!node.answers());
    node.thaw().expect("a thaw");
    wait::until("it to answer again", LIMIT, || node.answers()).expect("an answer");

    node.kill9().expect("a kill -9");
    assert!(!node.answers());
    node.restart().expect("a start on the same data");
    let error = node.execute("CREATE TABLE k.t (id int PRIMARY KEY)").expect_err("the table is there");
    assert!(format!("{error:#}").contains("already existing"), "{error:#}");
    node.stop().expect("a stop");
    TcpStream::connect(target).expect_err("nobody listens");
}

#[test]
fn a_node_with_tls_refuses_plain_clients() {
    let dir = lab::RunDir::new("tls").expect("a directory");
    let authority = lab::tls::Authority::new(dir.path(), "lab").expect("a CA");
    let address = net::loopback();
    let options = Options {
        address,
        tls: Some(authority.issue("node", &[address]).expect("a certificate")),
        ..Options::default()
    };
    let node = Cassandra::start(options.clone()).expect("a start");
    assert!(node.answers());
    node.execute("SELECT * FROM system.local").expect_err("not without TLS");
    let error = Cassandra::start(options).expect_err("its address is taken");
    assert!(error.to_string().contains("taken"), "{error:#}");
}
