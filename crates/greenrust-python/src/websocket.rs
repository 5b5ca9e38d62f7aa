//! `gevent.websocket.WebSocket`: a WebSocket over a connection of `pywsgi`.
//!
//! Frames and messages are [`greenrust::websocket`]'s; here are the bytes' way to the connection, the waiting, and the
//! translation of messages. A request that can be granted puts an object of this class into the environment. The
//! handshake is answered when the application first uses it, so one that deals with WebSockets itself, or refuses them by
//! an ordinary response, is not disturbed.
//!
//! ```text
//! Offered ──accept──► Open ──close sent and received, or broken──► Ended
//!    └──────────────── the application answers otherwise ─────────────┘
//! ```

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::lock::Semaphore;
use greenrust::websocket::{Connection as Protocol, Event, Handshake, HandshakeRequest, Options};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::exceptions::WebSocketError;
use crate::gil::Gil;
use crate::greenlet::PyGeventGreenlet;
use crate::host;
use crate::hub as py_hub;
use crate::pywsgi::{Connection, Handler};
use crate::socket::Patience;

/// Close codes of RFC 6455, section 7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const ABNORMAL: u16 = 1006;
const INTERNAL_ERROR: u16 = 1011;

/// Adds the class and its exception to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("WebSocketError", module.py().get_type::<WebSocketError>())?;
    module.add_class::<WebSocket>()
}

/// What `gevent.websocket.Options` says about time.
#[derive(Clone, Copy)]
struct Times {
    ping_interval: Option<Duration>,
    ping_timeout: Option<Duration>,
    close_timeout: Duration,
}

enum State {
    Offered(Handshake),
    Open(Box<Protocol>),
    Ended,
}

/// A WebSocket, as ``environ["wsgi.websocket"]``.
///
/// One greenlet may receive while others send. Iterating over it gives the messages until the connection closes.
#[pyclass(name = "WebSocket", module = "gevent.websocket", frozen, weakref)]
pub struct WebSocket {
    inner: Gil<Inner>,
}

struct Inner {
    connection: Py<Connection>,
    /// Told when the handshake is answered; gone when its request is.
    handler: RefCell<Option<Py<Handler>>>,
    state: RefCell<State>,
    /// Held by who sends: a message goes out whole, and in the order in which it was compressed.
    sending: Semaphore,
    is_receiving: Cell<bool>,
    /// The application has called `close`.
    was_told_to_close: Cell<bool>,
    close_code: Cell<Option<u16>>,
    close_reason: RefCell<String>,
    subprotocol: RefCell<Option<String>>,
    offered_subprotocols: Vec<String>,
    path: Py<PyString>,
    origin: Option<Py<PyAny>>,
    version: Py<PyString>,
    times: Times,
    /// Reused by sends.
    output: RefCell<Vec<u8>>,
}

/// What one look at the bytes received came to.
enum Received {
    Message(Py<PyAny>),
    /// A ping or pong: the peer is alive.
    Sign,
    Closed,
    Starved,
}

impl WebSocket {
    /// Returns an object for a request that asks for a WebSocket and can be granted one, else None.
    ///
    /// `options` is a `gevent.websocket.Options`.
    pub fn offered<'py>(
        handler: &Bound<'py, Handler>,
        connection: &Py<Connection>,
        environ: &Bound<'py, PyDict>,
        options: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = handler.py();
        let field = |name: &str| -> PyResult<Option<String>> {
            let value = environ.get_item(name)?;
            Ok(value
                .and_then(|value| value.cast_into::<PyString>().ok())
                .map(|value| value.to_string_lossy().into_owned()))
        };
        let fields = [
            "REQUEST_METHOD",
            "SERVER_PROTOCOL",
            "HTTP_UPGRADE",
            "HTTP_CONNECTION",
            "HTTP_SEC_WEBSOCKET_KEY",
            "HTTP_SEC_WEBSOCKET_VERSION",
            "HTTP_SEC_WEBSOCKET_EXTENSIONS",
            "HTTP_SEC_WEBSOCKET_PROTOCOL",
        ];
        let mut values = Vec::with_capacity(fields.len());
        for name in fields {
            values.push(field(name)?);
        }
        let value = |place: usize| values[place].as_deref().map(str::as_bytes);
        let request = HandshakeRequest {
            method: value(0).unwrap_or_default(),
            is_http11: value(1) == Some(b"HTTP/1.1"),
            upgrade: value(2),
            connection: value(3),
            key: value(4),
            version: value(5),
            extensions: value(6),
            protocols: value(7),
        };
        let (options, times) = settings(options)?;
        let Ok(handshake) = Handshake::new(&request, options) else { return Ok(None) };
        let path = field("PATH_INFO")?.unwrap_or_default();
        let inner = Inner {
            connection: connection.clone_ref(py),
            handler: RefCell::new(Some(handler.clone().unbind())),
            offered_subprotocols: handshake.protocols().to_vec(),
            state: RefCell::new(State::Offered(handshake)),
            sending: Semaphore::new(1),
            is_receiving: Cell::new(false),
            was_told_to_close: Cell::new(false),
            close_code: Cell::new(None),
            close_reason: RefCell::new(String::new()),
            subprotocol: RefCell::new(None),
            path: PyString::new(py, &path).unbind(),
            origin: environ.get_item("HTTP_ORIGIN")?.map(Bound::unbind),
            version: PyString::new(py, "13").unbind(),
            times,
            output: RefCell::new(Vec::new()),
        };
        Bound::new(py, Self { inner: Gil::new(inner) }).map(Some)
    }

    /// Whether the handshake was answered, so that no ordinary response may follow.
    pub fn was_accepted(&self) -> bool {
        !matches!(*self.inner.state.borrow(), State::Offered(_)) && self.inner.handler.borrow().is_some()
    }

    /// Whether it has closed without the application's doing.
    pub fn has_lost_peer(&self) -> bool {
        self.closed() && !self.inner.was_told_to_close.get()
    }

    /// Ends what the application left open: `failed` with its exception, or None. Switches, unless it was killed.
    pub fn finish(&self, py: Python<'_>, failed: Option<&PyErr>) -> PyResult<()> {
        let outcome = match failed {
            None => self.close(py, NORMAL, ""),
            Some(error) if error.is_instance_of::<crate::exceptions::GreenletExit>(py) => {
                // The server stops, and waits for nobody.
                let sent = self.send_by(py, |protocol, output| protocol.close(GOING_AWAY, "", output).map(|()| true));
                sent.map(|_| ())
            }
            Some(_) => self.close(py, INTERNAL_ERROR, ""),
        };
        self.end(ABNORMAL, "");
        self.inner.connection.get().set_websocket(None);
        let handler = self.inner.handler.take();
        drop(handler);
        match outcome {
            // The client may be gone; the connection is closed in any case.
            Err(error) if !error.is_instance_of::<PyOSError>(py) => Err(error),
            _ => Ok(()),
        }
    }

    /// Has the peer told that the server goes away, by a greenlet of its own; for the hub.
    pub fn spawn_going_away(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let function = slf.getattr(intern!(py, "_go_away"))?;
        PyGeventGreenlet::spawn_plain(py, function, PyTuple::empty(py), None).map(|_| ())
    }

    /// Forgets the protocol's state. The code is kept only if none is known.
    fn end(&self, code: u16, reason: &str) {
        let was_open = matches!(self.inner.state.replace(State::Ended), State::Open(_));
        if was_open && self.inner.close_code.get().is_none() {
            self.inner.close_code.set(Some(code));
            self.inner.close_reason.replace(reason.to_owned());
        }
    }

    /// Answers the handshake if that has not been done.
    fn ensure_open(slf: &Bound<'_, Self>) -> PyResult<()> {
        let is_offered = matches!(*slf.get().inner.state.borrow(), State::Offered(_));
        if is_offered { Self::accept(slf, None, None) } else { Ok(()) }
    }

    /// Appends to the output by `function` while nobody else sends, and sends it. Returns what `function` does; false
    /// if the WebSocket has ended. Switches while the peer does not take the bytes.
    fn send_by<E: std::fmt::Display>(
        &self,
        py: Python<'_>,
        function: impl FnOnce(&mut Protocol, &mut Vec<u8>) -> Result<bool, E>,
    ) -> PyResult<bool> {
        let inner = &*self.inner;
        if !inner.sending.try_acquire_core() {
            py_hub::ensure(py)?;
            host::block(py, || inner.sending.acquire_core(None))?;
        }
        let result = self.send_locked(py, function);
        inner.sending.release();
        result
    }

    fn send_locked<E: std::fmt::Display>(
        &self,
        py: Python<'_>,
        function: impl FnOnce(&mut Protocol, &mut Vec<u8>) -> Result<bool, E>,
    ) -> PyResult<bool> {
        let inner = &*self.inner;
        let mut output = inner.output.take();
        output.clear();
        let encoded = match &mut *inner.state.borrow_mut() {
            State::Open(protocol) => {
                function(protocol, &mut output).map_err(|error| WebSocketError::new_err(error.to_string()))
            }
            _ => return Ok(false),
        };
        let sent = match encoded {
            Ok(_) if output.is_empty() => Ok(()),
            Ok(_) => inner.connection.get().send_all(py, &[&output]),
            Err(_) => Ok(()),
        };
        if output.capacity() <= 1 << 16 {
            inner.output.replace(output);
        }
        if sent.is_err() {
            // A frame may have gone out in part: nothing that follows could be understood.
            self.end(ABNORMAL, "");
        }
        sent?;
        encoded
    }

    /// Takes what has been received up to the next message, and answers pings and closes.
    fn take(&self, py: Python<'_>) -> PyResult<Received> {
        let inner = &*self.inner;
        let mut answer = Vec::new();
        let mut refused = None;
        let received = {
            let mut state = inner.state.borrow_mut();
            let State::Open(protocol) = &mut *state else { return Ok(Received::Closed) };
            let mut used = 0;
            let received = inner.connection.get().with_unread(|unread| {
                Ok::<_, PyErr>(match protocol.receive(unread, &mut used, &mut answer) {
                    Ok(Some(Event::Text(text))) => Received::Message(PyString::new(py, text).into_any().unbind()),
                    Ok(Some(Event::Binary(data))) => Received::Message(PyBytes::new(py, data).into_any().unbind()),
                    Ok(Some(Event::Ping(_) | Event::Pong(_))) => Received::Sign,
                    Ok(Some(Event::Close(code, reason))) => {
                        inner.close_code.set(Some(code));
                        inner.close_reason.replace(reason.to_owned());
                        Received::Closed
                    }
                    Ok(None) => Received::Starved,
                    Err(error) => {
                        refused = Some(error);
                        Received::Closed
                    }
                })
            })?;
            inner.connection.get().consume(used);
            match received {
                Received::Starved if protocol.is_finished() => Received::Closed,
                Received::Message(_) => {
                    protocol.trim();
                    received
                }
                _ => received,
            }
        };
        if let Some(error) = refused {
            inner.close_code.set(Some(error.close_code()));
            inner.close_reason.replace(error.reason().to_owned());
            if let Some(handler) = &*inner.handler.borrow() {
                handler.get().linger_at_end();
            }
        }
        if !answer.is_empty() {
            self.send_by(py, |_, output| {
                output.append(&mut answer);
                Ok::<_, std::convert::Infallible>(true)
            })?;
        }
        if matches!(received, Received::Closed) {
            self.end(ABNORMAL, "");
        }
        Ok(received)
    }

    /// Waits for the next message; None when the connection has closed.
    fn next_message(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<Option<Py<PyAny>>> {
        let inner = &*self.inner;
        let mut has_pinged = false;
        loop {
            host::take_turn_if_due(py)?;
            match self.take(py)? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Closed => return Ok(None),
                Received::Sign => continue,
                Received::Starved => {}
            }
            let hub = py_hub::ensure(py)?;
            let is_closing = matches!(&*inner.state.borrow(), State::Open(protocol) if protocol.is_closing());
            let patience = match () {
                () if is_closing => Some(inner.times.close_timeout),
                () if has_pinged => inner.times.ping_timeout,
                () => inner.times.ping_interval,
            };
            let left = deadline.map(|deadline| deadline.since(hub.clock().now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(PyTimeoutError::new_err("timed out"));
            }
            let limit = match (patience, left) {
                (Some(patience), Some(left)) => Some(patience.min(left)),
                (patience, left) => patience.or(left),
            };
            match self.fill(py, limit) {
                Ok(0) => {
                    self.end(ABNORMAL, "");
                    return Ok(None);
                }
                Ok(_) => has_pinged = false,
                Err(error) if error.is_instance_of::<PyTimeoutError>(py) => {
                    if deadline.is_some_and(|deadline| deadline.since(hub.clock().now()).is_zero()) {
                        return Err(error);
                    }
                    if matches!(&*inner.state.borrow(), State::Open(protocol) if protocol.is_closing()) {
                        self.end(ABNORMAL, "");
                        return Ok(None);
                    }
                    if has_pinged {
                        self.close_unanswered(py)?;
                        return Ok(None);
                    }
                    if patience.is_none() {
                        return Err(error);
                    }
                    has_pinged = true;
                    self.send_by(py, |protocol, output| protocol.ping(b"", output).map(|()| true))?;
                }
                Err(error) if error.is_instance_of::<PyOSError>(py) => {
                    // The peer broke the connection.
                    self.end(ABNORMAL, "");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&self, py: Python<'_>, subprotocol: Option<&str>, headers: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let inner = &*self.inner;
        let mut extra = Vec::new();
        if let Some(headers) = headers {
            for pair in headers.try_iter()? {
                let (name, value): (String, String) = pair?.extract()?;
                append_field(&mut extra, &name, &value)?;
            }
        }
        let mut head = Vec::new();
        let mut state = inner.state.borrow_mut();
        let State::Offered(handshake) = &*state else {
            return Err(WebSocketError::new_err("the handshake was already answered"));
        };
        handshake.write_response(subprotocol, &mut head).map_err(|_| {
            PyValueError::new_err(format!(
                "the subprotocol {:?} was not offered, only {:?}",
                subprotocol.unwrap_or_default(),
                inner.offered_subprotocols
            ))
        })?;
        let end = head.len() - 2;
        head.splice(end..end, extra);
        let State::Offered(handshake) = std::mem::replace(&mut *state, State::Ended) else { unreachable!() };
        *state = State::Open(Box::new(handshake.into_connection()));
        drop(state);
        inner.subprotocol.replace(subprotocol.map(str::to_owned));
        if let Some(handler) = &*inner.handler.borrow() {
            handler.get().switch_protocols(py);
        }
        let sent = inner.connection.get().send_all(py, &[&head]);
        if sent.is_err() {
            self.end(ABNORMAL, "");
        }
        sent
    }

    fn fill(&self, py: Python<'_>, limit: Option<Duration>) -> PyResult<usize> {
        let inner = &*self.inner;
        inner.is_receiving.set(true);
        let count = inner.connection.get().fill(py, 0, limit.map_or(Patience::Unlimited, Patience::For));
        inner.is_receiving.set(false);
        count
    }

    /// Gives up a peer that does not answer pings.
    #[cold]
    fn close_unanswered(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.close_code.set(Some(INTERNAL_ERROR));
        self.inner.close_reason.replace("ping timeout".to_owned());
        let sent =
            self.send_by(py, |protocol, output| protocol.close(INTERNAL_ERROR, "ping timeout", output).map(|()| true));
        self.end(INTERNAL_ERROR, "");
        match sent {
            Err(error) if !error.is_instance_of::<PyOSError>(py) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reads a `gevent.websocket.Options`, whose values its class has checked.
fn settings(options: &Bound<'_, PyAny>) -> PyResult<(Options, Times)> {
    let py = options.py();
    let seconds = |name: &Bound<'_, PyString>| -> PyResult<Option<Duration>> {
        Ok(options.getattr(name)?.extract::<Option<f64>>()?.map(py_hub::duration))
    };
    let protocol = Options {
        max_message_size: options.getattr(intern!(py, "max_message_size"))?.extract()?,
        compresses: options.getattr(intern!(py, "compression"))?.extract()?,
        compression_level: options.getattr(intern!(py, "compression_level"))?.extract()?,
        window_bits: options.getattr(intern!(py, "window_bits"))?.extract()?,
        keeps_context: options.getattr(intern!(py, "keeps_context"))?.extract()?,
    };
    let times = Times {
        ping_interval: seconds(intern!(py, "ping_interval"))?,
        ping_timeout: seconds(intern!(py, "ping_timeout"))?,
        close_timeout: seconds(intern!(py, "close_timeout"))?.unwrap_or(Duration::ZERO),
    };
    Ok((protocol, times))
}

/// A field's line for the response to the handshake.
fn append_field(head: &mut Vec<u8>, name: &str, value: &str) -> PyResult<()> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(PyValueError::new_err(format!("{name:?} is not the name of a header field")));
    }
    if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return Err(PyValueError::new_err(format!("the value {value:?} of {name} has control characters")));
    }
    for part in [name, ": ", value, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

#[pymethods]
impl WebSocket {
    /// accept(subprotocol=None, headers=None)
    ///
    /// Answer the handshake, with *subprotocol*, one of `offered_subprotocols`, and *headers*, pairs of strings. Without
    /// it, the first receiving or sending answers. Raises WebSocketError when that was done already, ValueError for a
    /// subprotocol that was not offered and for malformed headers. May switch.
    #[pyo3(signature = (subprotocol=None, headers=None))]
    fn accept(slf: &Bound<'_, Self>, subprotocol: Option<&str>, headers: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let this = slf.get();
        this.answer(slf.py(), subprotocol, headers)?;
        this.inner.connection.get().set_websocket(Some(slf));
        if this.inner.connection.get().is_draining() { this._go_away(slf.py()) } else { Ok(()) }
    }

    /// Say that the server goes away, and give the peer the option `close_timeout` to answer. Switches.
    fn _go_away(&self, py: Python<'_>) -> PyResult<()> {
        let sent = self.send_by(py, |protocol, output| protocol.close(GOING_AWAY, "", output).map(|()| true));
        match sent {
            Ok(_) => self.inner.connection.get().hasten(py, self.inner.times.close_timeout),
            // The peer has gone first.
            Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// receive(timeout=None) -> str | bytes | None
    ///
    /// Return the next message: text as str, binary as bytes; None when the connection has closed (`close_code` tells
    /// how). Raises TimeoutError if none comes for *timeout* seconds; the WebSocket stays usable. Pings are answered, and
    /// sent to a peer that is silent, only while a greenlet is receiving. Switches.
    #[pyo3(signature = (timeout=None))]
    fn receive(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        Self::ensure_open(slf)?;
        let deadline = match timeout {
            None => None,
            Some(timeout) => Some(py_hub::ensure(py)?.clock().now().after(py_hub::duration(timeout))),
        };
        slf.get().next_message(py, deadline)
    }

    /// send(message, binary=None)
    ///
    /// Send a message: str as text, bytes and the like as binary; *binary* says otherwise (bytes sent as text must be
    /// UTF-8). Raises WebSocketError when the connection has closed. Switches while the peer does not take it.
    #[pyo3(signature = (message, binary=None))]
    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>, binary: Option<bool>) -> PyResult<()> {
        let py = slf.py();
        Self::ensure_open(slf)?;
        let text = message.cast::<PyString>().ok();
        let copied: Vec<u8>;
        let data: &[u8] = if let Some(text) = text {
            text.to_str()?.as_bytes()
        } else if let Ok(bytes) = message.cast::<PyBytes>() {
            bytes.as_bytes()
        } else {
            let buffer = PyBuffer::<u8>::get(message).map_err(|_| {
                let kind = message.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
                PyTypeError::new_err(format!("a message is str or bytes, not {kind}"))
            })?;
            copied = buffer.to_vec(py)?;
            &copied
        };
        let is_binary = binary.unwrap_or(text.is_none());
        let as_text = if is_binary {
            None
        } else {
            Some(
                std::str::from_utf8(data)
                    .map_err(|error| PyValueError::new_err(format!("a text message must be UTF-8: {error}")))?,
            )
        };
        let was_open = slf.get().send_by(py, |protocol, output| {
            match as_text {
                Some(text) => protocol.send_text(text, output),
                None => protocol.send_binary(data, output),
            }
            .map(|()| true)
        })?;
        if was_open { Ok(()) } else { Err(WebSocketError::new_err("the WebSocket is closed")) }
    }

    /// ping(payload=b"")
    ///
    /// Send a ping of at most 125 bytes. Raises WebSocketError when it is longer or the connection has closed. Switches
    /// while the peer does not take it.
    #[pyo3(signature = (payload=None))]
    fn ping(slf: &Bound<'_, Self>, payload: Option<&[u8]>) -> PyResult<()> {
        let py = slf.py();
        Self::ensure_open(slf)?;
        let payload = payload.unwrap_or_default();
        let was_open = slf.get().send_by(py, |protocol, output| protocol.ping(payload, output).map(|()| true))?;
        if was_open { Ok(()) } else { Err(WebSocketError::new_err("the WebSocket is closed")) }
    }

    /// close(code=1000, reason="")
    ///
    /// Close the connection: send *code* and *reason*, and wait, at most the option `close_timeout` seconds, until the peer
    /// closes as well; messages that it still sends are dropped. Does nothing on a closed one. Raises WebSocketError for a
    /// code that may not be sent and a reason of more than 123 bytes. Switches.
    #[pyo3(signature = (code=1000, reason=""))]
    fn close(&self, py: Python<'_>, code: u16, reason: &str) -> PyResult<()> {
        let inner = &*self.inner;
        let is_open = matches!(*inner.state.borrow(), State::Open(_));
        if !is_open {
            return Ok(());
        }
        inner.was_told_to_close.set(true);
        self.send_by(py, |protocol, output| protocol.close(code, reason, output).map(|()| true))?;
        // Who is receiving gets the peer's answer.
        if inner.is_receiving.get() {
            return Ok(());
        }
        let hub = py_hub::ensure(py)?;
        let deadline = hub.clock().now().after(inner.times.close_timeout);
        loop {
            match self.take(py)? {
                Received::Message(_) | Received::Sign => continue,
                Received::Closed => return Ok(()),
                Received::Starved => {}
            }
            let left = deadline.since(hub.clock().now());
            let has_more = !left.is_zero() && self.fill(py, Some(left)).is_ok_and(|count| count > 0);
            if !has_more {
                self.end(ABNORMAL, "");
                return Ok(());
            }
        }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::receive(slf, None)
    }

    /// True when nothing can be sent any more.
    #[getter]
    fn closed(&self) -> bool {
        match &*self.inner.state.borrow() {
            State::Offered(_) => false,
            State::Open(protocol) => protocol.is_closing(),
            State::Ended => true,
        }
    }

    /// The code that the connection was closed with (RFC 6455, section 7.4): the peer's, or what it did wrong; 1005 if the
    /// peer gave none, 1006 if it did not close properly, 1011 if it answered no ping; None while it is open.
    #[getter]
    fn close_code(&self) -> Option<u16> {
        self.inner.close_code.get()
    }

    /// What the peer said when it closed, or what it did wrong.
    #[getter]
    fn close_reason(&self) -> String {
        self.inner.close_reason.borrow().clone()
    }

    /// The subprotocol that `accept` chose, or None.
    #[getter]
    fn subprotocol(&self) -> Option<String> {
        self.inner.subprotocol.borrow().clone()
    }

    /// The subprotocols that the client offers, its favourite first.
    #[getter]
    fn offered_subprotocols<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.inner.offered_subprotocols)
    }

    /// The request's path.
    #[getter]
    fn path(&self, py: Python<'_>) -> Py<PyString> {
        self.inner.path.clone_ref(py)
    }

    /// The request's `Origin`, or None.
    #[getter]
    fn origin(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner.origin.as_ref().map(|origin| origin.clone_ref(py))
    }

    /// The subprotocol, by gevent-websocket's name.
    #[getter]
    fn protocol(&self) -> Option<String> {
        self.subprotocol()
    }

    /// The version of the protocol: "13".
    #[getter]
    fn version(&self, py: Python<'_>) -> Py<PyString> {
        self.inner.version.clone_ref(py)
    }

    /// The environment of the request; None after its end.
    #[getter]
    fn environ<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let handler = self.inner.handler.borrow().as_ref().map(|handler| handler.bind(py).clone());
        handler.map(|handler| handler.getattr(intern!(py, "environ"))).transpose()
    }

    fn __repr__(&self) -> String {
        let state = match &*self.inner.state.borrow() {
            State::Offered(_) => "offered",
            State::Open(protocol) if protocol.is_closing() => "closing",
            State::Open(_) => "open",
            State::Ended => "closed",
        };
        format!("<WebSocket {state}>")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.inner.if_made() else { return Ok(()) };
        visit.call(&inner.connection)?;
        if let Ok(handler) = inner.handler.try_borrow() {
            visit.call(&*handler)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let handler = self.inner.handler.take();
        drop(handler);
    }
}
