//! A network of two hosts on this machine: namespaces with a wire between them that can be cut one
//! way and can lose packets.
//!
//! Redis servers and the test itself stay outside; each host reaches them, and they it, over a
//! wire of its own that no fault touches.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::redis_server::RedisServer;
use super::relay::Relay;

/// The wire's device at each host.
const WIRE: &str = "d0";
/// Where the two hosts are, on the wire.
const ON_THE_WIRE: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// One of the two hosts.
#[derive(Debug, Clone)]
pub struct Host {
    /// Of its namespace.
    pub name: String,
    /// Its address for the other host.
    pub address: &'static str,
    /// Its address for the test.
    pub from_outside: String,
    /// The test's address for it.
    outside: String,
}

/// Two hosts; they go when it is dropped.
#[derive(Debug)]
pub struct Network {
    /// The hosts.
    pub hosts: [Host; 2],
}

fn run(words: &str) -> Result<(), String> {
    let mut words = words.split(' ');
    let program = words.next().unwrap_or_default();
    let done: Result<Output, _> = Command::new(program).args(words).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

impl Network {
    /// Two hosts with a wire. None, with a word about it, where that can't be made.
    pub fn start() -> Option<Self> {
        // Of 198.18.0.0/15, which is for tests of networks.
        let tag: u16 = rand::random();
        let [high, low] = tag.to_be_bytes();
        let host = |index: u8| {
            let base = u16::from(low & 0xf8) + u16::from(index) * 4;
            Host {
                name: format!("rdx{tag:04x}{index}"),
                address: ON_THE_WIRE[usize::from(index)],
                from_outside: format!("198.18.{high}.{}", base + 2),
                outside: format!("198.18.{high}.{}", base + 1),
            }
        };
        let network = Self { hosts: [host(0), host(1)] };
        match network.make() {
            Ok(()) => Some(network),
            Err(error) => {
                eprintln!(
                    "SKIPPED: no network namespaces here ({error}); they take root, and the \
                     packages iproute2 and iptables"
                );
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        for Host { name, from_outside, outside, .. } in &self.hosts {
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip link add {name} type veth peer name m0 netns {name}"))?;
            run(&format!("ip addr add {outside}/30 dev {name}"))?;
            run(&format!("ip link set {name} up"))?;
            run(&format!("ip -n {name} addr add {from_outside}/30 dev m0"))?;
            run(&format!("ip -n {name} link set m0 up"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            run(&format!("ip netns exec {name} iptables -w -L -n"))?;
        }
        let [a, b] = &self.hosts;
        run(&format!(
            "ip -n {} link add {WIRE} type veth peer name {WIRE} netns {}",
            a.name, b.name
        ))?;
        for Host { name, address, .. } in &self.hosts {
            run(&format!("ip -n {name} addr add {address}/24 dev {WIRE}"))?;
            run(&format!("ip -n {name} link set {WIRE} up"))?;
        }
        Ok(())
    }

    /// A server outside that this host can reach.
    pub fn redis_of(&self, host: usize) -> RedisServer {
        let outside = &self.hosts[host].outside;
        RedisServer::start_with(&[
            "--bind",
            &format!("127.0.0.1 {outside}"),
            "--protected-mode",
            "no",
        ])
    }

    /// Its address for this host.
    pub fn redis_addr(&self, host: usize, server: &RedisServer) -> String {
        format!("{}:{}", self.hosts[host].outside, server.port())
    }

    /// A relay at this host.
    pub fn relay_at(&self, host: usize, target: &str) -> Relay {
        let path = format!("/run/netns/{}", self.hosts[host].name);
        // Threads and sockets that are made within stay within.
        let within = || {
            let space = File::open(path).expect("the namespace is there");
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a thread moves into a namespace");
            Relay::start(target)
        };
        thread::scope(|scope| scope.spawn(within).join()).expect("a relay starts")
    }

    /// Nothing that the other host sends arrives at this one.
    pub fn cut_to(&self, host: usize) {
        self.rule(host, "-A INPUT -i d0 -j DROP");
    }

    /// Of what the other host sends, this part does not arrive at this one.
    pub fn lose_to(&self, host: usize, part: f64) {
        let by_chance = format!("-m statistic --mode random --probability {part}");
        self.rule(host, &format!("-A INPUT -i d0 {by_chance} -j DROP"));
    }

    /// All arrives again.
    pub fn heal(&self) {
        for host in 0..2 {
            self.rule(host, "-F INPUT");
        }
    }

    fn rule(&self, host: usize, rule: &str) {
        let name = &self.hosts[host].name;
        run(&format!("ip netns exec {name} iptables -w {rule}")).expect("iptables takes the rule");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for Host { name, .. } in &self.hosts {
            // The wires go with their ends; it may have come to nothing before it was whole.
            run(&format!("ip link del {name}")).ok();
            run(&format!("ip netns del {name}")).ok();
        }
    }
}
