//! The stock `auth` module: it makes and checks nonces; the digest itself is ours.

use std::mem::MaybeUninit;

use domain::digest::{Algorithm, Credentials, Qop};
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
}

/// What the request's credentials are worth before the digest is checked.
#[derive(Debug)]
pub(crate) enum Presented {
    /// ACK, CANCEL and PRACK are not authenticated.
    NotNeeded,
    /// Credentials for the realm with a nonce of ours.
    Credentials(Credentials),
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

/// Finds the credentials for `realm` and checks their nonce (`pre_auth`).
pub(crate) fn present(message: &mut Message<'_>, realm: &str, scheme: Scheme) -> Presented {
    let Some(pre_auth) = API.get().and_then(|api| api.0.pre_auth) else { return Presented::Refused(code::ERROR) };
    let mut realm = text::lent(realm);
    let mut header: *mut sys::hdr_field = std::ptr::null_mut();
    // SAFETY: the realm lives through the call, which keeps no pointer to it; main thread.
    let result = unsafe { pre_auth(message.raw(), &mut realm, scheme.header(), &mut header, None) };
    match result {
        sys::AUTHENTICATED => Presented::NotNeeded,
        sys::DO_AUTHENTICATION => {
            // SAFETY: a header that auth has just parsed.
            let body = unsafe { header.as_ref().and_then(|header| header.parsed.cast::<sys::auth_body_t>().as_ref()) };
            // SAFETY: a parsed body's texts are valid.
            match body.and_then(|body| unsafe { copy_credentials(&body.digest) }) {
                Some(credentials) => Presented::Credentials(credentials),
                None => Presented::Refused(code::ERROR),
            }
        }
        sys::NONCE_REUSED => Presented::Refused(code::NONCE_REUSED),
        sys::STALE_NONCE => Presented::Refused(code::STALE_NONCE),
        sys::NO_CREDENTIALS => Presented::Refused(code::NO_CREDENTIALS),
        _ => Presented::Refused(code::ERROR),
    }
}

/// Marks the credentials for `realm` as the ones the request is authorised by, for `$au` and `consume_credentials()`. A
/// resumed message may be a copy made before [`present`] marked them.
pub(crate) fn mark_authorized(message: &mut Message<'_>, realm: &str, scheme: Scheme) {
    let mut realm = text::lent(realm);
    let mut header: *mut sys::hdr_field = std::ptr::null_mut();
    // SAFETY: the realm lives through the call, which keeps no pointer to it; main thread.
    unsafe {
        if sys::find_credentials(message.raw(), &mut realm, scheme.header(), &mut header) == 0 && !header.is_null() {
            sys::mark_authorized_cred(message.raw(), header);
        }
    }
}

/// # Safety
/// `digest` is one that Kamailio parsed.
unsafe fn copy_credentials(digest: &sys::dig_cred_t) -> Option<Credentials> {
    // SAFETY: the caller's promise.
    let copy = |field: &sys::str_| unsafe { text::owned(field) };
    let qop = match copy(&digest.qop.qop_str) {
        none if none.is_empty() => None,
        written => Some(Qop::parse(&written)?),
    };
    Some(Credentials {
        username: copy(&digest.username.whole),
        realm: copy(&digest.realm),
        nonce: copy(&digest.nonce),
        uri: copy(&digest.uri),
        response: copy(&digest.response),
        algorithm: Algorithm::parse(&copy(&digest.alg.alg_str))?,
        qop,
        nc: copy(&digest.nc),
        cnonce: copy(&digest.cnonce),
    })
}
