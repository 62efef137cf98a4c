//! The program: arguments, telemetry, the command, the exit code.

use std::process::ExitCode;

use clap::Parser;
use redis_duplex::cli::{self, Cli, Failure};

fn main() -> ExitCode {
    // Wrong arguments end here with code 2, `--help` and `--version` with 0.
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    cli::start_telemetry(&cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let result = runtime.block_on(cli::execute(cli));
    // The second signal must not wait for a file operation that hangs.
    runtime.shutdown_background();
    result
}
