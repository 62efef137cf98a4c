//! Ports that no other test takes, in this process or another one.

use std::fs::{self, File};
use std::net::TcpListener;

/// Ports are drawn from here: below 32768, where Linux begins to give ports to outgoing
/// connections (`net.ipv4.ip_local_port_range`), so that none of those can sit on a port of ours
/// while its server is down.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port of 127.0.0.1, ours until this is dropped: a locked file keeps other tests from it, also
/// while its server is being restarted.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Finds a port that nobody listens on and no other test holds.
    pub fn free() -> Self {
        let locks = std::env::temp_dir().join("redis-duplex-test-ports");
        fs::create_dir_all(&locks).expect("can make the directory of port locks");
        for _ in 0..1000 {
            let number = rand::random_range(RANGE);
            let lock = File::create(locks.join(number.to_string())).expect("can make a port lock");
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port in {RANGE:?}");
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
