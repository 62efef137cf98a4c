//! Reading the file, the environment and the files of passwords.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{Config, ConfigError};

/// Prefix of the environment variables that override the file: `REDIS_DUPLEX__REDIS__ADDR`.
const ENVIRONMENT_PREFIX: &str = "REDIS_DUPLEX__";

impl Config {
    /// Reads the file, the environment, the files of passwords and of TLS, and checks the whole.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let variables = std::env::vars().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX));
        Self::parse(path, &text, variables)
    }

    pub(super) fn parse(
        path: &Path,
        text: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let variables: Vec<_> = variables.collect();
        let mut config: Self = if variables.is_empty() {
            toml::from_str(text).map_err(|error| parse_error(path, text, &error))?
        } else {
            let mut table: toml::Table =
                toml::from_str(text).map_err(|error| parse_error(path, text, &error))?;
            overlay(&mut table, &variables)?;
            table.try_into().map_err(|error: toml::de::Error| {
                let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
                ConfigError::Environment {
                    name: names.join(", "),
                    message: format!("with {}: {}", path.display(), without_value(error.message())),
                }
            })?
        };
        config.read_passwords(|name| std::env::var(name).ok())?;
        config
            .check()
            .and_then(|()| config.read_tls())
            .map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })?;
        Ok(config)
    }

    fn read_passwords(
        &mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let read = |whose: String, password: &mut _, file: &Option<PathBuf>, env: &Option<_>| {
            Source { whose, file: file.as_deref(), env: env.as_deref() }.read(password, &variable)
        };
        let redis = &mut self.redis;
        read("[redis]".into(), &mut redis.password, &redis.password_file, &redis.password_env)?;
        for peer in &mut self.peers {
            let whose = format!("[[peer]] \"{}\"", peer.site);
            read(whose, &mut peer.password, &peer.password_file, &peer.password_env)?;
        }
        for user in &mut self.users {
            let whose = format!("[[user]] \"{}\"", user.name);
            read(whose, &mut user.password, &user.password_file, &user.password_env)?;
        }
        Ok(())
    }
}

fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    // Not `error.to_string()`: it shows the source line, which may hold a password.
    let line = error.span().map_or_else(String::new, |span| {
        format!(":{}", text[..span.start.min(text.len())].matches('\n').count() + 1)
    });
    ConfigError::Parse { path: path.to_owned(), line, message: without_value(error.message()) }
}

/// Of a value of the wrong kind only the kind: a password without quotes is a number.
fn without_value(message: &str) -> String {
    match message.split_once(", expected ") {
        Some((found, expected)) if found.starts_with("invalid ") => {
            let found = found.split(['`', '"']).next().unwrap_or_default();
            format!("{}, expected {expected}", found.trim_end())
        }
        _ => message.to_owned(),
    }
}

fn overlay(table: &mut toml::Table, variables: &[(String, String)]) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let wrong = |message: &str| ConfigError::Environment {
            name: name.clone(),
            message: message.to_owned(),
        };
        let path = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase();
        let mut keys: Vec<&str> = path.split("__").collect();
        let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| {
            wrong("names no key; write e.g. REDIS_DUPLEX__REDIS__ADDR for [redis] addr")
        })?;
        let mut place = &mut *table;
        for key in keys {
            place = place
                .entry(key)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .ok_or_else(|| wrong("only scalars outside [[user]] and [[peer]] can be set"))?;
        }
        // A number or boolean where it reads as one and the file has no text there.
        let text_there = place.get(last).is_some_and(toml::Value::is_str);
        let parsed = match (value.parse::<i64>(), value.parse::<bool>()) {
            (Ok(number), _) if !text_there && last != "password" => toml::Value::Integer(number),
            (_, Ok(flag)) if !text_there && last != "password" => toml::Value::Boolean(flag),
            _ => toml::Value::String(value.clone()),
        };
        place.insert(last.to_owned(), parsed);
    }
    Ok(())
}

/// Where a password is, if not in the configuration itself.
struct Source<'a> {
    whose: String,
    file: Option<&'a Path>,
    env: Option<&'a str>,
}

impl Source<'_> {
    fn read(
        self,
        password: &mut Option<SecretString>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let ways = [password.is_some(), self.file.is_some(), self.env.is_some()];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(ConfigError::Password {
                whose: self.whose,
                message: "set only one of `password`, `password_file` and `password_env`".into(),
            });
        }
        if let Some(path) = self.file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            *password = Some(text.trim_end_matches(['\r', '\n']).into());
        }
        if let Some(name) = self.env {
            let value = variable(name).ok_or_else(|| ConfigError::Password {
                whose: self.whose,
                message: format!("there is no environment variable {name} (`password_env`)"),
            })?;
            *password = Some(value.into());
        }
        Ok(())
    }
}
