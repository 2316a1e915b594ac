//! Certificates: an authority of our own, made at the first start, and the server's certificate, made anew at each start and before it expires.
//!
//! Clients trust `ca.pem`. Its key never leaves the directory; that of the server's certificate never leaves memory.

use crate::{StartError, core::Control, error::chain};
use async_trait::async_trait;
use chrono::{Datelike, Days};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use yun_engine::reconcile::{PassReport, Reconcile, Schedule, Signal, run};
use yun_types::Timestamp;

/// How long the authority is valid.
const AUTHORITY_DAYS: u64 = 20 * 365;
/// How long a server's certificate is valid.
const SERVER_DAYS: u64 = 90;
/// How long before its end a certificate is replaced.
const RENEW_DAYS: u64 = 30;

/// Where the authority's certificate is, for clients to trust.
pub fn authority_path(directory: &Path) -> PathBuf {
    directory.join("tls").join("ca.pem")
}

/// The certificate that the server shows now.
pub(crate) struct Certificates {
    directory: PathBuf,
    names: Vec<String>,
    issuer: Issuer<'static, KeyPair>,
    authority: rustls::pki_types::CertificateDer<'static>,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the authority or makes one, and makes a certificate for the server.
    pub(crate) fn open(control: &Control) -> Result<Arc<Self>, StartError> {
        // The first caller in the process wins; all of us want the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = control.config.directory.join("tls");
        let now = control.clock.now();
        let (pem, key) = match read_authority(&directory)? {
            Some(found) => found,
            None => make_authority(&directory, &control.config.cloud.short(), now)?,
        };
        let wrong = |cause: String| StartError::Certificates { directory: directory.clone(), cause };
        let key = KeyPair::from_pem(&key).map_err(|e| wrong(format!("ca.key: {e}")))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|e| wrong(format!("ca.pem: {e}")))?;
        let authority = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes())
            .map_err(|e| wrong(format!("ca.pem: {e}")))?;
        let names = names(&control.config.names);
        let current = RwLock::new(issue(&issuer, &authority, &names, now).map_err(&wrong)?);
        Ok(Arc::new(Self { directory, names, issuer, authority, current }))
    }

    /// What the server's TLS does.
    pub(crate) fn server_config(self: &Arc<Self>) -> ServerConfig {
        let resolver = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
        // Sessions and streams need a connection each, and HTTP/1.1 has a time limit for slow headers.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// Starts what replaces the certificate before it expires.
    pub(crate) fn start(self: &Arc<Self>, control: &Arc<Control>) {
        let renew = Renew { certificates: Arc::clone(self), control: Arc::clone(control) };
        let schedule = Schedule::every(Duration::from_secs(12 * 3600));
        let _runs_until_shutdown =
            run(&control.tasks, Arc::clone(&control.clock), "tls/renew", schedule, Signal::default(), renew);
    }

    /// Replaces the certificate if it is time. `false` if it is not.
    fn renew(&self, now: Timestamp) -> Result<bool, StartError> {
        if now < self.current.read().unwrap_or_else(PoisonError::into_inner).renew_at {
            return Ok(false);
        }
        let new = issue(&self.issuer, &self.authority, &self.names, now)
            .map_err(|cause| StartError::Certificates { directory: self.directory.clone(), cause })?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

struct Renew {
    certificates: Arc<Certificates>,
    control: Arc<Control>,
}

#[async_trait]
impl Reconcile for Renew {
    async fn pass(&mut self) -> PassReport {
        match self.certificates.renew(self.control.clock.now()) {
            Ok(false) => PassReport::nothing(),
            Ok(true) => PassReport::changed("made a new certificate for the server"),
            Err(e) => PassReport::failed(chain(&e)),
        }
    }
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    authority: &rustls::pki_types::CertificateDer<'static>,
    names: &[String],
    now: Timestamp,
) -> Result<Current, String> {
    let text = |e: rcgen::Error| e.to_string();
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "yun server");
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .map_err(|_| format!("the name {name} is no DNS name: correct the list of names"))?,
            ),
        });
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    limit(&mut params, now, SERVER_DAYS);
    let certificate = params.signed_by(&key, issuer).map_err(text)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private).map_err(|e| e.to_string())?;
    let chain = vec![certificate.der().clone(), authority.clone()];
    Ok(Current { key: Arc::new(CertifiedKey::new(chain, signer)), renew_at: now + Days::new(SERVER_DAYS - RENEW_DAYS) })
}

/// The names that clients may use, each once.
fn names(wanted: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_ascii_lowercase();
    // A host may have a name that is no DNS name: then it cannot be asked for by it.
    let usable =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    for name in usable.then_some(host).into_iter().chain(wanted.iter().cloned()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn make_authority(directory: &Path, cloud: &str, now: Timestamp) -> Result<(String, String), StartError> {
    let wrong = |e: rcgen::Error| StartError::Certificates { directory: directory.to_owned(), cause: e.to_string() };
    let key = KeyPair::generate().map_err(wrong)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "yun");
    params.distinguished_name.push(DnType::CommonName, format!("yun cloud {cloud}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, now, AUTHORITY_DAYS);
    let certificate = params.self_signed(&key).map_err(wrong)?;
    let (pem, key) = (certificate.pem(), key.serialize_pem());
    fs::create_dir_all(directory).map_err(|source| StartError::File {
        operation: "create the directory",
        path: directory.to_owned(),
        source,
    })?;
    // The certificate comes last: where it is, the key is too.
    write(&directory.join("ca.key"), &key, 0o600)?;
    write(&directory.join("ca.pem"), &pem, 0o644)?;
    Ok((pem, key))
}

fn read_authority(directory: &Path) -> Result<Option<(String, String)>, StartError> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|source| (path, source))
    };
    let failed = |(path, source)| StartError::File { operation: "read", path, source };
    match read("ca.pem") {
        Err((_, source)) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        found => Ok(Some((found.map_err(failed)?, read("ca.key").map_err(failed)?))),
    }
}

/// Writes a file so that it is whole or not there.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), StartError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let new = path.with_extension("new");
    let written = (|| {
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.map_err(|source| StartError::File { operation: "write", path: path.to_owned(), source })
}

/// Valid from yesterday, for clients whose clocks are slow, for so many days.
fn limit(params: &mut CertificateParams, now: Timestamp, days: u64) {
    let day = |at: Timestamp| {
        let month = u8::try_from(at.month()).unwrap_or(1);
        let day = u8::try_from(at.day()).unwrap_or(1);
        date_time_ymd(at.year(), month, day)
    };
    params.not_before = day(now - Days::new(1));
    params.not_after = day(now + Days::new(days));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(now: Timestamp) -> (tempfile::TempDir, String, Issuer<'static, KeyPair>) {
        let directory = tempfile::tempdir().unwrap();
        let (pem, key) = make_authority(&directory.path().join("tls"), "test", now).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key).unwrap()).unwrap();
        (directory, pem, issuer)
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, pem, _) = authority(chrono::Utc::now());
        let directory = directory.path().join("tls");
        let (found, key) = read_authority(&directory).unwrap().unwrap();
        assert_eq!(found, pem);
        assert!(KeyPair::from_pem(&key).is_ok());
        assert_eq!(fs::metadata(directory.join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(directory.join("ca.key")).unwrap();
        assert!(read_authority(&directory).unwrap_err().to_string().contains("ca.key"));
    }

    #[test]
    fn certificates_are_renewed_in_time() {
        let now = chrono::Utc::now();
        let (directory, pem, issuer) = authority(now);
        let authority = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
        let names = names(&["cloud.example.org".into(), "10.0.0.7".into()]);
        let current = RwLock::new(issue(&issuer, &authority, &names, now).unwrap());
        let certificates = Certificates { directory: directory.path().into(), names, issuer, authority, current };
        let shown = || Arc::clone(&certificates.current.read().unwrap().key);
        let first = shown();
        assert!(!certificates.renew(now + Days::new(59)).unwrap());
        assert!(Arc::ptr_eq(&first, &shown()));
        assert!(certificates.renew(now + Days::new(61)).unwrap());
        assert!(!Arc::ptr_eq(&first, &shown()));
        assert!(!certificates.renew(now + Days::new(61)).unwrap());
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let (_directory, pem, issuer) = authority(chrono::Utc::now());
        let authority = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
        let refused = issue(&issuer, &authority, &["bücher.example".into()], chrono::Utc::now()).unwrap_err();
        assert!(refused.contains("bücher.example"), "{refused}");
    }
}
