//! Dialogs: what happens to those that the script manages with the module dialog.

use super::guard::guard;
use super::message::Message;
use super::{sys, text, tm};

/// What happened to a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The script has begun it with an INVITE.
    Created,
    /// A provisional response.
    Early,
    /// A 2xx response to the INVITE.
    Answered,
    /// A request inside it.
    Request,
    /// It was not answered with a 2xx.
    Failed,
    /// A BYE.
    Ended,
    /// Its time is over.
    Expired,
}

/// A side of a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who sent the INVITE.
    Caller,
    /// Who got it.
    Callee,
}

/// A dialog to which something happens.
#[derive(Debug)]
pub(crate) struct Dialog<'c>(&'c sys::shim_dialog);

impl Dialog<'_> {
    /// What happens.
    pub(crate) fn moment(&self) -> Moment {
        match self.0.moment {
            sys::SHIM_DIALOG_CREATED => Moment::Created,
            sys::SHIM_DIALOG_EARLY => Moment::Early,
            sys::SHIM_DIALOG_ANSWERED => Moment::Answered,
            sys::SHIM_DIALOG_FAILED => Moment::Failed,
            sys::SHIM_DIALOG_ENDED if self.0.has_expired != 0 => Moment::Expired,
            sys::SHIM_DIALOG_ENDED => Moment::Ended,
            sys::SHIM_DIALOG_EXPIRED => Moment::Expired,
            _ => Moment::Request,
        }
    }

    /// The message that it happens with, if this process has it: the INVITE, a response to it, a request inside.
    pub(crate) fn message(&self) -> Option<Message<'_>> {
        // SAFETY: null or the message that this process handles, valid for the callback; nobody uses it meanwhile.
        unsafe { Message::from_raw(self.0.message) }
    }

    /// Whose request it happens with.
    pub(crate) fn from(&self) -> Option<Side> {
        match self.0.from {
            sys::SHIM_DIALOG_CALLER => Some(Side::Caller),
            sys::SHIM_DIALOG_CALLEE => Some(Side::Callee),
            _ => None,
        }
    }

    /// The status code with which this server itself ended it before it was answered; 0 for none.
    pub(crate) fn own_answer(&self) -> u16 {
        u16::try_from(self.0.own_answer).unwrap_or_default()
    }

    /// The Call-ID.
    pub(crate) fn call_id(&self) -> String {
        // SAFETY: the dialog's text, valid for the callback.
        unsafe { text::owned(&self.0.call_id) }
    }

    /// The URI of the INVITE's From.
    pub(crate) fn caller_uri(&self) -> String {
        // SAFETY: as above.
        unsafe { text::owned(&self.0.caller_uri) }
    }

    /// The URI of the INVITE's To.
    pub(crate) fn callee_uri(&self) -> String {
        // SAFETY: as above.
        unsafe { text::owned(&self.0.callee_uri) }
    }

    /// The INVITE's Request-URI.
    pub(crate) fn request_uri(&self) -> String {
        // SAFETY: as above.
        unsafe { text::owned(&self.0.request_uri) }
    }

    /// The tag of a side; `""` while it is not known.
    pub(crate) fn tag(&self, side: Side) -> String {
        let tag = match side {
            Side::Caller => &self.0.caller_tag,
            Side::Callee => &self.0.callee_tag,
        };
        // SAFETY: as above.
        unsafe { text::owned(tag) }
    }

    /// Keeps a text with the dialog (`$dlg_var(name)`). `false` when there is no memory for it.
    pub(crate) fn set_variable(&self, name: &str, value: &str) -> bool {
        // SAFETY: the dialog is valid for the callback; the texts live through the call, which copies them.
        unsafe { sys::shim_dialog_set(self.0.cell, &mut text::lent(name), &mut text::lent(value)) == 0 }
    }

    /// The text that is kept with the dialog under this name.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let mut value = sys::str_ { s: std::ptr::null_mut(), len: 0 };
        // SAFETY: the dialog is valid for the callback; the value is in a buffer of dialog's, copied at once.
        unsafe {
            let found = sys::shim_dialog_get(self.0.cell, &mut text::lent(name), &mut value) == 0;
            (found && !value.s.is_null()).then(|| text::owned(&value))
        }
    }
}

/// Has everything that happens to dialogs end in [`crate::calls::dialog`], if there is a module dialog. In `mod_init`,
/// when tm is bound.
///
/// # Errors
/// A sentence, when dialog does not tell what happens.
pub(crate) fn follow() -> Result<(), String> {
    // SAFETY: the function lives for ever, and so does tm's table.
    let result = tm::with_api(|api| unsafe { sys::shim_dialog_follow(api, Some(happened)) });
    match result.unwrap_or(sys::SHIM_DIALOG_REFUSED) {
        0 | sys::SHIM_DIALOG_NOT_LOADED => Ok(()),
        sys::SHIM_DIALOG_NO_CALLBACKS => Err(
            "dialog's parameter initial_cbs_inscript is 0, so calls would not be recorded: set it to 1, or this module's \
             call_dialogs to 0"
                .to_owned(),
        ),
        _ => Err("the dialog module refuses to be used: see its messages above".to_owned()),
    }
}

/// # Safety
/// Called by the shim with a dialog that is valid for the call.
unsafe extern "C" fn happened(dialog: *const sys::shim_dialog) {
    guard(|| {
        // SAFETY: the caller's promise.
        if let Some(dialog) = unsafe { dialog.as_ref() } {
            crate::calls::dialog(&Dialog(dialog));
        }
    });
}
