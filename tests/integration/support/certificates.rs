//! Certificates, made for a test in a directory of its own.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use redis::{ClientTlsConfig, TlsCertificates};

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate, PEM.
    pub file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes one; its certificate is `<name>.crt` in `dir`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let file = dir.join(format!("{name}.crt"));
        std::fs::write(&file, cert.pem()).expect("written");
        Self { file, issuer: Issuer::new(params, key) }
    }

    /// Makes a certificate for this machine, `<name>.crt` and `<name>.key` in `dir`; what is there
    /// is replaced.
    pub fn issue(&self, dir: &Path, name: &str) -> Issued {
        self.sign(dir, name, &CertificateParams::new(local()).expect("names"))
    }

    /// The same for another host.
    pub fn issue_for(&self, dir: &Path, name: &str, host: &str) -> Issued {
        self.sign(dir, name, &CertificateParams::new([host.to_string()]).expect("names"))
    }

    /// The same for this machine, but expired.
    pub fn issue_expired(&self, dir: &Path, name: &str) -> Issued {
        let mut params = CertificateParams::new(local()).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(dir, name, &params)
    }

    fn sign(&self, dir: &Path, name: &str, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |ending: &str| dir.join(format!("{name}.{ending}"));
        let issued = Issued { cert: file("crt"), key: file("key") };
        std::fs::write(&issued.cert, cert.pem()).expect("written");
        std::fs::write(&issued.key, key.serialize_pem()).expect("written");
        issued
    }

    /// What a client of a test needs that trusts this authority and shows `shown`.
    pub fn client(&self, shown: Option<&Issued>) -> TlsCertificates {
        let read = |path: &Path| std::fs::read(path).expect("file is there");
        TlsCertificates {
            client_tls: shown.map(|shown| ClientTlsConfig {
                client_cert: read(&shown.cert),
                client_key: read(&shown.key),
            }),
            root_cert: Some(read(&self.file)),
        }
    }
}

impl Issued {
    /// `tls_cert` and `tls_key` for a table of our configuration.
    pub fn settings(&self) -> String {
        format!("tls_cert = \"{}\"\ntls_key = \"{}\"", self.cert.display(), self.key.display())
    }
}

fn local() -> [String; 2] {
    ["localhost".to_string(), "127.0.0.1".to_string()]
}
