//! A handler that serves several connections: each leaves it when it ends or is idle, if nobody else has any of the
//! handler's objects. What is left of an idle one is its descriptor and who the client is.

#![forbid(unsafe_code)]

use std::net::SocketAddrV4;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{Handler, This};
use crate::pywsgi::references;
use crate::pywsgi::service::Seat;
use crate::pywsgi::stock;
use crate::socket::{Accepted, Parted, Socket};

/// An idle connection without a handler.
pub struct IdleConnection {
    connection: Parted,
    pub seat: Seat,
    server: Py<PyAny>,
    peer: Option<SocketAddrV4>,
    client_address: Option<Py<PyAny>>,
    /// As it was found for the connection.
    copies_server_environ: bool,
    pub has_served: bool,
}

impl IdleConnection {
    /// Returns a handler that serves the connection on: `spare`, or a new one.
    pub fn into_handler(self, py: Python<'_>, spare: Option<Py<Handler>>) -> PyResult<Bound<'_, Handler>> {
        let handler = match spare {
            Some(spare) => {
                let handler = spare.into_bound(py);
                if let Some(socket) = handler.get().inner.socket.get(py).as_ref().and_then(Socket::from_object) {
                    socket.rejoin(self.connection);
                }
                handler
            }
            None => {
                let address = self.client_address.as_ref().map(|address| address.bind(py).clone());
                let socket = self.connection.into_object(py)?;
                stock::handler_class(py)?.call1((socket, address, &self.server))?.cast_into::<Handler>()?
            }
        };
        let this = handler.get();
        let address = self.client_address.map(|address| address.into_bound(py));
        this.begin_connection(self.server.into_bound(py), self.peer, address, self.seat);
        this.inner.copies_server_environ.set(self.copies_server_environ);
        this.inner.has_served.set(self.has_served);
        Ok(handler)
    }

    /// Shows the garbage collector what is held.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        visit.call(&self.client_address)?;
        visit.call(self.seat.service())
    }
}

impl Handler {
    /// Takes an accepted connection, whose place is `seat`.
    pub fn take_seat(&self, seat: Seat) {
        self.inner.seat.replace(Some(seat));
    }

    /// Closes the connection and makes ready for [`reuse`](Self::reuse), if nobody else has any of the objects that go
    /// into that. `callers` is how many references there are to the handler, its own not counted.
    pub fn close_to_reuse(slf: This<'_, '_>, callers: isize) -> bool {
        let inner = &*slf.get().inner;
        if inner.must_linger.get() {
            return false;
        }
        let Some(socket) = Self::socket_of_nobody_else(slf, callers) else { return false };
        socket.close_to_adopt();
        if let Some(connection) = &*inner.connection.borrow() {
            connection.get().release_large();
        }
        true
    }

    /// Takes the idle connection out of the handler, which so is ready for another one; None if somebody else has any of its
    /// objects, or something was received. `callers` as above.
    pub fn part(slf: This<'_, '_>, callers: isize) -> Option<IdleConnection> {
        let py = slf.py();
        let inner = &*slf.get().inner;
        if !inner.connection.borrow().as_ref().is_some_and(|connection| connection.get().has_nothing()) {
            return None;
        }
        let server = inner.server.get(py)?;
        // The last request's body refers to the reader. Whoever else has it keeps the handler from being parted from.
        if !inner
            .wsgi_input
            .get(py)
            .is_some_and(|input| inner.empty_input.get(py).is_some_and(|empty| empty.is(&input)))
        {
            inner.wsgi_input.clear();
        }
        let socket = Self::socket_of_nobody_else(slf, callers)?;
        let seat = inner.seat.take()?;
        let Some(connection) = socket.part() else {
            inner.seat.replace(Some(seat));
            return None;
        };
        seat.service().get().forget_alarm(seat.place().0);
        if let Some(connection) = &*inner.connection.borrow() {
            connection.get().release_large();
        }
        let peer = inner.peer.get();
        Some(IdleConnection {
            connection,
            seat,
            server: server.unbind(),
            peer,
            // Else made anew when somebody asks.
            client_address: if peer.is_none() { inner.client_address.get(py).map(Bound::unbind) } else { None },
            copies_server_environ: inner.copies_server_environ.get(),
            has_served: inner.has_served.get(),
        })
    }

    /// The socket, if nobody but handler and reader has it, nor any other object that goes from connection to connection.
    fn socket_of_nobody_else(slf: This<'_, '_>, callers: isize) -> Option<Socket> {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let is_plain = inner.overrides.get().is_empty()
            && !inner.connection_upgraded.get()
            && !inner.rfile.is_set()
            && !inner.environ.is_set()
            && inner.websocket.borrow().is_none()
            && references::is_bare(slf.as_any());
        if !is_plain {
            return None;
        }
        let mut own = 0;
        for slot in [&inner.start_response, &inner.write] {
            if let Some(method) = &*slot.0.borrow() {
                own += 1;
                if references::count(method) != 1 {
                    return None;
                }
            }
        }
        if references::count(slf.as_unbound()) != callers + own {
            return None;
        }
        let socket = inner.socket.0.borrow();
        let connection = inner.connection.borrow();
        let (Some(socket), Some(connection)) = (&*socket, &*connection) else { return None };
        let mut readers = 1;
        if let Some(input) = &*inner.empty_input.0.borrow() {
            readers += 1;
            let is_shown = inner.wsgi_input.0.borrow().as_ref().is_some_and(|shown| shown.is(input));
            if references::count(input) != 1 + isize::from(is_shown) {
                return None;
            }
        }
        if references::count(connection) != readers
            || !references::is_unreferenced(connection.bind(py).as_any())
            || !connection.get().may_be_reused(socket)
            || references::count(socket) != 2
            || !references::is_unreferenced(socket.bind(py))
        {
            return None;
        }
        Socket::from_object(socket.bind(py))
    }

    /// Makes a handler that was closed [so](Self::close_to_reuse) that of another connection of the same server.
    pub fn reuse(&self, server: Bound<'_, PyAny>, accepted: Accepted, seat: Seat) -> PyResult<()> {
        let py = server.py();
        let inner = &*self.inner;
        let peer = accepted.ipv4();
        let address = if peer.is_none() { Some(accepted.address(py)?) } else { None };
        let socket = inner.socket.get(py);
        if let Some(socket) = socket.as_ref().and_then(Socket::from_object) {
            socket.adopt(py, accepted)?;
        }
        self.begin_connection(server, peer, address, seat);
        inner.has_served.set(false);
        Ok(())
    }

    /// Begins with another connection, whose socket is in place.
    fn begin_connection(
        &self,
        server: Bound<'_, PyAny>,
        peer: Option<SocketAddrV4>,
        address: Option<Bound<'_, PyAny>>,
        seat: Seat,
    ) {
        let inner = &*self.inner;
        // An application may have given the handler another one.
        inner.server.set(Some(server));
        if let Some(connection) = &*inner.connection.borrow() {
            connection.get().reuse(seat.place().0);
        }
        inner.peer.set(peer);
        inner.client_address.set(address);
        let remote = inner.remote.take();
        drop(remote);
        inner.close_connection.set(false);
        inner.headers_sent.set(false);
        inner.code.set(0);
        for slot in [&inner.status, &inner.native_status, &inner.response_headers] {
            slot.clear();
        }
        self.take_seat(seat);
    }
}
