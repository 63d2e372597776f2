//! Pseudo-variables: the classes that this module adds, `$cassandra(...)` and the like, and all others by their names.
//!
//! A class has two functions: one turns the name between the parentheses into a number, while the configuration is read; the
//! other reads the variable of that number for a message, with its index (`$class(name)[index]`, 0 without).

use std::os::raw::{c_char, c_int};
use std::ptr;

use super::guard::guard;
use super::message::Message;
use super::{number, sys, text};

/// What a variable is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `$null`
    Null,
    /// A number.
    Number(i32),
    /// A text that lives for ever.
    Text(&'static str),
    /// A text; what does not fit Kamailio's buffer of a variable is cut off.
    Owned(String),
}

/// The table row of a class: its name, how names are parsed, how variables are read.
macro_rules! class {
    ($name:literal, $parse:path, $read:path) => {{
        unsafe extern "C" fn parse(
            spec: *mut $crate::host::sys::pv_spec_t,
            name: *mut $crate::host::sys::str_,
        ) -> std::os::raw::c_int {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::pv::parse($name, $parse, spec, name) }
        }
        unsafe extern "C" fn read(
            message: *mut $crate::host::sys::sip_msg,
            param: *mut $crate::host::sys::pv_param_t,
            value: *mut $crate::host::sys::pv_value_t,
        ) -> std::os::raw::c_int {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::pv::get($read, message, param, value) }
        }
        $crate::host::pv::row($name, parse, read)
    }};
}
pub(crate) use class;

/// A row of the table of classes.
pub(crate) const fn row(
    name: &'static str,
    parse: unsafe extern "C" fn(*mut sys::pv_spec_t, *mut sys::str_) -> c_int,
    get: unsafe extern "C" fn(*mut sys::sip_msg, *mut sys::pv_param_t, *mut sys::pv_value_t) -> c_int,
) -> sys::pv_export_t {
    sys::pv_export_t {
        name: sys::str_ { s: name.as_ptr().cast_mut().cast(), len: name.len() as c_int },
        type_: sys::PVT_OTHER,
        getf: Some(get),
        setf: None,
        parse_name: Some(parse),
        parse_index: Some(sys::pv_parse_index),
        init_param: None,
        iparam: 0,
    }
}

/// The row that ends a table.
pub(crate) const END: sys::pv_export_t = sys::pv_export_t {
    name: sys::str_ { s: ptr::null_mut(), len: 0 },
    type_: 0,
    getf: None,
    setf: None,
    parse_name: None,
    parse_index: None,
    init_param: None,
    iparam: 0,
};

/// Resolves a variable's name while the configuration is read.
///
/// # Safety
/// Called by the server with a specification to fill and the name inside the parentheses.
pub(crate) unsafe fn parse(
    class: &'static str,
    parse_name: fn(&str) -> Result<i32, String>,
    spec: *mut sys::pv_spec_t,
    name: *mut sys::str_,
) -> c_int {
    guard(|| {
        // SAFETY: the server's text.
        let name = unsafe { text::owned(&*name) };
        match parse_name(&name) {
            Ok(number) => {
                // SAFETY: the server's specification, ours to fill.
                unsafe {
                    (*spec).pvp.pvn.type_ = sys::PV_NAME_INTSTR as c_int;
                    (*spec).pvp.pvn.u.isname.type_ = 0;
                    (*spec).pvp.pvn.u.isname.name.n = number::raw(number);
                }
                0
            }
            Err(sentence) => {
                super::log::log_error!("cassandra", "there is no variable ${class}({name}): {sentence}");
                -1
            }
        }
    })
}

/// Reads a variable.
///
/// # Safety
/// Called by the server with the message, what [`parse`] filled, and a value to fill.
pub(crate) unsafe fn get(
    read: fn(&Message<'_>, i32, i32) -> Value,
    message: *mut sys::sip_msg,
    param: *mut sys::pv_param_t,
    value: *mut sys::pv_value_t,
) -> c_int {
    guard(|| {
        let (mut index, mut flags) = (0, 0);
        // SAFETY: filled by parse above and by the server's own pv_parse_index.
        let number = unsafe {
            if sys::pv_get_spec_index(message, param, &mut index, &mut flags) != 0 {
                return -1;
            }
            number::small((*param).pvn.u.isname.name.n)
        };
        let Some(number) = number else { return -1 };
        // SAFETY: the interpreter's current message.
        let Some(current) = (unsafe { Message::from_raw(message) }) else { return -1 };
        // SAFETY: the value is the server's; text that lives for ever, or in a buffer of the server's, may be pointed to.
        unsafe {
            match read(&current, number, index) {
                Value::Null => sys::pv_get_null(message, param, value),
                Value::Number(number) => sys::pv_get_sintval(message, param, value, number::raw(number)),
                Value::Text(constant) => sys::pv_get_strval(message, param, value, &mut text::lent(constant)),
                Value::Owned(owned) => sys::pv_get_strval(message, param, value, &mut buffered(&owned)),
            }
        }
    })
}

/// A variable that a parameter names, for example `$avp(x)` or `$xavp(a=>b)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named(*mut sys::pv_spec_t);

// SAFETY: points to an entry of Kamailio's cache of variables, which is never changed; used on the main thread only.
unsafe impl Send for Named {}
// SAFETY: as above.
unsafe impl Sync for Named {}

impl Named {
    /// Looks the variable up; `None` when this is not exactly one. Main thread.
    pub(crate) fn find(written: &str) -> Option<Self> {
        let mut name = text::lent(written);
        let mut length = 0;
        // SAFETY: the name lives through the call, which copies it; main thread.
        let spec = unsafe { sys::pv_spec_lookup(&mut name, &mut length) };
        (!spec.is_null() && usize::try_from(length) == Ok(written.len())).then_some(Self(spec))
    }

    /// Whether it can be set.
    pub(crate) fn is_writable(self) -> bool {
        // SAFETY: an entry of the cache.
        unsafe { (*self.0).setf.is_some() }
    }

    /// Its value as text; `None` for `$null`.
    pub(crate) fn text(self, message: &Message<'_>) -> Option<String> {
        let mut value = sys::pv_value_t::default();
        // SAFETY: the message is the interpreter's current one; the value's text is Kamailio's, copied at once; main thread.
        unsafe {
            let read = sys::pv_get_spec_value(message.raw(), self.0, &mut value) == 0;
            let is_text = value.flags & sys::PV_VAL_STR as i32 != 0 && value.flags & sys::PV_VAL_NULL as i32 == 0;
            (read && is_text).then(|| text::owned(&value.rs))
        }
    }

    /// Sets it to a text. `false` when Kamailio cannot.
    pub(crate) fn set_text(self, message: &mut Message<'_>, written: &str) -> bool {
        let rs = text::lent(written);
        self.set(message, sys::pv_value_t { rs, flags: sys::PV_VAL_STR as i32, ..Default::default() })
    }

    /// Sets it to a number. `false` when Kamailio cannot.
    pub(crate) fn set_number(self, message: &mut Message<'_>, number: i32) -> bool {
        let flags = (sys::PV_VAL_INT | sys::PV_TYPE_INT) as i32;
        self.set(message, sys::pv_value_t { ri: number::raw(number), flags, ..Default::default() })
    }

    /// Sets it to `$null`; an AVP, which is a stack of values, is left as it is. `false` when Kamailio cannot.
    pub(crate) fn set_null(self, message: &mut Message<'_>) -> bool {
        // SAFETY: an entry of the cache.
        let is_avp = unsafe { (*self.0).type_ == sys::PVT_AVP };
        is_avp || self.set(message, sys::pv_value_t { flags: sys::PV_VAL_NULL as i32, ..Default::default() })
    }

    fn set(self, message: &mut Message<'_>, mut value: sys::pv_value_t) -> bool {
        // SAFETY: the message is the interpreter's current one; the value lives through the call, which copies it; main thread.
        unsafe { sys::pv_set_spec_value(message.raw(), self.0, 0, &mut value) == 0 }
    }
}

/// A name and where its value comes from, as in `acc`'s `log_extra`: `name=$pv`. A value that is no variable is meant as it is.
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    /// The name.
    pub(crate) name: String,
    value: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Variable(Named),
    Text(String),
}

impl Attribute {
    /// Reads `name=$pv;name=text;...`. Main thread.
    ///
    /// # Errors
    /// What is wrong with the first part that is not understood.
    pub(crate) fn parse_all(written: &str) -> Result<Vec<Self>, String> {
        written.split(';').map(str::trim).filter(|part| !part.is_empty()).map(Self::parse).collect()
    }

    fn parse(part: &str) -> Result<Self, String> {
        let (name, value) = part.split_once('=').map(|(name, value)| (name.trim(), value.trim())).unwrap_or_default();
        if name.is_empty() || name.starts_with('$') {
            return Err(format!("'{part}' must be name=$variable or name=text; separate several by semicolons"));
        }
        let value = if value.starts_with('$') {
            Source::Variable(Named::find(value).ok_or_else(|| format!("there is no variable '{value}' (for {name})"))?)
        } else {
            Source::Text(value.to_owned())
        };
        Ok(Self { name: name.to_owned(), value })
    }

    /// Its value for a message; `None` for `$null`.
    pub(crate) fn evaluate(&self, message: &Message<'_>) -> Option<String> {
        match &self.value {
            Source::Variable(variable) => variable.text(message),
            Source::Text(text) => Some(text.clone()),
        }
    }
}

/// A copy in one of the buffers that Kamailio has for the values of variables and uses in turn.
fn buffered(value: &str) -> sys::str_ {
    // SAFETY: the buffer is as long as Kamailio says; main thread.
    unsafe {
        let buffer: *mut c_char = sys::pv_get_buffer();
        let room = usize::try_from(sys::pv_get_buffer_size()).unwrap_or_default();
        let length = value.len().min(room);
        ptr::copy_nonoverlapping(value.as_ptr().cast(), buffer, length);
        sys::str_ { s: buffer, len: length as c_int }
    }
}
