//! The class as Python sees it: the steps as methods, and what is known of connection, request and response as attributes.
//!
//! What the attributes show of the request is made of the head in the connection's buffer when it is asked for; what is
//! assigned to them takes its place.

#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::client::client_address_of;
use super::environment::get_environ;
use super::logging::{log_request, request_log_line};
use super::reading::handle_one_request;
use super::running::{handle_one_response, process_result, run_application};
use super::serving::{Outcome, handle};
use super::writing::{finalize_headers, send, start_response, take_room, write, write_body, write_with_headers};
use super::{Data, Handler, MAX_REQUEST_LINE, This, some};
use crate::gil::Gil;
use crate::pywsgi::connection::{Arrival, Connection};
use crate::pywsgi::service::Service;
use crate::pywsgi::{environ, response, stock, text};

pub(super) fn command<'py>(slf: This<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    this.inner.command.get(py).or_else(|| this.of_head(py, |head, _| environ::method(py, head.method()).into_any()))
}

pub(super) fn rfile<'py>(slf: This<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    this.inner.rfile.get(py).or_else(|| this.connection(py).map(|connection| connection.into_bound(py).into_any()))
}

pub(super) fn status<'py>(slf: This<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    inner.status.get(py).or_else(|| {
        let native = inner.native_status.get(py)?;
        let bytes = native.cast::<PyString>().ok().and_then(text::bytes_of)?;
        Some(PyBytes::new(py, bytes).into_any())
    })
}

pub(super) fn response_headers<'py>(slf: This<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if let Some(list) = inner.response_headers.get(py) {
        return Ok(Some(list));
    }
    if !inner.native_status.is_set() {
        return Ok(None);
    }
    let head = inner.head.borrow().clone();
    let list = response::list_of(py, &head)?.into_any();
    inner.response_headers.set(Some(list.clone()));
    Ok(Some(list))
}

#[pymethods]
impl Handler {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        let _ = (args, kwargs);
        Self { inner: Gil::default() }
    }

    #[pyo3(signature = (sock, address, server, rfile=None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        sock: Bound<'_, PyAny>,
        address: Bound<'_, PyAny>,
        server: Bound<'_, PyAny>,
        rfile: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let service =
            server.getattr_opt(intern!(py, "_service"))?.and_then(|service| service.cast_into::<Service>().ok());
        let connection = Py::new(py, Connection::new(&sock, rfile.clone(), service.as_ref())?)?;
        drop(inner.service.replace(service.map(Bound::unbind)));
        drop(inner.connection.replace(Some(connection)));
        inner.rfile.set(rfile);
        inner.socket.set(Some(sock));
        inner.client_address.set(Some(address));
        inner.server.set(Some(server));
        inner.overrides.set(stock::overrides(slf.as_any())?);
        Ok(())
    }

    /// Serve the requests of the connection, one after another, until it ends; then close it. Switches.
    fn handle(slf: &Bound<'_, Self>) -> PyResult<()> {
        handle(slf)
    }

    /// Serve one request. Returns True if another may follow, None if the connection is to be closed, or a tuple of a
    /// status and the bytes to send before it is closed. Switches.
    fn handle_one_request<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        Ok(match handle_one_request(slf, false, None)? {
            Outcome::Close | Outcome::Idle(_) => None,
            Outcome::Continue => Some(pyo3::types::PyBool::new(py, true).to_owned().into_any()),
            Outcome::Answer(status, body) => Some((status, body).into_pyobject(py)?.into_any()),
        })
    }

    /// Read and return the request line, with its line end, as a str. Switches.
    fn read_requestline<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        let py = slf.py();
        let line = match slf.get().connection(py) {
            Some(connection) => {
                connection.get().forget_head();
                connection.get().read_request_line(py, MAX_REQUEST_LINE, !slf.get().inner.has_served.get())?
            }
            None => Vec::new(),
        };
        Ok(text::latin1(py, &line))
    }

    /// Read and parse the rest of the head that begins with the line *raw_requestline*. Returns True. Switches.
    ///
    /// Raises ValueError for a head that is refused.
    fn read_request(slf: &Bound<'_, Self>, raw_requestline: &Bound<'_, PyString>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        let Some(connection) = this.connection(py) else { return Ok(false) };
        let mut line = response::wire_bytes(raw_requestline.as_any())?;
        if !line.ends_with(b"\n") && line.len() < MAX_REQUEST_LINE {
            line.extend_from_slice(b"\r\n");
        }
        connection.get().unread(&line);
        let trimmed = text::latin1(py, line.trim_ascii_end());
        this.inner.requestline.set(Some(trimmed.clone().into_any()));
        match connection.get().read_head(py, true, false, None)? {
            Arrival::Head => {
                this.accept_head(py);
                Ok(true)
            }
            Arrival::Late => Err(stock::invalid_client_request(py, "Request not complete in time", 408)?),
            Arrival::End | Arrival::Idle(_) => Err(stock::invalid_client_request(py, "Incomplete request", 400)?),
            Arrival::Refused(error) => {
                let message = format!("Invalid request: {error}: {}", trimmed.repr()?);
                Err(stock::invalid_client_request(py, &message, error.status())?)
            }
        }
    }

    /// Make the environment of the request whose head was read: the server's, and what the head says.
    fn get_environ<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get_environ(slf)
    }

    /// Run the application and deal with what it raises; then log the request. Switches.
    fn handle_one_response(slf: &Bound<'_, Self>) -> PyResult<()> {
        handle_one_response(slf)
    }

    /// Call the application, send what it returns, and close that. Switches.
    fn run_application(slf: &Bound<'_, Self>) -> PyResult<()> {
        run_application(slf)
    }

    /// Send `result`, the application's return value. Switches.
    fn process_result(slf: &Bound<'_, Self>) -> PyResult<()> {
        process_result(slf)
    }

    /// The callable that applications are given (PEP 3333, "The start_response() Callable"). Returns `write`.
    ///
    /// Raises ValueError for a status or headers that would break the response, UnicodeError for what is no latin-1
    /// string, and what *exc_info* tells of if the headers have been sent.
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        start_response(slf, status, headers, exc_info)
    }

    /// Send bytes of the body, with the head before them if it was not sent yet. Switches.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        write(slf, data)
    }

    /// Send the head and bytes of the body. Switches.
    fn _write_with_headers(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        write_with_headers(slf, data, Data::of(data)?.as_slice())
    }

    /// Send bytes of the body, framed. Switches.
    fn _write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        write_body(slf, take_room(), Data::of(data)?.as_slice())
    }

    /// Send bytes as they are. Switches.
    fn _sendall(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        send(slf, &[Data::of(data)?.as_slice()])
    }

    /// Add the headers that the application did not give: Date, Connection, and how the body ends.
    fn finalize_headers(slf: &Bound<'_, Self>) -> PyResult<()> {
        finalize_headers(slf)
    }

    /// Write a line about the request to the server's log.
    fn log_request(slf: &Bound<'_, Self>) -> PyResult<()> {
        log_request(slf)
    }

    /// Return the line about the request.
    fn format_request<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        Ok(text::latin1(slf.py(), &request_log_line(slf)?))
    }

    /// Whether the request asks to leave HTTP: `wsgi.input` is then the connection itself.
    fn _connection_upgrade_requested(slf: &Bound<'_, Self>) -> bool {
        slf.get().of_head(slf.py(), |head, _| environ::asks_for_upgrade(head)).unwrap_or(false)
    }

    // What the connection is.

    #[getter]
    fn get_socket<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.socket.get(slf.py())
    }

    #[setter]
    fn set_socket(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        if let (Some(connection), false) = (this.connection(slf.py()), value.is_none()) {
            connection.get().set_socket(&value)?;
        }
        this.inner.socket.set(some(value));
        Ok(())
    }

    #[getter]
    fn get_rfile<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        rfile(slf)
    }

    #[setter]
    fn set_rfile(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let inner = &*slf.get().inner;
        let connection = match value.cast::<Connection>() {
            Ok(connection) => Some(connection.clone().unbind()),
            Err(_) => match inner.socket.get(py) {
                Some(socket) if !value.is_none() => {
                    let service = slf.get().service(py).map(|service| service.into_bound(py));
                    Some(Py::new(py, Connection::new(&socket, Some(value.clone()), service.as_ref())?)?)
                }
                _ => None,
            },
        };
        drop(inner.connection.replace(connection));
        inner.rfile.set(some(value));
        Ok(())
    }

    #[getter]
    fn get_request_version<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.inner
            .request_version
            .get(py)
            .or_else(|| this.of_head(py, |head, _| environ::version(py, head.version()).clone().into_any()))
    }

    #[setter]
    fn set_request_version(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.request_version.set(some(value));
    }

    #[getter]
    fn get_requestline<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().request_line(slf.py())
    }

    #[setter]
    fn set_requestline(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.requestline.set(some(value));
    }

    #[getter]
    fn get_command<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        command(slf)
    }

    #[setter]
    fn set_command(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.command.set(some(value));
    }

    #[getter]
    fn get_path<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.inner.path.get(py).or_else(|| this.of_head(py, |head, _| text::latin1(py, head.target()).into_any()))
    }

    #[setter]
    fn set_path(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.path.set(some(value));
    }

    /// The request's fields, as `MessageClass` makes them.
    #[getter]
    fn get_headers<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if let Some(headers) = this.inner.headers.get(py) {
            return Ok(headers);
        }
        let fields = this.of_head(py, |_, fields| {
            let start = fields.iter().position(|&byte| byte == b'\n').map_or(0, |place| place + 1);
            fields[start..].to_vec()
        });
        let file = py.import(intern!(py, "io"))?.getattr(intern!(py, "BytesIO"))?;
        let file = file.call1((PyBytes::new(py, &fields.unwrap_or_default()),))?;
        let headers = slf.call_method1(intern!(py, "MessageClass"), (file, 0))?;
        this.inner.headers.set(Some(headers.clone()));
        Ok(headers)
    }

    #[setter]
    fn set_headers(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.headers.set(some(value));
    }

    #[getter]
    fn get_content_length<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        if let Some(length) = this.inner.content_length.get(py) {
            return Ok(Some(length));
        }
        match this.of_head(py, |head, _| head.content_length()).flatten() {
            Some(length) => Ok(Some(length.into_pyobject(py)?.into_any())),
            None => Ok(None),
        }
    }

    #[setter]
    fn set_content_length(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.content_length.set(some(value));
    }

    // What the response is.

    #[getter]
    fn get_status<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        status(slf)
    }

    #[setter]
    fn set_status(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        let inner = &*slf.get().inner;
        if value.is_none() {
            inner.native_status.clear();
        }
        inner.status.set(some(value));
    }

    #[getter(_orig_status)]
    fn get_native_status<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.native_status.get(slf.py())
    }

    #[getter]
    fn get_response_headers<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        response_headers(slf)
    }

    #[setter]
    fn set_response_headers(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.response_headers.set(some(value));
    }

    #[getter]
    fn get_code(&self) -> Option<i32> {
        Some(self.inner.code.get()).filter(|&code| code != 0)
    }

    #[setter]
    fn set_code(&self, value: Option<i32>) {
        self.inner.code.set(value.unwrap_or_default());
    }

    #[getter]
    fn get_client_address<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        client_address_of(slf.get(), slf.py())
    }

    #[setter]
    fn set_client_address(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        let inner = &*slf.get().inner;
        inner.peer.set(None);
        inner.client_address.set(some(value));
        let known = inner.remote.take();
        drop(known);
    }

    #[getter]
    fn get_server<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.server.get(slf.py())
    }

    #[setter]
    fn set_server(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.server.set(some(value));
    }

    #[getter(environ)]
    fn get_made_environ<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.environ.get(slf.py())
    }

    #[setter]
    fn set_environ(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.environ.set(some(value));
    }

    #[getter]
    fn get_application<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.application.get(slf.py())
    }

    #[setter]
    fn set_application(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.application.set(some(value));
    }

    #[getter]
    fn get_result<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.result.get(slf.py())
    }

    #[setter]
    fn set_result(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.result.set(some(value));
    }

    #[getter]
    fn get_wsgi_input<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.wsgi_input.get(slf.py())
    }

    #[setter]
    fn set_wsgi_input(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.wsgi_input.set(some(value));
    }

    #[getter]
    fn get_provided_date<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.provided_date.get(slf.py())
    }

    #[setter]
    fn set_provided_date(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.provided_date.set(some(value));
    }

    #[getter]
    fn get_provided_content_length<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.get().inner.provided_content_length.get(slf.py())
    }

    #[setter]
    fn set_provided_content_length(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) {
        slf.get().inner.provided_content_length.set(some(value));
    }

    #[getter]
    fn get_headers_sent(&self) -> bool {
        self.inner.headers_sent.get()
    }

    #[setter]
    fn set_headers_sent(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.headers_sent.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_response_use_chunked(&self) -> bool {
        self.inner.response_use_chunked.get()
    }

    #[setter]
    fn set_response_use_chunked(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.response_use_chunked.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_connection_upgraded(&self) -> bool {
        self.inner.connection_upgraded.get()
    }

    #[setter]
    fn set_connection_upgraded(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_upgraded = value.is_truthy()?;
        self.inner.connection_upgraded.set(is_upgraded);
        if is_upgraded && let Some(connection) = self.connection(value.py()) {
            connection.get().leave_http();
        }
        Ok(())
    }

    #[getter]
    fn get_close_connection(&self) -> bool {
        self.inner.close_connection.get()
    }

    #[setter]
    fn set_close_connection(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.close_connection.set(value.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn get_response_length(&self) -> u64 {
        self.inner.response_length.get()
    }

    #[setter]
    fn set_response_length(&self, value: u64) {
        self.inner.response_length.set(value);
    }

    #[getter]
    fn get_time_start(&self) -> f64 {
        self.inner.time_start.get()
    }

    #[setter]
    fn set_time_start(&self, value: f64) {
        self.inner.time_start.set(value);
    }

    #[getter]
    fn get_time_finish(&self) -> f64 {
        self.inner.time_finish.get()
    }

    #[setter]
    fn set_time_finish(&self, value: f64) {
        self.inner.time_finish.set(value);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.inner.if_made() else { return Ok(()) };
        for slot in inner.slots() {
            if let Ok(value) = slot.0.try_borrow() {
                visit.call(&*value)?;
            }
        }
        if let Ok(connection) = inner.connection.try_borrow() {
            visit.call(&*connection)?;
        }
        if let Ok(websocket) = inner.websocket.try_borrow() {
            visit.call(&*websocket)?;
        }
        if let Ok(service) = inner.service.try_borrow() {
            visit.call(&*service)?;
        }
        if let Ok(seat) = inner.seat.try_borrow()
            && let Some(seat) = &*seat
        {
            visit.call(seat.service())?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let inner = &*self.inner;
        for slot in inner.slots() {
            slot.clear();
        }
        drop(inner.connection.take());
        drop(inner.websocket.take());
        drop(inner.service.take());
    }
}
