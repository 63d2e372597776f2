//! The relay delays, keeps order, and does not serialise.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lab::net;
use lab::relay::DelayRelay;

const DELAY: Duration = Duration::from_millis(200);

/// A server that answers each 4-byte request with the same 4 bytes.
fn echo_server() -> SocketAddrV4 {
    let address = SocketAddrV4::new(net::loopback(), 7);
    let listener = TcpListener::bind(address).expect("a listener");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut request = [0; 4];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(&request).expect("an answer");
                }
            });
        }
    });
    address
}

fn relay() -> DelayRelay {
    DelayRelay::start(net::loopback(), 7, echo_server(), DELAY).expect("a relay")
}

fn ask(stream: &mut TcpStream, number: u32) {
    stream.write_all(&number.to_be_bytes()).expect("a request");
}

fn answer(stream: &mut TcpStream) -> u32 {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).expect("an answer");
    u32::from_be_bytes(bytes)
}

#[test]
fn answers_are_delayed() {
    let relay = relay();
    let mut stream = TcpStream::connect(relay.address()).expect("a connection");
    let start = Instant::now();
    ask(&mut stream, 1);
    assert_eq!(answer(&mut stream), 1);
    let took = start.elapsed();
    assert!(took >= DELAY && took < DELAY * 2, "{took:?}");
}

#[test]
fn requests_under_way_together_take_one_delay_and_keep_their_order() {
    let relay = relay();
    let mut stream = TcpStream::connect(relay.address()).expect("a connection");
    let start = Instant::now();
    for number in 0..20 {
        ask(&mut stream, number);
        thread::sleep(Duration::from_millis(1)); // so that they do not travel as one chunk
    }
    for number in 0..20 {
        assert_eq!(answer(&mut stream), number);
    }
    let took = start.elapsed();
    assert!(took >= DELAY && took < DELAY * 3, "{took:?}, 20 delays would be {:?}", DELAY * 20);
}

#[test]
fn connections_do_not_wait_for_each_other() {
    let relay = relay();
    let mut streams: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(relay.address()).expect("a connection")).collect();
    let start = Instant::now();
    streams.iter_mut().for_each(|stream| ask(stream, 5));
    assert!(streams.iter_mut().all(|stream| answer(stream) == 5));
    assert!(start.elapsed() < DELAY * 3, "{:?}", start.elapsed());
    assert_eq!(relay.connections(), 20);
}

#[test]
fn cut_and_drop_close_connections() {
    let relay = relay();
    let mut stream = TcpStream::connect(relay.address()).expect("a connection");
    ask(&mut stream, 1);
    answer(&mut stream);
    relay.cut();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    let mut again = TcpStream::connect(relay.address()).expect("a new connection");
    ask(&mut again, 2);
    assert_eq!(answer(&mut again), 2);
    let address = relay.address();
    drop(relay);
    assert_eq!(again.read(&mut [0]).unwrap_or(0), 0);
    lab::wait::until("the port to close", Duration::from_secs(5), || TcpStream::connect(address).is_err())
        .expect("a closed port");
}
