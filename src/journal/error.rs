//! What can go wrong with a journal.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::position::Position;

/// Why a reader can't begin or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInJournal {
    /// The position is of a history that this site does not have.
    #[error("{0} is of another history than {1}")]
    OtherHistory(Position, Position),
    /// Units behind the position were already dropped.
    #[error("the journal begins at {begins}, {asked} is before it")]
    Dropped {
        /// What was asked for.
        asked: String,
        /// Where the journal begins now.
        begins: String,
    },
    /// The position lies ahead of the stream.
    #[error("{asked} is ahead of this site, which stands at {stands}")]
    Ahead {
        /// What was asked for.
        asked: String,
        /// Where the journal ends.
        stands: String,
    },
    /// The local Redis began another history while the reader was at work.
    #[error("the local Redis began another history")]
    HistoryBroke,
    /// The file can't be read, or is not what was written.
    #[error("the journal can't be read: {0}")]
    Unreadable(String),
}

impl NotInJournal {
    pub(super) fn dropped(asked: impl std::fmt::Display, begins: impl std::fmt::Display) -> Self {
        Self::Dropped { asked: asked.to_string(), begins: begins.to_string() }
    }
}

/// Why the journal can't be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error(
        "the journal in {} is in use by another process: stop the other sidecar, or give this one \
         another [journal] dir",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It can't be opened.
    #[error("can't open the journal at {}: {source}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another version of the program wrote it.
    #[error(
        "{} has journal format {found}, this version of redis-duplex reads format {known}: run the \
         version that wrote it, or move the directory away (peers and followers then take a full \
         sync)",
        path.display()
    )]
    Format {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// What was once written is not there any more.
    #[error(
        "the journal is damaged: {} at byte {offset}: {what}. Move the directory away and start \
         again: peers and followers then take a full sync",
        path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Not written; nothing has changed, and the same can be tried again.
    #[error("can't write {}: {source}", path.display())]
    Write {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written, but not to be forced to disk; nothing is taken any more until the next opening.
    #[error("can't force the journal to disk, restart the sidecar: {0}")]
    Sync(Arc<str>),
    /// What was given does not continue what is here.
    #[error("not to be put into the journal: {0}")]
    Unfit(String),
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// The same, for one more who asks.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Sync(reason) => Self::Sync(reason.clone()),
            _ => Self::Closed,
        }
    }
}
