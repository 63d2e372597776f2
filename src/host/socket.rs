//! The server's own addresses.

use std::ffi::CString;
use std::ptr;

use super::{sys, text};

/// The local socket that a text as `udp:192.0.2.1:5060` names; null when it is none of this server's.
pub(super) fn find(written: &str) -> *mut sys::socket_info {
    let Ok(terminated) = CString::new(written) else { return ptr::null_mut() };
    let mut host = sys::str_ { s: ptr::null_mut(), len: 0 };
    let (mut port, mut protocol) = (0, 0);
    // SAFETY: reads the terminated text; the host points into it; main thread.
    unsafe {
        let parsed =
            sys::parse_phostport(terminated.as_ptr().cast_mut(), &mut host.s, &mut host.len, &mut port, &mut protocol);
        let (Ok(port), Ok(protocol)) = (u16::try_from(port), u16::try_from(protocol)) else { return ptr::null_mut() };
        if parsed != 0 { ptr::null_mut() } else { sys::grep_sock_info(&mut host, port, protocol) }
    }
}

/// Whether this server has the local socket that a text as `udp:192.0.2.1:5060` names.
pub(crate) fn is_local(written: &str) -> bool {
    !find(written).is_null()
}

/// Whether a host name or address is this server's (core `alias` and `listen`).
pub(crate) fn is_own_host(host: &str) -> bool {
    // SAFETY: compares the text with the server's own; main thread.
    unsafe { sys::check_self(&mut text::lent(host), 0, 0) == 1 }
}

/// The SIP URI at which other servers reach this one: its first UDP socket, or its first TCP socket, as advertised. `None` when
/// it has neither. Once the server has resolved its addresses.
pub(crate) fn own_uri() -> Option<String> {
    // SAFETY: the lists of sockets are built before any module starts, and then only read.
    let (udp, tcp) = unsafe { (sys::udp_listen.as_ref(), sys::tcp_listen.as_ref()) };
    udp.map(|socket| (socket, "")).or(tcp.map(|socket| (socket, ";transport=tcp"))).map(|(socket, transport)| {
        let advertised = &socket.useinfo;
        // SAFETY: a socket's texts are valid.
        let (name, own) = unsafe { (text::owned(&advertised.name), text::owned(&socket.address_str)) };
        let host = if name.is_empty() { bracketed(&own) } else { name };
        let port = if advertised.port_no > 0 { advertised.port_no } else { socket.port_no };
        format!("sip:{host}:{port}{transport}")
    })
}

/// A number from 0 to `max`, for spreading things.
pub(crate) fn random_up_to(max: u32) -> u32 {
    // SAFETY: Kamailio's own generator, seeded for each process; main thread.
    unsafe { sys::fastrand_max(max) }
}

/// An IPv6 address as it stands in a URI.
pub(super) fn bracketed(address: &str) -> String {
    if address.contains(':') && !address.starts_with('[') { format!("[{address}]") } else { address.to_owned() }
}
