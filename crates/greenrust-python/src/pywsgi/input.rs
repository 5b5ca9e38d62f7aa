//! `wsgi.input`: the body of a request as a file (PEP 3333, "Input and Error Streams"; it ends where the body does).
//!
//! Framing is the runtime's [`BodyDecoder`]; what was decoded for a line and not asked for yet waits in `pending`. The
//! first read of a body whose client expects it sends `100 Continue` (RFC 9110 section 10.1.1).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use greenrust::http::{BodyDecoder, BodyError, BodyKind};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::connection::Connection;
use super::stock;
use crate::gil::Gil;
use crate::hub as py_hub;
use crate::socket::Patience;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How much of a body that nobody read is read to keep the connection, bytes. Opening another one costs less than more.
const DRAINED_BYTES: u64 = 1 << 20;

/// How long the rest of such a body may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Decoded in one go where no length is asked for, bytes.
const PIECE_BYTES: usize = 65536;

enum Source {
    Connection(Py<Connection>),
    /// Any file-like object. Nothing is read beyond the body, as it can't be given back.
    File(Py<PyAny>),
}

/// The body of a request, as `wsgi.input`.
#[pyclass(name = "Input", module = "gevent.pywsgi", frozen, subclass)]
pub struct Input {
    inner: Gil<Inner>,
}

struct Inner {
    source: Source,
    /// Where to send `100 Continue` if it is still to be sent and the source is a file.
    socket: RefCell<Option<Py<PyAny>>>,
    expects_continue: Cell<bool>,
    decoder: RefCell<BodyDecoder>,
    pending: RefCell<Vec<u8>>,
    pending_start: Cell<usize>,
    position: Cell<u64>,
    content_length: Option<u64>,
    is_chunked: bool,
    has_failed: Cell<bool>,
    /// The request is over: what follows on the connection is not this body.
    is_over: Cell<bool>,
}

/// Whether the connection can carry another request after this body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The body was read to its end.
    Read,
    /// Some of it may still come: the connection must be closed.
    Outstanding,
}

impl Input {
    /// Makes the body of the request whose head the connection has just read.
    pub fn of_request(connection: Py<Connection>, kind: BodyKind, expects_continue: bool) -> Self {
        let content_length = match kind {
            BodyKind::Length(length) => Some(length),
            BodyKind::None | BodyKind::Chunked => None,
        };
        let most = connection.get().most_body_bytes();
        Self::make(Source::Connection(connection), None, kind, content_length, expects_continue, most)
    }

    fn make(
        source: Source,
        socket: Option<Py<PyAny>>,
        kind: BodyKind,
        content_length: Option<u64>,
        expects_continue: bool,
        most: Option<u64>,
    ) -> Self {
        // A length beyond the limit was refused with the head; the limit of chunks is kept here.
        let most = most.max(content_length.filter(|_| most.is_some()));
        let decoder = BodyDecoder::new(kind, most).expect("no length is beyond the limit");
        Self {
            inner: Gil::new(Inner {
                source,
                socket: RefCell::new(socket),
                expects_continue: Cell::new(expects_continue),
                decoder: RefCell::new(decoder),
                pending: RefCell::new(Vec::new()),
                pending_start: Cell::new(0),
                position: Cell::new(0),
                content_length,
                is_chunked: kind == BodyKind::Chunked,
                has_failed: Cell::new(false),
                is_over: Cell::new(false),
            }),
        }
    }

    #[inline]
    fn is_finished(&self) -> bool {
        self.inner.is_over.get() || self.inner.decoder.borrow().is_finished()
    }

    /// What decides whether a body that breaks off was the client's fault.
    fn truncated(&self) -> PyErr {
        self.inner.has_failed.set(true);
        if self.inner.is_chunked {
            return PyOSError::new_err("unexpected end of file while parsing chunked data");
        }
        let position = self.inner.position.get();
        PyOSError::new_err(format!("unexpected end of file while reading request at position {position}"))
    }

    fn refused(&self, py: Python<'_>, error: BodyError) -> PyErr {
        self.inner.has_failed.set(true);
        stock::invalid_client_input(py, error.reason(), error.status())
    }

    fn send_continue(&self, py: Python<'_>) -> PyResult<()> {
        if !self.inner.expects_continue.replace(false) {
            return Ok(());
        }
        let socket = self.inner.socket.borrow_mut().take();
        match (socket, &self.inner.source) {
            (Some(socket), _) => {
                socket.call_method1(py, intern!(py, "sendall"), (PyBytes::new(py, CONTINUE),))?;
                Ok(())
            }
            (None, Source::Connection(connection)) => connection.get().send_all(py, &[CONTINUE]),
            (None, Source::File(_)) => Ok(()),
        }
    }

    /// Appends the next piece of data, at most `most` bytes, to `out`. Returns false at the body's end. Switches.
    fn decode(&self, py: Python<'_>, most: usize, patience: Option<Patience>, out: &mut Vec<u8>) -> PyResult<bool> {
        if self.inner.has_failed.get() && !self.is_finished() {
            return Err(self.truncated());
        }
        let before = out.len();
        while out.len() == before && most > 0 {
            if self.is_finished() {
                return Ok(false);
            }
            let known = self.inner.decoder.borrow().known_remaining();
            let wanted = usize::try_from(known).unwrap_or(usize::MAX).min(most).min(PIECE_BYTES);
            let step = |bytes: &[u8], out: &mut Vec<u8>| {
                let piece = &bytes[..bytes.len().min(most)];
                let decoded = self.inner.decoder.borrow_mut().decode(piece)?;
                out.extend_from_slice(&piece[decoded.data]);
                Ok(decoded.consumed)
            };
            match &self.inner.source {
                Source::Connection(connection) => {
                    let connection = connection.get();
                    let stepped =
                        connection.with_unread(|unread| if unread.is_empty() { None } else { Some(step(unread, out)) });
                    match stepped {
                        Some(Ok(consumed)) => connection.consume(consumed),
                        Some(Err(error)) => return Err(self.refused(py, error)),
                        None => {
                            // A file in place of our reader must not be read beyond the body.
                            let room = if connection.reads_file() { wanted.max(1) } else { wanted };
                            let is_bodys = patience.is_none();
                            let patience = patience.unwrap_or_else(|| connection.body_patience());
                            match connection.fill(py, room, patience) {
                                Ok(0) => return Err(self.truncated()),
                                Ok(_) => {}
                                Err(error) => {
                                    self.inner.has_failed.set(true);
                                    let is_late = error.is_instance_of::<PyTimeoutError>(py);
                                    return Err(if is_bodys && is_late { too_slow(py) } else { error });
                                }
                            }
                        }
                    }
                }
                Source::File(file) => {
                    let data = file.bind(py).call_method1(intern!(py, "read"), (wanted.max(1),))?;
                    let data = data.cast::<PyBytes>()?.as_bytes();
                    if data.is_empty() {
                        return Err(self.truncated());
                    }
                    step(data, out).map_err(|error| self.refused(py, error))?;
                }
            }
        }
        self.inner.position.set(self.inner.position.get() + (out.len() - before) as u64);
        Ok(true)
    }

    fn take_pending(&self, most: usize, out: &mut Vec<u8>) {
        let mut pending = self.inner.pending.borrow_mut();
        let start = self.inner.pending_start.get();
        let taken = (pending.len() - start).min(most);
        out.extend_from_slice(&pending[start..start + taken]);
        if start + taken == pending.len() {
            pending.clear();
            self.inner.pending_start.set(0);
        } else {
            self.inner.pending_start.set(start + taken);
        }
    }

    fn read_bytes(&self, py: Python<'_>, size: Option<usize>) -> PyResult<Vec<u8>> {
        let size = size.unwrap_or(usize::MAX);
        let mut data = Vec::new();
        if size == 0 {
            return Ok(data);
        }
        self.send_continue(py)?;
        self.take_pending(size, &mut data);
        while data.len() < size && self.decode(py, (size - data.len()).min(PIECE_BYTES), None, &mut data)? {}
        Ok(data)
    }

    fn read_line(&self, py: Python<'_>, size: Option<usize>) -> PyResult<Vec<u8>> {
        let size = size.unwrap_or(usize::MAX);
        let mut line = Vec::new();
        if size == 0 {
            return Ok(line);
        }
        self.send_continue(py)?;
        loop {
            let (taken, is_whole) = {
                let pending = self.inner.pending.borrow();
                let piece = &pending[self.inner.pending_start.get()..];
                let piece = &piece[..piece.len().min(size - line.len())];
                match piece.iter().position(|&byte| byte == b'\n') {
                    Some(place) => (place + 1, true),
                    None => (piece.len(), false),
                }
            };
            self.take_pending(taken, &mut line);
            if is_whole || line.len() == size {
                return Ok(line);
            }
            let mut piece = Vec::new();
            let more = self.decode(py, PIECE_BYTES, None, &mut piece)?;
            *self.inner.pending.borrow_mut() = piece;
            if !more {
                return Ok(line);
            }
        }
    }

    /// Ends the request: reads what is left of the body, if it is little and comes soon. Switches.
    ///
    /// # Errors
    ///
    /// What reading raises: a malformed body, a lost connection.
    pub fn finish(&self, py: Python<'_>) -> PyResult<Rest> {
        let inner = &*self.inner;
        let mut rest = Rest::Read;
        if !self.is_finished() {
            let remaining = inner.decoder.borrow().known_remaining();
            // A client that was not told to continue may or may not send the body, unless it has begun.
            let may_not_come = inner.expects_continue.get()
                && match &inner.source {
                    Source::Connection(connection) => connection.get().with_unread(<[u8]>::is_empty),
                    Source::File(_) => false,
                };
            if inner.has_failed.get() || may_not_come || remaining > DRAINED_BYTES {
                rest = Rest::Outstanding;
            } else {
                let mut total = 0;
                let mut piece = Vec::new();
                let deadline = py_hub::ensure(py)?.clock().now().after(DRAIN_PATIENCE);
                loop {
                    piece.clear();
                    match self.decode(py, PIECE_BYTES, Some(Patience::Until(deadline)), &mut piece) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) if error.is_instance_of::<PyTimeoutError>(py) => {
                            rest = Rest::Outstanding;
                            break;
                        }
                        Err(error) => {
                            inner.is_over.set(true);
                            return Err(error);
                        }
                    }
                    total += piece.len() as u64;
                    if total > DRAINED_BYTES {
                        rest = Rest::Outstanding;
                        break;
                    }
                }
            }
        }
        inner.is_over.set(true);
        Ok(rest)
    }
}

/// The client sent nothing of the body for too long.
pub fn too_slow(py: Python<'_>) -> PyErr {
    stock::invalid_client_input(py, "the body did not come in time", 408)
}

fn limit_of(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

/// Copies bytes into the begin of a writable buffer and returns their number.
pub fn copy_into(buffer: &PyBuffer<u8>, data: &[u8]) -> PyResult<usize> {
    if buffer.readonly() || !buffer.is_c_contiguous() || data.len() > buffer.len_bytes() {
        return Err(PyValueError::new_err("readinto needs a writable, contiguous buffer of bytes"));
    }
    // SAFETY: the buffer is held, writable, contiguous, and has that many bytes; Python's memory is not `data`'s.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), buffer.buf_ptr().cast(), data.len()) };
    Ok(data.len())
}

#[pymethods]
impl Input {
    #[new]
    #[pyo3(signature = (rfile, content_length, socket=None, chunked_input=false))]
    fn new(
        rfile: Bound<'_, PyAny>,
        content_length: Option<u64>,
        socket: Option<Py<PyAny>>,
        chunked_input: bool,
    ) -> PyResult<Self> {
        let kind = match content_length {
            _ if chunked_input => BodyKind::Chunked,
            Some(length) => BodyKind::Length(length),
            None => BodyKind::None,
        };
        let expects_continue = socket.is_some();
        let source = match rfile.cast_into::<Connection>() {
            Ok(connection) => Source::Connection(connection.unbind()),
            Err(other) => Source::File(other.into_inner().unbind()),
        };
        Ok(Self::make(source, socket, kind, content_length, expects_continue, None))
    }

    /// read(length=None) -> bytes
    ///
    /// Reads *length* bytes, fewer only at the body's end; all of it for None or a negative length. Switches. Raises
    /// OSError if the client breaks off or its framing is malformed.
    #[pyo3(signature = (length=None))]
    fn read<'py>(&self, py: Python<'py>, length: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.read_bytes(py, limit_of(length))?))
    }

    /// readline(size=None) -> bytes
    ///
    /// Reads up to and with the next line feed, at most *size* bytes. Switches. Raises as `read`.
    #[pyo3(signature = (size=None))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.read_line(py, limit_of(size))?))
    }

    /// readlines(hint=None) -> list of bytes
    ///
    /// Reads all lines. Switches. *hint* is not regarded, as PEP 3333 allows. Raises as `read`.
    #[pyo3(signature = (hint=None))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let _ = hint;
        let lines = PyList::empty(py);
        while let Some(line) = self.__next__(py)? {
            lines.append(line)?;
        }
        Ok(lines)
    }

    /// readinto(buffer) -> int
    ///
    /// Reads into a writable buffer until it is full or the body ends; returns the number of bytes. Switches.
    fn readinto(&self, py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<usize> {
        let data = self.read_bytes(py, Some(buffer.len_bytes()))?;
        copy_into(&buffer, &data)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.read_line(py, None)?;
        Ok(if line.is_empty() { None } else { Some(PyBytes::new(py, &line)) })
    }

    /// next() -> bytes
    ///
    /// The next line; raises StopIteration at the end.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.__next__(py)?.ok_or_else(|| pyo3::exceptions::PyStopIteration::new_err(()))
    }

    /// The declared length in bytes, or None.
    #[getter]
    fn content_length(&self) -> Option<u64> {
        self.inner.content_length
    }

    /// Whether the body comes in chunks.
    #[getter]
    fn chunked_input(&self) -> bool {
        self.inner.is_chunked
    }

    /// Bytes outstanding of the present chunk; -1 before one has begun, 0 at the end.
    #[getter]
    fn chunk_length(&self) -> i64 {
        match self.inner.decoder.borrow().known_remaining() {
            0 if !self.is_finished() => -1,
            remaining => i64::try_from(remaining).unwrap_or(i64::MAX),
        }
    }

    /// How many bytes of the body's data have been taken from the connection.
    #[getter]
    fn position(&self) -> u64 {
        self.inner.position.get()
    }

    /// Where the bytes come from.
    #[getter]
    fn rfile(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.inner.source {
            Source::Connection(connection) => connection.clone_ref(py).into_any(),
            Source::File(file) => file.clone_ref(py),
        }
    }

    /// The socket for `100 Continue` if the application's read is to send it, else None.
    #[getter]
    fn socket(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner.socket.borrow().as_ref().map(|socket| socket.clone_ref(py))
    }

    /// Whether the next read sends `100 Continue`, if the client expects it.
    #[getter]
    fn get_send_100_continue_enabled(&self) -> bool {
        self.inner.expects_continue.get()
    }

    #[setter]
    fn set_send_100_continue_enabled(&self, enabled: bool) {
        if !enabled {
            self.inner.expects_continue.set(false);
        }
    }

    /// Reads what is left of the body.
    fn _discard(&self, py: Python<'_>) -> PyResult<()> {
        self.finish(py).map(|_| ())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.inner.if_made().is_none() {
            return Ok(());
        }
        match &self.inner.source {
            Source::Connection(connection) => visit.call(connection)?,
            Source::File(file) => visit.call(file)?,
        }
        if let Ok(socket) = self.inner.socket.try_borrow() {
            visit.call(&*socket)?;
        }
        Ok(())
    }
}
