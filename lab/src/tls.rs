//! Throwaway certificates.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// What a server needs, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CA's certificate: what a client trusts.
    pub ca_pem: PathBuf,
    /// The server's certificate.
    pub cert_pem: PathBuf,
    /// The server's private key (PKCS #8).
    pub key_pem: PathBuf,
    /// Key and certificate in one file: what Cassandra calls a PEM keystore.
    pub keystore_pem: PathBuf,
}

/// A certificate authority that lives in a directory.
pub struct Authority {
    dir: PathBuf,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a CA and writes `NAME-ca.pem`. To have a wrong one, make another.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("lab {name} CA"));
        let key = KeyPair::generate().context("cannot make a key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("cannot make a CA certificate")?;
        let authority = Self { dir: dir.to_path_buf(), name: name.to_owned(), issuer };
        write(&authority.ca_pem(), &authority.issuer.pem())?;
        Ok(authority)
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> PathBuf {
        self.dir.join(format!("{}-ca.pem", self.name))
    }

    /// A certificate for these addresses and `localhost`, good for servers and for clients.
    pub fn issue(&self, name: &str, addresses: &[Ipv4Addr]) -> Result<TlsFiles> {
        let mut names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        names.push("localhost".to_owned());
        let mut params = CertificateParams::new(names).context("cannot name a certificate")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().context("cannot make a key")?;
        let cert = params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        self.write_files(name, &cert.pem(), &key.serialize_pem())
    }

    fn write_files(&self, name: &str, cert: &str, key: &str) -> Result<TlsFiles> {
        let file = |suffix: &str| self.dir.join(format!("{}-{name}-{suffix}.pem", self.name));
        let files = TlsFiles {
            ca_pem: self.ca_pem(),
            cert_pem: file("cert"),
            key_pem: file("key"),
            keystore_pem: file("keystore"),
        };
        write(&files.cert_pem, cert)?;
        write(&files.key_pem, key)?;
        write(&files.keystore_pem, &format!("{key}{cert}{}", self.issuer.pem()))?;
        Ok(files)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
