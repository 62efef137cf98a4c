//! A peer's sidecar: can we come in, and is it the one that we mean.

use std::io;
use std::time::{Duration, Instant};

use super::{List, open, within};
use crate::clock::unix_millis;
use crate::config::{Config, Peer};
use crate::frame::PROTOCOL;
use crate::observe::text::millis;
use crate::position::SiteName;
use crate::redis::{Connection, InfoText, RedisError, Target, info};

/// Questions for one figure of the round trip; the shortest counts.
const ROUNDS: u32 = 5;
/// Clocks further apart are told: lag and, later, who wrote last, are known no better.
const SKEW: u64 = 500;
/// A longer round trip is told.
const SLOW: Duration = Duration::from_secs(1);

pub(super) async fn check(config: &Config, peer: &Peer, list: &mut List<'_>) {
    let target = Target::from(peer);
    let mut connection = match open(&target).await {
        Ok(connection) => connection,
        Err(error) => return unreachable(peer, &error, list),
    };
    let asked = within(&peer.addr, about(&mut connection)).await;
    let (told, round_trip, skew) = match asked {
        Ok(asked) => asked,
        Err(error) => return unreachable(peer, &error, list),
    };
    if told.get("duplex_version").is_empty() {
        let found = format!("{} is a Redis and no sidecar", peer.addr);
        return list.fail(
            "reachable",
            found,
            "set [[peer]] addr to listen.addr of that site's sidecar",
        );
    }
    list.ok("reachable", peer.addr.clone());
    identity(config, peer, &told, list);
    if told.get("ready") == "1" {
        list.ok("state", "in sync with all its peers");
    } else {
        list.ok("state", format!("not in sync yet: {}", told.get("not_ready")));
    }
    if round_trip < SLOW {
        list.ok("round trip", shown(round_trip));
    } else {
        list.warn("round trip", shown(round_trip), "look at the network between the sites");
    }
    // Either clock is read somewhere within the round trip.
    let inexact = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
    match skew {
        None => {
            list.warn("clocks", "it does not tell its time", "run the same version at both sites");
        }
        Some(skew) if skew <= SKEW + inexact => {
            list.ok("clocks", format!("{} apart or less", millis(skew + inexact)));
        }
        Some(skew) => {
            list.warn("clocks", format!("{} apart", millis(skew)), "run NTP at both sites");
        }
    }
}

fn shown(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn unreachable(peer: &Peer, error: &RedisError, list: &mut List<'_>) {
    let subject = "reachable";
    let found = error.to_string();
    let refused = matches!(error, RedisError::Connect { source, .. }
        if source.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let remedy = format!("start the sidecar of site {}, or mend [[peer]] addr", peer.site);
        return list.warn(subject, found, remedy);
    }
    if error.is_tls() {
        // The remedy is in it.
        return list.fail(subject, found, "");
    }
    let reply = error.reply().unwrap_or_default();
    let remedy = if reply.starts_with("DENIED") {
        format!("give site {} a [[user]], and [[peer]] here its name and password", peer.site)
    } else if reply.contains("AUTH") || reply.starts_with("WRONGPASS") {
        format!("set [[peer]] username and password to those of a [[user]] at site {}", peer.site)
    } else {
        "is the address right, and does a firewall let us through?".to_owned()
    };
    list.fail(subject, found, remedy);
}

/// Whether it is the site that we mean, and of our mind.
fn identity(config: &Config, peer: &Peer, told: &InfoText, list: &mut List<'_>) {
    let (name, ours) = (told.get("site"), config.site.as_str());
    if name == ours {
        let found = format!("\"{name}\", as this one: maybe it is this very sidecar");
        let remedy =
            "let [[peer]] addr point at the other sidecar, and give each site its own name";
        return list.fail("site", found, remedy);
    }
    if name != peer.site.as_str() {
        let remedy = format!("here [[peer]] site is \"{}\": mend the one or the other", peer.site);
        return list.fail("site", format!("it is site \"{name}\""), remedy);
    }
    if !told.get("links").split(',').any(|site| site == ours) {
        let remedy = format!("add [[peer]] site = \"{ours}\" to its configuration");
        return list.fail("site", format!("it does not know site \"{ours}\""), remedy);
    }
    list.ok("site", format!("\"{name}\", which has us as a peer"));
    let version = told.get("duplex_version");
    match told.get("link_protocol") {
        "" => list.warn(
            "protocol",
            format!("unknown, version {version}"),
            "run the same version at both sites",
        ),
        protocol if protocol == PROTOCOL.to_string() => {
            list.ok("protocol", format!("{protocol}, version {version}"));
        }
        protocol => {
            let found = format!("{protocol}, here {PROTOCOL}");
            list.fail("protocol", found, "run the same version of redis-duplex at both sites");
        }
    }
    let (theirs, primary) = (told.get("primary"), &config.conflict.primary);
    let primary = primary.as_ref().map_or("", SiteName::as_str);
    if theirs == primary {
        list.ok("primary", format!("site \"{primary}\" at both"));
    } else {
        let found = format!("\"{theirs}\" there, \"{primary}\" here");
        list.fail("primary", found, "set [conflict] primary to the same at both sites");
    }
}

/// What it tells of itself, the shortest round trip, and how far apart the clocks are then.
async fn about(
    connection: &mut Connection,
) -> Result<(InfoText, Duration, Option<u64>), RedisError> {
    let mut best: Option<(InfoText, Duration, Option<u64>)> = None;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let told = info(connection, "duplex").await?;
        let took = began.elapsed();
        let middle = unix_millis().saturating_sub(u64::try_from(took.as_millis() / 2).unwrap_or(0));
        let skew = told.get("now_ms").parse().ok().map(|there: u64| there.abs_diff(middle));
        if best.as_ref().is_none_or(|(_, shortest, _)| took < *shortest) {
            best = Some((told, took, skew));
        }
    }
    best.ok_or_else(|| connection.unexpected("INFO", "nothing"))
}
