//! Why no session comes about, told from the driver's nested errors in words of our parameters.

use std::io;

use rustls::{AlertDescription, CertificateError};
use scylla::errors::{
    BrokenConnectionError, BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError,
    ConnectionSetupRequestErrorKind, DbError, FrameHeaderParseError, MetadataError, NewSessionError,
};

use crate::StoreConfig;

/// What the last node tried has against us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No name of the list has an address.
    #[error("no such host: set contact_points to names or addresses of Cassandra nodes")]
    UnknownHost,
    /// Nothing listens there.
    #[error("nothing listens there: check contact_points, and that Cassandra runs with its native transport on")]
    NobodyListens,
    /// It does not answer.
    #[error("no answer within connect_timeout: check contact_points, firewalls, and that Cassandra is not overloaded")]
    Silent,
    /// It ends a connection in plain text.
    #[error("it breaks off a plain connection: if it wants TLS, set tls_ca_file")]
    BreaksOff,
    /// It ends a connection over TLS, and its reason was lost on the way.
    #[error(
        "it breaks off a TLS connection: if it wants a client certificate, set tls_cert_file and tls_key_file to one of a CA \
         that its truststore holds"
    )]
    BreaksOffTls,
    /// It answers in plain text.
    #[error("it does not speak TLS: unset tls_ca_file, or turn client_encryption_options on in cassandra.yaml")]
    NoTls,
    /// Its certificate is of another CA.
    #[error("its certificate is not signed by a CA of tls_ca_file: put the certificate of the CA that signed it there")]
    UntrustedCertificate,
    /// Its certificate names other addresses.
    #[error("its certificate is for another address ({0}): issue one that names the address in contact_points")]
    ForeignCertificate(String),
    /// Its certificate is expired or otherwise bad.
    #[error("its certificate is refused ({0}): give Cassandra another one")]
    BadCertificate(String),
    /// It wants to see a certificate.
    #[error(
        "as it wants a client certificate, set tls_cert_file and tls_key_file to one of a CA that its truststore holds"
    )]
    CertificateWanted,
    /// It ends the handshake with this alert.
    #[error(
        "it refuses our certificate (TLS alert {0}): set tls_cert_file and tls_key_file to one of a CA that its truststore holds"
    )]
    CertificateRefused(String),
    /// It wants a login.
    #[error("it wants a login: set username and password")]
    LoginWanted,
    /// It does not let this role in.
    #[error("it does not let '{0}' log in: check username and password, it does not say which is wrong")]
    LoginRefused(String),
    /// Anything else, as the driver says it.
    #[error("{0}")]
    Other(String),
}

impl Refusal {
    pub(crate) fn of(error: &NewSessionError, config: &StoreConfig) -> Self {
        match error {
            NewSessionError::FailedToResolveAnyHostname(_) => Self::UnknownHost,
            NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
                last_connection_error,
            })) => Self::of_connection(last_connection_error, config),
            other => Self::Other(other.to_string()),
        }
    }

    fn of_connection(error: &ConnectionError, config: &StoreConfig) -> Self {
        match error {
            ConnectionError::ConnectTimeout => Self::Silent,
            ConnectionError::IoError(io) => Self::of_io(io, config),
            ConnectionError::BrokenConnection(broken) => Self::of_broken(broken, config),
            ConnectionError::ConnectionSetupRequestError(setup) => match setup.get_error() {
                ConnectionSetupRequestErrorKind::MissingAuthentication => Self::LoginWanted,
                ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, _) => {
                    Self::LoginRefused(config.login.as_ref().map(|login| login.username.clone()).unwrap_or_default())
                }
                ConnectionSetupRequestErrorKind::BrokenConnection(broken) => Self::of_broken(broken, config),
                other => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }

    fn of_broken(error: &BrokenConnectionError, config: &StoreConfig) -> Self {
        match error.downcast_ref() {
            Some(
                BrokenConnectionErrorKind::FrameHeaderParseError(FrameHeaderParseError::HeaderIoError(io))
                | BrokenConnectionErrorKind::WriteError(io),
            ) => Self::of_io(io, config),
            Some(BrokenConnectionErrorKind::ChannelError) => Self::broken_off(config),
            _ => Self::Other(error.to_string()),
        }
    }

    fn of_io(error: &io::Error, config: &StoreConfig) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::NobodyListens,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                Self::broken_off(config)
            }
            _ => Self::Other(error.to_string()),
        }
    }

    fn broken_off(config: &StoreConfig) -> Self {
        if config.tls.is_some() { Self::BreaksOffTls } else { Self::BreaksOff }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(_) => Self::NoTls,
            rustls::Error::InvalidCertificate(why) => Self::of_certificate(why),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => Self::CertificateWanted,
            rustls::Error::AlertReceived(alert) => Self::CertificateRefused(format!("{alert:?}")),
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UntrustedCertificate,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::ForeignCertificate(error.to_string())
            }
            other => Self::BadCertificate(other.to_string()),
        }
    }
}
