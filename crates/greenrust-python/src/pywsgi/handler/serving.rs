//! The greenlet of a connection: it serves one request after another, until the connection ends or is idle.

#![forbid(unsafe_code)]

use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::logging::log_step;
use super::reading::handle_one_request;
use super::{Data, Handler, IdleConnection, This};
use crate::host;
use crate::hub as py_hub;
use crate::pywsgi::connection::{Connection, Idle};
use crate::pywsgi::service::{Awaited, Seat, Service};
use crate::pywsgi::stock::{self, Step};
use crate::pywsgi::worker::Worker;
use crate::pywsgi::{accept, access_log, connection};
use crate::socket::Patience;

/// How much and how long a closed connection's peer may go on sending.
const LINGER_BYTES: usize = 1 << 18;

const LINGER_TIME: Duration = Duration::from_secs(1);

/// What comes after a request.
pub(super) enum Outcome {
    /// The connection is closed, or to be closed.
    Close,
    /// The next request.
    Continue,
    /// An answer, status for the log and bytes, is to be sent, and the connection closed.
    Answer(Py<PyAny>, Py<PyAny>),
    /// Nothing yet.
    Idle(Idle),
}

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
    serve_whole(handle, close, socket, address, seat, handler, None).map(drop)
}

/// Whether the connection rests now: its application has left nothing in the worker.
fn serve_whole<'py>(
    handle: Bound<'py, PyAny>,
    close: Bound<'py, PyAny>,
    socket: Bound<'py, PyAny>,
    address: Bound<'py, PyAny>,
    seat: Bound<'py, Seat>,
    handler: Option<Bound<'py, PyAny>>,
    worker: Option<&Worker<'_>>,
) -> PyResult<bool> {
    let py = handle.py();
    seat.get().begin_serving();
    let service = seat.get().service().bind(py);
    let served = match client_address(seat.get(), &socket, address.clone(), handler.is_some()) {
        Ok(Some(client)) => serve_or_doze(service, &handle, &socket, &client, handler, worker),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    if let Ok(Some((handler, idle))) = served {
        let arguments = PyTuple::new(py, [handle, close, socket, address, seat.clone().into_any(), handler])?;
        Service::lay_down(service, seat.get().place(), Dozing::Connection(arguments.unbind()), idle)?;
        return Ok(idle.is_rest());
    }
    let closed = close.call1((socket, address));
    served?;
    closed.map(|_| false)
}

/// The address that a handler is given; None if the client's first bytes do not say it as they must.
fn client_address<'py>(
    seat: &Seat,
    socket: &Bound<'py, PyAny>,
    address: Bound<'py, PyAny>,
    is_known: bool,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let service = seat.service().get();
    if is_known || !service.expects_proxy_header() {
        return Ok(Some(address));
    }
    let py = socket.py();
    let patience = service.bounds().header_timeout.map_or(Patience::Unlimited, Patience::For);
    let key = seat.place().0;
    service.note_waiting(key, Some(py_hub::ensure(py)?.clock().now()), Awaited::Owed);
    let header = connection::read_proxy_header(socket, patience);
    service.note_serving(key);
    match header? {
        None => Ok(None),
        Some(None) => Ok(Some(address)),
        Some(Some(source)) => Ok(Some((source.ip().to_string(), source.port()).into_pyobject(py)?.into_any())),
    }
}

/// Serves until the connection ends or is idle: then returns its handler, and how it is idle.
fn serve_or_doze<'py>(
    service: &Bound<'py, Service>,
    handle: &Bound<'py, PyAny>,
    socket: &Bound<'py, PyAny>,
    address: &Bound<'py, PyAny>,
    known: Option<Bound<'py, PyAny>>,
    worker: Option<&Worker<'_>>,
) -> PyResult<Option<(Bound<'py, PyAny>, Idle)>> {
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
    let idle = match handler.cast::<Handler>() {
        Ok(own) if stock::has_stock_handle(&handler)? => handle_until_idle(own, worker)?,
        _ => return handler.call_method0(intern!(py, "handle")).map(|_| None),
    };
    Ok(idle.map(|idle| (handler, idle)))
}

/// Serves the connection of a stock handler of a stock server, in a worker, until it ends or is idle. Returns as
/// `serve_whole`. Switches.
fn serve_accepted(handler: Bound<'_, Handler>, worker: &Worker<'_>) -> PyResult<bool> {
    let py = handler.py();
    let this = handler.get();
    let place = {
        let seat = this.inner.seat.borrow();
        let Some(seat) = &*seat else { return Ok(false) };
        seat.begin_serving();
        (seat.service().clone_ref(py), seat.place())
    };
    let served = serve(&handler, true, Some(worker));
    if let Ok(Some(idle)) = served {
        let (service, place) = place;
        let what = accept::part(&handler, service.get()).unwrap_or_else(|| Dozing::Handler(handler.unbind()));
        Service::lay_down(service.bind(py), place, what, idle)?;
        return Ok(idle.is_rest());
    }
    let ended = if served.is_ok() && accept::keep(&handler, place.0.get()) { Ok(()) } else { end(&handler) };
    let seat = this.inner.seat.take();
    drop(seat);
    served.and(ended).map(|()| false)
}

/// A connection without a greenlet.
pub enum Dozing {
    /// The arguments of `serve_connection`.
    Connection(Py<PyTuple>),
    /// A stock handler of a stock server.
    Handler(Py<Handler>),
    /// What such a handler has left to serve others.
    Parted(Box<IdleConnection>),
}

impl Dozing {
    /// Serves the connection until it ends or is idle, in a worker. Returns whether it rests: then its application has left
    /// nothing in the worker. Switches.
    pub fn serve(self, py: Python<'_>, worker: &Worker<'_>) -> PyResult<bool> {
        match self {
            Self::Handler(handler) => serve_accepted(handler.into_bound(py), worker),
            Self::Parted(idle) => {
                let spare = idle.seat.service().get().take_spare();
                serve_accepted(idle.into_handler(py, spare)?, worker)
            }
            Self::Connection(arguments) => {
                let arguments = arguments.into_bound(py);
                let handler = arguments.get_item(5).ok();
                let item = |place| arguments.get_item(place);
                let seat = item(4)?.cast_into()?;
                serve_whole(item(0)?, item(1)?, item(2)?, item(3)?, seat, handler, Some(worker))
            }
        }
    }

    /// Its handler, if it has one.
    pub fn handler<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Handler>> {
        match self {
            Self::Handler(handler) => Some(handler.bind(py).clone()),
            Self::Parted(_) => None,
            Self::Connection(arguments) => arguments.bind(py).get_item(5).ok()?.cast_into().ok(),
        }
    }

    /// What it waits for.
    pub fn awaited(&self, py: Python<'_>) -> Awaited {
        Awaited::between_heads(match self {
            Self::Parted(idle) => idle.has_served,
            _ => self.handler(py).is_some_and(|handler| handler.get().inner.has_served.get()),
        })
    }

    /// Closes the connection. Errors don't matter.
    pub fn close(&self, py: Python<'_>) {
        let socket = match self {
            Self::Connection(arguments) => arguments.bind(py).get_item(2).ok(),
            Self::Handler(handler) => handler.get().inner.socket.get(py),
            // Closed when it is dropped.
            Self::Parted(_) => None,
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
            Self::Parted(idle) => idle.traverse(visit),
        }
    }
}

/// Serves requests until the connection ends. Switches.
pub(super) fn handle(slf: This<'_, '_>) -> PyResult<()> {
    let served = serve(slf, false, None).map(|_| ());
    let ended = end(slf);
    served.and(ended)
}

/// As `handle`, but returns when the connection is idle.
fn handle_until_idle(slf: This<'_, '_>, worker: Option<&Worker<'_>>) -> PyResult<Option<Idle>> {
    let served = serve(slf, true, worker);
    if matches!(served, Ok(Some(_))) {
        return served;
    }
    let ended = end(slf);
    served.and(ended).map(|()| None)
}

/// Finds out, once for a connection, what of handler and server is not ours.
fn prepare(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    inner.overrides.set(stock::overrides(slf.as_any())?);
    inner.copies_server_environ.set(stock::copies_environ(&this.server(py)?)?);
    Ok(())
}

fn serve(slf: This<'_, '_>, may_doze: bool, worker: Option<&Worker<'_>>) -> PyResult<Option<Idle>> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    if !inner.has_served.get() {
        prepare(slf)?;
    }
    while inner.socket.is_set() {
        inner.time_start.set(access_log::now());
        inner.time_finish.set(0.0);
        let outcome = if this.has(Step::HandleOneRequest) {
            outcome_of(slf.call_method0(intern!(py, "handle_one_request"))?)?
        } else {
            handle_one_request(slf, may_doze, worker)?
        };
        match outcome {
            Outcome::Close => {
                // The client sends on, behind a request that was the last; what it gets must not be lost for that.
                let sends_on = |connection: Py<Connection>| connection.get().with_unread(|rest| !rest.is_empty());
                if this.connection(py).is_some_and(sends_on) {
                    inner.must_linger.set(true);
                }
                break;
            }
            Outcome::Continue => {
                let is_next_there =
                    this.connection(py).is_some_and(|connection| connection.get().with_unread(|rest| !rest.is_empty()));
                if is_next_there {
                    host::take_turn_if_due(py)?;
                }
            }
            Outcome::Idle(idle) => return Ok(Some(idle)),
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

pub(super) fn outcome_of(result: Bound<'_, PyAny>) -> PyResult<Outcome> {
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
        if let Some(connection) = &connection {
            connection.get().send_closure_alert(py);
            if inner.must_linger.get() {
                outcomes.push(connection.get().linger(py, LINGER_BYTES, LINGER_TIME));
            }
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
