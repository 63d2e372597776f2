//! Module parameters, parsed into one validated configuration at the start.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use bridge::credentials::CacheConfig;
use bridge::server::Limits;
use bridge::service::ServiceConfig;
use domain::register::{PathMode, Policy};
use store::{Login, StoreConfig, TlsConfig};

use crate::host;

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
    pub(crate) static MAX_IN_FLIGHT: Number = Number::default(4096);
    pub(crate) static BATCH_INTERVAL: Number = Number::default(1000);
    pub(crate) static RESUME_WORKERS: Number = Number::default(4);
    pub(crate) static DRAIN_TIMEOUT: Number = Number::default(5000);
    pub(crate) static DEFAULT_EXPIRES: Number = Number::default(3600);
    pub(crate) static MIN_EXPIRES: Number = Number::default(60);
    pub(crate) static MIN_EXPIRES_MODE: Number = Number::default(0);
    pub(crate) static MAX_EXPIRES: Number = Number::default(3600);
    pub(crate) static MAX_CONTACTS: Number = Number::default(0);
    pub(crate) static RETRY_AFTER: Number = Number::default(0);
    pub(crate) static DEFAULT_Q: Number = Number::default(-1);
    pub(crate) static CONTACT_MAX_SIZE: Number = Number::default(512);
    pub(crate) static USE_PATH: Number = Number::default(0);
    pub(crate) static PATH_MODE: Number = Number::default(2);
    pub(crate) static CSEQ_DELAY: Number = Number::default(20);
}

/// The validated configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What the I/O process does.
    pub(crate) service: ServiceConfig,
    /// Its bounds.
    pub(crate) limits: Limits,
    /// How far apart the I/O process takes its work under load.
    pub(crate) batch_interval: Duration,
    /// How long a script function waits, or a transaction stays suspended.
    pub(crate) call_timeout: Duration,
    /// Processes that run resumed routes.
    pub(crate) resume_workers: i32,
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
    let node_name = match raw::NODE_NAME.get() {
        Some(name) => name,
        None => host_name(),
    };
    Ok(Config {
        service: ServiceConfig {
            store: store_config(&local_dc, request_timeout)?,
            policy: policy(local_dc, node_name)?,
            credential_cache: credential_cache()?,
            breaker_threshold: number("breaker_threshold", &raw::BREAKER_THRESHOLD, 1..=1_000_000)?,
            retry_interval: millis("retry_interval", &raw::RETRY_INTERVAL, 10..=3_600_000)?,
        },
        limits: Limits {
            in_flight: number("max_in_flight", &raw::MAX_IN_FLIGHT, 1..=1_000_000)? as usize,
            drain: millis("drain_timeout", &raw::DRAIN_TIMEOUT, 0..=50_000)?,
        },
        batch_interval: batch_interval()?,
        call_timeout,
        resume_workers: number("resume_workers", &raw::RESUME_WORKERS, 1..=1000)? as i32,
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
    Ok(CacheConfig {
        entries: number("credential_cache_size", &raw::CREDENTIAL_CACHE_SIZE, 1..=10_000_000)? as usize,
        lifetime: Duration::from_secs(lifetime.into()),
    })
}

fn policy(dc: String, registrar: String) -> Result<Policy, String> {
    let default_expires = number("default_expires", &raw::DEFAULT_EXPIRES, 1..=31_536_000)?;
    let min_expires = number("min_expires", &raw::MIN_EXPIRES, 0..=31_536_000)?;
    let max_expires = number("max_expires", &raw::MAX_EXPIRES, 1..=31_536_000)?;
    if min_expires > max_expires {
        return Err(format!("parameter min_expires is {min_expires} but must not exceed max_expires ({max_expires})"));
    }
    Ok(Policy {
        default_expires,
        min_expires,
        min_expires_reject: switch("min_expires_mode", &raw::MIN_EXPIRES_MODE)?,
        max_expires,
        max_contacts: number("max_contacts", &raw::MAX_CONTACTS, 0..=100_000)?,
        retry_after: number("retry_after", &raw::RETRY_AFTER, 0..=86_400)?,
        default_q: default_q()?,
        contact_max_size: number("contact_max_size", &raw::CONTACT_MAX_SIZE, 16..=4096)? as usize,
        path: path_mode()?,
        cseq_delay: number("cseq_delay", &raw::CSEQ_DELAY, 0..=3600)?,
        dc,
        registrar,
    })
}

fn default_q() -> Result<i16, String> {
    match raw::DEFAULT_Q.get() {
        q @ -1..=1000 => Ok(q as i16),
        wrong => Err(format!("parameter default_q is {wrong} but must be -1 (none) or 0 to 1000 (thousandths)")),
    }
}

fn path_mode() -> Result<PathMode, String> {
    let mode = match raw::PATH_MODE.get() {
        0 => PathMode::Off,
        1 => PathMode::Lazy,
        2 => PathMode::Strict,
        wrong => return Err(format!("parameter path_mode is {wrong} but must be 0 (off), 1 (lazy) or 2 (strict)")),
    };
    Ok(if switch("use_path", &raw::USE_PATH)? { mode } else { PathMode::Ignore })
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
