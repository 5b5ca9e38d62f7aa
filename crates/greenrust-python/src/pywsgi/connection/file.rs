//! The connection as a file, as Python sees it: the handler's `rfile`.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::{Connection, LARGEST_READ_BYTES};
use crate::pywsgi::input;
use crate::socket::Patience;

impl Connection {
    fn read_bytes(&self, py: Python<'_>, size: Option<usize>) -> PyResult<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let left = size.map_or(usize::MAX, |size| size - data.len());
            let taken = self.with_unread(|unread| {
                let taken = unread.len().min(left);
                data.extend_from_slice(&unread[..taken]);
                taken
            });
            self.consume(taken);
            if taken == left || self.fill_for_file(py, (left - taken).min(LARGEST_READ_BYTES))? == 0 {
                return Ok(data);
            }
        }
    }

    /// Reads more into the buffer. As long as the connection is in the middle of a request, as an input that may become
    /// another protocol's, the client has as long as for a piece of a body.
    fn fill_for_file(&self, py: Python<'_>, wanted: usize) -> PyResult<usize> {
        self.fill(py, wanted, self.file_patience()).map_err(|error| self.file_error(py, error))
    }

    fn read_file_line(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<u8>> {
        self.read_line(py, limit, self.file_patience()).map_err(|error| self.file_error(py, error))
    }

    fn is_input(&self) -> bool {
        self.has_head() && !self.has_left_http()
    }

    fn file_patience(&self) -> Patience {
        if self.is_input() { self.body_patience() } else { Patience::Unlimited }
    }

    fn file_error(&self, py: Python<'_>, error: PyErr) -> PyErr {
        let is_late = self.is_input() && error.is_instance_of::<PyTimeoutError>(py);
        if is_late { input::too_slow(py) } else { error }
    }

    fn check_open(&self) -> PyResult<()> {
        if self.is_closed() { Err(PyValueError::new_err("I/O operation on closed file.")) } else { Ok(()) }
    }
}

fn limit_of(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

/// A connection below its buffer.
#[pyclass(module = "gevent.pywsgi", frozen)]
struct RawReader {
    socket: Py<PyAny>,
}

#[pymethods]
impl RawReader {
    /// The connection's socket.
    #[getter]
    fn _sock(&self, py: Python<'_>) -> Py<PyAny> {
        self.socket.clone_ref(py)
    }

    /// readinto(buffer) -> int
    ///
    /// Receives into a writable buffer, past what was read ahead; returns the number of bytes. Switches.
    fn readinto<'py>(&self, py: Python<'py>, buffer: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.socket.bind(py).call_method1(intern!(py, "recv_into"), (buffer,))
    }

    /// The socket's descriptor.
    fn fileno<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.socket.bind(py).call_method0(intern!(py, "fileno"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.socket)
    }
}

#[pymethods]
impl Connection {
    /// read(size=-1) -> bytes
    ///
    /// Reads *size* bytes, fewer only at the end of the stream; all there is for a negative size or None. Switches.
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.check_open()?;
        Ok(PyBytes::new(py, &self.read_bytes(py, limit_of(size))?))
    }

    /// read1(size=-1) -> bytes
    ///
    /// Reads what is there, at most *size* bytes; waits only if nothing is. Switches.
    #[pyo3(signature = (size=None, /))]
    fn read1<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.check_open()?;
        let most = limit_of(size).unwrap_or(LARGEST_READ_BYTES);
        if most > 0 && self.with_unread(<[u8]>::is_empty) {
            self.fill_for_file(py, most)?;
        }
        let data = self.with_unread(|unread| PyBytes::new(py, &unread[..unread.len().min(most)]));
        self.consume(data.as_bytes().len());
        Ok(data)
    }

    /// readline(size=-1) -> bytes
    ///
    /// Reads up to and with the next line feed, at most *size* bytes. Switches.
    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.check_open()?;
        Ok(PyBytes::new(py, &self.read_file_line(py, limit_of(size).unwrap_or(usize::MAX))?))
    }

    /// readlines(hint=-1) -> list of bytes
    ///
    /// Reads lines until the end of the stream, or until they have *hint* bytes. Switches.
    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        self.check_open()?;
        let lines = PyList::empty(py);
        let enough = limit_of(hint).filter(|&hint| hint > 0).unwrap_or(usize::MAX);
        let mut total = 0;
        while total < enough {
            let line = self.read_file_line(py, usize::MAX)?;
            if line.is_empty() {
                break;
            }
            total += line.len();
            lines.append(PyBytes::new(py, &line))?;
        }
        Ok(lines)
    }

    /// readinto(buffer) -> int
    ///
    /// Reads into a writable buffer until it is full or the stream ends; returns the number of bytes. Switches.
    fn readinto(&self, py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<usize> {
        self.check_open()?;
        let data = self.read_bytes(py, Some(buffer.len_bytes()))?;
        input::copy_into(&buffer, &data)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.read_file_line(py, usize::MAX)?;
        Ok(if line.is_empty() { None } else { Some(PyBytes::new(py, &line)) })
    }

    /// Ends the reading; the socket stays open.
    fn close(&self) {
        self.close_reading();
    }

    /// Whether reading was ended.
    #[getter]
    fn closed(&self) -> bool {
        self.is_closed()
    }

    /// True.
    fn readable(&self) -> bool {
        true
    }

    /// False: write to the socket.
    fn writable(&self) -> bool {
        false
    }

    /// False.
    fn seekable(&self) -> bool {
        false
    }

    /// Does nothing.
    fn flush(&self) {}

    /// What is below this file, as in a file of `socket.makefile()`: it has the connection's socket as `_sock`. Programs
    /// that take the connection over look for it there.
    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let file = self.inner.file.borrow().as_ref().map(|file| file.clone_ref(py));
        if let Some(file) = file {
            return file.bind(py).getattr(intern!(py, "raw"));
        }
        Ok(Bound::new(py, RawReader { socket: self.socket(py)?.unbind() })?.into_any())
    }

    /// The socket's descriptor.
    fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        self.socket(py)?.call_method0(intern!(py, "fileno"))?.extract()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<'_, pyo3::types::PyTuple>) {
        self.close_reading();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.inner.if_made().is_none() {
            return Ok(());
        }
        if let Some((service, _)) = &self.inner.place {
            visit.call(service)?;
        }
        for slot in [&self.inner.socket, &self.inner.file] {
            if let Ok(object) = slot.try_borrow() {
                visit.call(&*object)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.close_reading();
    }
}
