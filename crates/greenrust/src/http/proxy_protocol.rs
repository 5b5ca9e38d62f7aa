//! HAProxy's PROXY protocol, versions 1 and 2: a header that a load balancer sends before the first byte of the client's.
//!
//! The source is [its specification](https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt), sections 2.1 (the line
//! of text) and 2.2 (the binary header). TLV fields of version 2 are skipped.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, with its CRLF (section 2.1).
const LINE_BYTES: usize = 107;

/// The shortest line of version 1: `PROXY UNKNOWN`.
const SHORTEST_LINE_BYTES: usize = 15;

/// The longest header of version 2 that is taken, bytes: addresses and what balancers add, certificates included.
const BINARY_BYTES: usize = 16 + 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How far [`parse_proxy_header`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// At least this many more bytes are needed.
    Incomplete(usize),
    /// The header is whole.
    Complete {
        /// Its length in bytes.
        consumed: usize,
        /// The address of the client. None: the balancer speaks for itself, or the client has none.
        source: Option<SocketAddr>,
    },
}

/// Parses the header at the begin of `bytes`.
///
/// # Errors
///
/// What is wrong; the connection must then be closed, as nothing else may precede the header.
pub fn parse_proxy_header(bytes: &[u8]) -> Result<ProxyHeader, &'static str> {
    if bytes.is_empty() {
        return Ok(ProxyHeader::Incomplete(SHORTEST_LINE_BYTES));
    }
    let start = &bytes[..bytes.len().min(SIGNATURE.len())];
    if SIGNATURE.starts_with(start) {
        return parse_binary(bytes);
    }
    if !b"PROXY ".starts_with(&start[..start.len().min(6)]) {
        return Err("no PROXY protocol header");
    }
    let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE_BYTES)]) else {
        return if bytes.len() < LINE_BYTES {
            Ok(ProxyHeader::Incomplete(SHORTEST_LINE_BYTES.saturating_sub(bytes.len()).max(1)))
        } else {
            Err("PROXY line too long")
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("PROXY line does not end by CRLF")?;
    let line = std::str::from_utf8(line).map_err(|_| "malformed PROXY line")?;
    Ok(ProxyHeader::Complete { consumed: end + 1, source: parse_line(line)? })
}

fn parse_line(line: &str) -> Result<Option<SocketAddr>, &'static str> {
    const WRONG: &str = "malformed PROXY line";
    let mut parts = line.split(' ').skip(1);
    let family = parts.next().ok_or(WRONG)?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let source: IpAddr = parts.next().and_then(|part| part.parse().ok()).ok_or(WRONG)?;
    let destination: IpAddr = parts.next().and_then(|part| part.parse().ok()).ok_or(WRONG)?;
    let port = |part: Option<&str>| -> Result<u16, &'static str> {
        let part = part.filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())).ok_or(WRONG)?;
        part.parse().map_err(|_| WRONG)
    };
    let source_port = port(parts.next())?;
    port(parts.next())?;
    let is_right = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    if !is_right || parts.next().is_some() {
        return Err(WRONG);
    }
    Ok(Some(SocketAddr::new(source, source_port)))
}

fn parse_binary(bytes: &[u8]) -> Result<ProxyHeader, &'static str> {
    let Some((head, rest)) = bytes.split_at_checked(16) else {
        return Ok(ProxyHeader::Incomplete(16 - bytes.len()));
    };
    let (command, family) = (head[12], head[13]);
    if command >> 4 != 2 {
        return Err("unknown version of the PROXY protocol");
    }
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if 16 + length > BINARY_BYTES {
        return Err("PROXY header too long");
    }
    let Some(body) = rest.get(..length) else { return Ok(ProxyHeader::Incomplete(length - rest.len())) };
    let source = match (command & 0xf, family) {
        // LOCAL: the balancer's own health check.
        (0, _) => None,
        // Over TCP, or UDP.
        (1, 0x11 | 0x12) => {
            let body: &[u8; 12] = body.first_chunk().ok_or("PROXY header too short for its addresses")?;
            let address = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            Some(SocketAddr::new(address.into(), u16::from_be_bytes([body[8], body[9]])))
        }
        (1, 0x21 | 0x22) => {
            let body: &[u8; 36] = body.first_chunk().ok_or("PROXY header too short for its addresses")?;
            let mut address = [0; 16];
            address.copy_from_slice(&body[..16]);
            Some(SocketAddr::new(Ipv6Addr::from(address).into(), u16::from_be_bytes([body[32], body[33]])))
        }
        // Unspecified, and Unix sockets.
        (1, 0x00 | 0x31 | 0x32) => None,
        (1, _) => return Err("unknown address family in the PROXY header"),
        _ => return Err("unknown command in the PROXY header"),
    };
    Ok(ProxyHeader::Complete { consumed: 16 + length, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Result<ProxyHeader, &'static str> {
        for length in 0..bytes.len() {
            match parse_proxy_header(&bytes[..length])? {
                ProxyHeader::Incomplete(more) => assert!(more > 0 && length + more <= bytes.len()),
                ProxyHeader::Complete { .. } => panic!("complete after {length} bytes"),
            }
        }
        parse_proxy_header(bytes)
    }

    fn complete(bytes: &[u8], source: Option<&str>) {
        let expected =
            ProxyHeader::Complete { consumed: bytes.len(), source: source.map(|text| text.parse().unwrap()) };
        assert_eq!(whole(bytes), Ok(expected), "{bytes:?}");
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn lines_of_version_1() {
        complete(b"PROXY TCP4 192.0.2.7 192.0.2.8 65535 80\r\n", Some("192.0.2.7:65535"));
        complete(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some("[2001:db8::1]:1"));
        complete(b"PROXY UNKNOWN\r\n", None);
        complete(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None);
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 7, 192, 0, 2, 8, 0x12, 0x34, 0, 80];
        complete(&binary(0x21, 0x11, &v4), Some("192.0.2.7:4660"));
        complete(&binary(0x21, 0x11, &[&v4[..], b"\x04\0\x01x"].concat()), Some("192.0.2.7:4660"));
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 9;
        complete(&binary(0x21, 0x21, &v6), Some("[::1]:9"));
        complete(&binary(0x20, 0x00, &[]), None);
        complete(&binary(0x21, 0x00, &[]), None);
        complete(&binary(0x21, 0x31, &[0; 216]), None);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100], b"\r\n"].concat();
        for wrong in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.8 1 65536\r\n",
            b"PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n",
            b"PROXY TCP4 nonsense 192.0.2.8 1 2\r\n",
            b"PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n",
            &long,
            &binary(0x11, 0x11, &[0; 12]),
            &binary(0x22, 0x11, &[0; 12]),
            &binary(0x21, 0x41, &[0; 12]),
            &binary(0x21, 0x11, &[0; 11]),
            &binary(0x21, 0x21, &[0; 35]),
            &binary(0x21, 0x11, &[0; 5000]),
        ] {
            assert!(parse_proxy_header(wrong).is_err(), "{wrong:?}");
        }
    }
}
