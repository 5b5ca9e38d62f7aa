//! TLS on our sockets: the operations of `_ssl`, repeated as they ask for it.
//!
//! OpenSSL reads and writes the descriptor itself, which never blocks. An operation that would, raises SSLWantReadError or
//! SSLWantWriteError, for which an exception is made; so a read first looks whether there is anything to read.

#![forbid(unsafe_code)]

use greenrust::hub::Direction;
use pyo3::exceptions::{PyTimeoutError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::socket::{Deadline, Socket};

const READ_TIMED_OUT: &str = "The read operation timed out";
const WRITE_TIMED_OUT: &str = "The write operation timed out";

/// Returns what an operation that gave up waits for; None for any other error.
fn wanted(py: Python<'_>, error: &PyErr) -> Option<Direction> {
    static READ: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static WRITE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let is = |class: &PyOnceLock<Py<PyType>>, name| {
        class.import(py, "_ssl", name).is_ok_and(|class| error.get_type(py).is(class))
    };
    if is(&READ, "SSLWantReadError") {
        Some(Direction::Read)
    } else if is(&WRITE, "SSLWantWriteError") {
        Some(Direction::Write)
    } else {
        None
    }
}

/// Whether TLS itself failed: the peer broke off, or sent what it must not.
pub fn is_failure(py: Python<'_>, error: &PyErr) -> bool {
    static ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    ERROR.import(py, "_ssl", "SSLError").is_ok_and(|class| error.is_instance(py, class))
}

fn socket_of(object: &Bound<'_, PyAny>) -> PyResult<Socket> {
    Socket::from_object(object).ok_or_else(|| PyTypeError::new_err("a gevent socket is required"))
}

fn wait(
    py: Python<'_>,
    socket: Socket,
    direction: Direction,
    deadline: &mut Deadline<'_>,
    message: &str,
) -> PyResult<()> {
    socket.wait_blocked(py, direction, deadline).map_err(|error| {
        if error.is_instance_of::<PyTimeoutError>(py) { PyTimeoutError::new_err(message.to_owned()) } else { error }
    })
}

/// Repeats an operation until it doesn't ask to wait; the socket's time-out is for the whole.
fn until_done<'py>(
    py: Python<'py>,
    socket: Socket,
    deadline: &mut Deadline<'_>,
    message: &str,
    mut operation: impl FnMut() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    loop {
        let error = match operation() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        match wanted(py, &error) {
            Some(direction) if socket.timeout() != 0.0 => {
                drop(error);
                wait(py, socket, direction, deadline, message)?;
            }
            _ => return Err(error),
        }
    }
}

/// tls_run(sock, message, operation) -> ``operation()``, repeated as TLS asks for it. Switches.
///
/// *sock*: a `gevent.socket.socket`, whose time-out is for the whole; *message*: of the TimeoutError. A socket that never
/// waits lets the operation's error pass.
#[pyfunction]
fn tls_run<'py>(
    py: Python<'py>,
    sock: &Bound<'py, PyAny>,
    message: &str,
    operation: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    until_done(py, socket_of(sock)?, &mut Deadline::default(), message, || operation.call0())
}

/// tls_read(sock, sslobj, length, buffer, is_over) -> up to *length* bytes, or how many went into *buffer*. Switches.
///
/// *sslobj*: the `_ssl._SSLSocket` of *sock*; *buffer*: None, or a writable buffer; *is_over*: whether a read has told of the
/// end already, which the next tells at once. Raises what `_ssl` raises, and TimeoutError.
#[pyfunction]
fn tls_read<'py>(
    py: Python<'py>,
    sock: &Bound<'py, PyAny>,
    sslobj: &Bound<'py, PyAny>,
    length: &Bound<'py, PyAny>,
    buffer: Option<&Bound<'py, PyAny>>,
    is_over: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let socket = socket_of(sock)?;
    let mut deadline = Deadline::default();
    // What OpenSSL has read and not yet given is counted by `pending`: it reads no further than the record that it needs.
    if !is_over
        && socket.timeout() != 0.0
        && length.is_truthy()?
        && !sslobj.call_method0(intern!(py, "pending"))?.is_truthy()?
        && !socket.is_readable()
    {
        wait(py, socket, Direction::Read, &mut deadline, READ_TIMED_OUT)?;
    }
    let name = intern!(py, "read");
    until_done(py, socket, &mut deadline, READ_TIMED_OUT, || match buffer {
        None => sslobj.call_method1(name, (length,)),
        Some(buffer) => sslobj.call_method1(name, (length, buffer)),
    })
}

/// tls_write(sock, sslobj, data) -> how many bytes of *data* were taken. Switches.
///
/// Raises what `_ssl` raises, and TimeoutError.
#[pyfunction]
fn tls_write<'py>(
    py: Python<'py>,
    sock: &Bound<'py, PyAny>,
    sslobj: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let name = intern!(py, "write");
    until_done(py, socket_of(sock)?, &mut Deadline::default(), WRITE_TIMED_OUT, || sslobj.call_method1(name, (data,)))
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(tls_run, module)?)?;
    module.add_function(wrap_pyfunction!(tls_read, module)?)?;
    module.add_function(wrap_pyfunction!(tls_write, module)?)?;
    Ok(())
}
