//! `cassandra.so`: a Kamailio module that gives the routing script Apache Cassandra.
//!
//! This file holds the tables that Kamailio reads when it loads the module. Each row names the function that does the work:
//! [`auth`], [`alias`], [`location`] and [`calls`] for the script, [`rpc`] for operators, [`lifecycle`] for the server's start and stop. A script
//! function is one row of [`functions!`], from which come its entry for the configuration's language and its KEMI twin.

mod alias;
mod auth;
mod bridge_client;
mod calls;
mod config;
mod forms;
mod host;
mod io_process;
mod lifecycle;
mod location;
mod outcome;
mod rpc;
mod statistics;
mod upkeep;
mod variables;

use std::ffi::c_char;
use std::os::raw::{c_int, c_void};

use config::registrar::Setting;
use host::command::{Table, functions};
use host::{kemi, params, pv, rpc as rpcs, sys};
use location::{contacts, lookup, save};

functions! { COMMANDS, TWINS:
    "cassandra_www_authenticate"(realm: text, table: text) = auth::www_authenticate, kemi "www_authenticate";
    "cassandra_www_authenticate"(realm: text, table: text, method: text)
        = auth::www_authenticate, kemi "www_authenticate_method";
    "cassandra_www_authenticate_async"(realm: text, table: text, route: route)
        = auth::www_authenticate_async, kemi "www_authenticate_async";
    "cassandra_www_authenticate_async"(realm: text, table: text, method: text, route: route)
        = auth::www_authenticate_async, kemi "www_authenticate_method_async";
    "cassandra_www_authorize"(realm: text, table: text) = auth::www_authenticate, kemi "www_authorize";
    "cassandra_www_authorize"(realm: text, table: text, method: text)
        = auth::www_authenticate, kemi "www_authorize_method";
    "cassandra_www_authorize_async"(realm: text, table: text, route: route)
        = auth::www_authenticate_async, kemi "www_authorize_async";
    "cassandra_www_authorize_async"(realm: text, table: text, method: text, route: route)
        = auth::www_authenticate_async, kemi "www_authorize_method_async";
    "cassandra_proxy_authenticate"(realm: text, table: text) = auth::proxy_authenticate, kemi "proxy_authenticate";
    "cassandra_proxy_authenticate_async"(realm: text, table: text, route: route)
        = auth::proxy_authenticate_async, kemi "proxy_authenticate_async";
    "cassandra_proxy_authorize"(realm: text, table: text) = auth::proxy_authenticate, kemi "proxy_authorize";
    "cassandra_proxy_authorize_async"(realm: text, table: text, route: route)
        = auth::proxy_authenticate_async, kemi "proxy_authorize_async";
    "cassandra_auth_check"(realm: text, table: text, flags: number) = auth::auth_check, kemi "auth_check";
    "cassandra_auth_check_async"(realm: text, table: text, flags: number, route: route)
        = auth::auth_check_async, kemi "auth_check_async";
    "cassandra_is_subscriber"(uri: text, table: text, flags: number) in ANY_ROUTE
        = auth::is_subscriber, kemi "is_subscriber";
    "cassandra_is_subscriber_async"(uri: text, table: text, flags: number, route: route)
        = auth::is_subscriber_async, kemi "is_subscriber_async";
    "cassandra_www_challenge"(realm: text, flags: number) = auth::www_challenge, kemi "www_challenge";
    "cassandra_proxy_challenge"(realm: text, flags: number) = auth::proxy_challenge, kemi "proxy_challenge";
    "cassandra_auth_challenge"(realm: text, flags: number) = auth::auth_challenge, kemi "auth_challenge";
    "cassandra_auth_save"(realm: text) = save::auth_save;
    "cassandra_auth_save"(realm: text, flags: number) = save::auth_save, kemi "auth_save";
    "cassandra_auth_save_async"(realm: text, route: route) = save::auth_save_async;
    "cassandra_auth_save_async"(realm: text, flags: number, route: route) = save::auth_save_async, kemi "auth_save_async";
    "cassandra_save"(domain: text) = save::save;
    "cassandra_save"(domain: text, flags: number) = save::save, kemi "save";
    "cassandra_save"(domain: text, flags: number, uri: text) = save::save, kemi "save_uri";
    "cassandra_save_async"(domain: text, route: route) = save::save_async;
    "cassandra_save_async"(domain: text, flags: number, route: route) = save::save_async, kemi "save_async";
    "cassandra_save_async"(domain: text, flags: number, uri: text, route: route)
        = save::save_async, kemi "save_uri_async";
    "cassandra_call_event"(event: text) in ANY_ROUTE = calls::call_event;
    "cassandra_call_event"(event: text, attributes: attributes) in ANY_ROUTE = calls::call_event, kemi "call_event";
    "cassandra_call_attr"(name: text, value: text) in ANY_ROUTE = calls::call_attribute, kemi "call_attr";
    "cassandra_calls_count"(kind: text, key: text) = calls::calls_count, kemi "calls_count";
    "cassandra_calls_count_async"(kind: text, key: text, route: route)
        = calls::calls_count_async, kemi "calls_count_async";
    "cassandra_reg_send_reply"() = save::send_kept_reply, kemi "reg_send_reply";
    "cassandra_add_sock_hdr"(name: text) = save::add_sock_hdr, kemi "add_sock_hdr";
    "cassandra_lookup"(domain: text) = lookup::lookup, kemi "lookup";
    "cassandra_lookup"(domain: text, uri: text) = lookup::lookup, kemi "lookup_uri";
    "cassandra_lookup_async"(domain: text, route: route) = lookup::lookup_async, kemi "lookup_async";
    "cassandra_lookup_async"(domain: text, uri: text, route: route) = lookup::lookup_async, kemi "lookup_uri_async";
    "cassandra_lookup_to_dset"(domain: text) = lookup::lookup_to_dset;
    "cassandra_lookup_to_dset"(domain: text, uri: text) = lookup::lookup_to_dset, kemi "lookup_to_dset";
    "cassandra_lookup_to_dset_async"(domain: text, route: route) = lookup::lookup_to_dset_async;
    "cassandra_lookup_to_dset_async"(domain: text, uri: text, route: route)
        = lookup::lookup_to_dset_async, kemi "lookup_to_dset_async";
    "cassandra_lookup_branches"(domain: text) = lookup::lookup_branches, kemi "lookup_branches";
    "cassandra_lookup_branches_async"(domain: text, route: route)
        = lookup::lookup_branches_async, kemi "lookup_branches_async";
    "cassandra_alias_lookup"(table: text) = alias::lookup, kemi "alias_lookup";
    "cassandra_alias_lookup"(table: text, flags: text) = alias::lookup, kemi "alias_lookup_ex";
    "cassandra_alias_lookup_async"(table: text, route: route) = alias::lookup_async, kemi "alias_lookup_async";
    "cassandra_alias_lookup_async"(table: text, flags: text, route: route)
        = alias::lookup_async, kemi "alias_lookup_ex_async";
    "cassandra_alias_find"(table: text, uri: text) in ANY_ROUTE = alias::find;
    "cassandra_alias_find"(table: text, uri: text, flags: text) in ANY_ROUTE = alias::find, kemi "alias_find";
    "cassandra_alias_find_async"(table: text, uri: text, route: route) = alias::find_async;
    "cassandra_alias_find_async"(table: text, uri: text, flags: text, route: route)
        = alias::find_async, kemi "alias_find_async";
    "cassandra_registered"(domain: text) in ANY_ROUTE = contacts::registered, kemi "registered";
    "cassandra_registered"(domain: text, uri: text) in ANY_ROUTE = contacts::registered, kemi "registered_uri";
    "cassandra_registered"(domain: text, uri: text, option: number) in ANY_ROUTE
        = contacts::registered, kemi "registered_flags";
    "cassandra_registered"(domain: text, uri: text, option: number, action: number) in ANY_ROUTE
        = contacts::registered, kemi "registered_action";
    "cassandra_registered_async"(domain: text, route: route) = contacts::registered_async;
    "cassandra_registered_async"(domain: text, uri: text, route: route)
        = contacts::registered_async, kemi "registered_async";
    "cassandra_registered_async"(domain: text, uri: text, option: number, route: route) = contacts::registered_async;
    "cassandra_registered_async"(domain: text, uri: text, option: number, action: number, route: route)
        = contacts::registered_async, kemi "registered_action_async";
    "cassandra_unregister"(domain: text, uri: text) in ANY_ROUTE = contacts::unregister, kemi "unregister";
    "cassandra_unregister"(domain: text, uri: text, ruid: text) in ANY_ROUTE
        = contacts::unregister, kemi "unregister_ruid";
    "cassandra_unregister_async"(domain: text, uri: text, route: route)
        = contacts::unregister_async, kemi "unregister_async";
    "cassandra_unregister_async"(domain: text, uri: text, ruid: text, route: route)
        = contacts::unregister_async, kemi "unregister_ruid_async";
    "cassandra_fetch_contacts"(domain: text, uri: text, profile: text) in ANY_ROUTE
        = contacts::fetch_contacts, kemi "fetch_contacts";
    "cassandra_fetch_contacts_async"(domain: text, uri: text, profile: text, route: route)
        = contacts::fetch_contacts_async, kemi "fetch_contacts_async";
    "cassandra_free_contacts"(profile: text) in ANY_ROUTE = contacts::free_contacts, kemi "free_contacts";
    "cassandra_lookup_xavp"(domain: text, uri: text, record: text, contact: text) in ANY_ROUTE
        = contacts::lookup_xavp, kemi "lookup_xavp";
    "cassandra_lookup_xavp_async"(domain: text, uri: text, record: text, contact: text, route: route)
        = contacts::lookup_xavp_async, kemi "lookup_xavp_async";
    // Not for scripts: the first action of every resumed route.
    "cassandra_apply_answer"() = outcome::apply_pending;
    #[cfg(feature = "fault-injection")]
    "cassandra_test_panic"() = lifecycle::panic_in_command;
    #[cfg(feature = "fault-injection")]
    "cassandra_test_io_panic"() = lifecycle::panic_in_io_process;
}

/// The fixed parameters; those that can be changed at run time follow, then the end of the table.
static PARAMETERS: Table<[sys::param_export_t; 74 + Setting::COUNT + 1]> = Table([
    config::raw::CONTACT_POINTS.export(c"contact_points"),
    config::raw::KEYSPACE.export(c"keyspace"),
    config::raw::LOCAL_DC.export(c"local_dc"),
    config::raw::USERNAME.export(c"username"),
    config::raw::PASSWORD.export(c"password"),
    config::raw::TLS_CA_FILE.export(c"tls_ca_file"),
    config::raw::TLS_CERT_FILE.export(c"tls_cert_file"),
    config::raw::TLS_KEY_FILE.export(c"tls_key_file"),
    config::raw::NODE_NAME.export(c"node_name"),
    config::raw::NODE_URI.export(c"node_uri"),
    config::raw::CALL_TIMEOUT.export(c"call_timeout"),
    config::raw::REQUEST_TIMEOUT.export(c"request_timeout"),
    config::raw::CONNECT_TIMEOUT.export(c"connect_timeout"),
    config::raw::BREAKER_THRESHOLD.export(c"breaker_threshold"),
    config::raw::RETRY_INTERVAL.export(c"retry_interval"),
    config::raw::CREDENTIAL_CACHE_SIZE.export(c"credential_cache_size"),
    config::raw::CREDENTIAL_CACHE_TTL.export(c"credential_cache_ttl"),
    config::raw::CREDENTIAL_CACHE_NEGATIVE_TTL.export(c"credential_cache_negative_ttl"),
    config::raw::AUTH_FAILURES_PER_SOURCE.export(c"auth_failures_per_source"),
    config::raw::AUTH_FAILURES_PER_AOR.export(c"auth_failures_per_aor"),
    config::raw::AUTH_FAILURES_INTERVAL.export(c"auth_failures_interval"),
    config::raw::AUTH_SOURCE.export(c"auth_source"),
    config::raw::ALGORITHMS.export(c"algorithms"),
    config::raw::LOAD_CREDENTIALS.export(c"load_credentials"),
    config::raw::USE_DOMAIN.export(c"use_domain"),
    config::raw::ADD_AUTHINFO_HDR.export(c"add_authinfo_hdr"),
    config::raw::CHECK_DIGEST_URI.export(c"check_digest_uri"),
    config::raw::MAX_IN_FLIGHT.export(c"max_in_flight"),
    config::raw::BATCH_INTERVAL.export(c"batch_interval"),
    config::raw::RESUME_WORKERS.export(c"resume_workers"),
    config::raw::DRAIN_TIMEOUT.export(c"drain_timeout"),
    config::raw::CALL_ID.export(c"call_id"),
    config::raw::CALL_EXTRA.export(c"call_extra"),
    config::raw::CALL_LOG.export(c"call_log"),
    config::raw::REGISTRATION_LOG.export(c"registration_log"),
    config::raw::CALL_QUEUE.export(c"call_queue"),
    config::raw::CALL_SYNC_INTERVAL.export(c"call_sync_interval"),
    config::raw::CALL_SPOOL_SIZE.export(c"call_spool_size"),
    config::raw::CALL_REPLAY_RATE.export(c"call_replay_rate"),
    config::raw::CALL_INTERVAL.export(c"call_interval"),
    config::raw::CALL_LIFETIME.export(c"call_lifetime"),
    config::raw::CALL_DIALOGS.export(c"call_dialogs"),
    config::raw::STALE_LOOKUP.export(c"stale_lookup"),
    config::raw::STALE_BINDINGS.export(c"stale_bindings"),
    config::raw::MIN_EXPIRES_MODE.export(c"min_expires_mode"),
    config::raw::CONTACT_MAX_SIZE.export(c"contact_max_size"),
    config::raw::USE_PATH.export(c"use_path"),
    config::raw::PATH_MODE.export(c"path_mode"),
    config::raw::PATH_USE_RECEIVED.export(c"path_use_received"),
    config::raw::PATH_CHECK_LOCAL.export(c"path_check_local"),
    config::raw::NAT_BFLAG.export(c"nat_bflag"),
    config::raw::CSEQ_DELAY.export(c"cseq_delay"),
    config::raw::OUTBOUND_MODE.export(c"outbound_mode"),
    config::raw::REGID_MODE.export(c"regid_mode"),
    config::raw::FLOW_TIMER.export(c"flow_timer"),
    config::raw::GRUU_ENABLED.export(c"gruu_enabled"),
    config::raw::RECEIVED_AVP.export(c"received_avp"),
    config::raw::RECEIVED_PARAM.export(c"received_param"),
    config::raw::SOCK_FLAG.export(c"sock_flag"),
    config::raw::SOCK_HDR_NAME.export(c"sock_hdr_name"),
    config::raw::SOCK_MODE.export(c"sock_mode"),
    config::raw::REALM_PREFIX.export(c"realm_prefix"),
    config::raw::METHOD_FILTERING.export(c"method_filtering"),
    config::raw::LOOKUP_FILTER_MODE.export(c"lookup_filter_mode"),
    config::raw::DESC_TIME_ORDER.export(c"desc_time_order"),
    config::raw::XAVP_CFG.export(c"xavp_cfg"),
    config::raw::XAVP_RCD.export(c"xavp_rcd"),
    config::raw::XAVP_RCD_MASK.export(c"xavp_rcd_mask"),
    config::raw::XAVP_CONTACT.export(c"xavp_contact"),
    config::raw::STATE_DIR.export(c"state_dir"),
    config::raw::EVENT_CALLBACK.export(c"event_callback"),
    config::raw::KA_MODE.export(c"ka_mode"),
    config::raw::KA_INTERVAL.export(c"ka_interval"),
    config::raw::KA_FROM.export(c"ka_from"),
    Setting::DefaultExpires.export(),
    Setting::DefaultExpiresRange.export(),
    Setting::ExpiresRange.export(),
    Setting::MinExpires.export(),
    Setting::MaxExpires.export(),
    Setting::MaxContacts.export(),
    Setting::RetryAfter.export(),
    Setting::CaseSensitive.export(),
    Setting::DefaultQ.export(),
    Setting::AppendBranches.export(),
    Setting::UseExpiredContacts.export(),
    params::END,
]);

static VARIABLES: Table<[sys::pv_export_t; 4]> = Table([
    pv::class!("cassandra", variables::parse, variables::read),
    pv::class!("cassandra_call", calls::parse_variable, calls::read_variable),
    pv::class!("cassandra_contact", contacts::parse_variable, contacts::read_variable),
    pv::END,
]);

static METHODS: Table<[sys::rpc_export_t; 16]> = Table([
    rpcs::method!(
        "cassandra.status",
        "State of the Cassandra session, the circuit breaker and the queues",
        rpc::status
    ),
    rpcs::method!("cassandra.stats", "All statistics of the module", rpc::stats),
    rpcs::method!(
        "cassandra.breaker",
        "Shows the circuit breaker; open keeps everybody off Cassandra until close. Parameters: [open|close]",
        rpc::breaker
    ),
    rpcs::method!("cassandra.call", "What happened to a call. Parameters: CALLID", rpc::calls::call),
    rpcs::method!(
        "cassandra.calls",
        "Calls under way on all nodes. Parameters: [dc=DC] [node=NODE] [account=ACCOUNT] [subscriber=AOR] [limit=N]",
        rpc::calls::calls
    ),
    rpcs::method!("cassandra.calls_count", "How many calls are under way on each node", rpc::calls::calls_count),
    rpcs::method!("cassandra.lookup", "Current bindings of an AoR. Parameters: AOR", rpc::location::lookup),
    rpcs::method!("cassandra.alias", "Whom an alias means. Parameters: ALIAS", rpc::location::alias),
    rpcs::method!("cassandra.rm", "Removes all bindings of an AoR. Parameters: AOR", rpc::location::rm),
    rpcs::method!(
        "cassandra.rm_contact",
        "Removes one binding of an AoR. Parameters: AOR CONTACT",
        rpc::location::rm_contact
    ),
    rpcs::method!(
        "cassandra.add",
        "Adds a binding to an AoR. Parameters: AOR CONTACT EXPIRES [Q [PATH [FLAGS [CFLAGS [METHODS]]]]]",
        rpc::location::add
    ),
    rpcs::method!(
        "cassandra.cache_stats",
        "How many AoRs the credential cache remembers, its hits and its reads",
        rpc::authentication::cache_stats
    ),
    rpcs::method!(
        "cassandra.cache_flush",
        "Forgets the remembered credentials of an AoR, or all. Parameters: [AOR]",
        rpc::authentication::cache_flush
    ),
    rpcs::method!(
        "cassandra.guard_list",
        "Sources and AoRs with failures to authenticate, and how many each has left before it is refused unread",
        rpc::authentication::guard_list
    ),
    rpcs::method!(
        "cassandra.guard_clear",
        "Forgets the failures of a source address, of an AoR, or all. Parameters: [SOURCE|AOR]",
        rpc::authentication::guard_clear
    ),
    rpcs::END,
]);

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

unsafe extern "C" fn destroy() {
    host::guard::guard(|| {
        lifecycle::finish();
        0
    });
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
    destroy_mod_f: Some(destroy),
});

/// The loader compares this with its own version string.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, private_interfaces)]
pub static module_version: Table<*const c_char> = Table(concat!(env!("KAMAILIO_FULL_VERSION"), "\0").as_ptr().cast());

/// The loader compares this with its own compile flags.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, private_interfaces)]
pub static module_flags: Table<*const c_char> = Table(concat!(env!("KAMAILIO_FLAGS"), "\0").as_ptr().cast());
