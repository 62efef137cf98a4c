//! What went wrong in TLS, in words that say what to do.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// What goes wrong in TLS, as it is told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

/// An error of TLS that says what to do.
pub(super) fn told(kind: io::ErrorKind, text: String) -> io::Error {
    io::Error::new(kind, Told(text))
}

/// Whether an error of a connection is one of TLS, so that it says what to do.
pub fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Told>()).is_some()
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherEnd {
    Server,
    Client,
}

/// An error of a connection that was up, told by whom it may concern: only an alert of the other
/// end can come then that a person must act on.
pub(in crate::net) fn explained(error: io::Error) -> io::Error {
    explained_of(error, OtherEnd::Server)
}

/// The same error with better words, if it is one of TLS.
pub(super) fn explained_of(error: io::Error, other: OtherEnd) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls.map(|tls| words(tls, other)) {
        Some(text) => told(error.kind(), text),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            let question = match other {
                OtherEnd::Server => "does it speak TLS at this port?",
                OtherEnd::Client => "does it trust our certificate?",
            };
            told(error.kind(), format!("it closed within the TLS handshake: {question}"))
        }
        None => error,
    }
}

fn words(error: &Error, other: OtherEnd) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error, other),
        Error::NoCertificatesPresented => {
            "it showed no certificate, and [listen] client_ca asks for one".to_owned()
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) if other == OtherEnd::Server => {
            "it speaks no TLS: remove tls = true, or name its TLS port".to_owned()
        }
        Error::AlertReceived(alert) => refusal(*alert),
        other => other.to_string(),
    }
}

/// What is wrong with the other end's certificate.
fn certificate(error: &CertificateError, other: OtherEnd) -> String {
    let key = if other == OtherEnd::Server { "ca_file" } else { "[listen] client_ca" };
    match error {
        CertificateError::UnknownIssuer => {
            format!("its certificate is of an unknown issuer: set {key} to the CA that signed it")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!(
                "its certificate is not for \"{}\" but for {}: use such a name in addr, or have a \
                 certificate made for this one",
                expected.to_str(),
                names(presented)
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it there; or is a clock wrong?".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is a clock wrong?".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let usage = if other == OtherEnd::Server { "serverAuth" } else { "clientAuth" };
            format!("its certificate is not made for this: add {usage} to its extendedKeyUsage")
        }
        other => {
            format!("its certificate can't be accepted ({other}): docs/tls.md makes a good one")
        }
    }
}

/// The names in a certificate, as people write them.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name (it has no subjectAltName)".to_owned();
    }
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
        inner.trim_matches([')', '"']).to_owned()
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

/// What the other end has against us.
fn refusal(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "it asks for a client certificate: set tls_cert and tls_key".to_owned()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => {
            format!(
                "it does not accept our certificate ({alert:?}): does it trust the CA of it, and \
                 is it for the name that was used?"
            )
        }
        AlertDescription::CertificateExpired => {
            "it finds our certificate expired: renew tls_cert".to_owned()
        }
        AlertDescription::HandshakeFailure => {
            "it refused the handshake: if it asks for a client certificate set tls_cert and \
             tls_key; else it has no TLS 1.2 or 1.3 in common with us"
                .to_owned()
        }
        AlertDescription::ProtocolVersion => "it has neither TLS 1.2 nor 1.3".to_owned(),
        other => format!("it broke off with the TLS alert {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_to_do() {
        let tell = |error: Error, other| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            explained_of(error, other).to_string()
        };
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(tell(unknown.clone(), OtherEnd::Server).contains("set ca_file"));
        assert!(tell(unknown, OtherEnd::Client).contains("set [listen] client_ca"));
        let name = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: "b.example".try_into().unwrap(),
            presented: vec!["DnsName(\"a.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()],
        });
        let text = tell(name, OtherEnd::Server);
        assert!(text.contains("not for \"b.example\" but for a.example, 10.0.0.1:"), "{text}");
        let wanted = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(tell(wanted, OtherEnd::Server).contains("set tls_cert and tls_key"));
        let other = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(!is_of_tls(&explained(other)));
    }
}
