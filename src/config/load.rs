//! Reading the file, the environment and the files of passwords.

use std::path::Path;

use secrecy::SecretString;

use super::{Config, ConfigError};

/// Prefix of the environment variables that override the file: `REDIS_DUPLEX__REDIS__ADDR`.
const ENVIRONMENT_PREFIX: &str = "REDIS_DUPLEX__";

impl Config {
    /// Reads the file, the environment and the password files, and checks the whole.
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
                    message: format!("with {}: {}", path.display(), error.message()),
                }
            })?
        };
        config.read_passwords()?;
        config
            .check()
            .map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })?;
        Ok(config)
    }

    fn read_passwords(&mut self) -> Result<(), ConfigError> {
        read_password(&mut self.redis.password, self.redis.password_file.as_deref())?;
        for peer in &mut self.peers {
            read_password(&mut peer.password, peer.password_file.as_deref())?;
        }
        for user in &mut self.users {
            read_password(&mut user.password, user.password_file.as_deref())?;
        }
        Ok(())
    }
}

fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    // Not `error.to_string()`: it shows the source line, which may hold a password.
    let line = error.span().map_or_else(String::new, |span| {
        format!(":{}", text[..span.start.min(text.len())].matches('\n').count() + 1)
    });
    ConfigError::Parse { path: path.to_owned(), line, message: error.message().to_owned() }
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

fn read_password(
    password: &mut Option<SecretString>,
    file: Option<&Path>,
) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    *password = Some(text.trim_end_matches(['\r', '\n']).into());
    Ok(())
}
