//! `cassandra.so`: a Kamailio module that gives the routing script Apache Cassandra.
//!
//! This file holds the tables that Kamailio reads when it loads the module. Each row names the function that does the work:
//! [`auth`] and [`location`] for the script, [`rpc`] for operators, [`lifecycle`] for the server's start and stop. A script
//! function is one row of [`functions!`], from which come its entry for the configuration's language and its KEMI twin.

mod auth;
mod bridge_client;
mod config;
mod host;
mod io_process;
mod lifecycle;
mod location;
mod outcome;
mod rpc;
mod variables;

use std::ffi::c_char;
use std::os::raw::{c_int, c_void};

use host::command::{Table, functions};
use host::{kemi, params, pv, rpc as rpcs, sys};

functions! { COMMANDS, TWINS:
    "cassandra_www_authenticate"(realm: text, table: text) = auth::www_authenticate, kemi "www_authenticate";
    "cassandra_www_authenticate_async"(realm: text, table: text, route: route)
        = auth::www_authenticate_async, kemi "www_authenticate_async";
    "cassandra_proxy_authenticate"(realm: text, table: text) = auth::proxy_authenticate, kemi "proxy_authenticate";
    "cassandra_proxy_authenticate_async"(realm: text, table: text, route: route)
        = auth::proxy_authenticate_async, kemi "proxy_authenticate_async";
    "cassandra_auth_check"(realm: text, table: text, flags: number) = auth::auth_check, kemi "auth_check";
    "cassandra_auth_check_async"(realm: text, table: text, flags: number, route: route)
        = auth::auth_check_async, kemi "auth_check_async";
    "cassandra_auth_save"(realm: text) = location::auth_save;
    "cassandra_auth_save"(realm: text, flags: number) = location::auth_save, kemi "auth_save";
    "cassandra_auth_save_async"(realm: text, route: route) = location::auth_save_async;
    "cassandra_auth_save_async"(realm: text, flags: number, route: route)
        = location::auth_save_async, kemi "auth_save_async";
    "cassandra_save"(domain: text) = location::save;
    "cassandra_save"(domain: text, flags: number) = location::save, kemi "save";
    "cassandra_save"(domain: text, flags: number, uri: text) = location::save, kemi "save_uri";
    "cassandra_save_async"(domain: text, route: route) = location::save_async;
    "cassandra_save_async"(domain: text, flags: number, route: route) = location::save_async, kemi "save_async";
    "cassandra_save_async"(domain: text, flags: number, uri: text, route: route)
        = location::save_async, kemi "save_uri_async";
    "cassandra_lookup"(domain: text) = location::lookup, kemi "lookup";
    "cassandra_lookup"(domain: text, uri: text) = location::lookup, kemi "lookup_uri";
    "cassandra_lookup_async"(domain: text, route: route) = location::lookup_async, kemi "lookup_async";
    "cassandra_lookup_async"(domain: text, uri: text, route: route) = location::lookup_async, kemi "lookup_uri_async";
    // Not for scripts: the first action of every resumed route.
    "cassandra_apply_answer"() = outcome::apply_pending;
    #[cfg(feature = "fault-injection")]
    "cassandra_test_panic"() = lifecycle::panic_in_command;
    #[cfg(feature = "fault-injection")]
    "cassandra_test_io_panic"() = lifecycle::panic_in_io_process;
}

static PARAMETERS: Table<[sys::param_export_t; 32]> = Table([
    config::raw::CONTACT_POINTS.export(c"contact_points"),
    config::raw::KEYSPACE.export(c"keyspace"),
    config::raw::LOCAL_DC.export(c"local_dc"),
    config::raw::USERNAME.export(c"username"),
    config::raw::PASSWORD.export(c"password"),
    config::raw::TLS_CA_FILE.export(c"tls_ca_file"),
    config::raw::TLS_CERT_FILE.export(c"tls_cert_file"),
    config::raw::TLS_KEY_FILE.export(c"tls_key_file"),
    config::raw::NODE_NAME.export(c"node_name"),
    config::raw::CALL_TIMEOUT.export(c"call_timeout"),
    config::raw::REQUEST_TIMEOUT.export(c"request_timeout"),
    config::raw::CONNECT_TIMEOUT.export(c"connect_timeout"),
    config::raw::BREAKER_THRESHOLD.export(c"breaker_threshold"),
    config::raw::RETRY_INTERVAL.export(c"retry_interval"),
    config::raw::CREDENTIAL_CACHE_SIZE.export(c"credential_cache_size"),
    config::raw::CREDENTIAL_CACHE_TTL.export(c"credential_cache_ttl"),
    config::raw::MAX_IN_FLIGHT.export(c"max_in_flight"),
    config::raw::BATCH_INTERVAL.export(c"batch_interval"),
    config::raw::RESUME_WORKERS.export(c"resume_workers"),
    config::raw::DRAIN_TIMEOUT.export(c"drain_timeout"),
    config::raw::DEFAULT_EXPIRES.export(c"default_expires"),
    config::raw::MIN_EXPIRES.export(c"min_expires"),
    config::raw::MIN_EXPIRES_MODE.export(c"min_expires_mode"),
    config::raw::MAX_EXPIRES.export(c"max_expires"),
    config::raw::MAX_CONTACTS.export(c"max_contacts"),
    config::raw::RETRY_AFTER.export(c"retry_after"),
    config::raw::DEFAULT_Q.export(c"default_q"),
    config::raw::CONTACT_MAX_SIZE.export(c"contact_max_size"),
    config::raw::USE_PATH.export(c"use_path"),
    config::raw::PATH_MODE.export(c"path_mode"),
    config::raw::CSEQ_DELAY.export(c"cseq_delay"),
    params::END,
]);

static VARIABLES: Table<[sys::pv_export_t; 2]> =
    Table([pv::export("cassandra", parse_variable, read_variable), pv::END]);

static METHODS: Table<[sys::rpc_export_t; 2]> = Table([
    rpcs::method!(
        "cassandra.status",
        "State of the Cassandra session, the circuit breaker and the queues",
        rpc::status
    ),
    rpcs::END,
]);

unsafe extern "C" fn parse_variable(spec: *mut sys::pv_spec_t, name: *mut sys::str_) -> c_int {
    // SAFETY: the server's call, passed on.
    unsafe { pv::parse(variables::ALL, spec, name) }
}

unsafe extern "C" fn read_variable(
    message: *mut sys::sip_msg,
    param: *mut sys::pv_param_t,
    value: *mut sys::pv_value_t,
) -> c_int {
    // SAFETY: the server's call, passed on.
    unsafe { pv::get(variables::ALL, message, param, value) }
}

/// Called by the loader, before `mod_init` of any module.
#[unsafe(no_mangle)]
unsafe extern "C" fn mod_register(
    _path: *mut c_char,
    _flags: *mut c_int,
    _reserved: *mut c_void,
    _reserved_too: *mut c_void,
) -> c_int {
    host::guard::guard(|| kemi::register(&TWINS.0))
}

unsafe extern "C" fn mod_init() -> c_int {
    host::guard::guard(lifecycle::initialise)
}

unsafe extern "C" fn child_init(rank: c_int) -> c_int {
    host::guard::guard(|| lifecycle::start_process(host::process::Rank::from_raw(rank)))
}

/// The module's description: what the loader looks for.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, private_interfaces)]
pub static exports: Table<sys::module_exports_t> = Table(sys::module_exports_t {
    name: c"cassandra".as_ptr().cast_mut(),
    dlflags: 0,
    cmds: COMMANDS.0.as_ptr().cast_mut(),
    params: PARAMETERS.0.as_ptr().cast_mut(),
    rpc_methods: METHODS.0.as_ptr().cast_mut(),
    pv_items: VARIABLES.0.as_ptr().cast_mut(),
    response_f: None,
    init_mod_f: Some(mod_init),
    init_child_f: Some(child_init),
    destroy_mod_f: None,
});

/// The loader compares this with its own version string.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, private_interfaces)]
pub static module_version: Table<*const c_char> = Table(concat!(env!("KAMAILIO_FULL_VERSION"), "\0").as_ptr().cast());

/// The loader compares this with its own compile flags.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, private_interfaces)]
pub static module_flags: Table<*const c_char> = Table(concat!(env!("KAMAILIO_FLAGS"), "\0").as_ptr().cast());
