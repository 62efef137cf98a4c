//! A child process that never outlives its test.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{PATIENCE, eventually, eventually_some};

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Self {
        let out = std::fs::File::options().create(true).append(true).open(log).expect("log opens");
        let err = out.try_clone().expect("log handle is cloned");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("child can be waited for")
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{name} {} failed", self.id());
    }

    /// SIGKILL, then waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("child is killed");
        self.child.wait().expect("child is reaped");
    }

    /// SIGTERM, then waits for the end and tells how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        eventually_some("a process to end after SIGTERM", PATIENCE, || self.ended())
    }

    /// SIGSTOP; returns when the process stands still.
    pub fn pause(&self) {
        self.signal("STOP");
        eventually("a process to stand still", PATIENCE, || self.state() == Some('T'));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// The state letter of `ps`.
    fn state(&self) -> Option<char> {
        let output =
            Command::new("ps").args(["-o", "stat=", "-p", &self.id().to_string()]).output();
        String::from_utf8_lossy(&output.expect("ps runs").stdout).trim().chars().next()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
