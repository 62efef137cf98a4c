//! Whether the disk kept all that was written to it.
//!
//! When it can't be forced to keep something, the system may have thrown that away, or hold it in
//! memory and tell it as kept the next time. So a file says that nothing of the kind happened, and
//! goes when it does; the next run then takes nothing for granted. It is needed within a boot of the
//! machine only, so it does not have to be on disk itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::segment::{PRIVATE, SegmentFile};

const INTACT: &str = "intact";

/// Whether the disk is not known to have lost anything.
pub(super) fn is(dir: &Path) -> io::Result<bool> {
    dir.join(INTACT).try_exists()
}

/// All that is there can be relied on, from here on.
pub(super) fn set(dir: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(PRIVATE);
    options.open(dir.join(INTACT)).map(drop)
}

/// The disk has lost something.
pub(super) fn unset(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(INTACT))
}

/// Writes each segment anew, so that what was in memory only is on disk.
pub(super) fn write_anew(dir: &Path) -> io::Result<()> {
    let path_of = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    for path in fs::read_dir(dir)?.map(path_of).collect::<io::Result<Vec<_>>>()? {
        if SegmentFile::sequence(&path).is_none() {
            continue;
        }
        let anew = path.with_extension("anew");
        let copied = fs::copy(&path, &anew).and_then(|_| File::open(&anew)?.sync_all());
        if let Err(error) = copied.and_then(|()| fs::rename(&anew, &path)) {
            // There may be no room for both, and half a copy takes what there is.
            let _ = fs::remove_file(&anew);
            return Err(error);
        }
    }
    File::open(dir)?.sync_all()
}
