//! Transactions: suspending one while its answer is fetched, and continuing it (tm's `t_suspend` and `t_continue`).

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

use once_cell::sync::OnceCell;

use super::message::Message;
use super::sys;

static API: OnceCell<Api> = OnceCell::new();

struct Api(sys::tm_binds);

// SAFETY: a table of function pointers, filled once before the fork and then only read.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// Whether a transaction was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspended {
    /// It was: this names it.
    Yes(Transaction),
    /// The message is a retransmission of a request whose transaction exists: the script ends here.
    Retransmission,
    /// The transaction has been cancelled.
    Cancelled,
    /// The transaction has been answered.
    Answered,
    /// Kamailio could not: no shared memory, no branch left. It has logged why.
    Failed,
}

/// A transaction, as another process finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// tm's hash index.
    pub(crate) hash_index: u32,
    /// tm's label.
    pub(crate) label: u32,
}

/// What `t_suspend` returns for a transaction that has been cancelled.
const CANCELLED: i32 = 1;
/// For one that has been answered.
const ANSWERED: i32 = -3;

/// Binds tm's functions. In `mod_init`.
///
/// # Errors
/// A sentence, when tm is not loaded.
pub(crate) fn bind() -> Result<(), String> {
    let mut api = MaybeUninit::<sys::tm_binds>::zeroed();
    // SAFETY: NO_SCRIPT exports have -1 parameters; the name is terminated.
    let load = unsafe { sys::find_export(c"load_tm".as_ptr().cast_mut(), -1, 0) };
    let Some(load) = load else {
        return Err("the tm module is not loaded: put loadmodule \"tm.so\" before this module".to_owned());
    };
    // SAFETY: the export of this name has this signature (tm_load.h).
    let load: unsafe extern "C" fn(*mut sys::tm_binds) -> i32 = unsafe { std::mem::transmute(load) };
    // SAFETY: the structure is as large as this version's header says.
    if unsafe { load(api.as_mut_ptr()) } < 0 {
        return Err("the tm module refuses to be used: see its messages above".to_owned());
    }
    // SAFETY: tm has filled it, and all-zero is valid where it has not.
    let _ = API.set(Api(unsafe { api.assume_init() }));
    Ok(())
}

/// Lends tm's functions to another file of `host`; `None` when they are not bound.
pub(super) fn with_api<T>(use_api: impl FnOnce(&sys::tm_binds) -> T) -> Option<T> {
    API.get().map(|api| use_api(&api.0))
}

/// tm's fr_timer in milliseconds: after it a suspended transaction is given up. `None` without tm.
pub(crate) fn fr_timer_ms() -> Option<u64> {
    // SAFETY: reads tm's defaults; after mod_init, on the main thread.
    u64::try_from(unsafe { sys::shim_tm_fr_timer_ms() }).ok()
}

/// The index of a route of the configuration.
pub(crate) fn find_route(name: &str) -> Option<i32> {
    let name = CString::new(name).ok()?;
    // SAFETY: looks the terminated name up in the server's route table; main thread.
    let index = unsafe { sys::route_lookup(&raw mut sys::main_rt, name.as_ptr().cast_mut()) };
    (index >= 0).then_some(index)
}

/// Suspends the message's transaction, making one when there is none yet.
pub(crate) fn suspend(message: &mut Message<'_>) -> Suspended {
    let Some(api) = API.get() else { return Suspended::Failed };
    if !has_transaction(api) {
        // SAFETY: the message is the interpreter's current one; main thread.
        match unsafe { api.0.t_newtran.map_or(-1, |newtran| newtran(message.raw())) } {
            0 => return Suspended::Retransmission,
            error if error < 0 => return Suspended::Failed,
            _ => {}
        }
    }
    let (mut hash_index, mut label) = (0, 0);
    // SAFETY: as above; the two results are ours.
    let result = unsafe { api.0.t_suspend.map_or(-1, |suspend| suspend(message.raw(), &mut hash_index, &mut label)) };
    match result {
        0 => Suspended::Yes(Transaction { hash_index, label }),
        CANCELLED => Suspended::Cancelled,
        ANSWERED => Suspended::Answered,
        _ => Suspended::Failed,
    }
}

fn has_transaction(api: &Api) -> bool {
    // SAFETY: returns the process's current transaction, only compared here; main thread.
    let current = unsafe { api.0.t_gett.map_or(std::ptr::null_mut(), |gett| gett()) };
    // T_UNDEFINED is the pointer -1.
    !current.is_null() && current.addr() != usize::MAX
}

/// Takes a suspension back, in the process and the script call that made it.
pub(crate) fn cancel_suspend(transaction: Transaction) {
    if let Some(cancel) = API.get().and_then(|api| api.0.t_cancel_suspend) {
        // SAFETY: names the transaction that this call suspended; main thread.
        unsafe { cancel(transaction.hash_index, transaction.label) };
    }
}

/// Continues a suspended transaction: the script function `first` runs on its message, then the route, if there is one.
/// Returns whether it was still there.
pub(crate) fn resume(transaction: Transaction, first: &'static CStr, route: Option<i32>) -> bool {
    let Some(api) = API.get() else { return false };
    let route = route.unwrap_or(sys::SHIM_NO_ROUTE);
    // SAFETY: the API is bound; the name is terminated; main thread of a resume worker.
    let result = unsafe {
        sys::shim_resume(&api.0, transaction.hash_index, transaction.label, first.as_ptr().cast_mut(), route)
    };
    result == 0
}
