//! What a peer asks for.

use super::Feed;
use crate::frame::PROTOCOL;
use crate::position::{Checkpoint, LinkSession, Position, ReplicationId, SiteName};
use crate::resp::Request;

/// How a peer wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// It has nothing from us yet.
    New,
    /// It stands at one of these positions.
    Resume,
    /// It was told to take a full sync by its own feed.
    Full,
}

/// `DUPLEX LINK <protocol> <from site> <to site> <primary> <session> new|resume|full <known> <history> [checkpoint ..]`.
#[derive(Debug)]
pub(super) struct LinkRequest {
    pub site: SiteName,
    pub session: LinkSession,
    pub begin: Begin,
    /// Behind this the peer knows what of its own writes we have not seen.
    pub known: Option<Position>,
    /// The id of the peer's own history, once it has one.
    pub history: Option<ReplicationId>,
    pub checkpoints: Vec<Checkpoint>,
}

impl Feed {
    pub(super) fn read_request(&self, request: &Request) -> Result<LinkRequest, String> {
        let word = |index: usize| String::from_utf8_lossy(request.arg(index)).into_owned();
        let protocol = word(2);
        if protocol != PROTOCOL.to_string() {
            return Err(format!(
                "this sidecar speaks link protocol {PROTOCOL}, the peer {protocol}: run the same \
                 version of redis-duplex at both sites"
            ));
        }
        let (from, to, primary) = (word(3), word(4), word(5));
        if from == self.site.as_str() {
            return Err(format!(
                "both sidecars are named \"{from}\": give each site its own `site`, and let \
                 [[peer]] addr point at the other sidecar"
            ));
        }
        if to != self.site.as_str() {
            return Err(format!(
                "this is site \"{}\", not \"{to}\": mend [[peer]] of site \"{from}\"",
                self.site
            ));
        }
        let Some(site) = self.peers.keys().find(|name| name.as_str() == from) else {
            return Err(format!("site \"{from}\" is no [[peer]] of site \"{}\"", self.site));
        };
        let ours = self.primary.as_ref().map_or("", SiteName::as_str);
        if primary != ours {
            return Err(format!(
                "[conflict] primary is \"{ours}\" at site \"{}\" and \"{primary}\" at site \
                 \"{from}\": it must be the same",
                self.site
            ));
        }
        let session = u64::from_str_radix(&word(6), 16).map(LinkSession);
        let session = session.map_err(|_| format!("\"{}\" is no session", word(6)))?;
        let begin = match word(7).as_str() {
            "new" => Begin::New,
            "resume" => Begin::Resume,
            "full" => Begin::Full,
            other => return Err(format!("\"{other}\" is no way to begin a link")),
        };
        let checkpoints: Result<_, _> =
            (10..request.len()).map(|index| word(index).parse()).collect();
        let checkpoints = checkpoints.map_err(|error| format!("{error}"))?;
        let known = match word(8).as_str() {
            "-" => None,
            known => Some(known.parse().map_err(|error| format!("{error}"))?),
        };
        let history = match word(9).as_str() {
            "-" => None,
            history => Some(history.parse().map_err(|error| format!("{error}"))?),
        };
        Ok(LinkRequest { site: site.clone(), session, begin, known, history, checkpoints })
    }
}
