//! Who a client is and what it may do.

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::classify::Class;
use super::replies;
use crate::config::{Role, User};
use crate::resp::Request;

/// The users of the port.
pub(super) struct Users(Vec<(String, SecretString, Role)>);

impl Users {
    pub(super) fn new(users: &[User]) -> Self {
        let users = users
            .iter()
            .filter_map(|user| Some((user.name.clone(), user.password.clone()?, user.role)));
        Self(users.collect())
    }

    /// Whether nobody has to say who they are.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// What a new connection may do: everything where there are no users (it comes from this
    /// machine), nothing else.
    pub(super) fn at_first(&self) -> Option<Role> {
        self.is_open().then_some(Role::Admin)
    }

    /// The role of who gives this name and password. Every user's are compared in full.
    fn find(&self, name: &[u8], password: &[u8]) -> Option<Role> {
        let mut found = None;
        for (user, secret, role) in &self.0 {
            let right =
                user.as_bytes().ct_eq(name) & secret.expose_secret().as_bytes().ct_eq(password);
            if right.into() {
                found = Some(*role);
            }
        }
        found
    }

    /// `AUTH [user] password` with these words; the error text if it fails.
    pub(super) fn authenticate(&self, words: &[&[u8]]) -> Result<Role, String> {
        let (name, password) = match words {
            [_] if self.is_open() => return Err(replies::NO_PASSWORD_SET.to_owned()),
            [password] => (&b"default"[..], *password),
            [name, password] => (*name, *password),
            [] => return Err(replies::arity("auth")),
            _ => return Err(replies::SYNTAX.to_owned()),
        };
        if self.is_open() && name == b"default" {
            return Ok(Role::Admin);
        }
        self.find(name, password).ok_or_else(|| replies::WRONG_PASSWORD.to_owned())
    }
}

/// Checks that who has `role` may send this; the error text if not.
pub(super) fn check(role: Option<Role>, class: &Class, request: &Request) -> Result<(), String> {
    let Some(role) = role else {
        return match class {
            Class::Auth | Class::Hello | Class::Quit | Class::Reset => Ok(()),
            _ => Err(replies::NO_AUTH.to_owned()),
        };
    };
    let may = match class {
        Class::Auth
        | Class::Hello
        | Class::Quit
        | Class::Reset
        | Class::Ping
        | Class::Info
        | Class::Role
        | Class::Duplex
        | Class::ClientIntroduction => true,
        Class::Link => matches!(role, Role::Peer | Role::Admin),
        Class::Control | Class::Administration => role == Role::Admin,
        _ => matches!(role, Role::Syncer | Role::Admin),
    };
    if may {
        return Ok(());
    }
    let name = match role {
        Role::Admin => "admin",
        Role::Peer => "peer",
        Role::Syncer => "syncer",
        Role::Observer => "observer",
    };
    let command: String =
        request.arg(0).iter().take(32).map(|byte| byte.escape_ascii().to_string()).collect();
    Err(format!("NOPERM a [[user]] with the role \"{name}\" may not send '{command}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        let user = |name: &str, role| User {
            name: name.to_owned(),
            password: Some(format!("{name}-secret").into()),
            password_file: None,
            role,
        };
        Users::new(&[user("default", Role::Syncer), user("root", Role::Admin)])
    }

    #[test]
    fn who_is_who() {
        let users = users();
        assert_eq!(users.at_first(), None);
        assert_eq!(users.authenticate(&[b"default-secret"]), Ok(Role::Syncer));
        assert_eq!(users.authenticate(&[b"root", b"root-secret"]), Ok(Role::Admin));
        assert!(users.authenticate(&[b"root", b"default-secret"]).is_err());
        assert!(users.authenticate(&[b"root-secret"]).is_err());
        let open = Users::new(&[]);
        assert!(open.authenticate(&[b"x"]).is_err());
        assert_eq!(open.authenticate(&[b"default", b"x"]), Ok(Role::Admin));
        assert!(open.authenticate(&[b"other", b"x"]).is_err());
    }

    #[test]
    fn who_may_what() {
        let request = Request::of(&["X"]);
        let may = |role, class: &Class| check(role, class, &request).is_ok();
        let write = Class::Batch { writes: true };
        for (role, rights) in [
            (None, [false, false, false, false]),
            (Some(Role::Observer), [true, false, false, false]),
            (Some(Role::Peer), [true, false, true, false]),
            (Some(Role::Syncer), [true, true, false, false]),
            (Some(Role::Admin), [true, true, true, true]),
        ] {
            let asked = [&Class::Info, &write, &Class::Link, &Class::Control];
            assert_eq!(asked.map(|class| may(role, class)), rights, "{role:?}");
        }
    }
}
