//! The time-out of a socket: each call's, in seconds.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::Socket;
use super::arguments::{Arguments, none, respond};

/// Reads a time-out: None is negative, for ever.
pub(super) fn seconds(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_none() {
        return Ok(-1.0);
    }
    let seconds: f64 = value.extract()?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err("Timeout value out of range"));
    }
    Ok(seconds)
}

pub(super) fn settimeout(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [value] = arguments.parse("settimeout", [c"howlong"], 1)?;
    // SAFETY: borrowed from the caller.
    let seconds = seconds(&unsafe { Bound::from_borrowed_ptr(py, value) })?;
    socket.extra().timeout.set(seconds);
    Ok(none())
}

pub(super) fn timeout_object(py: Python<'_>, socket: Socket) -> PyResult<*mut ffi::PyObject> {
    let timeout = socket.timeout();
    if timeout < 0.0 { Ok(none()) } else { Ok(timeout.into_pyobject(py)?.into_ptr()) }
}

pub(super) fn gettimeout(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("gettimeout", [], 0)?;
    timeout_object(py, socket)
}

pub(super) fn setblocking(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [flag] = arguments.parse("setblocking", [c"flag"], 1)?;
    // SAFETY: borrowed from the caller.
    let is_blocking = unsafe { Bound::<PyAny>::from_borrowed_ptr(py, flag) }.is_truthy()?;
    socket.extra().timeout.set(if is_blocking { -1.0 } else { 0.0 });
    Ok(none())
}

pub(super) fn getblocking(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("getblocking", [], 0)?;
    Ok((socket.timeout() != 0.0).into_pyobject(py)?.to_owned().into_any().into_ptr())
}

pub(super) unsafe extern "C" fn get_timeout(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: CPython calls getters with the GIL held.
    let py = unsafe { Python::assume_attached() };
    respond(py, timeout_object(py, Socket(object)))
}

pub(super) unsafe extern "C" fn set_timeout(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: CPython calls setters with the GIL held.
    let py = unsafe { Python::assume_attached() };
    let result = if value.is_null() {
        Err(pyo3::exceptions::PyAttributeError::new_err("the time-out can't be deleted"))
    } else {
        // SAFETY: borrowed from the caller.
        seconds(&unsafe { Bound::from_borrowed_ptr(py, value) })
    };
    match result {
        Ok(seconds) => {
            Socket(object).extra().timeout.set(seconds);
            0
        }
        Err(error) => {
            error.restore(py);
            -1
        }
    }
}
