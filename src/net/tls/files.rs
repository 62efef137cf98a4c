//! Certificates and keys, from PEM files.

use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, RootCertStore};

use super::{Identity, TlsError};

fn unusable(path: &Path, what: impl Into<String>) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), what: what.into() }
}

/// The error of a file that was to hold `what`. Nothing of its text is shown: it may be a key.
fn pem_error(path: &Path, what: &str, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::Read { path: path.to_owned(), source },
        pem::Error::NoItemsFound => unusable(path, format!("holds no {what}: name a PEM file")),
        _ => unusable(path, format!("is a damaged PEM file: no {what} can be read from it")),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error| pem_error(path, "certificate", error);
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(wrong)?.collect();
    let found = found.map_err(wrong)?;
    if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// The CAs in a file.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            unusable(path, format!("holds a certificate that can't be a CA's: {error}"))
        })?;
    }
    Ok(roots)
}

/// The CAs that this system trusts; the environment may name others (`SSL_CERT_FILE`).
pub(super) fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// A certificate, with those between it and its CA, and its key.
pub(super) fn pair(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let certs = certificates(&identity.cert)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| pem_error(&identity.key, "private key without a passphrase", error))?;
    Ok((certs, key))
}

/// Why a certificate and a key that could be read can't be used.
pub(super) fn bad_pair(identity: &Identity, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => {
            TlsError::Mismatch { key: identity.key.clone(), cert: identity.cert.clone() }
        }
        Error::InvalidCertificate(_) => {
            unusable(&identity.cert, format!("holds a certificate that can't be used: {error}"))
        }
        _ => unusable(
            &identity.key,
            "holds a key of an unknown kind: use RSA from 2048 bits on, ECDSA P-256 or P-384, or \
             Ed25519",
        ),
    }
}
