//! Accepting connections without Python, and serving new ones with the objects of those that have ended.
//!
//! A connection of a server and handler class that nobody has derived from, or changed, needs a socket object, a handler,
//! its reader and its bound methods. All of them outlive it, if the application has kept none of them: the next
//! connection takes them over. Who looks cannot tell, as nobody has seen them before.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::connection;
use super::handler::{Dozing, Handler};
use super::service::Service;
use super::stock;
use crate::socket::{Accepted, Socket};

/// How many connections are accepted before they are served: what each needs is then still in the processor's cache.
/// The listener stays readable if there are more.
const ACCEPTED_IN_A_TURN: usize = 16;

/// accept_connections(server) -> bool
///
/// Accept some of the connections that wait for *server*, `max_accept` at most, and have them served. False if
/// there may be more which the server itself has to accept: its methods are not ours, it is full, or there was an error.
/// Runs in the hub.
#[pyfunction]
pub fn accept_connections(server: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = server.py();
    let Ok(service) = server.getattr(intern!(py, "_service"))?.cast_into::<Service>() else { return Ok(false) };
    if !service.get().may_doze() || service.get().expects_proxy_header() || !stock::accepts(server)? {
        return Ok(false);
    }
    let listener = server.getattr(intern!(py, "socket"))?;
    if !stock::is_plain_socket(&listener)? {
        return Ok(false);
    }
    let Some(own) = Socket::from_object(&listener) else { return Ok(false) };
    if !service.get().is_undelayed(own.descriptor()) {
        connection::send_without_delay(own.descriptor());
    }
    let handler_class = server.getattr(intern!(py, "handler_class"))?;
    let is_stock = stock::is_stock_handler_class(&handler_class)?;
    let most: usize = server.getattr(intern!(py, "max_accept"))?.extract()?;
    for _ in 0..most.min(ACCEPTED_IN_A_TURN) {
        if !service.get().has_room() {
            return Ok(false);
        }
        let accepted = match own.accept_at_once() {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return Ok(true),
            Err(_) => return Ok(false),
        };
        if is_stock {
            let handler = handler_for(accepted, own, server, &service, &handler_class)?;
            Service::push_ready(&service, Dozing::Handler(handler.unbind()));
        } else {
            let seat = Bound::new(py, Service::seat(&service, accepted.descriptor()))?;
            let address = accepted.address(py)?;
            let socket = accepted.into_object(py, own)?;
            let handle = server.getattr(intern!(py, "_handle"))?;
            let close = server.getattr(intern!(py, "do_close"))?;
            let arguments = PyTuple::new(py, [handle, close, socket, address, seat.into_any()])?;
            Service::push_ready(&service, Dozing::Connection(arguments.unbind()));
        }
    }
    Ok(true)
}

/// The handler of a new connection: that of one that has ended, if there is one.
fn handler_for<'py>(
    accepted: Accepted,
    listener: Socket,
    server: &Bound<'py, PyAny>,
    service: &Bound<'py, Service>,
    handler_class: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, Handler>> {
    let py = server.py();
    let seat = Service::seat(service, accepted.descriptor());
    if let Some(spare) = service.get().take_spare() {
        let spare = spare.into_bound(py);
        spare.get().reuse(server.clone(), accepted, seat)?;
        return Ok(spare);
    }
    let address = accepted.address(py)?;
    let socket = accepted.into_object(py, listener)?;
    let handler = handler_class.call1((socket, address, server))?.cast_into::<Handler>()?;
    handler.get().take_seat(seat);
    Ok(handler)
}

/// Takes an idle connection out of the handler by which a worker has served it, and keeps the handler for the next that is
/// ready: that then finds all it needs in the processor's cache, and an idle one takes next to no memory. None if somebody
/// else has any of the handler's objects.
pub fn part(handler: &Bound<'_, Handler>, service: &Service) -> Option<Dozing> {
    // That of the caller.
    const REFERENCES: isize = 1;
    if service.is_draining() {
        return None;
    }
    let idle = Handler::part(handler, REFERENCES)?;
    if service.wants_spare() {
        service.keep_spare(handler.clone().unbind());
    }
    Some(Dozing::Parted(Box::new(idle)))
}

/// Closes the connection of a handler that a worker serves, and keeps what it leaves behind for another
/// one. Does nothing, and returns false, if somebody else has any of it.
pub fn keep(handler: &Bound<'_, Handler>, service: &Service) -> bool {
    // That of the caller.
    const REFERENCES: isize = 1;
    if !service.wants_spare() || !Handler::close_to_reuse(handler, REFERENCES) {
        return false;
    }
    service.keep_spare(handler.clone().unbind());
    true
}
