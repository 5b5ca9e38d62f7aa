//! The line that the access log gets for a request.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;

use super::This;
use super::client::{client_address_of, forwarded_client, remote};
use crate::pywsgi::log_format::{LogFormat, Record};
use crate::pywsgi::stock::{self, Step};
use crate::pywsgi::{access_log, response, text};

pub(super) fn log_step(slf: This<'_, '_>) -> PyResult<()> {
    if slf.get().has(Step::LogRequest) {
        slf.call_method0(intern!(slf.py(), "log_request")).map(|_| ())
    } else {
        log_request(slf)
    }
}

pub(super) fn log_request(slf: This<'_, '_>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let log = this.server(py)?.getattr(intern!(py, "log"))?;
    if stock::is_no_log(&log)? {
        return Ok(());
    }
    let line = if this.has(Step::FormatRequest) {
        slf.call_method0(intern!(py, "format_request"))?.add("\n")?
    } else {
        let service = this.service(py);
        let format = service.as_ref().map_or(&LogFormat::Standard, |service| service.get().log_format());
        let mut line = match format {
            LogFormat::Standard => request_log_line(slf)?,
            format => formatted_log_line(slf, format)?,
        };
        line.push(b'\n');
        text::latin1(py, &line).into_any()
    };
    log.call_method1(intern!(py, "write"), (line,)).map(|_| ())
}

/// What the log says of a value. What is not latin-1 can't come from the wire; it is shown as Python would escape it.
fn shown(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let text = value.str()?;
    Ok(text::bytes_of(&text)
        .map_or_else(|| text.to_string_lossy().escape_default().to_string().into_bytes(), <[u8]>::to_vec))
}

/// The client's address and port, as the log shows them.
fn logged_client(slf: This<'_, '_>) -> PyResult<(Vec<u8>, Vec<u8>)> {
    let py = slf.py();
    let this = slf.get();
    if let Some(client) = forwarded_client(slf) {
        return Ok((client.to_string().into_bytes(), Vec::new()));
    }
    match remote(slf)? {
        Some((address, port)) => Ok((shown(address.as_any())?, shown(port.as_any())?)),
        None => match client_address_of(this, py).filter(|address| address.is_truthy().unwrap_or(false)) {
            Some(address) => Ok((shown(&address)?, Vec::new())),
            None => Ok((Vec::new(), Vec::new())),
        },
    }
}

/// The status code, as the log shows it.
fn logged_status(slf: This<'_, '_>) -> Vec<u8> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    let status = match inner.native_status.get(py).or_else(|| inner.status.get(py)) {
        Some(status) => response::wire_bytes(&status).unwrap_or_default(),
        None => b"000".to_vec(),
    };
    status.split(|&byte| byte == b' ').next().unwrap_or_default().to_vec()
}

pub(super) fn request_log_line(slf: This<'_, '_>) -> PyResult<Vec<u8>> {
    let inner = &*slf.get().inner;
    let (client, _) = logged_client(slf)?;
    let request_line = slf.get().request_line(slf.py()).map_or(Ok(Vec::new()), |line| shown(&line))?;
    let status = logged_status(slf);
    let (start, finish) = (inner.time_start.get(), inner.time_finish.get());
    let seconds = (finish != 0.0).then_some(finish - start);
    Ok(access_log::line(&client, request_line.trim_ascii_end(), &status, inner.response_length.get(), seconds))
}

fn formatted_log_line(slf: This<'_, '_>, format: &LogFormat) -> PyResult<Vec<u8>> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let (client, port) = logged_client(slf)?;
    let request_line = this.request_line(py).map_or(Ok(Vec::new()), |line| shown(&line))?;
    let head = inner.head.borrow().clone();
    let line = format.line(&Record {
        client: &client,
        port: &port,
        request_line: request_line.trim_ascii_end(),
        status: &logged_status(slf),
        bytes_sent: inner.response_length.get(),
        head_bytes: inner.head_bytes.get(),
        start: inner.time_start.get(),
        seconds: (inner.time_finish.get() - inner.time_start.get()).max(0.0),
        request_field: &|name| this.of_head(py, |head, _| head.header(name).map(<[u8]>::to_vec)).flatten(),
        response_field: &|name| response::field_of(&head, name).map(<[u8]>::to_vec),
    });
    Ok(line.unwrap_or_default())
}
