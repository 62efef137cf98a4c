//! Hashes of passwords: read from the configuration, compared, and made anew.
//!
//! Nothing here prints a password or a hash, neither in an error nor in `Debug`.

use argon2::password_hash::{self, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Most memory that a hash from the configuration may ask for, in KiB: 256 MiB. Two are computed
/// at once at most, and a small machine must survive it.
const MOST_MEMORY: u32 = 256 * 1024;
/// Most passes over it likewise; OWASP's smallest setting of memory (7 MiB) has 5.
const MOST_PASSES: u32 = 16;
/// Bytes of salt: what RFC 9106 recommends.
const SALT: usize = 16;

/// Why a text is no hash of a password. It does not hold the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Neither form.
    #[error(
        "is no password hash: write what `redis-duplex hash-password` prints, or sha256: and 64 \
         hexadecimal digits"
    )]
    Form,
    /// It would take too much memory or time.
    #[error("asks for more than 256 MiB or 16 passes of argon2")]
    TooCostly,
    /// The hash could not be computed.
    #[error("the password can't be hashed")]
    Failed,
}

/// A hash of a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum PasswordHash {
    /// Fast to compare: for long random passwords.
    Sha256([u8; 32]),
    /// Slow by purpose, for passwords that people choose: the text in the PHC format.
    Argon2(String),
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        if let Some(hex) = text.strip_prefix("sha256:") {
            return Ok(Self::Sha256(digest_of_hex(hex).ok_or(HashError::Form)?));
        }
        let parsed = password_hash::PasswordHash::new(&text).map_err(|_| HashError::Form)?;
        let algorithm = Algorithm::try_from(parsed.algorithm).map_err(|_| HashError::Form)?;
        let params = Params::try_from(&parsed).map_err(|_| HashError::Form)?;
        if algorithm != Algorithm::Argon2id || parsed.salt.is_none() || parsed.hash.is_none() {
            return Err(HashError::Form);
        }
        if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES {
            return Err(HashError::TooCostly);
        }
        Ok(Self::Argon2(text))
    }
}

impl PasswordHash {
    /// Of this password, in the fast form.
    pub fn sha256(password: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(password).into())
    }

    /// Of this password, in the slow form, with a new salt and the parameters that the crate
    /// takes from OWASP: 19 MiB, 2 passes, 1 lane. Takes some 20 ms of a core.
    pub fn argon2(password: &[u8]) -> Result<Self, HashError> {
        let salt: [u8; SALT] = rand::random();
        let salt = SaltString::encode_b64(&salt).map_err(|_| HashError::Failed)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
        let hash = argon2.hash_password(password, &salt).map_err(|_| HashError::Failed)?;
        Ok(Self::Argon2(hash.to_string()))
    }

    /// The text for the configuration.
    pub fn to_text(&self) -> String {
        match self {
            Self::Sha256(digest) => {
                let hex = digest.iter().map(|byte| format!("{byte:02x}"));
                format!("sha256:{}", hex.collect::<String>())
            }
            Self::Argon2(text) => text.clone(),
        }
    }

    /// Whether it is this password's; how long that takes does not depend on the password. The slow
    /// form blocks for some 20 ms or more.
    pub fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Sha256(digest) => Sha256::digest(password).ct_eq(digest).into(),
            Self::Argon2(text) => password_hash::PasswordHash::new(text)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
        }
    }
}

fn digest_of_hex(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_alone() {
        for hash in [PasswordHash::argon2(b"secret").unwrap(), PasswordHash::sha256(b"secret")] {
            let read = PasswordHash::try_from(hash.to_text()).unwrap();
            assert_eq!(read, hash);
            assert!(read.is_of(b"secret"));
            assert!(!read.is_of(b"Secret") && !read.is_of(b"") && !read.is_of(b"secret\0"));
            assert_eq!(format!("{read:?}"), "***");
        }
        // The same password twice does not give the same hash.
        assert_ne!(PasswordHash::argon2(b"x"), PasswordHash::argon2(b"x"));
    }

    #[test]
    fn known_values_are_read() {
        let sha = "sha256:2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B";
        assert!(PasswordHash::try_from(sha.to_owned()).unwrap().is_of(b"secret"));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_shown() {
        let hash = PasswordHash::argon2(b"secret").unwrap().to_text();
        let cut = hash.rsplit_once('$').unwrap().0.to_owned();
        let wrong = |text: &str| PasswordHash::try_from(text.to_owned()).unwrap_err();
        for text in ["", "secret", "sha256:", &format!("sha256:{}", "g".repeat(64)), &cut, "$2b$x"]
        {
            assert_eq!(wrong(text), HashError::Form, "{text}");
        }
        assert_eq!(wrong(&hash.replace("argon2id", "argon2d")), HashError::Form);
        assert_eq!(wrong(&hash.replace("m=19456", "m=4194304")), HashError::TooCostly);
        assert_eq!(wrong(&hash.replace("t=2", "t=99")), HashError::TooCostly);
        assert!(!HashError::Form.to_string().contains(&hash));
    }
}
