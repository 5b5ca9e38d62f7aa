//! Receiving and sending.

use std::cell::UnsafeCell;
use std::ffi::c_int;

use greenrust::hub::Direction;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arguments::{Arguments, Buffer, fetched, flags, integer, none, size};
use super::timeout::seconds;
use super::wait::{Deadline, through_plain};
use super::{Socket, class, os_error, outcome};
use crate::hub as py_hub;

unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// Reads up to this size go through a buffer, so that the result is allocated in its final size.
const SMALL_READ: usize = 4096;

/// Where short reads go. On the stack it would take two pages more of each greenlet that waits for a socket.
struct Small(UnsafeCell<[u8; SMALL_READ]>);

// SAFETY: written and read with the GIL held, which is not given up between.
unsafe impl Sync for Small {}

static SMALL: Small = Small(UnsafeCell::new([0; SMALL_READ]));

impl Socket {
    /// Receives into memory; returns how much, 0 at the end of the stream. Switches.
    pub fn receive_into(self, py: Python<'_>, memory: *mut u8, length: usize, flags: c_int) -> PyResult<usize> {
        let received = self.run(py, Direction::Read, flags, &mut Deadline::default(), |descriptor| {
            // SAFETY: the caller vouches for the memory.
            outcome(unsafe { libc::recv(descriptor, memory.cast(), length, flags) })
        })?;
        self.after_receive(received, length, flags);
        Ok(received)
    }

    #[inline]
    fn after_receive(self, received: usize, length: usize, flags: c_int) {
        // With flags (MSG_PEEK, MSG_OOB, ...) a short read says nothing of what is left.
        if received > 0 && received < length && flags == 0 {
            self.note_short(self.descriptor(), Direction::Read);
        }
    }

    /// Sends some of the memory; returns how much. Switches.
    pub fn send_some(
        self,
        py: Python<'_>,
        memory: *const u8,
        length: usize,
        flags: c_int,
        deadline: &mut Deadline<'_>,
    ) -> PyResult<usize> {
        let sent = self.run(py, Direction::Write, flags, deadline, |descriptor| {
            // SAFETY: the caller vouches for the memory.
            outcome(unsafe { libc::send(descriptor, memory.cast(), length, flags) })
        })?;
        if sent < length {
            self.note_short(self.descriptor(), Direction::Write);
        }
        Ok(sent)
    }

    /// Sends all of the memory; the socket's time-out is for the whole. Switches.
    pub fn send_all(self, py: Python<'_>, memory: *const u8, length: usize, flags: c_int) -> PyResult<()> {
        let mut deadline = Deadline::default();
        let mut sent = 0;
        while sent < length {
            // SAFETY: within the memory, as `sent` is less than its length.
            let rest = unsafe { memory.add(sent) };
            sent += self.send_some(py, rest, length - sent, flags, &mut deadline)?;
        }
        Ok(())
    }
}

pub(super) fn recv(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [length, flag] = arguments.parse("recv", [c"", c""], 1)?;
    let length = size(py, length, "negative buffersize in recv")?;
    let flags = flags(py, flag)?;
    if length <= SMALL_READ {
        let memory = SMALL.0.get().cast::<u8>();
        let received = socket.receive_into(py, memory, length, flags)?;
        // SAFETY: the kernel has written that many bytes, and nobody else has run since.
        let bytes = unsafe { ffi::PyBytes_FromStringAndSize(memory.cast(), received as ffi::Py_ssize_t) };
        return if bytes.is_null() { fetched(py) } else { Ok(bytes) };
    }
    let mut bytes = std::ptr::null_mut();
    let result = socket.run(py, Direction::Read, flags, &mut Deadline::default(), |descriptor| {
        // Not before there is something to read: a greenlet that waits holds no memory.
        // SAFETY: the GIL is held; the object is ours alone until it is returned.
        unsafe {
            let made = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as ffi::Py_ssize_t);
            if made.is_null() {
                ffi::PyErr_Clear();
                return Err(libc::ENOMEM);
            }
            let result = outcome(libc::recv(descriptor, ffi::PyBytes_AsString(made).cast(), length, flags));
            match result {
                Ok(_) => bytes = made,
                Err(_) => ffi::Py_DECREF(made),
            }
            result
        }
    });
    let received = result?;
    socket.after_receive(received, length, flags);
    // SAFETY: `bytes` was made by the attempt that succeeded and nobody else has it; on failure it is null.
    if received != length && unsafe { _PyBytes_Resize(&mut bytes, received as ffi::Py_ssize_t) } != 0 {
        return fetched(py);
    }
    Ok(bytes)
}

pub(super) fn recv_into(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [buffer, count, flag] = arguments.parse("recv_into", [c"buffer", c"nbytes", c"flags"], 1)?;
    let buffer = Buffer::get(py, buffer, ffi::PyBUF_WRITABLE)?;
    let count = if count.is_null() { 0 } else { size(py, count, "negative buffersize in recv_into")? };
    let length = if count == 0 { buffer.len() } else { count };
    if length > buffer.len() {
        return Err(PyValueError::new_err("buffer too small for requested bytes"));
    }
    let received = socket.receive_into(py, buffer.memory(), length, flags(py, flag)?)?;
    drop(buffer);
    integer(py, received)
}

pub(super) fn send(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [data, flag, timeout] = arguments.parse("send", [c"data", c"flags", c"timeout"], 1)?;
    let flags = flags(py, flag)?;
    let mut deadline = Deadline::default();
    if !timeout.is_null() {
        // SAFETY: a live object, borrowed from the caller.
        let seconds = seconds(&unsafe { Bound::from_borrowed_ptr(py, timeout) })?;
        deadline.get(py_hub::ensure(py)?, seconds);
    }
    let buffer = Buffer::get(py, data, ffi::PyBUF_SIMPLE)?;
    let sent = socket.send_some(py, buffer.memory(), buffer.len(), flags, &mut deadline)?;
    drop(buffer);
    integer(py, sent)
}

pub(super) fn sendall(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [data, flag] = arguments.parse("sendall", [c"data", c"flags"], 1)?;
    let flags = flags(py, flag)?;
    let buffer = Buffer::get(py, data, ffi::PyBUF_SIMPLE)?;
    if buffer.len() == 0 && socket.descriptor() < 0 {
        return Err(os_error(py, libc::EBADF));
    }
    socket.send_all(py, buffer.memory(), buffer.len(), flags)?;
    drop(buffer);
    Ok(none())
}

pub(super) fn recvfrom(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvfrom, socket, arguments, Direction::Read, 1)
}

pub(super) fn recvfrom_into(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvfrom_into, socket, arguments, Direction::Read, 2)
}

pub(super) fn recvmsg(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvmsg, socket, arguments, Direction::Read, 2)
}

pub(super) fn recvmsg_into(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let buffers = arguments.keyword(c"buffers");
    // CPython's method takes no argument by name.
    let is_named_alone = arguments.positional(0).is_null() && arguments.named() == 1 && !buffers.is_null();
    let arguments = if is_named_alone {
        Arguments { values: &raw const buffers, count: 1, names: std::ptr::null_mut() }
    } else {
        arguments
    };
    through_plain(py, &class().recvmsg_into, socket, arguments, Direction::Read, 2)
}

pub(super) fn sendmsg(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [buffers, ancillary, flag, address] =
        arguments.parse("sendmsg", [c"buffers", c"ancdata", c"flags", c"address"], 1)?;
    // `_socket` takes no keywords here, the real gevent does.
    // SAFETY: all are alive during the call; the empty tuple and 0 are made here.
    let empty = PyTuple::empty(py);
    let zero = 0i32.into_pyobject(py)?;
    let or = |given: *mut ffi::PyObject, otherwise: *mut ffi::PyObject| {
        if given.is_null() { otherwise } else { given }
    };
    let values = [buffers, or(ancillary, empty.as_ptr()), or(flag, zero.as_ptr()), address];
    let arguments = Arguments {
        values: values.as_ptr(),
        count: if address.is_null() { 3 } else { 4 },
        names: std::ptr::null_mut(),
    };
    through_plain(py, &class().sendmsg, socket, arguments, Direction::Write, 2)
}

pub(super) fn sendto(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    // sendto(data, address) or sendto(data, flags, address)
    let flag = if arguments.count == 3 { 1 } else { usize::MAX };
    through_plain(py, &class().sendto, socket, arguments, Direction::Write, flag)
}
