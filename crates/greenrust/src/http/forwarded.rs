//! Who sent a request that came through proxies: `X-Forwarded-For` and `X-Forwarded-Proto`.
//!
//! Both fields are claims. A client can send them itself, so each address counts only as far as the one that reported it
//! is trusted: the peer reports the last address of `X-Forwarded-For`, that one (if it is a trusted proxy, too) the one
//! before it, and so on. The first address from the right that is no trusted proxy is the client's; what stands left of it
//! was written by the client.
//!
//! There is no standard for these fields; [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239) section 8.1 gives the same
//! rule for its `Forwarded`.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::str::FromStr;

use super::syntax::trim_whitespace;

/// A block of addresses: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: u128,
    mask: u128,
    is_v4: bool,
}

/// Which peers are proxies whose word is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    trusts_all: bool,
    trusts_unix: bool,
}

fn number(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(u32::from(address)), true),
        IpAddr::V6(address) => (u128::from(address), false),
    }
}

/// Reads an address with or without port and brackets, as proxies write it.
fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(trim_whitespace(bytes)).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().ok();
    }
    text.parse().ok().or_else(|| {
        let (host, port) = text.rsplit_once(':')?;
        port.bytes().all(|byte| byte.is_ascii_digit()).then(|| host.parse().ok())?
    })
}

impl TrustedProxies {
    /// Adds an address (`192.0.2.1`), a network (`10.0.0.0/8`, `fd00::/8`), `*` for every peer, or `unix` for those who
    /// connect to a Unix socket.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn add(&mut self, text: &str) -> Result<(), &'static str> {
        match text {
            "*" => self.trusts_all = true,
            "unix" => self.trusts_unix = true,
            _ => {
                let (address, prefix) = match text.split_once('/') {
                    Some((address, prefix)) => (address, Some(prefix)),
                    None => (text, None),
                };
                let address = IpAddr::from_str(address).map_err(|_| "not an IP address or network")?;
                let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
                let prefix = match prefix {
                    None => bits,
                    Some(prefix) => match prefix.parse() {
                        Ok(prefix) if prefix <= bits => prefix,
                        _ => return Err("not a length of a network's prefix"),
                    },
                };
                let (number, is_v4) = match address {
                    IpAddr::V4(address) => (u128::from(u32::from(address)), true),
                    IpAddr::V6(address) => (u128::from(address), false),
                };
                let hosts = bits - prefix;
                let mask = if hosts == 128 { 0 } else { u128::MAX << hosts };
                self.networks.push(Network { address: number & mask, mask, is_v4 });
            }
        }
        Ok(())
    }

    /// Says whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.trusts_all && !self.trusts_unix
    }

    /// Says whether the peer's word is taken; `None` is a peer without an IP address, at a Unix socket.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return self.trusts_all || self.trusts_unix };
        let (number, is_v4) = number(peer);
        self.trusts_all
            || self.networks.iter().any(|network| network.is_v4 == is_v4 && number & network.mask == network.address)
    }

    /// Returns the client's address by the values of `X-Forwarded-For`, in the order of the fields, that a trusted peer
    /// sent. None if they have no address at their end.
    #[must_use]
    pub fn client<'a>(&self, values: impl DoubleEndedIterator<Item = &'a [u8]>) -> Option<IpAddr> {
        let mut client = None;
        for value in values.rev() {
            for part in value.rsplit(|&byte| byte == b',') {
                let Some(address) = parse_address(part) else { return client };
                client = Some(address.to_canonical());
                if !self.trusts(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// Returns the scheme, `http` or `https`, by the values of `X-Forwarded-Proto` that a trusted peer sent: the last one's.
#[must_use]
pub fn forwarded_scheme<'a>(mut values: impl DoubleEndedIterator<Item = &'a [u8]>) -> Option<&'static str> {
    let last = values.next_back()?.rsplit(|&byte| byte == b',').next()?;
    match trim_whitespace(last) {
        scheme if scheme.eq_ignore_ascii_case(b"https") => Some("https"),
        scheme if scheme.eq_ignore_ascii_case(b"http") => Some("http"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(texts: &[&str]) -> TrustedProxies {
        let mut proxies = TrustedProxies::default();
        for text in texts {
            proxies.add(text).unwrap();
        }
        proxies
    }

    #[test]
    fn networks_contain_their_addresses() {
        let proxies = proxies(&["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"]);
        for inside in ["10.255.0.1", "192.0.2.7", "fd12::1", "::1", "::ffff:10.1.2.3"] {
            assert!(proxies.trusts(Some(inside.parse().unwrap())), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "fe80::1", "::2", "::ffff:11.1.2.3"] {
            assert!(!proxies.trusts(Some(outside.parse().unwrap())), "{outside}");
        }
        assert!(!proxies.trusts(None));
        assert!(!self::proxies(&["0.0.0.0/0"]).trusts(Some("::1".parse().unwrap())));
        assert!(self::proxies(&["unix"]).trusts(None));
        assert!(self::proxies(&["*"]).trusts(Some("8.8.8.8".parse().unwrap())));
    }

    #[test]
    fn malformed_networks_are_refused() {
        for wrong in ["", "localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "10.0.0"] {
            assert!(TrustedProxies::default().add(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn client_is_the_last_address_that_no_trusted_proxy_reported() {
        let proxies = proxies(&["10.0.0.0/8"]);
        for (values, client) in [
            (&["198.51.100.1"][..], Some("198.51.100.1")),
            (&["6.6.6.6, 198.51.100.1"], Some("198.51.100.1")),
            (&["6.6.6.6, 198.51.100.1, 10.0.0.2"], Some("198.51.100.1")),
            (&["6.6.6.6", "198.51.100.1", "10.0.0.2"], Some("198.51.100.1")),
            (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            (&["198.51.100.1:4711"], Some("198.51.100.1")),
            (&["[2001:db8::1]:80"], Some("2001:db8::1")),
            (&["2001:db8::1"], Some("2001:db8::1")),
            (&["unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["nonsense"], None),
            (&[""], None),
            (&[], None),
        ] {
            let found = proxies.client(values.iter().map(|value| value.as_bytes()));
            assert_eq!(found, client.map(|client| client.parse().unwrap()), "{values:?}");
        }
    }

    #[test]
    fn scheme_is_the_last_one_that_is_known() {
        let scheme = |values: &[&'static str]| forwarded_scheme(values.iter().map(|value| value.as_bytes()));
        assert_eq!(scheme(&["https"]), Some("https"));
        assert_eq!(scheme(&["https, HTTP"]), Some("http"));
        assert_eq!(scheme(&["http", "https"]), Some("https"));
        assert_eq!(scheme(&["javascript"]), None);
        assert_eq!(scheme(&[]), None);
    }
}
