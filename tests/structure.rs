//! Dependencies between the stages point one way, so that a newcomer finds the place of a change.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which modules each module may use, besides itself. `site`, `cli`, `main` and the tests in
/// `simulation` know all.
const ALLOWED: [(&str, &[&str]); 24] = [
    (
        "apply",
        &[
            "backoff",
            "conflict",
            "journal",
            "net",
            "observe",
            "position",
            "redis",
            "resp",
            "write_off",
        ],
    ),
    ("backlog", &["position"]),
    ("backoff", &[]),
    ("check", &["clock", "config", "frame", "observe", "position", "redis", "source", "write_off"]),
    ("clock", &[]),
    ("config", &["net", "password", "position"]),
    ("conflict", &["clock", "config", "position", "redis", "resp"]),
    ("endpoint", &["config", "net", "password", "position", "redis", "resp", "write_off"]),
    (
        "feed",
        &[
            "apply", "backlog", "backoff", "clock", "endpoint", "frame", "journal", "net",
            "observe", "pairing", "position", "redis", "resp",
        ],
    ),
    ("frame", &["clock", "position"]),
    ("journal", &["clock", "config", "position", "resp"]),
    (
        "link",
        &[
            "apply",
            "backoff",
            "clock",
            "config",
            "conflict",
            "frame",
            "journal",
            "net",
            "observe",
            "pairing",
            "position",
            "rdb",
            "redis",
            "resp",
            "write_off",
        ],
    ),
    ("net", &[]),
    ("observe", &["config", "clock", "conflict", "endpoint", "journal", "position", "write_off"]),
    ("pairing", &["conflict", "position"]),
    ("password", &[]),
    ("position", &[]),
    ("rdb", &[]),
    ("redis", &["config", "net", "position", "resp"]),
    (
        "repair",
        &["backoff", "conflict", "journal", "observe", "position", "redis", "resp", "write_off"],
    ),
    ("resp", &[]),
    (
        "source",
        &[
            "backlog",
            "backoff",
            "clock",
            "conflict",
            "journal",
            "observe",
            "pairing",
            "position",
            "redis",
            "resp",
            "write_off",
        ],
    ),
    ("verify", &["position", "redis", "resp", "write_off"]),
    ("write_off", &["conflict", "position", "resp"]),
];

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The modules that a file uses outside of its tests.
fn used(text: &str) -> BTreeSet<&str> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let name = |rest: &'_ str| rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    code.split("crate::").skip(1).map(|rest| &rest[..name(rest).unwrap_or(rest.len())]).collect()
}

#[test]
fn dependencies_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = BTreeSet::new();
    for path in files(&src) {
        let inside = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        let module = inside.split(['/', '.']).next().unwrap().to_owned();
        if ["main", "lib", "site", "cli", "simulation"].contains(&module.as_str())
            || inside.contains("tests")
        {
            continue;
        }
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("src/{inside}: say in this test what {module} may use"));
        let text = std::fs::read_to_string(&path).unwrap();
        for name in used(&text) {
            let fine = name == module || allowed.contains(&name);
            assert!(fine, "src/{inside} uses crate::{name}, which {module} is not to know");
        }
        checked.insert(module);
    }
    assert_eq!(checked.len(), ALLOWED.len(), "a module of the list is gone");
}
