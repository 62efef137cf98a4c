//! TLS at both ends of a connection: what is read from files, and read again when asked.

mod expiry;
mod files;
mod pinned;
mod words;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Stream;
pub(super) use words::explained;
pub use words::is_of_tls;
use words::{OtherEnd, explained_of, told};

/// How long a handshake may take, at either end. It is two round trips, so a second in any network
/// that a link can live on; what is left is for a machine under load.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of all that TLS begins with: a record that holds a handshake (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Why files can't be used for TLS. Every message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is not there, or not for us.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there and holds something else.
    #[error("{} {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// Two files that don't belong together.
    #[error(
        "the key in {} does not fit the certificate in {}: name the files of one pair",
        key.display(),
        cert.display()
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// No `ca_file`, and nothing instead.
    #[error(
        "this system has no root certificates: set ca_file, or install the package ca-certificates"
    )]
    NoRoots,
    /// Something that no file can be blamed for.
    #[error("TLS can't be set up: {0}")]
    Setup(String),
}

/// Where a certificate, with those between it and its CA, and its key are; PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

/// What a client trusts, and shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// CAs that a server's certificate must come from; those of the system when missing.
    pub ca_file: Option<PathBuf>,
    /// For servers that ask for a certificate.
    pub identity: Option<Identity>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

/// The client's end.
#[derive(Debug)]
pub struct Connector {
    files: TlsFiles,
    config: RwLock<Arc<ClientConfig>>,
}

impl Connector {
    /// Reads the files.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let config = RwLock::new(client_config(&files)?.0);
        Ok(Self { files, config })
    }

    /// Reads the files again, for connections from now on; if one is bad all stays as it was.
    /// Until when our certificate is valid, if there is one.
    pub fn reload(&self) -> Result<Option<String>, TlsError> {
        let (config, valid_until) = client_config(&self.files)?;
        *self.config.write() = config;
        Ok(valid_until)
    }

    /// Shakes hands with the server at `addr`, `host:port`, whose certificate must be for that
    /// host. The error says what to do.
    pub async fn connect(&self, addr: &str, socket: TcpStream) -> io::Result<Stream> {
        let config = self.config.read().clone();
        shake_hands(config, host(addr), socket).await
    }
}

/// The host of `host:port`; an IPv6 address stands in brackets there.
fn host(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn shake_hands(
    config: Arc<ClientConfig>,
    host: &str,
    socket: TcpStream,
) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        let text = format!("\"{host}\" can't be the name in a certificate: mend addr");
        told(io::ErrorKind::InvalidInput, text)
    })?;
    match timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, socket)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => Err(explained_of(error, OtherEnd::Server)),
        Err(_) => Err(told(
            io::ErrorKind::TimedOut,
            format!(
                "no TLS handshake within {HANDSHAKE_TIMEOUT:?}: if it speaks no TLS remove tls = \
                 true, or name its TLS port"
            ),
        )),
    }
}

/// The configuration, and until when our own certificate is valid.
fn client_config(files: &TlsFiles) -> Result<(Arc<ClientConfig>, Option<String>), TlsError> {
    let roots = match &files.ca_file {
        Some(path) => files::roots(path)?,
        None => files::system_roots()?,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(setup)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_webpki_verifier(verifier);
    let mut valid_until = None;
    let config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (certs, key) = files::pair(identity)?;
            valid_until = expiry::valid_until(&certs[0]);
            builder
                .with_client_auth_cert(certs, key)
                .map_err(|error| files::bad_pair(identity, &error))?
        }
    };
    Ok((Arc::new(config), valid_until))
}

/// Why a client did not come in.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It closed before it said anything, as those do who only look whether the port is open.
    #[error("it closed at once")]
    Gone,
    /// It did not finish.
    #[error("no TLS handshake within {HANDSHAKE_TIMEOUT:?}")]
    Slow,
    /// It does not know that this is TLS; it may be told so.
    #[error("it spoke plain text to a TLS port: redis-cli --tls, or tls = true in its [[peer]]")]
    PlainText(TcpStream),
    /// It failed, for a reason that is told.
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
}

/// The server's end.
#[derive(Debug)]
pub struct Acceptor {
    identity: Identity,
    client_ca: Option<PathBuf>,
    config: RwLock<Arc<ServerConfig>>,
}

impl Acceptor {
    /// Reads the files. With `client_ca` clients must show a certificate that comes from there.
    pub fn new(identity: Identity, client_ca: Option<PathBuf>) -> Result<Self, TlsError> {
        let config = RwLock::new(server_config(&identity, client_ca.as_ref())?.0);
        Ok(Self { identity, client_ca, config })
    }

    /// Reads the files again, for connections from now on; if one is bad all stays as it was.
    /// Until when the certificate is valid.
    pub fn reload(&self) -> Result<Option<String>, TlsError> {
        let (config, valid_until) = server_config(&self.identity, self.client_ca.as_ref())?;
        *self.config.write() = config;
        Ok(valid_until)
    }

    /// Shakes hands with a client; it has some seconds for that.
    pub async fn accept(&self, socket: TcpStream) -> Result<Stream, AcceptError> {
        let config = self.config.read().clone();
        let handshake = async {
            let mut first = [0];
            match socket.peek(&mut first).await {
                Ok(0) => return Err(AcceptError::Gone),
                Ok(_) if first[0] != HANDSHAKE_RECORD => {
                    return Err(AcceptError::PlainText(socket));
                }
                Ok(_) => {}
                Err(error) => return Err(AcceptError::Handshake(error)),
            }
            match TlsAcceptor::from(config).accept(socket).await {
                Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
                Err(error) => Err(AcceptError::Handshake(explained_of(error, OtherEnd::Client))),
            }
        };
        timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or(Err(AcceptError::Slow))
    }

    /// Whether somebody who has this very certificate, and its key, listens at `addr`.
    pub async fn is_served_at(&self, addr: &str) -> bool {
        let looked = async {
            let config = pinned::client_config(&self.identity).ok()?;
            let socket = TcpStream::connect(addr).await.ok()?;
            shake_hands(config, host(addr), socket).await.ok()
        };
        looked.await.is_some()
    }
}

/// The configuration, and until when the certificate is valid.
fn server_config(
    identity: &Identity,
    client_ca: Option<&PathBuf>,
) -> Result<(Arc<ServerConfig>, Option<String>), TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(files::roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(setup)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (certs, key) = files::pair(identity)?;
    let valid_until = expiry::valid_until(&certs[0]);
    let config =
        builder.with_single_cert(certs, key).map_err(|error| files::bad_pair(identity, &error))?;
    Ok((Arc::new(config), valid_until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_to_check_is_the_host() {
        assert_eq!(host("redis.example:6379"), "redis.example");
        assert_eq!(host("10.0.0.1:6379"), "10.0.0.1");
        assert_eq!(host("[::1]:6379"), "::1");
    }
}
