//! Why a configuration can't be used.

use std::path::PathBuf;

/// Why a configuration can't be used. Every message names the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or a file it names can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong kind.
    #[error("{}{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// `:<line>` or nothing.
        line: String,
        /// What is wrong.
        message: String,
    },
    /// An environment variable that fits no key.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A password that is given twice, or not to be found. Its text is not shown.
    #[error("{whose}: {message}")]
    Password {
        /// The section.
        whose: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// Values that don't fit each other.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
}
