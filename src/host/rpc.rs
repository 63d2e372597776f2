//! RPC commands: `kamcmd`, JSON-RPC and the like all end here.
//!
//! A command is `fn(&Call<'_>) -> Result<Structure, Fault>`: it reads its parameters from the call, in order, and returns
//! what to answer. Its row in `src/lib.rs` is [`method!`].

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_ulonglong, c_void};
use std::ptr;

use super::guard::guard;
use super::{sys, text};

/// One call of a command: its parameters, each of which is read once, in order.
#[derive(Debug)]
pub(crate) struct Call<'r> {
    rpc: &'r sys::rpc_t,
    context: *mut c_void,
}

/// Named values, in the order in which they are shown.
pub(crate) type Structure = Vec<(&'static CStr, Value)>;

/// A value of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A whole number.
    Number(u64),
    /// A text.
    Text(String),
    /// A list of structures.
    List(Vec<Structure>),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    code: u16,
    sentence: String,
}

impl Fault {
    /// A refusal with a code as SIP and HTTP have them (400 wrong parameters, 404 not found, 503 backend unavailable) and one
    /// sentence that says what to do.
    pub(crate) fn new(code: u16, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }
}

impl Call<'_> {
    /// The next parameter.
    ///
    /// # Errors
    /// 400 when there is none, or it is empty.
    pub(crate) fn text(&self, name: &str) -> Result<String, Fault> {
        self.optional_text().ok_or_else(|| Fault::new(400, format!("the parameter {name} is missing")))
    }

    /// The next parameter; `None` when there is none, or it is empty or, as the stock `ul.add` has it, `.`.
    pub(crate) fn optional_text(&self) -> Option<String> {
        // "*": a missing one is no fault of the call yet; ".": a number is as good as its digits.
        self.scan_text(c"*.S").filter(|value| !matches!(value.as_str(), "" | "."))
    }

    /// The next parameter as a whole number.
    ///
    /// # Errors
    /// 400 when there is none or it is not a whole number.
    pub(crate) fn number(&self, name: &str) -> Result<u32, Fault> {
        parse_number(name, &self.text(name)?)
    }

    /// The next parameter as a whole number, if there is one.
    ///
    /// # Errors
    /// 400 when it is not a whole number.
    pub(crate) fn optional_number(&self, name: &str) -> Result<Option<u32>, Fault> {
        self.optional_text().map(|written| parse_number(name, &written)).transpose()
    }

    /// The next parameter as it is written with a decimal point, if there is one: as text, or as a number rounded to
    /// thousandths.
    pub(crate) fn optional_decimal(&self) -> Option<String> {
        // A number read as text would lose its decimals.
        let written = self.scan_text(c"*S").or_else(|| self.scan_double().map(|value| format!("{value:.3}")))?;
        (!matches!(written.as_str(), "" | ".")).then_some(written)
    }

    fn scan_text(&self, format: &'static CStr) -> Option<String> {
        let mut value = sys::str_ { s: ptr::null_mut(), len: 0 };
        // SAFETY: the formats that this is called with take the address of one `str`.
        let read =
            unsafe { self.rpc.scan.map_or(0, |scan| scan(self.context, format.as_ptr().cast_mut(), &raw mut value)) };
        // SAFETY: the server just gave this text.
        (read == 1).then(|| unsafe { text::owned(&value) })
    }

    fn scan_double(&self) -> Option<f64> {
        let mut value = 0_f64;
        // SAFETY: "f" takes the address of a double.
        let read =
            unsafe { self.rpc.scan.map_or(0, |scan| scan(self.context, c"*.f".as_ptr().cast_mut(), &raw mut value)) };
        (read == 1).then_some(value)
    }

    fn answer(&self, answer: &Structure) -> Result<(), Fault> {
        let mut handle: *mut c_void = ptr::null_mut();
        // SAFETY: "{" takes the address of a handle.
        let added =
            unsafe { self.rpc.add.map_or(-1, |add| add(self.context, c"{".as_ptr().cast_mut(), &raw mut handle)) };
        check(added)?;
        self.fill(handle, answer)
    }

    fn fill(&self, structure: *mut c_void, values: &Structure) -> Result<(), Fault> {
        values.iter().try_for_each(|(name, value)| self.add(structure, name, value))
    }

    fn add(&self, structure: *mut c_void, name: &'static CStr, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Number(number) => self.add_number(structure, name, *number),
            Value::Text(value) => self.add_text(structure, name, value),
            Value::List(items) => {
                let list = self.add_list(structure, name)?;
                items.iter().try_for_each(|item| self.fill(self.add_item(list)?, item))
            }
        }
    }

    /// An int where that is enough: not every interface shows a longer number as a whole one.
    fn add_number(&self, structure: *mut c_void, name: &'static CStr, number: u64) -> Result<(), Fault> {
        let Some(add) = self.rpc.struct_add else { return check(-1) };
        check(match c_int::try_from(number) {
            // SAFETY: the structure is this call's; "d" takes a name and an int.
            Ok(short) => unsafe { add(structure, c"d".as_ptr().cast_mut(), name.as_ptr(), short) },
            // SAFETY: the structure is this call's; "J" takes a name and an unsigned long long.
            Err(_) => unsafe { add(structure, c"J".as_ptr().cast_mut(), name.as_ptr(), number as c_ulonglong) },
        })
    }

    fn add_text(&self, structure: *mut c_void, name: &'static CStr, value: &str) -> Result<(), Fault> {
        let Some(add) = self.rpc.struct_add else { return check(-1) };
        let mut value = text::lent(value);
        // SAFETY: the structure is this call's; "S" takes a name and the address of a `str`, which it copies.
        check(unsafe { add(structure, c"S".as_ptr().cast_mut(), name.as_ptr(), &raw mut value) })
    }

    fn add_list(&self, structure: *mut c_void, name: &'static CStr) -> Result<*mut c_void, Fault> {
        let Some(add) = self.rpc.struct_add else { return Err(no_memory()) };
        let mut handle: *mut c_void = ptr::null_mut();
        // SAFETY: the structure is this call's; "[" takes a name and the address of a handle.
        check(unsafe { add(structure, c"[".as_ptr().cast_mut(), name.as_ptr(), &raw mut handle) })?;
        Ok(handle)
    }

    fn add_item(&self, list: *mut c_void) -> Result<*mut c_void, Fault> {
        let Some(add) = self.rpc.array_add else { return Err(no_memory()) };
        let mut handle: *mut c_void = ptr::null_mut();
        // SAFETY: the list is this call's; "{" takes the address of a handle.
        check(unsafe { add(list, c"{".as_ptr().cast_mut(), &raw mut handle) })?;
        Ok(handle)
    }

    fn refuse(&self, fault: &Fault) {
        let sentence = CString::new(fault.sentence.as_str()).unwrap_or_default();
        if let Some(refuse) = self.rpc.fault {
            // SAFETY: "%s" takes terminated text, which is copied.
            unsafe { refuse(self.context, fault.code.into(), c"%s".as_ptr().cast_mut(), sentence.as_ptr()) };
        }
    }
}

fn parse_number(name: &str, written: &str) -> Result<u32, Fault> {
    written
        .parse()
        .map_err(|_| Fault::new(400, format!("the parameter {name} is '{written}' but must be a whole number from 0")))
}

fn check(added: c_int) -> Result<(), Fault> {
    if added < 0 { Err(no_memory()) } else { Ok(()) }
}

fn no_memory() -> Fault {
    Fault::new(500, "there is no memory for the answer: start Kamailio with a larger -M")
}

/// Runs a command and answers its call.
///
/// # Safety
/// Called by the server with its RPC interface and context.
pub(crate) unsafe fn run(
    rpc: *mut sys::rpc_t,
    context: *mut c_void,
    command: fn(&Call<'_>) -> Result<Structure, Fault>,
) {
    // SAFETY: the server's interface is valid for the call.
    let Some(rpc) = (unsafe { rpc.as_ref() }) else { return };
    let call = Call { rpc, context };
    let finished = guard(|| {
        if let Err(fault) = command(&call).and_then(|answer| call.answer(&answer)) {
            call.refuse(&fault);
        }
        0
    });
    if finished != 0 {
        call.refuse(&Fault::new(500, "the command failed inside the module: see the server's log"));
    }
}

/// One row of the table of RPC commands: name, what `help` shows, the command.
macro_rules! method {
    ($name:literal, $help:literal, $command:path) => {{
        static HELP: $crate::host::command::Table<[*const std::os::raw::c_char; 2]> =
            $crate::host::command::Table([concat!($help, "\0").as_ptr().cast(), std::ptr::null()]);
        unsafe extern "C" fn entry(rpc: *mut $crate::host::sys::rpc_t, context: *mut std::os::raw::c_void) {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::rpc::run(rpc, context, $command) }
        }
        $crate::host::rpc::row(concat!($name, "\0"), entry, &HELP.0)
    }};
}
pub(crate) use method;

/// A row of the table; `name` is terminated.
pub(crate) const fn row(
    name: &'static str,
    entry: unsafe extern "C" fn(*mut sys::rpc_t, *mut c_void),
    help: &'static [*const c_char; 2],
) -> sys::rpc_export_t {
    sys::rpc_export_t { name: name.as_ptr().cast(), function: Some(entry), doc_str: help.as_ptr().cast_mut(), flags: 0 }
}

/// The row that ends a table.
pub(crate) const END: sys::rpc_export_t =
    sys::rpc_export_t { name: ptr::null(), function: None, doc_str: ptr::null_mut(), flags: 0 };
