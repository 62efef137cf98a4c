//! `redis-duplex verify`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use secrecy::SecretString;

use super::screen::Screen;
use super::tls::Tls;
use super::{Failure, address};
use crate::net::Connector;
use crate::observe::text::{bar, number, pairs};
use crate::redis::Target;
use crate::verify::{Options, Progress, Report, verify};

/// How often progress is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// One server, host:port
    #[arg(value_parser = address)]
    a: String,
    /// The other
    #[arg(value_parser = address)]
    b: String,
    /// User at A
    #[arg(long, value_name = "NAME", env = "REDIS_DUPLEX_USER_A")]
    user_a: Option<String>,
    /// Password at A; better in the environment, where no process list shows it
    #[arg(long, value_name = "TEXT", env = "REDIS_DUPLEX_PASSWORD_A", hide_env_values = true)]
    password_a: Option<SecretString>,
    /// User at B
    #[arg(long, value_name = "NAME", env = "REDIS_DUPLEX_USER_B")]
    user_b: Option<String>,
    /// Password at B
    #[arg(long, value_name = "TEXT", env = "REDIS_DUPLEX_PASSWORD_B", hide_env_values = true)]
    password_b: Option<SecretString>,
    /// Speak TLS to A
    #[arg(long)]
    tls_a: bool,
    /// Speak TLS to B
    #[arg(long)]
    tls_b: bool,
    #[command(flatten)]
    files: Tls,
    /// How often a key that differs is looked at again before it counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// How long to wait before each further look, e.g. 500ms
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pause: Duration,
    /// How many differences to show; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
}

/// A duration with a unit, as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
    humantime_serde::deserialize(deserializer).map_err(|error| error.to_string())
}

impl Verify {
    pub(super) async fn execute(self) -> Result<ExitCode, Failure> {
        self.compare().await.map_err(|error| Failure::new(2, error))
    }

    async fn compare(self) -> anyhow::Result<ExitCode> {
        let tls = self.files.connector(self.tls_a || self.tls_b, "--tls-a or --tls-b")?;
        let tls = |wanted: bool| tls.clone().filter(|_| wanted);
        let target =
            |addr: &str, username: Option<String>, password, tls: Option<Arc<Connector>>| {
                let addr = addr.to_owned();
                // A server has a user `default`, so a user without a password is a mistake.
                match (&username, &password) {
                    (Some(user), None) => Err(anyhow!("user {user} at {addr} has no password")),
                    _ => Ok(Target { addr, username, password, tls }),
                }
            };
        let a = target(&self.a, self.user_a, self.password_a, tls(self.tls_a))?;
        let b = target(&self.b, self.user_b, self.password_b, tls(self.tls_b))?;
        let options = Options {
            rounds: self.rounds,
            pause: self.pause,
            max_differences: self.show,
            ..Options::default()
        };
        let mut screen = Screen::stderr();
        let mut drawn = None::<Instant>;
        let report = verify(&a, &b, &options, |progress| {
            let due = drawn.is_none_or(|at| at.elapsed() > REDRAW);
            if screen.is_terminal() && due {
                drawn = Some(Instant::now());
                // A progress line that can't be drawn is no reason to stop.
                let _ = screen.live(&[progress_line(progress)]);
            }
        })
        .await?;
        screen.clear_live().context("stderr")?;
        Screen::stdout().text(&result(&self.a, &self.b, &report)).context("stdout")?;
        Ok(if report.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn progress_line(progress: Progress) -> String {
    let bar = bar(progress.scanned, progress.expected, 30);
    let (scanned, expected) = (number(progress.scanned), number(progress.expected));
    let again = match progress.suspects {
        0 => String::new(),
        count => format!(", {} to look at again", number(count as u64)),
    };
    format!("{bar} {scanned} of {expected} keys{again}")
}

/// The result, for people.
fn result(a: &str, b: &str, report: &Report) -> String {
    let verdict = if report.is_equal() { "equal" } else { "DIFFERENT" };
    let mut text = pairs(&[
        ("A", a.to_owned()),
        ("B", b.to_owned()),
        ("compared", number(report.compared)),
        ("equal", number(report.equal)),
        ("different", number(report.different)),
        ("only at A", number(report.only_a)),
        ("only at B", number(report.only_b)),
        ("result", verdict.to_owned()),
    ]);
    if !report.differences.is_empty() {
        let all = report.different + report.only_a + report.only_b;
        let shown = number(report.differences.len() as u64);
        let header = format!("\ndifferences ({shown} of {} shown)\n", number(all));
        text.push_str(&header);
        let lines = report.differences.iter().map(|difference| format!("  {difference}\n"));
        text.extend(lines);
    }
    text
}
