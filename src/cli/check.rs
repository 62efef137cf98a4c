//! `redis-duplex check`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::Failure;
use super::screen::Screen;
use crate::check::{Finding, Level, Told, check};
use crate::config::Config;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration, TOML; see conf/redis-duplex.toml
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

impl Check {
    pub(super) async fn execute(self) -> Result<ExitCode, Failure> {
        let config = Config::load(&self.config).map_err(|error| Failure::new(2, error))?;
        let mut out = Screen::stdout();
        let mut progress = Screen::stderr();
        // On a terminal the line of progress stands below the findings, in the same place.
        let live = progress.is_terminal();
        let mut failed = Ok(());
        let found = check(&config, |told| {
            let shown = match told {
                Told::Doing(what) if live => progress.live(&[format!("      {what} ..")]),
                Told::Doing(_) => Ok(()),
                Told::Found(finding) => {
                    let cleared = progress.clear_live();
                    cleared.and_then(|()| out.text(&line(finding)))
                }
            };
            if failed.is_ok() {
                failed = shown;
            }
        })
        .await;
        failed.context("stdout").map_err(Failure::from)?;
        out.text(&summary(&found)).context("stdout").map_err(Failure::from)?;
        let fails = found.iter().any(|finding| finding.level == Level::Fail);
        Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn line(finding: &Finding) -> String {
    let Finding { level, place, subject, found, remedy } = finding;
    let level = match level {
        Level::Ok => "ok",
        Level::Warn => "warn",
        Level::Fail => "FAIL",
    };
    let arrow = if remedy.is_empty() { "" } else { " -> " };
    let text = format!("{level:4}  {place:8}  {subject:26}  {found}{arrow}{remedy}");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn summary(found: &[Finding]) -> String {
    let count = |level| found.iter().filter(|finding| finding.level == level).count();
    let (warn, fail) = (count(Level::Warn), count(Level::Fail));
    let verdict = match (warn, fail) {
        (0, 0) => "all is well",
        (_, 0) => "it will work; look at the warnings",
        _ => "it will not work like this",
    };
    format!("\n{} ok, {warn} to look at, {fail} failed: {verdict}\n", count(Level::Ok))
}
