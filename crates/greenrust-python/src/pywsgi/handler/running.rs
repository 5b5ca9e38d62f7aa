//! Running the application, sending what it returns, and dealing with what it raises.

use greenrust::http::LAST_CHUNK;
use pyo3::exceptions::{PyOSError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use pyo3::{ffi, intern};

use super::logging::log_step;
use super::writing::{append_header, send_failed, send_step, write, write_data, write_step};
use super::{Handler, This};
use crate::exceptions::WebSocketError;
use crate::host;
use crate::pywsgi::input::{Input, Rest};
use crate::pywsgi::stock::{self, Step};
use crate::pywsgi::{access_log, text};
use crate::ssl;

/// Chunks of a result are joined up to this size, bytes.
const JOINED_BYTES: usize = 65536;

const WRITING: &[Step] = &[Step::Write, Step::WriteWithHeaders, Step::WriteBody, Step::SendAll];

/// Runs `function` as in an `except` clause of `error`, so that `sys.exc_info()` tells of it.
pub(super) fn while_handled<R>(py: Python<'_>, error: &PyErr, function: impl FnOnce() -> R) -> R {
    // SAFETY: the GIL is held; the call returns a new reference or null.
    let before = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyErr_GetHandledException()) };
    // SAFETY: an exception object, which the call takes a reference to.
    unsafe { ffi::PyErr_SetHandledException(error.value(py).as_ptr()) };
    let result = function();
    // SAFETY: as above; null stands for no exception.
    unsafe { ffi::PyErr_SetHandledException(before.as_ref().map_or(ffi::Py_None(), |error| error.as_ptr())) };
    result
}

/// Whether the application ended since it had something to say, and its client had gone.
fn is_for_want_of_a_client(this: &Handler, py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<WebSocketError>(py)
        && this.inner.websocket.borrow().as_ref().is_some_and(|websocket| websocket.get().has_lost_peer())
}

/// Ends the request's WebSocket, if it has one that was accepted. Switches.
fn end_websocket(slf: This<'_, '_>, failed: Option<&PyErr>) -> PyResult<()> {
    let py = slf.py();
    let websocket = slf.get().inner.websocket.borrow().as_ref().map(|websocket| websocket.clone_ref(py));
    match websocket {
        Some(websocket) if websocket.get().was_accepted() => websocket.get().finish(py, failed),
        _ => Ok(()),
    }
}

pub(super) fn handle_one_response(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    inner.time_start.set(access_log::now());
    inner.status.clear();
    inner.native_status.clear();
    inner.response_headers.clear();
    inner.headers_sent.set(false);
    inner.result.clear();
    inner.response_use_chunked.set(false);
    inner.connection_upgraded.set(false);
    inner.response_length.set(0);
    inner.head_bytes.set(0);
    inner.outstanding.set(None);
    inner.code.set(0);

    let mut outcome = if this.has(Step::RunApplication) {
        slf.call_method0(intern!(py, "run_application")).map(|_| ())
    } else {
        run_application(slf)
    };
    if inner.websocket.borrow().is_some() {
        let has_lost_client = outcome.as_ref().is_err_and(|error| is_for_want_of_a_client(this, py, error));
        let ended = end_websocket(slf, outcome.as_ref().err());
        outcome = if has_lost_client { ended } else { outcome.and(ended) };
        let websocket = inner.websocket.take();
        drop(websocket);
    }
    if inner.connection_upgraded.get() {
        inner.close_connection.set(true);
    } else {
        match finish_input(this, py) {
            Ok(Rest::Read) => {}
            Ok(Rest::Outstanding) => {
                inner.close_connection.set(true);
                inner.must_linger.set(true);
            }
            Err(error) => {
                inner.close_connection.set(true);
                // Without the rest of the body the next request can't be found. What happened to the application is
                // the more important news, unless the client sends nonsense.
                let is_io = error.is_instance_of::<PyOSError>(py);
                if stock::is_invalid_client_input(py, &error) || (!is_io && outcome.is_ok()) {
                    outcome = Err(error);
                }
            }
        }
    }
    let reported = match outcome {
        Ok(()) => Ok(()),
        Err(error) => report(slf, error),
    };
    inner.time_finish.set(access_log::now());
    let logged = log_step(slf);
    reported.and(logged)
}

fn finish_input(this: &Handler, py: Python<'_>) -> PyResult<Rest> {
    let Some(input) = this.inner.wsgi_input.get(py) else { return Ok(Rest::Read) };
    match input.cast::<Input>() {
        Ok(input) => input.get().finish(py),
        Err(_) => input.call_method0(intern!(py, "_discard")).map(|_| Rest::Read),
    }
}

/// Deals with an exception that ended the application or the sending of its response.
#[cold]
fn report(slf: This<'_, '_>, error: PyErr) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    while_handled(py, &error, || {
        if stock::is_invalid_client_input(py, &error) {
            slf.call_method1(intern!(py, "_handle_client_error"), (error.value(py),))?;
            inner.close_connection.set(true);
            inner.must_linger.set(true);
            let status = error.value(py).getattr(intern!(py, "status_code"))?;
            slf.call_method1(intern!(py, "_send_error_response_if_possible"), (status,))?;
            return Ok(());
        }
        if let Some(connection) = slf.get().connection(py)
            && ((connection.get().is_stalled() && error.is_instance_of::<PyTimeoutError>(py))
                || (connection.get().has_lost_peer() && ssl::is_failure(py, &error)))
        {
            inner.close_connection.set(true);
            return Ok(());
        }
        if error.is_instance_of::<PyOSError>(py) {
            let number = error.value(py).getattr(intern!(py, "errno"))?;
            if number.eq(libc::EBADF)? && slf.get().was_taken_over(py) {
                inner.close_connection.set(true);
                return Ok(());
            }
            if slf.getattr(intern!(py, "ignored_socket_errors"))?.contains(number)? {
                inner.close_connection.set(true);
                return Ok(());
            }
        }
        let arguments = (error.get_type(py), error.value(py), error.traceback(py));
        slf.call_method1(intern!(py, "handle_error"), arguments).map(|_| ())
    })
}

pub(super) fn run_application(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let start_response = Handler::bound_method(slf, &inner.start_response, intern!(py, "start_response"))?;
    let application = match inner.application.get(py) {
        Some(application) => application,
        None => this.server(py)?.getattr(intern!(py, "application"))?,
    };
    let environ = inner.environ.get(py);
    let result = application.call1((environ, start_response))?;
    inner.result.set(Some(result.clone()));
    let processed = if has_websocket(this) {
        // What it returns cannot be sent any more.
        Ok(())
    } else if this.has(Step::ProcessResult) {
        slf.call_method0(intern!(py, "process_result")).map(|_| ())
    } else {
        process_result(slf)
    };
    // A handler may have replaced the result, and what it has at last is what is closed.
    let result = inner.result.get(py).unwrap_or(result);
    let closed = if result.cast_exact::<PyList>().is_ok() || result.cast_exact::<PyTuple>().is_ok() {
        Ok(())
    } else {
        match result.getattr_opt(intern!(py, "close"))? {
            Some(close) if !close.is_none() => close.call0().map(|_| ()),
            _ => Ok(()),
        }
    };
    // A generator's end may free much, and may run Python code.
    drop(result);
    inner.result.clear();
    // As in a `finally` clause, what `close` raises takes the other's place.
    closed.and(processed)
}

/// Whether the application talked by a WebSocket.
#[inline]
fn has_websocket(this: &Handler) -> bool {
    this.inner.websocket.borrow().as_ref().is_some_and(|websocket| websocket.get().was_accepted())
}

pub(super) fn process_result(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(result) = inner.result.get(py) else { return Ok(()) };
    if !write_at_once(slf, &result)? && !write_file(slf, &result)? {
        for data in result.try_iter()? {
            let data = data?;
            if data.is_truthy()? {
                write_step(slf, &data)?;
                // Nothing of the rest is sent, which may be much, or without end.
                if inner.headers_sent.get() && this.is_bodiless(py) && !inner.overrides.get().has_any(WRITING) {
                    break;
                }
                host::take_turn_if_due(py)?;
            }
        }
    }
    if !inner.headers_sent.get() {
        if !this.has_status() {
            return answer_for_application(slf);
        }
        write_step(slf, PyBytes::new(py, b"").as_any())?;
    }
    if inner.response_use_chunked.get() && !this.is_bodiless(py) {
        send_step(slf, LAST_CHUNK)?;
    }
    if inner.outstanding.get().is_some_and(|outstanding| outstanding > 0) {
        // Fewer bytes than declared: only the connection's end tells the client.
        inner.close_connection.set(true);
    }
    Ok(())
}

/// Answers in place of an application that neither called `start_response` with success nor has anything to send.
#[cold]
fn answer_for_application(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    slf.get().inner.close_connection.set(true);
    if slf.get().may_be_taken_over(py) {
        return Ok(());
    }
    slf.call_method1(intern!(py, "log_error"), ("The application did not call start_response()",))?;
    slf.call_method1(intern!(py, "_send_error_response_if_possible"), (500,)).map(|_| ())
}

/// Writes a result that is a list or tuple of little bytes, head and all, by one call. Returns whether it did.
fn write_at_once(slf: This<'_, '_>, result: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    if this.inner.overrides.get().has_any(WRITING) || this.inner.headers_sent.get() || !this.has_status() {
        return Ok(false);
    }
    if let Ok(list) = result.cast_exact::<PyList>()
        && list.len() == 1
    {
        let data = list.get_item(0)?;
        this.inner.is_last_write.set(true);
        let written = write(slf, &data);
        this.inner.is_last_write.set(false);
        return written.map(|()| true);
    }
    let chunks: Vec<Bound<'_, PyAny>> = if let Ok(list) = result.cast_exact::<PyList>() {
        list.iter().collect()
    } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        tuple.iter().collect()
    } else {
        return Ok(false);
    };
    let mut joined = Vec::new();
    for chunk in &chunks {
        match chunk.cast::<PyBytes>() {
            // The plain way raises for it.
            Ok(bytes) if matches!(this.inner.code.get(), 204 | 304) && !bytes.as_bytes().is_empty() => {
                return Ok(false);
            }
            Ok(bytes) if joined.len() + bytes.as_bytes().len() <= JOINED_BYTES => {
                joined.extend_from_slice(bytes.as_bytes());
            }
            _ => return Ok(false),
        }
    }
    this.inner.is_last_write.set(true);
    let written = write_data(slf, PyBytes::new(py, b"").as_any(), &joined);
    this.inner.is_last_write.set(false);
    written.map(|()| true)
}

/// Has the kernel send the file that `wsgi.file_wrapper` was given. Returns whether it did; the head may be sent anyway.
fn write_file(slf: This<'_, '_>, result: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    if !stock::is_file_wrapper(result)?
        || inner.overrides.get().has_any(WRITING)
        || inner.headers_sent.get()
        || matches!(inner.code.get(), 0 | 204 | 304)
    {
        return Ok(false);
    }
    let extent = result.call_method0(intern!(py, "_extent"))?;
    if extent.is_none() {
        return Ok(false);
    }
    let (file, offset, length): (i32, u64, u64) = extent.extract()?;
    if !inner.provided_content_length.is_set() {
        let length = PyString::new(py, &length.to_string());
        append_header(slf, b"Content-Length", text::bytes_of(&length).unwrap_or_default())?;
        inner.provided_content_length.set(Some(length.into_any()));
    }
    write_data(slf, PyBytes::new(py, b"").as_any(), b"")?;
    // No body is to be sent, or a handler has seen to it that its length is unknown.
    let Some(outstanding) = inner.outstanding.get() else { return Ok(this.is_bodiless(py)) };
    let Some(connection) = this.connection(py) else { return Ok(false) };
    match connection.get().send_file(py, file, offset, length.min(outstanding)) {
        Ok(None) => Ok(false),
        Ok(Some(sent)) => {
            inner.outstanding.set(Some(outstanding - sent));
            inner.response_length.set(inner.response_length.get() + sent);
            Ok(true)
        }
        Err(error) => Err(send_failed(slf, error)),
    }
}
