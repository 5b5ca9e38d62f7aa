//! The response: `start_response`, the fields that the server adds, and how bytes of a body are framed and sent.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::num::NonZeroUsize;

use greenrust::http::{CHUNK_END, Version, encode_chunk_head, parse_decimal};
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::class::{response_headers, status};
use super::{Data, Handler, This};
use crate::gil::Gil;
use crate::pywsgi::stock::Step;
use crate::pywsgi::{access_log, response, text};

/// Bodies up to this size are copied behind the head and sent with it by one plain call, bytes.
const COPIED_BYTES: usize = 16384;

/// The steps that might send more after the application's result was sent.
const AROUND_THE_RESULT: &[Step] =
    &[Step::HandleOneRequest, Step::HandleOneResponse, Step::RunApplication, Step::ProcessResult];

/// Room for what is sent. All connections have the same, which so stays in the processor's cache.
static ROOM: Gil<RefCell<Vec<u8>>> = Gil::new(RefCell::new(Vec::new()));

pub(super) fn take_room() -> Vec<u8> {
    let mut room = ROOM.take();
    room.clear();
    room
}

fn give_room_back(room: Vec<u8>) {
    if (1..=2 * COPIED_BYTES).contains(&room.capacity()) {
        ROOM.replace(room);
    }
}

pub(super) fn start_response<'py>(
    slf: This<'_, 'py>,
    status: &Bound<'py, PyAny>,
    headers: &Bound<'py, PyAny>,
    exc_info: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if let Some(exc_info) = exc_info
        && inner.headers_sent.get()
        && exc_info.is_truthy()?
    {
        let value = exc_info.get_item(1)?;
        let traceback = exc_info.get_item(2)?;
        let value = value.call_method1(intern!(py, "with_traceback"), (traceback,))?;
        return Err(PyErr::from_value(value));
    }
    let mut head = inner.head.take();
    let encoded = response::encode(&mut head, status, headers);
    inner.head.replace(head);
    let provided = encoded?;
    let digits = inner.head.borrow()[9..12].iter().fold(0, |code, digit| code * 10 + i32::from(digit - b'0'));
    inner.code.set(digits);
    if digits == 101
        && let Some(connection) = slf.get().connection(py)
    {
        connection.get().leave_http();
    }
    inner.status.clear();
    inner.native_status.set(Some(status.clone()));
    inner.response_headers.clear();
    inner.provided_connection.set(provided.connection.is_some());
    inner.provided_server.set(provided.server);
    inner.provided_date.set(provided.date.map(|date| date.into_bound(py)));
    if provided.closes {
        inner.close_connection.set(true);
    }
    if let Some(length) = &provided.content_length
        && matches!(digits, 204 | 304)
        && !(length.bind(py).eq("0")?)
    {
        let message = format!(
            "Invalid Content-Length for {digits} response: {} (must be absent or zero)",
            length.bind(py).repr()?
        );
        // Bytes, so that an application can return the error's arguments as its result.
        return Err(Handler::application_error(slf, PyBytes::new(py, message.as_bytes())));
    }
    inner.provided_content_length.set(provided.content_length.map(|length| length.into_bound(py)));
    Handler::bound_method(slf, &inner.write, intern!(py, "write"))
}

pub(super) fn append_header(slf: This<'_, '_>, name: &[u8], value: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    match inner.response_headers.get(py) {
        Some(list) => {
            list.call_method1(intern!(py, "append"), ((PyBytes::new(py, name), PyBytes::new(py, value)),)).map(|_| ())
        }
        None => {
            let mut head = inner.head.borrow_mut();
            for part in [name, b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
            Ok(())
        }
    }
}

pub(super) fn finalize_headers(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let code = inner.code.get();
    inner.connection_upgraded.set(code == 101);
    if !inner.provided_date.is_set() {
        let now = inner.time_start.get().max(access_log::now());
        let date = access_log::with_date(now, |value| *value);
        append_header(slf, b"Date", &date)?;
    }
    if !inner.provided_server.get()
        && let Some(service) = this.service(py)
        && let Some(value) = service.get().server_header()
    {
        append_header(slf, b"Server", value)?;
    }
    if inner.connection_upgraded.get() {
        return Ok(());
    }
    if this.connection(py).is_some_and(|connection| connection.get().is_draining()) {
        inner.close_connection.set(true);
    }
    let is_bodiless = this.is_bodiless(py);
    // The client waits for another response, or takes what follows for the tunnel's: nothing may (RFC 9110 sections
    // 15.2 and 9.3.6).
    let ends_http = is_bodiless && this.ends_http(py);
    if ends_http {
        inner.close_connection.set(true);
    }
    let version = this.version(py);
    if let Some(length) = inner.provided_content_length.get(py) {
        // A handler may have put something else here, to keep us from saying anything.
        if let Ok(length) = length.cast::<PyString>() {
            let length = text::bytes_of(length)
                .and_then(|digits| parse_decimal(digits.trim_ascii()))
                .ok_or_else(|| Handler::application_error(slf, "The Content-Length of the response is not a number"))?;
            inner.outstanding.set(if is_bodiless { None } else { Some(length) });
        }
    } else if !(ends_http || matches!(code, 204 | 304)) {
        match result_length(inner.result.get(py))? {
            // What the answer to GET has is not known (RFC 9110 section 8.6).
            Some(0) if is_bodiless => {}
            Some(length) => {
                append_header(slf, b"Content-Length", length.to_string().as_bytes())?;
                inner.outstanding.set(if is_bodiless { None } else { Some(length) });
            }
            None if is_bodiless => {}
            None if version == Version::Http11 => {
                inner.response_use_chunked.set(true);
                append_header(slf, b"Transfer-Encoding", b"chunked")?;
            }
            // Only the connection's end tells the body's.
            None => inner.close_connection.set(true),
        }
    }
    if !inner.provided_connection.get()
        && let Some(option) = greenrust::http::connection_field(version, !inner.close_connection.get())
    {
        append_header(slf, b"Connection", option.as_bytes())?;
    }
    Ok(())
}

/// The size of a result whose chunks are known, bytes.
fn result_length(result: Option<Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(result) = result else { return Ok(None) };
    if let Ok(list) = result.cast_exact::<PyList>()
        && list.len() == 1
        && let Ok(bytes) = list.get_item(0)?.cast::<PyBytes>()
    {
        return Ok(Some(bytes.as_bytes().len() as u64));
    }
    if !result.hasattr(intern!(result.py(), "__len__"))? {
        return Ok(None);
    }
    let mut total = 0;
    for chunk in result.try_iter()? {
        total += chunk?.len()? as u64;
    }
    Ok(Some(total))
}

pub(super) fn write_step(slf: This<'_, '_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    if slf.get().has(Step::Write) {
        slf.call_method1(intern!(slf.py(), "write"), (data,)).map(|_| ())
    } else {
        write(slf, data)
    }
}

pub(super) fn write(slf: This<'_, '_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    if matches!(slf.get().inner.code.get(), 204 | 304) && data.is_truthy()? {
        let message = format!("The {} response must have no body", slf.get().inner.code.get());
        return Err(Handler::application_error(slf, message));
    }
    write_data(slf, data, Data::of(data)?.as_slice())
}

/// Writes bytes, with the head before them if it was not sent yet. `object` is what an overriding method is given.
pub(super) fn write_data(slf: This<'_, '_>, object: &Bound<'_, PyAny>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    if this.inner.headers_sent.get() {
        if this.has(Step::WriteBody) {
            return slf.call_method1(intern!(py, "_write"), (object,)).map(|_| ());
        }
        return write_body(slf, take_room(), data);
    }
    if !this.has_status() {
        return Err(Handler::application_error(slf, "The application did not call start_response()"));
    }
    if this.has(Step::WriteWithHeaders) {
        return slf.call_method1(intern!(py, "_write_with_headers"), (object,)).map(|_| ());
    }
    write_with_headers(slf, object, data)
}

pub(super) fn write_with_headers(slf: This<'_, '_>, object: &Bound<'_, PyAny>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    if this.has(Step::FinalizeHeaders) {
        slf.call_method0(intern!(py, "finalize_headers"))?;
    } else {
        finalize_headers(slf)?;
    }
    if inner.status.is_set() || inner.response_headers.is_set() {
        encode_attributes(slf)?;
    }
    let mut out = take_room();
    out.extend_from_slice(&inner.head.borrow());
    out.extend_from_slice(b"\r\n");
    inner.head_bytes.set(out.len() as u64);
    if this.inner.overrides.get().has_any(&[Step::WriteBody, Step::SendAll]) {
        inner.headers_sent.set(true);
        send_step(slf, &out)?;
        return slf.call_method1(intern!(py, "_write"), (object,)).map(|_| ());
    }
    write_body(slf, out, data)
}

/// Encodes the head from the attributes that somebody has set or looked at.
#[cold]
fn encode_attributes(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let status = status(slf);
    let status = match status {
        Some(status) => response::wire_bytes(&status)?,
        None => Vec::new(),
    };
    let headers = response_headers(slf)?;
    let mut head = inner.head.take();
    let encoded =
        response::encode_attributes(&mut head, &status, headers.as_ref().unwrap_or(PyTuple::empty(py).as_any()));
    inner.head.replace(head);
    encoded
}

/// Sends `out`, which is the head or nothing, and the bytes of a body, framed.
pub(super) fn write_body(slf: This<'_, '_>, mut out: Vec<u8>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let data = if this.is_bodiless(py) { &[][..] } else { data };
    if let Some(outstanding) = inner.outstanding.get() {
        let length = data.len() as u64;
        if length > outstanding {
            inner.close_connection.set(true);
            let message = format!(
                "The body is longer than the Content-Length of the response, by {} bytes",
                length - outstanding
            );
            return Err(Handler::application_error(slf, message));
        }
        inner.outstanding.set(Some(outstanding - length));
    }
    inner.headers_sent.set(true);
    let is_chunk = inner.response_use_chunked.get();
    let Some(size) = NonZeroUsize::new(data.len()) else {
        let sent = if out.is_empty() { Ok(()) } else { send(slf, &[&out]) };
        give_room_back(out);
        return sent;
    };
    if is_chunk {
        encode_chunk_head(&mut out, size);
    }
    let end: &[u8] = if is_chunk { CHUNK_END } else { b"" };
    let sent = if this.has(Step::SendAll) {
        out.extend_from_slice(data);
        out.extend_from_slice(end);
        send_step(slf, &out)
    } else if data.len() <= COPIED_BYTES {
        out.extend_from_slice(data);
        out.extend_from_slice(end);
        send(slf, &[&out])
    } else if out.is_empty() && end.is_empty() {
        send(slf, &[data])
    } else {
        send(slf, &[&out, data, end])
    };
    give_room_back(out);
    sent
}

pub(super) fn send_step(slf: This<'_, '_>, data: &[u8]) -> PyResult<()> {
    let py = slf.py();
    if slf.get().has(Step::SendAll) {
        return slf.call_method1(intern!(py, "_sendall"), (PyBytes::new(py, data),)).map(|_| ());
    }
    send(slf, &[data])
}

pub(super) fn send(slf: This<'_, '_>, parts: &[&[u8]]) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(connection) = this.connection(py) else {
        return Err(PyOSError::new_err((libc::EBADF, "the connection is closed")));
    };
    // Chunks have an end of their own.
    let ends = inner.is_last_write.get()
        && inner.close_connection.get()
        && inner.headers_sent.get()
        && !inner.response_use_chunked.get()
        && !inner.connection_upgraded.get()
        && !inner.overrides.get().has_any(AROUND_THE_RESULT);
    let sent = if ends { connection.get().send_last(py, parts) } else { connection.get().send_all(py, parts) };
    match sent {
        Ok(()) => {
            let total: usize = parts.iter().map(|part| part.len()).sum();
            inner.response_length.set(inner.response_length.get() + total as u64);
            Ok(())
        }
        Err(error) => Err(send_failed(slf, error)),
    }
}

/// Notes for the log that sending failed.
#[cold]
pub(super) fn send_failed(slf: This<'_, '_>, error: PyErr) -> PyErr {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if error.is_instance_of::<PyOSError>(py) {
        let text = format!("socket error: {}", error.value(py));
        inner.status.set(Some(PyString::new(py, &text).into_any()));
        inner.code.set(-inner.code.get().abs());
    }
    error
}
