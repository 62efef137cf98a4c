//! What we answer ourselves, and what needs the connection to the local Redis for itself.

use bytes::BytesMut;

use super::{Next, Session};
use crate::config::Flush;
use crate::endpoint::classify::{Class, classify};
use crate::endpoint::inspection::{self, Sections};
use crate::endpoint::local::Broken;
use crate::endpoint::pipe::{self, PipeEnd};
use crate::endpoint::replies;
use crate::resp::{self, Request};

impl Session {
    /// What we answer, and what needs the connection for itself. The run before it is done.
    pub(super) async fn answer(&mut self, class: Class, request: Request) -> Result<Next, Broken> {
        match class {
            Class::Checkpoint(reply) => self.replies.reply(reply),
            Class::Flush if self.endpoint.flush == Flush::Drop => self.replies.reply(replies::OK),
            Class::Flush => self.replies.error(replies::FLUSH_STOPPED),
            Class::Blocking => self.replies.error(replies::NO_BLOCKING),
            Class::Refused(why) => self.replies.error(why),
            Class::Migrate => self.replies.error(replies::NO_MIGRATE),
            Class::Subscribe if !self.local.resp3 => return self.pipe(request).await,
            Class::Monitor => return self.pipe(request).await,
            Class::Subscribe | Class::Unsubscribe => {
                self.subscribed |= class == Class::Subscribe;
                self.local.fenced(request.raw(), &mut self.replies).await?;
            }
            Class::Auth => return Ok(self.auth(&request).await),
            Class::Hello => return self.hello(&request).await,
            Class::Reset => return self.reset().await,
            Class::Quit => {
                self.replies.reply(replies::OK);
                return Ok(Next::Close);
            }
            Class::Ping if request.len() == 1 => self.replies.reply(replies::PONG),
            Class::Ping => {
                let mut out = BytesMut::new();
                resp::put_bulk(&mut out, request.arg(1));
                self.replies.reply(&out);
            }
            Class::ClientReply if request.len() == 3 => self.replies.set_mode(request.arg(2)),
            Class::ClientReply => self.replies.error(&replies::arity("client|reply")),
            Class::Replconf => match self.wish.replconf(&request) {
                Ok(true) => self.replies.reply(replies::OK),
                Ok(false) => {}
                Err(error) => self.replies.error(&error),
            },
            Class::Psync => match self.wish.clone().ask(&request) {
                Ok(wish) => return Ok(Next::Replica(wish)),
                Err(error) => self.replies.error(&error),
            },
            Class::Link => return Ok(Next::Peer(request)),
            Class::Info => self.info(&request).await?,
            Class::Role => {
                let offset = self.endpoint.inspect.role();
                let reply = format!("*3\r\n$6\r\nmaster\r\n:{offset}\r\n*0\r\n");
                self.replies.reply(reply.as_bytes());
            }
            _ => self.duplex(&request),
        }
        Ok(Next::Go)
    }

    async fn info(&mut self, request: &Request) -> Result<(), Broken> {
        let sections = Sections::of(request);
        let mut theirs = String::new();
        if let Some(words) = &sections.ask {
            let ask = Request::of(words);
            match self.local.ask(ask.raw(), &mut self.replies).await? {
                Ok(reply) if reply.starts_with(b"-") => {
                    self.replies.reply(&reply);
                    return Ok(());
                }
                Ok(reply) => theirs = text_of(&reply),
                // What we know ourselves is worth more now than at any other time.
                Err(error) if !sections.duplex => {
                    self.replies.error(&error);
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        let text = inspection::info(
            &theirs,
            self.endpoint.redis_version.as_deref(),
            &sections,
            &*self.endpoint.inspect,
        );
        self.replies.text(&text, self.local.resp3);
        Ok(())
    }

    fn duplex(&mut self, request: &Request) {
        match self.endpoint.inspect.duplex(request) {
            Ok(text) => self.replies.text(&text, self.local.resp3),
            Err(error) if error.contains("DUPLEX HELP") => {
                self.replies.error(&format!("ERR {error}"));
            }
            Err(error) => self.replies.error(&format!("ERR {error}; see DUPLEX HELP")),
        }
    }

    /// The connection is a subscriber's until it has unsubscribed from everything.
    async fn pipe(&mut self, request: Request) -> Result<Next, Broken> {
        let mut request = request;
        loop {
            let backend = match self.local.main().await {
                Ok(backend) => backend,
                Err(error) => {
                    self.replies.error(&error);
                    return Ok(Next::Go);
                }
            };
            let client = pipe::Client {
                stream: &mut self.client,
                input: &mut self.input,
                parser: &mut self.parser,
                replies: &mut self.replies,
                monitors: request.is("MONITOR"),
            };
            let end = tokio::select! {
                end = pipe::run(client, backend, &request) => end,
                () = self.token.cancelled() => PipeEnd::Closed,
            };
            match end {
                PipeEnd::Closed => return Ok(Next::Close),
                PipeEnd::Reset => return self.reset().await,
                PipeEnd::Normal(next) => {
                    let class = classify(&self.endpoint.table, &next);
                    if !matches!(class, Class::Subscribe | Class::Monitor) {
                        return Box::pin(self.take(next)).await;
                    }
                    // Not by `take`: who goes in and out again and again would nest it without end.
                    if let Err(error) = self.judge(&class, &next) {
                        self.replies.error(&error);
                        return Ok(Next::Go);
                    }
                    request = next;
                }
            }
        }
    }
}

/// The text of a bulk or verbatim string.
fn text_of(reply: &[u8]) -> String {
    let body = reply.iter().position(|&byte| byte == b'\n').map_or(&[][..], |at| &reply[at + 1..]);
    let body = if reply.starts_with(b"=") { body.get(4..).unwrap_or_default() } else { body };
    String::from_utf8_lossy(body.strip_suffix(b"\r\n").unwrap_or(body)).into_owned()
}
