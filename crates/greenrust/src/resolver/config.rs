//! What the system's files say about look-ups: `resolv.conf`, and the `hosts` line of `nsswitch.conf`.
//!
//! The rules are those of resolv.conf(5) and of glibc, whose limits are kept: 3 servers, `ndots` up to 15, `timeout` up
//! to 30 s, `attempts` up to 5. What cannot be understood is passed over, as glibc does.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

/// The port of name servers.
pub const DEFAULT_PORT: u16 = 53;
const MAXIMUM_SERVERS: usize = 3;
const MAXIMUM_NDOTS: u32 = 15;
const MAXIMUM_TIMEOUT: u64 = 30;
const MAXIMUM_ATTEMPTS: u32 = 5;

/// A name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where datagrams go.
    pub datagram: SocketAddr,
    /// Where connections go.
    pub stream: SocketAddr,
}

impl Server {
    /// Returns the server at an address and the usual port.
    pub fn new(address: IpAddr) -> Self {
        Self::at(SocketAddr::new(address, DEFAULT_PORT))
    }

    /// Returns the server at an address with a port, for both protocols.
    pub fn at(address: SocketAddr) -> Self {
        Self { datagram: address, stream: address }
    }

    /// Reads an address in digits. A port may stand behind a colon (`192.0.2.1:5353`, `[2001:db8::1]:5353`), the interface
    /// of a link-local address behind `%`. `ports` are those for datagrams and for connections if there is none.
    pub fn parse(text: &str, ports: (u16, u16)) -> Option<Self> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Some(Self::at(address));
        }
        let mut server = Self::at(parse_scoped(text)?);
        server.datagram.set_port(ports.0);
        server.stream.set_port(ports.1);
        Some(server)
    }
}

/// Where look-ups look, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `/etc/hosts`.
    Files,
    /// The name servers.
    Dns,
}

/// How questions are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name servers, in the order in which they are asked.
    pub servers: Vec<Server>,
    /// The domains that are tried behind a name.
    pub search: Vec<String>,
    /// How many dots make a name one to try as it is first.
    pub ndots: u32,
    /// How long the first attempt waits for one server's answer.
    pub timeout: Duration,
    /// How often all servers are asked.
    pub attempts: u32,
    /// Each question begins with another server.
    pub rotate: bool,
    /// Ask over TCP only.
    pub stream_only: bool,
    /// Ask for IPv6 and IPv4 addresses one after the other.
    pub single_request: bool,
    /// Never ask for IPv6 addresses.
    pub no_aaaa: bool,
    /// Don't ask for a name without dots as it is.
    pub no_tld_query: bool,
    /// Have the servers ask others for what they don't know themselves.
    pub recursive: bool,
    /// Take what a datagram had room for as the whole answer.
    pub ignore_truncation: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            stream_only: false,
            single_request: false,
            no_aaaa: false,
            no_tld_query: false,
            recursive: true,
            ignore_truncation: false,
        }
    }
}

fn parse_scoped(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(SocketAddrV4::new(address, DEFAULT_PORT).into());
    }
    let (address, scope) = match text.split_once('%') {
        Some((address, scope)) => (address, scope_id(scope)?),
        None => (text, 0),
    };
    Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, DEFAULT_PORT, 0, scope).into())
}

fn scope_id(interface: &str) -> Option<u32> {
    if let Ok(index) = interface.parse() {
        return Some(index);
    }
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, interface).ok()
}

impl Settings {
    /// Reads the text of a `resolv.conf`. `host_name` gives the search domain where the file has none; `environment` is
    /// asked for `LOCALDOMAIN` and `RES_OPTIONS`, which override the file.
    pub fn parse(text: &str, host_name: &str, environment: impl Fn(&str) -> Option<String>) -> Self {
        let mut settings = Self::default();
        let mut search = None;
        for line in text.lines() {
            if line.starts_with([';', '#']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    if settings.servers.len() < MAXIMUM_SERVERS
                        && let Some(address) = words.next().and_then(parse_scoped)
                    {
                        settings.servers.push(Server::at(address));
                    }
                }
                // The last of these lines counts.
                Some("domain") => search = words.next().map(|domain| vec![domain.to_owned()]),
                Some("search") => search = Some(words.map(str::to_owned).collect()),
                Some("options") => words.for_each(|word| settings.apply_option(word)),
                _ => {}
            }
        }
        if let Some(domains) = environment("LOCALDOMAIN") {
            search = Some(domains.split_ascii_whitespace().map(str::to_owned).collect());
        }
        if let Some(options) = environment("RES_OPTIONS") {
            options.split_ascii_whitespace().for_each(|word| settings.apply_option(word));
        }
        settings.search = search
            .unwrap_or_else(|| host_name.split_once('.').map(|(_, domain)| vec![domain.to_owned()]).unwrap_or_default())
            .into_iter()
            .map(|domain| domain.trim_matches('.').to_owned())
            .collect();
        if settings.servers.is_empty() {
            settings.servers.push(Server::new(Ipv4Addr::LOCALHOST.into()));
        }
        settings
    }

    fn apply_option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = value.parse::<u32>().ok();
        match (name, number) {
            ("ndots", Some(ndots)) => self.ndots = ndots.min(MAXIMUM_NDOTS),
            ("timeout", Some(seconds)) => {
                self.timeout = Duration::from_secs(u64::from(seconds).clamp(1, MAXIMUM_TIMEOUT));
            }
            ("attempts", Some(attempts)) => self.attempts = attempts.clamp(1, MAXIMUM_ATTEMPTS),
            ("rotate", None) => self.rotate = true,
            ("use-vc", None) => self.stream_only = true,
            ("single-request" | "single-request-reopen", None) => self.single_request = true,
            ("no-aaaa", None) => self.no_aaaa = true,
            ("no-tld-query", None) => self.no_tld_query = true,
            _ => {}
        }
    }

    /// Returns the names to ask for, in order, when `name` is looked up.
    ///
    /// A name that ends in a dot is one. Else a name with at least `ndots` dots is tried as it is before the search
    /// domains are appended, and one with fewer after.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let dots = name.bytes().filter(|&byte| byte == b'.').count();
        let first = dots >= self.ndots as usize;
        let mut candidates = Vec::with_capacity(self.search.len() + 1);
        if first {
            candidates.push(name.to_owned());
        }
        let mut with_root = false;
        for domain in &self.search {
            if domain.is_empty() {
                with_root = true;
                if !first {
                    candidates.push(name.to_owned());
                }
            } else {
                candidates.push(format!("{name}.{domain}"));
            }
        }
        let is_forbidden = self.no_tld_query && dots == 0;
        if !first && !with_root && !is_forbidden {
            candidates.push(name.to_owned());
        }
        candidates
    }
}

/// Reads the `hosts` line of an `nsswitch.conf`: of the sources it names, those that exist here.
pub fn parse_sources(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(words) = line.trim_start().strip_prefix("hosts:") else {
            continue;
        };
        for word in words.split_ascii_whitespace() {
            let source = match word {
                "files" => Source::Files,
                // systemd's and other local forwarders answer what the servers of resolv.conf would.
                "dns" | "resolve" => Source::Dns,
                _ => continue,
            };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    if sources.is_empty() { vec![Source::Files, Source::Dns] } else { sources }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Settings {
        Settings::parse(text, "box.office.test", |_| None)
    }

    #[test]
    fn every_line_of_resolv_conf_counts_and_what_is_wrong_does_not() {
        let settings = parse(
            "# comment\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver 2001:db8::1\nnameserver 192.0.2.3\n\
             nameserver 192.0.2.4\ndomain ignored.test\nsearch one.test two.test.\n\
             options ndots:20 timeout:99 attempts:9 rotate use-vc no-aaaa single-request nonsense ndots:x\n",
        );
        let servers: Vec<_> = settings.servers.iter().map(|server| server.datagram.to_string()).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]);
        assert_eq!(settings.search, ["one.test", "two.test"]);
        assert_eq!((settings.ndots, settings.attempts), (15, 5));
        assert_eq!(settings.timeout, Duration::from_secs(30));
        assert!(settings.rotate && settings.stream_only && settings.no_aaaa && settings.single_request);
    }

    #[test]
    fn a_server_may_have_ports_of_its_own() {
        let ports = (1, 2);
        let parse = |text| Server::parse(text, ports).map(|server| (server.datagram.to_string(), server.stream.port()));
        assert_eq!(parse("192.0.2.1"), Some(("192.0.2.1:1".to_owned(), 2)));
        assert_eq!(parse(" 2001:db8::1 "), Some(("[2001:db8::1]:1".to_owned(), 2)));
        assert_eq!(parse("192.0.2.1:7"), Some(("192.0.2.1:7".to_owned(), 7)));
        assert_eq!(parse("[2001:db8::1]:7"), Some(("[2001:db8::1]:7".to_owned(), 7)));
        assert_eq!(parse("fe80::1%3"), Some(("[fe80::1%3]:1".to_owned(), 2)));
        assert_eq!(parse("name.test"), None);
    }

    #[test]
    fn an_empty_file_means_this_machine_and_the_domain_of_its_name() {
        let settings = parse("");
        assert_eq!(settings.servers, [Server::new(Ipv4Addr::LOCALHOST.into())]);
        assert_eq!(settings.search, ["office.test"]);
        assert_eq!(Settings::parse("", "box", |_| None).search, Vec::<String>::new());
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let settings = Settings::parse("search a.test\noptions ndots:2", "box", |name| match name {
            "LOCALDOMAIN" => Some("b.test c.test".to_owned()),
            "RES_OPTIONS" => Some("ndots:3 attempts:1".to_owned()),
            _ => None,
        });
        assert_eq!(settings.search, ["b.test", "c.test"]);
        assert_eq!((settings.ndots, settings.attempts), (3, 1));
    }

    #[test]
    fn dots_decide_when_the_search_list_is_tried() {
        let settings = parse("search one.test two.test\noptions ndots:2");
        assert_eq!(settings.candidates("a"), ["a.one.test", "a.two.test", "a"]);
        assert_eq!(settings.candidates("a.b"), ["a.b.one.test", "a.b.two.test", "a.b"]);
        assert_eq!(settings.candidates("a.b.c"), ["a.b.c", "a.b.c.one.test", "a.b.c.two.test"]);
        assert_eq!(settings.candidates("a."), ["a"]);
        assert_eq!(parse("search .\noptions no-tld-query").candidates("a"), ["a"]);
        assert_eq!(parse("search x.test\noptions no-tld-query").candidates("a"), ["a.x.test"]);
    }

    #[test]
    fn the_order_of_nsswitch_conf_is_kept() {
        assert_eq!(parse_sources("hosts: dns [NOTFOUND=return] files # files"), [Source::Dns, Source::Files]);
        assert_eq!(parse_sources("passwd: files\n"), [Source::Files, Source::Dns]);
        assert_eq!(parse_sources("hosts: files mdns4_minimal"), [Source::Files]);
    }
}
