//! The head of a response, the framing of its body, and the fate of the connection.
//!
//! [`ResponseEncoder`] appends a head to a `Vec<u8>` that the caller uses again and again. A head is written whole or
//! not at all: what an error or a forgotten [`finish`](ResponseEncoder::finish) leaves unfinished is taken back when
//! the encoder is dropped, so that no application can split a response by a line end in a field value (CWE-113).
//!
//! The functions beside it decide what RFC 9110 and RFC 9112 leave to no one's taste: which responses have a body,
//! how its end is told, and whether another request may follow. Which fields a response has is the caller's affair.

#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroUsize;

use super::request::Version;
use super::syntax::{is_field_value, is_token};

/// What follows the data of a chunk (RFC 9112 section 7.1).
pub const CHUNK_END: &[u8; 2] = b"\r\n";

/// The last chunk, without trailers (RFC 9112 section 7.1).
pub const LAST_CHUNK: &[u8; 5] = b"0\r\n\r\n";

/// Why a response head cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseError {
    /// The status code is not in 100..=999, or the status is not three digits and perhaps a reason phrase (RFC 9112
    /// section 4).
    Status,
    /// A field name is not a token (RFC 9110 section 5.1).
    HeaderName,
    /// A field value has a line end, NUL or another control character (RFC 9110 section 5.5).
    HeaderValue,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Status => "malformed response status",
            Self::HeaderName => "malformed field name in a response",
            Self::HeaderValue => "control character in a field value of a response",
        })
    }
}

impl std::error::Error for ResponseError {}

/// Writes one response head.
///
/// # Examples
///
/// ```
/// use greenrust::http::{ResponseEncoder, Version};
///
/// let mut out = Vec::new();
/// let mut head = ResponseEncoder::new(&mut out, Version::Http11, 200)?;
/// head.header(b"Content-Type", b"text/plain")?.content_length(5);
/// head.finish();
/// assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n");
///
/// out.clear();
/// let mut head = ResponseEncoder::new(&mut out, Version::Http11, 200)?;
/// assert!(head.header(b"Location", b"/\r\nSet-Cookie: a=b").is_err());
/// drop(head);
/// assert!(out.is_empty());
/// # Ok::<(), greenrust::http::ResponseError>(())
/// ```
#[derive(Debug)]
pub struct ResponseEncoder<'a> {
    out: &'a mut Vec<u8>,
    /// Where the head begins, to take it back.
    start: usize,
    finished: bool,
}

impl<'a> ResponseEncoder<'a> {
    /// Begins a head with the registered reason phrase of `code`, or none.
    ///
    /// # Errors
    ///
    /// [`ResponseError::Status`] if `code` does not have three digits.
    pub fn new(out: &'a mut Vec<u8>, version: Version, code: u16) -> Result<Self, ResponseError> {
        if !(100..=999).contains(&code) {
            return Err(ResponseError::Status);
        }
        let mut digits = itoa::Buffer::new();
        Ok(Self::begin(out, version, digits.format(code).as_bytes(), reason_phrase(code).as_bytes()))
    }

    /// Begins a head with a status as WSGI has it: `b"200 OK"`, `b"299 "` or `b"299"`.
    ///
    /// # Errors
    ///
    /// [`ResponseError::Status`] if it is not three digits, the first not zero, with or without a space and a reason
    /// phrase free of control characters.
    pub fn with_status(out: &'a mut Vec<u8>, version: Version, status: &[u8]) -> Result<Self, ResponseError> {
        // RFC 9112 section 4: status-line = HTTP-version SP status-code SP [ reason-phrase ].
        let (code, reason) = match status {
            [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => (status, &b""[..]),
            [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', reason @ ..] if is_field_value(reason) => {
                (&status[..3], reason)
            }
            _ => return Err(ResponseError::Status),
        };
        Ok(Self::begin(out, version, code, reason))
    }

    fn begin(out: &'a mut Vec<u8>, version: Version, code: &[u8], reason: &[u8]) -> Self {
        let start = out.len();
        out.extend_from_slice(version.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(code);
        // RFC 9112 section 4: this space is sent even if there is no reason phrase.
        out.push(b' ');
        out.extend_from_slice(reason);
        out.extend_from_slice(b"\r\n");
        Self { out, start, finished: false }
    }

    /// Appends a field.
    ///
    /// # Errors
    ///
    /// [`ResponseError::HeaderName`] and [`ResponseError::HeaderValue`]; the field is then not written.
    #[inline]
    pub fn header(&mut self, name: &[u8], value: &[u8]) -> Result<&mut Self, ResponseError> {
        // RFC 9110 section 5.1: field-name = token.
        if !is_token(name) {
            return Err(ResponseError::HeaderName);
        }
        // RFC 9110 section 5.5: CR, LF and NUL in a value are dangerous; other control characters are invalid too.
        if !is_field_value(value) {
            return Err(ResponseError::HeaderValue);
        }
        self.append(name, value);
        Ok(self)
    }

    /// Appends `Content-Length`, in bytes. See [`allows_content_length`].
    #[inline]
    pub fn content_length(&mut self, length: u64) -> &mut Self {
        self.append(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        self
    }

    /// Appends `Transfer-Encoding: chunked`.
    #[inline]
    pub fn chunked(&mut self) -> &mut Self {
        self.append(b"Transfer-Encoding", b"chunked");
        self
    }

    /// Appends `Date`, whose value a [`DateCache`](super::DateCache) has.
    #[inline]
    pub fn date(&mut self, value: &[u8; 29]) -> &mut Self {
        debug_assert!(is_field_value(value));
        self.append(b"Date", value);
        self
    }

    /// Appends the `Connection` field that tells the client about `persistent`, if one is needed.
    #[inline]
    pub fn connection(&mut self, request_version: Version, persistent: bool) -> &mut Self {
        if let Some(option) = connection_field(request_version, persistent) {
            self.append(b"Connection", option.as_bytes());
        }
        self
    }

    /// Ends the head by its empty line. Without it nothing is written.
    #[inline]
    pub fn finish(mut self) {
        self.out.extend_from_slice(b"\r\n");
        self.finished = true;
    }

    #[inline]
    fn append(&mut self, name: &[u8], value: &[u8]) {
        self.out.reserve(name.len() + value.len() + 4);
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }
}

impl Drop for ResponseEncoder<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// Appends the line before the data of a chunk: its size in hexadecimal digits (RFC 9112 section 7.1).
///
/// The size is not zero, for that would end the body: data without bytes is no chunk. [`CHUNK_END`] follows the data.
#[inline]
pub fn encode_chunk_head(out: &mut Vec<u8>, size: NonZeroUsize) {
    let size = size.get();
    let mut shift = (usize::BITS - 1 - size.leading_zeros()) / 4 * 4;
    loop {
        out.push(b"0123456789abcdef"[size >> shift & 15]);
        if shift == 0 {
            break;
        }
        shift -= 4;
    }
    out.extend_from_slice(b"\r\n");
}

/// How the end of a response's body is told (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBodyKind {
    /// There is no body, whatever the fields say.
    None,
    /// The body has the length that `Content-Length` says.
    Length(u64),
    /// The body is sent in chunks: `Transfer-Encoding: chunked` is to be sent.
    Chunked,
    /// The body ends where the connection does.
    UntilClose,
}

/// Returns whether the response to `method` with this status code has no body: to HEAD; 1xx, 204 and 304; 2xx to
/// CONNECT (RFC 9112 section 6.3, rules 1 and 2).
#[must_use]
#[inline]
pub fn forbids_body(method: &[u8], code: u16) -> bool {
    matches!(code, 100..=199 | 204 | 304) || method == b"HEAD" || (method == b"CONNECT" && matches!(code, 200..=299))
}

/// Returns whether the response may have `Content-Length`: not 1xx and 204, nor 2xx to CONNECT (RFC 9110 section
/// 8.6). The same responses may not have `Transfer-Encoding` (RFC 9112 section 6.1).
#[must_use]
#[inline]
pub fn allows_content_length(method: &[u8], code: u16) -> bool {
    !(matches!(code, 100..=199 | 204) || (method == b"CONNECT" && matches!(code, 200..=299)))
}

/// Decides how to frame the body of a response, given the length if it is known before the head is sent.
///
/// A body of unknown length is chunked for HTTP/1.1 and ends with the connection for HTTP/1.0, which knows no chunks
/// (RFC 9112 section 6.1).
#[must_use]
#[inline]
pub fn response_body_kind(
    method: &[u8],
    request_version: Version,
    code: u16,
    content_length: Option<u64>,
) -> ResponseBodyKind {
    match content_length {
        _ if forbids_body(method, code) => ResponseBodyKind::None,
        Some(length) => ResponseBodyKind::Length(length),
        None if request_version == Version::Http11 => ResponseBodyKind::Chunked,
        None => ResponseBodyKind::UntilClose,
    }
}

/// Decides whether the connection may carry another request (RFC 9112 section 9.3).
///
/// * `request_wants` is [`RequestHead::wants_keep_alive`](super::RequestHead::wants_keep_alive).
/// * `response_closes` is whether the response has `Connection: close`, or the server stops.
/// * `body` is how the response is framed; one that ends with the connection needs its end.
/// * `request_body_finished` is whether the whole request body is read or will be: else its rest would be taken for a
///   request.
#[must_use]
#[inline]
pub fn keeps_alive(
    request_wants: bool,
    response_closes: bool,
    body: ResponseBodyKind,
    request_body_finished: bool,
) -> bool {
    request_wants && !response_closes && request_body_finished && body != ResponseBodyKind::UntilClose
}

/// Returns the `Connection` option that the response needs: `close` where the client may count on more, `keep-alive`
/// where a client of HTTP/1.0 asked for it (RFC 9112 sections 9.6 and 9.3), else none.
#[must_use]
#[inline]
pub fn connection_field(request_version: Version, persistent: bool) -> Option<&'static str> {
    match (request_version, persistent) {
        (_, false) => Some("close"),
        (Version::Http10, true) => Some("keep-alive"),
        (Version::Http11, true) => None,
    }
}

/// Returns the reason phrase that the IANA registry of status codes gives for `code`, or the empty string.
#[must_use]
pub const fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_line_has_version_code_and_phrase() {
        let line = |version, code| {
            let mut out = Vec::new();
            ResponseEncoder::new(&mut out, version, code).map(ResponseEncoder::finish)?;
            Ok(String::from_utf8(out).unwrap())
        };
        assert_eq!(line(Version::Http11, 200), Ok("HTTP/1.1 200 OK\r\n\r\n".into()));
        assert_eq!(line(Version::Http10, 404), Ok("HTTP/1.0 404 Not Found\r\n\r\n".into()));
        assert_eq!(line(Version::Http11, 299), Ok("HTTP/1.1 299 \r\n\r\n".into()));
        for code in [0, 99, 1000, u16::MAX] {
            assert_eq!(line(Version::Http11, code), Err(ResponseError::Status));
        }
    }

    #[test]
    fn status_of_wsgi_is_taken_as_it_is() {
        let line = |status: &[u8]| {
            let mut out = Vec::new();
            ResponseEncoder::with_status(&mut out, Version::Http11, status).map(ResponseEncoder::finish)?;
            Ok(out)
        };
        assert_eq!(line(b"200 Fine"), Ok(b"HTTP/1.1 200 Fine\r\n\r\n".to_vec()));
        assert_eq!(line(b"200 \xe9"), Ok(b"HTTP/1.1 200 \xe9\r\n\r\n".to_vec()));
        assert_eq!(line(b"200 "), Ok(b"HTTP/1.1 200 \r\n\r\n".to_vec()));
        assert_eq!(line(b"200"), Ok(b"HTTP/1.1 200 \r\n\r\n".to_vec()));
        for wrong in
            [&b""[..], b"OK", b"20", b"20 OK", b"2000 OK", b"099 OK", b"200OK", b"200 O\rK", b"200 O\nK", b"200 O\0K"]
        {
            assert_eq!(line(wrong), Err(ResponseError::Status), "{wrong:?}");
        }
    }

    #[test]
    fn line_ends_and_controls_in_fields_are_refused() {
        let mut out = Vec::new();
        let mut head = ResponseEncoder::new(&mut out, Version::Http11, 200).unwrap();
        for name in [&b""[..], b"a b", b"a:", b"a\r\n", b"a\n", b"a\0", b" a", b"\xe9"] {
            assert_eq!(head.header(name, b"v").unwrap_err(), ResponseError::HeaderName, "{name:?}");
        }
        for value in [&b"a\r\nb: c"[..], b"a\rb", b"a\nb", b"a\0b", b"\x0b", b"\x7f", b"\r\n"] {
            assert_eq!(head.header(b"a", value).unwrap_err(), ResponseError::HeaderValue, "{value:?}");
        }
        head.header(b"a", b"").unwrap().header(b"b", b"c\td \xe9").unwrap();
        head.finish();
        assert_eq!(out, b"HTTP/1.1 200 OK\r\na: \r\nb: c\td \xe9\r\n\r\n");
    }

    #[test]
    fn unfinished_head_is_taken_back() {
        let mut out = b"before".to_vec();
        let mut head = ResponseEncoder::new(&mut out, Version::Http11, 200).unwrap();
        head.content_length(1);
        drop(head);
        assert_eq!(out, b"before");
    }

    #[test]
    fn fields_of_framing_are_spelled() {
        let mut out = Vec::new();
        let mut head = ResponseEncoder::new(&mut out, Version::Http11, 200).unwrap();
        head.date(b"Sun, 06 Nov 1994 08:49:37 GMT").content_length(u64::MAX).chunked();
        head.connection(Version::Http11, true).connection(Version::Http10, true).connection(Version::Http11, false);
        head.finish();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 18446744073709551615\r\n\
             Transfer-Encoding: chunked\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn chunk_head_is_the_size_in_hexadecimal() {
        for size in [1, 9, 10, 15, 16, 17, 255, 256, 4096, 65535, 65536, usize::MAX] {
            let mut out = Vec::new();
            encode_chunk_head(&mut out, NonZeroUsize::new(size).unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), format!("{size:x}\r\n"));
        }
    }

    #[test]
    fn some_responses_have_no_body() {
        for (method, code, forbidden, length_allowed) in [
            ("GET", 200, false, true),
            ("HEAD", 200, true, true),
            ("GET", 100, true, false),
            ("GET", 101, true, false),
            ("GET", 199, true, false),
            ("GET", 204, true, false),
            ("GET", 205, false, true),
            ("GET", 304, true, true),
            ("GET", 404, false, true),
            ("CONNECT", 200, true, false),
            ("CONNECT", 404, false, true),
            ("head", 200, false, true),
        ] {
            assert_eq!(forbids_body(method.as_bytes(), code), forbidden, "{method} {code}");
            assert_eq!(allows_content_length(method.as_bytes(), code), length_allowed, "{method} {code}");
        }
    }

    #[test]
    fn body_is_framed_by_length_then_by_version() {
        use ResponseBodyKind::{Chunked, Length, None as NoBody, UntilClose};
        for (method, version, code, length, kind) in [
            ("GET", Version::Http11, 200, Some(5), Length(5)),
            ("GET", Version::Http10, 200, Some(5), Length(5)),
            ("GET", Version::Http11, 200, None, Chunked),
            ("GET", Version::Http10, 200, None, UntilClose),
            ("HEAD", Version::Http10, 200, None, NoBody),
            ("HEAD", Version::Http11, 200, Some(5), NoBody),
            ("GET", Version::Http10, 304, None, NoBody),
            ("GET", Version::Http11, 204, None, NoBody),
        ] {
            assert_eq!(
                response_body_kind(method.as_bytes(), version, code, length),
                kind,
                "{method} {version:?} {code}"
            );
        }
    }

    #[test]
    fn connection_persists_only_if_nothing_speaks_against_it() {
        use ResponseBodyKind::{Chunked, Length, None as NoBody, UntilClose};
        for kind in [Chunked, Length(1), NoBody] {
            assert!(keeps_alive(true, false, kind, true));
        }
        assert!(!keeps_alive(false, false, Length(1), true));
        assert!(!keeps_alive(true, true, Length(1), true));
        assert!(!keeps_alive(true, false, UntilClose, true));
        assert!(!keeps_alive(true, false, Length(1), false));
    }

    #[test]
    fn connection_field_is_sent_where_the_version_does_not_say_it() {
        assert_eq!(connection_field(Version::Http11, true), None);
        assert_eq!(connection_field(Version::Http11, false), Some("close"));
        assert_eq!(connection_field(Version::Http10, true), Some("keep-alive"));
        assert_eq!(connection_field(Version::Http10, false), Some("close"));
    }
}
