//! A handler that outlives its connection: closing it so that it can serve another one.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::{Handler, This};
use crate::pywsgi::references;
use crate::pywsgi::service::Seat;
use crate::socket::{Accepted, Socket};

impl Handler {
    /// Takes an accepted connection, whose place is `seat`.
    pub fn take_seat(&self, seat: Seat) {
        self.inner.seat.replace(Some(seat));
    }

    /// Closes the connection and makes ready for [`reuse`](Self::reuse), if nobody else has any of the objects that go
    /// into that. `callers` is how many references there are to the handler, its own not counted.
    pub fn close_to_reuse(slf: This<'_, '_>, callers: isize) -> bool {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let is_plain = inner.overrides.get().is_empty()
            && !inner.must_linger.get()
            && !inner.connection_upgraded.get()
            && !inner.rfile.is_set()
            && !inner.environ.is_set()
            && inner.websocket.borrow().is_none()
            && references::is_bare(slf.as_any());
        if !is_plain {
            return false;
        }
        let mut own = 0;
        for slot in [&inner.start_response, &inner.write] {
            if let Some(method) = &*slot.0.borrow() {
                own += 1;
                if references::count(method) != 1 {
                    return false;
                }
            }
        }
        if references::count(slf.as_unbound()) != callers + own {
            return false;
        }
        let socket = inner.socket.0.borrow();
        let connection = inner.connection.borrow();
        let (Some(socket), Some(connection)) = (&*socket, &*connection) else { return false };
        let mut readers = 1;
        if let Some(input) = &*inner.empty_input.0.borrow() {
            readers += 1;
            let is_shown = inner.wsgi_input.0.borrow().as_ref().is_some_and(|shown| shown.is(input));
            if references::count(input) != 1 + isize::from(is_shown) {
                return false;
            }
        }
        if references::count(connection) != readers
            || !references::is_unreferenced(connection.bind(py).as_any())
            || !connection.get().may_be_reused(socket)
            || references::count(socket) != 2
            || !references::is_unreferenced(socket.bind(py))
        {
            return false;
        }
        let Some(own) = Socket::from_object(socket.bind(py)) else { return false };
        own.close_to_adopt();
        connection.get().release_large();
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
}
