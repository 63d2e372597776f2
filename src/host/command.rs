//! Script functions: the entries that Kamailio calls, their arguments and their start-time checks.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;

use super::guard::guard;
use super::message::Message;
use super::{sys, text};

/// What a function tells the script: positive is true, negative false, 0 stops the script.
pub(crate) type ScriptCode = c_int;

/// Where a function may be called. A resumed route is written as a request route and runs as a failure route.
pub(crate) const REQUEST_AND_RESUMED: u32 = sys::REQUEST_ROUTE | sys::FAILURE_ROUTE;

/// What a parameter of a script function is, to the script languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// Where an async function resumes: a route of the configuration, a function of a KEMI script.
    Route,
    /// Names and values, `name=$pv;...`: the function evaluates the values, so that none of them can be taken for more.
    Attributes,
}

/// Which kind of script made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The configuration's own language.
    Script,
    /// A KEMI language.
    Kemi,
}

/// Where an async function is to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResumeIn<'a> {
    /// In the route of this name.
    Route(&'a str),
    /// In the KEMI script's function of this name.
    Callback(&'a str),
}

/// The evaluated arguments of one call.
#[derive(Debug)]
pub(crate) struct Args {
    values: Vec<String>,
    caller: Caller,
}

impl Args {
    /// The arguments of a call, in order.
    pub(super) fn new(values: Vec<String>, caller: Caller) -> Self {
        Self { values, caller }
    }

    /// The argument at `index`; `""` when the call has fewer.
    pub(crate) fn text(&self, index: usize) -> &str {
        argument(&self.values, index)
    }

    /// All arguments.
    pub(crate) fn all(&self) -> &[String] {
        &self.values
    }

    /// All arguments of an async function but the last.
    pub(crate) fn before_route(&self) -> &[String] {
        self.values.split_last().map_or(&[], |(_, others)| others)
    }

    /// The last argument, which names where an async function resumes.
    pub(crate) fn last(&self) -> ResumeIn<'_> {
        let name = self.values.last().map_or("", String::as_str);
        match self.caller {
            Caller::Script => ResumeIn::Route(name),
            Caller::Kemi => ResumeIn::Callback(name),
        }
    }
}

/// The argument at `index`; `""` when there are fewer.
pub(crate) fn argument(given: &[String], index: usize) -> &str {
    given.get(index).map_or("", String::as_str)
}

/// Runs a script function: evaluates its arguments and keeps panics in.
///
/// # Safety
/// Called by the script interpreter with its message and with parameters that `fixup_spve_all` prepared.
pub(crate) unsafe fn run(
    name: &'static str,
    message: *mut sys::sip_msg,
    parameters: &[Parameter],
    arguments: &[*mut c_char],
    function: fn(&mut Message<'_>, &Args) -> ScriptCode,
) -> c_int {
    guard(|| {
        // SAFETY: the interpreter's message is valid for the call.
        let Some(mut message) = (unsafe { Message::from_raw(message) }) else { return -1 };
        let mut values = Vec::with_capacity(arguments.len());
        for (kind, argument) in parameters.iter().zip(arguments) {
            if *kind == Parameter::Attributes {
                // SAFETY: left as it was written, terminated text.
                values.push(unsafe { CStr::from_ptr(*argument) }.to_string_lossy().into_owned());
                continue;
            }
            let mut value = sys::str_ { s: ptr::null_mut(), len: 0 };
            // SAFETY: the parameter was prepared by fixup_spve_all; the result stays valid until the next evaluation.
            if unsafe { sys::get_str_fparam(&mut value, message.raw(), argument.cast()) } != 0 {
                super::log::log_error!(name, "a parameter has no value");
                return -1;
            }
            // SAFETY: Kamailio just gave this text.
            values.push(unsafe { text::owned(&value) });
        }
        function(&mut message, &Args::new(values, Caller::Script))
    })
}

/// Prepares one parameter at the start. A route must, unless it is computed, be one of the configuration.
///
/// # Safety
/// Called by the server with the address of a parameter of its own, or for a function without parameters with `number` 0.
pub(crate) unsafe fn fixup(
    name: &'static str,
    parameters: &[Parameter],
    parameter: *mut *mut c_void,
    number: c_int,
) -> c_int {
    guard(|| {
        let Some(kind) = usize::try_from(number - 1).ok().and_then(|index| parameters.get(index)) else { return 0 };
        // SAFETY: before its fixup a parameter is terminated text.
        let written = || unsafe { CStr::from_ptr((*parameter).cast()) }.to_string_lossy().into_owned();
        if *kind == Parameter::Attributes {
            return match super::pv::Attribute::parse_all(&written()) {
                Ok(_) => 0,
                Err(sentence) => {
                    super::log::log_error!(name, "'{}' is not understood: {sentence}", written());
                    -1
                }
            };
        }
        if *kind == Parameter::Route {
            let written = written();
            if !written.contains('$') && super::tm::find_route(&written).is_none() {
                super::log::log_error!(
                    name,
                    "there is no route[{written}]: its last parameter names the route to resume in"
                );
                return -1;
            }
        }
        // SAFETY: the server's own parameter, as its fixup expects it.
        unsafe { sys::fixup_spve_all(parameter, number) }
    })
}

/// The script functions: from one row each come the entry for the configuration's own language (in the first table named) and
/// the twin for the KEMI languages (in the second).
///
/// ```text
/// functions! { COMMANDS, TWINS:
///     "cassandra_save"(domain: text, flags: number) = location::save, kemi "save";
///     "cassandra_save"(domain: text) = location::save;
///     "cassandra_registered"(domain: text) in ANY_ROUTE = location::registered, kemi "registered";
///     "cassandra_save_async"(domain: text, flags: number, route: route) = location::save_async, kemi "save_async";
/// }
/// ```
///
/// * A parameter is `text`, `number`, `attributes` (`name=$pv;...`, which the function evaluates) or `route` (the last of an
///   async function: a route; in KEMI a callback). The function,
///   `fn(&mut Message<'_>, &Args) -> ScriptCode`, reads all of them from its [`Args`] by index. Five at most, or six of text:
///   no KEMI engine calls a function with more.
/// * `in ANY_ROUTE` (or another of Kamailio's route masks) says where it may be called from; without it that is
///   [`REQUEST_AND_RESUMED`].
/// * KEMI knows no overloads, so each form has a KEMI name of its own, that of the stock module where it has one (`save`,
///   `save_uri`), without `cassandra_` and with `_async` at the end. A form that is only shorter than another (flags left out)
///   has none; every function has at least one.
macro_rules! functions {
    ($commands:ident, $twins:ident: $(
        $(#[$attribute:meta])*
        $name:literal $parameters:tt $(in $routes:ident)? = $function:path $(, kemi $twin:literal)?;
    )*) => {
        static $commands: $crate::host::command::Table<
            [$crate::host::sys::cmd_export_t; <[&str]>::len(&[$($(#[$attribute])* $name,)*]) + 1],
        > = $crate::host::command::Table([
            $($(#[$attribute])* $crate::host::command::command!($name $parameters $(in $routes)? = $function),)*
            $crate::host::command::END,
        ]);
        static $twins: $crate::host::command::Table<
            [$crate::host::sys::sr_kemi_t; <[&str]>::len(&[$($($twin,)?)*]) + 1],
        > = $crate::host::command::Table([
            $($($crate::host::kemi::twin!($twin $parameters = $function),)?)*
            $crate::host::kemi::END,
        ]);
    };
}
pub(crate) use functions;

/// One row of the table of script functions.
macro_rules! command {
    (@routes) => { $crate::host::command::REQUEST_AND_RESUMED };
    (@routes $routes:ident) => { $crate::host::sys::$routes };
    ($name:literal ($($argument:ident: $kind:ident),*) $(in $routes:ident)? = $function:path) => {{
        const PARAMETERS: &[$crate::host::command::Parameter] = &[$($crate::host::command::parameter!($kind)),*];
        unsafe extern "C" fn fixup(
            parameter: *mut *mut std::os::raw::c_void,
            number: std::os::raw::c_int,
        ) -> std::os::raw::c_int {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::command::fixup($name, PARAMETERS, parameter, number) }
        }
        unsafe extern "C" fn entry(
            message: *mut $crate::host::sys::sip_msg $(, $argument: *mut std::os::raw::c_char)*
        ) -> std::os::raw::c_int {
            // SAFETY: the interpreter's call, passed on with as many parameters as the row declares.
            unsafe { $crate::host::command::run($name, message, PARAMETERS, &[$($argument),*], $function) }
        }
        $crate::host::sys::cmd_export_t {
            name: concat!($name, "\0").as_ptr().cast_mut().cast(),
            // SAFETY: the interpreter calls with as many parameters as `param_no` says; C's calling convention is the same
            // for all of these.
            function: Some(unsafe {
                std::mem::transmute::<*const (), unsafe extern "C" fn(
                    *mut $crate::host::sys::sip_msg, *mut std::os::raw::c_char, *mut std::os::raw::c_char,
                ) -> std::os::raw::c_int>(entry as *const ())
            }),
            param_no: PARAMETERS.len() as std::os::raw::c_int,
            fixup: Some(fixup),
            free_fixup: None,
            flags: $crate::host::command::command!(@routes $($routes)?),
        }
    }};
}
pub(crate) use command;

/// A parameter's kind by its name in [`functions!`].
macro_rules! parameter {
    (text) => {
        $crate::host::command::Parameter::Text
    };
    (number) => {
        $crate::host::command::Parameter::Number
    };
    (route) => {
        $crate::host::command::Parameter::Route
    };
    (attributes) => {
        $crate::host::command::Parameter::Attributes
    };
}
pub(crate) use parameter;

/// The row that ends a table.
pub(crate) const END: sys::cmd_export_t =
    sys::cmd_export_t { name: ptr::null_mut(), function: None, param_no: 0, fixup: None, free_fixup: None, flags: 0 };

/// Lets a table of raw pointers be a `static`.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Table<T>(pub(crate) T);

// SAFETY: Kamailio reads the tables in the main process before it forks, and nobody writes them.
unsafe impl<T> Sync for Table<T> {}
