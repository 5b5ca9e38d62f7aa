//! The bytes of a connection: buffered reading and whole writing, straight on the descriptor.
//!
//! ```text
//! buffer  │ head of the request in work │ read before │ not read yet: body, next requests │ free │
//!         0                          kept          start                                  len
//! ```
//!
//! The head stays in the buffer until the next is looked for, so that everything that is known of a request can be made
//! into Python objects when somebody asks for it. Python sees the object as the handler's `rfile`.
//!
//! This file has what a connection consists of, and its life; [`reading`] and [`sending`] move bytes, [`head`] waits for
//! requests, [`file`] is Python's view.
//!
//! A TLS socket, or a socket whose class has a `recv` or `sendall` of its own, is read and written by these methods.

mod file;
mod head;
mod proxy_header;
mod reading;
mod sending;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use greenrust::http::RequestParser;
use greenrust::hub::{Alarm, Hub};
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;

use super::service::{Bounds, Service};
use super::stock;
use crate::gil::Gil;
use crate::hub as py_hub;
use crate::socket::{Patience, Socket};
use crate::websocket::WebSocket;

pub use head::{Arrival, Idle};
pub use proxy_header::read_proxy_header;
pub use sending::send_without_delay;

/// The least room offered to a read, bytes.
const READ_BYTES: usize = 4096;

/// The most room offered to a read, bytes.
const LARGEST_READ_BYTES: usize = 65536;

/// Reads in a row without a park after which the other greenlets get a turn.
const READS_IN_A_TURN: u32 = 64;

/// How the bytes come and go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// System calls on the socket's descriptor.
    Descriptor,
    /// The socket's `recv` and `sendall`.
    Methods,
    /// Read from a file-like object that was given in place of ours; written to the socket.
    File,
}

/// The reading side of a connection, as a file, and what the native driver reads and writes with.
#[pyclass(name = "ConnectionReader", module = "gevent.pywsgi", frozen, weakref)]
pub struct Connection {
    inner: Gil<Inner>,
}

struct Inner {
    socket: RefCell<Option<Py<PyAny>>>,
    file: RefCell<Option<Py<PyAny>>>,
    transport: Cell<Transport>,
    parser: RefCell<RequestParser>,
    buffer: RefCell<Vec<u8>>,
    /// Bytes at the begin that are not to be overwritten: the head of the request in work.
    kept: Cell<usize>,
    start: Cell<usize>,
    has_head: Cell<bool>,
    is_closed: Cell<bool>,
    at_end: Cell<bool>,
    /// Another protocol's bytes follow.
    has_left_http: Cell<bool>,
    /// The peer took nothing for so long that what it was sent is given up.
    is_stalled: Cell<bool>,
    /// Where an error's number does not say so: a write of TLS failed.
    has_lost_peer: Cell<bool>,
    reads: Cell<u32>,
    bounds: Bounds,
    /// The service of the server, and the connection's entry there.
    place: Option<(Py<Service>, Cell<usize>)>,
    alarm: Alarm,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In another thread the timer stays until it expires, and does nothing then.
        if let Some(hub) = Hub::if_current() {
            self.alarm.cancel(hub);
        }
    }
}

fn outcome(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn closed() -> PyErr {
    PyOSError::new_err((libc::EBADF, "Bad file descriptor"))
}

impl Connection {
    /// Takes a socket; `file` is read from in its place if given.
    pub fn new(
        socket: &Bound<'_, PyAny>,
        file: Option<Bound<'_, PyAny>>,
        service: Option<&Bound<'_, Service>>,
    ) -> PyResult<Self> {
        let is_plain = stock::is_plain_socket(socket)?;
        if let Some(socket) = Socket::from_object(socket).filter(|_| is_plain) {
            send_without_delay(socket.descriptor());
        }
        let transport = match (&file, is_plain) {
            (Some(_), _) => Transport::File,
            (None, true) => Transport::Descriptor,
            (None, false) => Transport::Methods,
        };
        let bounds = service.map_or(Bounds::DEFAULT, |service| service.get().bounds());
        let alarm = Alarm::new();
        let mut place = None;
        if let (Some(service), Some(own)) = (service, Socket::from_object(socket))
            && let Some(key) = service.get().find(own.descriptor())
        {
            if transport == Transport::Descriptor {
                service.get().set_alarm(key, &alarm);
            }
            place = Some((service.clone().unbind(), Cell::new(key)));
        }
        Ok(Self {
            inner: Gil::new(Inner {
                socket: RefCell::new(Some(socket.clone().unbind())),
                file: RefCell::new(file.map(Bound::unbind)),
                transport: Cell::new(transport),
                parser: RefCell::new(RequestParser::new(bounds.head)),
                buffer: RefCell::new(Vec::with_capacity(READ_BYTES)),
                kept: Cell::new(0),
                start: Cell::new(0),
                has_head: Cell::new(false),
                is_closed: Cell::new(false),
                at_end: Cell::new(false),
                has_left_http: Cell::new(false),
                is_stalled: Cell::new(false),
                has_lost_peer: Cell::new(false),
                reads: Cell::new(0),
                bounds,
                place,
                alarm,
            }),
        })
    }

    fn socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &*self.inner.socket.borrow() {
            Some(socket) => Ok(socket.bind(py).clone()),
            None => Err(closed()),
        }
    }

    /// Reads and writes another socket from now on, such as a TLS socket over the old one.
    pub fn set_socket(&self, socket: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_plain = stock::is_plain_socket(socket)?;
        if !self.reads_file() {
            self.inner.transport.set(if is_plain { Transport::Descriptor } else { Transport::Methods });
        }
        let old = self.inner.socket.replace(Some(socket.clone().unbind()));
        drop(old);
        Ok(())
    }

    /// Calls `function` with the socket as our own type. The reference keeps the object alive meanwhile.
    fn with_socket<R>(&self, py: Python<'_>, function: impl FnOnce(Socket) -> PyResult<R>) -> PyResult<R> {
        let object = self.socket(py)?;
        function(Socket::from_object(&object).ok_or_else(closed)?)
    }

    /// Whether it reads from the descriptor of this socket, and nothing is left in the middle.
    pub fn may_be_reused(&self, socket: &Py<PyAny>) -> bool {
        let inner = &*self.inner;
        inner.transport.get() == Transport::Descriptor
            && inner.place.is_some()
            && !inner.is_closed.get()
            && !inner.is_stalled.get()
            && !inner.parser.borrow().has_partial_head()
            && inner.socket.borrow().as_ref().is_some_and(|own| own.is(socket))
    }

    /// Whether nothing was received that has not been dealt with.
    pub fn has_nothing(&self) -> bool {
        self.inner.buffer.borrow().is_empty()
    }

    /// Makes it that of another connection, whose entry in the same service is `key`; its socket has adopted that.
    pub fn reuse(&self, key: usize) {
        let inner = &*self.inner;
        inner.buffer.borrow_mut().clear();
        // It may have seen empty lines before a request that never came.
        inner.parser.borrow_mut().reset();
        inner.kept.set(0);
        inner.start.set(0);
        inner.has_head.set(false);
        inner.at_end.set(false);
        inner.reads.set(0);
        if let Some((service, place)) = &inner.place {
            place.set(key);
            service.get().set_alarm(key, &inner.alarm);
        }
    }

    /// Whether nobody can read from it any more.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed.get()
    }

    /// Notes that another protocol's bytes follow, which may take any time.
    pub fn leave_http(&self) {
        self.inner.has_left_http.set(true);
    }

    fn has_left_http(&self) -> bool {
        self.inner.has_left_http.get()
    }

    /// Whether the server is being drained: this connection's next answer is its last.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.inner.place.as_ref().is_some_and(|(service, _)| service.get().is_draining())
    }

    /// Notes which WebSocket the connection has become, if it is one.
    pub fn set_websocket(&self, websocket: Option<&Bound<'_, WebSocket>>) {
        if let Some((service, key)) = &self.inner.place {
            service.get().set_websocket(key.get(), websocket.map(|websocket| websocket.clone().unbind()));
        }
    }

    /// Has the present wait for bytes end in `patience` at the latest.
    pub fn hasten(&self, py: Python<'_>, patience: Duration) -> PyResult<()> {
        let hub = py_hub::ensure(py)?;
        self.inner.alarm.hasten(hub, hub.clock().now().after(patience));
        Ok(())
    }

    /// Whether reads come from a file-like object, which must not be read beyond what is needed.
    #[inline]
    pub fn reads_file(&self) -> bool {
        self.inner.transport.get() == Transport::File
    }

    /// Lets go of the socket: nothing can be read any more.
    pub fn close_reading(&self) {
        self.inner.is_closed.set(true);
        if let Some(hub) = Hub::if_current() {
            self.inner.alarm.cancel(hub);
        }
        let socket = self.inner.socket.borrow_mut().take();
        let file = self.inner.file.borrow_mut().take();
        drop((socket, file));
    }
}

/// Runs `call`, a method of the socket that waits, with a time-out, and restores the socket's own afterwards.
fn with_timeout<R>(socket: &Bound<'_, PyAny>, patience: Patience, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = socket.py();
    let seconds = match patience {
        Patience::Unlimited => return call(),
        Patience::For(duration) => duration.as_secs_f64(),
        Patience::Until(instant) => instant.since(py_hub::ensure(py)?.clock().now()).as_secs_f64(),
    };
    // What only looks like a socket may have no time-outs.
    let Some(own) = socket.getattr_opt(intern!(py, "gettimeout"))? else { return call() };
    let own = own.call0()?;
    let name = intern!(py, "settimeout");
    if own.extract::<f64>().is_ok_and(|own| own <= seconds) {
        return call();
    }
    // Zero would mean not to wait, also for what is there.
    socket.call_method1(name, (seconds.max(1e-6),))?;
    let result = call();
    // A socket that was closed meanwhile takes it, too.
    socket.call_method1(name, (own,))?;
    result
}
