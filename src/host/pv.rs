//! The pseudo-variable class `$cassandra(...)`.

use std::os::raw::c_int;
use std::ptr;

use super::guard::guard;
use super::{sys, text};

/// What a variable is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `$null`
    Null,
    /// A number.
    Number(i32),
    /// A text that lives for ever.
    Text(&'static str),
}

/// The variables of the class: name, and how to read it. The index in the table is what Kamailio keeps.
pub(crate) type Variable = (&'static str, fn() -> Value);

/// The table row of the class `name` with these variables.
pub(crate) const fn export(
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
        parse_index: None,
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
pub(crate) unsafe fn parse(variables: &[Variable], spec: *mut sys::pv_spec_t, name: *mut sys::str_) -> c_int {
    guard(|| {
        // SAFETY: the server's text.
        let name = unsafe { text::owned(&*name) };
        let Some(index) = variables.iter().position(|(known, _)| *known == name) else {
            let known: Vec<_> = variables.iter().map(|(name, _)| *name).collect();
            super::log::log_error!(
                "cassandra",
                "there is no variable $cassandra({name}): use one of {}",
                known.join(", ")
            );
            return -1;
        };
        // SAFETY: the server's specification, ours to fill.
        unsafe {
            (*spec).pvp.pvn.type_ = sys::PV_NAME_INTSTR as c_int;
            (*spec).pvp.pvn.u.isname.type_ = 0;
            (*spec).pvp.pvn.u.isname.name.n = index as c_int;
        }
        0
    })
}

/// Reads a variable.
///
/// # Safety
/// Called by the server with the message, what [`parse`] filled, and a value to fill.
pub(crate) unsafe fn get(
    variables: &[Variable],
    message: *mut sys::sip_msg,
    param: *mut sys::pv_param_t,
    value: *mut sys::pv_value_t,
) -> c_int {
    guard(|| {
        // SAFETY: filled by parse above.
        let index = unsafe { (*param).pvn.u.isname.name.n };
        let Some((_, read)) = usize::try_from(index).ok().and_then(|index| variables.get(index)) else { return -1 };
        // SAFETY: the value is the server's, and text that lives for ever may be pointed to.
        unsafe {
            match read() {
                Value::Null => sys::pv_get_null(message, param, value),
                #[allow(clippy::useless_conversion, reason = "an int in Kamailio 5.6, a long in later versions")]
                Value::Number(number) => sys::pv_get_sintval(message, param, value, number.into()),
                Value::Text(constant) => sys::pv_get_strval(message, param, value, &mut text::lent(constant)),
            }
        }
    })
}
