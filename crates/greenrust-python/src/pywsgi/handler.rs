//! The native base of `gevent.pywsgi.WSGIHandler`: serves the requests of one connection, one after another.
//!
//! A step of a request is a function `xyz` here. [`Handler::has`] says whether the method of that name is overridden:
//! then the step is made by calling the method, else by calling the function. The methods call the functions.
//!
//! What a handler's attributes show of the request is made of the head in the connection's buffer when it is asked for;
//! what is assigned to them takes its place.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddrV4};
use std::num::NonZeroUsize;
use std::time::Duration;

use greenrust::http::{
    CHUNK_END, LAST_CHUNK, RequestError, RequestHead, Version, encode_chunk_head, forbids_body, forwarded_scheme,
};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyException, PyOSError, PyTimeoutError, PyTypeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use super::accept;
use super::access_log;
use super::connection::{self, Arrival, Connection};
use super::environ;
use super::input::{Input, Rest};
use super::log_format::{LogFormat, Record};
use super::response;
use super::service::{Seat, Service};
use super::stock::{self, Overrides, Step};
use super::text;
use crate::gil::Gil;
use crate::socket::{Accepted, Patience, Socket};
use crate::websocket::WebSocket;

/// The longest request line, bytes.
const MAX_REQUEST_LINE: usize = 8192;

/// Bodies up to this size are copied behind the head and sent with it by one plain call, bytes.
const COPIED_BYTES: usize = 16384;

/// Chunks of a result are joined up to this size, bytes.
const JOINED_BYTES: usize = 65536;

/// How much and how long a closed connection's peer may go on sending.
const LINGER_BYTES: usize = 1 << 18;
const LINGER_TIME: Duration = Duration::from_secs(1);

const WRITING: &[Step] = &[Step::Write, Step::WriteWithHeaders, Step::WriteBody, Step::SendAll];

/// The steps that might send more after the application's result was sent.
const AROUND_THE_RESULT: &[Step] =
    &[Step::HandleOneRequest, Step::HandleOneResponse, Step::RunApplication, Step::ProcessResult];

/// A Python object, or none.
#[derive(Default)]
struct Slot(RefCell<Option<Py<PyAny>>>);

impl Slot {
    #[inline]
    fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.0.borrow().as_ref().map(|value| value.bind(py).clone())
    }

    #[inline]
    fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Sets the object. The old one is dropped after the new one is in place, as its end may run Python code.
    #[inline]
    fn set(&self, value: Option<Bound<'_, PyAny>>) {
        let old = self.0.replace(value.map(Bound::unbind));
        drop(old);
    }

    #[inline]
    fn clear(&self) {
        self.set(None);
    }
}

/// What comes after a request.
enum Outcome {
    /// The connection is closed, or to be closed.
    Close,
    /// The next request.
    Continue,
    /// An answer, status for the log and bytes, is to be sent, and the connection closed.
    Answer(Py<PyAny>, Py<PyAny>),
    /// Nothing for a while; the client may stay silent for so much longer.
    Idle(Option<Duration>),
}

/// Native base of gevent.pywsgi.WSGIHandler.
#[pyclass(name = "WSGIHandler", module = "gevent._greenrust", subclass, dict, weakref, frozen)]
pub struct Handler {
    inner: Gil<Inner>,
}

#[derive(Default)]
struct Inner {
    socket: Slot,
    client_address: Slot,
    server: Slot,
    rfile: Slot,
    connection: RefCell<Option<Py<Connection>>>,
    service: RefCell<Option<Py<Service>>>,
    overrides: Cell<Overrides>,
    /// The server's `get_environ` is ours and its `environ_class` is dict.
    copies_server_environ: Cell<bool>,

    /// The client's address, of which `client_address` is made when it is asked for.
    peer: Cell<Option<SocketAddrV4>>,
    /// The connection's place, if `serve_accepted` serves it.
    seat: RefCell<Option<Seat>>,
    /// REMOTE_ADDR and REMOTE_PORT.
    remote: RefCell<Option<(Py<PyString>, Py<PyString>)>>,
    start_response: Slot,
    write: Slot,
    empty_input: Slot,

    environ: Slot,
    application: Slot,
    result: Slot,
    wsgi_input: Slot,
    /// What the environment offers, if the request asks for a WebSocket.
    websocket: RefCell<Option<Py<WebSocket>>>,

    // Of the request; none: what the head in the buffer says.
    requestline: Slot,
    command: Slot,
    path: Slot,
    request_version: Slot,
    headers: Slot,
    content_length: Slot,

    /// The encoded status line and fields, without the empty line.
    head: RefCell<Vec<u8>>,
    /// What is sent, kept for its room.
    out: RefCell<Vec<u8>>,
    /// Takes the place of the encoded status.
    status: Slot,
    /// The status as the application gave it.
    native_status: Slot,
    /// Takes the place of the encoded fields.
    response_headers: Slot,
    code: Cell<i32>,
    provided_connection: Cell<bool>,
    provided_server: Cell<bool>,
    /// The size of the head that was sent, bytes.
    head_bytes: Cell<u64>,
    provided_date: Slot,
    provided_content_length: Slot,
    headers_sent: Cell<bool>,
    response_use_chunked: Cell<bool>,
    connection_upgraded: Cell<bool>,
    /// What is being written ends the body.
    is_last_write: Cell<bool>,
    /// Body bytes that the declared Content-Length still allows.
    outstanding: Cell<Option<u64>>,
    response_length: Cell<u64>,
    close_connection: Cell<bool>,
    /// Whether the connection has brought a request before.
    has_served: Cell<bool>,
    /// The peer may still be sending what nobody will read.
    must_linger: Cell<bool>,
    time_start: Cell<f64>,
    time_finish: Cell<f64>,
}

impl Inner {
    fn slots(&self) -> [&Slot; 22] {
        [
            &self.socket,
            &self.client_address,
            &self.server,
            &self.rfile,
            &self.start_response,
            &self.write,
            &self.empty_input,
            &self.environ,
            &self.application,
            &self.result,
            &self.wsgi_input,
            &self.requestline,
            &self.command,
            &self.path,
            &self.request_version,
            &self.headers,
            &self.content_length,
            &self.status,
            &self.native_status,
            &self.response_headers,
            &self.provided_date,
            &self.provided_content_length,
        ]
    }
}

type This<'a, 'py> = &'a Bound<'py, Handler>;

/// Bytes that an application gave: mostly bytes, but any buffer will do.
enum Data<'a, 'py> {
    Bytes(&'a Bound<'py, PyBytes>),
    Buffer(PyBuffer<u8>),
    /// The empty string, which gevent-websocket writes to have the head sent.
    Nothing,
}

impl<'a, 'py> Data<'a, 'py> {
    #[inline]
    fn of(data: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes));
        }
        match PyBuffer::get(data) {
            Ok(buffer) if buffer.is_c_contiguous() => Ok(Self::Buffer(buffer)),
            _ if data.cast::<PyString>().is_ok() && !data.is_truthy()? => Ok(Self::Nothing),
            _ => Err(PyTypeError::new_err(format!(
                "a WSGI application's data must be bytes, not {}",
                data.get_type().name()?
            ))),
        }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Nothing => &[],
            // SAFETY: the buffer is held, contiguous, and of bytes; who changes them meanwhile (a bytearray in another
            // greenlet) changes what is sent, no more.
            Self::Buffer(buffer) => unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes())
            },
        }
    }
}

// -- the greenlet of a connection -------------------------------------------------------------------------------------

/// serve_connection(handle, close, socket, address, seat, handler=None)
///
/// Serve a connection to its end: `handle(socket, address)`, then `close(socket, address)`. Switches.
///
/// If *handle* is that of our server and its handlers are ours, it returns when the connection is idle, and is called
/// again, with the *handler* that has served it so far, when the next request comes.
#[pyfunction]
#[pyo3(signature = (handle, close, socket, address, seat, handler=None))]
pub fn serve_connection<'py>(
    handle: Bound<'py, PyAny>,
    close: Bound<'py, PyAny>,
    socket: Bound<'py, PyAny>,
    address: Bound<'py, PyAny>,
    seat: Bound<'py, Seat>,
    handler: Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let py = handle.py();
    seat.get().begin_serving();
    let service = seat.get().service().bind(py);
    let served = match client_address(service.get(), &socket, address.clone(), handler.is_some()) {
        Ok(Some(client)) => serve_or_doze(service, &handle, &socket, &client, handler),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    if let Ok(Some((handler, longest))) = served {
        let arguments = PyTuple::new(py, [handle, close, socket, address, seat.clone().into_any(), handler])?;
        return Service::doze(service, seat.get().place(), Dozing::Connection(arguments.unbind()), longest);
    }
    let closed = close.call1((socket, address));
    served?;
    closed.map(|_| ())
}

/// The address that a handler is given; None if the client's first bytes do not say it as they must.
fn client_address<'py>(
    service: &Service,
    socket: &Bound<'py, PyAny>,
    address: Bound<'py, PyAny>,
    is_known: bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if is_known || !service.expects_proxy_header() {
        return Ok(Some(address));
    }
    let py = socket.py();
    let patience = service.bounds().header_timeout.map_or(Patience::Unlimited, Patience::For);
    match connection::read_proxy_header(socket, patience)? {
        None => Ok(None),
        Some(None) => Ok(Some(address)),
        Some(Some(source)) => Ok(Some((source.ip().to_string(), source.port()).into_pyobject(py)?.into_any())),
    }
}

/// Serves until the connection ends or is idle: then returns its handler, and for how long it may stay so.
fn serve_or_doze<'py>(
    service: &Bound<'py, Service>,
    handle: &Bound<'py, PyAny>,
    socket: &Bound<'py, PyAny>,
    address: &Bound<'py, PyAny>,
    known: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<(Bound<'py, PyAny>, Option<Duration>)>> {
    let py = handle.py();
    if !service.get().may_doze() || !stock::is_stock_handle(handle)? {
        return handle.call1((socket, address)).map(|_| None);
    }
    let handler = match known {
        Some(handler) => handler,
        None => {
            let server = handle.getattr(intern!(py, "__self__"))?;
            server.getattr(intern!(py, "handler_class"))?.call1((socket, address, server))?
        }
    };
    let longest = match handler.cast::<Handler>() {
        Ok(own) if stock::has_stock_handle(&handler)? => handle_until_idle(own)?,
        _ => return handler.call_method0(intern!(py, "handle")).map(|_| None),
    };
    Ok(longest.map(|longest| (handler, longest)))
}

/// serve_accepted(handler)
///
/// Serve the connection of a stock handler of a stock server, until it ends or is idle. Switches.
#[pyfunction]
pub fn serve_accepted(handler: Bound<'_, Handler>) -> PyResult<()> {
    let py = handler.py();
    let this = handler.get();
    let place = {
        let seat = this.inner.seat.borrow();
        let Some(seat) = &*seat else { return Ok(()) };
        seat.begin_serving();
        (seat.service().clone_ref(py), seat.place())
    };
    let served = serve(&handler, true);
    if let Ok(Some(longest)) = served {
        this.release_memory(py);
        let (service, place) = place;
        return Service::doze(service.bind(py), place, Dozing::Handler(handler.unbind()), longest);
    }
    let ended = if served.is_ok() && accept::keep(&handler, place.0.get()) { Ok(()) } else { end(&handler) };
    let seat = this.inner.seat.take();
    drop(seat);
    served.map(|_| ()).and(ended)
}

/// A connection without a greenlet.
pub enum Dozing {
    /// The arguments of `serve_connection`.
    Connection(Py<PyTuple>),
    /// The argument of `serve_accepted`.
    Handler(Py<Handler>),
}

impl Dozing {
    /// Spawns a greenlet that serves the connection on.
    pub fn serve_on(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Connection(arguments) => accept::spawn(py, false, arguments.bind(py)),
            Self::Handler(handler) => accept::spawn(py, true, &PyTuple::new(py, [handler])?),
        }
    }

    /// Closes the connection. Errors don't matter.
    pub fn close(&self, py: Python<'_>) {
        let socket = match self {
            Self::Connection(arguments) => arguments.bind(py).get_item(2).ok(),
            Self::Handler(handler) => handler.get().inner.socket.get(py),
        };
        if let Some(socket) = socket {
            let _ = socket.call_method0(intern!(py, "close"));
        }
    }

    /// Shows the garbage collector what is held.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Connection(arguments) => visit.call(arguments),
            Self::Handler(handler) => visit.call(handler),
        }
    }
}

// -- the state of a handler -------------------------------------------------------------------------------------------

impl Handler {
    #[inline]
    fn has(&self, step: Step) -> bool {
        self.inner.overrides.get().has(step)
    }

    fn connection(&self, py: Python<'_>) -> Option<Py<Connection>> {
        self.inner.connection.borrow().as_ref().map(|connection| connection.clone_ref(py))
    }

    fn service(&self, py: Python<'_>) -> Option<Py<Service>> {
        self.inner.service.borrow().as_ref().map(|service| service.clone_ref(py))
    }

    /// Lets go of what the next request does not need.
    fn release_memory(&self, py: Python<'_>) {
        let inner = &*self.inner;
        if let Some(connection) = self.connection(py) {
            connection.get().release_memory();
        }
        drop((inner.head.take(), inner.out.take()));
    }

    fn server<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.inner.server.get(py).ok_or_else(|| PyException::new_err("the handler has no server"))
    }

    /// Begins to serve an accepted connection, whose place is `seat`, in a greenlet of its own.
    pub fn take_seat(&self, seat: Seat) {
        self.inner.seat.replace(Some(seat));
    }

    /// Closes the connection and makes ready for [`reuse`](Self::reuse), if nobody else has any of the objects that go
    /// into that. `references` is how many there are to the handler, its own not counted.
    pub fn close_to_reuse(slf: This<'_, '_>, references: isize) -> bool {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let is_plain = inner.overrides.get().is_empty()
            && !inner.must_linger.get()
            && !inner.connection_upgraded.get()
            && !inner.rfile.is_set()
            && !inner.environ.is_set()
            && inner.websocket.borrow().is_none()
            && accept::is_bare(slf.as_any());
        if !is_plain {
            return false;
        }
        let mut own = 0;
        for slot in [&inner.start_response, &inner.write] {
            if let Some(method) = &*slot.0.borrow() {
                own += 1;
                if accept::count(method) != 1 {
                    return false;
                }
            }
        }
        if accept::count(slf.as_unbound()) != references + own {
            return false;
        }
        let socket = inner.socket.0.borrow();
        let connection = inner.connection.borrow();
        let (Some(socket), Some(connection)) = (&*socket, &*connection) else { return false };
        let mut readers = 1;
        if let Some(input) = &*inner.empty_input.0.borrow() {
            readers += 1;
            let is_shown = inner.wsgi_input.0.borrow().as_ref().is_some_and(|shown| shown.is(input));
            if accept::count(input) != 1 + isize::from(is_shown) {
                return false;
            }
        }
        if accept::count(connection) != readers
            || !accept::is_unreferenced(connection.bind(py).as_any())
            || !connection.get().may_be_reused(socket)
            || accept::count(socket) != 2
            || !accept::is_unreferenced(socket.bind(py))
        {
            return false;
        }
        let Some(own) = Socket::from_object(socket.bind(py)) else { return false };
        own.close_to_adopt();
        connection.get().release_large();
        if inner.out.borrow().capacity() > 2 * COPIED_BYTES {
            drop(inner.out.take());
        }
        true
    }

    /// Makes a handler that was closed [so](Self::close_to_reuse) that of another connection of the same server.
    pub fn reuse(&self, py: Python<'_>, accepted: Accepted, seat: Seat) -> PyResult<()> {
        let inner = &*self.inner;
        let peer = accepted.ipv4();
        let address = if peer.is_none() { Some(accepted.address(py)?) } else { None };
        let socket = inner.socket.get(py);
        if let Some(socket) = socket.as_ref().and_then(Socket::from_object) {
            socket.adopt(py, accepted)?;
        }
        if let Some(connection) = &*inner.connection.borrow() {
            connection.get().reuse(seat.place().0);
        }
        inner.peer.set(peer);
        inner.client_address.set(address);
        let remote = inner.remote.take();
        drop(remote);
        inner.has_served.set(false);
        inner.close_connection.set(false);
        inner.headers_sent.set(false);
        inner.code.set(0);
        for slot in [&inner.status, &inner.native_status, &inner.response_headers] {
            slot.clear();
        }
        self.take_seat(seat);
        Ok(())
    }

    /// Forgets what is known of the previous request.
    fn begin_request(&self) {
        let inner = &*self.inner;
        for slot in [
            &inner.requestline,
            &inner.command,
            &inner.path,
            &inner.request_version,
            &inner.headers,
            &inner.content_length,
        ] {
            if slot.is_set() {
                slot.clear();
            }
        }
        inner.response_length.set(0);
    }

    /// Gives access to a part of the head in the buffer.
    fn of_head<R>(&self, py: Python<'_>, function: impl FnOnce(RequestHead<'_>, &[u8]) -> R) -> Option<R> {
        let connection = self.connection(py)?;
        connection.get().with_head(function)
    }

    fn version(&self, py: Python<'_>) -> Version {
        if let Some(version) = self.inner.request_version.get(py) {
            return if version.eq("HTTP/1.1").unwrap_or(false) { Version::Http11 } else { Version::Http10 };
        }
        self.of_head(py, |head, _| head.version()).unwrap_or(Version::Http11)
    }

    /// Whether no body may be sent: the request is HEAD, or the status says so.
    fn is_bodiless(&self, py: Python<'_>) -> bool {
        let code = u16::try_from(self.inner.code.get()).unwrap_or_default();
        // An upgraded connection's bytes are no body.
        if code == 101 {
            return false;
        }
        match self.inner.command.get(py) {
            Some(command) => forbids_body(command.extract::<String>().unwrap_or_default().as_bytes(), code),
            None => self.of_head(py, |head, _| forbids_body(head.method(), code)).unwrap_or(false),
        }
    }

    /// Notes that a WebSocket's handshake was answered: no ordinary response follows.
    pub fn switch_protocols(&self, py: Python<'_>) {
        let inner = &*self.inner;
        inner.code.set(101);
        inner.status.clear();
        inner.native_status.set(Some(intern!(py, "101 Switching Protocols").clone().into_any()));
        inner.headers_sent.set(true);
        inner.connection_upgraded.set(true);
        inner.close_connection.set(true);
    }

    /// Has the connection's end wait for the client's, so that what was sent last reaches one that is still sending.
    pub fn linger_at_end(&self) {
        self.inner.must_linger.set(true);
    }

    fn has_status(&self) -> bool {
        self.inner.status.is_set() || self.inner.native_status.is_set()
    }

    /// The request line as it was sent, without its end.
    fn request_line<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        if let Some(line) = self.inner.requestline.get(py) {
            return Some(line);
        }
        self.of_head(py, |head, _| {
            let line = [head.method(), head.target(), head.version().as_str().as_bytes()].join(&b' ');
            text::latin1(py, &line).into_any()
        })
    }

    /// Takes over what the accepted head says.
    fn accept_head(&self, py: Python<'_>) {
        let wants = self.of_head(py, |head, _| head.wants_keep_alive()).unwrap_or(false);
        self.inner.close_connection.set(!wants);
    }

    fn application_error<'py>(slf: This<'_, 'py>, message: impl IntoPyObject<'py>) -> PyErr {
        match slf.getattr(intern!(slf.py(), "ApplicationError")).and_then(|class| class.call1((message,))) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }

    fn bound_method<'py>(slf: This<'_, 'py>, slot: &Slot, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(method) = slot.get(slf.py()) {
            return Ok(method);
        }
        let method = slf.getattr(name)?;
        slot.set(Some(method.clone()));
        Ok(method)
    }
}

// -- the life of a connection -----------------------------------------------------------------------------------------

/// Serves requests until the connection ends. Switches.
fn handle(slf: This<'_, '_>) -> PyResult<()> {
    let served = serve(slf, false).map(|_| ());
    let ended = end(slf);
    served.and(ended)
}

/// As `handle`, but returns when the connection has been idle for a while, with the time that it may stay so.
fn handle_until_idle(slf: This<'_, '_>) -> PyResult<Option<Option<Duration>>> {
    let served = serve(slf, true);
    if let Ok(Some(longest)) = served {
        slf.get().release_memory(slf.py());
        return Ok(Some(longest));
    }
    let ended = end(slf);
    served.and(ended).map(|()| None)
}

fn serve(slf: This<'_, '_>, may_doze: bool) -> PyResult<Option<Option<Duration>>> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    inner.overrides.set(stock::overrides(slf.as_any())?);
    let server = this.server(py)?;
    let is_plain_dict =
        server.getattr_opt(intern!(py, "environ_class"))?.is_some_and(|class| class.is(py.get_type::<PyDict>()));
    inner.copies_server_environ.set(is_plain_dict && stock::has_stock_get_environ(&server)?);
    while inner.socket.is_set() {
        inner.time_start.set(access_log::now());
        inner.time_finish.set(0.0);
        let outcome = if this.has(Step::HandleOneRequest) {
            outcome_of(slf.call_method0(intern!(py, "handle_one_request"))?)?
        } else {
            handle_one_request(slf, may_doze)?
        };
        match outcome {
            Outcome::Close => break,
            Outcome::Continue => {}
            Outcome::Idle(longest) => return Ok(Some(longest)),
            Outcome::Answer(status, body) => {
                inner.status.set(Some(status.into_bound(py)));
                inner.native_status.clear();
                inner.must_linger.set(true);
                let body = body.bind(py);
                let sent = match (inner.socket.get(py), this.connection(py)) {
                    (Some(_), Some(connection)) => connection.get().send_all(py, &[Data::of(body)?.as_slice()]),
                    _ => Ok(()),
                };
                match sent {
                    Err(error) if !error.is_instance_of::<PyOSError>(py) => return Err(error),
                    // A client that is gone needs no answer.
                    _ => {}
                }
                if inner.time_finish.get() == 0.0 {
                    inner.time_finish.set(access_log::now());
                }
                log_step(slf)?;
                break;
            }
        }
    }
    Ok(None)
}

fn outcome_of(result: Bound<'_, PyAny>) -> PyResult<Outcome> {
    if result.is_none() {
        return Ok(Outcome::Close);
    }
    if result.is(pyo3::types::PyBool::new(result.py(), true)) {
        return Ok(Outcome::Continue);
    }
    let (status, body) = result.extract()?;
    Ok(Outcome::Answer(status, body))
}

/// Closes the connection, unless somebody took the socket away, and lets go of everything.
fn end(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let connection = inner.connection.take();
    let mut result = Ok(());
    if let Some(socket) = inner.socket.get(py) {
        let mut outcomes = Vec::new();
        if let Some(connection) = &connection
            && inner.must_linger.get()
        {
            outcomes.push(connection.get().linger(py, LINGER_BYTES, LINGER_TIME));
        }
        outcomes.push(socket.call_method0(intern!(py, "close")).map(|_| ()));
        for outcome in outcomes {
            if let Err(error) = outcome
                && !error.is_instance_of::<PyOSError>(py)
            {
                result = Err(error);
            }
        }
    }
    if let Some(connection) = connection {
        connection.get().close_reading();
    }
    for slot in
        [&inner.socket, &inner.rfile, &inner.wsgi_input, &inner.empty_input, &inner.start_response, &inner.write]
    {
        slot.clear();
    }
    result
}

// -- the life of a request --------------------------------------------------------------------------------------------

fn handle_one_request(slf: This<'_, '_>, may_doze: bool) -> PyResult<Outcome> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(connection) = this.connection(py) else { return Ok(Outcome::Close) };
    let connection = connection.get();
    if connection.is_closed() {
        return Ok(Outcome::Close);
    }
    this.begin_request();
    if this.inner.overrides.get().has_any(&[Step::ReadRequestline, Step::ReadRequest]) {
        if let Some(outcome) = read_by_methods(slf)? {
            return Ok(outcome);
        }
    } else {
        match connection.read_head(py, !inner.has_served.get(), may_doze) {
            Ok(Arrival::Head) => this.accept_head(py),
            Ok(Arrival::End) => return Ok(Outcome::Close),
            Ok(Arrival::Idle(longest)) => return Ok(Outcome::Idle(longest)),
            Ok(Arrival::Late) => return late(slf),
            Ok(Arrival::Refused(error)) => return refuse(slf, error),
            // A connection that breaks between requests is not worth a word.
            Err(error) if error.is_instance_of::<PyOSError>(py) => return Ok(Outcome::Close),
            Err(error) => return Err(error),
        }
    }
    inner.has_served.set(true);
    if let Some(outcome) = refuse_large_body(slf, connection)? {
        return Ok(outcome);
    }
    let environ =
        if this.has(Step::GetEnviron) { slf.call_method0(intern!(py, "get_environ"))? } else { get_environ(slf)? };
    inner.environ.set(Some(environ));
    inner.application.set(Some(this.server(py)?.getattr(intern!(py, "application"))?));
    if this.has(Step::HandleOneResponse) {
        slf.call_method0(intern!(py, "handle_one_response"))?;
    } else {
        handle_one_response(slf)?;
    }
    if inner.overrides.get().is_empty() {
        // Nobody looks at it any more: an idle connection holds no environment.
        inner.environ.clear();
    }
    if inner.close_connection.get() || connection.is_closed() { Ok(Outcome::Close) } else { Ok(Outcome::Continue) }
}

/// Reads a head by the methods that a subclass overrides. Returns what comes instead of a request.
fn read_by_methods(slf: This<'_, '_>) -> PyResult<Option<Outcome>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let line = match slf.call_method0(intern!(py, "read_requestline")) {
        Ok(line) => match line.cast::<PyBytes>() {
            Ok(bytes) => text::latin1(py, bytes.as_bytes()).into_any(),
            Err(_) => line,
        },
        Err(error) if error.is_instance_of::<PyOSError>(py) => return Ok(Some(Outcome::Close)),
        Err(error) => return Err(error),
    };
    if !line.is_truthy()? {
        return Ok(Some(Outcome::Close));
    }
    inner.requestline.set(Some(line.clone()));
    if line.len()? >= MAX_REQUEST_LINE {
        return refuse(slf, RequestError::RequestLineTooLong).map(Some);
    }
    match slf.call_method1(intern!(py, "read_request"), (line,)) {
        Ok(read) if read.is_truthy()? => Ok(None),
        Ok(_) => answer(py, 400).map(Some),
        Err(error) if error.is_instance_of::<PyException>(py) => client_error(slf, error).map(Some),
        Err(error) => Err(error),
    }
}

/// The answer to a client that began a head and did not end it in time.
fn late(slf: This<'_, '_>) -> PyResult<Outcome> {
    note_refused_line(slf);
    answer(slf.py(), 408)
}

/// The answer to a request that announces more than the server takes.
fn refuse_large_body(slf: This<'_, '_>, connection: &Connection) -> PyResult<Option<Outcome>> {
    let Some(most) = connection.most_body_bytes() else { return Ok(None) };
    let length = connection.with_head(|head, _| head.content_length()).flatten();
    match length {
        Some(length) if length > most => {
            let message = format!("Content-Length is {length}, more than the {most} bytes that are taken");
            client_error(slf, stock::invalid_client_request(slf.py(), &message, 413)?).map(Some)
        }
        _ => Ok(None),
    }
}

/// The bytes that refuse a request.
fn refusal(status: u16) -> Vec<u8> {
    let phrase = match status {
        414 => "Request URI Too Long",
        other => greenrust::http::reason_phrase(other),
    };
    format!("HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-length: 0\r\n\r\n").into_bytes()
}

fn answer(py: Python<'_>, status: u16) -> PyResult<Outcome> {
    let log_status = PyString::new(py, &status.to_string()).into_any().unbind();
    Ok(Outcome::Answer(log_status, PyBytes::new(py, &refusal(status)).into_any().unbind()))
}

/// Notes what came instead of a request line, for the log.
fn note_refused_line<'py>(slf: This<'_, 'py>) -> Bound<'py, PyString> {
    let py = slf.py();
    let this = slf.get();
    let mut line = Vec::new();
    if let Some(connection) = this.connection(py) {
        connection.get().with_unread(|unread| {
            let end = unread.iter().position(|&byte| byte == b'\n').unwrap_or(unread.len());
            line.extend_from_slice(unread[..end.min(MAX_REQUEST_LINE)].trim_ascii_end());
        });
    }
    let line = text::latin1(py, &line);
    if !this.inner.requestline.is_set() {
        this.inner.requestline.set(Some(line.clone().into_any()));
    }
    line
}

/// The answer to a head that is refused.
fn refuse(slf: This<'_, '_>, error: RequestError) -> PyResult<Outcome> {
    let py = slf.py();
    let line = note_refused_line(slf);
    if error == RequestError::RequestLineTooLong {
        return answer(py, 414);
    }
    let shown: String = line.to_string_lossy().chars().take(200).collect();
    let message = format!("Invalid request: {error}: {}", PyString::new(py, &shown).repr()?);
    client_error(slf, stock::invalid_client_request(py, &message, error.status())?)
}

/// Lets the handler say what is answered to an error of the client's.
fn client_error(slf: This<'_, '_>, error: PyErr) -> PyResult<Outcome> {
    let py = slf.py();
    let answered =
        while_handled(py, &error, || slf.call_method1(intern!(py, "_handle_client_error"), (error.value(py),)))?;
    outcome_of(answered)
}

/// Runs `function` as in an `except` clause of `error`, so that `sys.exc_info()` tells of it.
fn while_handled<R>(py: Python<'_>, error: &PyErr, function: impl FnOnce() -> R) -> R {
    // SAFETY: the GIL is held; the call returns a new reference or null.
    let before = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyErr_GetHandledException()) };
    // SAFETY: an exception object, which the call takes a reference to.
    unsafe { ffi::PyErr_SetHandledException(error.value(py).as_ptr()) };
    let result = function();
    // SAFETY: as above; null stands for no exception.
    unsafe { ffi::PyErr_SetHandledException(before.as_ref().map_or(ffi::Py_None(), |error| error.as_ptr())) };
    result
}

fn get_environ<'py>(slf: This<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let server = this.server(py)?;
    let is_as_sent = !(inner.path.is_set()
        || inner.headers.is_set()
        || inner.command.is_set()
        || inner.request_version.is_set()
        || inner.content_length.is_set());
    let Some(connection) = this.connection(py) else {
        return Err(PyException::new_err("the connection is closed"));
    };
    let base = if inner.copies_server_environ.get() {
        server.getattr(intern!(py, "environ"))?.cast_into_exact::<PyDict>().ok()
    } else {
        None
    };
    let service = this.service(py);
    let shared =
        base.as_ref().filter(|_| is_as_sent).zip(service.as_ref().and_then(|service| service.get().templates()));
    if let Some((base, templates)) = shared {
        let remote = remote(slf)?;
        let known = connection.get().with_head(|_, fields| templates.find(base, fields, remote.is_some()));
        if let Some(known) = known.flatten() {
            let environ = known.copy()?;
            connection.get().with_head(|head, _| {
                environ.set_item(intern!(py, "REQUEST_METHOD"), environ::method(py, head.method()))?;
                let (path, query) = head.path_and_query();
                environ::set_path(&environ, path, query.unwrap_or_default())
            });
            if let Some((address, port)) = remote {
                environ.set_item(intern!(py, "REMOTE_ADDR"), address)?;
                environ.set_item(intern!(py, "REMOTE_PORT"), port)?;
            }
            let input = make_input(this, py, &connection)?;
            environ.set_item(intern!(py, "wsgi.input"), &input)?;
            inner.wsgi_input.set(Some(input));
            return Ok(environ.into_any());
        }
    }
    let environ = match &base {
        Some(base) => base.copy()?.into_any(),
        None => server.call_method0(intern!(py, "get_environ"))?,
    };
    let environ = environ.cast::<PyDict>()?;
    fill_environ(slf, environ)?;
    if let Some((base, templates)) = shared {
        let has_remote = remote(slf)?.is_some();
        let fields = connection.get().with_head(|head, fields| environ::is_repeatable(head).then(|| fields.to_vec()));
        if let Some(fields) = fields.flatten() {
            templates.note(base, fields, has_remote, environ)?;
        }
    }
    Ok(environ.clone().into_any())
}

/// Sets what the request brings into a copy of the server's environment.
fn fill_environ(slf: This<'_, '_>, environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(connection) = this.connection(py) else { return Ok(()) };
    environ.set_item(intern!(py, "REQUEST_METHOD"), command(slf))?;
    environ.set_item(intern!(py, "SCRIPT_NAME"), intern!(py, ""))?;
    match inner.path.get(py) {
        Some(path) => {
            let path = response::wire_bytes(&path)?;
            let mut parts = path.splitn(2, |&byte| byte == b'?');
            let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            environ::set_path(environ, path, query)?;
        }
        None => {
            let set = connection.get().with_head(|head, _| {
                let (path, query) = head.path_and_query();
                environ::set_path(environ, path, query.unwrap_or_default())
            });
            set.unwrap_or(Ok(()))?;
        }
    }
    match inner.request_version.get(py) {
        Some(version) => environ.set_item(intern!(py, "SERVER_PROTOCOL"), version)?,
        None => environ.set_item(intern!(py, "SERVER_PROTOCOL"), environ::version(py, this.version(py)))?,
    }
    if let Some((address, port)) = remote(slf)? {
        environ.set_item(intern!(py, "REMOTE_ADDR"), address)?;
        environ.set_item(intern!(py, "REMOTE_PORT"), port)?;
    }
    match inner.headers.get(py) {
        // Somebody looked at the fields, and may have changed them.
        Some(headers) => {
            for pair in headers.call_method0(intern!(py, "items"))?.try_iter()? {
                let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
                if let Some(key) = text::environ_key(py, &response::wire_bytes(&name)?) {
                    environ::add_field(environ, key, text::latin1(py, response::wire_bytes(&value)?.trim_ascii()))?;
                }
            }
        }
        None => {
            connection.get().with_head(|head, _| environ::set_fields(environ, head)).unwrap_or(Ok(()))?;
        }
    }
    set_forwarded(slf, environ)?;
    let upgrades = if this.has(Step::ConnectionUpgradeRequested) {
        slf.call_method0(intern!(py, "_connection_upgrade_requested"))?.is_truthy()?
    } else {
        connection.get().with_head(|head, _| environ::asks_for_upgrade(head)).unwrap_or(false)
    };
    let input = make_input(this, py, &connection)?;
    inner.wsgi_input.set(Some(input.clone()));
    let shown = if upgrades { rfile(slf).unwrap_or(input) } else { input };
    environ.set_item(intern!(py, "wsgi.input"), shown)?;
    if upgrades {
        offer_websocket(slf, &connection, environ)?;
    }
    // Not of PEP 3333: whether the input ends where the body does.
    environ.set_item(intern!(py, "wsgi.input_terminated"), !upgrades)
}

/// Puts a WebSocket into the environment, if the request asks for one.
#[cold]
fn offer_websocket(slf: This<'_, '_>, connection: &Py<Connection>, environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let options = this.server(py)?.getattr_opt(intern!(py, "websocket_options"))?;
    // Of a server of another kind nothing is known.
    let Some(options) = options.filter(|options| !options.is_none()) else { return Ok(()) };
    if let Some(websocket) = WebSocket::offered(slf, connection, environ, &options)? {
        environ.set_item(intern!(py, "wsgi.websocket"), &websocket)?;
        let old = this.inner.websocket.replace(Some(websocket.unbind()));
        drop(old);
    }
    Ok(())
}

/// Ends the request's WebSocket, if it has one that was accepted. Switches.
fn end_websocket(slf: This<'_, '_>, failed: Option<&PyErr>) -> PyResult<()> {
    let py = slf.py();
    let websocket = slf.get().inner.websocket.borrow().as_ref().map(|websocket| websocket.clone_ref(py));
    match websocket {
        Some(websocket) if websocket.get().was_accepted() => websocket.get().finish(py, failed),
        _ => Ok(()),
    }
}

fn make_input<'py>(this: &Handler, py: Python<'py>, connection: &Py<Connection>) -> PyResult<Bound<'py, PyAny>> {
    let parts = connection.get().with_head(|head, _| (head.body_kind(), head.expects_continue()));
    let (kind, expects_continue) = parts.unwrap_or((greenrust::http::BodyKind::None, false));
    let is_empty = matches!(kind, greenrust::http::BodyKind::None);
    if is_empty && let Some(input) = this.inner.empty_input.get(py) {
        return Ok(input);
    }
    let input = Bound::new(py, Input::of_request(connection.clone_ref(py), kind, expects_continue))?.into_any();
    if is_empty {
        this.inner.empty_input.set(Some(input.clone()));
    }
    Ok(input)
}

/// REMOTE_ADDR and REMOTE_PORT, if the client's address is a tuple; made once for the connection.
fn remote<'py>(slf: This<'_, 'py>) -> PyResult<Option<(Bound<'py, PyString>, Bound<'py, PyString>)>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if let Some((address, port)) = &*inner.remote.borrow() {
        return Ok(Some((address.bind(py).clone(), port.bind(py).clone())));
    }
    let (host, port) = if let (Some(peer), Some(service)) = (inner.peer.get(), slf.get().service(py)) {
        (service.get().host(py, *peer.ip()), text::decimal(py, u64::from(peer.port())))
    } else {
        let Some(address) = inner.client_address.get(py).and_then(|address| address.cast_into::<PyTuple>().ok()) else {
            return Ok(None);
        };
        (address.get_item(0)?.str()?, address.get_item(1)?.str()?)
    };
    let old = inner.remote.replace(Some((host.clone().unbind(), port.clone().unbind())));
    drop(old);
    Ok(Some((host, port)))
}

/// The attribute `client_address`.
fn client_address_of<'py>(this: &Handler, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
    let inner = &*this.inner;
    if let Some(peer) = inner.peer.get()
        && !inner.client_address.is_set()
    {
        let address = (peer.ip().to_string(), peer.port()).into_pyobject(py).ok()?;
        inner.client_address.set(Some(address.into_any()));
    }
    inner.client_address.get(py)
}

/// The client's address by what trusted proxies say, if there are such.
fn forwarded_client(slf: This<'_, '_>) -> Option<IpAddr> {
    let py = slf.py();
    let this = slf.get();
    let service = this.service(py)?;
    let trusted = service.get().trusted();
    if trusted.is_empty() || !trusted.trusts(peer(slf)) {
        return None;
    }
    this.of_head(py, |head, _| trusted.client(fields_of(head, b"x-forwarded-for"))).flatten()
}

/// The address of who is at the other end of the connection; None at a Unix socket.
fn peer(slf: This<'_, '_>) -> Option<IpAddr> {
    let (address, _) = remote(slf).ok().flatten()?;
    // A link-local address may have a zone.
    address.to_string_lossy().split('%').next()?.parse().ok()
}

fn fields_of<'a>(head: RequestHead<'a>, name: &'static [u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    head.headers().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Puts what trusted proxies say of the client into the environment.
fn set_forwarded(slf: This<'_, '_>, environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let Some(service) = this.service(py) else { return Ok(()) };
    let trusted = service.get().trusted();
    if trusted.is_empty() || !trusted.trusts(peer(slf)) {
        return Ok(());
    }
    if let Some(client) = forwarded_client(slf) {
        environ.set_item(intern!(py, "REMOTE_ADDR"), client.to_string())?;
        // The port is the proxy's.
        if environ.contains(intern!(py, "REMOTE_PORT"))? {
            environ.del_item(intern!(py, "REMOTE_PORT"))?;
        }
    }
    let scheme = this.of_head(py, |head, _| forwarded_scheme(fields_of(head, b"x-forwarded-proto"))).flatten();
    match scheme {
        Some(scheme) => environ.set_item(intern!(py, "wsgi.url_scheme"), scheme),
        None => Ok(()),
    }
}

fn handle_one_response(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    inner.time_start.set(access_log::now());
    inner.status.clear();
    inner.native_status.clear();
    inner.response_headers.clear();
    inner.headers_sent.set(false);
    inner.result.clear();
    inner.response_use_chunked.set(false);
    inner.connection_upgraded.set(false);
    inner.response_length.set(0);
    inner.head_bytes.set(0);
    inner.outstanding.set(None);
    inner.code.set(0);

    let mut outcome = if this.has(Step::RunApplication) {
        slf.call_method0(intern!(py, "run_application")).map(|_| ())
    } else {
        run_application(slf)
    };
    if inner.websocket.borrow().is_some() {
        let ended = end_websocket(slf, outcome.as_ref().err());
        outcome = outcome.and(ended);
        let websocket = inner.websocket.take();
        drop(websocket);
    }
    if inner.connection_upgraded.get() {
        inner.close_connection.set(true);
    } else {
        match finish_input(this, py) {
            Ok(Rest::Read) => {}
            Ok(Rest::Outstanding) => {
                inner.close_connection.set(true);
                inner.must_linger.set(true);
            }
            Err(error) => {
                inner.close_connection.set(true);
                // Without the rest of the body the next request can't be found. What happened to the application is
                // the more important news, unless the client sends nonsense.
                let is_io = error.is_instance_of::<PyOSError>(py);
                if stock::is_invalid_client_input(py, &error) || (!is_io && outcome.is_ok()) {
                    outcome = Err(error);
                }
            }
        }
    }
    let reported = match outcome {
        Ok(()) => Ok(()),
        Err(error) => report(slf, error),
    };
    inner.time_finish.set(access_log::now());
    let logged = log_step(slf);
    reported.and(logged)
}

fn finish_input(this: &Handler, py: Python<'_>) -> PyResult<Rest> {
    let Some(input) = this.inner.wsgi_input.get(py) else { return Ok(Rest::Read) };
    match input.cast::<Input>() {
        Ok(input) => input.get().finish(py),
        Err(_) => input.call_method0(intern!(py, "_discard")).map(|_| Rest::Read),
    }
}

/// Deals with an exception that ended the application or the sending of its response.
#[cold]
fn report(slf: This<'_, '_>, error: PyErr) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    while_handled(py, &error, || {
        if stock::is_invalid_client_input(py, &error) {
            slf.call_method1(intern!(py, "_handle_client_error"), (error.value(py),))?;
            inner.close_connection.set(true);
            inner.must_linger.set(true);
            let status = error.value(py).getattr(intern!(py, "status_code"))?;
            slf.call_method1(intern!(py, "_send_error_response_if_possible"), (status,))?;
            return Ok(());
        }
        let is_stalled = slf.get().connection(py).is_some_and(|connection| connection.get().is_stalled());
        if is_stalled && error.is_instance_of::<PyTimeoutError>(py) {
            inner.close_connection.set(true);
            return Ok(());
        }
        if error.is_instance_of::<PyOSError>(py) {
            let number = error.value(py).getattr(intern!(py, "errno"))?;
            if slf.getattr(intern!(py, "ignored_socket_errors"))?.contains(number)? {
                inner.close_connection.set(true);
                return Ok(());
            }
        }
        let arguments = (error.get_type(py), error.value(py), error.traceback(py));
        slf.call_method1(intern!(py, "handle_error"), arguments).map(|_| ())
    })
}

fn run_application(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let start_response = Handler::bound_method(slf, &inner.start_response, intern!(py, "start_response"))?;
    let application = match inner.application.get(py) {
        Some(application) => application,
        None => this.server(py)?.getattr(intern!(py, "application"))?,
    };
    let environ = inner.environ.get(py);
    let result = application.call1((environ, start_response))?;
    inner.result.set(Some(result.clone()));
    let processed = if has_websocket(this) {
        // What it returns cannot be sent any more.
        Ok(())
    } else if this.has(Step::ProcessResult) {
        slf.call_method0(intern!(py, "process_result")).map(|_| ())
    } else {
        process_result(slf)
    };
    // A handler may have replaced the result, and what it has at last is what is closed.
    let result = inner.result.get(py).unwrap_or(result);
    let closed = if result.cast_exact::<PyList>().is_ok() || result.cast_exact::<PyTuple>().is_ok() {
        Ok(())
    } else {
        match result.getattr_opt(intern!(py, "close"))? {
            Some(close) if !close.is_none() => close.call0().map(|_| ()),
            _ => Ok(()),
        }
    };
    // A generator's end may free much, and may run Python code.
    drop(result);
    inner.result.clear();
    // As in a `finally` clause, what `close` raises takes the other's place.
    closed.and(processed)
}

/// Whether the application talked by a WebSocket.
#[inline]
fn has_websocket(this: &Handler) -> bool {
    this.inner.websocket.borrow().as_ref().is_some_and(|websocket| websocket.get().was_accepted())
}

fn process_result(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(result) = inner.result.get(py) else { return Ok(()) };
    if !write_at_once(slf, &result)? && !write_file(slf, &result)? {
        for data in result.try_iter()? {
            let data = data?;
            if data.is_truthy()? {
                write_step(slf, &data)?;
            }
        }
    }
    if !inner.headers_sent.get() {
        if !this.has_status() {
            return answer_for_application(slf);
        }
        write_step(slf, PyBytes::new(py, b"").as_any())?;
    }
    if inner.response_use_chunked.get() && !this.is_bodiless(py) {
        send_step(slf, LAST_CHUNK)?;
    }
    if inner.outstanding.get().is_some_and(|outstanding| outstanding > 0) {
        // Fewer bytes than declared: only the connection's end tells the client.
        inner.close_connection.set(true);
    }
    Ok(())
}

/// Answers in place of an application that neither called `start_response` with success nor has anything to send.
#[cold]
fn answer_for_application(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    slf.get().inner.close_connection.set(true);
    slf.call_method1(intern!(py, "log_error"), ("The application did not call start_response()",))?;
    slf.call_method1(intern!(py, "_send_error_response_if_possible"), (500,)).map(|_| ())
}

/// Writes a result that is a list or tuple of little bytes, head and all, by one call. Returns whether it did.
fn write_at_once(slf: This<'_, '_>, result: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    if this.inner.overrides.get().has_any(WRITING) || this.inner.headers_sent.get() || !this.has_status() {
        return Ok(false);
    }
    if let Ok(list) = result.cast_exact::<PyList>()
        && list.len() == 1
    {
        let data = list.get_item(0)?;
        this.inner.is_last_write.set(true);
        let written = write(slf, &data);
        this.inner.is_last_write.set(false);
        return written.map(|()| true);
    }
    let chunks: Vec<Bound<'_, PyAny>> = if let Ok(list) = result.cast_exact::<PyList>() {
        list.iter().collect()
    } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        tuple.iter().collect()
    } else {
        return Ok(false);
    };
    let mut joined = Vec::new();
    for chunk in &chunks {
        match chunk.cast::<PyBytes>() {
            // The plain way raises for it.
            Ok(bytes) if matches!(this.inner.code.get(), 204 | 304) && !bytes.as_bytes().is_empty() => {
                return Ok(false);
            }
            Ok(bytes) if joined.len() + bytes.as_bytes().len() <= JOINED_BYTES => {
                joined.extend_from_slice(bytes.as_bytes());
            }
            _ => return Ok(false),
        }
    }
    this.inner.is_last_write.set(true);
    let written = write_data(slf, PyBytes::new(py, b"").as_any(), &joined);
    this.inner.is_last_write.set(false);
    written.map(|()| true)
}

/// Has the kernel send the file that `wsgi.file_wrapper` was given. Returns whether it did; the head may be sent anyway.
fn write_file(slf: This<'_, '_>, result: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    if !stock::is_file_wrapper(result)?
        || inner.overrides.get().has_any(WRITING)
        || inner.headers_sent.get()
        || matches!(inner.code.get(), 0 | 204 | 304)
    {
        return Ok(false);
    }
    let extent = result.call_method0(intern!(py, "_extent"))?;
    if extent.is_none() {
        return Ok(false);
    }
    let (file, offset, length): (i32, u64, u64) = extent.extract()?;
    if !inner.provided_content_length.is_set() {
        let length = PyString::new(py, &length.to_string());
        append_header(slf, b"Content-Length", text::bytes_of(&length).unwrap_or_default())?;
        inner.provided_content_length.set(Some(length.into_any()));
    }
    write_data(slf, PyBytes::new(py, b"").as_any(), b"")?;
    // No body is to be sent, or a handler has seen to it that its length is unknown.
    let Some(outstanding) = inner.outstanding.get() else { return Ok(this.is_bodiless(py)) };
    let Some(connection) = this.connection(py) else { return Ok(false) };
    match connection.get().send_file(py, file, offset, length.min(outstanding)) {
        Ok(None) => Ok(false),
        Ok(Some(sent)) => {
            inner.outstanding.set(Some(outstanding - sent));
            inner.response_length.set(inner.response_length.get() + sent);
            Ok(true)
        }
        Err(error) => Err(send_failed(slf, error)),
    }
}

// -- the response -----------------------------------------------------------------------------------------------------

fn start_response<'py>(
    slf: This<'_, 'py>,
    status: &Bound<'py, PyAny>,
    headers: &Bound<'py, PyAny>,
    exc_info: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if let Some(exc_info) = exc_info
        && inner.headers_sent.get()
        && exc_info.is_truthy()?
    {
        let value = exc_info.get_item(1)?;
        let traceback = exc_info.get_item(2)?;
        let value = value.call_method1(intern!(py, "with_traceback"), (traceback,))?;
        return Err(PyErr::from_value(value));
    }
    let mut head = inner.head.take();
    let encoded = response::encode(&mut head, status, headers);
    inner.head.replace(head);
    let provided = encoded?;
    let digits = inner.head.borrow()[9..12].iter().fold(0, |code, digit| code * 10 + i32::from(digit - b'0'));
    inner.code.set(digits);
    inner.status.clear();
    inner.native_status.set(Some(status.clone()));
    inner.response_headers.clear();
    inner.provided_connection.set(provided.connection.is_some());
    inner.provided_server.set(provided.server);
    inner.provided_date.set(provided.date.map(|date| date.into_bound(py)));
    if provided.closes {
        inner.close_connection.set(true);
    }
    if let Some(length) = &provided.content_length
        && matches!(digits, 204 | 304)
        && !(length.bind(py).eq("0")?)
    {
        let message = format!(
            "Invalid Content-Length for {digits} response: {} (must be absent or zero)",
            length.bind(py).repr()?
        );
        // Bytes, so that an application can return the error's arguments as its result.
        return Err(Handler::application_error(slf, PyBytes::new(py, message.as_bytes())));
    }
    inner.provided_content_length.set(provided.content_length.map(|length| length.into_bound(py)));
    Handler::bound_method(slf, &inner.write, intern!(py, "write"))
}

fn append_header(slf: This<'_, '_>, name: &[u8], value: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    match inner.response_headers.get(py) {
        Some(list) => {
            list.call_method1(intern!(py, "append"), ((PyBytes::new(py, name), PyBytes::new(py, value)),)).map(|_| ())
        }
        None => {
            let mut head = inner.head.borrow_mut();
            for part in [name, b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
            Ok(())
        }
    }
}

fn finalize_headers(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let code = inner.code.get();
    inner.connection_upgraded.set(code == 101);
    if !inner.provided_date.is_set() {
        let now = inner.time_start.get().max(access_log::now());
        let date = access_log::with_date(now, |value| *value);
        append_header(slf, b"Date", &date)?;
    }
    if !inner.provided_server.get()
        && let Some(service) = this.service(py)
        && let Some(value) = service.get().server_header()
    {
        append_header(slf, b"Server", value)?;
    }
    if inner.connection_upgraded.get() {
        return Ok(());
    }
    if this.connection(py).is_some_and(|connection| connection.get().is_draining()) {
        inner.close_connection.set(true);
    }
    let version = this.version(py);
    if let Some(length) = inner.provided_content_length.get(py) {
        // A handler may have put something else here, to keep us from saying anything.
        if let Ok(length) = length.cast::<PyString>() {
            let length =
                length.to_string_lossy().trim().parse::<u64>().map_err(|_| {
                    Handler::application_error(slf, "The Content-Length of the response is not a number")
                })?;
            inner.outstanding.set(if this.is_bodiless(py) { None } else { Some(length) });
        }
    } else if !matches!(code, 100..=199 | 204 | 304) {
        match result_length(inner.result.get(py))? {
            // What the answer to GET has is not known (RFC 9110 section 8.6).
            Some(0) if this.is_bodiless(py) => {}
            Some(length) => {
                append_header(slf, b"Content-Length", length.to_string().as_bytes())?;
                inner.outstanding.set(if this.is_bodiless(py) { None } else { Some(length) });
            }
            None if this.is_bodiless(py) => {}
            None if version == Version::Http11 => {
                inner.response_use_chunked.set(true);
                append_header(slf, b"Transfer-Encoding", b"chunked")?;
            }
            // Only the connection's end tells the body's.
            None => inner.close_connection.set(true),
        }
    }
    if !inner.provided_connection.get()
        && let Some(option) = greenrust::http::connection_field(version, !inner.close_connection.get())
    {
        append_header(slf, b"Connection", option.as_bytes())?;
    }
    Ok(())
}

/// The size of a result whose chunks are known, bytes.
fn result_length(result: Option<Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(result) = result else { return Ok(None) };
    if let Ok(list) = result.cast_exact::<PyList>()
        && list.len() == 1
        && let Ok(bytes) = list.get_item(0)?.cast::<PyBytes>()
    {
        return Ok(Some(bytes.as_bytes().len() as u64));
    }
    if !result.hasattr(intern!(result.py(), "__len__"))? {
        return Ok(None);
    }
    let mut total = 0;
    for chunk in result.try_iter()? {
        total += chunk?.len()? as u64;
    }
    Ok(Some(total))
}

fn write_step(slf: This<'_, '_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    if slf.get().has(Step::Write) {
        slf.call_method1(intern!(slf.py(), "write"), (data,)).map(|_| ())
    } else {
        write(slf, data)
    }
}

fn write(slf: This<'_, '_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    if matches!(slf.get().inner.code.get(), 204 | 304) && data.is_truthy()? {
        let message = format!("The {} response must have no body", slf.get().inner.code.get());
        return Err(Handler::application_error(slf, message));
    }
    write_data(slf, data, Data::of(data)?.as_slice())
}

/// Writes bytes, with the head before them if it was not sent yet. `object` is what an overriding method is given.
fn write_data(slf: This<'_, '_>, object: &Bound<'_, PyAny>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    if this.inner.headers_sent.get() {
        if this.has(Step::WriteBody) {
            return slf.call_method1(intern!(py, "_write"), (object,)).map(|_| ());
        }
        return write_body(slf, Vec::new(), data);
    }
    if !this.has_status() {
        return Err(Handler::application_error(slf, "The application did not call start_response()"));
    }
    if this.has(Step::WriteWithHeaders) {
        return slf.call_method1(intern!(py, "_write_with_headers"), (object,)).map(|_| ());
    }
    write_with_headers(slf, object, data)
}

fn write_with_headers(slf: This<'_, '_>, object: &Bound<'_, PyAny>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    if this.has(Step::FinalizeHeaders) {
        slf.call_method0(intern!(py, "finalize_headers"))?;
    } else {
        finalize_headers(slf)?;
    }
    if inner.status.is_set() || inner.response_headers.is_set() {
        encode_attributes(slf)?;
    }
    let mut out = inner.out.take();
    out.clear();
    out.extend_from_slice(&inner.head.borrow());
    out.extend_from_slice(b"\r\n");
    inner.head_bytes.set(out.len() as u64);
    if this.inner.overrides.get().has_any(&[Step::WriteBody, Step::SendAll]) {
        inner.headers_sent.set(true);
        send_step(slf, &out)?;
        return slf.call_method1(intern!(py, "_write"), (object,)).map(|_| ());
    }
    write_body(slf, out, data)
}

/// Encodes the head from the attributes that somebody has set or looked at.
#[cold]
fn encode_attributes(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let status = status(slf);
    let status = match status {
        Some(status) => response::wire_bytes(&status)?,
        None => Vec::new(),
    };
    let headers = response_headers(slf)?;
    let mut head = inner.head.take();
    let encoded =
        response::encode_attributes(&mut head, &status, headers.as_ref().unwrap_or(PyTuple::empty(py).as_any()));
    inner.head.replace(head);
    encoded
}

/// Sends `out`, which is the head or nothing, and the bytes of a body, framed.
fn write_body(slf: This<'_, '_>, mut out: Vec<u8>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let data = if this.is_bodiless(py) { &[][..] } else { data };
    if let Some(outstanding) = inner.outstanding.get() {
        let length = data.len() as u64;
        if length > outstanding {
            inner.close_connection.set(true);
            let message = format!(
                "The body is longer than the Content-Length of the response, by {} bytes",
                length - outstanding
            );
            return Err(Handler::application_error(slf, message));
        }
        inner.outstanding.set(Some(outstanding - length));
    }
    inner.headers_sent.set(true);
    let is_chunk = inner.response_use_chunked.get();
    let Some(size) = NonZeroUsize::new(data.len()) else {
        let sent = if out.is_empty() { Ok(()) } else { send(slf, &[&out]) };
        inner.out.replace(out);
        return sent;
    };
    if is_chunk {
        encode_chunk_head(&mut out, size);
    }
    let end: &[u8] = if is_chunk { CHUNK_END } else { b"" };
    let sent = if this.has(Step::SendAll) {
        out.extend_from_slice(data);
        out.extend_from_slice(end);
        send_step(slf, &out)
    } else if data.len() <= COPIED_BYTES {
        out.extend_from_slice(data);
        out.extend_from_slice(end);
        send(slf, &[&out])
    } else if out.is_empty() && end.is_empty() {
        send(slf, &[data])
    } else {
        send(slf, &[&out, data, end])
    };
    inner.out.replace(out);
    sent
}

fn send_step(slf: This<'_, '_>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    if slf.get().has(Step::SendAll) {
        return slf.call_method1(intern!(py, "_sendall"), (PyBytes::new(py, data),)).map(|_| ());
    }
    send(slf, &[data])
}

fn send(slf: This<'_, '_>, parts: &[&[u8]]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(connection) = this.connection(py) else {
        return Err(PyOSError::new_err((libc::EBADF, "the connection is closed")));
    };
    // Chunks have an end of their own.
    let ends = inner.is_last_write.get()
        && inner.close_connection.get()
        && inner.headers_sent.get()
        && !inner.response_use_chunked.get()
        && !inner.connection_upgraded.get()
        && !inner.overrides.get().has_any(AROUND_THE_RESULT);
    let sent = if ends { connection.get().send_last(py, parts) } else { connection.get().send_all(py, parts) };
    match sent {
        Ok(()) => {
            let total: usize = parts.iter().map(|part| part.len()).sum();
            inner.response_length.set(inner.response_length.get() + total as u64);
            Ok(())
        }
        Err(error) => Err(send_failed(slf, error)),
    }
}

/// Notes for the log that sending failed.
#[cold]
fn send_failed(slf: This<'_, '_>, error: PyErr) -> PyErr {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if error.is_instance_of::<PyOSError>(py) {
        let text = format!("socket error: {}", error.value(py));
        inner.status.set(Some(PyString::new(py, &text).into_any()));
        inner.code.set(-inner.code.get().abs());
    }
    error
}

// -- the access log ---------------------------------------------------------------------------------------------------

fn log_step(slf: This<'_, '_>) -> PyResult<()> {
    if slf.get().has(Step::LogRequest) {
        slf.call_method0(intern!(slf.py(), "log_request")).map(|_| ())
    } else {
        log_request(slf)
    }
}

fn log_request(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let log = this.server(py)?.getattr(intern!(py, "log"))?;
    if stock::is_no_log(&log)? {
        return Ok(());
    }
    let line = if this.has(Step::FormatRequest) {
        slf.call_method0(intern!(py, "format_request"))?.add("\n")?
    } else {
        let service = this.service(py);
        let format = service.as_ref().map_or(&LogFormat::Standard, |service| service.get().log_format());
        let mut line = match format {
            LogFormat::Standard => request_log_line(slf)?,
            format => formatted_log_line(slf, format)?,
        };
        line.push(b'\n');
        text::latin1(py, &line).into_any()
    };
    log.call_method1(intern!(py, "write"), (line,)).map(|_| ())
}

/// What the log says of a value. What is not latin-1 can't come from the wire; it is shown as Python would escape it.
fn shown(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let text = value.str()?;
    Ok(text::bytes_of(&text)
        .map_or_else(|| text.to_string_lossy().escape_default().to_string().into_bytes(), <[u8]>::to_vec))
}

/// The client's address and port, as the log shows them.
fn logged_client(slf: This<'_, '_>) -> PyResult<(Vec<u8>, Vec<u8>)> {
    let py = slf.py();
    let this = slf.get();
    if let Some(client) = forwarded_client(slf) {
        return Ok((client.to_string().into_bytes(), Vec::new()));
    }
    match remote(slf)? {
        Some((address, port)) => Ok((shown(address.as_any())?, shown(port.as_any())?)),
        None => match client_address_of(this, py).filter(|address| address.is_truthy().unwrap_or(false)) {
            Some(address) => Ok((shown(&address)?, Vec::new())),
            None => Ok((Vec::new(), Vec::new())),
        },
    }
}

/// The status code, as the log shows it.
fn logged_status(slf: This<'_, '_>) -> Vec<u8> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let status = match inner.native_status.get(py).or_else(|| inner.status.get(py)) {
        Some(status) => response::wire_bytes(&status).unwrap_or_default(),
        None => b"000".to_vec(),
    };
    status.split(|&byte| byte == b' ').next().unwrap_or_default().to_vec()
}

fn request_log_line(slf: This<'_, '_>) -> PyResult<Vec<u8>> {
    let inner = &*slf.get().inner;
    let (client, _) = logged_client(slf)?;
    let request_line = slf.get().request_line(slf.py()).map_or(Ok(Vec::new()), |line| shown(&line))?;
    let status = logged_status(slf);
    let (start, finish) = (inner.time_start.get(), inner.time_finish.get());
    let seconds = (finish != 0.0).then_some(finish - start);
    Ok(access_log::line(&client, request_line.trim_ascii_end(), &status, inner.response_length.get(), seconds))
}

fn formatted_log_line(slf: This<'_, '_>, format: &LogFormat) -> PyResult<Vec<u8>> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let (client, port) = logged_client(slf)?;
    let request_line = this.request_line(py).map_or(Ok(Vec::new()), |line| shown(&line))?;
    let head = inner.head.borrow().clone();
    let line = format.line(&Record {
        client: &client,
        port: &port,
        request_line: request_line.trim_ascii_end(),
        status: &logged_status(slf),
        bytes_sent: inner.response_length.get(),
        head_bytes: inner.head_bytes.get(),
        start: inner.time_start.get(),
        seconds: (inner.time_finish.get() - inner.time_start.get()).max(0.0),
        request_field: &|name| this.of_head(py, |head, _| head.header(name).map(<[u8]>::to_vec)).flatten(),
        response_field: &|name| response::field_of(&head, name).map(<[u8]>::to_vec),
    });
    Ok(line.unwrap_or_default())
}

// -- attributes -------------------------------------------------------------------------------------------------------

fn command<'py>(slf: This<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    this.inner.command.get(py).or_else(|| this.of_head(py, |head, _| environ::method(py, head.method()).into_any()))
}

fn rfile<'py>(slf: This<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    this.inner.rfile.get(py).or_else(|| this.connection(py).map(|connection| connection.into_bound(py).into_any()))
}

fn status<'py>(slf: This<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    inner.status.get(py).or_else(|| {
        let native = inner.native_status.get(py)?;
        let bytes = native.cast::<PyString>().ok().and_then(text::bytes_of)?;
        Some(PyBytes::new(py, bytes).into_any())
    })
}

fn response_headers<'py>(slf: This<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if let Some(list) = inner.response_headers.get(py) {
        return Ok(Some(list));
    }
    if !inner.native_status.is_set() {
        return Ok(None);
    }
    let head = inner.head.borrow().clone();
    let list = response::list_of(py, &head)?.into_any();
    inner.response_headers.set(Some(list.clone()));
    Ok(Some(list))
}

/// None stands for no object.
fn some(value: Bound<'_, PyAny>) -> Option<Bound<'_, PyAny>> {
    Some(value).filter(|value| !value.is_none())
}

#[pymethods]
impl Handler {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        let _ = (args, kwargs);
        Self { inner: Gil::default() }
    }

    #[pyo3(signature = (sock, address, server, rfile=None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        sock: Bound<'_, PyAny>,
        address: Bound<'_, PyAny>,
        server: Bound<'_, PyAny>,
        rfile: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let service =
            server.getattr_opt(intern!(py, "_service"))?.and_then(|service| service.cast_into::<Service>().ok());
        let connection = Py::new(py, Connection::new(&sock, rfile.clone(), service.as_ref())?)?;
        drop(inner.service.replace(service.map(Bound::unbind)));
        drop(inner.connection.replace(Some(connection)));
        inner.rfile.set(rfile);
        inner.socket.set(Some(sock));
        inner.client_address.set(Some(address));
        inner.server.set(Some(server));
        inner.overrides.set(stock::overrides(slf.as_any())?);
        Ok(())
    }

    /// Serve the requests of the connection, one after another, until it ends; then close it. Switches.
    fn handle(slf: &Bound<'_, Self>) -> PyResult<()> {
        handle(slf)
    }

    /// Serve one request. Returns True if another may follow, None if the connection is to be closed, or a tuple of a
    /// status and the bytes to send before it is closed. Switches.
    fn handle_one_request<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        Ok(match handle_one_request(slf, false)? {
            Outcome::Close | Outcome::Idle(_) => None,
            Outcome::Continue => Some(pyo3::types::PyBool::new(py, true).to_owned().into_any()),
            Outcome::Answer(status, body) => Some((status, body).into_pyobject(py)?.into_any()),
        })
    }

    /// Read and return the request line, with its line end, as a str. Switches.
    fn read_requestline<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        let py = slf.py();
        let line = match slf.get().connection(py) {
            Some(connection) => {
                connection.get().forget_head();
                connection.get().read_request_line(py, MAX_REQUEST_LINE)?
            }
            None => Vec::new(),
        };
        Ok(text::latin1(py, &line))
    }

    /// Read and parse the rest of the head that begins with the line *raw_requestline*. Returns True. Switches.
    ///
    /// Raises ValueError for a head that is refused.
    fn read_request(slf: &Bound<'_, Self>, raw_requestline: &Bound<'_, PyString>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        let Some(connection) = this.connection(py) else { return Ok(false) };
        let mut line = response::wire_bytes(raw_requestline.as_any())?;
        if !line.ends_with(b"\n") && line.len() < MAX_REQUEST_LINE {
            line.extend_from_slice(b"\r\n");
        }
        connection.get().unread(&line);
        let trimmed = text::latin1(py, line.trim_ascii_end());
        this.inner.requestline.set(Some(trimmed.clone().into_any()));
        match connection.get().read_head(py, true, false)? {
            Arrival::Head => {
                this.accept_head(py);
                Ok(true)
            }
            Arrival::Late => Err(stock::invalid_client_request(py, "Request not complete in time", 408)?),
            Arrival::End | Arrival::Idle(_) => Err(stock::invalid_client_request(py, "Incomplete request", 400)?),
            Arrival::Refused(error) => {
                let message = format!("Invalid request: {error}: {}", trimmed.repr()?);
                Err(stock::invalid_client_request(py, &message, error.status())?)
            }
        }
    }

    /// Make the environment of the request whose head was read: the server's, and what the head says.
    fn get_environ<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get_environ(slf)
    }

    /// Run the application and deal with what it raises; then log the request. Switches.
    fn handle_one_response(slf: &Bound<'_, Self>) -> PyResult<()> {
        handle_one_response(slf)
    }

    /// Call the application, send what it returns, and close that. Switches.
    fn run_application(slf: &Bound<'_, Self>) -> PyResult<()> {
        run_application(slf)
    }

    /// Send `result`, the application's return value. Switches.
    fn process_result(slf: &Bound<'_, Self>) -> PyResult<()> {
        process_result(slf)
    }

    /// The callable that applications are given (PEP 3333, "The start_response() Callable"). Returns `write`.
    ///
    /// Raises ValueError for a status or headers that would break the response, UnicodeError for what is no latin-1
    /// string, and what *exc_info* tells of if the headers have been sent.
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        start_response(slf, status, headers, exc_info)
    }

    /// Send bytes of the body, with the head before them if it was not sent yet. Switches.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        write(slf, data)
    }

    /// Send the head and bytes of the body. Switches.
    fn _write_with_headers(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        write_with_headers(slf, data, Data::of(data)?.as_slice())
    }

    /// Send bytes of the body, framed. Switches.
    fn _write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        write_body(slf, Vec::new(), Data::of(data)?.as_slice())
    }

    /// Send bytes as they are. Switches.
    fn _sendall(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        send(slf, &[Data::of(data)?.as_slice()])
    }

    /// Add the headers that the application did not give: Date, Connection, and how the body ends.
    fn finalize_headers(slf: &Bound<'_, Self>) -> PyResult<()> {
        finalize_headers(slf)
    }

    /// Write a line about the request to the server's log.
    fn log_request(slf: &Bound<'_, Self>) -> PyResult<()> {
        log_request(slf)
    }

    /// Return the line about the request.
    fn format_request<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        Ok(text::latin1(slf.py(), &request_log_line(slf)?))
    }

    /// Whether the request asks to leave HTTP: `wsgi.input` is then the connection itself.
    fn _connection_upgrade_requested(slf: &Bound<'_, Self>) -> bool {
        slf.get().of_head(slf.py(), |head, _| environ::asks_for_upgrade(head)).unwrap_or(false)
    }

    // What the connection is.

    #[getter]
    fn get_socket<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.socket.get(slf.py())
    }

    #[setter]
    fn set_socket(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        if let (Some(connection), false) = (this.connection(slf.py()), value.is_none()) {
            connection.get().set_socket(&value)?;
        }
        this.inner.socket.set(some(value));
        Ok(())
    }

    #[getter]
    fn get_rfile<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        rfile(slf)
    }

    #[setter]
    fn set_rfile(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let connection = match value.cast::<Connection>() {
            Ok(connection) => Some(connection.clone().unbind()),
            Err(_) => match inner.socket.get(py) {
                Some(socket) if !value.is_none() => {
                    let service = slf.get().service(py).map(|service| service.into_bound(py));
                    Some(Py::new(py, Connection::new(&socket, Some(value.clone()), service.as_ref())?)?)
                }
                _ => None,
            },
        };
        drop(inner.connection.replace(connection));
        inner.rfile.set(some(value));
        Ok(())
    }

    #[getter]
    fn get_request_version<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.inner
            .request_version
            .get(py)
            .or_else(|| this.of_head(py, |head, _| environ::version(py, head.version()).clone().into_any()))
    }

    #[setter]
    fn set_request_version(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.request_version.set(some(value));
    }

    #[getter]
    fn get_requestline<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().request_line(slf.py())
    }

    #[setter]
    fn set_requestline(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.requestline.set(some(value));
    }

    #[getter]
    fn get_command<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        command(slf)
    }

    #[setter]
    fn set_command(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.command.set(some(value));
    }

    #[getter]
    fn get_path<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.inner.path.get(py).or_else(|| this.of_head(py, |head, _| text::latin1(py, head.target()).into_any()))
    }

    #[setter]
    fn set_path(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.path.set(some(value));
    }

    /// The request's fields, as `MessageClass` makes them.
    #[getter]
    fn get_headers<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if let Some(headers) = this.inner.headers.get(py) {
            return Ok(headers);
        }
        let fields = this.of_head(py, |_, fields| {
            let start = fields.iter().position(|&byte| byte == b'\n').map_or(0, |place| place + 1);
            fields[start..].to_vec()
        });
        let file = py.import(intern!(py, "io"))?.getattr(intern!(py, "BytesIO"))?;
        let file = file.call1((PyBytes::new(py, &fields.unwrap_or_default()),))?;
        let headers = slf.call_method1(intern!(py, "MessageClass"), (file, 0))?;
        this.inner.headers.set(Some(headers.clone()));
        Ok(headers)
    }

    #[setter]
    fn set_headers(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.headers.set(some(value));
    }

    #[getter]
    fn get_content_length<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        if let Some(length) = this.inner.content_length.get(py) {
            return Ok(Some(length));
        }
        match this.of_head(py, |head, _| head.content_length()).flatten() {
            Some(length) => Ok(Some(length.into_pyobject(py)?.into_any())),
            None => Ok(None),
        }
    }

    #[setter]
    fn set_content_length(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.content_length.set(some(value));
    }

    // What the response is.

    #[getter]
    fn get_status<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        status(slf)
    }

    #[setter]
    fn set_status(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        let inner = &*slf.get().inner;
        if value.is_none() {
            inner.native_status.clear();
        }
        inner.status.set(some(value));
    }

    #[getter(_orig_status)]
    fn get_native_status<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.native_status.get(slf.py())
    }

    #[getter]
    fn get_response_headers<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        response_headers(slf)
    }

    #[setter]
    fn set_response_headers(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.response_headers.set(some(value));
    }

    #[getter]
    fn get_code(&self) -> Option<i32> {
        Some(self.inner.code.get()).filter(|&code| code != 0)
    }

    #[setter]
    fn set_code(&self, value: Option<i32>) {
        self.inner.code.set(value.unwrap_or_default());
    }

    #[getter]
    fn get_client_address<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        client_address_of(slf.get(), slf.py())
    }

    #[setter]
    fn set_client_address(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.peer.set(None);
        slf.get().inner.client_address.set(some(value));
    }

    #[getter]
    fn get_server<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.server.get(slf.py())
    }

    #[setter]
    fn set_server(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.server.set(some(value));
    }

    #[getter(environ)]
    fn get_made_environ<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.environ.get(slf.py())
    }

    #[setter]
    fn set_environ(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.environ.set(some(value));
    }

    #[getter]
    fn get_application<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.application.get(slf.py())
    }

    #[setter]
    fn set_application(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.application.set(some(value));
    }

    #[getter]
    fn get_result<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.result.get(slf.py())
    }

    #[setter]
    fn set_result(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.result.set(some(value));
    }

    #[getter]
    fn get_wsgi_input<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.wsgi_input.get(slf.py())
    }

    #[setter]
    fn set_wsgi_input(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.wsgi_input.set(some(value));
    }

    #[getter]
    fn get_provided_date<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.provided_date.get(slf.py())
    }

    #[setter]
    fn set_provided_date(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.provided_date.set(some(value));
    }

    #[getter]
    fn get_provided_content_length<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.provided_content_length.get(slf.py())
    }

    #[setter]
    fn set_provided_content_length(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.provided_content_length.set(some(value));
    }

    #[getter]
    fn get_headers_sent(&self) -> bool {
        self.inner.headers_sent.get()
    }

    #[setter]
    fn set_headers_sent(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.headers_sent.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_response_use_chunked(&self) -> bool {
        self.inner.response_use_chunked.get()
    }

    #[setter]
    fn set_response_use_chunked(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.response_use_chunked.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_connection_upgraded(&self) -> bool {
        self.inner.connection_upgraded.get()
    }

    #[setter]
    fn set_connection_upgraded(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.connection_upgraded.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_close_connection(&self) -> bool {
        self.inner.close_connection.get()
    }

    #[setter]
    fn set_close_connection(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.close_connection.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_response_length(&self) -> u64 {
        self.inner.response_length.get()
    }

    #[setter]
    fn set_response_length(&self, value: u64) {
        self.inner.response_length.set(value);
    }

    #[getter]
    fn get_time_start(&self) -> f64 {
        self.inner.time_start.get()
    }

    #[setter]
    fn set_time_start(&self, value: f64) {
        self.inner.time_start.set(value);
    }

    #[getter]
    fn get_time_finish(&self) -> f64 {
        self.inner.time_finish.get()
    }

    #[setter]
    fn set_time_finish(&self, value: f64) {
        self.inner.time_finish.set(value);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.inner.if_made() else { return Ok(()) };
        for slot in inner.slots() {
            if let Ok(value) = slot.0.try_borrow() {
                visit.call(&*value)?;
            }
        }
        if let Ok(connection) = inner.connection.try_borrow() {
            visit.call(&*connection)?;
        }
        if let Ok(websocket) = inner.websocket.try_borrow() {
            visit.call(&*websocket)?;
        }
        if let Ok(service) = inner.service.try_borrow() {
            visit.call(&*service)?;
        }
        if let Ok(seat) = inner.seat.try_borrow()
            && let Some(seat) = &*seat
        {
            visit.call(seat.service())?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let inner = &*self.inner;
        for slot in inner.slots() {
            slot.clear();
        }
        drop(inner.connection.take());
        drop(inner.websocket.take());
        drop(inner.service.take());
    }
}
