//! What was sent to the local Redis for one client and is not answered yet.
//!
//! Any number of single requests may be under way, and one marked batch behind them. A further
//! batch is sent without its EXEC, which follows when the batch before has succeeded: if that one
//! is refused, what is left of it is sent again, and a later write must not have been done by
//! then (docs/decisions/0001, 0009). Nothing else is sent behind a batch.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::backend::{Lost, Outgoing, Taken};
use super::batch::{self, DISCARD, EXEC, Member, Tried};
use super::local::Local;
use super::replies::{self, Replies};
use super::tag::OpenTag;
use super::transaction::{self, Step};

/// Most single requests under way; then the client waits. RedisShake, the deepest, has 2048.
const MAX_STEPS: usize = 16 * 1024;

/// Under way.
#[derive(Debug)]
pub(super) enum Flight {
    /// Requests that are answered one by one.
    Steps(VecDeque<Step>),
    /// A marked batch.
    Batch(BatchFlight),
}

/// A batch under way.
#[derive(Debug)]
pub(super) struct BatchFlight {
    members: Vec<Member>,
    tag: OpenTag,
    /// The replies so far: to MULTI, the mark, the members, EXEC.
    got: Vec<Bytes>,
    executes: bool,
}

impl Local {
    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether a batch is under way.
    pub(super) fn has_batch(&self) -> bool {
        matches!(self.flights.back(), Some(Flight::Batch(_)))
    }

    /// Whether a batch waits for the one before.
    pub(super) fn has_two_batches(&self) -> bool {
        matches!(self.flights.back(), Some(Flight::Batch(batch)) if !batch.executes)
    }

    /// Whether as many requests are under way as may be.
    pub(super) fn is_full(&self) -> bool {
        self.under_way() >= MAX_STEPS
    }

    /// Whether something is under way that may take for ever.
    pub(super) fn is_blocked(&self) -> bool {
        let blocks = |flight: &Flight| match flight {
            Flight::Steps(steps) => steps.iter().any(|step| matches!(step, Step::Block)),
            Flight::Batch(_) => false,
        };
        self.flights.iter().any(blocks)
    }

    fn under_way(&self) -> usize {
        let count = |flight: &Flight| match flight {
            Flight::Steps(steps) => steps.len(),
            Flight::Batch(batch) => batch.members.len(),
        };
        self.flights.iter().map(count).sum()
    }

    /// Sends requests in one go; no batch may be under way. Without a connection they are answered
    /// with the reason.
    pub(super) async fn send_steps(
        &mut self,
        steps: Vec<Step>,
        out: Outgoing,
        replies: &mut Replies,
    ) -> Result<(), Lost> {
        let backend = match self.main().await {
            Ok(backend) => backend,
            Err(error) => {
                tell_all(&steps, &error, replies);
                return Ok(());
            }
        };
        let sent = backend.send(out).await;
        self.flights.push_back(Flight::Steps(steps.into()));
        sent
    }

    /// Sends a batch; without its EXEC if another one is under way.
    pub(super) async fn send_batch(
        &mut self,
        members: Vec<Member>,
        replies: &mut Replies,
    ) -> Result<(), Lost> {
        let executes = !self.has_batch();
        if let Err(error) = self.main().await {
            tell_members(&members, &error, replies);
            return Ok(());
        }
        // The tag is out before the batch is: its mark may come back before EXEC's reply does.
        let (tag, mark) = OpenTag::issue(&self.endpoint.write_off, &self.endpoint.site).await;
        let out = batch::encode(&mark, members.iter(), executes);
        let got = Vec::with_capacity(members.len() + 3);
        self.flights.push_back(Flight::Batch(BatchFlight { members, tag, got, executes }));
        self.main().await.map_err(|_| Lost::Unexpected("a batch"))?.send(out).await
    }

    /// Takes the replies that are there, answers the client, and sends what may follow now.
    pub(super) async fn take_replies(&mut self, replies: &mut Replies) -> Result<(), Lost> {
        while let Some(taken) = self.next_reply()? {
            let reply = match taken {
                Taken::Whole(reply) => reply,
                Taken::Part(part, whole) => {
                    replies.part(&part, whole);
                    if whole {
                        self.pop_step();
                    }
                    continue;
                }
            };
            let push = reply.starts_with(b">");
            match self.flights.front_mut() {
                Some(Flight::Steps(_)) if !push => {
                    if let Some(step) = self.pop_step() {
                        let (open, database) = (&mut self.open, &mut self.database);
                        transaction::answer(step, &reply, open, database, replies)?;
                    }
                }
                Some(Flight::Batch(batch)) if !push => {
                    batch.got.push(reply);
                    if batch.executes && batch.got.len() == batch.members.len() + 3 {
                        self.land(replies).await?;
                    }
                }
                _ => replies.push(&reply),
            }
        }
        Ok(())
    }

    /// A reply that only passes through needs not be held until it is whole.
    fn next_reply(&mut self) -> Result<Option<Taken>, Lost> {
        let passes = match self.flights.front() {
            Some(Flight::Steps(steps)) => {
                matches!(steps.front(), Some(Step::Pass(None) | Step::Block))
            }
            _ => false,
        };
        self.main.as_mut().map_or(Ok(None), |main| main.take_some(passes))
    }

    /// The first step is answered.
    fn pop_step(&mut self) -> Option<Step> {
        let Some(Flight::Steps(steps)) = self.flights.front_mut() else { return None };
        let step = steps.pop_front();
        if steps.is_empty() {
            self.flights.pop_front();
        }
        step
    }

    /// The first batch has all its replies.
    async fn land(&mut self, replies: &mut Replies) -> Result<(), Lost> {
        let Some(Flight::Batch(landed)) = self.flights.pop_front() else { return Ok(()) };
        let tried = batch::judge(landed.got)?;
        let Tried::Done(items) = tried else {
            drop(landed.tag);
            return self.send_rest(landed.members, tried, replies).await;
        };
        landed.tag.done();
        self.answer_members(landed.members.iter().zip(items), replies);
        let Some(backend) = self.main.as_mut() else { return Ok(()) };
        if let Some(Flight::Batch(next)) = self.flights.front_mut() {
            let mut out = Outgoing::default();
            out.put(EXEC);
            next.executes = true;
            return backend.send(out).await;
        }
        Ok(())
    }

    /// The first batch was refused: its rest is sent again, and then the batch behind it.
    async fn send_rest(
        &mut self,
        members: Vec<Member>,
        tried: Tried,
        replies: &mut Replies,
    ) -> Result<(), Lost> {
        let endpoint = Arc::clone(&self.endpoint);
        let next = self.flights.pop_front();
        let Some(backend) = self.main.as_mut() else { return Ok(()) };
        let mut behind = None;
        if let Some(Flight::Batch(mut next)) = next {
            let mut out = Outgoing::default();
            out.put(DISCARD);
            backend.send(out).await?;
            while next.got.len() < next.members.len() + 3 {
                next.got.push(backend.reply(replies).await?);
            }
            behind = Some(next);
        }
        let mut answers = vec![None; members.len()];
        let marker = (&endpoint.write_off, &endpoint.site);
        let tried = (&members[..], Some(tried));
        let done = batch::run(backend, marker, tried, &mut answers, replies).await;
        let lost = done.as_ref().err().map(Lost::reply);
        let unknown = replies::error(lost.as_deref().unwrap_or(replies::NOT_EXECUTED)).freeze();
        let items = answers.into_iter().map(|answer| answer.unwrap_or_else(|| unknown.clone()));
        self.answer_members(members.iter().zip(items), replies);
        let Some(behind) = behind else { return done };
        if let Some(lost) = lost {
            tell_members(&behind.members, &lost, replies);
            return done;
        }
        if behind.got.first().is_some_and(|multi| multi != replies::OK) {
            // There was no transaction: each was answered alone.
            let items = behind.got.into_iter().skip(2);
            self.answer_members(behind.members.iter().zip(items), replies);
            return Ok(());
        }
        drop(behind.tag);
        self.send_batch(behind.members, replies).await
    }

    fn answer_members<'a>(
        &mut self,
        answers: impl Iterator<Item = (&'a Member, Bytes)>,
        replies: &mut Replies,
    ) {
        for (member, reply) in answers {
            if let (Some(number), true) = (member.select, reply == replies::OK) {
                self.database = number;
            }
            replies.reply(&reply);
        }
    }

    /// The connection is lost: all that is under way is answered with that.
    pub(super) fn give_up(&mut self, lost: &Lost, replies: &mut Replies) {
        tracing::warn!(error = %lost, "lost a client's connection to the local redis");
        // Nothing can be said in the middle of a reply: the client sees that it ends.
        if self.main.take().is_some_and(|main| main.is_partly_taken()) {
            self.flights.clear();
            return;
        }
        let error = lost.reply();
        for flight in self.flights.drain(..) {
            match flight {
                Flight::Steps(steps) => tell_all(&steps, &error, replies),
                Flight::Batch(batch) => tell_members(&batch.members, &error, replies),
            }
        }
    }
}

/// Answers each step of a client's with an error.
fn tell_all<'a>(steps: impl IntoIterator<Item = &'a Step>, error: &str, replies: &mut Replies) {
    for step in steps {
        if !matches!(step, Step::Mark) {
            replies.error(error);
        }
    }
}

/// Answers each member of a batch with an error.
pub(super) fn tell_members(members: &[Member], error: &str, replies: &mut Replies) {
    for _ in members {
        replies.error(error);
    }
}
