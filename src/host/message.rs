//! The SIP message under way: owned copies out, changes in.

use std::marker::PhantomData;

use domain::Binding;
use domain::register::{Contact, Contacts};

use super::{sys, text};

/// The message that the script is working on. Lives no longer than the script function's call.
#[derive(Debug)]
pub(crate) struct Message<'m> {
    raw: *mut sys::sip_msg,
    call: PhantomData<&'m mut sys::sip_msg>,
}

/// A part of the message that is missing or malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Header types that are read by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// `Path`
    Path,
    /// `Supported`
    Supported,
    /// `User-Agent`
    UserAgent,
}

impl Header {
    fn raw(self) -> sys::hdr_types_t {
        match self {
            Self::Path => sys::HDR_PATH_T,
            Self::Supported => sys::HDR_SUPPORTED_T,
            Self::UserAgent => sys::HDR_USERAGENT_T,
        }
    }
}

impl Message<'_> {
    /// Wraps the interpreter's message; `None` for null.
    ///
    /// # Safety
    /// `raw` is null or valid and not otherwise used for as long as the result lives.
    pub(crate) unsafe fn from_raw(raw: *mut sys::sip_msg) -> Option<Self> {
        (!raw.is_null()).then_some(Self { raw, call: PhantomData })
    }

    /// For calls to Kamailio, within `host`.
    pub(super) fn raw(&self) -> *mut sys::sip_msg {
        self.raw
    }

    fn get(&self) -> &sys::sip_msg {
        // SAFETY: valid for the call (from_raw's contract).
        unsafe { &*self.raw }
    }

    /// Parses all headers.
    ///
    /// # Errors
    /// When the message is broken.
    pub(crate) fn parse(&self) -> Result<(), Malformed> {
        // SAFETY: the message is valid; main thread.
        match unsafe { sys::parse_headers(self.raw, 1 << sys::HDR_EOH_T, 0) } {
            -1 => Err(Malformed("the headers cannot be parsed")),
            _ => Ok(()),
        }
    }

    /// The method's name.
    pub(crate) fn method(&self) -> String {
        // SAFETY: commands are called for requests only.
        unsafe { text::owned(&self.get().first_line.u.request.method) }
    }

    /// The method as one of Kamailio's bits.
    pub(crate) fn method_bit(&self) -> u32 {
        // SAFETY: as above; plain number.
        unsafe { self.get().first_line.u.request.method_value as u32 }
    }

    /// The Request-URI as the script sees it (`$ru`).
    pub(crate) fn request_uri(&self) -> String {
        let message = self.get();
        let original = || {
            // SAFETY: commands are called for requests only.
            unsafe { text::owned(&message.first_line.u.request.uri) }
        };
        // SAFETY: Kamailio's text, null when the URI has not been changed.
        let changed = unsafe { text::owned(&message.new_uri) };
        if changed.is_empty() { original() } else { changed }
    }

    /// The URI of the To header.
    ///
    /// # Errors
    /// When there is no valid To.
    pub(crate) fn uri_of_to(&self) -> Result<String, Malformed> {
        self.parse()?;
        // SAFETY: after parsing, `to` is null or a header whose parsed part is null or a to_body.
        let body = unsafe { self.get().to.as_ref().and_then(|to| to.parsed.cast::<sys::to_body>().as_ref()) };
        // SAFETY: a parsed body's texts are valid.
        body.map(|body| unsafe { text::owned(&body.uri) }).ok_or(Malformed("there is no valid To header"))
    }

    /// The URI of the From header.
    ///
    /// # Errors
    /// When there is no valid From.
    pub(crate) fn uri_of_from(&self) -> Result<String, Malformed> {
        self.parse()?;
        // SAFETY: the message is valid; main thread.
        if unsafe { sys::parse_from_header(self.raw) } < 0 {
            return Err(Malformed("there is no valid From header"));
        }
        // SAFETY: parsed just now.
        let body = unsafe { self.get().from.as_ref().and_then(|from| from.parsed.cast::<sys::to_body>().as_ref()) };
        // SAFETY: a parsed body's texts are valid.
        body.map(|body| unsafe { text::owned(&body.uri) }).ok_or(Malformed("there is no valid From header"))
    }

    /// The Call-ID.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn call_id(&self) -> Result<String, Malformed> {
        self.parse()?;
        // SAFETY: after parsing, null or a valid header.
        unsafe { self.get().callid.as_ref().map(|header| text::owned(&header.body)) }
            .ok_or(Malformed("there is no Call-ID header"))
    }

    /// The CSeq number.
    ///
    /// # Errors
    /// When there is none or it is not a 32-bit number.
    pub(crate) fn cseq(&self) -> Result<u32, Malformed> {
        self.parse()?;
        // SAFETY: after parsing, null or a header whose parsed part is null or a cseq_body.
        let body = unsafe { self.get().cseq.as_ref().and_then(|cseq| cseq.parsed.cast::<sys::cseq_body>().as_ref()) };
        // SAFETY: a parsed body's texts are valid.
        body.and_then(|body| unsafe { text::owned(&body.number) }.parse().ok())
            .ok_or(Malformed("there is no valid CSeq header"))
    }

    /// The Expires header in seconds. RFC 3261 section 20.19: a malformed value counts as 3600.
    pub(crate) fn expires(&self) -> Option<u32> {
        // SAFETY: null or a valid header.
        let header = unsafe { self.get().expires.as_mut()? };
        // SAFETY: parses this header in place; main thread.
        let parsed = header.parsed.is_null().then(|| unsafe { sys::parse_expires(header) });
        // SAFETY: null or an exp_body, by the call above or an earlier one.
        let body = unsafe { header.parsed.cast::<sys::exp_body>().as_ref() };
        match (parsed, body) {
            (None | Some(0), Some(body)) if body.valid != 0 => Some(body.val),
            _ => Some(3600),
        }
    }

    /// The bodies of all headers of one type, in order.
    pub(crate) fn headers(&self, kind: Header) -> Vec<String> {
        let mut bodies = Vec::new();
        let mut next = self.get().headers;
        // SAFETY: a list of valid headers that ends with null.
        while let Some(header) = unsafe { next.as_ref() } {
            if header.type_ == kind.raw() {
                // SAFETY: a header's body is valid.
                bodies.push(unsafe { text::owned(&header.body) }.trim().to_owned());
            }
            next = header.next;
        }
        bodies
    }

    /// What the Contact headers ask for.
    ///
    /// # Errors
    /// When a Contact header is malformed, or `*` does not stand alone.
    pub(crate) fn contacts(&self) -> Result<Contacts, Malformed> {
        self.parse()?;
        let mut found = Vec::new();
        let mut stars = 0;
        let mut next = self.get().contact;
        // SAFETY: a list of valid headers that ends with null.
        while let Some(header) = unsafe { next.as_mut() } {
            next = header.next;
            if header.type_ != sys::HDR_CONTACT_T {
                continue;
            }
            // SAFETY: parses this header in place; main thread.
            if header.parsed.is_null() && unsafe { sys::parse_contact(header) } < 0 {
                return Err(Malformed("a Contact header cannot be parsed"));
            }
            // SAFETY: a parsed Contact header.
            let Some(body) = (unsafe { header.parsed.cast::<sys::contact_body_t>().as_ref() }) else { continue };
            stars += usize::from(body.star != 0);
            let mut element = body.contacts;
            // SAFETY: a list of valid elements that ends with null.
            while let Some(contact) = unsafe { element.as_ref() } {
                // SAFETY: a parsed element.
                found.push(unsafe { copy_contact(contact) }?);
                element = contact.next;
            }
        }
        match (stars, found.is_empty()) {
            (0, true) => Ok(Contacts::Query),
            (0, false) => Ok(Contacts::List(found)),
            (1, true) => Ok(Contacts::Star),
            _ => Err(Malformed("a Contact of * does not stand alone")),
        }
    }

    /// The local socket that received the message, as `proto:address:port`.
    pub(crate) fn socket(&self) -> String {
        // SAFETY: null for a faked message, else one of the server's sockets.
        unsafe { self.get().rcv.bind_address.as_ref().map(|socket| text::owned(&socket.sock_str)) }.unwrap_or_default()
    }

    /// Sends the request to this binding: Request-URI, next hop, Path, q and what else the stock `lookup()` sets.
    ///
    /// `next_hop` is `""` for the contact itself.
    ///
    /// # Errors
    /// When Kamailio refuses a part of it.
    pub(crate) fn set_target(&mut self, binding: &Binding, next_hop: &str) -> Result<(), Malformed> {
        let mut contact = text::lent(&binding.contact);
        // SAFETY: each call copies its text; the message is the interpreter's current one; main thread.
        unsafe {
            check(sys::rewrite_uri(self.raw, &mut contact), "the contact does not fit a Request-URI")?;
            sys::reset_dst_uri(self.raw);
            sys::reset_path_vector(self.raw);
            if !next_hop.is_empty() {
                check(sys::set_dst_uri(self.raw, &text::lent(next_hop)), "the next hop is refused")?;
            }
            if !binding.path.is_empty() {
                check(sys::set_path_vector(self.raw, &mut text::lent(&binding.path)), "the Path is refused")?;
            }
            if !binding.instance.is_empty() {
                check(sys::set_instance(self.raw, &mut text::lent(&binding.instance)), "the instance is refused")?;
            }
            (*self.raw).reg_id = binding.reg_id;
            check(sys::set_ruid(self.raw, &mut text::lent(&binding.ruid)), "the record id is refused")?;
            if !binding.user_agent.is_empty() {
                check(sys::set_ua(self.raw, &mut text::lent(&binding.user_agent)), "the user agent is refused")?;
            }
            sys::set_ruri_q(i32::from(binding.q));
            let mut flags = 0;
            sys::getbflagsval(0, &mut flags);
            sys::setbflagsval(0, flags | binding.cflags);
        }
        Ok(())
    }

    /// Adds a branch to this binding, as the stock `lookup()` does for every binding after the first.
    ///
    /// # Errors
    /// When there is no room for another branch.
    pub(crate) fn add_branch(&mut self, binding: &Binding, next_hop: &str) -> Result<(), Malformed> {
        let (mut contact, mut hop) = (text::lent(&binding.contact), text::lent(next_hop));
        let (mut path, mut instance) = (text::lent(&binding.path), text::lent(&binding.instance));
        let (mut ruid, mut user_agent) = (text::lent(&binding.ruid), text::lent(&binding.user_agent));
        // SAFETY: copies all its texts; empty ones have length 0; main thread.
        let added = unsafe {
            sys::append_branch(
                self.raw,
                &mut contact,
                &mut hop,
                &mut path,
                i32::from(binding.q),
                binding.cflags,
                std::ptr::null_mut(),
                &mut instance,
                binding.reg_id,
                &mut ruid,
                &mut user_agent,
            )
        };
        check(added, "there is no room for another branch")
    }
}

/// How many destinations a request may have, with the one in the Request-URI (core parameter `max_branches`).
pub(crate) fn max_branches() -> usize {
    // SAFETY: a number set while the configuration is read.
    usize::try_from(unsafe { sys::sr_dst_max_branches }).unwrap_or(1)
}

fn check(result: i32, sentence: &'static str) -> Result<(), Malformed> {
    if result < 0 { Err(Malformed(sentence)) } else { Ok(()) }
}

/// Copies one element of a Contact header.
///
/// # Safety
/// `contact` is one that Kamailio parsed.
unsafe fn copy_contact(contact: &sys::contact_t) -> Result<Contact, Malformed> {
    let parameter = |param: *mut sys::param_t| {
        // SAFETY: null or a parsed parameter.
        unsafe { param.as_ref().map(|param| text::owned(&param.body)) }
    };
    let q = match parameter(contact.q) {
        None => None,
        Some(written) => Some(domain::register::parse_q(&written).ok_or(Malformed("a q value is malformed"))?),
    };
    let mut methods = 0;
    // SAFETY: null or a parsed parameter; reads the text only.
    let understood =
        unsafe { contact.methods.as_ref().is_none_or(|param| sys::parse_methods(&param.body, &mut methods) >= 0) };
    if !understood {
        return Err(Malformed("a methods parameter is malformed"));
    }
    Ok(Contact {
        // SAFETY: a parsed contact's URI.
        uri: unsafe { text::owned(&contact.uri) },
        q,
        // RFC 3261 section 10.2.1.1: malformed counts as 3600.
        expires: parameter(contact.expires).map(|written| written.trim().parse().unwrap_or(3600)),
        methods,
        instance: parameter(contact.instance).unwrap_or_default(),
        reg_id: parameter(contact.reg_id).and_then(|written| written.parse().ok()).unwrap_or_default(),
        received: parameter(contact.received).unwrap_or_default(),
    })
}
