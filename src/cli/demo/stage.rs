//! The processes of the demo and their directory. Nothing of it outlives [`Stage::stop`] or a drop.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::redis::{Connection, Target};

/// How long a Redis may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks at something that is awaited.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// Lines of a log that are shown when something went wrong.
const LOG_LINES: usize = 5;

/// One process with its log.
#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(name: String, mut command: Command, directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("can't share a log file")?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// An error with the end of its log, if it is not running any more.
    fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait().context("can't look at a child process")? else {
            return Ok(());
        };
        let end = self.last_lines(|_| true).join(" | ");
        bail!("{} ended with {status}; the end of its log: {end}", self.name)
    }

    fn last_lines(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log.lines().filter(|line| wanted(line)).rev().take(LOG_LINES);
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.reverse();
        lines
    }
}

/// One side: its addresses.
#[derive(Debug, Clone)]
pub struct Side {
    /// The site's name.
    pub site: &'static str,
    /// Its Redis.
    pub redis: String,
    /// Its sidecar.
    pub sidecar: String,
}

/// All of it.
#[derive(Debug)]
pub struct Stage {
    // First, so that a drop kills the processes before their directory goes.
    processes: Vec<Process>,
    /// Both sides, `a` and `b`.
    pub sides: [Side; 2],
    directory: TempDir,
}

impl Stage {
    /// Two of this server with no data, in a temporary directory.
    pub async fn start(redis_server: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("redis-duplex-demo-")
            .tempdir()
            .context("can't make a temporary directory")?;
        let [a, b, c, d] = free_ports()?;
        let side = |site, redis, sidecar| Side {
            site,
            redis: format!("127.0.0.1:{redis}"),
            sidecar: format!("127.0.0.1:{sidecar}"),
        };
        let sides = [side("a", a, c), side("b", b, d)];
        let mut stage = Self { processes: Vec::new(), sides, directory };
        for (site, port) in [("a", a), ("b", b)] {
            stage.start_redis(redis_server, site, port)?;
        }
        for side in stage.sides.clone() {
            stage.await_redis(&side.redis).await?;
        }
        Ok(stage)
    }

    fn start_redis(&mut self, server: &Path, site: &str, port: u16) -> anyhow::Result<()> {
        let data = self.directory.path().join(format!("redis-{site}"));
        std::fs::create_dir(&data).with_context(|| format!("can't make {}", data.display()))?;
        let mut command = Command::new(server);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        // The default holds no minute of the demo's writes.
        command.args(["--repl-backlog-size", "64mb"]);
        // Without the delay, a sidecar waits 5 s for its first snapshot.
        command.args(["--repl-diskless-sync-delay", "0", "--dir"]).arg(&data);
        self.add(format!("redis-{site}"), command)
    }

    fn add(&mut self, name: String, command: Command) -> anyhow::Result<()> {
        self.processes.push(Process::start(name, command, self.directory.path())?);
        Ok(())
    }

    async fn await_redis(&mut self, addr: &str) -> anyhow::Result<()> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            self.check()?;
            let answer = match Connection::open(&Target::open(addr)).await {
                Ok(mut connection) => connection.call(&["PING"]).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > limit => {
                    return Err(error).context("redis-server does not answer");
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Starts both sidecars, each with a configuration of its own; does not wait for them.
    pub fn start_sidecars(&mut self, program: &Path) -> anyhow::Result<()> {
        let [a, b] = self.sides.clone();
        for (own, peer) in [(&a, &b), (&b, &a)] {
            let path = self.directory.path().join(format!("{}.toml", own.site));
            let journal = self.directory.path().join(format!("journal-{}", own.site));
            std::fs::write(&path, configuration(own, peer, &journal))
                .with_context(|| format!("can't write {}", path.display()))?;
            let mut command = Command::new(program);
            command.arg("run").arg("-c").arg(&path);
            self.add(format!("sidecar-{}", own.site), command)?;
        }
        Ok(())
    }

    /// An error if a process is not running any more.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The last warnings and errors that the processes logged, each with whose it is.
    pub fn complaints(&self) -> Vec<String> {
        let is_complaint = |line: &str| line.contains(" WARN ") || line.contains(" ERROR ");
        let of = |process: &Process| {
            let lines = process.last_lines(is_complaint);
            lines.into_iter().map(|line| format!("{}: {line}", process.name)).collect::<Vec<_>>()
        };
        self.processes.iter().flat_map(of).collect()
    }

    /// The directory that holds everything.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The ids of the processes that run.
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(|process| process.child.id()).collect()
    }

    /// Ends all processes, sidecars first, and removes the directory. Their data is thrown away, so
    /// they are killed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for process in self.processes.iter_mut().rev() {
            let name = &process.name;
            // Ctrl-C in a terminal reaches them too.
            if matches!(process.child.try_wait(), Ok(Some(_))) {
                continue;
            }
            process.child.kill().await.with_context(|| format!("can't end {name}"))?;
        }
        self.directory.close().context("can't remove the temporary directory")
    }
}

/// A sidecar's configuration.
fn configuration(own: &Side, peer: &Side, journal: &Path) -> String {
    // Literal strings, in which TOML needs no escapes.
    format!(
        "site = '{}'\n[redis]\naddr = '{}'\n[listen]\naddr = '{}'\n[journal]\ndir = '{}'\n\
         [[peer]]\nsite = '{}'\naddr = '{}'\n[conflict]\nprimary = 'a'\n",
        own.site,
        own.redis,
        own.sidecar,
        journal.display(),
        peer.site,
        peer.sidecar
    )
}

/// Ports that are free now. Held all at once, so that they differ.
fn free_ports() -> anyhow::Result<[u16; 4]> {
    let held: Vec<_> = (0..4)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .context("no free port")?;
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr().context("no free port")?.port();
    }
    Ok(ports)
}

/// The server that was named, or `redis-server` or `valkey-server` on the PATH.
pub fn find_redis_server(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        bail!("--redis-server {}: there is no such file", path.display());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path)
        .flat_map(|folder| [folder.join("redis-server"), folder.join("valkey-server")]);
    candidates.into_iter().find(|file| file.is_file()).context(
        "redis-server is not on the PATH: install it (e.g. apt install redis-server), or name one: \
         --redis-server /path/to/redis-server",
    )
}
