//! Who the client is: `AUTH`, `HELLO` and `RESET`, and how many times it may be wrong.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Next, Session, limits};
use crate::endpoint::access::{Denial, Identity};
use crate::endpoint::audit;
use crate::endpoint::local::{Broken, Local};
use crate::endpoint::replies;
use crate::resp::Request;

/// How long the answer to the first wrong password of a connection is kept back; twice as long each
/// time after it.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest such wait.
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// Wrong passwords after which a connection is closed.
const MOST_FAILURES: u32 = 10;

impl Session {
    pub(super) async fn auth(&mut self, request: &Request) -> Next {
        let words: Vec<&[u8]> = request.args().skip(1).collect();
        let name = if words.len() > 1 { words[0] } else { b"default" };
        match self.endpoint.users.authenticate(&words).await {
            Ok(who) => {
                self.is_known(who);
                self.replies.reply(replies::OK);
                Next::Go
            }
            Err(denial) => self.denied(&denial, name).await,
        }
    }

    fn is_known(&mut self, who: Identity) {
        self.who = Some(who);
        self.stranger = None;
        self.parser.set_limits(limits(&self.endpoint, true));
    }

    /// Answers somebody who is not who they say, after a while.
    async fn denied(&mut self, denial: &Denial, name: &[u8]) -> Next {
        if *denial == Denial::Wrong {
            self.failures += 1;
            let name = self.endpoint.users.name(name);
            audit::tell_failed_login(self.peer, name, self.failures);
            self.endpoint.status.login_failures.fetch_add(1, Ordering::Relaxed);
            let doublings = (self.failures - 1).min(8);
            let delay = FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY);
            tokio::select! {
                () = sleep(delay) => {}
                () = self.token.cancelled() => {}
            }
        }
        self.replies.error(denial.reply());
        if self.failures < MOST_FAILURES { Next::Go } else { Next::Close }
    }

    /// `HELLO [2|3 [AUTH user password] [SETNAME name]]`: who it is, we check; the rest goes on. Who
    /// is answered with an error is who it was before.
    pub(super) async fn hello(&mut self, request: &Request) -> Result<Next, Broken> {
        let mut words: Vec<&[u8]> = request.args().collect();
        let mut login = None;
        let mut at = 2;
        while at < words.len() {
            if words[at].eq_ignore_ascii_case(b"auth") && words.len() > at + 2 {
                login = Some([words[at + 1], words[at + 2]]);
                words.drain(at..at + 3);
            } else if words[at].eq_ignore_ascii_case(b"setname") && words.len() > at + 1 {
                at += 2;
            } else {
                self.replies.error(replies::SYNTAX);
                return Ok(Next::Go);
            }
        }
        let mut new = None;
        if let Some(user) = login {
            match self.endpoint.users.authenticate(&user).await {
                Ok(who) => new = Some(who),
                Err(denial) => return Ok(self.denied(&denial, user[0]).await),
            }
        }
        if self.who.is_none() && new.is_none() {
            self.replies.error(replies::NO_AUTH_HELLO);
            return Ok(Next::Go);
        }
        let forwarded = Request::of(&words);
        match self.local.ask(forwarded.raw(), &mut self.replies).await? {
            Ok(reply) => {
                if !reply.starts_with(b"-") {
                    if let Some(who) = new {
                        self.is_known(who);
                    }
                    if forwarded.len() > 1 {
                        self.local.set_resp3(forwarded.arg(1) == b"3");
                    }
                }
                self.replies.reply(&reply);
            }
            Err(error) => self.replies.error(&error),
        }
        Ok(Next::Go)
    }

    /// As a new connection; the one to the local Redis goes, and with it what it knew. Who was known
    /// needs a place among the strangers again; whoever was none gets no more time by it.
    pub(super) async fn reset(&mut self) -> Result<Next, Broken> {
        if self.who.is_some() && !self.endpoint.users.is_open() {
            self.wait_as_stranger().await?;
            let Ok(place) = Arc::clone(&self.strangers).try_acquire_owned() else {
                self.replies.error(replies::TOO_MANY_STRANGERS);
                return Ok(Next::Close);
            };
            self.stranger = Some(place);
            self.unknown_since = Instant::now();
        }
        self.local = Local::new(Arc::clone(&self.endpoint));
        self.who = self.endpoint.users.at_first();
        self.parser.set_limits(limits(&self.endpoint, self.who.is_some()));
        self.in_multi = false;
        self.watching = false;
        self.subscribed = false;
        self.replies.reset_mode();
        self.replies.reply(replies::RESET);
        Ok(Next::Go)
    }
}
