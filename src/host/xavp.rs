//! XAVPs: named values with children, `$xavp(root=>child)`. Their lists belong to the transaction or to the message under way.

use std::ptr;

use super::{number, sys, text};

/// A value of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(i32),
}

/// A named child.
pub(crate) type Child<'a> = (&'a str, Value<'a>);

/// The text child `$xavp(root=>child)`.
pub(crate) fn text_of(root: &str, child: &str) -> Option<String> {
    let value = find(root, child)?;
    // SAFETY: with this type the union holds a text.
    (value.type_ == sys::SR_XTYPE_STR).then(|| unsafe { text::owned(&value.v.s) })
}

/// The number child `$xavp(root=>child)`.
pub(crate) fn number_of(root: &str, child: &str) -> Option<i32> {
    number_in(find(root, child)?).and_then(number::small)
}

/// All children of `$xavp(root)` that are texts or numbers, name and value as text, in order.
pub(crate) fn children_of(root: &str) -> Vec<(String, String)> {
    // SAFETY: looks the name up in the current list; main thread.
    let found = unsafe { sys::xavp_get(&mut text::lent(root), ptr::null_mut()).as_ref() };
    let Some(found) = found.filter(|found| found.val.type_ == sys::SR_XTYPE_XAVP) else { return Vec::new() };
    let mut children = Vec::new();
    // SAFETY: with this type the union holds a list of XAVPs, which ends with null.
    let mut next = unsafe { found.val.v.xavp };
    // SAFETY: as above.
    while let Some(child) = unsafe { next.as_ref() } {
        let value = match child.val.type_ {
            // SAFETY: with this type the union holds a text.
            sys::SR_XTYPE_STR => Some(unsafe { text::owned(&child.val.v.s) }),
            _ => number_in(&child.val).map(|number| number.to_string()),
        };
        if let Some(value) = value {
            // SAFETY: a list element's name is valid.
            children.push((unsafe { text::owned(&child.name) }, value));
        }
        next = child.next;
    }
    children
}

/// Puts the children in front of those that `$xavp(root)` has, and makes it when there is none.
pub(crate) fn extend(root: &str, children: &[Child<'_>]) {
    // SAFETY: looks the name up in the current list; main thread.
    match unsafe { sys::xavp_get(&mut text::lent(root), ptr::null_mut()).as_mut() } {
        Some(found) if found.val.type_ == sys::SR_XTYPE_XAVP => {
            // SAFETY: with this type the union holds the list of the children.
            fill(unsafe { &mut found.val.v.xavp }, children);
        }
        _ => push(root, children),
    }
}

/// Puts another `$xavp(root)` with these children in front.
pub(crate) fn push(root: &str, children: &[Child<'_>]) {
    let mut list = ptr::null_mut();
    fill(&mut list, children);
    // SAFETY: the new element takes the list over; main thread.
    let added = unsafe { sys::xavp_add_value(&mut text::lent(root), &mut of_list(list), ptr::null_mut()) };
    if added.is_null() {
        // SAFETY: nobody else has the list.
        unsafe { sys::xavp_destroy_list(&mut list) };
    }
}

/// Makes `$xavp(root[index])` one with these children.
pub(crate) fn insert(root: &str, index: usize, children: &[Child<'_>]) {
    let (mut list, mut single) = (ptr::null_mut(), ptr::null_mut());
    fill(&mut list, children);
    // SAFETY: makes an element in a list of our own, which takes the children over; main thread.
    let element = unsafe { sys::xavp_add_value(&mut text::lent(root), &mut of_list(list), &mut single) };
    if element.is_null() {
        // SAFETY: nobody else has the list.
        unsafe { sys::xavp_destroy_list(&mut list) };
        return;
    }
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    // SAFETY: the element is the only one of its list and moves to the current one.
    if unsafe { sys::xavp_insert(element, index, ptr::null_mut()) } < 0 {
        // SAFETY: it was not taken.
        unsafe { sys::xavp_destroy_list(&mut single) };
    }
}

fn find(root: &str, child: &str) -> Option<&'static sys::sr_xval_t> {
    // SAFETY: looks the names up in the current list; main thread. The value is copied by the callers at once.
    unsafe { sys::xavp_get_child(&mut text::lent(root), &mut text::lent(child)).as_ref().map(|found| &found.val) }
}

fn number_in(value: &sys::sr_xval_t) -> Option<sys::shim_number> {
    let mut number = 0;
    // SAFETY: reads the value by its type, and writes the number if it is one.
    (unsafe { sys::shim_xavp_number(value, &mut number) } != 0).then_some(number)
}

/// Adds the children to a list so that they are in their order: each goes in front.
fn fill(list: &mut *mut sys::sr_xavp_t, children: &[Child<'_>]) {
    for (name, value) in children.iter().rev() {
        // SAFETY: the value's text is copied; main thread.
        unsafe { sys::xavp_add_value(&mut text::lent(name), &mut raw(*value), list) };
    }
}

fn raw(value: Value<'_>) -> sys::sr_xval_t {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut raw: sys::sr_xval_t = unsafe { std::mem::zeroed() };
    match value {
        Value::Text(value) => {
            raw.type_ = sys::SR_XTYPE_STR;
            raw.v.s = text::lent(value);
        }
        // SAFETY: writes the value, with its type.
        Value::Number(value) => unsafe { sys::shim_xavp_set_number(&mut raw, number::raw(value)) },
    }
    raw
}

fn of_list(list: *mut sys::sr_xavp_t) -> sys::sr_xval_t {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut raw: sys::sr_xval_t = unsafe { std::mem::zeroed() };
    raw.type_ = sys::SR_XTYPE_XAVP;
    raw.v.xavp = list;
    raw
}
