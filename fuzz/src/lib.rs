//! What must hold for whatever bytes a stranger sends: one function for each fuzz target.
//!
//! The binaries beside this file give them to libFuzzer; `scripts/fuzz` builds and runs these.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use greenrust::http::{
    BodyDecoder, BodyError, BodyKind, ParseStatus, ProxyHeader, RequestError, RequestHead, RequestLimits,
    RequestParser, TrustedProxies, forwarded_scheme, parse_proxy_header,
};
use greenrust::resolver::message::{self, Kind, LONGEST_CHAIN, Outcome, Question, Reply, is_host_name};
use greenrust::websocket::{Connection, DeflateParameters, Event, Handshake, HandshakeRequest, Options};

/// Takes the first byte as the size of the pieces in which the others come.
fn pieces(input: &[u8]) -> (usize, &[u8]) {
    match input.split_first() {
        Some((&step, bytes)) => (usize::from(step).max(1), bytes),
        None => (1, input),
    }
}

/// Parses `bytes` as reads of `step` bytes would bring them.
fn parse(bytes: &[u8], step: usize) -> (RequestParser, Result<ParseStatus, RequestError>) {
    let mut parser = RequestParser::default();
    let status = parse_by(&mut parser, bytes, step);
    (parser, status)
}

/// Does so by a parser that may have seen other requests.
fn parse_by(parser: &mut RequestParser, bytes: &[u8], step: usize) -> Result<ParseStatus, RequestError> {
    let mut end: usize = 0;
    loop {
        end = end.saturating_add(step).min(bytes.len());
        let status = parser.parse(&bytes[..end]);
        if status != Ok(ParseStatus::Incomplete) || end == bytes.len() {
            return status;
        }
    }
}

/// Request heads: no input panics, a verdict does not depend on how the bytes are split, and an accepted head has one
/// reading only, also for who gets it from a proxy.
pub fn request_head(input: &[u8]) {
    let (step, bytes) = pieces(input);
    let (parser, status) = parse(bytes, usize::MAX);
    assert_eq!(status, parse(bytes, step).1);
    let Ok(ParseStatus::Complete { consumed }) = status else {
        return;
    };
    let head = parser.head(bytes);
    assert!(!head.method().is_empty() && !head.target().is_empty());
    let _ = (head.path_and_query(), head.authority(), head.upgrade());
    for header in head.headers() {
        assert!(!header.name.is_empty());
        assert!(!header.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    let lines = bytes[..consumed].trim_ascii_start();
    let line_ends = lines.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!(lines.iter().filter(|&&byte| byte == b'\n').count(), line_ends);
    assert_eq!(head.headers().len(), line_ends - 2);
    // The parser has seen these fields now: that changes no verdict on them, nor on what comes next.
    for (input, step) in [(bytes, usize::MAX), (bytes, step), (&bytes[consumed..], usize::MAX)] {
        let mut after = parser.clone();
        assert_eq!(parse_by(&mut after, input, step), parse(input, step).1);
    }
    for joins in [false, true] {
        let written = rewrite(head, joins);
        let (parser, status) = parse(&written, usize::MAX);
        assert_eq!(status, Ok(ParseStatus::Complete { consumed: written.len() }));
        let again = parser.head(&written);
        assert_eq!((again.method(), again.target(), again.version()), (head.method(), head.target(), head.version()));
        assert_eq!((again.body_kind(), again.wants_keep_alive()), (head.body_kind(), head.wants_keep_alive()));
    }
}

/// Writes a head as a proxy passes it on, which may join fields of one name (RFC 9110 section 5.3). It must not get another
/// meaning by that.
fn rewrite(head: RequestHead<'_>, joins: bool) -> Vec<u8> {
    let mut written = [head.method(), head.target(), head.version().as_str().as_bytes()].join(&b' ');
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for header in head.headers() {
        let name = header.name.to_ascii_lowercase();
        match fields.iter_mut().find(|(known, _)| joins && *known == name) {
            Some((_, value)) => *value = [&value[..], &b", "[..], header.value].concat(),
            None => fields.push((name, header.value.to_vec())),
        }
    }
    for (name, value) in fields {
        written.extend_from_slice(&[&b"\r\n"[..], &name, b":", &value].concat());
    }
    written.extend_from_slice(b"\r\n\r\n");
    written
}

/// Decodes `bytes` in pieces of `step` bytes; returns the data and where the body ends.
fn decode(bytes: &[u8], step: usize, max_bytes: u64) -> Result<(Vec<u8>, usize), BodyError> {
    let mut decoder = BodyDecoder::new(BodyKind::Chunked, Some(max_bytes))?;
    let mut data = Vec::new();
    let mut position: usize = 0;
    while position < bytes.len() && !decoder.is_finished() {
        let piece = &bytes[position..position.saturating_add(step).min(bytes.len())];
        let decoded = decoder.decode(piece)?;
        assert!(decoded.consumed > 0);
        data.extend_from_slice(&piece[decoded.data]);
        position += decoded.consumed;
    }
    decoder.end_of_stream()?;
    Ok((data, position))
}

/// Chunked bodies: no input panics, each call gets on, and neither data nor verdict depends on how the bytes are split.
pub fn chunked_body(input: &[u8]) {
    let (step, bytes) = pieces(input);
    let (limit, bytes) = bytes.split_first().map_or((0, bytes), |(&limit, bytes)| (u64::from(limit) * 16, bytes));
    let whole = decode(bytes, usize::MAX, limit);
    assert_eq!(whole, decode(bytes, step, limit));
    if let Ok((data, end)) = whole {
        assert!(data.len() as u64 <= limit);
        assert!(bytes[..end].ends_with(b"\r\n"));
    }
}

/// What a connection brought.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Request {
        head: Vec<u8>,
        body: Vec<u8>,
        keeps: bool,
    },
    RefusedHead(RequestError),
    RefusedBody(BodyError),
    /// The connection ended in the middle.
    Cut,
}

const LIMITS: RequestLimits =
    RequestLimits { request_line_bytes: 256, header_bytes: 1024, header_count: 16, ..RequestLimits::DEFAULT };

/// Serves a connection whose bytes come in pieces of `step`, as a server does: head, body, head, body...
fn serve(bytes: &[u8], step: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut parser = RequestParser::new(LIMITS);
    let mut buffer = Vec::new();
    let mut arrivals = bytes.chunks(step);
    'requests: loop {
        let consumed = loop {
            match parser.parse(&buffer) {
                Ok(ParseStatus::Complete { consumed }) => break consumed,
                Ok(ParseStatus::Incomplete) => {}
                Err(error) => {
                    seen.push(Seen::RefusedHead(error));
                    return seen;
                }
            }
            match arrivals.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => {
                    if parser.has_partial_head() {
                        seen.push(Seen::Cut);
                    }
                    return seen;
                }
            }
            // A head can't grow beyond its limits: what is buffered is bounded, whatever comes.
            assert!(buffer.len() <= 256 + 1024 + 64 + step);
        };
        let head = parser.head(&buffer);
        let (kind, keeps) = (head.body_kind(), head.wants_keep_alive());
        let head = buffer[..consumed].to_vec();
        buffer.drain(..consumed);
        let mut decoder = match BodyDecoder::new(kind, Some(512)) {
            Ok(decoder) => decoder,
            Err(error) => {
                seen.push(Seen::RefusedBody(error));
                return seen;
            }
        };
        let mut body = Vec::new();
        while !decoder.is_finished() {
            if buffer.is_empty() {
                match arrivals.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => {
                        seen.push(Seen::Cut);
                        return seen;
                    }
                }
            }
            match decoder.decode(&buffer) {
                Ok(decoded) => {
                    assert!(decoded.consumed > 0);
                    body.extend_from_slice(&buffer[decoded.data.clone()]);
                    buffer.drain(..decoded.consumed);
                }
                Err(error) => {
                    seen.push(Seen::RefusedBody(error));
                    return seen;
                }
            }
        }
        assert!(body.len() <= 512);
        seen.push(Seen::Request { head, body, keeps });
        if !keeps {
            break 'requests;
        }
    }
    seen
}

/// Whole connections: the requests that are seen, and the end, do not depend on how the bytes are split: no part of one
/// request can become another one.
pub fn connection(input: &[u8]) {
    let (step, bytes) = pieces(input);
    let whole = serve(bytes, bytes.len().max(1));
    assert_eq!(whole, serve(bytes, step));
    assert_eq!(whole, serve(bytes, 1));
}

/// What comes before a connection, and what proxies say of a client: no input panics; of the PROXY protocol's header no byte
/// behind it is asked for, and the verdict does not depend on how it is split; nobody is believed who is not trusted.
pub fn proxies(input: &[u8]) {
    let (step, bytes) = pieces(input);
    let mut end: usize = 0;
    let read = loop {
        match parse_proxy_header(&bytes[..end]) {
            Ok(ProxyHeader::Incomplete(wanted)) => {
                assert!(wanted > 0);
                // A read brings at most what is wanted.
                end += wanted.min(step);
                if end > bytes.len() {
                    break None;
                }
            }
            verdict => break Some(verdict),
        }
    };
    if let Some(verdict) = read {
        assert_eq!(verdict, parse_proxy_header(bytes));
        if let Ok(ProxyHeader::Complete { consumed, .. }) = verdict {
            assert_eq!(consumed, end);
        }
    }
    let mut trusted = TrustedProxies::default();
    trusted.add("10.0.0.0/8").expect("it is a network");
    let values = || bytes.split(|&byte| byte == b'\n');
    let client = trusted.client(values());
    let _ = forwarded_scheme(values());
    // Who was told by someone that is not trusted is not the client.
    let last = values().next_back().and_then(|value| value.rsplit(|&byte| byte == b',').next());
    let is_trusted = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
    let told = TrustedProxies::default().client(last.into_iter());
    if let Some(told) = told
        && !is_trusted(&told)
    {
        assert_eq!(client, Some(told));
    }
    assert_eq!(told.is_none(), client.is_none());
}

/// The largest message that the fuzzed server takes, in bytes.
const MAX_MESSAGE: usize = 10_000;

/// Returns the events, and whether the client was found to be at fault.
///
/// `step` is how many bytes each read brings.
fn converse(bytes: &[u8], step: usize, deflate: Option<DeflateParameters>) -> (Vec<String>, bool) {
    let options = Options { max_message_size: MAX_MESSAGE, ..Options::default() };
    let mut connection = Connection::new(options, deflate);
    let mut events = Vec::new();
    let mut output = Vec::new();
    let (mut start, mut end) = (0, 0_usize);
    while end < bytes.len() {
        end = end.saturating_add(step).min(bytes.len());
        loop {
            let mut used = 0;
            let received = connection.receive(&bytes[start..end], &mut used, &mut output);
            start += used;
            match received {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let size = match &event {
                        Event::Text(text) => text.len(),
                        Event::Binary(data) => data.len(),
                        Event::Ping(data) | Event::Pong(data) => {
                            assert!(data.len() <= 125);
                            data.len()
                        }
                        Event::Close(_, reason) => reason.len(),
                    };
                    assert!(size <= MAX_MESSAGE);
                    events.push(format!("{event:?}"));
                }
                Err(error) => {
                    // The answer to the fault is a close frame, sent once, and nothing is taken after it.
                    assert!(output.ends_with(error.reason().as_bytes()) || connection.is_closing());
                    return (events, true);
                }
            }
        }
    }
    // No event is answered by more than it took.
    assert!(output.len() <= bytes.len() + 8);
    (events, false)
}

/// A client's bytes after the handshake of a WebSocket: no input panics, nothing grows past its limit, and the events do not
/// depend on how the bytes are split.
pub fn websocket(input: &[u8]) {
    let (step, bytes) = pieces(input);
    let (compresses, bytes) = bytes.split_first().map_or((false, bytes), |(&flag, bytes)| (flag & 1 == 1, bytes));
    let deflate = compresses.then_some(DeflateParameters {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: 12,
        client_max_window_bits: 12,
    });
    let whole = converse(bytes, usize::MAX, deflate);
    assert_eq!(whole, converse(bytes, step, deflate));
}

/// The fields of a WebSocket's handshake, divided by line feeds: no input panics, and what was agreed on is answered by one
/// head that says nothing of the client's own choice, but for a protocol that it offers.
pub fn websocket_handshake(input: &[u8]) {
    let mut fields = input.split(|&byte| byte == b'\n');
    let mut next = || fields.next().filter(|field| !field.is_empty());
    let request = HandshakeRequest {
        method: b"GET",
        is_http11: true,
        upgrade: Some(b"websocket"),
        connection: Some(b"Upgrade"),
        key: Some(next().unwrap_or(b"dGhlIHNhbXBsZSBub25jZQ==")),
        version: Some(next().unwrap_or(b"13")),
        extensions: next(),
        protocols: next(),
    };
    let Ok(handshake) = Handshake::new(&request, Options::default()) else { return };
    assert!(handshake.deflate().is_none() || request.extensions.is_some());
    let protocols = handshake.protocols().iter().map(|protocol| Some(protocol.as_str()));
    for protocol in protocols.chain([None]) {
        let mut response = Vec::new();
        handshake.write_response(protocol, &mut response).expect("it was offered");
        let text = String::from_utf8(response).expect("it is ASCII");
        let lines: Vec<_> = text.split("\r\n").collect();
        let count = 6 + usize::from(protocol.is_some()) + usize::from(handshake.deflate().is_some());
        assert_eq!((lines.len(), lines[0]), (count, "HTTP/1.1 101 Switching Protocols"));
        assert!(!text.replace("\r\n", "").contains(|letter: char| letter.is_control() && letter != '\t'));
    }
}

/// A name server's bytes: no input panics, none that carries another id or repeats another question is believed, and an
/// answer holds host names and addresses of the kind that was asked for only.
pub fn dns_reply(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let (kind, other) = match first % 3 {
        0 => (Kind::A, Kind::Aaaa),
        1 => (Kind::Aaaa, Kind::A),
        _ => (Kind::Ptr, Kind::A),
    };
    let question = match kind {
        Kind::Ptr => Question::reverse([192, 0, 2, 1].into()),
        kind => Question::new("a.test", kind).expect("it is a name"),
    };
    let id = message::id(bytes).unwrap_or(0);
    let reply = message::read(bytes, id, &question);
    assert_eq!(message::read(bytes, id.wrapping_add(1), &question), Reply::Foreign);
    let Reply::Answer(answer) = reply else { return };
    let elsewhere = Question::new("b.test", other).expect("it is a name");
    assert_eq!(message::read(bytes, id, &elsewhere), Reply::Foreign);
    assert!(answer.aliases.len() <= LONGEST_CHAIN);
    assert!(answer.aliases.iter().all(|alias| is_host_name(alias)));
    match &answer.outcome {
        Outcome::Addresses(addresses) => {
            assert!(is_host_name(&answer.name) && !addresses.is_empty() && kind != Kind::Ptr);
            assert!(addresses.iter().all(|address| address.is_ipv4() == (kind == Kind::A)));
        }
        Outcome::Names(names) => {
            assert!(kind == Kind::Ptr && !names.is_empty());
            assert!(names.iter().all(|name| is_host_name(name)));
        }
        Outcome::Alias => assert!(is_host_name(&answer.name)),
        Outcome::NoData | Outcome::NoName => {}
    }
}
