//! One connection to a server, with the requests that we make on our own account.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp2::types::BytesFrame;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::{Connector, Stream, is_of_tls, send, tune};
use crate::resp::{self, ReplyScanner};

/// How long a connect or one of our own small requests may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How much room is kept free for one read.
const READ_SIZE: usize = 64 * 1024;

/// What can go wrong while talking to a server. Messages name the server.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// No connection.
    #[error("can't connect to {addr}: {source}")]
    Connect {
        /// The server.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("lost the connection to {addr}: {source}")]
    Lost {
        /// The server.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server answered with an error.
    #[error("{addr} refused {command}: {reply}")]
    Refused {
        /// The server.
        addr: String,
        /// The command's name.
        command: String,
        /// The error as it came, without the `-`.
        reply: String,
    },
    /// The answer makes no sense.
    #[error("{addr} sent an unexpected answer to {command}: {what}")]
    Unexpected {
        /// The server.
        addr: String,
        /// The command's name.
        command: String,
        /// What came.
        what: String,
    },
}

impl RedisError {
    /// Whether waiting can help: the server is down, loading or busy, but not a wrong password.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => true,
            Self::Refused { reply, .. } => is_passing(reply),
            Self::Unexpected { .. } => false,
        }
    }

    /// Whether the server is down or on its way back. The source tells of that.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => !self.is_tls(),
            Self::Refused { .. } | Self::Unexpected { .. } => self.is_loading(),
        }
    }

    /// Whether the server is there, and reads its data still.
    pub fn is_loading(&self) -> bool {
        self.reply().is_some_and(|reply| error_code(reply) == "LOADING")
    }

    /// Whether TLS is why there is no connection; then the error says what to do.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Lost { source, .. } => is_of_tls(source),
            Self::Refused { .. } | Self::Unexpected { .. } => false,
        }
    }

    /// Whether the other end broke off on what it read.
    pub fn is_reset(&self) -> bool {
        matches!(self, Self::Lost { source, .. } if source.kind() == io::ErrorKind::ConnectionReset)
    }

    /// The error reply, if the server sent one.
    pub fn reply(&self) -> Option<&str> {
        match self {
            Self::Refused { reply, .. } => Some(reply),
            _ => None,
        }
    }
}

/// The first word of an error reply.
pub fn error_code(reply: &str) -> &str {
    reply.split_whitespace().next().unwrap_or_default()
}

/// Whether an error reply tells of a state of the server that can pass by itself or by an
/// operator's hand, so that the same command can succeed later.
pub fn is_passing(reply: &str) -> bool {
    match error_code(reply) {
        "LOADING" | "OOM" | "READONLY" | "MISCONF" | "BUSY" | "NOREPLICAS" | "MASTERDOWN"
        | "TRYAGAIN" | "CLUSTERDOWN" | "NOPERM" | "UNKILLABLE" => true,
        "ERR" => reply.contains("max number of clients"),
        _ => false,
    }
}

/// Where a server is and how to get in.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`.
    pub addr: String,
    /// User name; none for the default user.
    pub username: Option<String>,
    /// Password; none when the server asks for none.
    pub password: Option<SecretString>,
    /// How to speak TLS to it; none when it is spoken to in plain text.
    pub tls: Option<Arc<Connector>>,
}

impl Target {
    /// A server without a password.
    pub fn open(addr: impl Into<String>) -> Self {
        Self { addr: addr.into(), username: None, password: None, tls: None }
    }

    async fn connect(&self) -> io::Result<Stream> {
        let socket = timeout(REQUEST_TIMEOUT, TcpStream::connect(&self.addr))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        tune(&socket)?;
        match &self.tls {
            None => Ok(Stream::Plain(socket)),
            Some(tls) => tls.connect(&self.addr, socket).await,
        }
    }
}

impl From<&crate::config::Redis> for Target {
    fn from(config: &crate::config::Redis) -> Self {
        Self {
            addr: config.addr.clone(),
            username: config.username.clone(),
            password: config.password.clone(),
            tls: config.connector.clone(),
        }
    }
}

impl From<&crate::config::Peer> for Target {
    fn from(config: &crate::config::Peer) -> Self {
        Self {
            addr: config.addr.clone(),
            username: config.username.clone(),
            password: config.password.clone(),
            tls: config.connector.clone(),
        }
    }
}

/// A connection, authenticated, with what was read and not yet used.
#[derive(Debug)]
pub struct Connection {
    addr: String,
    stream: Stream,
    /// Bytes read and not yet used.
    pub input: BytesMut,
}

impl Connection {
    /// Connects and authenticates.
    pub async fn open(target: &Target) -> Result<Self, RedisError> {
        let stream = target
            .connect()
            .await
            .map_err(|source| RedisError::Connect { addr: target.addr.clone(), source })?;
        let mut connection =
            Self { addr: target.addr.clone(), stream, input: BytesMut::with_capacity(READ_SIZE) };
        if let Some(password) = &target.password {
            let password = password.expose_secret();
            match &target.username {
                Some(user) => connection.call(&["AUTH", user, password]).await?,
                None => connection.call(&["AUTH", password]).await?,
            };
        }
        Ok(connection)
    }

    /// The server, `host:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Sends one command and waits for its reply; an error reply is an `Err`.
    pub async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<BytesFrame, RedisError> {
        let command =
            || String::from_utf8_lossy(args.first().map_or(&[][..], AsRef::as_ref)).into_owned();
        let mut out = BytesMut::new();
        resp::put_command(&mut out, args);
        let talk = async {
            self.write(&out).await?;
            self.reply(&command()).await
        };
        let frame = timeout(REQUEST_TIMEOUT, talk)
            .await
            .map_err(|_| self.lost(io::ErrorKind::TimedOut.into()))??;
        match frame {
            BytesFrame::Error(reply) => Err(RedisError::Refused {
                addr: self.addr.clone(),
                command: command(),
                reply: reply.to_string(),
            }),
            frame => Ok(frame),
        }
    }

    /// The next reply, errors included. No time limit of its own.
    pub async fn reply(&mut self, command: &str) -> Result<BytesFrame, RedisError> {
        let mut scanner = ReplyScanner::default();
        loop {
            let unexpected = |what: String| RedisError::Unexpected {
                addr: self.addr.clone(),
                command: command.to_owned(),
                what,
            };
            match scanner.scan(&self.input) {
                Ok(Some(length)) => {
                    let mut whole = self.input.split_to(length);
                    return match redis_protocol::resp2::decode::decode_bytes_mut(&mut whole) {
                        Ok(Some((frame, _, _))) => Ok(frame),
                        Ok(None) => Err(unexpected("a reply that never ends".to_owned())),
                        Err(error) => Err(unexpected(error.to_string())),
                    };
                }
                Ok(None) => self.read().await?,
                Err(error) => return Err(unexpected(error.to_string())),
            }
        }
    }

    /// Reads what has come into [`Self::input`]; waits if nothing has. Cancel safe.
    pub async fn read(&mut self) -> Result<(), RedisError> {
        self.input.reserve(READ_SIZE);
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(source) => Err(self.lost(source)),
        }
    }

    /// Writes all of `bytes`. Not cancel safe.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        send(&mut self.stream, bytes).await.map_err(|source| self.lost(source))
    }

    /// The parts, for those who read and write at the same time.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.input)
    }

    /// The error of a broken connection to this server.
    pub fn lost(&self, source: io::Error) -> RedisError {
        RedisError::Lost { addr: self.addr.clone(), source }
    }

    /// The error of an answer that makes no sense.
    pub fn unexpected(&self, command: &str, what: impl Into<String>) -> RedisError {
        RedisError::Unexpected {
            addr: self.addr.clone(),
            command: command.to_owned(),
            what: what.into(),
        }
    }
}
