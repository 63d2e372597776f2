//! Processes: who we are, the module's own children, and how they end.

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::raw::c_int;

use super::sys;

/// Why `child_init` is called (Kamailio's "rank").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// In the main process, before any fork.
    Init,
    /// In the main process, when modules fork their own children.
    Main,
    /// In any other process, or at another point.
    Other,
}

impl Rank {
    /// From the number.
    pub(crate) fn from_raw(rank: c_int) -> Self {
        match rank {
            sys::PROC_INIT => Self::Init,
            main if main == sys::PROC_MAIN as c_int => Self::Main,
            _ => Self::Other,
        }
    }
}

/// What `fork` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// We are the parent.
    Parent,
    /// We are the child.
    Child,
}

/// Announces that `count` processes will be forked. In `mod_init`.
pub(crate) fn announce(count: c_int) {
    // SAFETY: adds to two counters; main process.
    unsafe {
        sys::register_procs(count);
        sys::cfg_register_child(count);
    }
}

/// How many processes there will be, the announced ones among them. After `mod_init`.
pub(crate) fn count() -> usize {
    // SAFETY: reads a counter.
    usize::try_from(unsafe { sys::get_max_procs() }).unwrap_or(1)
}

/// This process's index in the server.
pub(crate) fn index() -> usize {
    // SAFETY: a number set once, at the fork.
    usize::try_from(unsafe { sys::process_no }).unwrap_or(0)
}

/// Forks a child that `core.ps` shows as `name`. Only for [`Rank::Main`].
///
/// # Errors
/// When the system has no room for a process.
pub(crate) fn fork(name: &'static CStr) -> io::Result<Forked> {
    // SAFETY: main process, at the point meant for it; the name lives for ever.
    match unsafe { sys::fork_process(sys::PROC_RPC, name.as_ptr().cast_mut(), 1) } {
        0 => {
            // SAFETY: first thing in a forked child, as the configuration framework wants it.
            if unsafe { sys::cfg_child_init() } != 0 {
                return Err(io::Error::other("the configuration framework has no memory left"));
            }
            die_with_parent();
            Ok(Forked::Child)
        }
        pid if pid > 0 => Ok(Forked::Parent),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel send us SIGTERM when the main process ends, by whatever means.
fn die_with_parent() {
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
}

/// Whether the main process is gone.
pub(crate) fn orphaned(parent: i32) -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getppid() != parent }
}

/// Ends every other process of this server, whose main process is gone: it would have.
pub(crate) fn end_siblings() {
    // SAFETY: reads the process table in shared memory.
    unsafe { sys::shim_signal_siblings(libc::SIGTERM) };
}

/// Makes SIGTERM and SIGINT readable on a descriptor instead of ending the process, and blocks all signals for threads
/// started from now on. In a child of ours, before it starts threads.
///
/// # Errors
/// When the system has no descriptors left.
pub(crate) fn stop_signals() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on a local signal set; the new descriptor is ours alone.
    unsafe {
        let mut signals = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::sigaddset(&mut signals, libc::SIGINT);
        if libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Runs `start` with all signals blocked, so that the threads it starts never run the server's handlers.
pub(crate) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: plain system calls on local signal sets.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// Takes over changed runtime configuration (debug level and the like).
pub(crate) fn update_configuration() {
    // SAFETY: main thread of a process that ran cfg_child_init.
    unsafe { sys::shim_cfg_update() };
}

/// Ends this process at once, as Kamailio's own children end: nothing of the main process's is run twice.
pub(crate) fn exit_now() -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(0) }
}

/// Whether this is the process's first thread, the only one that may use Kamailio's API.
pub(crate) fn on_main_thread() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() == libc::getpid() }
}

/// This process's id.
pub(crate) fn id() -> u32 {
    std::process::id()
}
