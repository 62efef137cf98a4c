//! TLS: which files belong together. They are read with the configuration, and when asked again.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Config, Listen, Peer, Redis};
use crate::net::{Acceptor, Connector, Identity, TlsError, TlsFiles};

impl Config {
    /// Reads the files of TLS. The error is a sentence for people that says what to do.
    pub(super) fn read_tls(&mut self) -> Result<(), String> {
        self.listen.acceptor = acceptor(&self.listen).map_err(|e| format!("[listen] {e}"))?;
        let keys = Keys::from(&self.redis);
        self.redis.connector = keys.connector().map_err(|error| format!("[redis] {error}"))?;
        for peer in &mut self.peers {
            let connector = Keys::from(&*peer).connector();
            peer.connector =
                connector.map_err(|error| format!("[[peer]] \"{}\": {error}", peer.site))?;
        }
        Ok(())
    }

    /// Reads the files of TLS again, each place for itself: where one is bad, what was read before
    /// stays in force. Each place that speaks TLS, and until when its certificate is valid.
    pub fn reload_tls(&self) -> Vec<(String, Result<Option<String>, TlsError>)> {
        let mut done = Vec::new();
        if let Some(acceptor) = &self.listen.acceptor {
            done.push(("[listen]".to_owned(), acceptor.reload()));
        }
        if let Some(connector) = &self.redis.connector {
            done.push(("[redis]".to_owned(), connector.reload()));
        }
        for peer in &self.peers {
            if let Some(connector) = &peer.connector {
                done.push((format!("[[peer]] \"{}\"", peer.site), connector.reload()));
            }
        }
        done
    }
}

/// What `[redis]` and a `[[peer]]` say.
struct Keys<'a> {
    tls: bool,
    ca_file: Option<&'a PathBuf>,
    cert: Option<&'a PathBuf>,
    key: Option<&'a PathBuf>,
}

impl<'a> From<&'a Redis> for Keys<'a> {
    fn from(redis: &'a Redis) -> Self {
        let Redis { tls, ca_file, tls_cert, tls_key, .. } = redis;
        let (ca_file, cert) = (ca_file.as_ref(), tls_cert.as_ref());
        Self { tls: *tls, ca_file, cert, key: tls_key.as_ref() }
    }
}

impl<'a> From<&'a Peer> for Keys<'a> {
    fn from(peer: &'a Peer) -> Self {
        let Peer { tls, ca_file, tls_cert, tls_key, .. } = peer;
        let (ca_file, cert) = (ca_file.as_ref(), tls_cert.as_ref());
        Self { tls: *tls, ca_file, cert, key: tls_key.as_ref() }
    }
}

impl Keys<'_> {
    fn connector(&self) -> Result<Option<Arc<Connector>>, String> {
        if !self.tls {
            let named = [(self.ca_file, "ca_file"), (self.cert, "tls_cert"), (self.key, "tls_key")];
            return match named.iter().find(|(file, _)| file.is_some()) {
                Some((_, key)) => Err(format!("{key} without tls = true: add that, or remove it")),
                None => Ok(None),
            };
        }
        let identity = identity(self.cert, self.key)?;
        let files = TlsFiles { ca_file: self.ca_file.cloned(), identity };
        Ok(Some(Arc::new(Connector::new(files).map_err(|error| error.to_string())?)))
    }
}

/// A certificate and its key, or neither.
fn identity(cert: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Identity>, String> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Identity { cert: cert.clone(), key: key.clone() })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("tls_cert without tls_key: set both".to_owned()),
        (None, Some(_)) => Err("tls_key without tls_cert: set both".to_owned()),
    }
}

fn acceptor(listen: &Listen) -> Result<Option<Arc<Acceptor>>, String> {
    let identity = identity(listen.tls_cert.as_ref(), listen.tls_key.as_ref())?;
    match (identity, &listen.client_ca) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err("client_ca without tls_cert and tls_key: set them, or remove it".to_owned())
        }
        (Some(identity), client_ca) => {
            let acceptor = Acceptor::new(identity, client_ca.clone());
            Ok(Some(Arc::new(acceptor.map_err(|error| error.to_string())?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A directory with a pair, a CA and what is none of them.
    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write("a.crt", &made.cert.pem());
        write("a.key", &made.signing_key.serialize_pem());
        write("other.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
        write("empty.pem", "");
        write("damaged.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
        dir
    }

    /// What is said of these lines below `[listen]`, `[redis]` or `[[peer]]`.
    fn told(dir: &Path, place: &str, lines: &str) -> Result<Config, String> {
        let lines = lines.replace('@', &format!("{}/", dir.display()));
        let below = |name: &str| if name == place { lines.as_str() } else { "" };
        let text = format!(
            "site = \"a\"\n[redis]\naddr = \"h:1\"\n{}\n[listen]\naddr = \"h:2\"\n{}\n[[peer]]\n\
             site = \"b\"\naddr = \"h:3\"\n{}\n[conflict]\nprimary = \"a\"\n",
            below("redis"),
            below("listen"),
            below("peer")
        );
        Config::parse(Path::new("x.toml"), &text, std::iter::empty()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_told_with_what_to_do() {
        let dir = files();
        let pair = "tls_cert = \"@a.crt\"\ntls_key = \"@a.key\"\n";
        let cases = [
            ("listen", "tls_cert = \"@a.crt\"", "[listen] tls_cert without tls_key: set both"),
            ("listen", "tls_key = \"@a.key\"", "[listen] tls_key without tls_cert: set both"),
            ("listen", "client_ca = \"@a.crt\"", "[listen] client_ca without tls_cert and tls_key"),
            ("redis", "ca_file = \"@a.crt\"", "[redis] ca_file without tls = true"),
            ("peer", pair, "[[peer]] \"b\": tls_cert without tls = true"),
            ("peer", "tls = true\nca_file = \"@none\"", "none: No such file or directory"),
            ("redis", "tls = true\nca_file = \"@empty.pem\"", "empty.pem holds no certificate"),
            (
                "redis",
                "tls = true\nca_file = \"@damaged.pem\"",
                "damaged.pem is a damaged PEM file",
            ),
            (
                "listen",
                "tls_cert = \"@a.crt\"\ntls_key = \"@other.key\"",
                "a.crt: name the files of one pair",
            ),
            (
                "listen",
                "tls_cert = \"@a.crt\"\ntls_key = \"@a.crt\"",
                "a.crt holds no private key without a passphrase",
            ),
            (
                "listen",
                "tls_cert = \"@a.key\"\ntls_key = \"@a.key\"",
                "a.key holds no certificate: name a PEM file",
            ),
        ];
        for (place, lines, expected) in cases {
            let error = told(dir.path(), place, lines).unwrap_err();
            let whole = error.starts_with("x.toml: [") && error.contains(expected);
            assert!(whole, "{lines}: {error}");
        }
        for place in ["redis", "peer"] {
            let lines = format!("tls = true\nca_file = \"@a.crt\"\n{pair}");
            told(dir.path(), place, &lines).unwrap();
        }
    }

    #[test]
    fn a_bad_file_does_not_replace_a_good_one() {
        let dir = files();
        let lines = "tls_cert = \"@a.crt\"\ntls_key = \"@a.key\"\nclient_ca = \"@a.crt\"\n";
        let config = told(dir.path(), "listen", lines).unwrap();
        let now = |config: &Config| {
            let (place, done) = config.reload_tls().remove(0);
            assert_eq!(place, "[listen]");
            done.map_err(|error| error.to_string())
        };
        assert!(now(&config).unwrap().is_some());
        std::fs::copy(dir.path().join("other.key"), dir.path().join("a.key")).unwrap();
        let error = now(&config).unwrap_err();
        assert!(error.contains("does not fit the certificate"), "{error}");
    }
}
