//! Who a client is and what it may do.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::classify::Class;
use super::command_table::CommandTable;
use super::replies;
use super::rights::Need;
use crate::config::{Role, User};
use crate::password::PasswordHash;
use crate::resp::Request;

/// Slow hashes that are computed at once: each takes a core and, as a rule, 19 MiB.
const SLOW_AT_ONCE: usize = 2;

/// Who a client has shown to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

/// Why somebody is not who they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// The request makes no sense here; the reply.
    Request(String),
    /// No such user, or another password.
    Wrong,
}

impl Denial {
    pub(super) fn reply(&self) -> &str {
        match self {
            Self::Request(reply) => reply,
            Self::Wrong => replies::WRONG_PASSWORD,
        }
    }
}

/// The users of the port.
pub(super) struct Users {
    known: Vec<(Identity, PasswordHash)>,
    /// What an attempt that fails has taken the time of, whoever it was for.
    decoy: PasswordHash,
    slow: Arc<Semaphore>,
    /// Of the passwords that were right where comparing is slow, a keyed hash: clients that
    /// connect again and again should not take a core each time.
    right: Mutex<HashMap<Arc<str>, [u8; 32]>>,
    /// The key to these hashes; known to this process alone.
    key: [u8; 32],
}

impl Users {
    pub(super) fn new(users: &[User]) -> Self {
        let hash = |user: &User| match (&user.password_hash, &user.password) {
            (Some(hash), _) => Some(hash.clone()),
            (None, Some(password)) => {
                Some(PasswordHash::sha256(password.expose_secret().as_bytes()))
            }
            (None, None) => None,
        };
        let users: Vec<_> = users
            .iter()
            .filter_map(|user| {
                let identity = Identity { name: user.name.as_str().into(), role: user.role };
                Some((identity, hash(user)?))
            })
            .collect();
        let is_slow = |hash: &&PasswordHash| matches!(hash, PasswordHash::Argon2(_));
        let slowest = users.iter().map(|(_, hash)| hash).find(is_slow).cloned();
        Self {
            decoy: slowest.unwrap_or_else(|| PasswordHash::Sha256(rand::random())),
            known: users,
            slow: Arc::new(Semaphore::new(SLOW_AT_ONCE)),
            right: Mutex::default(),
            key: rand::random(),
        }
    }

    /// Whether nobody has to say who they are.
    pub(super) fn is_open(&self) -> bool {
        self.known.is_empty()
    }

    /// Who a new connection is: an administrator where there are no users (it comes from this
    /// machine), else nobody yet.
    pub(super) fn at_first(&self) -> Option<Identity> {
        self.is_open().then(|| Identity { name: "-".into(), role: Role::Admin })
    }

    /// This name, if it is a user's.
    pub(super) fn name(&self, name: &[u8]) -> Option<&str> {
        let mut names = self.known.iter().map(|(user, _)| &*user.name);
        names.find(|known| known.as_bytes() == name)
    }

    /// `AUTH [user] password` with these words. Cancel safe.
    pub(super) async fn authenticate(&self, words: &[&[u8]]) -> Result<Identity, Denial> {
        let (name, password) = match words {
            [_] if self.is_open() => {
                return Err(Denial::Request(replies::NO_PASSWORD_SET.to_owned()));
            }
            [password] => (&b"default"[..], *password),
            [name, password] => (*name, *password),
            [] => return Err(Denial::Request(replies::arity("auth"))),
            _ => return Err(Denial::Request(replies::SYNTAX.to_owned())),
        };
        if self.is_open() && name == b"default" {
            return self.at_first().ok_or(Denial::Wrong);
        }
        self.find(name, password).await.ok_or(Denial::Wrong)
    }

    /// Who has this name and password. A failure takes the same time whatever was wrong.
    async fn find(&self, name: &[u8], password: &[u8]) -> Option<Identity> {
        let user = self.known.iter().find(|(user, _)| user.name.as_bytes() == name);
        let keyed = self.keyed(password);
        match user {
            Some((user, hash @ PasswordHash::Sha256(_))) if hash.is_of(password) => {
                return Some(user.clone());
            }
            Some((user, hash @ PasswordHash::Argon2(_))) => {
                let before = self.right.lock().get(&user.name).copied();
                if before.is_some_and(|before| before.ct_eq(&keyed).into()) {
                    return Some(user.clone());
                }
                if !self.compare(hash.clone(), password).await {
                    return None;
                }
                self.right.lock().insert(user.name.clone(), keyed);
                return Some(user.clone());
            }
            _ => {}
        }
        self.compare(self.decoy.clone(), password).await;
        None
    }

    /// Compares, if that is slow then aside; what was begun is finished, and counts until then.
    async fn compare(&self, hash: PasswordHash, password: &[u8]) -> bool {
        if matches!(hash, PasswordHash::Sha256(_)) {
            return hash.is_of(password);
        }
        let Ok(permit) = Arc::clone(&self.slow).acquire_owned().await else { return false };
        let password = SecretSlice::from(password.to_vec());
        let compared = spawn_blocking(move || {
            let is_right = hash.is_of(password.expose_secret());
            drop(permit);
            is_right
        });
        compared.await.unwrap_or(false)
    }

    fn keyed(&self, password: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(password).finalize().into()
    }
}

/// What `request` takes.
pub(super) fn need(table: &CommandTable, class: &Class, request: &Request) -> Need {
    match class {
        Class::Ping
        | Class::Info
        | Class::Role
        | Class::Duplex
        | Class::ClientIntroduction
        | Class::ClientReply => Need::Look,
        Class::Link => Need::Link,
        Class::Control => Need::Admin,
        _ => table.need(request),
    }
}

/// Checks that `who` may send this; the error text if not, with what `command` calls it.
pub(super) fn check(
    who: Option<&Identity>,
    class: &Class,
    need: Need,
    command: impl FnOnce() -> String,
) -> Result<(), String> {
    // Redis serves these to anyone too.
    if matches!(class, Class::Auth | Class::Hello | Class::Quit | Class::Reset) {
        return Ok(());
    }
    let Some(who) = who else { return Err(replies::NO_AUTH.to_owned()) };
    let may = match need {
        Need::Look => true,
        Need::Link => matches!(who.role, Role::Peer | Role::Admin),
        Need::Data => matches!(who.role, Role::Syncer | Role::Admin),
        Need::Settings | Need::Admin | Need::Unlisted => who.role == Role::Admin,
    };
    if may {
        return Ok(());
    }
    let why = if need == Need::Unlisted {
        ", which the local Redis did not list when the sidecar started"
    } else {
        ""
    };
    let role = role_name(who.role);
    let command = command();
    Err(format!("NOPERM a [[user]] with the role \"{role}\" may not send '{command}'{why}"))
}

/// A role as it is written in the configuration.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Peer => "peer",
        Role::Syncer => "syncer",
        Role::Observer => "observer",
    }
}

/// A client's word in a line of ours: at most `most` bytes of it, and none that is not printable.
pub(super) fn shown(word: &[u8], most: usize) -> String {
    word[..word.len().min(most)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(slow: bool) -> Users {
        let user = |name: &str, role| {
            let password = format!("{name}-secret");
            User {
                name: name.to_owned(),
                password_hash: slow.then(|| PasswordHash::argon2(password.as_bytes()).unwrap()),
                password: (!slow).then(|| password.into()),
                password_file: None,
                password_env: None,
                role,
            }
        };
        Users::new(&[user("default", Role::Syncer), user("root", Role::Admin)])
    }

    #[tokio::test]
    async fn who_is_who() {
        for slow in [false, true] {
            let users = users(slow);
            let role = async |words: &[&[u8]]| users.authenticate(words).await.map(|who| who.role);
            assert_eq!(users.at_first(), None);
            assert_eq!(role(&[b"default-secret"]).await, Ok(Role::Syncer));
            assert_eq!(role(&[b"root", b"root-secret"]).await, Ok(Role::Admin));
            assert_eq!(role(&[b"root", b"default-secret"]).await, Err(Denial::Wrong));
            assert_eq!(role(&[b"root-secret"]).await, Err(Denial::Wrong));
            assert_eq!(role(&[b"nobody", b"root-secret"]).await, Err(Denial::Wrong));
            // What is remembered lets nobody else in.
            assert_eq!(users.right.lock().len(), if slow { 2 } else { 0 });
            assert_eq!(role(&[b"root", b"root-secret"]).await, Ok(Role::Admin));
            assert_eq!(role(&[b"root", b"root-secret2"]).await, Err(Denial::Wrong));
        }
        let open = Users::new(&[]);
        assert!(open.authenticate(&[b"x"]).await.is_err());
        let who = open.authenticate(&[b"default", b"x"]).await;
        assert_eq!(who.map(|who| who.role), Ok(Role::Admin));
        assert!(open.authenticate(&[b"other", b"x"]).await.is_err());
    }

    #[test]
    fn who_may_what() {
        let class = Class::Pass;
        for (role, rights) in [
            (None, [false, false, false, false]),
            (Some(Role::Observer), [true, false, false, false]),
            (Some(Role::Peer), [true, false, true, false]),
            (Some(Role::Syncer), [true, true, false, false]),
            (Some(Role::Admin), [true, true, true, true]),
        ] {
            let who = role.map(|role| Identity { name: "x".into(), role });
            let may = |need| check(who.as_ref(), &class, need, String::new).is_ok();
            let asked = [Need::Look, Need::Data, Need::Link, Need::Admin];
            assert_eq!(asked.map(may), rights, "{role:?}");
            assert_eq!(may(Need::Unlisted), rights[3], "{role:?}");
        }
    }
}
