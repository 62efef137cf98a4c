//! Disks that fail: small, full, and with writes that the system takes and can't keep.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A file system of its own, unmounted at the end.
#[derive(Debug)]
pub struct Disk {
    mounts: Vec<PathBuf>,
    ballast: PathBuf,
    dir: TempDir,
}

fn run(command: &str, words: &[&str], path: &[&Path]) -> bool {
    let mut command = Command::new(command);
    command.args(words).args(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Disk {
    /// A memory disk of so many bytes; none, with a word about it, where mounting is not allowed.
    pub fn small(bytes: u64) -> Option<Self> {
        let mut disk = Self::empty();
        let at = disk.make("disk");
        disk.tmpfs(&at, bytes).then_some(())?;
        disk.ballast = at.join("ballast");
        Some(disk)
    }

    /// A disk of 64 MiB that takes all writes into memory and can keep only so many bytes of them:
    /// forcing more to it fails. None, with a word about it, where that can't be made.
    pub fn that_loses_writes(bytes: u64) -> Option<Self> {
        let mut disk = Self::empty();
        let (base, at) = (disk.make("base"), disk.make("disk"));
        disk.tmpfs(&base, bytes).then_some(())?;
        disk.ballast = base.join("ballast");
        let image = base.join("image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).is_ok()
            && run("mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^has_journal"], &[&image])
            && run("mount", &["-o", "loop"], &[&image, &at]);
        if !made {
            eprintln!(
                "SKIPPED: a disk in a file can't be made here (mkfs.ext4, loop devices, root)"
            );
            return None;
        }
        disk.mounts.push(at);
        Some(disk)
    }

    fn empty() -> Self {
        let dir = TempDir::new().expect("temporary directory");
        Self { mounts: Vec::new(), ballast: PathBuf::new(), dir }
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).expect("a directory is made");
        path
    }

    fn tmpfs(&mut self, at: &Path, bytes: u64) -> bool {
        let size = format!("size={bytes}");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &[at]);
        if mounted {
            self.mounts.push(at.to_owned());
        } else {
            eprintln!("SKIPPED: a tmpfs can't be mounted here (root is needed)");
        }
        mounted
    }

    /// A directory on it that is not there yet.
    pub fn journal(&self) -> PathBuf {
        self.dir.path().join("disk/journal")
    }

    /// Takes all room.
    pub fn fill(&self) {
        let chunk = vec![0_u8; 64 << 10];
        let mut file = std::fs::File::create(&self.ballast).expect("ballast begins");
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    }

    /// Gives the room back.
    pub fn make_room(&self) {
        std::fs::remove_file(&self.ballast).expect("ballast goes");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            run("umount", &["-l"], &[at]);
        }
    }
}
