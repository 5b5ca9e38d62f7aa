//! The native base of `gevent.pywsgi.WSGIHandler`: serves the requests of one connection, one after another.
//!
//! ```text
//! serving       the greenlet of a connection, from its begin to its end or to its sleep
//!   reading       the head of a request
//!   environment   the environment, with `client`: who asks
//!   running       the application, and what it returns or raises
//!     writing       the response
//!   logging       the line in the access log
//! reuse         what becomes of a handler after its connection
//! class         methods and attributes, as Python sees them
//! ```
//!
//! A step of a request is a function `xyz` here. [`Handler::has`] says whether the method of that name is overridden:
//! then the step is made by calling the method, else by calling the function. The methods call the functions.

mod class;
mod client;
mod environment;
mod logging;
mod reading;
mod reuse;
mod running;
mod serving;
mod writing;

pub use reuse::IdleConnection;
pub use serving::{Dozing, serve_connection};

use std::cell::{Cell, RefCell};
use std::net::SocketAddrV4;

use greenrust::http::{RequestHead, Version, forbids_body};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::gil::Gil;
use crate::pywsgi::connection::Connection;
use crate::pywsgi::environ;
use crate::pywsgi::service::{Seat, Service};
use crate::pywsgi::stock::{Overrides, Step};
use crate::pywsgi::text;
use crate::websocket::WebSocket;

/// The longest request line, bytes.
const MAX_REQUEST_LINE: usize = 8192;

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
    pub fn release_memory(&self, py: Python<'_>) {
        let inner = &*self.inner;
        if let Some(connection) = self.connection(py) {
            connection.get().release_memory();
        }
        drop(inner.head.take());
    }

    fn server<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.inner.server.get(py).ok_or_else(|| PyException::new_err("the handler has no server"))
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
        self.with_method(py, |method| forbids_body(method, code))
    }

    /// Whether what follows the response on the connection is no other response: after 1xx and after 2xx to CONNECT.
    fn ends_http(&self, py: Python<'_>) -> bool {
        match self.inner.code.get() {
            100..=199 => true,
            200..=299 => self.with_method(py, |method| method == b"CONNECT"),
            _ => false,
        }
    }

    /// Whether the application may have answered on the socket itself, in a protocol of its own: the request asked for an
    /// upgrade or a tunnel.
    fn may_be_taken_over(&self, py: Python<'_>) -> bool {
        self.with_method(py, |method| method == b"CONNECT")
            || self.of_head(py, |head, _| environ::asks_for_upgrade(head)).unwrap_or(false)
    }

    /// Whether the application has answered on the socket itself, and closed it.
    fn was_taken_over(&self, py: Python<'_>) -> bool {
        self.may_be_taken_over(py)
            && self.inner.socket.get(py).is_some_and(|socket| {
                socket.call_method0(intern!(py, "fileno")).and_then(|number| number.lt(0)).unwrap_or(false)
            })
    }

    fn with_method(&self, py: Python<'_>, judge: impl FnOnce(&[u8]) -> bool) -> bool {
        match self.inner.command.get(py) {
            Some(command) => judge(command.extract::<String>().unwrap_or_default().as_bytes()),
            None => self.of_head(py, |head, _| judge(head.method())).unwrap_or(false),
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
        if let Some(connection) = self.connection(py) {
            connection.get().leave_http();
        }
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

/// None stands for no object.
fn some(value: Bound<'_, PyAny>) -> Option<Bound<'_, PyAny>> {
    Some(value).filter(|value| !value.is_none())
}
