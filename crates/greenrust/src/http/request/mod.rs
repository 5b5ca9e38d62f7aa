//! The head of a request: request line and header fields.
//!
//! [`RequestParser`] belongs to a connection and is used for one request after another. It works in two steps:
//!
//! 1. It looks for the end of the head, line by line. Line ends, folding and the limits are judged here, since this
//!    needs no complete head, and each byte is looked at once however many reads bring it.
//! 2. When the head is whole, `httparse` splits it and judges the characters, and one pass over the fields judges
//!    those that frame the message.
//!
//! Clients on a connection send the same fields again and again. A head that equals the one before behind its target is
//! judged by its method and target alone ([`repeat`]).
//!
//! What is found is kept as positions in the caller's buffer and not as references, so that the caller may keep
//! parser and buffer in one struct and read more bytes into the buffer. [`RequestParser::head`] joins both again:
//!
//! ```text
//! buffer  │ G E T   / a ? b   H T T P / 1 . 1 ␍␊ H o s t :   x ␍␊ ␍␊ │ body or the next request ...
//!         └─method──┴─target──               ─┴─name─  ─value─      └ consumed
//! ```
//!
//! It does not decode the target, join fields of one name, or interpret fields other than those named on
//! [`RequestHead`].

#![forbid(unsafe_code)]

mod error;
mod framing;
mod head;
mod repeat;
mod target;

use std::mem::MaybeUninit;
use std::ops::Range;

use super::body::BodyKind;
use super::syntax::{is_field_name, is_token, is_token_byte, parse_decimal, trim_whitespace};

pub use error::RequestError;
pub use head::{Header, RequestHead};

use framing::{ConnectionOptions, TransferCodings, is_digit_list};
use target::{is_authority, is_request_target};

/// Empty lines accepted before a request line. RFC 9112 section 2.2 wants at least one; old clients sent one or two.
const EMPTY_LINES: usize = 4;

/// Fields for which `httparse` gets room on the stack; a head with more is given room on the heap.
const STACK_HEADERS: usize = 100;

/// How large a head may be. A head at a limit is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of the request line without its line end; beyond it 414. Default 8192 (RFC 9112 section 3 asks servers
    /// for 8000 at least).
    pub request_line_bytes: usize,
    /// Bytes of all header fields with their line ends and the empty line; beyond it 431. Default 65536.
    pub header_bytes: usize,
    /// Number of header fields; beyond it 431. Default 100.
    pub header_count: usize,
    /// Whether an HTTP/1.1 request without `Host` is refused, as RFC 9112 section 3.2 demands. Default true.
    pub requires_host: bool,
}

impl RequestLimits {
    /// The default limits.
    pub const DEFAULT: Self =
        Self { request_line_bytes: 8192, header_bytes: 65536, header_count: 100, requires_host: true };
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The protocol versions that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no chunks, no `Host` needed, the connection closes unless the client asks otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// Returns the version as it stands in a request line or status line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// How far [`RequestParser::parse`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseStatus {
    /// The head does not end in the buffer yet: read more bytes behind it and parse again.
    Incomplete,
    /// The head is whole and accepted.
    Complete {
        /// Length of the head, with the empty lines before it: the body, or the next request, begins here.
        consumed: usize,
    },
}

/// A place in the caller's buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The place of `part` in `buffer`, of which it must be a part.
    #[inline]
    fn of(buffer: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr() - buffer.as_ptr().addr();
        Self { start, end: start + part.len() }
    }

    #[inline]
    fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

#[derive(Clone, Copy, Debug)]
struct HeaderSpan {
    name: Span,
    value: Span,
}

/// The state of the search for the end of a head.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    /// No line end is in the buffer between `line_start` and here.
    searched: usize,
    /// Where the line that is not complete yet begins.
    line_start: usize,
    /// Empty lines seen before the request line.
    empty_lines: usize,
    request_line_start: usize,
    /// Where the fields begin; zero as long as the request line is not complete.
    headers_start: usize,
    header_count: usize,
}

/// The parser of a connection's request heads.
///
/// # Examples
///
/// ```
/// use greenrust::http::{BodyKind, ParseStatus, RequestParser};
///
/// let mut parser = RequestParser::default();
/// let mut buffer = b"POST /items?draft=1 HTTP/1.1\r\nHost: example.org\r\n".to_vec();
/// assert_eq!(parser.parse(&buffer), Ok(ParseStatus::Incomplete));
/// buffer.extend_from_slice(b"Content-Length: 5\r\n\r\nhello");
/// let Ok(ParseStatus::Complete { consumed }) = parser.parse(&buffer) else { unreachable!() };
///
/// let head = parser.head(&buffer);
/// assert_eq!(head.method(), b"POST");
/// assert_eq!(head.path_and_query(), (&b"/items"[..], Some(&b"draft=1"[..])));
/// assert_eq!(head.header("host"), Some(&b"example.org"[..]));
/// assert_eq!(head.body_kind(), BodyKind::Length(5));
/// assert_eq!(&buffer[consumed..], b"hello");
/// ```
#[derive(Clone, Debug)]
pub struct RequestParser {
    limits: RequestLimits,
    search: Search,
    /// Whether the fields below tell of an accepted head.
    complete: bool,
    method: Span,
    target: Span,
    version: Version,
    /// What followed the target in the head that was accepted last; empty if it is not kept.
    tail: Vec<u8>,
    /// In the tail. Keeps its room from request to request.
    headers: Vec<HeaderSpan>,
    body: BodyKind,
    /// In the tail.
    host: Option<Span>,
    connection: ConnectionOptions,
    expects_continue: bool,
    /// In the tail.
    upgrade: Option<Span>,
}

impl Default for RequestParser {
    fn default() -> Self {
        Self::new(RequestLimits::default())
    }
}

impl RequestParser {
    /// Creates a parser for one connection.
    #[must_use]
    pub fn new(limits: RequestLimits) -> Self {
        Self {
            limits,
            search: Search::default(),
            complete: false,
            method: Span::default(),
            target: Span::default(),
            version: Version::Http11,
            tail: Vec::new(),
            headers: Vec::with_capacity(16),
            body: BodyKind::None,
            host: None,
            connection: ConnectionOptions::default(),
            expects_continue: false,
            upgrade: None,
        }
    }

    /// Parses the head at the begin of `buffer`.
    ///
    /// After [`ParseStatus::Incomplete`] the next call must pass the same bytes with more behind them; they may have
    /// moved in memory. After [`ParseStatus::Complete`] or an error the next call begins a new head at its buffer's
    /// begin. Bytes behind the head are not looked at.
    ///
    /// # Errors
    ///
    /// Each variant of [`RequestError`]; the verdict does not depend on how the bytes were split. Lines and limits
    /// are judged as bytes come in, the rest when the head is whole.
    pub fn parse(&mut self, buffer: &[u8]) -> Result<ParseStatus, RequestError> {
        self.complete = false;
        if let Some(consumed) = self.repeat(buffer) {
            self.complete = true;
            return Ok(ParseStatus::Complete { consumed });
        }
        let end = match self.find_end(buffer) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(ParseStatus::Incomplete),
            Err(error) => {
                self.search = Search::default();
                return Err(error);
            }
        };
        let search = std::mem::take(&mut self.search);
        let head = &buffer[..end];
        if search.header_count <= STACK_HEADERS {
            let mut storage = [const { MaybeUninit::uninit() }; STACK_HEADERS];
            self.read_head(head, &search, &mut storage[..search.header_count])?;
        } else {
            let mut storage = vec![MaybeUninit::uninit(); search.header_count];
            self.read_head(head, &search, &mut storage)?;
        }
        self.complete = true;
        Ok(ParseStatus::Complete { consumed: end })
    }

    /// Begins anew with the bytes of another connection, whatever has begun on this one.
    pub fn reset(&mut self) {
        self.search = Search::default();
        self.complete = false;
    }

    /// Returns the head that was parsed last, as views into `buffer`.
    ///
    /// # Panics
    ///
    /// If the last call of [`parse`](Self::parse) did not return [`ParseStatus::Complete`]. Views into another buffer
    /// than the one that was parsed are meaningless or, if it is shorter, panic.
    #[must_use]
    pub fn head<'a>(&'a self, buffer: &'a [u8]) -> RequestHead<'a> {
        assert!(self.complete, "no complete request head was parsed");
        RequestHead { parsed: self, buffer }
    }

    /// Returns whether bytes of a request have been seen whose head is not complete: at the end of the stream this
    /// tells a truncated request from a connection closed between two, and an idle connection from a slow one.
    /// Empty lines before a request line are no request yet.
    #[must_use]
    pub fn has_partial_head(&self) -> bool {
        self.search.headers_start > 0 || self.search.searched > self.search.line_start
    }

    /// Step 1: finds where the head ends, or returns `None` if it does not end in `buffer`.
    fn find_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, RequestError> {
        let limits = self.limits;
        let search = &mut self.search;
        while let Some(offset) = memchr::memchr(b'\n', &buffer[search.searched..]) {
            let line_start = search.line_start;
            let line_feed = search.searched + offset;
            let next_line = line_feed + 1;
            if search.headers_start == 0 {
                judge_first_line(&buffer[line_start..line_feed], &limits)?;
            } else if next_line - search.headers_start > limits.header_bytes {
                // RFC 9110 section 5.4: a field section larger than the server wishes to process is answered with a
                // 4xx.
                return Err(RequestError::HeadersTooLarge);
            }
            // RFC 9112 section 2.2: the line end is CRLF; a recipient MAY, but need not, take a lone LF for one.
            if line_feed == line_start || buffer[line_feed - 1] != b'\r' {
                return Err(RequestError::BareLineFeed);
            }
            let line = &buffer[line_start..line_feed - 1];
            search.searched = next_line;
            search.line_start = next_line;
            if search.headers_start == 0 {
                if line.is_empty() {
                    // RFC 9112 section 2.2: a server SHOULD ignore at least one empty line before the request line.
                    search.empty_lines += 1;
                    if search.empty_lines > EMPTY_LINES {
                        return Err(RequestError::EmptyLines);
                    }
                } else {
                    judge_request_line(line)?;
                    search.request_line_start = line_start;
                    search.headers_start = next_line;
                }
            } else if line.is_empty() {
                return Ok(Some(next_line));
            } else {
                // RFC 9112 section 5.2: folding in a request is refused or unfolded, never passed on; and section
                // 2.2: so is white space between the request line and the first field.
                if matches!(line[0], b' ' | b'\t') {
                    return Err(RequestError::FoldedLine);
                }
                search.header_count += 1;
                if search.header_count > limits.header_count {
                    return Err(RequestError::TooManyHeaders);
                }
            }
        }
        search.searched = buffer.len();
        if search.headers_start == 0 {
            judge_first_line(&buffer[search.line_start..], &limits)?;
        } else if buffer.len() - search.headers_start > limits.header_bytes {
            return Err(RequestError::HeadersTooLarge);
        }
        Ok(None)
    }

    /// Step 2: splits a whole head and judges its parts.
    fn read_head<'b>(
        &mut self,
        head: &'b [u8],
        search: &Search,
        storage: &mut [MaybeUninit<httparse::Header<'b>>],
    ) -> Result<(), RequestError> {
        self.tail.clear();
        let mut request = httparse::Request::new(&mut []);
        let status = request.parse_with_uninit_headers(&head[search.request_line_start..], storage);
        match status {
            Ok(httparse::Status::Complete(length)) => {
                debug_assert_eq!(length, head.len() - search.request_line_start)
            }
            Ok(httparse::Status::Partial) => return Err(RequestError::RequestLine),
            Err(error) => return Err(diagnose(error, head, search)),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(RequestError::RequestLine);
        };
        if !is_request_target(method.as_bytes(), target.as_bytes()) {
            return Err(RequestError::RequestTarget);
        }
        self.method = Span::of(head, method.as_bytes());
        self.target = Span::of(head, target.as_bytes());
        let tail = &head[self.target.end..];
        self.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        self.connection = ConnectionOptions::default();
        self.expects_continue = false;
        self.upgrade = None;
        self.host = None;
        self.headers.clear();

        let mut content_length = None;
        let mut codings = TransferCodings::default();
        for header in request.headers.iter() {
            let (name, value) = (header.name.as_bytes(), header.value);
            let span = HeaderSpan { name: Span::of(tail, name), value: Span::of(tail, value) };
            self.headers.push(span);
            // Most names differ from these in their length already.
            match name.len() {
                4 if is_field_name(name, b"Host") => {
                    // RFC 9112 section 3.2: more than one Host, or an invalid one, is answered with 400.
                    if self.host.is_some() {
                        return Err(RequestError::DuplicateHost);
                    }
                    if !value.is_empty() && !is_authority(value) {
                        return Err(RequestError::InvalidHost);
                    }
                    self.host = Some(span.value);
                }
                6 if is_field_name(name, b"Expect") => {
                    // RFC 9110 section 10.1.1: 100-continue in HTTP/1.0 is ignored. Other expectations are too: 417
                    // is a MAY.
                    self.expects_continue |=
                        self.version == Version::Http11 && value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if is_field_name(name, b"Upgrade") => {
                    self.upgrade.get_or_insert(span.value);
                }
                10 if is_field_name(name, b"Connection") => self.connection.add(value),
                14 if is_field_name(name, b"Content-Length") => {
                    // RFC 9112 section 6.3, rule 5: several values, in one field or in several, are an unrecoverable
                    // error unless all are equal. Equal ones MAY be accepted; a peer that joins them differently
                    // would frame differently, so they are not.
                    if content_length.is_some() || (value.contains(&b',') && is_digit_list(value)) {
                        return Err(RequestError::DuplicateContentLength);
                    }
                    // RFC 9110 section 8.6: Content-Length = 1*DIGIT, and a recipient must guard against overflow.
                    content_length = Some(parse_decimal(value).ok_or(RequestError::InvalidContentLength)?);
                }
                17 if is_field_name(name, b"Transfer-Encoding") => codings.add(value)?,
                _ => {}
            }
        }

        // RFC 9112 section 3.2: an HTTP/1.1 request without Host is answered with 400.
        if self.limits.requires_host && self.host.is_none() && self.version == Version::Http11 {
            return Err(RequestError::MissingHost);
        }
        self.body = if codings.present {
            // RFC 9112 section 6.1: Content-Length beside Transfer-Encoding might be an attempt at smuggling; a
            // server MAY reject it.
            if content_length.is_some() {
                return Err(RequestError::ContentLengthWithTransferEncoding);
            }
            // RFC 9112 section 6.1: in HTTP/1.0 a message with Transfer-Encoding has faulty framing.
            if self.version == Version::Http10 {
                return Err(RequestError::TransferEncodingInHttp10);
            }
            codings.body_kind()?
        } else {
            // RFC 9112 section 6.3, rules 6 and 7.
            content_length.map_or(BodyKind::None, BodyKind::Length)
        };
        self.remember(tail);
        Ok(())
    }
}

/// Judges a line before the header fields, which may not be complete: without its line feed, perhaps with its
/// carriage return.
#[inline]
fn judge_first_line(line: &[u8], limits: &RequestLimits) -> Result<(), RequestError> {
    // RFC 9112 section 3: the method is a token. What cannot be one, such as the first byte of a TLS handshake, is
    // refused without waiting for a line end. A carriage return alone may be the begin of an empty line.
    if let Some(&first) = line.first()
        && !is_token_byte(first)
        && line != b"\r"
    {
        return Err(RequestError::RequestLine);
    }
    // RFC 9112 section 3: a target longer than the server wishes to parse is answered with 414. Methods are short: a
    // line too long by its method (501 by the same section) is not told apart.
    if line.len() > limits.request_line_bytes.saturating_add(1) {
        return Err(RequestError::RequestLineTooLong);
    }
    Ok(())
}

/// Judges the shape of a whole request line, so that a client which sends nonsense and waits is answered at once.
#[inline]
fn judge_request_line(line: &[u8]) -> Result<(), RequestError> {
    // RFC 9112 section 3: request-line = method SP request-target SP HTTP-version; section 2.3 gives the last.
    match memchr::memrchr(b' ', line).map(|space| &line[space..]) {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => Ok(()),
        _ => Err(RequestError::RequestLine),
    }
}

/// Finds the variant for an error of `httparse`.
#[cold]
fn diagnose(error: httparse::Error, head: &[u8], search: &Search) -> RequestError {
    let line = &head[search.request_line_start..search.headers_start - 2];
    let mut words = line.split(|&byte| byte == b' ').skip(2);
    let version = words.next().filter(|_| words.next().is_none());
    match error {
        httparse::Error::Version => {
            // RFC 9112 section 2.3: HTTP-version = "HTTP/" DIGIT "." DIGIT. Higher minors of 1 do not exist, so they
            // are refused like other majors.
            match version {
                Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
                    RequestError::UnsupportedVersion
                }
                _ => RequestError::RequestLine,
            }
        }
        httparse::Error::HeaderName => {
            // RFC 9112 section 5.1: white space between name and colon MUST be answered with 400.
            let spaced = head[search.headers_start..].split(|&byte| byte == b'\n').any(|line| {
                let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
                name.len() < line.len() && is_token(trim_whitespace(name)) && !is_token(name)
            });
            if spaced { RequestError::WhitespaceBeforeColon } else { RequestError::HeaderName }
        }
        httparse::Error::HeaderValue => RequestError::HeaderValue,
        // Something other than a line end stands behind the version, or a carriage return begins a field line.
        httparse::Error::NewLine => {
            if matches!(version, Some(b"HTTP/1.0" | b"HTTP/1.1")) {
                RequestError::HeaderName
            } else {
                RequestError::RequestLine
            }
        }
        httparse::Error::TooManyHeaders => RequestError::TooManyHeaders,
        httparse::Error::Token | httparse::Error::Status => RequestError::RequestLine,
    }
}

#[cfg(test)]
mod tests;
