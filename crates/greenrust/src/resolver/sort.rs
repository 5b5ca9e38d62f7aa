//! The order in which addresses of a name are to be tried: [RFC 6724, section 6], as glibc applies it.
//!
//! Of the rules, 1 (usable), 2 (scope), 5 (label), 6 (precedence), 8 (smaller scope) and 9 (longest common prefix) are
//! applied; what they leave equal stays in the server's order. Rules 3, 4 and 7 (deprecated, home and tunnelled source
//! addresses) are not. The table of labels and precedences is glibc's own, which `/etc/gai.conf` may replace.
//!
//! [RFC 6724, section 6]: https://www.rfc-editor.org/rfc/rfc6724#section-6

#![forbid(unsafe_code)]

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::clock::Instant;
use crate::sys::interfaces::{self, InterfaceAddress};

/// For how long the kernel's answers about source addresses and interfaces are believed.
pub const KEPT: Duration = Duration::from_secs(1);
const MAXIMUM_SOURCES: usize = 4096;

/// What an address prefix means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    prefix: Ipv6Addr,
    length: u32,
    value: u32,
}

const fn row(prefix: Ipv6Addr, length: u32, value: u32) -> Row {
    Row { prefix, length, value }
}

const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
const SIX_TO_FOUR: Ipv6Addr = Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0);
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

const LABELS: &[Row] = &[
    row(Ipv6Addr::LOCALHOST, 128, 0),
    row(ANY, 0, 1),
    row(SIX_TO_FOUR, 16, 2),
    row(ANY, 96, 3),
    row(MAPPED, 96, 4),
    row(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 5),
    row(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 6),
    row(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 7),
];

const PRECEDENCES: &[Row] = &[
    row(Ipv6Addr::LOCALHOST, 128, 50),
    row(ANY, 0, 40),
    row(SIX_TO_FOUR, 16, 30),
    row(ANY, 96, 20),
    row(MAPPED, 96, 10),
];

/// The tables by which addresses are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    labels: Vec<Row>,
    precedences: Vec<Row>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { labels: LABELS.to_vec(), precedences: PRECEDENCES.to_vec() }
    }
}

impl Policy {
    /// Reads the text of a `gai.conf`: its `label` and `precedence` lines. As in gai.conf(5), one such line replaces the
    /// whole default table.
    pub fn parse(text: &str) -> Self {
        let mut labels = Vec::new();
        let mut precedences = Vec::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [kind, prefix, value] = words[..] else { continue };
            let (address, length) = prefix.split_once('/').unwrap_or((prefix, "128"));
            let (Ok(prefix), Ok(length), Ok(value)) = (address.parse(), length.parse(), value.parse()) else {
                continue;
            };
            if length <= 128 {
                match kind {
                    "label" => labels.push(Row { prefix, length, value }),
                    "precedence" => precedences.push(Row { prefix, length, value }),
                    _ => {}
                }
            }
        }
        let default = Self::default();
        Self {
            labels: if labels.is_empty() { default.labels } else { labels },
            precedences: if precedences.is_empty() { default.precedences } else { precedences },
        }
    }
}

/// The value of the longest prefix that matches.
fn value(rows: &[Row], address: Ipv6Addr) -> u32 {
    let matching = rows.iter().filter(|row| {
        let shift = 128 - row.length;
        (address.to_bits() ^ row.prefix.to_bits()).checked_shr(shift).unwrap_or(0) == 0
    });
    matching.max_by_key(|row| row.length).map_or(0, |row| row.value)
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The scope of an address, as RFC 6724, section 3.1 numbers it.
fn scope(address: IpAddr) -> u8 {
    const LINK_LOCAL: u8 = 2;
    const SITE_LOCAL: u8 = 5;
    const GLOBAL: u8 = 14;
    match address {
        IpAddr::V6(address) if address.is_multicast() => address.octets()[1] & 15,
        IpAddr::V6(address) if address.is_loopback() || address.is_unicast_link_local() => LINK_LOCAL,
        IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfec0 => SITE_LOCAL,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => scope(address.into()),
            None => GLOBAL,
        },
        IpAddr::V4(address) if address.is_loopback() || address.is_link_local() => LINK_LOCAL,
        IpAddr::V4(_) => GLOBAL,
    }
}

/// What is known of one destination.
#[derive(Debug, Clone)]
struct Destination {
    address: IpAddr,
    source: Option<IpAddr>,
    has_scope_of_source: bool,
    has_label_of_source: bool,
    precedence: u32,
    scope: u8,
    common_bits: u32,
}

impl Destination {
    fn new(policy: &Policy, address: IpAddr, source: Option<IpAddr>, prefix: Option<u32>) -> Self {
        let (as_six, scope) = (as_v6(address), scope(address));
        Self {
            address,
            source,
            has_scope_of_source: source.is_some_and(|source| self::scope(source) == scope),
            has_label_of_source: source
                .is_some_and(|source| value(&policy.labels, as_v6(source)) == value(&policy.labels, as_six)),
            precedence: value(&policy.precedences, as_six),
            scope,
            common_bits: common_bits(address, source, prefix),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let order = Reverse(self.source.is_some())
            .cmp(&Reverse(other.source.is_some()))
            .then_with(|| other.has_scope_of_source.cmp(&self.has_scope_of_source))
            .then_with(|| other.has_label_of_source.cmp(&self.has_label_of_source))
            .then_with(|| other.precedence.cmp(&self.precedence))
            .then_with(|| self.scope.cmp(&other.scope));
        if order == Ordering::Equal && self.address.is_ipv4() == other.address.is_ipv4() {
            return other.common_bits.cmp(&self.common_bits);
        }
        order
    }
}

/// How many leading bits destination and source share; of IPv4 only where both are in the same network.
fn common_bits(address: IpAddr, source: Option<IpAddr>, prefix: Option<u32>) -> u32 {
    match (address, source) {
        (IpAddr::V4(address), Some(IpAddr::V4(source))) => {
            let common = (address.to_bits() ^ source.to_bits()).leading_zeros();
            if prefix.is_some_and(|prefix| common >= prefix) { common } else { 0 }
        }
        (IpAddr::V6(address), Some(IpAddr::V6(source))) => (address.to_bits() ^ source.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// The kernel's view of the ways to other machines, remembered for [`KEPT`].
#[derive(Debug, Default)]
pub struct Routes {
    sources: HashMap<IpAddr, Option<IpAddr>>,
    interfaces: Option<Vec<InterfaceAddress>>,
    since: Instant,
}

impl Routes {
    /// Sorts addresses, the best first. Does not switch.
    pub fn sort(&mut self, addresses: &mut [IpAddr], policy: &Policy, now: Instant) {
        if addresses.len() < 2 {
            return;
        }
        if now.since(self.since) >= KEPT || self.sources.len() > MAXIMUM_SOURCES {
            *self = Self { since: now, ..Self::default() };
        }
        self.find_sources(addresses);
        let mut destinations: Vec<Destination> = addresses
            .iter()
            .map(|&address| {
                let source = self.sources.get(&address).copied().flatten();
                let prefix = source.filter(IpAddr::is_ipv4).and_then(|source| self.prefix(source));
                Destination::new(policy, address, source, prefix)
            })
            .collect();
        destinations.sort_by(Destination::compare);
        for (place, destination) in addresses.iter_mut().zip(destinations) {
            *place = destination.address;
        }
    }

    fn prefix(&mut self, source: IpAddr) -> Option<u32> {
        let interfaces = self.interfaces.get_or_insert_with(|| interfaces::addresses().unwrap_or_default());
        interfaces.iter().find(|interface| interface.address == source).map(|interface| interface.prefix)
    }

    /// Asks the kernel which source addresses it would use: by connecting a UDP socket, which sends nothing.
    fn find_sources(&mut self, addresses: &[IpAddr]) {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let mut socket = None;
            for &address in addresses {
                if address.is_ipv4() != (family == AddressFamily::INET) || self.sources.contains_key(&address) {
                    continue;
                }
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket =
                    socket.get_or_insert_with(|| rustix::net::socket_with(family, SocketType::DGRAM, flags, None).ok());
                let source = socket.as_ref().and_then(|socket| {
                    // Else the source of the last destination would stay.
                    let _ = rustix::net::connect_unspec(socket);
                    // The port says nothing, but it must not be 0.
                    rustix::net::connect(socket, &SocketAddr::new(address, 53)).ok()?;
                    let name = rustix::net::getsockname(socket).ok()?;
                    SocketAddr::try_from(name).ok().map(|source| source.ip())
                });
                self.sources.insert(address, source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(policy: &Policy, pairs: &[(&str, Option<&str>)], prefix: u32) -> Vec<String> {
        let mut destinations: Vec<_> = pairs
            .iter()
            .map(|(address, source)| {
                let source = source.map(|source| source.parse().unwrap());
                Destination::new(policy, address.parse().unwrap(), source, Some(prefix))
            })
            .collect();
        destinations.sort_by(Destination::compare);
        destinations.iter().map(|destination| destination.address.to_string()).collect()
    }

    /// The examples of RFC 6724, section 10.2.
    #[test]
    fn the_examples_of_the_standard_come_out_in_its_order() {
        let examples: &[&[(&str, Option<&str>)]] = &[
            &[("2001:db8:1::1", Some("2001:db8:1::2")), ("198.51.100.121", Some("169.254.13.78"))],
            &[("198.51.100.121", Some("198.51.100.117")), ("2001:db8:1::1", Some("fe80::1"))],
            &[("2001:db8:1::1", Some("2001:db8:1::2")), ("10.1.2.3", Some("10.1.2.4"))],
            &[("fe80::1", Some("fe80::2")), ("2001:db8:1::1", Some("2001:db8:1::2"))],
            &[("2001:db8:1::1", Some("2001:db8:1::2")), ("2002:c633:6401::1", Some("2002:c633:6401::2"))],
            &[("2001:db8:1::1", Some("2001:db8::2")), ("2002:c633:6401::1", Some("2002:c633:6401::2"))],
        ];
        for example in examples {
            let expected: Vec<_> = example.iter().map(|(address, _)| address.to_string()).collect();
            let reversed: Vec<_> = example.iter().rev().copied().collect();
            assert_eq!(sorted(&Policy::default(), &reversed, 24), expected);
        }
    }

    #[test]
    fn what_cannot_be_reached_comes_last_and_equals_keep_their_order() {
        let pairs = [("2001:db8::1", None), ("192.0.2.9", Some("10.0.0.1")), ("192.0.2.8", Some("10.0.0.1"))];
        assert_eq!(sorted(&Policy::default(), &pairs, 8), ["192.0.2.9", "192.0.2.8", "2001:db8::1"]);
    }

    #[test]
    fn an_address_of_the_own_network_comes_first() {
        let pairs = [("10.2.0.1", Some("10.1.0.5")), ("10.1.0.1", Some("10.1.0.5"))];
        assert_eq!(sorted(&Policy::default(), &pairs, 16), ["10.1.0.1", "10.2.0.1"]);
        // Sharing bits counts within the network alone.
        let pairs = [("192.0.2.1", Some("10.1.0.5")), ("10.2.0.1", Some("10.1.0.5"))];
        assert_eq!(sorted(&Policy::default(), &pairs, 16), ["192.0.2.1", "10.2.0.1"]);
    }

    #[test]
    fn gai_conf_replaces_a_table() {
        let policy = Policy::parse("# comment\nprecedence ::ffff:0:0/96 100 # IPv4 first\nlabel nonsense 1\n");
        let pairs = [("2001:db8::1", Some("2001:db8::2")), ("192.0.2.1", Some("192.0.2.2"))];
        assert_eq!(sorted(&policy, &pairs, 24), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(policy.labels, LABELS);
        assert_eq!(Policy::parse(""), Policy::default());
    }

    #[test]
    fn the_kernel_says_which_source_it_uses() {
        let mut addresses = ["127.0.0.9", "127.0.0.1"].map(|text| text.parse().unwrap());
        let mut routes = Routes::default();
        routes.sort(&mut addresses, &Policy::default(), Instant::default());
        assert_eq!(routes.sources.len(), 2);
        assert!(routes.sources.values().all(|source| source.is_some_and(|source| source.is_loopback())));
    }
}
