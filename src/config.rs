//! The configuration: one TOML file, every scalar overridable by the environment.

mod check;
mod error;
mod listen;
mod load;
mod policy;
mod stages;
mod tls;

use serde::Deserialize;

pub use error::ConfigError;
pub use listen::{Listen, Role, User};
pub use policy::{Conflict, Filter, Flush, Policy};
pub use stages::{Apply, Fsync, Journal, Link, Peer, Redis};

use crate::position::SiteName;

/// The whole configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This site's name.
    pub site: SiteName,
    /// The local Redis.
    pub redis: Redis,
    /// Where we listen.
    pub listen: Listen,
    /// Who may connect; none means only loopback (protected mode).
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    /// The journal.
    #[serde(default)]
    pub journal: Journal,
    /// How batches are written.
    #[serde(default)]
    pub apply: Apply,
    /// Time limits of links.
    #[serde(default)]
    pub link: Link,
    /// The other sites.
    #[serde(default, rename = "peer")]
    pub peers: Vec<Peer>,
    /// Conflicts.
    #[serde(default)]
    pub conflict: Conflict,
    /// What is not synchronized.
    #[serde(default)]
    pub filter: Filter,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use secrecy::ExposeSecret;

    use super::*;

    const GOOD: &str = "site = \"a\"\n[redis]\naddr = \"127.0.0.1:6379\"\n[listen]\n\
                        addr = \"127.0.0.1:6380\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("x.toml"), text, std::iter::empty()).map_err(|e| e.to_string())
    }

    /// Such files are not there, or need not be.
    fn names_a_file(line: &str) -> bool {
        ["password_file", "ca_file", "client_ca", "tls_cert", "tls_key"]
            .iter()
            .any(|key| line.trim_start_matches("# ").starts_with(key))
    }

    #[test]
    fn the_commented_example_is_valid_and_every_key_in_it_is_known() {
        let text = include_str!("../conf/redis-duplex.toml");
        parse(text).unwrap();
        // Every commented key, switched on, is known too.
        let all: String = text
            .lines()
            .filter(|line| !["_env", "_hash"].iter().any(|way| line.contains(way)))
            .filter(|line| !names_a_file(line))
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest.starts_with('[')
                        || rest.split_once(" = ").is_some_and(|(k, _)| {
                            k.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
                        }) =>
                {
                    rest
                }
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n");
        parse(&all).unwrap();
    }

    #[test]
    fn errors_name_the_line_and_the_key_and_hide_passwords() {
        let error = parse(&format!("{GOOD}nosuch = 1\n")).unwrap_err();
        assert!(error.starts_with("x.toml:6: unknown field `nosuch`"), "{error}");
        let error =
            parse(&format!("{GOOD}[[user]]\nname = \"x\"\nrole = \"admin\"\npassword = 77123\n"))
                .unwrap_err();
        assert!(error.starts_with("x.toml:") && error.contains("string"), "{error}");
        assert!(!error.contains("site =") && !error.contains("77123"), "{error}");
    }

    #[test]
    fn a_password_comes_in_one_way() {
        let user = |lines: &str| {
            let text = format!("{GOOD}[[user]]\nname = \"x\"\nrole = \"admin\"\n{lines}");
            Config::parse(Path::new("x.toml"), &text, std::iter::empty())
        };
        let error = |lines: &str| user(lines).unwrap_err().to_string();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\r\n").unwrap();
        let file = format!("password_file = \"{}\"\n", file.path().display());
        let password = "password = \"open-text\"\n";
        let hash = format!("password_hash = \"sha256:{}\"\n", "ab".repeat(32));
        let read = user(&file).unwrap().users.remove(0);
        assert_eq!(read.password.unwrap().expose_secret(), "from-file");
        // Every process has this variable.
        let read = user("password_env = \"PATH\"\n").unwrap().users.remove(0);
        assert_eq!(read.password.unwrap().expose_secret(), std::env::var("PATH").unwrap());
        assert!(user(&hash).unwrap().users[0].password_hash.is_some());
        for both in [file.clone() + password, hash.clone() + password, hash.clone() + &file] {
            let error = error(&both);
            assert!(error.contains("[[user]] \"x\""), "{error}");
            assert!(!error.contains("open-text") && !error.contains("abab"), "{error}");
        }
        let missing = error("password_env = \"REDIS_DUPLEX_NO_SUCH\"\n");
        assert!(missing.contains("no environment variable REDIS_DUPLEX_NO_SUCH"), "{missing}");
        let wrong = error("password_hash = \"sha256:77123\"\n");
        assert!(wrong.contains("is no password hash") && !wrong.contains("77123"), "{wrong}");
        let config = user(&hash).unwrap();
        assert!(!format!("{config:?}").contains("abab") && !format!("{config:?}").contains("171"));
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let peer = |site: &str| format!("{GOOD}[[peer]]\nsite = \"{site}\"\naddr = \"h:1\"\n");
        assert!(parse(&peer("b")).unwrap_err().contains("primary is missing"));
        assert!(parse(&peer("a")).unwrap_err().contains("two sites are named \"a\""));
        let stranger = format!("{}[conflict]\nprimary = \"c\"\n", peer("b"));
        assert!(parse(&stranger).unwrap_err().contains("neither this site nor a [[peer]]"));
        assert!(parse(&format!("{}[conflict]\nprimary = \"b\"\n", peer("b"))).is_ok());
        let user = format!("{GOOD}[[user]]\nname = \"x\"\nrole = \"admin\"\n");
        assert!(parse(&user).unwrap_err().contains("has no password"));
    }

    #[test]
    fn the_environment_overrides_scalars() {
        let set = |pairs: &[(&str, &str)]| {
            let variables: Vec<_> =
                pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            Config::parse(Path::new("x.toml"), GOOD, variables.into_iter())
        };
        let config = set(&[
            ("REDIS_DUPLEX__REDIS__ADDR", "other:1"),
            ("REDIS_DUPLEX__APPLY__BATCH_COMMANDS", "7"),
            ("REDIS_DUPLEX__REDIS__PASSWORD", "123"),
        ])
        .unwrap();
        assert_eq!(config.redis.addr, "other:1");
        assert_eq!(config.apply.batch_commands, 7);
        assert!(config.redis.password.is_some_and(|p| p.expose_secret() == "123"));
        let error = set(&[("REDIS_DUPLEX__REDIS__NOSUCH", "1")]).unwrap_err().to_string();
        assert!(error.contains("REDIS_DUPLEX__REDIS__NOSUCH"), "{error}");
    }
}
