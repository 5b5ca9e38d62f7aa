//! `/etc/hosts`: names and addresses that need no question.
//!
//! The rules are those of hosts(5) as glibc reads it: a name may stand in several lines, which then count together; a line
//! of an IPv6 loopback address also gives 127.0.0.1 to those who ask for IPv4 alone.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Family, Host};

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    address: IpAddr,
    /// The first is the canonical one.
    names: Vec<String>,
}

/// The content of the file.
#[derive(Debug, Default)]
pub struct Hosts {
    lines: Vec<Line>,
    /// The lines in which a name, in small letters, stands.
    by_name: HashMap<String, Vec<usize>>,
    /// The first line of an address.
    by_address: HashMap<IpAddr, usize>,
}

impl Hosts {
    /// Reads the text of the file. Lines that can't be understood are passed over.
    pub fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            let names: Vec<String> = words.map(str::to_owned).collect();
            if names.is_empty() {
                continue;
            }
            let place = hosts.lines.len();
            for name in &names {
                let places = hosts.by_name.entry(name.to_ascii_lowercase()).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
            hosts.by_address.entry(address).or_insert(place);
            hosts.lines.push(Line { address, names });
        }
        hosts
    }

    /// Returns what the file says of a name, with addresses in the file's order.
    pub fn by_name(&self, name: &str, family: Family) -> Option<Host> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let mut found: Option<Host> = None;
        for &place in self.by_name.get(&name)? {
            let Line { address, names } = &self.lines[place];
            let address = match (family, address) {
                (Family::Any, _) | (Family::V4, IpAddr::V4(_)) | (Family::V6, IpAddr::V6(_)) => *address,
                (Family::V4, IpAddr::V6(address)) if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
                (Family::V4, IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                    Some(address) => address.into(),
                    None => continue,
                },
                (Family::V6, IpAddr::V4(_)) => continue,
            };
            match &mut found {
                None => {
                    found =
                        Some(Host { name: names[0].clone(), aliases: names[1..].to_vec(), addresses: vec![address] });
                }
                Some(host) => {
                    host.addresses.push(address);
                    for name in names {
                        if *name != host.name && !host.aliases.contains(name) {
                            host.aliases.push(name.clone());
                        }
                    }
                }
            }
        }
        found
    }

    /// Returns the names of the first line with the address.
    pub fn by_address(&self, address: IpAddr) -> Option<Host> {
        let Line { names, .. } = &self.lines[*self.by_address.get(&address)?];
        Some(Host { name: names[0].clone(), aliases: names[1..].to_vec(), addresses: vec![address] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost # comment\n\n# comment\nnonsense here\n192.0.2.9\n\
        192.0.2.50\tfilehost.test filehost fh\n2001:db8::50 filehost.test filehost\n192.0.2.51 filehost.test other\n\
        192.0.2.60 Mixed.Test";

    fn look_up(name: &str, family: Family) -> Option<(String, Vec<String>, Vec<String>)> {
        let host = Hosts::parse(TEXT).by_name(name, family)?;
        Some((host.name, host.aliases, host.addresses.iter().map(ToString::to_string).collect()))
    }

    fn expected(name: &str, aliases: &[&str], addresses: &[&str]) -> Option<(String, Vec<String>, Vec<String>)> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Some((name.to_owned(), owned(aliases), owned(addresses)))
    }

    #[test]
    fn lines_of_one_name_count_together() {
        assert_eq!(
            look_up("FILEHOST.test", Family::V4),
            expected("filehost.test", &["filehost", "fh", "other"], &["192.0.2.50", "192.0.2.51"])
        );
        assert_eq!(look_up("filehost", Family::V6), expected("filehost.test", &["filehost"], &["2001:db8::50"]));
        assert_eq!(look_up("fh", Family::V6), None);
        assert_eq!(look_up("mixed.test.", Family::Any), expected("Mixed.Test", &[], &["192.0.2.60"]));
        assert_eq!(look_up("nonsense", Family::Any), None);
    }

    #[test]
    fn the_loopback_address_of_ipv6_serves_ipv4_too() {
        let aliases = ["ip6-localhost"];
        assert_eq!(look_up("localhost", Family::V4), expected("localhost", &aliases, &["127.0.0.1", "127.0.0.1"]));
        assert_eq!(look_up("localhost", Family::Any), expected("localhost", &aliases, &["127.0.0.1", "::1"]));
    }

    #[test]
    fn an_address_gives_the_names_of_its_line() {
        let hosts = Hosts::parse(TEXT);
        let host = hosts.by_address("192.0.2.51".parse().unwrap()).unwrap();
        assert_eq!((host.name.as_str(), host.aliases), ("filehost.test", vec!["other".to_owned()]));
        assert!(hosts.by_address("192.0.2.9".parse().unwrap()).is_none());
    }
}
