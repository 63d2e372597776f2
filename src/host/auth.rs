//! The stock `auth` module: it makes and checks nonces; the digest itself is ours.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

use domain::digest::{Algorithm, Algorithms, Choice, Credentials, Qop, choose};
use once_cell::sync::OnceCell;

use super::message::Message;
use super::{sys, text};

static API: OnceCell<Api> = OnceCell::new();

struct Api(sys::auth_api_s);

// SAFETY: a table of function pointers, filled once before the fork and then only read.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// Which header carries the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Scheme {
    /// `Authorization`: a registrar or other end server (401).
    Www,
    /// `Proxy-Authorization`: a proxy (407).
    Proxy,
}

impl Scheme {
    fn header(self) -> sys::hdr_types_t {
        match self {
            Self::Www => sys::HDR_AUTHORIZATION_T,
            Self::Proxy => sys::HDR_PROXYAUTH_T,
        }
    }

    /// Status and reason of the answer that asks for such credentials.
    pub(crate) fn challenge(self) -> (u16, &'static str) {
        match self {
            Self::Www => (401, "Unauthorized"),
            Self::Proxy => (407, "Proxy Authentication Required"),
        }
    }
}

/// Where in a message credentials are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Place {
    /// In headers of this kind.
    pub(crate) scheme: Scheme,
    /// In the header of this index among them.
    index: usize,
}

/// What the request's credentials are worth before the digest is checked.
#[derive(Debug)]
pub(crate) enum Presented {
    /// ACK, CANCEL and PRACK are not authenticated.
    NotNeeded,
    /// Credentials for the realm.
    Credentials {
        /// They.
        credentials: Credentials,
        /// Where they are.
        place: Place,
        /// Whether their nonce is too old, or none of this server's.
        stale: bool,
    },
    /// No usable credentials: one of `auth`'s return codes.
    Refused(i32),
}

/// `auth`'s return codes (`auth_cfg_result_t`).
pub(crate) mod code {
    pub(crate) const OK: i32 = 1;
    pub(crate) const ERROR: i32 = -1;
    pub(crate) const INVALID_PASSWORD: i32 = -2;
    pub(crate) const USER_UNKNOWN: i32 = -3;
    pub(crate) const STALE_NONCE: i32 = -4;
    pub(crate) const NO_CREDENTIALS: i32 = -5;
    pub(crate) const NONCE_REUSED: i32 = -6;
    pub(crate) const USER_MISMATCH: i32 = -8;
}

/// Binds the `auth` module's functions. In `mod_init`.
///
/// # Errors
/// A sentence, when `auth` is not loaded.
pub(crate) fn bind() -> Result<(), String> {
    // SAFETY: the name is terminated.
    let Some(bind) = (unsafe { sys::find_export(c"bind_auth_s".as_ptr().cast_mut(), 0, 0) }) else {
        return Err("the auth module is not loaded: put loadmodule \"auth.so\" before this module".to_owned());
    };
    // SAFETY: the export of this name has this signature (auth/api.h).
    let bind: unsafe extern "C" fn(*mut sys::auth_api_s) -> i32 = unsafe { std::mem::transmute(bind) };
    let mut api = MaybeUninit::<sys::auth_api_s>::zeroed();
    // SAFETY: the structure is as large as this version's header says.
    if unsafe { bind(api.as_mut_ptr()) } < 0 {
        return Err("the auth module refuses to be used: see its messages above".to_owned());
    }
    // SAFETY: auth has filled it.
    let _ = API.set(Api(unsafe { api.assume_init() }));
    Ok(())
}

/// The realm without `auth`'s `realm_prefix`: the one that challenges name.
pub(crate) fn without_prefix(realm: &str) -> &str {
    let mut stripped = text::lent(realm);
    // SAFETY: moves the start of the text within the text; main thread.
    unsafe { sys::shim_strip_realm(&mut stripped) };
    let length = usize::try_from(stripped.len).unwrap_or(realm.len());
    realm.get(realm.len().saturating_sub(length)..).unwrap_or(realm)
}

/// The address that the message came from, without its port.
pub(crate) fn source(message: &Message<'_>) -> String {
    // SAFETY: the message is valid; the result is a terminated text in a buffer of Kamailio's; main thread.
    unsafe { CStr::from_ptr(sys::ip_addr2a(&raw mut (*message.raw()).rcv.src_ip)) }.to_string_lossy().into_owned()
}

/// Finds the credentials for `realm` by an algorithm that is offered, and has `auth` check their nonce.
pub(crate) fn present(message: &mut Message<'_>, realm: &str, scheme: Scheme, offered: &Algorithms) -> Presented {
    if matches!(message.method().as_str(), "ACK" | "CANCEL" | "PRACK") {
        return Presented::NotNeeded;
    }
    if message.parse().is_err() {
        return Presented::Refused(code::ERROR);
    }
    let headers = headers(message, scheme);
    // SAFETY: a header's body is valid as long as the message.
    let bodies = headers.iter().map(|header| unsafe { text::bytes(&(**header).body) });
    match choose(bodies, realm, offered) {
        Choice::Nothing => Presented::Refused(code::NO_CREDENTIALS),
        Choice::Malformed => Presented::Refused(code::ERROR),
        Choice::Credentials(index, credentials) => match check_nonce(message, scheme, headers[index], &credentials) {
            Ok(stale) => Presented::Credentials { credentials: *credentials, place: Place { scheme, index }, stale },
            Err(refused) => Presented::Refused(refused),
        },
    }
}

/// The headers of this kind, in order. The message has been parsed.
fn headers(message: &Message<'_>, scheme: Scheme) -> Vec<*mut sys::hdr_field> {
    let mut found = Vec::new();
    // SAFETY: the message is valid.
    let mut next = unsafe { (*message.raw()).headers };
    // SAFETY: a list of valid headers that ends with null.
    while let Some(header) = unsafe { next.as_ref() } {
        if header.type_ == scheme.header() {
            found.push(next);
        }
        next = header.next;
    }
    found
}

/// Whether the nonce is too old or none of ours (`pre_auth`). Reused: one of `auth`'s codes.
fn check_nonce(
    message: &mut Message<'_>,
    scheme: Scheme,
    header: *mut sys::hdr_field,
    credentials: &Credentials,
) -> Result<bool, i32> {
    let pre_auth = API.get().and_then(|api| api.0.pre_auth).ok_or(code::ERROR)?;
    let seen = Seen::parse(header).ok_or(code::ERROR)?;
    // What auth checks and what we compare must be the same.
    if seen.nonce != credentials.nonce || seen.nc != credentials.nc {
        return Err(code::ERROR);
    }
    let mut realm = seen.realm;
    let mut found = ptr::null_mut();
    // SAFETY: the message is valid; the pointer is its list of headers of this kind, put back after the call.
    let result = unsafe {
        let first = match scheme {
            Scheme::Www => &raw mut (*message.raw()).authorization,
            Scheme::Proxy => &raw mut (*message.raw()).proxy_auth,
        };
        // auth takes the first header of the realm: so that it takes this one, it begins here.
        let all = ptr::replace(first, header);
        let result = pre_auth(message.raw(), &mut realm, scheme.header(), &mut found, None);
        *first = all;
        sys::mark_authorized_cred(message.raw(), header);
        result
    };
    match result {
        _ if found != header => Err(code::ERROR),
        sys::DO_AUTHENTICATION => Ok(false),
        sys::STALE_NONCE | sys::NOT_AUTHENTICATED => Ok(true),
        sys::NONCE_REUSED => Err(code::NONCE_REUSED),
        _ => Err(code::ERROR),
    }
}

/// Credentials as Kamailio reads them.
struct Seen {
    realm: sys::str_,
    nonce: String,
    nc: String,
}

impl Seen {
    fn parse(header: *mut sys::hdr_field) -> Option<Self> {
        // SAFETY: parses this header of a valid message, unless it has been; main thread.
        if unsafe { sys::parse_credentials(header) } != 0 {
            return None;
        }
        // SAFETY: parsed just now; its texts are parts of the header.
        unsafe {
            let digest = &(*header).parsed.cast::<sys::auth_body_t>().as_ref()?.digest;
            Some(Self { realm: digest.realm, nonce: text::owned(&digest.nonce), nc: text::owned(&digest.nc) })
        }
    }
}

/// Marks the credentials as the ones the request is authorised by, for `$au` and `consume_credentials()`. A resumed message may
/// be a copy made before [`present`] marked them.
pub(crate) fn mark_authorized(message: &mut Message<'_>, place: Place) {
    if message.parse().is_err() {
        return;
    }
    if let Some(header) = headers(message, place.scheme).get(place.index) {
        // SAFETY: a header of this message; main thread.
        unsafe {
            if sys::parse_credentials(*header) == 0 {
                sys::mark_authorized_cred(message.raw(), *header);
            }
        }
    }
}

/// A WWW- or Proxy-Authenticate line with a nonce of `auth`'s; `None` when it cannot be made.
pub(crate) fn challenge(
    message: &mut Message<'_>,
    scheme: Scheme,
    realm: &str,
    algorithm: Algorithm,
    qop: Option<Qop>,
    stale: bool,
) -> Option<String> {
    let (mut realm, mut name) = (text::lent(realm), text::lent(algorithm.name()));
    let qop = match qop {
        None => 0,
        Some(Qop::Auth) => 1,
        Some(Qop::AuthInt) => 2,
    };
    let mut line = sys::str_ { s: ptr::null_mut(), len: 0 };
    let header = scheme.header();
    // SAFETY: the texts live through the call; the line is ours then, until it is given back; main thread.
    unsafe {
        if sys::shim_challenge(message.raw(), stale.into(), &mut realm, &mut name, qop, header, &mut line) < 0 {
            return None;
        }
        let copy = text::owned(&line);
        sys::shim_private_free(line.s.cast());
        Some(copy)
    }
}
