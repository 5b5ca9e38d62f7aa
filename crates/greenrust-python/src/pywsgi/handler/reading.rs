//! A request's head: reading it, and what is answered to one that is refused.

#![forbid(unsafe_code)]

use greenrust::http::RequestError;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::environment::get_environ;
use super::running::{handle_one_response, while_handled};
use super::serving::{Outcome, outcome_of};
use super::{MAX_REQUEST_LINE, This};
use crate::pywsgi::connection::{Arrival, Connection};
use crate::pywsgi::stock::{self, Step};
use crate::pywsgi::text;
use crate::pywsgi::worker::Worker;

pub(super) fn handle_one_request(slf: This<'_, '_>, may_doze: bool, worker: Option<&Worker<'_>>) -> PyResult<Outcome> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(connection) = this.connection(py) else { return Ok(Outcome::Close) };
    let connection = connection.get();
    if connection.is_closed() {
        return Ok(Outcome::Close);
    }
    this.begin_request();
    if this.inner.overrides.get().has_any(&[Step::ReadRequestline, Step::ReadRequest]) {
        if let Some(outcome) = read_by_methods(slf)? {
            return Ok(outcome);
        }
    } else {
        match connection.read_head(py, !inner.has_served.get(), may_doze, worker) {
            Ok(Arrival::Head) => this.accept_head(py),
            Ok(Arrival::End) => return Ok(Outcome::Close),
            Ok(Arrival::Idle(idle)) => return Ok(Outcome::Idle(idle)),
            Ok(Arrival::Late) => return late(slf),
            Ok(Arrival::Refused(error)) => return refuse(slf, error),
            // A connection that breaks between requests is not worth a word.
            Err(error) if error.is_instance_of::<PyOSError>(py) => return Ok(Outcome::Close),
            Err(error) => return Err(error),
        }
    }
    inner.has_served.set(true);
    if let Some(outcome) = refuse_large_body(slf, connection)? {
        return Ok(outcome);
    }
    let environ =
        if this.has(Step::GetEnviron) { slf.call_method0(intern!(py, "get_environ"))? } else { get_environ(slf)? };
    inner.environ.set(Some(environ));
    inner.application.set(Some(this.server(py)?.getattr(intern!(py, "application"))?));
    if this.has(Step::HandleOneResponse) {
        slf.call_method0(intern!(py, "handle_one_response"))?;
    } else {
        handle_one_response(slf)?;
    }
    if inner.overrides.get().is_empty() {
        // Nobody looks at it any more: an idle connection holds no environment.
        inner.environ.clear();
    }
    if inner.close_connection.get() || connection.is_closed() { Ok(Outcome::Close) } else { Ok(Outcome::Continue) }
}

/// Reads a head by the methods that a subclass overrides. Returns what comes instead of a request.
fn read_by_methods(slf: This<'_, '_>) -> PyResult<Option<Outcome>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let line = match slf.call_method0(intern!(py, "read_requestline")) {
        Ok(line) => match line.cast::<PyBytes>() {
            Ok(bytes) => text::latin1(py, bytes.as_bytes()).into_any(),
            Err(_) => line,
        },
        Err(error) if error.is_instance_of::<PyOSError>(py) => return Ok(Some(Outcome::Close)),
        Err(error) => return Err(error),
    };
    if !line.is_truthy()? {
        return Ok(Some(Outcome::Close));
    }
    inner.requestline.set(Some(line.clone()));
    if line.len()? >= MAX_REQUEST_LINE {
        return refuse(slf, RequestError::RequestLineTooLong).map(Some);
    }
    match slf.call_method1(intern!(py, "read_request"), (line,)) {
        Ok(read) if read.is_truthy()? => Ok(None),
        Ok(_) => answer(py, 400).map(Some),
        Err(error) if error.is_instance_of::<PyException>(py) => client_error(slf, error).map(Some),
        Err(error) => Err(error),
    }
}

/// The answer to a client that began a head and did not end it in time.
fn late(slf: This<'_, '_>) -> PyResult<Outcome> {
    note_refused_line(slf);
    answer(slf.py(), 408)
}

/// The answer to a request that announces more than the server takes.
fn refuse_large_body(slf: This<'_, '_>, connection: &Connection) -> PyResult<Option<Outcome>> {
    let Some(most) = connection.most_body_bytes() else { return Ok(None) };
    let length = connection.with_head(|head, _| head.content_length()).flatten();
    match length {
        Some(length) if length > most => {
            let message = format!("Content-Length is {length}, more than the {most} bytes that are taken");
            client_error(slf, stock::invalid_client_request(slf.py(), &message, 413)?).map(Some)
        }
        _ => Ok(None),
    }
}

/// The bytes that refuse a request.
fn refusal(status: u16) -> Vec<u8> {
    let phrase = match status {
        414 => "Request URI Too Long",
        other => greenrust::http::reason_phrase(other),
    };
    format!("HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-length: 0\r\n\r\n").into_bytes()
}

fn answer(py: Python<'_>, status: u16) -> PyResult<Outcome> {
    let log_status = PyString::new(py, &status.to_string()).into_any().unbind();
    Ok(Outcome::Answer(log_status, PyBytes::new(py, &refusal(status)).into_any().unbind()))
}

/// Notes what came instead of a request line, for the log.
fn note_refused_line<'py>(slf: This<'_, 'py>) -> Bound<'py, PyString> {
    let py = slf.py();
    let this = slf.get();
    let mut line = Vec::new();
    if let Some(connection) = this.connection(py) {
        connection.get().with_unread(|unread| {
            let end = unread.iter().position(|&byte| byte == b'\n').unwrap_or(unread.len());
            line.extend_from_slice(unread[..end.min(MAX_REQUEST_LINE)].trim_ascii_end());
        });
    }
    let line = text::latin1(py, &line);
    if !this.inner.requestline.is_set() {
        this.inner.requestline.set(Some(line.clone().into_any()));
    }
    line
}

/// The answer to a head that is refused.
fn refuse(slf: This<'_, '_>, error: RequestError) -> PyResult<Outcome> {
    let py = slf.py();
    let line = note_refused_line(slf);
    if error == RequestError::RequestLineTooLong {
        return answer(py, 414);
    }
    let shown: String = line.to_string_lossy().chars().take(200).collect();
    let message = format!("Invalid request: {error}: {}", PyString::new(py, &shown).repr()?);
    client_error(slf, stock::invalid_client_request(py, &message, error.status())?)
}

/// Lets the handler say what is answered to an error of the client's.
fn client_error(slf: This<'_, '_>, error: PyErr) -> PyResult<Outcome> {
    let py = slf.py();
    let answered =
        while_handled(py, &error, || slf.call_method1(intern!(py, "_handle_client_error"), (error.value(py),)))?;
    outcome_of(answered)
}
