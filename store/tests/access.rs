//! Who is let in: TLS and passwords against real nodes.

mod common;

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{config, refusal, round_trip, runtime};
use lab::RunDir;
use lab::cassandra::{Cassandra, Options, SUPERUSER};
use lab::net::loopback;
use lab::relay::DelayRelay;
use lab::tls::{Authority, TlsFiles};
use store::{Login, Store, StoreConfig, TlsConfig, schema};
use tokio::runtime::Runtime;

const KEYSPACE: &str = "sip";

/// Two nodes that are not of one cluster, both with TLS.
struct Site {
    runtime: Runtime,
    authority: Authority,
    stranger: Authority,
    /// Wants a password.
    passwords: Cassandra,
    /// Wants a client's certificate.
    certificates: Cassandra,
    dir: RunDir, // last: the nodes use files in it
}

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[
            ("over_tls_and_with_a_password_bindings_are_written_and_read", tls_and_password),
            ("with_a_client_certificate_bindings_are_written_and_read", client_certificate),
            ("each_way_not_to_trust_each_other_is_told_in_a_sentence", tls_refusals),
            ("a_missing_or_refused_login_is_told_in_a_sentence", login_refusals),
            ("a_role_without_rights_is_told_so_and_not_that_tables_are_missing", no_rights),
            ("nobody_there_is_told_in_a_sentence", nobody),
            ("a_tls_file_that_cannot_be_used_is_named", tls_files),
        ],
    )
}

impl Site {
    fn start() -> Result<Self> {
        Cassandra::install()?;
        let dir = RunDir::new("access")?;
        let authority = Authority::new(dir.path(), "lab")?;
        let stranger = Authority::new(dir.path(), "stranger")?;
        let passwords = Options { auth: true, ..encrypted(&authority, "passwords")? };
        let certificates = Options { tls_client_auth: true, ..encrypted(&authority, "certificates")? };
        let other = thread::spawn(|| Cassandra::start(certificates));
        let passwords = Cassandra::start(passwords)?;
        let certificates = other.join().map_err(|_| anyhow::anyhow!("a start panicked"))??;
        Ok(Self { runtime: runtime()?, authority, stranger, passwords, certificates, dir })
    }

    fn by_password(&self) -> StoreConfig {
        StoreConfig {
            login: login(SUPERUSER.0, SUPERUSER.1),
            tls: trusting(&self.authority),
            ..config(self.passwords.contact_point(), KEYSPACE)
        }
    }

    fn by_certificate(&self, issuer: &Authority) -> Result<StoreConfig> {
        let TlsFiles { cert_pem, key_pem, .. } = issuer.issue("client", &[])?;
        let tls = TlsConfig { ca_file: self.authority.ca_pem(), cert_file: Some(cert_pem), key_file: Some(key_pem) };
        Ok(StoreConfig { tls: Some(tls), ..config(self.certificates.contact_point(), KEYSPACE) })
    }

    /// Connects with each configuration and expects these words in its sentence.
    fn refused(&self, cases: impl IntoIterator<Item = (StoreConfig, &'static str)>) -> Result<()> {
        for (config, expected) in cases {
            let said = self.runtime.block_on(refusal(&config)).with_context(|| format!("expected: {expected}"))?;
            let begin = format!("no Cassandra session at {}: ", config.contact_points[0]);
            ensure!(said.starts_with(&begin) && said.contains(expected), "{said}\nnot: {expected}");
        }
        Ok(())
    }
}

fn encrypted(authority: &Authority, name: &str) -> Result<Options> {
    let address = loopback();
    Ok(Options { address, tls: Some(authority.issue(name, &[address])?), ..common::fast_schema() })
}

fn login(username: &str, password: &str) -> Option<Login> {
    Some(Login { username: username.to_owned(), password: password.to_owned() })
}

fn trusting(authority: &Authority) -> Option<TlsConfig> {
    Some(TlsConfig { ca_file: authority.ca_pem(), cert_file: None, key_file: None })
}

fn tls_and_password(site: &Site) -> Result<()> {
    applied_and_used(site, &site.by_password()).with_context(|| site.passwords.log())
}

fn client_certificate(site: &Site) -> Result<()> {
    applied_and_used(site, &site.by_certificate(&site.authority)?).with_context(|| site.certificates.log())
}

fn applied_and_used(site: &Site, config: &StoreConfig) -> Result<()> {
    site.runtime.block_on(async {
        schema::apply(config, None, |_| {}).await?;
        round_trip(&Store::connect(config).await?, "alice").await
    })
}

fn tls_refusals(site: &Site) -> Result<()> {
    let target = SocketAddrV4::new(site.passwords.address(), site.passwords.port());
    let relay = DelayRelay::start(loopback(), target.port(), target, Duration::ZERO)?;
    let elsewhere = vec![relay.address().to_string()];
    let right = site.by_password();
    let without_certificate = StoreConfig { tls: right.tls.clone(), ..site.by_certificate(&site.authority)? };
    site.refused([
        (
            StoreConfig { tls: trusting(&site.stranger), ..right.clone() },
            "its certificate is not signed by a CA of tls_ca_file",
        ),
        (
            StoreConfig { contact_points: elsewhere, ..right.clone() },
            "its certificate is for another address (certificate not valid for name",
        ),
        (StoreConfig { tls: None, ..right }, "it breaks off a plain connection: if it wants TLS, set tls_ca_file"),
        // Whether Cassandra's reason arrives before its end of the connection is a matter of chance.
        (without_certificate, "it wants a client certificate, set tls_cert_file and tls_key_file to one of a CA"),
        (site.by_certificate(&site.stranger)?, "that its truststore holds"),
    ])
}

fn login_refusals(site: &Site) -> Result<()> {
    let with = |login| StoreConfig { login, ..site.by_password() };
    site.refused([
        (with(None), "it wants a login: set username and password"),
        (with(login(SUPERUSER.0, "wrong")), "it does not let 'cassandra' log in: check username and password"),
        (with(login("nobody", "wrong")), "it does not let 'nobody' log in: check username and password"),
    ])
}

fn no_rights(site: &Site) -> Result<()> {
    let admin = site.by_password();
    let bob = StoreConfig { login: login("bob", "secret"), ..admin.clone() };
    let said = site.runtime.block_on(async {
        schema::apply(&admin, None, |_| {}).await?;
        let session = common::session(&admin).await?;
        session.query_unpaged("CREATE ROLE bob WITH LOGIN = true AND PASSWORD = 'secret'", ()).await?;
        refusal(&bob).await
    })?;
    ensure!(said.starts_with("Cassandra refuses a statement: ") && said.contains("SELECT permission"), "{said}");
    Ok(())
}

fn nobody(site: &Site) -> Result<()> {
    let at = |contact_point: String| config(contact_point, KEYSPACE);
    site.refused([
        (at(format!("{}:9042", loopback())), "nothing listens there: check contact_points"),
        (at("no-such-host.invalid:9042".to_owned()), "no such host: set contact_points"),
    ])
}

fn tls_files(site: &Site) -> Result<()> {
    let nothing = site.dir.write("nothing.pem", "no certificate\n")?;
    let missing = site.dir.join("missing.pem");
    let right = site.by_certificate(&site.authority)?.tls.context("TLS")?;
    let strange = site.by_certificate(&site.stranger)?.tls.context("TLS")?;
    for (tls, file, why) in [
        (TlsConfig { ca_file: missing.clone(), ..right.clone() }, &missing, "No such file"),
        (TlsConfig { ca_file: nothing.clone(), ..right.clone() }, &nothing, "it holds no certificate"),
        (TlsConfig { key_file: Some(nothing.clone()), ..right.clone() }, &nothing, ""),
        (TlsConfig { key_file: strange.key_file, ..right.clone() }, right.cert_file.as_ref().context("a file")?, ""),
    ] {
        let config = StoreConfig { tls: Some(tls), ..site.by_password() };
        let said = site.runtime.block_on(refusal(&config))?;
        names(&said, file, why)?;
    }
    Ok(())
}

fn names(said: &str, file: &Path, why: &str) -> Result<()> {
    let begin = format!("{} cannot be used for TLS: {why}", file.display());
    ensure!(said.starts_with(&begin) && said.len() > begin.len() - why.len(), "{said}\nnot: {begin}");
    Ok(())
}
