//! Connecting, accepting, and ending a direction.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};

use greenrust::hub::{Direction, Hub, WaitingFor};
use pyo3::exceptions::PyTimeoutError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::address::{Numeric, address};
use super::arguments::{Arguments, flags, integer, none};
use super::life::make;
use super::wait::{Deadline, call_plain, through_plain};
use super::{PySys_Audit, Socket, audit, class, closed_elsewhere, os_error, outcome};
use crate::host;

/// How long to wait before a Unix listener with a full backlog is asked again: the kernel does not tell when.
const BACKLOG_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// Connects; returns an error number, 0 when connected.
fn connect_number(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<c_int> {
    let [given] = arguments.parse("connect", [c"address"], 1)?;
    // SAFETY: borrowed from the caller.
    let mut address = unsafe { Bound::<PyAny>::from_borrowed_ptr(py, given) };
    let family = socket.family();
    let mut numeric = Numeric::read(family, &address);
    if numeric.is_none() && matches!(family, libc::AF_INET | libc::AF_INET6) {
        // SAFETY: alive during the call.
        let object = unsafe { Bound::<PyAny>::from_borrowed_ptr(py, socket.0) };
        address = object.call_method1(intern!(py, "_resolved"), (address,))?;
        numeric = Numeric::read(family, &address);
    }
    let mut is_to_ask_at_once = false;
    if numeric.is_some() {
        audit(py, c"socket.connect", c"OO", |event, format| {
            // SAFETY: two objects, as the format says.
            unsafe { PySys_Audit(event, format, socket.0, address.as_ptr()) }
        })?;
        is_to_ask_at_once = socket.kind() == libc::SOCK_STREAM;
    }
    let mut deadline = Deadline::default();
    loop {
        let number = match &numeric {
            Some(numeric) => match numeric.connect(socket.descriptor()) {
                Ok(()) => 0,
                // connect(2): the attempt goes on.
                Err(libc::EINTR) => libc::EINPROGRESS,
                Err(number) => number,
            },
            None => {
                let values = [address.as_ptr()];
                let arguments = Arguments { values: values.as_ptr(), count: 1, names: std::ptr::null_mut() };
                let answer = call_plain(py, &class().connect_ex, socket, arguments)?;
                // SAFETY: the new reference of the call.
                unsafe { Bound::from_owned_ptr(py, answer) }.extract()?
            }
        };
        if socket.timeout() == 0.0 {
            return Ok(number);
        }
        match number {
            0 | libc::EISCONN => return Ok(0),
            // A peer on this machine has answered before the call returns, which tells only the next call.
            libc::EINPROGRESS if std::mem::take(&mut is_to_ask_at_once) => {}
            libc::EINPROGRESS | libc::EALREADY => {
                // Before it connects a stream socket hangs up in both directions.
                if let hub = socket.extra().hub.get()
                    && std::ptr::eq(hub, Hub::current())
                {
                    // SAFETY: it is this thread's hub, as was just compared.
                    unsafe { &*hub }.mark_blocked(socket.descriptor(), Direction::Read);
                }
                socket.wait_blocked(py, Direction::Write, &mut deadline)?;
                if socket.descriptor() < 0 {
                    return Err(closed_elsewhere());
                }
                // Asking again tells the outcome, and after a failure makes the socket fit for another attempt, which
                // SO_ERROR would not.
            }
            libc::EAGAIN if family == libc::AF_UNIX => {
                let (hub, waker) = host::begin_park(py, WaitingFor::Write(socket.descriptor()))?;
                let patience = deadline.get(hub, socket.timeout());
                if patience.is_some_and(|deadline| deadline <= hub.clock().now()) {
                    waker.unpark();
                    host::park(py, hub, &waker, None, true)?;
                    return Err(PyTimeoutError::new_err("timed out"));
                }
                host::park(py, hub, &waker, Some(hub.clock().now().after(BACKLOG_PAUSE)), true)?;
            }
            _ => return Ok(number),
        }
    }
}

pub(super) fn connect(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    match connect_number(py, socket, arguments)? {
        0 => Ok(none()),
        number => Err(os_error(py, number)),
    }
}

pub(super) fn connect_ex(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    match connect_number(py, socket, arguments) {
        Ok(number) => integer(py, number as usize),
        Err(error) if error.is_instance_of::<PyTimeoutError>(py) => integer(py, libc::EAGAIN as usize),
        Err(error) => Err(error),
    }
}

/// A descriptor that is closed unless it is taken.
pub(super) struct Descriptor(pub(super) c_int);

impl Descriptor {
    pub(super) fn take(mut self) -> c_int {
        std::mem::replace(&mut self.0, -1)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.0 >= 0 {
            // SAFETY: it is ours: the kernel has just given it to us.
            unsafe { libc::close(self.0) };
        }
    }
}

pub(super) fn accept(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("accept", [], 0)?;
    let (descriptor, address) = match socket.family() {
        libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX => accept_known(py, socket)?,
        _ => {
            let pair = through_plain(py, &class().accept, socket, arguments, Direction::Read, usize::MAX)?;
            // SAFETY: the new reference of the call.
            let (descriptor, address): (c_int, Bound<'_, PyAny>) =
                unsafe { Bound::from_owned_ptr(py, pair) }.extract()?;
            (Descriptor(descriptor), address)
        }
    };
    let made = make(py, socket.kind_of_connections(), descriptor)?;
    Ok((made, address).into_pyobject(py)?.into_ptr())
}

/// Accepts a connection if one waits, without waiting for one: None otherwise.
pub(super) fn accept_ready(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("accept_ready", [], 0)?;
    loop {
        match Accepted::take_from(socket.descriptor()) {
            Ok(accepted) => {
                let address = accepted.address(py)?;
                return Ok((accepted.into_object(py, socket)?, address).into_pyobject(py)?.into_ptr());
            }
            Err(libc::EAGAIN) => return Ok(none()),
            Err(libc::EINTR) => py.check_signals()?,
            Err(number) => return Err(os_error(py, number)),
        }
    }
}

fn accept_known<'py>(py: Python<'py>, socket: Socket) -> PyResult<(Descriptor, Bound<'py, PyAny>)> {
    let mut accepted = None;
    socket.run(py, Direction::Read, 0, &mut Deadline::default(), |listener| {
        accepted = Some(Accepted::take_from(listener)?);
        Ok(0)
    })?;
    let accepted = accepted.expect("set by the attempt that succeeded");
    let address = accepted.address(py)?;
    Ok((accepted.descriptor, address))
}

/// A connection that was accepted, and has no object yet. It is closed unless an object takes it.
pub struct Accepted {
    pub(super) descriptor: Descriptor,
    storage: libc::sockaddr_storage,
    length: usize,
}

impl Accepted {
    /// The descriptor. It does not block.
    pub fn descriptor(&self) -> c_int {
        self.descriptor.0
    }

    /// The peer's address, if it is one of IPv4.
    pub fn ipv4(&self) -> Option<SocketAddrV4> {
        if c_int::from(self.storage.ss_family) != libc::AF_INET {
            return None;
        }
        // SAFETY: the family says what it is; the storage is large and aligned enough for all.
        let address = unsafe { &*std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in>() };
        Some(SocketAddrV4::new(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)), u16::from_be(address.sin_port)))
    }

    /// The peer's address, in the form of `_socket`.
    pub fn address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address(py, &self.storage, self.length)
    }

    /// Makes the `gevent.socket.socket`.
    pub fn into_object<'py>(self, py: Python<'py>, listener: Socket) -> PyResult<Bound<'py, PyAny>> {
        make(py, listener.kind_of_connections(), self.descriptor)
    }

    fn take_from(listener: c_int) -> Result<Self, c_int> {
        let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: room for an address of any family.
        let accepted = unsafe { libc::accept4(listener, storage.as_mut_ptr().cast(), &mut length, flags) };
        let descriptor = Descriptor(outcome(accepted as isize)? as c_int);
        // SAFETY: zeroed at first, which is valid for this plain data, then written by the kernel.
        Ok(Self { descriptor, storage: unsafe { storage.assume_init() }, length: length as usize })
    }
}

impl Socket {
    /// Takes a connection from this listener without waiting, whatever its time-out; None if there is none.
    ///
    /// # Errors
    ///
    /// The number of the system's error.
    pub fn accept_at_once(self) -> Result<Option<Accepted>, c_int> {
        match self.family() {
            libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX => {}
            _ => return Err(libc::EAFNOSUPPORT),
        }
        loop {
            match Accepted::take_from(self.descriptor()) {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(libc::EAGAIN) => return Ok(None),
                // accept(2): the connection that would have been returned is gone already.
                Err(libc::EINTR | libc::ECONNABORTED) => {}
                Err(number) => return Err(number),
            }
        }
    }
}

pub(super) fn shutdown(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [given] = arguments.parse("shutdown", [c"how"], 1)?;
    // SAFETY: a live object; what is no integer is `_socket`'s to refuse.
    let how = if unsafe { ffi::PyLong_Check(given) } != 0 { flags(py, given).unwrap_or(-1) } else { -1 };
    let hub = socket.extra().hub.get();
    if std::ptr::eq(hub, Hub::current()) {
        let descriptor = socket.descriptor();
        for (direction, is_meant) in [
            (Direction::Read, how == libc::SHUT_RD || how == libc::SHUT_RDWR),
            (Direction::Write, how == libc::SHUT_WR || how == libc::SHUT_RDWR),
        ] {
            if is_meant {
                // SAFETY: it is this thread's hub, as was just compared.
                unsafe { &*hub }.cancel_waiters(descriptor, direction);
            }
        }
    }
    // CPython's method takes no argument by name.
    let arguments = Arguments { values: &raw const given, count: 1, names: std::ptr::null_mut() };
    call_plain(py, &class().shutdown, socket, arguments)
}
