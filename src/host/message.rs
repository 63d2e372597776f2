//! The SIP message under way: owned copies out, changes in.

use std::marker::PhantomData;

use domain::Binding;
use domain::register::{Contact, Contacts};

use super::{socket, sys, text};

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
    /// `Require`
    Require,
    /// `User-Agent`
    UserAgent,
}

impl Header {
    fn raw(self) -> sys::hdr_types_t {
        match self {
            Self::Path => sys::HDR_PATH_T,
            Self::Supported => sys::HDR_SUPPORTED_T,
            Self::Require => sys::HDR_REQUIRE_T,
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

    /// Whether it is a request, and not a reply.
    pub(crate) fn is_request(&self) -> bool {
        u32::try_from(self.get().first_line.type_).is_ok_and(|kind| kind == sys::SIP_REQUEST)
    }

    /// The method's name; `""` for a reply.
    pub(crate) fn method(&self) -> String {
        // SAFETY: in a request's first line the union holds the request.
        if self.is_request() { unsafe { text::owned(&self.get().first_line.u.request.method) } } else { String::new() }
    }

    /// The status code; 0 for a request.
    pub(crate) fn status(&self) -> u16 {
        if self.is_request() {
            return 0;
        }
        // SAFETY: in a reply's first line the union holds the reply; plain number.
        u16::try_from(unsafe { self.get().first_line.u.reply.statuscode }).unwrap_or_default()
    }

    /// The reason phrase; `""` for a request.
    pub(crate) fn reason_phrase(&self) -> String {
        // SAFETY: in a reply's first line the union holds the reply.
        if self.is_request() { String::new() } else { unsafe { text::owned(&self.get().first_line.u.reply.reason) } }
    }

    /// The method as one of Kamailio's bits; 0 for a reply.
    pub(crate) fn method_bit(&self) -> u32 {
        // SAFETY: as above; plain number.
        if self.is_request() { unsafe { self.get().first_line.u.request.method_value as u32 } } else { 0 }
    }

    /// The Request-URI as the script sees it (`$ru`); `""` for a reply.
    pub(crate) fn request_uri(&self) -> String {
        // SAFETY: Kamailio's text, null when the URI has not been changed.
        let changed = unsafe { text::owned(&self.get().new_uri) };
        if changed.is_empty() { self.original_uri() } else { changed }
    }

    /// The Request-URI as it came (`$ou`); `""` for a reply.
    pub(crate) fn original_uri(&self) -> String {
        // SAFETY: in a request's first line the union holds the request.
        if self.is_request() { unsafe { text::owned(&self.get().first_line.u.request.uri) } } else { String::new() }
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

    /// Whether it belongs to a dialog: its To has a tag.
    pub(crate) fn has_to_tag(&self) -> bool {
        if self.parse().is_err() {
            return false;
        }
        // SAFETY: after parsing, `to` is null or a header whose parsed part is null or a to_body.
        let body = unsafe { self.get().to.as_ref().and_then(|to| to.parsed.cast::<sys::to_body>().as_ref()) };
        body.is_some_and(|body| body.tag_value.len > 0)
    }

    /// Whether it came straight from its sender: it has one Via. After [`Self::parse`].
    pub(crate) fn is_first_hop(&self) -> bool {
        self.get().via2.is_null()
    }

    /// The methods of the Allow header as Kamailio's bits; 0 when there is none or it is malformed.
    pub(crate) fn allowed_methods(&self) -> u32 {
        // SAFETY: the message is valid; main thread.
        if unsafe { sys::parse_allow(self.raw) } < 0 {
            return 0;
        }
        // SAFETY: null, or a header that was parsed just now.
        let body =
            unsafe { self.get().allow.as_ref().and_then(|header| header.parsed.cast::<sys::allow_body>().as_ref()) };
        body.map_or(0, |body| body.allow_all)
    }

    /// Where it came from, as a SIP URI.
    pub(crate) fn source_uri(&self) -> String {
        let received = &self.get().rcv;
        let host = socket::bracketed(&self.source_address());
        let transport = match u32::try_from(i32::from(received.proto)).unwrap_or_default() {
            sys::PROTO_TCP => ";transport=tcp",
            sys::PROTO_TLS => ";transport=tls",
            sys::PROTO_WS => ";transport=ws",
            sys::PROTO_WSS => ";transport=wss",
            sys::PROTO_SCTP => ";transport=sctp",
            _ => "",
        };
        format!("sip:{host}:{}{transport}", received.src_port)
    }

    /// The address that it came from; `""` for a faked message.
    pub(crate) fn source_address(&self) -> String {
        let address = &self.get().rcv.src_ip;
        // SAFETY: an address of 4 or 16 bytes, as its length says.
        let bytes = unsafe { address.u.addr };
        match address.len {
            4 => std::net::Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).to_string(),
            16 => std::net::Ipv6Addr::from(bytes).to_string(),
            _ => String::new(),
        }
    }

    /// Whether the script has set this message flag (`setflag`).
    pub(crate) fn has_flag(&self, flag: u32) -> bool {
        flag < u32::BITS && self.get().flags & (1 << flag) != 0
    }

    /// The branch flags of the request's first destination.
    pub(crate) fn branch_flags(&self) -> u32 {
        let mut flags = 0;
        // SAFETY: reads the process's current branch flags; main thread.
        unsafe { sys::getbflagsval(0, &mut flags) };
        flags
    }

    /// The body of the first header of this name. After [`Self::parse`].
    pub(crate) fn header_named(&self, name: &str) -> Option<String> {
        let mut next = self.get().headers;
        // SAFETY: a list of valid headers that ends with null.
        while let Some(header) = unsafe { next.as_ref() } {
            // SAFETY: a header's name is valid.
            if unsafe { text::bytes(&header.name) }.eq_ignore_ascii_case(name.as_bytes()) {
                // SAFETY: a header's body is valid.
                return Some(unsafe { text::owned(&header.body) }.trim().to_owned());
            }
            next = header.next;
        }
        None
    }

    /// Adds a header line to the request.
    ///
    /// # Errors
    /// When memory is out.
    pub(crate) fn add_header(&mut self, name: &str, value: &str) -> Result<(), Malformed> {
        let line = format!("{name}: {value}\r\n");
        // SAFETY: copies the line; the message is the interpreter's current one; main thread.
        let added = unsafe { sys::shim_add_header(self.raw, line.as_ptr().cast(), text::length(&line)) };
        check(added, "there is no memory for a header")
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

    /// The bodies of all headers of one type, in order, each on one line.
    pub(crate) fn headers(&self, kind: Header) -> Vec<String> {
        let mut bodies = Vec::new();
        let mut next = self.get().headers;
        // SAFETY: a list of valid headers that ends with null.
        while let Some(header) = unsafe { next.as_ref() } {
            if header.type_ == kind.raw() {
                // SAFETY: a header's body is valid.
                let body = unsafe { text::owned(&header.body) };
                bodies.push(body.trim().replace(['\r', '\n'], " "));
            }
            next = header.next;
        }
        bodies
    }

    /// Gives all headers of one type another, and returns them.
    pub(super) fn retype_headers(&mut self, from: sys::hdr_types_t, to: sys::hdr_types_t) -> Vec<*mut sys::hdr_field> {
        let mut changed = Vec::new();
        let mut next = self.get().headers;
        // SAFETY: a list of valid headers that ends with null; the message is the interpreter's current one.
        while let Some(header) = unsafe { next.as_mut() } {
            let following = header.next;
            if header.type_ == from {
                header.type_ = to;
                changed.push(next);
            }
            next = following;
        }
        changed
    }

    /// What the Contact headers ask for.
    ///
    /// # Errors
    /// When a Contact header is malformed, or `*` does not stand alone.
    pub(crate) fn contacts(&self) -> Result<Contacts, Malformed> {
        self.parse()?;
        let allowed = self.allowed_methods();
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
                found.push(unsafe { copy_contact(contact, allowed) }?);
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

    /// The local socket that received the message, as `proto:address:port`; as it is advertised, when that is asked for and set.
    pub(crate) fn socket(&self, advertised: bool) -> String {
        // SAFETY: null for a faked message, else one of the server's sockets, whose texts are valid.
        unsafe {
            let Some(socket) = self.get().rcv.bind_address.as_ref() else { return String::new() };
            let shown = &socket.useinfo.sock_str;
            text::owned(if advertised && shown.len > 0 { shown } else { &socket.sock_str })
        }
    }

    /// Gives the request another Request-URI; where it is sent otherwise stays as it is.
    ///
    /// # Errors
    /// When memory is out.
    pub(crate) fn set_request_uri(&mut self, uri: &str) -> Result<(), Malformed> {
        // SAFETY: copies the text; the message is the interpreter's current one; main thread.
        check(unsafe { sys::rewrite_uri(self.raw, &mut text::lent(uri)) }, "there is no memory for a Request-URI")
    }

    /// Sends the request to this destination: Request-URI, next hop, Path, q and what else the stock `lookup()` sets.
    ///
    /// # Errors
    /// When Kamailio refuses a part of it.
    pub(crate) fn set_target(&mut self, destination: &Destination<'_>) -> Result<(), Malformed> {
        let Destination { binding, next_hop, route } = destination;
        let mut contact = text::lent(&binding.contact);
        // SAFETY: each call copies its text; the message is the interpreter's current one; main thread.
        unsafe {
            check(sys::rewrite_uri(self.raw, &mut contact), "the contact does not fit a Request-URI")?;
            sys::reset_dst_uri(self.raw);
            sys::reset_path_vector(self.raw);
            if !next_hop.is_empty() {
                check(sys::set_dst_uri(self.raw, &text::lent(next_hop)), "the next hop is refused")?;
            }
            if !route.is_empty() {
                check(sys::set_path_vector(self.raw, &mut text::lent(route)), "the Path is refused")?;
            }
            if !binding.instance.is_empty() {
                check(sys::set_instance(self.raw, &mut text::lent(&binding.instance)), "the instance is refused")?;
            }
            (*self.raw).reg_id = binding.reg_id;
            if !binding.ruid.is_empty() {
                check(sys::set_ruid(self.raw, &mut text::lent(&binding.ruid)), "the record id is refused")?;
            }
            if !binding.user_agent.is_empty() {
                check(sys::set_ua(self.raw, &mut text::lent(&binding.user_agent)), "the user agent is refused")?;
            }
            sys::set_ruri_q(i32::from(binding.q));
            sys::setbflagsval(0, self.branch_flags() | binding.cflags);
        }
        self.force_socket(socket::find(&binding.socket));
        Ok(())
    }

    /// Has the request sent from this socket of the server's; nothing for null.
    fn force_socket(&mut self, from: *mut sys::socket_info) {
        if from.is_null() {
            return;
        }
        // SAFETY: the message is the interpreter's current one, the socket one of the server's.
        unsafe {
            (*self.raw).force_send_socket = from;
            (*self.raw).fwd_send_flags.f |= sys::SND_F_FORCE_SOCKET as u16;
        }
    }

    /// Adds a branch to this destination, as the stock `lookup()` does for every binding after the first.
    ///
    /// # Errors
    /// When there is no room for another branch.
    pub(crate) fn add_branch(&mut self, destination: &Destination<'_>) -> Result<(), Malformed> {
        let Destination { binding, next_hop, route } = destination;
        let (mut contact, mut hop) = (text::lent(&binding.contact), text::lent(next_hop));
        let (mut path, mut instance) = (text::lent(route), text::lent(&binding.instance));
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
                socket::find(&binding.socket),
                &mut instance,
                binding.reg_id,
                &mut ruid,
                &mut user_agent,
            )
        };
        check(added, "there is no room for another branch")
    }

    /// Takes the request's branches besides its first destination away and returns them.
    pub(crate) fn take_branches(&mut self) -> Vec<Branch> {
        let mut taken = Vec::new();
        for index in 0.. {
            // SAFETY: null when there are not as many; main thread.
            let Some(branch) = (unsafe { sys::get_sip_branch(index).as_ref() }) else { break };
            taken.push(Branch::of_raw(branch));
        }
        // SAFETY: main thread.
        unsafe { sys::clear_branches() };
        taken
    }
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Destination<'b> {
    /// The binding that it is sent to.
    pub(crate) binding: &'b Binding,
    /// The URI that it is sent to first; `""` for the contact itself.
    pub(crate) next_hop: String,
    /// Its Route headers; `""` for none.
    pub(crate) route: String,
}

/// A branch that the script has made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Branch {
    /// Where it goes, as far as a binding says it; its `received` is the next hop.
    pub(crate) binding: Binding,
    /// Whether it has nothing but a URI, so that it may be looked up.
    pub(crate) is_clean: bool,
}

impl Branch {
    fn of_raw(raw: &sys::branch_t) -> Self {
        let copy = |bytes: &[std::os::raw::c_char], length: u32| {
            let bytes: Vec<u8> = bytes.iter().take(length as usize).map(|byte| *byte as u8).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        // SAFETY: null or one of the server's sockets.
        let socket = unsafe { raw.force_send_socket.as_ref().map(|socket| text::owned(&socket.sock_str)) };
        let is_clean = raw.dst_uri_len == 0 && raw.path_len == 0 && raw.flags == 0 && socket.is_none();
        let binding = Binding {
            received: copy(&raw.dst_uri, raw.dst_uri_len),
            path: copy(&raw.path, raw.path_len),
            q: i16::try_from(raw.q).unwrap_or(-1),
            cflags: raw.flags,
            instance: copy(&raw.instance, raw.instance_len),
            reg_id: raw.reg_id,
            ruid: copy(&raw.ruid, raw.ruid_len),
            user_agent: copy(&raw.location_ua, raw.location_ua_len),
            socket: socket.unwrap_or_default(),
            ..Binding::of_uri(copy(&raw.uri, raw.len))
        };
        Self { binding, is_clean }
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

/// Copies one element of a Contact header. `allowed` are the methods of one that names none.
///
/// # Safety
/// `contact` is one that Kamailio parsed.
unsafe fn copy_contact(contact: &sys::contact_t, allowed: u32) -> Result<Contact, Malformed> {
    let parameter = |param: *mut sys::param_t| {
        // SAFETY: null or a parsed parameter.
        unsafe { param.as_ref().map(|param| text::owned(&param.body)) }
    };
    let q = match parameter(contact.q) {
        None => None,
        Some(written) => Some(domain::register::parse_q(&written).ok_or(Malformed("a q value is malformed"))?),
    };
    let mut methods = allowed;
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
        reg_id: parameter(contact.reg_id).map(|written| written.parse().unwrap_or_default()),
        received: parameter(contact.received).unwrap_or_default(),
    })
}
