//! A TCP relay that can do what networks do: cut, refuse, swallow, delay.
//!
//! Each connection has a reading and a writing thread a direction, with a bounded queue between
//! them, so that a delay shifts the bytes in time and does not lower the throughput.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::ports::Port;
use super::{PATIENCE, eventually};

/// Chunks that may wait between reading and writing; with 64 KiB each, 64 MiB a direction.
const QUEUE: usize = 1024;
const CHUNK: usize = 64 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToTarget,
    ToClient,
}

/// The state of one direction.
#[derive(Debug, Default)]
struct Way {
    swallow: AtomicBool,
    delay_ms: AtomicU64,
    swallowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    to_target: Way,
    to_client: Way,
    connections: Mutex<HashMap<u64, [TcpStream; 2]>>,
    target: Mutex<String>,
    door: Mutex<Door>,
    door_changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Door {
    #[default]
    Open,
    /// The listener is wanted away; the accepting thread has not closed it yet.
    Closing,
    Closed,
    /// The relay is gone.
    Over,
}

impl Shared {
    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::ToTarget => &self.to_target,
            Direction::ToClient => &self.to_client,
        }
    }

    fn cut(&self) {
        for (_, sockets) in self.connections.lock().unwrap().drain() {
            for socket in sockets {
                socket.shutdown(Shutdown::Both).ok();
            }
        }
    }
}

/// A running relay; cuts everything and ends when dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    port: Port,
}

impl Relay {
    /// Listens on a free port and passes everything on to `target` (`host:port`).
    pub fn start(target: &str) -> Self {
        let port = Port::free();
        let listener = TcpListener::bind(("127.0.0.1", port.number())).expect("relay listens");
        let shared = Arc::new(Shared::default());
        *shared.target.lock().unwrap() = target.to_string();
        let (theirs, number) = (Arc::clone(&shared), port.number());
        thread::spawn(move || accept_loop(listener, number, &theirs));
        Self { shared, port }
    }

    /// `127.0.0.1:<port>`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Connections that go through it now.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Passes new connections on to another target, and cuts those that are there.
    pub fn retarget(&self, target: &str) {
        *self.shared.target.lock().unwrap() = target.to_string();
        self.cut();
    }

    /// Closes the port, so that new connections are refused; those that are there stay.
    pub fn refuse(&self) {
        *self.shared.door.lock().unwrap() = Door::Closing;
        self.wake_listener();
        eventually("the relay to close its port", PATIENCE, || {
            *self.shared.door.lock().unwrap() == Door::Closed
        });
    }

    /// Opens the port again after [`refuse`](Self::refuse).
    pub fn accept(&self) {
        *self.shared.door.lock().unwrap() = Door::Open;
        self.shared.door_changed.notify_all();
        eventually("the relay to open its port", PATIENCE, || {
            TcpStream::connect(self.addr()).is_ok()
        });
    }

    /// Drops all bytes of one direction from now on, and its end of stream too, as a black hole
    /// does; new connections are taken. For both directions, call it twice.
    pub fn swallow(&self, direction: Direction) {
        self.shared.way(direction).swallow.store(true, Ordering::SeqCst);
    }

    /// Bytes swallowed so far in one direction.
    pub fn swallowed(&self, direction: Direction) -> u64 {
        self.shared.way(direction).swallowed.load(Ordering::SeqCst)
    }

    /// Delays what is read from now on in one direction.
    pub fn delay(&self, direction: Direction, by: Duration) {
        let milliseconds = u64::try_from(by.as_millis()).expect("a sane delay");
        self.shared.way(direction).delay_ms.store(milliseconds, Ordering::SeqCst);
    }

    /// Ends swallowing and delays. A connection that lost bytes goes on losing all that follows in
    /// that direction, since TCP leaves no gaps: cut it.
    pub fn pass(&self) {
        for way in [&self.shared.to_target, &self.shared.to_client] {
            way.swallow.store(false, Ordering::SeqCst);
            way.delay_ms.store(0, Ordering::SeqCst);
        }
    }

    /// Swallows replies while `until` runs, then cuts all connections and passes again: what was
    /// sent meanwhile has arrived, but its sender can't know.
    pub fn swallow_replies_then_cut(&self, until: impl FnOnce()) {
        self.swallow(Direction::ToClient);
        until();
        self.pass();
        self.cut();
    }

    fn wake_listener(&self) {
        // It may be refused, when the port is closed already.
        TcpStream::connect(self.addr()).ok();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        *self.shared.door.lock().unwrap() = Door::Over;
        self.shared.door_changed.notify_all();
        self.wake_listener();
        self.shared.cut();
    }
}

fn accept_loop(mut listener: TcpListener, port: u16, shared: &Arc<Shared>) {
    for id in 0_u64.. {
        let accepted = listener.accept();
        let mut door = shared.door.lock().unwrap();
        if *door == Door::Closing {
            drop(listener);
            *door = Door::Closed;
            door = shared.door_changed.wait_while(door, |door| *door == Door::Closed).unwrap();
            if *door == Door::Over {
                return;
            }
            listener = TcpListener::bind(("127.0.0.1", port)).expect("relay listens again");
            continue;
        }
        if *door == Door::Over {
            return;
        }
        drop(door);
        let target = shared.target.lock().unwrap().clone();
        // Without the target the client is let in and dropped, as by a proxy.
        if let Ok((client, _)) = accepted
            && let Ok(target) = TcpStream::connect(target)
        {
            carry(id, &client, &target, shared);
        }
    }
}

fn carry(id: u64, client: &TcpStream, target: &TcpStream, shared: &Arc<Shared>) {
    let clone = |socket: &TcpStream| {
        socket.set_nodelay(true).ok();
        socket.try_clone().expect("socket is cloned")
    };
    let mut connections = shared.connections.lock().unwrap();
    connections.insert(id, [clone(client), clone(target)]);
    for (from, to, direction) in
        [(client, target, Direction::ToTarget), (target, client, Direction::ToClient)]
    {
        let (from, to, shared) = (clone(from), clone(to), Arc::clone(shared));
        let (sender, receiver) = sync_channel(QUEUE);
        thread::spawn(move || write_loop(to, &receiver));
        thread::spawn(move || {
            if read_loop(from, (id, direction), &shared, &sender) {
                shared.connections.lock().unwrap().remove(&id);
            }
        });
    }
}

/// Reads one direction to its end; tells whether the other side may learn of that end.
fn read_loop(
    mut from: TcpStream,
    (id, direction): (u64, Direction),
    shared: &Shared,
    queue: &SyncSender<(Instant, Vec<u8>)>,
) -> bool {
    let way = shared.way(direction);
    let mut chunk = vec![0; CHUNK];
    let mut lost = false;
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        lost |= way.swallow.load(Ordering::SeqCst);
        if lost {
            way.swallowed.fetch_add(length as u64, Ordering::SeqCst);
            continue;
        }
        let delay = Duration::from_millis(way.delay_ms.load(Ordering::SeqCst));
        if queue.send((Instant::now() + delay, chunk[..length].to_vec())).is_err() {
            break;
        }
    }
    if !lost && !way.swallow.load(Ordering::SeqCst) {
        return true;
    }
    // A black hole has no end either: while the queue lives, the writing thread keeps its socket.
    while shared.connections.lock().unwrap().contains_key(&id) {
        thread::sleep(Duration::from_millis(20));
    }
    false
}

fn write_loop(mut to: TcpStream, queue: &Receiver<(Instant, Vec<u8>)>) {
    for (due, chunk) in queue {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&chunk).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Both).ok();
}
