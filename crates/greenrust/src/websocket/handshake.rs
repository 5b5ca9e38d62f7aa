//! The opening handshake, server's side (RFC 6455 section 4.2), and the choice among the extensions offered (section 9.1).

#![forbid(unsafe_code)]

use std::fmt;

use tungstenite::handshake::derive_accept_key;

use super::connection::{Connection, Options};
use super::deflate::DeflateParameters;
use crate::http::is_token;

/// What the handshake looks at of a request, as sent.
///
/// A field that came several times is given joined by commas, as RFC 9110 section 5.3 has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandshakeRequest<'a> {
    /// The request method.
    pub method: &'a [u8],
    /// True for HTTP/1.1.
    pub is_http11: bool,
    /// `Upgrade`.
    pub upgrade: Option<&'a [u8]>,
    /// `Connection`.
    pub connection: Option<&'a [u8]>,
    /// `Sec-WebSocket-Key`.
    pub key: Option<&'a [u8]>,
    /// `Sec-WebSocket-Version`.
    pub version: Option<&'a [u8]>,
    /// `Sec-WebSocket-Extensions`.
    pub extensions: Option<&'a [u8]>,
    /// `Sec-WebSocket-Protocol`.
    pub protocols: Option<&'a [u8]>,
}

/// Why a request opens no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It does not ask for one: no `Upgrade: websocket` with `Connection: upgrade` (RFC 6455 section 4.2.1, 3 and 4).
    NoUpgrade,
    /// The method is not GET, or the version of HTTP is not 1.1 (section 4.2.1, 1).
    Method,
    /// `Sec-WebSocket-Version` is not 13 (section 4.2.1, 6, and section 4.4).
    Version,
    /// `Sec-WebSocket-Key` is not 16 bytes in base64 (section 4.2.1, 5).
    Key,
    /// The application chose a subprotocol that was not offered (section 4.2.2, 5).
    Protocol,
}

impl HandshakeError {
    /// Returns the status code with which to answer; 426 wants the field `Sec-WebSocket-Version: 13` besides.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoUpgrade | Self::Version => 426,
            Self::Method | Self::Key => 400,
            Self::Protocol => 500,
        }
    }

    /// Returns one phrase that says what is wrong, fit for a log or a response body.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoUpgrade => "the request does not ask for a WebSocket",
            Self::Method => "a WebSocket is opened by GET in HTTP/1.1",
            Self::Version => "Sec-WebSocket-Version is not 13",
            Self::Key => "Sec-WebSocket-Key is not 16 bytes in base64",
            Self::Protocol => "the subprotocol chosen was not offered",
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for HandshakeError {}

/// A request for a WebSocket that can be granted.
#[derive(Clone, Debug)]
pub struct Handshake {
    accept: String,
    protocols: Vec<String>,
    deflate: Option<DeflateParameters>,
    options: Options,
}

impl Handshake {
    /// Checks a request, and chooses among the extensions that it offers.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the request.
    ///
    /// # Examples
    ///
    /// ```
    /// use greenrust::websocket::{Handshake, HandshakeRequest, Options};
    ///
    /// let request = HandshakeRequest {
    ///     method: b"GET",
    ///     is_http11: true,
    ///     upgrade: Some(b"websocket"),
    ///     connection: Some(b"keep-alive, Upgrade"),
    ///     key: Some(b"dGhlIHNhbXBsZSBub25jZQ=="),
    ///     version: Some(b"13"),
    ///     ..HandshakeRequest::default()
    /// };
    /// let handshake = Handshake::new(&request, Options::default()).unwrap();
    /// let mut response = Vec::new();
    /// handshake.write_response(None, &mut response).unwrap();
    /// assert!(String::from_utf8(response).unwrap().contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    /// ```
    pub fn new(request: &HandshakeRequest<'_>, options: Options) -> Result<Self, HandshakeError> {
        let has = |value: Option<&[u8]>, wanted: &[u8]| {
            elements(value.unwrap_or_default(), b',').any(|element| element.eq_ignore_ascii_case(wanted))
        };
        if !has(request.upgrade, b"websocket") || !has(request.connection, b"upgrade") {
            return Err(HandshakeError::NoUpgrade);
        }
        if request.method != b"GET" || !request.is_http11 {
            return Err(HandshakeError::Method);
        }
        if request.version.map(<[u8]>::trim_ascii) != Some(b"13") {
            return Err(HandshakeError::Version);
        }
        let key = request.key.map(<[u8]>::trim_ascii).filter(|key| is_nonce(key)).ok_or(HandshakeError::Key)?;
        let offers = request.extensions.filter(|_| options.compresses).unwrap_or_default();
        let deflate = elements(offers, b',').find_map(|offer| DeflateParameters::agree_to(offer, &options));
        // Section 4.1: a protocol's name is a token. What is none could not be answered.
        let protocols = elements(request.protocols.unwrap_or_default(), b',')
            .filter(|protocol| is_token(protocol))
            .filter_map(|protocol| std::str::from_utf8(protocol).ok().map(str::to_owned))
            .collect();
        Ok(Self { accept: derive_accept_key(key), protocols, deflate, options })
    }

    /// Returns the subprotocols offered, the client's favourite first.
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// Returns what was agreed of compression, if anything.
    #[must_use]
    pub fn deflate(&self) -> Option<DeflateParameters> {
        self.deflate
    }

    /// Appends the response's head: status 101, and the fields that the handshake needs.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Protocol`] if `protocol` was not offered; nothing is appended then.
    pub fn write_response(&self, protocol: Option<&str>, output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        if protocol.is_some_and(|chosen| !self.protocols.iter().any(|offered| offered == chosen)) {
            return Err(HandshakeError::Protocol);
        }
        output.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                output.extend_from_slice(part.as_bytes());
            }
        };
        field("Sec-WebSocket-Accept", &self.accept);
        if let Some(protocol) = protocol {
            field("Sec-WebSocket-Protocol", protocol);
        }
        if let Some(deflate) = &self.deflate {
            field("Sec-WebSocket-Extensions", &deflate.to_string());
        }
        output.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Returns the connection that begins behind the response.
    #[must_use]
    pub fn into_connection(self) -> Connection {
        Connection::new(self.options, self.deflate)
    }
}

/// The non-empty elements of a list, trimmed (RFC 9110 section 5.6.1). Quoted strings, which no value here has, may hold
/// separators: a value with one is then not understood, as it should.
pub(super) fn elements(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    list.split(move |&byte| byte == separator).map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether a key is base64 of 16 bytes: 22 digits and two signs of equality.
fn is_nonce(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> HandshakeRequest<'static> {
        HandshakeRequest {
            method: b"GET",
            is_http11: true,
            upgrade: Some(b"websocket"),
            connection: Some(b"Upgrade"),
            key: Some(b"dGhlIHNhbXBsZSBub25jZQ=="),
            version: Some(b"13"),
            ..HandshakeRequest::default()
        }
    }

    fn outcome(request: HandshakeRequest<'_>) -> Result<(), HandshakeError> {
        Handshake::new(&request, Options::default()).map(|_| ())
    }

    #[test]
    fn requests_are_granted_or_refused_as_section_4_2_1_says() {
        use HandshakeError::*;
        let good = request();
        assert_eq!(outcome(good), Ok(()));
        assert_eq!(outcome(HandshakeRequest { upgrade: Some(b"WebSocket"), ..good }), Ok(()));
        assert_eq!(outcome(HandshakeRequest { connection: Some(b"keep-alive, Upgrade"), ..good }), Ok(()));
        assert_eq!(outcome(HandshakeRequest { upgrade: None, ..good }), Err(NoUpgrade));
        assert_eq!(outcome(HandshakeRequest { upgrade: Some(b"h2c"), ..good }), Err(NoUpgrade));
        assert_eq!(outcome(HandshakeRequest { connection: Some(b"keep-alive"), ..good }), Err(NoUpgrade));
        assert_eq!(outcome(HandshakeRequest { method: b"POST", ..good }), Err(Method));
        assert_eq!(outcome(HandshakeRequest { is_http11: false, ..good }), Err(Method));
        assert_eq!(outcome(HandshakeRequest { version: Some(b"8"), ..good }), Err(Version));
        assert_eq!(outcome(HandshakeRequest { version: None, ..good }), Err(Version));
        for key in [&b""[..], b"dGhlIHNhbXBsZSBub25jZQ=", b"dGhlIHNhbXBsZSBub25jZQ!=", b"dGhlIHNhbXBsZSBub25jZQAA=="] {
            assert_eq!(outcome(HandshakeRequest { key: Some(key), ..good }), Err(Key), "{key:?}");
        }
        assert_eq!(outcome(HandshakeRequest { key: None, ..good }), Err(Key));
    }

    #[test]
    fn subprotocol_must_have_been_offered() {
        let handshake =
            Handshake::new(&HandshakeRequest { protocols: Some(b"chat, superchat"), ..request() }, Options::default());
        let handshake = handshake.unwrap();
        assert_eq!(handshake.protocols(), ["chat", "superchat"]);
        let mut output = Vec::new();
        assert_eq!(handshake.write_response(Some("other"), &mut output), Err(HandshakeError::Protocol));
        assert!(output.is_empty());
        handshake.write_response(Some("superchat"), &mut output).unwrap();
        assert!(String::from_utf8(output).unwrap().contains("\r\nSec-WebSocket-Protocol: superchat\r\n"));
    }

    #[test]
    fn protocol_that_is_no_token_is_not_offered() {
        let offers = b"chat, a b, c\td, e\0f, \"g\", h/1, \xc3\xa9, \xff, v1.json";
        let request = HandshakeRequest { protocols: Some(offers), ..request() };
        assert_eq!(Handshake::new(&request, Options::default()).unwrap().protocols(), ["chat", "v1.json"]);
    }

    #[test]
    fn extension_is_chosen_among_the_offers() {
        let chosen = |offers: &'static [u8], options: Options| {
            let request = HandshakeRequest { extensions: Some(offers), ..request() };
            Handshake::new(&request, options).unwrap().deflate().map(|deflate| deflate.to_string())
        };
        let compresses = Options { window_bits: 15, ..Options::default() };
        for (offers, expected) in [
            (&b"permessage-deflate"[..], Some("permessage-deflate")),
            (b"permessage-deflate; client_max_window_bits", Some("permessage-deflate")),
            (b"permessage-deflate; server_max_window_bits=10", Some("permessage-deflate; server_max_window_bits=10")),
            (
                b"permessage-deflate; server_max_window_bits=\"10\"",
                Some("permessage-deflate; server_max_window_bits=10"),
            ),
            (b"permessage-deflate; server_no_context_takeover", Some("permessage-deflate; server_no_context_takeover")),
            (b"permessage-deflate; client_no_context_takeover", Some("permessage-deflate; client_no_context_takeover")),
            // zlib cannot compress with a window of 256 bytes, so that offer is declined for the next.
            (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", Some("permessage-deflate")),
            // RFC 7692 section 7.1: each of these makes an offer invalid.
            (b"permessage-deflate; server_max_window_bits", None),
            (b"permessage-deflate; server_max_window_bits=16", None),
            (b"permessage-deflate; server_max_window_bits=010", None),
            (b"permessage-deflate; server_no_context_takeover=1", None),
            (b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            (b"permessage-deflate; unknown", None),
            (b"permessage-bzip2", None),
            (b"", None),
        ] {
            let text = String::from_utf8_lossy(offers);
            assert_eq!(chosen(offers, compresses.clone()).as_deref(), expected, "{text}");
        }
        let small = Options { window_bits: 12, ..Options::default() };
        assert_eq!(
            chosen(b"permessage-deflate; client_max_window_bits", small.clone()).as_deref(),
            Some("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12")
        );
        assert_eq!(
            chosen(b"permessage-deflate", small).as_deref(),
            Some("permessage-deflate; server_max_window_bits=12")
        );
        let plain = Options { compresses: false, ..Options::default() };
        assert_eq!(chosen(b"permessage-deflate", plain), None);
    }
}
