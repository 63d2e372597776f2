//! Module parameters, parsed into one validated configuration at the start.
#![forbid(unsafe_code)]

pub(crate) mod registrar;

use std::path::PathBuf;
use std::time::Duration;

use bridge::attributes::{self, Column};
use bridge::calls::CallsConfig;
use bridge::credentials::CacheConfig;
use bridge::guard::GuardConfig;
use bridge::owned::{Events, Keepalive, OwnedConfig};
use bridge::server::Limits;
use bridge::service::ServiceConfig;
use domain::digest::Algorithms;
use domain::register::Node;
use store::{Login, StoreConfig, TlsConfig};

use self::registrar::Registrar;
use crate::host;
use crate::host::pv::{Attribute, Named};

/// The parameters as `modparam` sets them, with their defaults.
pub(crate) mod raw {
    use crate::host::params::{Number, Text};

    pub(crate) static CONTACT_POINTS: Text = Text::unset();
    pub(crate) static KEYSPACE: Text = Text::unset();
    pub(crate) static LOCAL_DC: Text = Text::unset();
    pub(crate) static USERNAME: Text = Text::unset();
    pub(crate) static PASSWORD: Text = Text::unset();
    pub(crate) static TLS_CA_FILE: Text = Text::unset();
    pub(crate) static TLS_CERT_FILE: Text = Text::unset();
    pub(crate) static TLS_KEY_FILE: Text = Text::unset();
    pub(crate) static NODE_NAME: Text = Text::unset();
    pub(crate) static CALL_TIMEOUT: Number = Number::default(500);
    pub(crate) static REQUEST_TIMEOUT: Number = Number::default(200);
    pub(crate) static CONNECT_TIMEOUT: Number = Number::default(5000);
    pub(crate) static BREAKER_THRESHOLD: Number = Number::default(20);
    pub(crate) static RETRY_INTERVAL: Number = Number::default(1000);
    pub(crate) static CREDENTIAL_CACHE_SIZE: Number = Number::default(100_000);
    pub(crate) static CREDENTIAL_CACHE_TTL: Number = Number::default(60);
    pub(crate) static CREDENTIAL_CACHE_NEGATIVE_TTL: Number = Number::default(5);
    pub(crate) static AUTH_FAILURES_PER_SOURCE: Number = Number::default(100);
    pub(crate) static AUTH_FAILURES_PER_AOR: Number = Number::default(20);
    pub(crate) static AUTH_FAILURES_INTERVAL: Number = Number::default(60);
    pub(crate) static AUTH_SOURCE: Text = Text::unset();
    pub(crate) static ALGORITHMS: Text = Text::unset();
    pub(crate) static LOAD_CREDENTIALS: Text = Text::unset();
    pub(crate) static USE_DOMAIN: Number = Number::default(0);
    pub(crate) static ADD_AUTHINFO_HDR: Number = Number::default(0);
    pub(crate) static CHECK_DIGEST_URI: Number = Number::default(0);
    pub(crate) static MAX_IN_FLIGHT: Number = Number::default(4096);
    pub(crate) static BATCH_INTERVAL: Number = Number::default(2000);
    pub(crate) static RESUME_WORKERS: Number = Number::default(4);
    pub(crate) static DRAIN_TIMEOUT: Number = Number::default(5000);
    pub(crate) static MIN_EXPIRES_MODE: Number = Number::default(0);
    pub(crate) static CONTACT_MAX_SIZE: Number = Number::default(512);
    pub(crate) static USE_PATH: Number = Number::default(0);
    pub(crate) static PATH_MODE: Number = Number::default(2);
    pub(crate) static PATH_USE_RECEIVED: Number = Number::default(0);
    pub(crate) static PATH_CHECK_LOCAL: Number = Number::default(0);
    pub(crate) static NAT_BFLAG: Number = Number::default(-1);
    pub(crate) static CSEQ_DELAY: Number = Number::default(20);
    pub(crate) static OUTBOUND_MODE: Number = Number::default(0);
    pub(crate) static REGID_MODE: Number = Number::default(0);
    pub(crate) static FLOW_TIMER: Number = Number::default(0);
    pub(crate) static GRUU_ENABLED: Number = Number::default(1);
    pub(crate) static RECEIVED_AVP: Text = Text::unset();
    pub(crate) static RECEIVED_PARAM: Text = Text::unset();
    pub(crate) static SOCK_FLAG: Number = Number::default(-1);
    pub(crate) static SOCK_HDR_NAME: Text = Text::unset();
    pub(crate) static SOCK_MODE: Number = Number::default(0);
    pub(crate) static REALM_PREFIX: Text = Text::unset();
    pub(crate) static METHOD_FILTERING: Number = Number::default(0);
    pub(crate) static LOOKUP_FILTER_MODE: Number = Number::default(0);
    pub(crate) static DESC_TIME_ORDER: Number = Number::default(0);
    pub(crate) static XAVP_CFG: Text = Text::unset();
    pub(crate) static XAVP_RCD: Text = Text::unset();
    pub(crate) static XAVP_RCD_MASK: Number = Number::default(0);
    pub(crate) static XAVP_CONTACT: Text = Text::unset();
    pub(crate) static NODE_URI: Text = Text::unset();
    pub(crate) static STATE_DIR: Text = Text::unset();
    pub(crate) static EVENT_CALLBACK: Text = Text::unset();
    pub(crate) static REGISTRATION_LOG: Number = Number::default(0);
    pub(crate) static KA_MODE: Number = Number::default(0);
    pub(crate) static KA_INTERVAL: Number = Number::default(40);
    pub(crate) static KA_FROM: Text = Text::unset();
    pub(crate) static CALL_ID: Text = Text::unset();
    pub(crate) static CALL_EXTRA: Text = Text::unset();
    pub(crate) static CALL_LOG: Number = Number::default(0);
    pub(crate) static CALL_QUEUE: Number = Number::default(10_000);
    pub(crate) static CALL_SYNC_INTERVAL: Number = Number::default(20);
    pub(crate) static CALL_SPOOL_SIZE: Number = Number::default(1024);
    pub(crate) static CALL_REPLAY_RATE: Number = Number::default(2000);
    pub(crate) static CALL_INTERVAL: Number = Number::default(60);
    pub(crate) static CALL_LIFETIME: Number = Number::default(43_200);
    pub(crate) static CALL_DIALOGS: Number = Number::default(1);
    pub(crate) static STALE_LOOKUP: Number = Number::default(1);
    pub(crate) static STALE_BINDINGS: Number = Number::default(100_000);
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What the I/O process does.
    pub(crate) service: ServiceConfig,
    /// The registrar's rules.
    pub(crate) registrar: Registrar,
    /// The KEMI script's function for events; `""` for none.
    pub(crate) event_callback: String,
    /// URI of From in keepalives; `""` for one in the contact's domain.
    pub(crate) keepalive_from: String,
    /// Its bounds.
    pub(crate) limits: Limits,
    /// How far apart the I/O process takes its work under load.
    pub(crate) batch_interval: Duration,
    /// How long a script function waits, or a transaction stays suspended.
    pub(crate) call_timeout: Duration,
    /// Processes that run resumed routes.
    pub(crate) resume_workers: i32,
    /// How script functions check and ask for credentials.
    pub(crate) authentication: Authentication,
    /// What is told of calls.
    pub(crate) calls: CallRules,
}

/// What names a call, and what is told of each of its events.
#[derive(Debug, Clone)]
pub(crate) struct CallRules {
    /// What all legs of a call have in common; the Call-ID without this.
    pub(crate) call_id: Option<Named>,
    /// Attributes of every event.
    pub(crate) extra: Vec<Attribute>,
    /// Whether what happens to dialogs is recorded.
    pub(crate) dialogs: bool,
}

/// How script functions check and ask for credentials.
#[derive(Debug, Clone)]
pub(crate) struct Authentication {
    /// One challenge each, most preferred first.
    pub(crate) algorithms: Algorithms,
    /// What the script is told of who has authenticated.
    pub(crate) loaded: Vec<Loaded>,
    /// Names the source of a request; its address without this.
    pub(crate) source: Option<Named>,
    /// Whether identity checks compare domains, too.
    pub(crate) use_domain: bool,
    /// Whether right credentials are answered with Authentication-Info.
    pub(crate) authentication_info: bool,
    /// Whether the digest URI must be equal to the Request-URI.
    pub(crate) check_digest_uri: bool,
}

/// A column of a subscriber, and the variable that takes its value.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The column.
    pub(crate) column: Column,
    /// The variable.
    pub(crate) variable: Named,
}

/// Reads and checks all parameters.
///
/// # Errors
/// One sentence that names the parameter, its value and what is allowed.
pub(crate) fn read() -> Result<Config, String> {
    let call_timeout = millis("call_timeout", &raw::CALL_TIMEOUT, 10..=30_000)?;
    let request_timeout = millis("request_timeout", &raw::REQUEST_TIMEOUT, 5..=30_000)?;
    // A read may take two: at LOCAL_QUORUM, then at LOCAL_ONE.
    if request_timeout * 2 > call_timeout {
        return Err(format!(
            "parameter request_timeout is {} but must be at most half of call_timeout ({}), so that a fallback read still fits",
            request_timeout.as_millis(),
            call_timeout.as_millis()
        ));
    }
    let local_dc = text("local_dc", &raw::LOCAL_DC, None)?;
    let registrar = Registrar::read()?;
    let authentication = authentication()?;
    let calls = calls()?;
    Ok(Config {
        limits: Limits {
            in_flight: number("max_in_flight", &raw::MAX_IN_FLIGHT, 1..=1_000_000)? as usize,
            drain: millis("drain_timeout", &raw::DRAIN_TIMEOUT, 0..=50_000)?,
            event_turn: calls.turn(),
        },
        service: ServiceConfig {
            store: store_config(&local_dc, request_timeout)?,
            node: node(local_dc)?,
            max_expires: registrar::initial_max_expires(),
            owned: OwnedConfig {
                events: Events::default(),
                log: switch("registration_log", &raw::REGISTRATION_LOG)?,
                keepalive: keepalive(&registrar)?,
                file: state_file("contacts.redb")?,
            },
            stale_bindings: stale_bindings()?,
            calls,
            credential_cache: credential_cache()?,
            guard: guard()?,
            attributes: authentication.loaded.iter().map(|loaded| loaded.column.clone()).collect(),
            breaker_threshold: number("breaker_threshold", &raw::BREAKER_THRESHOLD, 1..=1_000_000)?,
            retry_interval: millis("retry_interval", &raw::RETRY_INTERVAL, 10..=3_600_000)?,
        },
        registrar,
        event_callback: raw::EVENT_CALLBACK.get().unwrap_or_default(),
        keepalive_from: sip_uri("ka_from", &raw::KA_FROM)?,
        batch_interval: batch_interval()?,
        call_timeout,
        resume_workers: number("resume_workers", &raw::RESUME_WORKERS, 1..=1000)? as i32,
        authentication,
        calls: call_rules()?,
    })
}

/// Checks what is known only when all modules have started: a suspended transaction must have its answer before tm gives it up.
///
/// # Errors
/// One sentence, as [`read`].
pub(crate) fn check_transaction_timer(config: &Config) -> Result<(), String> {
    match host::tm::fr_timer_ms() {
        Some(fr_timer) if u128::from(fr_timer) <= config.call_timeout.as_millis() => Err(format!(
            "parameter call_timeout is {} but must be below tm's fr_timer ({fr_timer} ms): lower the one or raise the other",
            config.call_timeout.as_millis()
        )),
        _ => Ok(()),
    }
}

fn store_config(local_dc: &str, request_timeout: Duration) -> Result<StoreConfig, String> {
    Ok(StoreConfig {
        contact_points: contact_points()?,
        keyspace: identifier("keyspace", &raw::KEYSPACE, "sip")?,
        local_dc: local_dc.to_owned(),
        login: login()?,
        tls: tls()?,
        request_timeout,
        connect_timeout: millis("connect_timeout", &raw::CONNECT_TIMEOUT, 100..=60_000)?,
        compression: false,
        speculative_after: None,
    })
}

fn batch_interval() -> Result<Duration, String> {
    number("batch_interval", &raw::BATCH_INTERVAL, 0..=20_000)
        .map(|value| Duration::from_micros(value.into()))
        .map_err(|error| format!("{error} microseconds"))
}

fn credential_cache() -> Result<CacheConfig, String> {
    let lifetime = number("credential_cache_ttl", &raw::CREDENTIAL_CACHE_TTL, 0..=86_400)?;
    let negative = number("credential_cache_negative_ttl", &raw::CREDENTIAL_CACHE_NEGATIVE_TTL, 0..=86_400)?;
    Ok(CacheConfig {
        entries: number("credential_cache_size", &raw::CREDENTIAL_CACHE_SIZE, 1..=10_000_000)? as usize,
        lifetime: Duration::from_secs(lifetime.into()),
        negative_lifetime: Duration::from_secs(negative.into()),
    })
}

fn guard() -> Result<GuardConfig, String> {
    let interval = number("auth_failures_interval", &raw::AUTH_FAILURES_INTERVAL, 1..=86_400)?;
    Ok(GuardConfig {
        per_source: number("auth_failures_per_source", &raw::AUTH_FAILURES_PER_SOURCE, 0..=1_000_000_000)?,
        per_aor: number("auth_failures_per_aor", &raw::AUTH_FAILURES_PER_AOR, 0..=1_000_000_000)?,
        interval: Duration::from_secs(interval.into()),
    })
}

fn calls() -> Result<CallsConfig, String> {
    Ok(CallsConfig {
        spool_file: state_file("calls.redb")?,
        spool_bytes: u64::from(number("call_spool_size", &raw::CALL_SPOOL_SIZE, 1..=1_000_000)?) << 20,
        sync_within: millis("call_sync_interval", &raw::CALL_SYNC_INTERVAL, 2..=10_000)?,
        queue: number("call_queue", &raw::CALL_QUEUE, 1..=10_000_000)? as usize,
        replay_rate: number("call_replay_rate", &raw::CALL_REPLAY_RATE, 1..=1_000_000)?,
        log: switch("call_log", &raw::CALL_LOG)?,
        interval: seconds("call_interval", &raw::CALL_INTERVAL, 2..=3600)?,
        lifetime: seconds("call_lifetime", &raw::CALL_LIFETIME, 1..=31_536_000)?,
    })
}

/// What names a call and what is told of each event, from variables.
fn call_rules() -> Result<CallRules, String> {
    let call_id = raw::CALL_ID.get().map(|written| {
        Named::find(&written)
            .ok_or_else(|| format!("parameter call_id is '{written}' but must be a variable, for example $hdr(X-Call)"))
    });
    let written = raw::CALL_EXTRA.get().unwrap_or_default();
    let extra =
        Attribute::parse_all(&written).map_err(|error| format!("parameter call_extra is '{written}': {error}"))?;
    Ok(CallRules { call_id: call_id.transpose()?, extra, dialogs: switch("call_dialogs", &raw::CALL_DIALOGS)? })
}

fn authentication() -> Result<Authentication, String> {
    Ok(Authentication {
        algorithms: algorithms()?,
        loaded: loaded()?,
        source: source()?,
        use_domain: switch("use_domain", &raw::USE_DOMAIN)?,
        authentication_info: switch("add_authinfo_hdr", &raw::ADD_AUTHINFO_HDR)?,
        check_digest_uri: switch("check_digest_uri", &raw::CHECK_DIGEST_URI)?,
    })
}

fn algorithms() -> Result<Algorithms, String> {
    let written = text("algorithms", &raw::ALGORITHMS, Some("MD5"))?;
    written.parse().map_err(|error| format!("parameter algorithms is '{written}' but must be {error}"))
}

fn loaded() -> Result<Vec<Loaded>, String> {
    let written = raw::LOAD_CREDENTIALS.get().unwrap_or_default();
    let listed = attributes::parse(&written).map_err(|part| {
        format!(
            "parameter load_credentials is '{written}' but '{part}' is not understood: \
             write column or $variable=column, separated by semicolons"
        )
    })?;
    listed.into_iter().map(|(name, column)| Ok(Loaded { column, variable: writable(&name)? })).collect()
}

fn writable(name: &str) -> Result<Named, String> {
    Named::find(name).filter(|variable| variable.is_writable()).ok_or_else(|| {
        format!("parameter load_credentials names {name}, which is no variable that can be set: use an AVP or XAVP")
    })
}

fn source() -> Result<Option<Named>, String> {
    let Some(written) = raw::AUTH_SOURCE.get() else { return Ok(None) };
    let named = Named::find(&written).ok_or_else(|| {
        format!("parameter auth_source is '{written}' but must be a variable, for example $si or $hdr(X-Source)")
    });
    named.map(Some)
}

fn node(dc: String) -> Result<Node, String> {
    let name = raw::NODE_NAME.get().unwrap_or_else(host_name);
    Ok(Node { dc, name, uri: sip_uri("node_uri", &raw::NODE_URI)?, longest_expiry: 0 })
}

/// A SIP URI; `""` when it is not set.
fn sip_uri(name: &str, parameter: &host::params::Text) -> Result<String, String> {
    let uri = parameter.get().unwrap_or_default();
    if uri.is_empty() || domain::uri::SipUri::parse(&uri).is_ok() {
        return Ok(uri);
    }
    Err(format!("parameter {name} is '{uri}' but must be a SIP URI, for example sip:192.0.2.1:5060"))
}

/// As the stock `ka_mode`: 1 all contacts, 2 those behind a NAT, 4 those on UDP.
fn keepalive(registrar: &Registrar) -> Result<Option<Keepalive>, String> {
    let mode = number("ka_mode", &raw::KA_MODE, 0..=7)?;
    let interval = Duration::from_secs(number("ka_interval", &raw::KA_INTERVAL, 1..=3600)?.into());
    let rule =
        Keepalive { interval, natted_only: (mode & 2 != 0).then_some(registrar.nat_flags()), udp_only: mode & 4 != 0 };
    Ok((mode != 0).then_some(rule))
}

/// The file of the contacts that this node owns.
fn state_file(name: &str) -> Result<Option<PathBuf>, String> {
    let Some(dir) = raw::STATE_DIR.get().filter(|dir| !dir.is_empty()).map(PathBuf::from) else { return Ok(None) };
    let probe = dir.join(".writable");
    match std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => Ok(Some(dir.join(name))),
        Err(error) => Err(format!(
            "parameter state_dir is '{}' but no file can be made there: {error}; make the directory and give it to Kamailio's user",
            dir.display()
        )),
    }
}

fn stale_bindings() -> Result<usize, String> {
    let bindings = number("stale_bindings", &raw::STALE_BINDINGS, 1..=100_000_000)?;
    Ok(if switch("stale_lookup", &raw::STALE_LOOKUP)? { bindings as usize } else { 0 })
}

fn contact_points() -> Result<Vec<String>, String> {
    let written = text("contact_points", &raw::CONTACT_POINTS, Some("127.0.0.1:9042"))?;
    written.split(',').map(|point| contact_point(point.trim(), &written)).collect()
}

fn contact_point(point: &str, written: &str) -> Result<String, String> {
    let wrong =
        || format!("parameter contact_points is '{written}' but must be a comma-separated list of host or host:port");
    let (host, port) = match point.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse::<u16>().map_err(|_| wrong())?)
        }
        _ => (point, 9042),
    };
    if host.is_empty() || port == 0 || host.chars().any(char::is_whitespace) {
        Err(wrong())
    } else {
        Ok(format!("{host}:{port}"))
    }
}

fn login() -> Result<Option<Login>, String> {
    match (raw::USERNAME.get(), raw::PASSWORD.get()) {
        (None, None) => Ok(None),
        (Some(username), Some(password)) => Ok(Some(Login { username, password })),
        (Some(_), None) => Err("parameter username is set but password is not: set both or neither".to_owned()),
        (None, Some(_)) => Err("parameter password is set but username is not: set both or neither".to_owned()),
    }
}

fn tls() -> Result<Option<TlsConfig>, String> {
    let cert_file = file("tls_cert_file", &raw::TLS_CERT_FILE)?;
    let key_file = file("tls_key_file", &raw::TLS_KEY_FILE)?;
    if cert_file.is_some() != key_file.is_some() {
        return Err("parameters tls_cert_file and tls_key_file belong together: set both or neither".to_owned());
    }
    match file("tls_ca_file", &raw::TLS_CA_FILE)? {
        Some(ca_file) => Ok(Some(TlsConfig { ca_file, cert_file, key_file })),
        None if cert_file.is_some() => Err(
            "parameter tls_cert_file is set but tls_ca_file is not: name the CA that signed Cassandra's certificate"
                .to_owned(),
        ),
        None => Ok(None),
    }
}

fn file(name: &str, parameter: &host::params::Text) -> Result<Option<PathBuf>, String> {
    let Some(path) = parameter.get().map(PathBuf::from) else { return Ok(None) };
    match std::fs::File::open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err(format!("parameter {name} is '{}' but that file cannot be read: {error}", path.display())),
    }
}

fn text(name: &str, parameter: &host::params::Text, default: Option<&str>) -> Result<String, String> {
    match parameter.get().or(default.map(str::to_owned)) {
        Some(value) if !value.trim().is_empty() => Ok(value),
        Some(_) => Err(format!("parameter {name} is empty")),
        None => Err(format!(
            "parameter {name} is not set: it is required, for example modparam(\"cassandra\", \"{name}\", \"dc1\")"
        )),
    }
}

fn identifier(name: &str, parameter: &host::params::Text, default: &str) -> Result<String, String> {
    let value = text(name, parameter, Some(default))?;
    let fits = value.len() <= 48 && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fits {
        Ok(value)
    } else {
        Err(format!("parameter {name} is '{value}' but must be at most 48 letters, digits and underscores"))
    }
}

fn number(name: &str, parameter: &host::params::Number, allowed: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let value = parameter.get();
    u32::try_from(value)
        .ok()
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| format!("parameter {name} is {value} but must be {} to {}", allowed.start(), allowed.end()))
}

fn seconds(
    name: &str,
    parameter: &host::params::Number,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<Duration, String> {
    number(name, parameter, allowed)
        .map(|value| Duration::from_secs(value.into()))
        .map_err(|error| format!("{error} seconds"))
}

fn millis(
    name: &str,
    parameter: &host::params::Number,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<Duration, String> {
    number(name, parameter, allowed)
        .map(|value| Duration::from_millis(value.into()))
        .map_err(|error| format!("{error} milliseconds"))
}

fn switch(name: &str, parameter: &host::params::Number) -> Result<bool, String> {
    match parameter.get() {
        0 => Ok(false),
        1 => Ok(true),
        wrong => Err(format!("parameter {name} is {wrong} but must be 0 or 1")),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "localhost".to_owned())
}
