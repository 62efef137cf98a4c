//! `INFO`, with what the sidecar has to say in the place of what the local Redis would.

use crate::resp::Request;

/// What the rest of the sidecar tells the port. Calls must return at once.
pub trait Inspect: Send + Sync {
    /// The lines of `INFO replication`, `role:master` and so on; heading and line ends are ours.
    fn replication_section(&self) -> String;
    /// The lines of `INFO duplex`, likewise.
    fn duplex_section(&self) -> String;
    /// The reply to `DUPLEX <subcommand> ..`; an error is a sentence for people. `PAUSE`,
    /// `RESUME` and `RESYNC` come only from those who may.
    fn duplex(&self, request: &Request) -> Result<String, String>;
    /// The offset that `ROLE` tells: that of our followers.
    fn role(&self) -> u64;
}

/// What an `INFO` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sections {
    /// Whether the local Redis has to be asked, with which words.
    pub(super) ask: Option<Vec<Vec<u8>>>,
    /// Whether ours about replication is wanted though the local Redis is not asked for it.
    pub(super) replication: bool,
    /// Whether ours about the sidecar is wanted.
    pub(super) duplex: bool,
}

impl Sections {
    pub(super) fn of(request: &Request) -> Self {
        let is_any = |at, words: &[&str]| words.iter().any(|word| request.arg_is(at, word));
        let mut ask = vec![b"INFO".to_vec()];
        let mut replication = false;
        let mut duplex = request.len() == 1;
        for at in 1..request.len() {
            if is_any(at, &["duplex"]) {
                duplex = true;
            } else if is_any(at, &["replication"]) {
                replication = true;
            } else {
                duplex |= is_any(at, &["all", "everything", "default"]);
                ask.push(request.arg(at).to_vec());
            }
        }
        let asks = request.len() == 1 || ask.len() > 1;
        Self { ask: asks.then_some(ask), replication, duplex }
    }
}

/// The whole text: what the local Redis said, and ours.
/// `version` stands in the place of its own, if given.
pub(super) fn info(
    theirs: &str,
    version: Option<&str>,
    sections: &Sections,
    inspect: &dyn Inspect,
) -> String {
    let mut out = String::with_capacity(theirs.len() + 512);
    let mut replication = false;
    for section in split(theirs) {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        if section.starts_with("# Replication") {
            replication = true;
            put(&mut out, "Replication", &inspect.replication_section());
        } else {
            for line in section.lines().filter(|line| !line.is_empty()) {
                match version {
                    Some(version) if line.starts_with("redis_version:") => {
                        out.push_str("redis_version:");
                        out.push_str(version);
                    }
                    _ => out.push_str(unless_saving(line)),
                }
                out.push_str("\r\n");
            }
        }
    }
    if sections.replication && !replication {
        put(&mut out, "Replication", &inspect.replication_section());
    }
    if sections.duplex {
        put(&mut out, "Duplex", &inspect.duplex_section());
    }
    out
}

/// A follower that waits for a save to end would wait for one that is not for it.
fn unless_saving(line: &str) -> &str {
    match line.split_once(':') {
        Some(("rdb_bgsave_in_progress", _)) => "rdb_bgsave_in_progress:0",
        Some(("aof_rewrite_in_progress", _)) => "aof_rewrite_in_progress:0",
        _ => line,
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive("\r\n\r\n").filter(|section| !section.trim().is_empty())
}

fn put(out: &mut String, heading: &str, lines: &str) {
    if !out.is_empty() && !out.ends_with("\r\n\r\n") {
        out.push_str("\r\n");
    }
    out.push_str("# ");
    out.push_str(heading);
    out.push_str("\r\n");
    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        out.push_str(line);
        out.push_str("\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Inspect for Fixed {
        fn replication_section(&self) -> String {
            "# Replication\nrole:master\n".to_owned()
        }
        fn duplex_section(&self) -> String {
            "site:a\r\n".to_owned()
        }
        fn duplex(&self, _: &Request) -> Result<String, String> {
            Err("no".to_owned())
        }
        fn role(&self) -> u64 {
            7
        }
    }

    #[test]
    fn puts_ours_in_the_place_of_theirs() {
        let theirs = "# Persistence\r\nrdb_bgsave_in_progress:1\r\n\r\n# Replication\r\n\
             role:slave\r\nx:1\r\n\r\n# CPU\r\nu:1\r\n";
        let text = info(theirs, Some("6.2.14"), &Sections::of(&Request::of(&["INFO"])), &Fixed);
        assert_eq!(
            text,
            "# Persistence\r\nrdb_bgsave_in_progress:0\r\n\r\n# Replication\r\nrole:master\r\n\
             \r\n# CPU\r\nu:1\r\n\r\n# Duplex\r\nsite:a\r\n"
        );
        let sections = Sections::of(&Request::of(&["info", "Replication"]));
        assert_eq!(sections.ask, None);
        assert_eq!(info("", None, &sections, &Fixed), "# Replication\r\nrole:master\r\n");
    }

    #[test]
    fn asks_only_for_what_is_wanted() {
        let sections = |words: &[&str]| Sections::of(&Request::of(words));
        assert!(!sections(&["INFO", "server"]).duplex);
        assert!(sections(&["INFO", "all"]).duplex);
        assert!(sections(&["INFO", "duplex"]).ask.is_none());
        let both = sections(&["INFO", "replication", "server"]);
        assert_eq!(both.ask, Some(vec![b"INFO".to_vec(), b"server".to_vec()]));
        assert!(both.replication);
    }
}
