//! Looking before the leap: what would stop a site's sidecar or hurt later, and what to do about it.
//!
//! Nothing is changed anywhere, and it may be run beside a sidecar that works.

mod backlog;
mod local;
mod machine;
mod peer;
mod permissions;
mod settings;

use std::time::Duration;

use tokio::time::timeout;

use crate::config::Config;
use crate::redis::{Connection, RedisError, Target};

/// How long one step may take: who needs longer has a problem that a person should know of.
const STEP_LIMIT: Duration = Duration::from_secs(4);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// It works, and may hurt later.
    Warn,
    /// It does not work like this.
    Fail,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Whose: `redis`, `sidecar`, `peer b`.
    pub place: String,
    /// What was looked at.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub remedy: String,
}

/// What is told while it goes on.
#[derive(Debug)]
pub enum Told<'a> {
    /// This is being looked at; it may take seconds.
    Doing(&'a str),
    /// This was found.
    Found(&'a Finding),
}

/// Checks one site from the machine its sidecar is to run on, and tells each finding at once.
/// What can't be asked any more after a failure is left out.
pub async fn check(config: &Config, tell: impl FnMut(Told<'_>) + Send) -> Vec<Finding> {
    let mut list = List { place: "redis".to_owned(), found: Vec::new(), tell: Box::new(tell) };
    list.doing("asking the local Redis");
    local::check(config, &mut list).await;
    "sidecar".clone_into(&mut list.place);
    list.doing("looking at this machine");
    machine::check(config, &mut list).await;
    for peer in &config.peers {
        list.place = format!("peer {}", peer.site);
        list.doing(&format!("asking the sidecar of site {}", peer.site));
        peer::check(config, peer, &mut list).await;
    }
    list.found
}

/// What was found so far.
struct List<'a> {
    place: String,
    found: Vec<Finding>,
    tell: Box<dyn FnMut(Told<'_>) + Send + 'a>,
}

impl List<'_> {
    fn doing(&mut self, what: &str) {
        (self.tell)(Told::Doing(what));
    }

    fn ok(&mut self, subject: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, subject, (found.into(), String::new()));
    }

    fn warn(&mut self, subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warn, subject, (found.into(), remedy.into()));
    }

    fn fail(&mut self, subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Fail, subject, (found.into(), remedy.into()));
    }

    fn add(&mut self, level: Level, subject: &'static str, (found, remedy): (String, String)) {
        let place = self.place.clone();
        let finding = Finding { level, place, subject, found, remedy };
        (self.tell)(Told::Found(&finding));
        self.found.push(finding);
    }
}

/// A connection, within the limit of a step.
async fn open(target: &Target) -> Result<Connection, RedisError> {
    let late = || RedisError::Connect {
        addr: target.addr.clone(),
        source: std::io::ErrorKind::TimedOut.into(),
    };
    timeout(STEP_LIMIT, Connection::open(target)).await.unwrap_or_else(|_| Err(late()))
}

/// What `ask` asks on this connection, within the limit of a step.
async fn within<T>(
    addr: &str,
    ask: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    let late =
        || RedisError::Lost { addr: addr.to_owned(), source: std::io::ErrorKind::TimedOut.into() };
    timeout(STEP_LIMIT, ask).await.unwrap_or_else(|_| Err(late()))
}
