//! Requests gathered into runs, which go to the local Redis in one write each.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::pump::READ_AHEAD;
use super::{Run, Session};
use crate::config::Flush;
use crate::endpoint::backend::Outgoing;
use crate::endpoint::batch::{MULTI, Member};
use crate::endpoint::classify::Class;
use crate::endpoint::local::Broken;
use crate::endpoint::replies;
use crate::endpoint::tag::OpenTag;
use crate::endpoint::transaction::{Item, NOTHING, SPOILER, Step};
use crate::resp::Request;

impl Session {
    /// Whether writes outside of transactions go through the second connection: our EXEC would
    /// drop the client's watches, and Redis 7.0 puts a message that a client publishes to itself
    /// into the middle of EXEC's reply.
    pub(super) fn writes_apart(&self) -> bool {
        self.watching || self.subscribed
    }

    /// Adds a request to the run that goes in a marked batch.
    pub(super) async fn member(
        &mut self,
        request: Request,
        writes: bool,
        select: Option<u32>,
    ) -> Result<(), Broken> {
        let apart = self.writes_apart();
        if apart && !writes {
            return self.step(Step::Pass(select), request.raw()).await;
        }
        self.make_room(request.raw().len()).await?;
        let fits = matches!(&self.run, Run::Batch { on_side, .. } if *on_side == apart);
        if !fits {
            self.send_run().await?;
            self.run = Run::Batch { members: Vec::new(), on_side: apart };
        }
        if let Run::Batch { members, .. } = &mut self.run {
            members.push(Member { request, writes, select });
        }
        Ok(())
    }

    /// Adds a request to the run that goes as it is.
    pub(super) async fn step(&mut self, step: Step, raw: &Bytes) -> Result<(), Broken> {
        self.make_room(raw.len()).await?;
        if !matches!(self.run, Run::Steps { .. }) {
            self.send_run().await?;
        }
        if let Run::Steps { steps, out } = &mut self.run {
            steps.push(step);
            out.put_request(raw);
        }
        Ok(())
    }

    pub(super) async fn begin(&mut self) -> Result<(), Broken> {
        self.in_multi = true;
        let multi = Bytes::from_static(MULTI);
        if !self.endpoint.marks {
            return self.step(Step::Begin(None), &multi).await;
        }
        let endpoint = Arc::clone(&self.endpoint);
        let (tag, mark) = OpenTag::issue(&endpoint.write_off, &endpoint.site).await;
        self.step(Step::Begin(Some(tag)), &multi).await?;
        self.step(Step::Mark, &mark.into()).await
    }

    pub(super) async fn within_multi(
        &mut self,
        class: Result<Class, String>,
        request: &Request,
    ) -> Result<(), Broken> {
        let theirs = request.raw();
        let refused = |why: &str| (Step::Spoil(why.to_owned()), Bytes::from_static(SPOILER));
        let ours = |reply| (Step::Queue(Item::Ours(reply)), Bytes::from_static(NOTHING));
        let (step, raw) = match class {
            Err(error) => refused(&error),
            Ok(Class::Exec | Class::Discard) => {
                self.in_multi = false;
                self.watching = false;
                let exec = request.is("EXEC");
                (if exec { Step::Exec } else { Step::Discard }, theirs.clone())
            }
            Ok(Class::Select(Some(number))) => (Step::Queue(Item::Select(number)), theirs.clone()),
            Ok(Class::Instead(words)) => {
                (Step::Queue(Item::Theirs), Request::of(&words).raw().clone())
            }
            Ok(Class::Checkpoint(reply)) => ours(reply),
            Ok(Class::Flush | Class::Migrate) if !self.endpoint.marks => {
                (Step::Queue(Item::Theirs), theirs.clone())
            }
            Ok(Class::Migrate) => refused(replies::NO_MIGRATE),
            Ok(Class::Flush) => match self.endpoint.flush {
                Flush::Forward => (Step::Queue(Item::Theirs), theirs.clone()),
                Flush::Drop => ours(replies::OK),
                Flush::Stop => refused(replies::FLUSH_STOPPED),
            },
            Ok(Class::Refused(why)) => refused(why),
            Ok(
                Class::Batch { .. }
                | Class::Pass
                | Class::Select(None)
                | Class::Multi
                | Class::Watch
                | Class::Unwatch
                | Class::Blocking
                | Class::Ping
                | Class::ClientIntroduction,
            ) => (Step::Queue(Item::Theirs), theirs.clone()),
            Ok(_) => refused(replies::NOT_IN_TRANSACTION),
        };
        self.step(step, &raw).await
    }

    /// Sends the run if this would make it too large.
    async fn make_room(&mut self, bytes: usize) -> Result<(), Broken> {
        let full = self.run.len() >= self.endpoint.batch_commands
            || self.run_bytes.saturating_add(bytes) > self.endpoint.batch_bytes;
        if full {
            self.send_run().await?;
        }
        self.run_bytes += bytes;
        Ok(())
    }

    /// Sends what was gathered, as soon as it may be sent. What comes back is taken later.
    pub(super) async fn send_run(&mut self) -> Result<(), Broken> {
        let run = mem::replace(&mut self.run, Run::empty());
        // Of large arguments only one batch is held.
        let large = mem::take(&mut self.run_bytes) > self.endpoint.batch_bytes;
        if run.len() == 0 {
            return Ok(());
        }
        let sent = match run {
            Run::Batch { members, on_side: true } => {
                self.settle().await?;
                return self.local.run_on_side(&members, &mut self.replies).await;
            }
            // Only writes need a mark.
            Run::Batch { members, .. } if !members.iter().any(|member| member.writes) => {
                let mut out = Outgoing::default();
                for member in &members {
                    out.put_request(member.request.raw());
                }
                let steps = members.iter().map(|member| Step::Pass(member.select)).collect();
                self.room_for_steps().await?;
                self.local.send_steps(steps, out, &mut self.replies).await
            }
            Run::Batch { members, .. } => {
                while self.local.has_two_batches()
                    || self.local.is_full()
                    || (large && self.local.has_batch())
                {
                    self.pump(READ_AHEAD).await?;
                }
                self.local.send_batch(members, &mut self.replies).await
            }
            Run::Steps { steps, out } => {
                self.room_for_steps().await?;
                self.local.send_steps(steps, out, &mut self.replies).await
            }
        };
        sent.map_err(|lost| {
            self.local.give_up(&lost, &mut self.replies);
            Broken
        })
    }

    /// A batch may have to be sent again, so nothing but a batch goes behind it.
    async fn room_for_steps(&mut self) -> Result<(), Broken> {
        while self.local.has_batch() || self.local.is_full() {
            self.pump(READ_AHEAD).await?;
        }
        Ok(())
    }
}
