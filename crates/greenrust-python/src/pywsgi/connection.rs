//! The bytes of a connection: buffered reading and whole writing, straight on the descriptor.
//!
//! ```text
//! buffer  │ head of the request in work │ read before │ not read yet: body, next requests │ free │
//!         0                          kept          start                                  len
//! ```
//!
//! The head stays in the buffer until the next is looked for, so that everything that is known of a request can be made
//! into Python objects when somebody asks for it. Python sees the object as the handler's `rfile`.
//!
//! A TLS socket, or a socket whose class has a `recv` or `sendall` of its own, is read and written by these methods.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::time::Duration;

use greenrust::http::{ParseStatus, RequestError, RequestHead, RequestLimits, RequestParser};
use greenrust::hub::{Direction, WaitingFor};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::socket::{Deadline, Socket};

/// What heads are accepted. Health checks and hand-written clients leave `Host` out; its absence makes nothing ambiguous,
/// and gevent's programs are used to it.
const LIMITS: RequestLimits = RequestLimits { requires_host: false, ..RequestLimits::DEFAULT };

/// The least room offered to a read, bytes.
const READ_BYTES: usize = 4096;

/// The most room offered to a read, bytes.
const LARGEST_READ_BYTES: usize = 65536;

/// Reads in a row without a park after which the other greenlets get a turn.
const READS_IN_A_TURN: u32 = 64;

/// How the bytes come and go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// System calls on the socket's descriptor.
    Descriptor,
    /// The socket's `recv` and `sendall`.
    Methods,
    /// Read from a file-like object that was given in place of ours; written to the socket.
    File,
}

/// What came of looking for a request's head.
pub enum Arrival {
    /// A head is there.
    Head,
    /// The connection ended.
    End,
    /// What is there is no acceptable head.
    Refused(RequestError),
}

/// The reading side of a connection, as a file, and what the native driver reads and writes with.
#[pyclass(name = "ConnectionReader", module = "gevent.pywsgi", frozen, weakref)]
pub struct Connection {
    inner: Gil<Inner>,
}

struct Inner {
    socket: RefCell<Option<Py<PyAny>>>,
    file: RefCell<Option<Py<PyAny>>>,
    transport: Cell<Transport>,
    parser: RefCell<RequestParser>,
    buffer: RefCell<Vec<u8>>,
    /// Bytes at the begin that are not to be overwritten: the head of the request in work.
    kept: Cell<usize>,
    start: Cell<usize>,
    has_head: Cell<bool>,
    is_closed: Cell<bool>,
    at_end: Cell<bool>,
    reads: Cell<u32>,
}

fn outcome(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn closed() -> PyErr {
    PyOSError::new_err((libc::EBADF, "Bad file descriptor"))
}

impl Connection {
    /// Takes a socket; `file` is read from in its place if given.
    pub fn new(socket: &Bound<'_, PyAny>, file: Option<Bound<'_, PyAny>>) -> PyResult<Self> {
        let is_plain = super::stock::is_plain_socket(socket)?;
        if let Some(socket) = Socket::from_object(socket).filter(|_| is_plain) {
            send_without_delay(socket.descriptor());
        }
        let transport = match (&file, is_plain) {
            (Some(_), _) => Transport::File,
            (None, true) => Transport::Descriptor,
            (None, false) => Transport::Methods,
        };
        Ok(Self {
            inner: Gil::new(Inner {
                socket: RefCell::new(Some(socket.clone().unbind())),
                file: RefCell::new(file.map(Bound::unbind)),
                transport: Cell::new(transport),
                parser: RefCell::new(RequestParser::new(LIMITS)),
                buffer: RefCell::new(Vec::with_capacity(READ_BYTES)),
                kept: Cell::new(0),
                start: Cell::new(0),
                has_head: Cell::new(false),
                is_closed: Cell::new(false),
                at_end: Cell::new(false),
                reads: Cell::new(0),
            }),
        })
    }

    fn socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &*self.inner.socket.borrow() {
            Some(socket) => Ok(socket.bind(py).clone()),
            None => Err(closed()),
        }
    }

    /// Reads and writes another socket from now on, such as a TLS socket over the old one.
    pub fn set_socket(&self, socket: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_plain = super::stock::is_plain_socket(socket)?;
        if !self.reads_file() {
            self.inner.transport.set(if is_plain { Transport::Descriptor } else { Transport::Methods });
        }
        let old = self.inner.socket.replace(Some(socket.clone().unbind()));
        drop(old);
        Ok(())
    }

    /// Calls `function` with the socket as our own type. The reference keeps the object alive meanwhile.
    fn with_socket<R>(&self, py: Python<'_>, function: impl FnOnce(Socket) -> PyResult<R>) -> PyResult<R> {
        let object = self.socket(py)?;
        function(Socket::from_object(&object).ok_or_else(closed)?)
    }

    /// Whether nobody can read from it any more.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed.get()
    }

    /// Reads more into the buffer, about `wanted` bytes. Returns how many came; none at the end of the stream.
    ///
    /// Switches if nothing is there yet. `limit` is how long to wait; None is the socket's own time-out.
    pub fn fill(&self, py: Python<'_>, wanted: usize, limit: Option<Duration>) -> PyResult<usize> {
        let inner = &*self.inner;
        if inner.at_end.get() || inner.is_closed.get() {
            return Ok(0);
        }
        let room = wanted.clamp(READ_BYTES, LARGEST_READ_BYTES);
        let count = match inner.transport.get() {
            Transport::Descriptor => self.receive(py, room, limit)?,
            Transport::Methods => {
                let data = self.socket(py)?.call_method1(intern!(py, "recv"), (room,))?;
                self.append(data.cast::<PyBytes>()?.as_bytes())
            }
            Transport::File => {
                let file = inner.file.borrow().as_ref().map(|file| file.bind(py).clone());
                let Some(file) = file else { return Ok(0) };
                // A line or the wanted part of a body: no more, since it can't be given back.
                let data = if wanted == 0 {
                    file.call_method1(intern!(py, "readline"), (LARGEST_READ_BYTES,))?
                } else {
                    file.call_method1(intern!(py, "read"), (wanted,))?
                };
                self.append(data.cast::<PyBytes>()?.as_bytes())
            }
        };
        if count == 0 {
            inner.at_end.set(true);
        }
        Ok(count)
    }

    /// Makes room behind the bytes that are still needed.
    fn make_room(&self, buffer: &mut Vec<u8>, room: usize) {
        let (kept, start) = (self.inner.kept.get(), self.inner.start.get());
        if start == buffer.len() {
            buffer.truncate(kept);
            self.inner.start.set(kept);
        } else if start > kept && buffer.capacity() - buffer.len() < room {
            buffer.drain(kept..start);
            self.inner.start.set(kept);
        }
        buffer.reserve(room);
    }

    fn append(&self, data: &[u8]) -> usize {
        let mut buffer = self.inner.buffer.borrow_mut();
        self.make_room(&mut buffer, data.len());
        buffer.extend_from_slice(data);
        data.len()
    }

    fn receive(&self, py: Python<'_>, room: usize, limit: Option<Duration>) -> PyResult<usize> {
        let reads = self.inner.reads.get() + 1;
        self.inner.reads.set(reads);
        if reads > READS_IN_A_TURN {
            self.inner.reads.set(0);
            let (hub, waker) = host::begin_park(py, WaitingFor::Turn)?;
            waker.unpark();
            host::park(py, hub, &waker, None, true)?;
        }
        let mut deadline = match limit {
            None => Deadline::default(),
            Some(limit) => Deadline::at(py_hub::ensure(py)?.clock().now().after(limit)),
        };
        self.with_socket(py, |socket| {
            let mut offered = 0;
            let count = socket.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
                let mut buffer = self.inner.buffer.borrow_mut();
                self.make_room(&mut buffer, room);
                let spare = buffer.spare_capacity_mut();
                offered = spare.len();
                // SAFETY: the kernel writes at most as many bytes as the spare room has.
                let count = outcome(unsafe { libc::recv(descriptor, spare.as_mut_ptr().cast(), offered, 0) })?;
                let filled = buffer.len() + count;
                // SAFETY: the kernel has initialized that many bytes behind the old length.
                unsafe { buffer.set_len(filled) };
                Ok(count)
            })?;
            if count > 0 && count < offered {
                // Nothing is left: the next read may park without another call.
                socket.note_short(socket.descriptor(), Direction::Read);
            }
            Ok(count)
        })
    }

    /// Sends all parts, in order. Switches while the peer does not take them.
    ///
    /// The parts must stay where they are: Python objects whose buffers are held, or memory of the caller's.
    pub fn send_all(&self, py: Python<'_>, parts: &[&[u8]]) -> PyResult<()> {
        if self.inner.transport.get() != Transport::Descriptor {
            let data = match parts {
                [only] => PyBytes::new(py, only),
                _ => PyBytes::new(py, &parts.concat()),
            };
            self.socket(py)?.call_method1(intern!(py, "sendall"), (data,))?;
            return Ok(());
        }
        let total: usize = parts.iter().map(|part| part.len()).sum();
        self.with_socket(py, |socket| {
            let mut deadline = Deadline::default();
            let mut sent = 0;
            while sent < total {
                sent += socket
                    .run(py, Direction::Write, 0, &mut deadline, |descriptor| send_some(descriptor, parts, sent))?;
            }
            Ok(())
        })
    }

    /// Looks for the next request's head, reading as long as it is not whole. Switches.
    ///
    /// # Errors
    ///
    /// What reading raises.
    pub fn read_head(&self, py: Python<'_>) -> PyResult<Arrival> {
        let inner = &*self.inner;
        self.forget_head();
        loop {
            let status = inner.parser.borrow_mut().parse(&inner.buffer.borrow());
            match status {
                Ok(ParseStatus::Complete { consumed }) => {
                    inner.kept.set(consumed);
                    inner.start.set(consumed);
                    inner.has_head.set(true);
                    return Ok(Arrival::Head);
                }
                Ok(ParseStatus::Incomplete) => {
                    if self.fill(py, 0, None)? == 0 {
                        return Ok(Arrival::End);
                    }
                }
                Err(error) => return Ok(Arrival::Refused(error)),
            }
        }
    }

    /// Lets go of the head; what is not read yet moves to the buffer's begin.
    pub fn forget_head(&self) {
        let inner = &*self.inner;
        inner.has_head.set(false);
        inner.kept.set(0);
        let mut buffer = inner.buffer.borrow_mut();
        buffer.drain(..inner.start.replace(0));
        if buffer.is_empty() && buffer.capacity() > LARGEST_READ_BYTES {
            *buffer = Vec::with_capacity(READ_BYTES);
        }
    }

    /// Puts bytes back in front of what is not read yet.
    pub fn unread(&self, bytes: &[u8]) {
        self.forget_head();
        self.inner.buffer.borrow_mut().splice(0..0, bytes.iter().copied());
        // The search for a head's end begins anew.
        let mut parser = self.inner.parser.borrow_mut();
        *parser = RequestParser::new(LIMITS);
    }

    /// Whether a request's head is in the buffer.
    #[inline]
    pub fn has_head(&self) -> bool {
        self.inner.has_head.get()
    }

    /// Gives access to the head of the request in work, and to its bytes behind the target. Must not switch, nor run
    /// Python code that may read from this connection.
    pub fn with_head<R>(&self, function: impl FnOnce(RequestHead<'_>, &[u8]) -> R) -> Option<R> {
        if !self.has_head() {
            return None;
        }
        let parser = self.inner.parser.borrow();
        let buffer = self.inner.buffer.borrow();
        let head = parser.head(&buffer);
        let target = head.target();
        let after = target.as_ptr().addr() - buffer.as_ptr().addr() + target.len() + 1;
        Some(function(head, &buffer[after..self.inner.kept.get()]))
    }

    /// Gives access to what has been received and not been read.
    #[inline]
    pub fn with_unread<R>(&self, function: impl FnOnce(&[u8]) -> R) -> R {
        function(&self.inner.buffer.borrow()[self.inner.start.get()..])
    }

    /// Counts bytes of [`with_unread`](Self::with_unread) as read.
    #[inline]
    pub fn consume(&self, count: usize) {
        self.inner.start.set(self.inner.start.get() + count);
    }

    /// Whether reads come from a file-like object, which must not be read beyond what is needed.
    #[inline]
    pub fn reads_file(&self) -> bool {
        self.inner.transport.get() == Transport::File
    }

    /// Ends our sending, and takes what the peer still sends for a while, so that the kernel does not answer it by a
    /// reset which would destroy what we sent (RFC 9112 section 9.6). Switches.
    pub fn linger(&self, py: Python<'_>, most_bytes: usize, longest: Duration) -> PyResult<()> {
        if self.inner.transport.get() != Transport::Descriptor {
            return Ok(());
        }
        self.with_socket(py, |socket| {
            // SAFETY: a plain system call; an error does not matter, the connection is about to go.
            unsafe { libc::shutdown(socket.descriptor(), libc::SHUT_WR) };
            Ok(())
        })?;
        let hub = py_hub::ensure(py)?;
        let deadline = hub.clock().now().after(longest);
        let mut taken = 0;
        while taken < most_bytes {
            let left = deadline.since(hub.clock().now());
            self.consume(self.with_unread(<[u8]>::len));
            if left.is_zero() {
                break;
            }
            match self.fill(py, LARGEST_READ_BYTES, Some(left))? {
                0 => break,
                count => taken += count,
            }
        }
        Ok(())
    }

    /// Lets go of the socket: nothing can be read any more.
    pub fn close_reading(&self) {
        self.inner.is_closed.set(true);
        let socket = self.inner.socket.borrow_mut().take();
        let file = self.inner.file.borrow_mut().take();
        drop((socket, file));
    }

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
            if taken == left || self.fill(py, (left - taken).min(LARGEST_READ_BYTES), None)? == 0 {
                return Ok(data);
            }
        }
    }

    /// Reads up to and with the next line feed, at most `limit` bytes. Switches.
    pub fn read_line(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let left = limit - line.len();
            let (taken, is_whole) = self.with_unread(|unread| {
                let piece = &unread[..unread.len().min(left)];
                let end = piece.iter().position(|&byte| byte == b'\n').map(|place| place + 1);
                let taken = end.unwrap_or(piece.len());
                line.extend_from_slice(&piece[..taken]);
                (taken, end.is_some() || taken == left)
            });
            self.consume(taken);
            if is_whole || self.fill(py, 0, None)? == 0 {
                return Ok(line);
            }
        }
    }

    fn check_open(&self) -> PyResult<()> {
        if self.is_closed() { Err(PyValueError::new_err("I/O operation on closed file.")) } else { Ok(()) }
    }
}

fn limit_of(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
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
            self.fill(py, most, None)?;
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
        Ok(PyBytes::new(py, &self.read_line(py, limit_of(size).unwrap_or(usize::MAX))?))
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
            let line = self.read_line(py, usize::MAX)?;
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
        super::input::copy_into(&buffer, &data)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.read_line(py, usize::MAX)?;
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

/// Has small writes sent at once: a response is written whole, so waiting for more gains nothing.
fn send_without_delay(descriptor: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, whose address and size are given. Unix sockets refuse it, which is fine.
    unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Sends once, beginning `sent` bytes into the parts.
fn send_some(descriptor: RawFd, parts: &[&[u8]], sent: usize) -> Result<usize, i32> {
    const FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
    let mut slices = [IoSlice::new(&[]); 4];
    let mut count = 0;
    let mut skip = sent;
    for part in parts {
        if skip >= part.len() {
            skip -= part.len();
            continue;
        }
        slices[count] = IoSlice::new(&part[skip..]);
        count += 1;
        skip = 0;
        if count == slices.len() {
            break;
        }
    }
    let result = if count == 1 {
        // SAFETY: pointer and length are of one slice.
        unsafe { libc::send(descriptor, slices[0].as_ptr().cast(), slices[0].len(), FLAGS) }
    } else {
        // SAFETY: a message of zeros is a message without address and ancillary data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is guaranteed to have the layout of `iovec`.
        message.msg_iov = slices.as_mut_ptr().cast();
        message.msg_iovlen = count as _;
        // SAFETY: the message points to `count` valid slices.
        unsafe { libc::sendmsg(descriptor, &raw const message, FLAGS) }
    };
    outcome(result)
}
