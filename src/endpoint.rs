//! The RESP port. To anything that writes it is the local Redis; to anything that asks for the
//! replication stream it is a master, whose stream the feed then sends; to people it is the place
//! to look.
//!
//! Each client connection has its own connection to the local Redis behind it. What a client
//! writes goes there in marked batches, so that the filter knows it again in the stream, and each
//! reply comes back as if the command had been sent alone.

mod access;
mod audit;
mod backend;
mod batch;
mod classify;
mod command_table;
mod flight;
mod handshake;
mod inspection;
mod listen;
mod local;
mod pipe;
mod replies;
mod rights;
mod seldom;
mod session;
mod status;
mod tag;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

pub use command_table::{CommandTable, Kind};
pub use handshake::ReplicaWish;
pub use inspection::Inspect;
pub use listen::serve;
pub use status::PortStatus;

use crate::config::{Config, Flush};
use crate::net::{Acceptor, Stream};
use crate::position::SiteName;
use crate::redis::Target;
use crate::resp::Request;
use crate::write_off::WriteOffSet;
use access::Users;
use seldom::Seldom;

/// How a session with a client ends.
#[derive(Debug)]
pub enum SessionEnd {
    /// The client or we closed it.
    Closed,
    /// `PSYNC` or `SYNC`: the connection belongs to the feed from here on.
    Replica {
        /// The connection; everything before the request is answered.
        stream: Stream,
        /// What came behind the request.
        input: BytesMut,
        /// What it asks for.
        wish: ReplicaWish,
    },
    /// `DUPLEX LINK ..`: a peer, which may be one by its role.
    Peer {
        /// The connection; everything before the request is answered.
        stream: Stream,
        /// What came behind the request.
        input: BytesMut,
        /// The request itself.
        request: Request,
    },
}

/// What all sessions share.
#[derive(Clone)]
pub struct Endpoint {
    site: SiteName,
    target: Target,
    users: Arc<Users>,
    table: Arc<CommandTable>,
    write_off: Arc<WriteOffSet>,
    inspect: Arc<dyn Inspect>,
    status: Arc<PortStatus>,
    /// Tells that the local Redis is not there for a client.
    unreachable: Arc<Seldom>,
    flush: Flush,
    redis_version: Option<String>,
    /// Whether writes are marked; if not, they are as good as a local client's.
    marks: bool,
    batch_commands: usize,
    batch_bytes: usize,
    max_connections: usize,
    idle: Option<Duration>,
    /// Set when the port speaks TLS.
    tls: Option<Arc<Acceptor>>,
}

impl Endpoint {
    /// The port of this site, as configured. `table` is from the local Redis.
    pub fn new(
        config: &Config,
        table: CommandTable,
        write_off: Arc<WriteOffSet>,
        inspect: Arc<dyn Inspect>,
        status: Arc<PortStatus>,
    ) -> Arc<Self> {
        Arc::new(Self {
            site: config.site.clone(),
            target: Target::from(&config.redis),
            users: Arc::new(Users::new(&config.users)),
            table: Arc::new(table),
            write_off,
            inspect,
            status,
            unreachable: Arc::default(),
            flush: config.filter.flush,
            marks: true,
            redis_version: config.listen.redis_version.clone(),
            batch_commands: config.apply.batch_commands,
            batch_bytes: usize::try_from(config.apply.batch_bytes.as_u64()).unwrap_or(usize::MAX),
            max_connections: config.listen.max_connections,
            idle: Some(config.listen.timeout).filter(|timeout| !timeout.is_zero()),
            tls: config.listen.acceptor.clone(),
        })
    }

    /// The same port, but what is written through it counts as local: `[listen] local_addr`.
    pub fn without_marks(&self) -> Arc<Self> {
        Arc::new(Self { marks: false, ..self.clone() })
    }
}
