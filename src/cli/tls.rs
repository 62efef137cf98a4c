//! TLS for the commands that connect to servers named on the command line.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;

use crate::net::{Connector, Identity, TlsFiles};

/// What is trusted, and shown.
#[derive(Debug, Args)]
pub struct Tls {
    /// With TLS: the CAs that signed the servers' certificates, PEM [default: those of the system]
    #[arg(long = "ca-file", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// With TLS: a certificate for servers that ask for one, PEM
    #[arg(long = "tls-cert", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long = "tls-key", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Tls {
    /// What connections need; nothing if none of them is `wanted` to speak TLS by the option
    /// named `option`.
    pub(super) fn connector(
        self,
        wanted: bool,
        option: &str,
    ) -> anyhow::Result<Option<Arc<Connector>>> {
        let identity = self.cert.zip(self.key).map(|(cert, key)| Identity { cert, key });
        let files = TlsFiles { ca_file: self.ca, identity };
        match wanted {
            true => Ok(Some(Arc::new(Connector::new(files)?))),
            false if files == TlsFiles::default() => Ok(None),
            false => bail!("files for TLS, but no TLS: add {option}"),
        }
    }
}
