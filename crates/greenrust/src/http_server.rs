//! An HTTP/1.1 server: a function answers each request, in the greenlet of its connection.
//!
//! ```text
//! accept ──► greenlet of the connection ──► head ──► handler(Request) ──► Response ──► head and body in one writev
//!                     ▲                                   │ reads the body as it likes           │
//!                     └──────────── next request on the same connection ◄───────────────────────┘
//! ```
//!
//! Framing is strict ([`crate::http`]): what is ambiguous is answered with 400 and the connection closed. Time and size are
//! limited at every stage ([`Limits`]). The server owns the framing fields of a response (`Content-Length`,
//! `Transfer-Encoding`) and `Date`.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::greenlet::{GreenletError, after, catch};
use crate::http::{
    BodyDecoder, BodyError, CHUNK_END, DateCache, Header, LAST_CHUNK, ParseStatus, RequestHead, RequestLimits,
    RequestParser, ResponseBodyKind, ResponseEncoder, ResponseError, Version, allows_content_length, encode_chunk_head,
    keeps_alive, reason_phrase, response_body_kind,
};
use crate::pool::Pool;
use crate::server::StreamServer;
use crate::socket::{TcpListener, TcpStream, write_all_vectored};

/// Bytes that a connection asks the kernel for at a time.
const READ_SIZE: usize = 8 << 10;
/// Bytes of a request's body that are read and thrown away for the sake of the connection.
const DRAIN_LIMIT: u64 = 64 << 10;
/// How long a connection that is closed early waits for its client to stop sending: closing at once would make the kernel
/// reset it, and the client could lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// How long things may take and how large they may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sizes of a request's head.
    pub head: RequestLimits,
    /// Bytes of a request's body, `None` for any number; beyond it 413.
    pub body_bytes: Option<u64>,
    /// Time from a head's first byte to its last; beyond it 408.
    pub head_timeout: Duration,
    /// Time that a read of a body waits for bytes.
    pub body_timeout: Duration,
    /// Time that a write waits for room.
    pub write_timeout: Duration,
    /// Time that a connection may be idle before its first request and between two.
    pub keep_alive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: RequestLimits::default(),
            body_bytes: Some(64 << 20),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(75),
        }
    }
}

// -- request and response -------------------------------------------------------------------------------------

/// A request: its head, and its body to be read.
#[derive(Debug)]
pub struct Request<'a> {
    head: RequestHead<'a>,
    peer: Option<SocketAddr>,
    body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Returns the method, as `GET`.
    pub fn method(&self) -> &'a str {
        std::str::from_utf8(self.head.method()).expect("a token is ASCII")
    }

    /// Returns the path with its percent-encoding undone; what is no UTF-8 is replaced by U+FFFD.
    pub fn path(&self) -> Cow<'a, str> {
        let (path, _) = self.head.path_and_query();
        match decode_percent(path) {
            Cow::Borrowed(path) => String::from_utf8_lossy(path),
            Cow::Owned(path) => Cow::Owned(String::from_utf8_lossy(&path).into_owned()),
        }
    }

    /// Returns what stands behind the question mark, as it was sent.
    pub fn query(&self) -> Option<&'a [u8]> {
        self.head.path_and_query().1
    }

    /// Returns the first field of this name, irrespective of case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.head.header(name)
    }

    /// Returns all fields, in order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        self.head.headers()
    }

    /// Returns the whole head.
    pub fn head(&self) -> RequestHead<'a> {
        self.head
    }

    /// Returns the client's address, unless the connection is gone.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Returns the body, to be read.
    pub fn body(&mut self) -> &mut Body<'a> {
        &mut self.body
    }

    /// Reads the whole body.
    ///
    /// # Errors
    ///
    /// As reading [`Body`].
    pub fn read_body(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn decode_percent(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'%', text) else {
        return Cow::Borrowed(text);
    };
    let mut decoded = text[..first].to_vec();
    let mut rest = &text[first..];
    loop {
        let digit = |place: usize| rest.get(place).and_then(|&byte| char::from(byte).to_digit(16));
        match rest {
            [] => return Cow::Owned(decoded),
            [b'%', ..] if let (Some(high), Some(low)) = (digit(1), digit(2)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &rest[3..];
            }
            [byte, ..] => {
                decoded.push(*byte);
                rest = &rest[1..];
            }
        }
    }
}

/// The body of a request. Reading waits for bytes.
///
/// # Errors
///
/// [`ErrorKind::InvalidData`] with a [`BodyError`] when it is malformed or too large, [`ErrorKind::UnexpectedEof`] when the
/// client went away, [`ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct Body<'a> {
    decoder: BodyDecoder,
    /// Bytes that were read from the stream: of the body, and perhaps of the next request.
    input: Vec<u8>,
    position: usize,
    stream: &'a TcpStream,
    /// The client waits for `100 Continue`.
    is_awaited: bool,
    error: Option<BodyError>,
    timeout: Duration,
}

impl Body<'_> {
    /// Says whether all of it has been read.
    pub fn is_finished(&self) -> bool {
        self.decoder.is_finished()
    }

    /// Reads a small rest, so that the connection can go on. Returns whether nothing is left.
    fn drain(&mut self) -> bool {
        if !self.is_awaited && self.error.is_none() && self.decoder.known_remaining() <= DRAIN_LIMIT {
            let _ = io::copy(&mut self.by_ref().take(DRAIN_LIMIT), &mut io::sink());
        }
        self.is_finished() && self.error.is_none()
    }

    fn note(&mut self, error: BodyError) -> io::Error {
        self.error = Some(error);
        io::Error::new(ErrorKind::InvalidData, error)
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() && !self.decoder.is_finished() {
            let rest = &self.input[self.position..];
            if rest.is_empty() {
                self.input.clear();
                self.position = 0;
                if std::mem::take(&mut self.is_awaited) {
                    let mut stream = self.stream;
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                if fill(self.stream, &mut self.input, after(self.timeout))? == 0 {
                    return Err(match self.decoder.end_of_stream() {
                        Err(BodyError::Truncated) | Ok(()) => {
                            self.error = Some(BodyError::Truncated);
                            ErrorKind::UnexpectedEof.into()
                        }
                        Err(error) => self.note(error),
                    });
                }
                continue;
            }
            // No piece of data is longer than its input.
            let input = &rest[..rest.len().min(buffer.len())];
            let decoded = match self.decoder.decode(input) {
                Ok(decoded) => decoded,
                Err(error) => return Err(self.note(error)),
            };
            self.position += decoded.consumed;
            if !decoded.data.is_empty() {
                let data = &input[decoded.data];
                buffer[..data.len()].copy_from_slice(data);
                return Ok(data.len());
            }
        }
        Ok(0)
    }
}

/// Reads what is there behind what `buffer` has.
fn fill(stream: &TcpStream, buffer: &mut Vec<u8>, deadline: crate::clock::Instant) -> io::Result<usize> {
    let length = buffer.len();
    buffer.resize(length + READ_SIZE, 0);
    let outcome = stream.read_until(&mut buffer[length..], Some(deadline));
    buffer.truncate(length + outcome.as_ref().map_or(0, |&count| count));
    outcome
}

enum Content {
    Whole(Vec<u8>),
    Pieces(Box<dyn Iterator<Item = Vec<u8>>>),
}

/// A response.
///
/// ```
/// use greenrust::http_server::Response;
///
/// let page = Response::new(200).header("Content-Type", "text/plain").body("hello");
/// let stream = Response::new(200).pieces(["one", "two"].into_iter().map(Vec::from));
/// ```
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    content: Content,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Response {
    /// Creates a response without fields and with an empty body.
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), content: Content::Whole(Vec::new()) }
    }

    /// Adds a field. A malformed one makes the server answer 500 instead.
    ///
    /// `Connection: close` closes the connection after this response.
    ///
    /// # Panics
    ///
    /// For `Content-Length`, `Transfer-Encoding` and `Date`, which the server writes.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        let name = name.into();
        assert!(
            !["content-length", "transfer-encoding", "date"].iter().any(|own| name.eq_ignore_ascii_case(own)),
            "the server writes the field {name} itself"
        );
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.content = Content::Whole(body.into());
        self
    }

    /// Sets a body whose length is not known: each piece is sent when the iterator gives it. The iterator may block.
    #[must_use]
    pub fn pieces(mut self, pieces: impl Iterator<Item = Vec<u8>> + 'static) -> Self {
        self.content = Content::Pieces(Box::new(pieces));
        self
    }

    fn closes(&self) -> bool {
        self.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection")
                && value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
        })
    }

    fn error(status: u16, reason: &str) -> Self {
        let text = format!("{} {}\n{reason}\n", status, reason_phrase(status));
        Self::new(status).header("Content-Type", "text/plain; charset=utf-8").header("Connection", "close").body(text)
    }
}

// -- the server -----------------------------------------------------------------------------------------------

type Handler = dyn Fn(&mut Request<'_>) -> Response;

struct Shared {
    handler: Box<Handler>,
    limits: Limits,
    date: RefCell<DateCache>,
    is_stopping: Cell<bool>,
    /// Connections that wait for a request of which no byte has come.
    idle: RefCell<HashMap<u64, Rc<TcpStream>>>,
    next: Cell<u64>,
}

/// A server that calls a function for each request.
///
/// Each connection has a greenlet of its own, so the function may block as it likes.
///
/// ```
/// use greenrust::http_server::{HttpServer, Response};
/// use greenrust::socket::{TcpListener, TcpStream};
/// use std::io::{Read, Write};
/// use std::time::Duration;
///
/// let server = HttpServer::new(TcpListener::bind("127.0.0.1:0")?, |request| {
///     Response::new(200).body(format!("you asked for {}", request.path()))
/// })?;
/// server.start();
/// let mut client = TcpStream::connect(server.local_addr())?;
/// client.write_all(b"GET /here HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer)?;
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("you asked for /here"));
/// server.stop(Duration::from_secs(1));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct HttpServer {
    server: StreamServer,
    shared: Rc<Shared>,
}

impl std::fmt::Debug for HttpServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "HttpServer({:?})", self.server)
    }
}

impl HttpServer {
    /// Creates a server with the default limits; it accepts after [`HttpServer::start`].
    ///
    /// A handler that panics makes the server answer 500.
    ///
    /// # Errors
    ///
    /// The kernel's, when the listener has no address.
    pub fn new(listener: TcpListener, handler: impl Fn(&mut Request<'_>) -> Response + 'static) -> io::Result<Self> {
        Self::with_limits(listener, Limits::default(), None, handler)
    }

    /// Creates a server with limits, and perhaps a pool that limits how many connections are served at a time.
    ///
    /// # Errors
    ///
    /// The kernel's, when the listener has no address.
    pub fn with_limits(
        listener: TcpListener,
        limits: Limits,
        pool: Option<Pool>,
        handler: impl Fn(&mut Request<'_>) -> Response + 'static,
    ) -> io::Result<Self> {
        let shared = Rc::new(Shared {
            handler: Box::new(handler),
            limits,
            date: RefCell::new(DateCache::new(0)),
            is_stopping: Cell::new(false),
            idle: RefCell::default(),
            next: Cell::new(0),
        });
        let for_connections = shared.clone();
        let serve = move |stream| serve(&for_connections, stream);
        let server = match pool {
            None => StreamServer::new(listener, serve)?,
            Some(pool) => StreamServer::with_pool(listener, pool, serve)?,
        };
        Ok(Self { server, shared })
    }

    /// Returns the address at which the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Returns how many connections there are.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Begins to accept connections. Does not switch.
    pub fn start(&self) {
        self.server.start();
    }

    /// Serves until [`HttpServer::stop`] is called, by another greenlet.
    pub fn serve_forever(&self) {
        self.server.serve_forever();
    }

    /// Stops: accepts nothing more, closes idle connections, and lets requests that have begun be answered, for `grace` at
    /// most. Returns when no connection is left.
    pub fn stop(&self, grace: Duration) {
        self.shared.is_stopping.set(true);
        self.server.stop_accepting();
        let idle: Vec<_> = self.shared.idle.borrow_mut().drain().collect();
        for (_, stream) in idle {
            // Its greenlet reads the end of the stream. If a request has just come it is answered.
            let _ = stream.shutdown(Shutdown::Read);
        }
        self.server.stop(grace);
    }
}

/// How a connection comes to its end.
enum Close {
    /// Nothing more is to be sent or read.
    Now,
    /// The client may still be sending.
    Lingering,
}

struct Connection<'a> {
    shared: &'a Shared,
    stream: &'a Rc<TcpStream>,
    peer: Option<SocketAddr>,
    parser: RequestParser,
    /// The head that is being read, or served.
    head: Vec<u8>,
    /// What came after it.
    rest: Vec<u8>,
    out: Vec<u8>,
}

fn serve(shared: &Shared, stream: TcpStream) {
    // Responses are written whole: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    stream.set_write_timeout(Some(shared.limits.write_timeout));
    let stream = Rc::new(stream);
    let mut connection = Connection {
        shared,
        stream: &stream,
        peer: stream.peer_addr().ok(),
        parser: RequestParser::new(shared.limits.head),
        head: Vec::new(),
        rest: Vec::new(),
        out: Vec::new(),
    };
    // The outcome of writing an error's answer changes nothing: the connection ends.
    if let Close::Lingering = connection.run() {
        linger(&stream);
    }
}

/// Ends the sending side, then reads until the client has ended its own, for a while.
fn linger(stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = after(LINGER);
    let mut buffer = [0; 2048];
    while let Ok(1..) = stream.read_until(&mut buffer, Some(deadline)) {}
}

/// Takes an idle connection off the list, also when its greenlet is killed.
struct Idle<'a> {
    shared: &'a Shared,
    identity: u64,
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        let stream = self.shared.idle.borrow_mut().remove(&self.identity);
        drop(stream);
    }
}

impl Connection<'_> {
    fn run(&mut self) -> Close {
        loop {
            let consumed = match self.read_head() {
                Ok(consumed) => consumed,
                Err(close) => return close,
            };
            self.rest.extend_from_slice(&self.head[consumed..]);
            self.head.truncate(consumed);
            if let Err(close) = self.answer() {
                return close;
            }
            // What came after this request is the begin of the next one.
            std::mem::swap(&mut self.head, &mut self.rest);
            self.rest.clear();
        }
    }

    /// Reads until the head is whole; returns its length.
    fn read_head(&mut self) -> Result<usize, Close> {
        let limits = &self.shared.limits;
        let mut head_deadline = None;
        loop {
            match self.parser.parse(&self.head) {
                Ok(ParseStatus::Complete { consumed }) => return Ok(consumed),
                Ok(ParseStatus::Incomplete) => {}
                Err(error) => return Err(self.refuse(error.status(), error.reason())),
            }
            let is_idle = !self.parser.has_partial_head();
            let outcome = if is_idle {
                if self.shared.is_stopping.get() {
                    return Err(Close::Now);
                }
                let identity = self.shared.next.get();
                self.shared.next.set(identity + 1);
                self.shared.idle.borrow_mut().insert(identity, self.stream.clone());
                let _idle = Idle { shared: self.shared, identity };
                fill(self.stream, &mut self.head, after(limits.keep_alive_timeout))
            } else {
                let deadline = *head_deadline.get_or_insert_with(|| after(limits.head_timeout));
                fill(self.stream, &mut self.head, deadline)
            };
            match outcome {
                Ok(0) => return Err(Close::Now),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut && !is_idle => {
                    return Err(self.refuse(408, "the head of the request did not come in time"));
                }
                Err(_) => return Err(Close::Now),
            }
        }
    }

    /// Answers what can't be handled, as far as the client takes it.
    fn refuse(&mut self, status: u16, reason: &str) -> Close {
        let _ = self.send(Response::error(status, reason), b"GET", Version::Http11, false, true);
        Close::Lingering
    }

    /// Has the handler answer the request, and sends the answer.
    fn answer(&mut self) -> Result<(), Close> {
        let Connection { shared, stream, parser, head, rest, peer, .. } = self;
        let head = parser.head(head);
        let decoder = match BodyDecoder::new(head.body_kind(), shared.limits.body_bytes) {
            Ok(decoder) => decoder,
            Err(error) => return Err(self.refuse(error.status(), error.reason())),
        };
        let is_awaited = head.expects_continue() && rest.is_empty();
        let body = Body {
            decoder,
            input: std::mem::take(rest),
            position: 0,
            stream,
            is_awaited,
            error: None,
            timeout: shared.limits.body_timeout,
        };
        let mut request = Request { head, peer: *peer, body };
        let response = match catch(|| (shared.handler)(&mut request)) {
            Ok(response) => response,
            Err(GreenletError::Killed) => return Err(Close::Now),
            Err(_) => Response::error(500, "the handler panicked"),
        };
        let mut body = request.body;
        let is_drained = body.is_finished() || body.drain();
        // A body that can't be understood is the client's fault, whatever the handler made of it.
        let response = match body.error {
            Some(error) => Response::error(error.status(), error.reason()),
            None => response,
        };
        let Body { input, position, .. } = body;
        let (wants, version) = (head.wants_keep_alive(), head.version());
        let method: &[u8] = match head.method() {
            b"HEAD" => b"HEAD",
            b"CONNECT" => b"CONNECT",
            // No other method changes how a response is framed.
            _ => b"GET",
        };
        self.rest = input;
        self.rest.drain(..position);
        match self.send(response, method, version, wants, is_drained) {
            Ok(true) => Ok(()),
            Ok(false) if is_drained => Err(Close::Now),
            Ok(false) => Err(Close::Lingering),
            Err(_) => Err(Close::Now),
        }
    }

    /// Sends a response; returns whether the connection may carry another one.
    fn send(
        &mut self,
        response: Response,
        method: &[u8],
        version: Version,
        wants_keep_alive: bool,
        is_drained: bool,
    ) -> io::Result<bool> {
        let closes = response.closes() || self.shared.is_stopping.get();
        let length = match &response.content {
            Content::Whole(body) => Some(body.len() as u64),
            Content::Pieces(_) => None,
        };
        let kind = response_body_kind(method, version, response.status, length);
        let persists = keeps_alive(wants_keep_alive, closes, kind, is_drained);
        self.out.clear();
        if self.encode_head(&response, method, version, kind, length, persists).is_err() {
            let instead = Response::error(500, "the handler made a malformed response");
            let kind = response_body_kind(method, version, 500, Some(0));
            self.encode_head(&instead, method, version, kind, None, false)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.write(b"")?;
            return Ok(false);
        }
        match response.content {
            Content::Whole(body) if kind != ResponseBodyKind::None => self.write(&body)?,
            Content::Pieces(pieces) if kind != ResponseBodyKind::None => self.send_pieces(pieces, kind)?,
            _ => self.write(b"")?,
        }
        Ok(persists)
    }

    fn encode_head(
        &mut self,
        response: &Response,
        method: &[u8],
        version: Version,
        kind: ResponseBodyKind,
        length: Option<u64>,
        persists: bool,
    ) -> Result<(), ResponseError> {
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut date = self.shared.date.borrow_mut();
        let mut head = ResponseEncoder::new(&mut self.out, Version::Http11, response.status)?;
        head.date(date.value_at(seconds));
        for (name, value) in &response.headers {
            // The server tells about the connection itself; other options (`upgrade`) are the handler's.
            if !(name.eq_ignore_ascii_case("connection") && response.closes()) {
                head.header(name.as_bytes(), value)?;
            }
        }
        match (kind, length) {
            (ResponseBodyKind::Chunked, _) => {
                head.chunked();
            }
            (ResponseBodyKind::Length(length), _) => {
                head.content_length(length);
            }
            (ResponseBodyKind::None, Some(length))
                if method == b"HEAD" && response.status != 304 && allows_content_length(method, response.status) =>
            {
                // RFC 9110 section 8.6: in answer to HEAD, the length that GET would have.
                head.content_length(length);
            }
            _ => {}
        }
        head.connection(version, persists);
        head.finish();
        Ok(())
    }

    /// Writes what stands in `out`, and `body` behind it.
    fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let mut stream: &TcpStream = self.stream;
        write_all_vectored(&mut stream, &self.out, body)?;
        self.out.clear();
        Ok(())
    }

    fn send_pieces(&mut self, pieces: Box<dyn Iterator<Item = Vec<u8>>>, kind: ResponseBodyKind) -> io::Result<()> {
        let mut pieces = pieces;
        let mut is_first = true;
        loop {
            let piece = catch(|| pieces.next()).map_err(|error| io::Error::other(error.to_string()))?;
            let Some(piece) = piece else { break };
            let Some(size) = NonZeroUsize::new(piece.len()) else {
                continue;
            };
            if kind == ResponseBodyKind::Chunked {
                if !is_first {
                    self.out.extend_from_slice(CHUNK_END);
                }
                is_first = false;
                encode_chunk_head(&mut self.out, size);
            }
            self.write(&piece)?;
        }
        if kind == ResponseBodyKind::Chunked {
            if !is_first {
                self.out.extend_from_slice(CHUNK_END);
            }
            self.out.extend_from_slice(LAST_CHUNK);
        }
        self.write(b"")
    }
}
