//! The head of a request: request line and header fields.
//!
//! [`RequestParser`] belongs to a connection and is used for one request after another. It works in two steps:
//!
//! 1. It looks for the end of the head, line by line. Line ends, folding and the limits are judged here, since this
//!    needs no complete head, and each byte is looked at once however many reads bring it.
//! 2. When the head is whole, `httparse` splits it and judges the characters, and one pass over the fields judges
//!    those that frame the message.
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

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::body::BodyKind;
use super::syntax::{is_token, is_token_byte, parse_decimal, trim_whitespace};

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

/// Why a request's head is refused. After any of them the connection must be closed, since what follows in the stream
/// cannot be told apart (RFC 9112 section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestError {
    /// The request line is not `method SP target SP version` (RFC 9112 section 3).
    RequestLine,
    /// The request line is longer than [`RequestLimits::request_line_bytes`] (RFC 9112 section 3).
    RequestLineTooLong,
    /// The target has none of the four forms, or one that the method does not allow (RFC 9112 section 3.2).
    RequestTarget,
    /// The version is neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 section 15.6.6).
    UnsupportedVersion,
    /// A line ends by a line feed without a carriage return. RFC 9112 section 2.2 lets a server accept it; since not
    /// all do, accepting would make heads ambiguous.
    BareLineFeed,
    /// More than four empty lines precede the request line (RFC 9112 section 2.2).
    EmptyLines,
    /// A field line begins with white space: folding, or white space after the request line (RFC 9112 sections 5.2
    /// and 2.2).
    FoldedLine,
    /// White space stands between a field name and its colon (RFC 9112 section 5.1).
    WhitespaceBeforeColon,
    /// A field line has no colon, or the name is not a token (RFC 9110 section 5.1).
    HeaderName,
    /// A field value has a control character, such as NUL or a lone carriage return (RFC 9110 section 5.5).
    HeaderValue,
    /// The fields take more than [`RequestLimits::header_bytes`] (RFC 9110 section 5.4, RFC 6585 section 5).
    HeadersTooLarge,
    /// There are more fields than [`RequestLimits::header_count`] (RFC 9110 section 5.4, RFC 6585 section 5).
    TooManyHeaders,
    /// An HTTP/1.1 request has no `Host` (RFC 9112 section 3.2).
    MissingHost,
    /// There is more than one `Host` (RFC 9112 section 3.2).
    DuplicateHost,
    /// The value of `Host` is not `uri-host [":" port]` (RFC 9112 section 3.2).
    InvalidHost,
    /// The value of `Content-Length` is not digits only, or does not fit 64 bits (RFC 9112 section 6.3, RFC 9110
    /// section 8.6).
    InvalidContentLength,
    /// There are several `Content-Length` values, be they equal or not (RFC 9112 section 6.3, RFC 9110 section 8.6).
    DuplicateContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` are there (RFC 9112 section 6.1).
    ContentLengthWithTransferEncoding,
    /// An HTTP/1.0 request has `Transfer-Encoding` (RFC 9112 section 6.1).
    TransferEncodingInHttp10,
    /// The value of `Transfer-Encoding` is no list of codings, or `chunked` has parameters (RFC 9112 sections 6.1
    /// and 7.1).
    InvalidTransferEncoding,
    /// `chunked` is not the last coding, or is applied twice (RFC 9112 sections 6.3 and 7.1).
    ChunkedNotLast,
    /// A transfer coding other than `chunked` (RFC 9112 section 6.1).
    UnknownTransferCoding,
}

impl RequestError {
    /// Returns the status code with which to answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong => 414,
            Self::HeadersTooLarge | Self::TooManyHeaders => 431,
            Self::UnknownTransferCoding => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// Returns one phrase that says what is wrong, fit for a log or a response body.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RequestLine => "malformed request line",
            Self::RequestLineTooLong => "request line too long",
            Self::RequestTarget => "malformed request target",
            Self::UnsupportedVersion => "HTTP version not supported",
            Self::BareLineFeed => "line feed without carriage return",
            Self::EmptyLines => "too many empty lines before the request line",
            Self::FoldedLine => "field line begins with white space",
            Self::WhitespaceBeforeColon => "white space before the colon of a field",
            Self::HeaderName => "malformed field name",
            Self::HeaderValue => "control character in a field value",
            Self::HeadersTooLarge => "header fields too large",
            Self::TooManyHeaders => "too many header fields",
            Self::MissingHost => "Host is missing",
            Self::DuplicateHost => "more than one Host",
            Self::InvalidHost => "malformed Host",
            Self::InvalidContentLength => "malformed Content-Length",
            Self::DuplicateContentLength => "more than one Content-Length",
            Self::ContentLengthWithTransferEncoding => "both Content-Length and Transfer-Encoding",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding in an HTTP/1.0 request",
            Self::InvalidTransferEncoding => "malformed Transfer-Encoding",
            Self::ChunkedNotLast => "chunked is not the last transfer coding, once",
            Self::UnknownTransferCoding => "transfer coding not implemented",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for RequestError {}

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

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name as it was sent; names are equal irrespective of ASCII case. Never empty.
    pub name: &'a [u8],
    /// The value without white space at its ends; may hold bytes beyond ASCII (RFC 9110 section 5.5).
    pub value: &'a [u8],
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
    /// Keeps its room from request to request.
    headers: Vec<HeaderSpan>,
    body: BodyKind,
    host: Option<Span>,
    connection: ConnectionOptions,
    expects_continue: bool,
    upgrade: Option<Span>,
}

/// The options of the `Connection` fields that a server acts on (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
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
            let span = HeaderSpan { name: Span::of(head, name), value: Span::of(head, value) };
            self.headers.push(span);
            // Most names differ from these in their length already.
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => {
                    // RFC 9112 section 3.2: more than one Host, or an invalid one, is answered with 400.
                    if self.host.is_some() {
                        return Err(RequestError::DuplicateHost);
                    }
                    if !value.is_empty() && !is_authority(value) {
                        return Err(RequestError::InvalidHost);
                    }
                    self.host = Some(span.value);
                }
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    // RFC 9110 section 10.1.1: 100-continue in HTTP/1.0 is ignored. Other expectations are too: 417
                    // is a MAY.
                    self.expects_continue |=
                        self.version == Version::Http11 && value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if name.eq_ignore_ascii_case(b"upgrade") => {
                    self.upgrade.get_or_insert(span.value);
                }
                10 if name.eq_ignore_ascii_case(b"connection") => self.connection.add(value),
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    // RFC 9112 section 6.3, rule 5: several values, in one field or in several, are an unrecoverable
                    // error unless all are equal. Equal ones MAY be accepted; a peer that joins them differently
                    // would frame differently, so they are not.
                    if content_length.is_some() || (value.contains(&b',') && is_digit_list(value)) {
                        return Err(RequestError::DuplicateContentLength);
                    }
                    // RFC 9110 section 8.6: Content-Length = 1*DIGIT, and a recipient must guard against overflow.
                    content_length = Some(parse_decimal(value).ok_or(RequestError::InvalidContentLength)?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => codings.add(value)?,
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

impl ConnectionOptions {
    #[inline]
    fn add(&mut self, value: &[u8]) {
        // RFC 9110 section 7.6.1: options are a list, compared irrespective of case.
        for option in value.split(|&byte| byte == b',').map(trim_whitespace) {
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade |= option.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                _ => {}
            }
        }
    }
}

/// The codings of all `Transfer-Encoding` fields, in order.
#[derive(Default)]
struct TransferCodings {
    present: bool,
    chunked: bool,
    /// A coding that RFC 9112 section 7.2 defines, but that is not implemented.
    compressed: bool,
    unknown: bool,
}

impl TransferCodings {
    fn add(&mut self, value: &[u8]) -> Result<(), RequestError> {
        self.present = true;
        for coding in value.split(|&byte| byte == b',').map(trim_whitespace) {
            let name = coding.split(|&byte| byte == b';').next().map(trim_whitespace).unwrap_or_default();
            // RFC 9110 section 10.1.4: transfer-coding = token *( OWS ";" OWS transfer-parameter ). RFC 9110 section
            // 5.6.1.2 tolerates empty list elements; in the field that frames the message they are refused.
            if !is_token(name) {
                return Err(RequestError::InvalidTransferEncoding);
            }
            // RFC 9112 section 7.1: chunked is applied once; section 6.3, rule 4: it is the last coding.
            if self.chunked {
                return Err(RequestError::ChunkedNotLast);
            }
            if name.eq_ignore_ascii_case(b"chunked") {
                // RFC 9112 section 7.1: parameters of chunked SHOULD be treated as an error.
                if name.len() != coding.len() {
                    return Err(RequestError::InvalidTransferEncoding);
                }
                self.chunked = true;
            } else if [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
            {
                self.compressed = true;
            } else {
                self.unknown = true;
            }
        }
        Ok(())
    }

    fn body_kind(&self) -> Result<BodyKind, RequestError> {
        // RFC 9112 section 6.1: a coding that the server does not understand SHOULD be answered with 501.
        if self.unknown || (self.compressed && self.chunked) {
            return Err(RequestError::UnknownTransferCoding);
        }
        // RFC 9112 section 6.3, rule 4: a request whose last coding is known and not chunked MUST be answered with
        // 400.
        if !self.chunked {
            return Err(RequestError::ChunkedNotLast);
        }
        Ok(BodyKind::Chunked)
    }
}

/// Whether `value` is digits, commas and white space: several lengths rather than no length at all.
#[cold]
fn is_digit_list(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').map(trim_whitespace).all(|length| parse_decimal(length).is_some())
}

/// Whether `target` has a form that `method` allows (RFC 9112 section 3.2). Its characters are visible or UTF-8
/// already.
#[inline]
fn is_request_target(method: &[u8], target: &[u8]) -> bool {
    // RFC 9112 section 3.2: no form has a fragment.
    if target.contains(&b'#') {
        return false;
    }
    // RFC 9112 section 3.2.3: CONNECT has the authority-form, with a port, and it alone.
    if method == b"CONNECT" {
        return is_authority(target) && target.last().is_some_and(u8::is_ascii_digit) && port_start(target).is_some();
    }
    match target {
        // RFC 9112 section 3.2.1, origin-form.
        [b'/', ..] => true,
        // RFC 9112 section 3.2.4: the asterisk-form is for OPTIONS.
        b"*" => method == b"OPTIONS",
        // RFC 9112 section 3.2.2, absolute-form.
        _ => split_absolute_form(target).is_some_and(|(authority, _)| is_authority(authority)),
    }
}

/// Splits `scheme://authority rest`, where rest is empty or begins with `/` or `?`.
fn split_absolute_form(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    // RFC 3986 section 3.1.
    let [b'a'..=b'z' | b'A'..=b'Z', tail @ ..] = scheme else {
        return None;
    };
    if !tail.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|&byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// Where the port of an authority begins, behind its colon.
fn port_start(authority: &[u8]) -> Option<usize> {
    let colon = memchr::memrchr(b':', authority)?;
    // In `[::1]` the colons belong to the address.
    if authority.last() == Some(&b']') { None } else { Some(colon + 1) }
}

/// Whether `bytes` is `uri-host [":" port]` with a host that is not empty (RFC 9110 section 7.2, RFC 3986 section
/// 3.2). User information is refused (RFC 9110 section 4.2.4).
fn is_authority(bytes: &[u8]) -> bool {
    let (host, port) = match port_start(bytes) {
        Some(start) => (&bytes[..start - 1], &bytes[start..]),
        None => (bytes, &[][..]),
    };
    if !port.iter().all(u8::is_ascii_digit) {
        return false;
    }
    match host {
        // RFC 3986 section 3.2.2: IP-literal = "[" ( IPv6address / IPvFuture ) "]".
        [b'[', address @ .., b']'] => {
            !address.is_empty()
                && address.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'-' | b'_'))
        }
        // RFC 3986 section 3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ).
        [_, ..] => host.iter().all(|&byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b','
                        | b';'
                        | b'='
                )
        }),
        [] => false,
    }
}

/// An accepted head, as views into the buffer that was parsed.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    parsed: &'a RequestParser,
    buffer: &'a [u8],
}

impl<'a> RequestHead<'a> {
    #[inline]
    fn slice(self, span: Span) -> &'a [u8] {
        &self.buffer[span.range()]
    }

    /// Returns the method, a token. Methods are case-sensitive (RFC 9110 section 9.1).
    #[must_use]
    #[inline]
    pub fn method(self) -> &'a [u8] {
        self.slice(self.parsed.method)
    }

    /// Returns the target as it was sent: visible ASCII or UTF-8, not decoded, without white space and fragment.
    #[must_use]
    #[inline]
    pub fn target(self) -> &'a [u8] {
        self.slice(self.parsed.target)
    }

    /// Returns the target's path, not decoded, and its query without the question mark.
    ///
    /// The path of an absolute-form without one is `/` (RFC 9110 section 4.2.3), that of the asterisk-form is `*`,
    /// that of CONNECT's authority-form is empty.
    #[must_use]
    pub fn path_and_query(self) -> (&'a [u8], Option<&'a [u8]>) {
        let target = self.target();
        let rest = match target {
            [b'/', ..] | b"*" => target,
            _ if self.method() == b"CONNECT" => b"",
            _ => match split_absolute_form(target) {
                Some((_, b"")) => b"/",
                Some((_, rest)) => rest,
                None => target,
            },
        };
        match memchr::memchr(b'?', rest) {
            Some(0) => (b"/", Some(&rest[1..])),
            Some(mark) => (&rest[..mark], Some(&rest[mark + 1..])),
            None => (rest, None),
        }
    }

    /// Returns host and port that the request is for: of the target if this names them, since `Host` is then to be
    /// ignored (RFC 9112 section 3.2.2), else of `Host`. `None` if HTTP/1.0 has neither.
    #[must_use]
    pub fn authority(self) -> Option<&'a [u8]> {
        self.target_authority().or_else(|| self.parsed.host.map(|span| self.slice(span)))
    }

    /// Returns host and port of the target, which the absolute-form and CONNECT's authority-form name.
    #[must_use]
    #[inline]
    pub fn target_authority(self) -> Option<&'a [u8]> {
        let target = self.target();
        match target {
            [b'/', ..] | b"*" => None,
            _ if self.method() == b"CONNECT" => Some(target),
            _ => split_absolute_form(target).map(|(authority, _)| authority),
        }
    }

    /// Returns the version.
    #[must_use]
    #[inline]
    pub fn version(self) -> Version {
        self.parsed.version
    }

    /// Returns the fields in the order in which they were sent.
    #[inline]
    pub fn headers(self) -> impl ExactSizeIterator<Item = Header<'a>> + DoubleEndedIterator + Clone {
        self.parsed
            .headers
            .iter()
            .map(move |span| Header { name: self.slice(span.name), value: self.slice(span.value) })
    }

    /// Returns the value of the first field of this name, irrespective of case.
    #[must_use]
    pub fn header(self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|header| header.name.eq_ignore_ascii_case(name.as_bytes())).map(|header| header.value)
    }

    /// Returns how the body is framed (RFC 9112 section 6.3).
    #[must_use]
    #[inline]
    pub fn body_kind(self) -> BodyKind {
        self.parsed.body
    }

    /// Returns the value of `Content-Length`, in bytes.
    #[must_use]
    #[inline]
    pub fn content_length(self) -> Option<u64> {
        match self.parsed.body {
            BodyKind::Length(length) => Some(length),
            BodyKind::None | BodyKind::Chunked => None,
        }
    }

    /// Returns whether the body comes in chunks.
    #[must_use]
    #[inline]
    pub fn is_chunked(self) -> bool {
        self.parsed.body == BodyKind::Chunked
    }

    /// Returns whether a `Connection` field has the option `close`.
    #[must_use]
    #[inline]
    pub fn has_connection_close(self) -> bool {
        self.parsed.connection.close
    }

    /// Returns whether a `Connection` field has the option `keep-alive`.
    #[must_use]
    #[inline]
    pub fn has_connection_keep_alive(self) -> bool {
        self.parsed.connection.keep_alive
    }

    /// Returns whether the client is content with another request on this connection: in 1.1 unless it says `close`,
    /// in 1.0 if it says `keep-alive` and not `close` (RFC 9112 section 9.3).
    #[must_use]
    #[inline]
    pub fn wants_keep_alive(self) -> bool {
        let options = self.parsed.connection;
        !options.close && (self.parsed.version == Version::Http11 || options.keep_alive)
    }

    /// Returns whether the client waits for `100 Continue` before it sends the body: never in 1.0, and never without
    /// a body (RFC 9110 section 10.1.1). A server may omit it when bytes of the body are there already.
    #[must_use]
    #[inline]
    pub fn expects_continue(self) -> bool {
        self.parsed.expects_continue && !matches!(self.parsed.body, BodyKind::None | BodyKind::Length(0))
    }

    /// Returns the first `Upgrade` value if the request asks for an upgrade: version 1.1, and `Connection` has the
    /// option `upgrade` (RFC 9110 section 7.8).
    #[must_use]
    pub fn upgrade(self) -> Option<&'a [u8]> {
        if self.parsed.version == Version::Http11 && self.parsed.connection.upgrade {
            self.parsed.upgrade.map(|span| self.slice(span))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<RequestParser, RequestError> {
        let mut parser = RequestParser::default();
        match parser.parse(bytes)? {
            ParseStatus::Complete { consumed } => assert_eq!(consumed, bytes.len()),
            ParseStatus::Incomplete => panic!("incomplete: {:?}", String::from_utf8_lossy(bytes)),
        }
        Ok(parser)
    }

    fn with_fields(version: &str, fields: &str) -> Vec<u8> {
        format!("GET / {version}\r\nHost: x\r\n{fields}\r\n").into_bytes()
    }

    #[test]
    fn parts_of_a_head_are_found() {
        let bytes = b"GET /a%20b?c=d&e HTTP/1.1\r\nHost: example.org:8080\r\n\
            Accept:*/*\r\nX-Empty:\r\nX-Tab:\t v w \t\r\n\r\n";
        let parser = parse(bytes).unwrap();
        let head = parser.head(bytes);
        assert_eq!(head.method(), b"GET");
        assert_eq!(head.target(), b"/a%20b?c=d&e");
        assert_eq!(head.path_and_query(), (&b"/a%20b"[..], Some(&b"c=d&e"[..])));
        assert_eq!(head.version(), Version::Http11);
        assert_eq!(head.authority(), Some(&b"example.org:8080"[..]));
        assert_eq!(head.body_kind(), BodyKind::None);
        let fields: Vec<_> = head.headers().map(|header| (header.name, header.value)).collect();
        let expected: [(&[u8], &[u8]); 4] =
            [(b"Host", b"example.org:8080"), (b"Accept", b"*/*"), (b"X-Empty", b""), (b"X-Tab", b"v w")];
        assert_eq!(fields, expected);
        assert_eq!(head.header("x-tab"), Some(&b"v w"[..]));
        assert_eq!(head.header("x-none"), None);
    }

    #[test]
    fn bytes_behind_the_head_are_left_alone() {
        let bytes = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\nbroken";
        let mut parser = RequestParser::default();
        assert_eq!(parser.parse(bytes), Ok(ParseStatus::Complete { consumed: 28 }));
        assert_eq!(parser.head(bytes).target(), b"/1");
        assert_eq!(parser.parse(&bytes[28..]), Err(RequestError::BareLineFeed));
    }

    #[test]
    fn parser_serves_one_request_after_another_without_traces() {
        let first = b"POST / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\n";
        let second = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut parser = RequestParser::default();
        parser.parse(first).unwrap();
        assert!(parser.head(first).has_connection_keep_alive());
        assert_eq!(parser.head(first).content_length(), Some(3));
        parser.parse(second).unwrap();
        let head = parser.head(second);
        assert!(!head.has_connection_keep_alive());
        assert_eq!(head.body_kind(), BodyKind::None);
        assert_eq!(head.upgrade(), None);
        assert_eq!(head.headers().len(), 1);
    }

    #[test]
    fn parser_begins_anew_after_an_error() {
        let good = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut parser = RequestParser::default();
        assert!(parser.parse(b"GET / HTTP/1.1\r\nHost: x\n").is_err());
        assert!(!parser.has_partial_head());
        assert_eq!(parser.parse(good), Ok(ParseStatus::Complete { consumed: good.len() }));
    }

    #[test]
    fn partial_head_is_told_from_an_idle_connection() {
        let mut parser = RequestParser::default();
        assert_eq!(parser.parse(b""), Ok(ParseStatus::Incomplete));
        assert!(!parser.has_partial_head());
        assert_eq!(parser.parse(b"\r\n"), Ok(ParseStatus::Incomplete));
        assert!(!parser.has_partial_head());
        for partial in [&b"\r\nG"[..], b"\r\nGET / HTTP/1.0\r\n"] {
            assert_eq!(parser.parse(partial), Ok(ParseStatus::Incomplete));
            assert!(parser.has_partial_head());
        }
        parser = RequestParser::default();
        parser.parse(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(!parser.has_partial_head());
    }

    #[test]
    #[should_panic(expected = "no complete request head")]
    fn head_panics_before_a_head_is_complete() {
        let mut parser = RequestParser::default();
        let _ = parser.parse(b"GET / HTTP/1.1\r\n");
        let _ = parser.head(b"GET / HTTP/1.1\r\n");
    }

    #[test]
    fn limits_accept_what_is_at_them_and_refuse_one_more() {
        let limits =
            RequestLimits { request_line_bytes: 20, header_bytes: 30, header_count: 3, ..RequestLimits::DEFAULT };
        let verdict = |bytes: &[u8]| {
            let mut whole = RequestParser::new(limits);
            let mut trickling = RequestParser::new(limits);
            let whole = whole.parse(bytes);
            let trickled = (0..=bytes.len())
                .map(|length| trickling.parse(&bytes[..length]))
                .find(|result| *result != Ok(ParseStatus::Incomplete))
                .unwrap_or(Ok(ParseStatus::Incomplete));
            assert_eq!(whole, trickled, "{:?}", String::from_utf8_lossy(bytes));
            whole
        };
        assert!(verdict(b"GET /567890 HTTP/1.0\r\n\r\n").is_ok());
        assert_eq!(verdict(b"GET /5678901 HTTP/1.0\r\n\r\n"), Err(RequestError::RequestLineTooLong));
        assert_eq!(verdict(b"GET /5678901 HTTP/1.0"), Ok(ParseStatus::Incomplete), "one byte may be a CR");
        assert_eq!(verdict(b"GET /56789012 HTTP/1.0"), Err(RequestError::RequestLineTooLong));
        assert!(verdict(b"GET / HTTP/1.0\r\nA: 45678901234567890123456\r\n\r\n").is_ok());
        assert_eq!(
            verdict(b"GET / HTTP/1.0\r\nA: 456789012345678901234567\r\n\r\n"),
            Err(RequestError::HeadersTooLarge)
        );
        assert!(verdict(b"GET / HTTP/1.0\r\nA:\r\nA:\r\nA:\r\n\r\n").is_ok());
        assert_eq!(verdict(b"GET / HTTP/1.0\r\nA:\r\nA:\r\nA:\r\nA:\r\n\r\n"), Err(RequestError::TooManyHeaders));
        assert_eq!(RequestError::RequestLineTooLong.status(), 414);
        assert_eq!(RequestError::HeadersTooLarge.status(), 431);
        assert_eq!(RequestError::TooManyHeaders.status(), 431);
    }

    #[test]
    fn default_limits_are_those_documented() {
        let head = |target: usize, value: usize, count: usize| {
            let mut bytes = format!("GET /{} HTTP/1.0\r\n", "a".repeat(target)).into_bytes();
            bytes.extend_from_slice(format!("V:{}\r\n", "v".repeat(value)).as_bytes());
            bytes.extend_from_slice("A:\r\n".repeat(count).as_bytes());
            bytes.extend_from_slice(b"\r\n");
            RequestParser::default().parse(&bytes).map(|_| ())
        };
        let line = "GET / HTTP/1.0".len();
        assert_eq!(head(8192 - line, 0, 0), Ok(()));
        assert_eq!(head(8193 - line, 0, 0), Err(RequestError::RequestLineTooLong));
        assert_eq!(head(0, 65536 - 6, 0), Ok(()));
        assert_eq!(head(0, 65537 - 6, 0), Err(RequestError::HeadersTooLarge));
        assert_eq!(head(0, 0, 99), Ok(()));
        assert_eq!(head(0, 0, 100), Err(RequestError::TooManyHeaders));
    }

    #[test]
    fn more_fields_than_fit_the_stack_are_parsed() {
        let limits = RequestLimits { header_count: 1000, ..RequestLimits::default() };
        let mut bytes = b"GET / HTTP/1.0\r\n".to_vec();
        for number in 0..1000 {
            bytes.extend_from_slice(format!("N: {number}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        let mut parser = RequestParser::new(limits);
        assert_eq!(parser.parse(&bytes), Ok(ParseStatus::Complete { consumed: bytes.len() }));
        assert_eq!(parser.head(&bytes).headers().next_back().unwrap().value, b"999");
    }

    #[test]
    fn first_byte_that_starts_no_method_is_refused_at_once() {
        for bytes in [&b"\x16"[..], b"\x00", b" ", b"\t", b":", b"\x80", b"\r\n\x16"] {
            assert_eq!(RequestParser::default().parse(bytes), Err(RequestError::RequestLine), "{bytes:?}");
        }
    }

    #[test]
    fn empty_lines_before_the_request_line_are_skipped_up_to_four() {
        let mut bytes = "\r\n".repeat(4);
        bytes.push_str("GET / HTTP/1.0\r\n\r\n");
        let parser = parse(bytes.as_bytes()).unwrap();
        assert_eq!(parser.head(bytes.as_bytes()).method(), b"GET");
        bytes.insert_str(0, "\r\n");
        assert_eq!(parse(bytes.as_bytes()).unwrap_err(), RequestError::EmptyLines);
    }

    #[test]
    fn persistence_follows_version_and_options() {
        for (version, fields, wanted) in [
            ("HTTP/1.1", "", true),
            ("HTTP/1.1", "Connection: close\r\n", false),
            ("HTTP/1.1", "Connection: Close\r\n", false),
            ("HTTP/1.1", "Connection: foo, ,close ,bar\r\n", false),
            ("HTTP/1.1", "Connection: foo\r\nConnection: close\r\n", false),
            ("HTTP/1.1", "Connection: closed\r\n", true),
            ("HTTP/1.1", "Connection: keep-alive, close\r\n", false),
            ("HTTP/1.0", "", false),
            ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
            ("HTTP/1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let bytes = with_fields(version, fields);
            assert_eq!(parse(&bytes).unwrap().head(&bytes).wants_keep_alive(), wanted, "{version} {fields:?}");
        }
    }

    #[test]
    fn continue_is_expected_only_in_http11_with_a_body() {
        for (version, fields, expected) in [
            ("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n", true),
            ("HTTP/1.1", "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
            ("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
            ("HTTP/1.1", "Expect: 100-continue\r\n", false),
            ("HTTP/1.1", "Expect: something\r\nContent-Length: 1\r\n", false),
            ("HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
        ] {
            let bytes = with_fields(version, fields);
            assert_eq!(parse(&bytes).unwrap().head(&bytes).expects_continue(), expected, "{version} {fields:?}");
        }
    }

    #[test]
    fn upgrade_needs_the_connection_option_and_http11() {
        for (version, fields, upgrade) in [
            ("HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", Some(&b"websocket"[..])),
            ("HTTP/1.1", "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n", Some(b"websocket")),
            ("HTTP/1.1", "Upgrade: websocket\r\n", None),
            ("HTTP/1.1", "Connection: upgrade\r\n", None),
            ("HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
        ] {
            let bytes = with_fields(version, fields);
            assert_eq!(parse(&bytes).unwrap().head(&bytes).upgrade(), upgrade, "{version} {fields:?}");
        }
    }

    #[test]
    fn target_forms_give_path_query_and_authority() {
        type Parts = (&'static str, Option<&'static str>, &'static str);
        let cases: [(&str, &str, Parts); 8] = [
            ("GET", "/", ("/", None, "h")),
            ("GET", "//a?", ("//a", Some(""), "h")),
            ("GET", "/a?b?c", ("/a", Some("b?c"), "h")),
            ("GET", "http://other:1/a?b", ("/a", Some("b"), "other:1")),
            ("GET", "http://other", ("/", None, "other")),
            ("GET", "http://[::1]?b", ("/", Some("b"), "[::1]")),
            ("OPTIONS", "*", ("*", None, "h")),
            ("CONNECT", "other:443", ("", None, "other:443")),
        ];
        for (method, target, (path, query, authority)) in cases {
            let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
            let parser = parse(&bytes).unwrap();
            let head = parser.head(&bytes);
            assert_eq!(head.path_and_query(), (path.as_bytes(), query.map(str::as_bytes)), "{target}");
            assert_eq!(head.authority(), Some(authority.as_bytes()), "{target}");
        }
    }

    #[test]
    fn authority_is_host_and_port() {
        for right in ["a", "a:80", "a:", "my_service.local:1", "127.0.0.1", "[::1]", "[::1]:80", "[fe80::1]", "%41"] {
            assert!(is_authority(right.as_bytes()), "{right}");
        }
        for wrong in
            ["", ":80", "a:b", "a:80:80", "::1", "[::1", "[]", "[::1]a", "u@a", "a/b", "a b", "a\\b", "a<b", "é"]
        {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
    }
}
