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
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::http::{ParseStatus, ProxyHeader, RequestError, RequestHead, RequestParser, parse_proxy_header};
use greenrust::hub::{Alarm, Direction, Hub, WaitingFor};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::service::{Awaited, Bounds, DOZE_AFTER, Service};
use super::worker::Worker;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::socket::{Deadline, Patience, Socket};
use crate::websocket::WebSocket;

/// The least room offered to a read, bytes.
const READ_BYTES: usize = 4096;

/// The most room offered to a read, bytes.
const LARGEST_READ_BYTES: usize = 65536;

/// What is read at once of bytes that nobody looks at.
const SCRAP_BYTES: usize = 16384;

/// The time-out of waits that have none: an alarm can end only what has a deadline.
const ENDLESS: Duration = Duration::from_secs(1 << 30);

/// The most that one call has the kernel send of a file, bytes.
const LARGEST_SENT_BYTES: usize = 1 << 20;

/// Such calls in a row after which the other greenlets get a turn.
const SENDS_IN_A_TURN: u32 = 8;

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
    /// A head has begun, and its rest did not come in time.
    Late,
    /// The connection is idle.
    Idle(Idle),
}

/// How a connection is idle.
#[derive(Clone, Copy)]
pub enum Idle {
    /// From now on, and it may be so for this long.
    Now(Option<Duration>),
    /// Since [`DOZE_AFTER`], and it may be so for this much longer.
    Longer(Option<Duration>),
}

impl Idle {
    /// Whether it is idle from now on, which a connection is only if its worker is untouched.
    pub fn is_rest(self) -> bool {
        matches!(self, Self::Now(_))
    }
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
    /// The peer took nothing for so long that what it was sent is given up.
    is_stalled: Cell<bool>,
    reads: Cell<u32>,
    bounds: Bounds,
    /// The service of the server, and the connection's entry there.
    place: Option<(Py<Service>, Cell<usize>)>,
    alarm: Alarm,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In another thread the timer stays until it expires, and does nothing then.
        if let Some(hub) = Hub::if_current() {
            self.alarm.cancel(hub);
        }
    }
}

fn outcome(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn closed() -> PyErr {
    PyOSError::new_err((libc::EBADF, "Bad file descriptor"))
}

impl Connection {
    /// Takes a socket; `file` is read from in its place if given.
    pub fn new(
        socket: &Bound<'_, PyAny>,
        file: Option<Bound<'_, PyAny>>,
        service: Option<&Bound<'_, Service>>,
    ) -> PyResult<Self> {
        let is_plain = super::stock::is_plain_socket(socket)?;
        if let Some(socket) = Socket::from_object(socket).filter(|_| is_plain) {
            send_without_delay(socket.descriptor());
        }
        let transport = match (&file, is_plain) {
            (Some(_), _) => Transport::File,
            (None, true) => Transport::Descriptor,
            (None, false) => Transport::Methods,
        };
        let bounds = service.map_or(Bounds::DEFAULT, |service| service.get().bounds());
        let alarm = Alarm::new();
        let mut place = None;
        if let (Some(service), Some(own)) = (service, Socket::from_object(socket))
            && let Some(key) = service.get().find(own.descriptor())
        {
            if transport == Transport::Descriptor {
                service.get().set_alarm(key, &alarm);
            }
            place = Some((service.clone().unbind(), Cell::new(key)));
        }
        Ok(Self {
            inner: Gil::new(Inner {
                socket: RefCell::new(Some(socket.clone().unbind())),
                file: RefCell::new(file.map(Bound::unbind)),
                transport: Cell::new(transport),
                parser: RefCell::new(RequestParser::new(bounds.head)),
                buffer: RefCell::new(Vec::with_capacity(READ_BYTES)),
                kept: Cell::new(0),
                start: Cell::new(0),
                has_head: Cell::new(false),
                is_closed: Cell::new(false),
                at_end: Cell::new(false),
                is_stalled: Cell::new(false),
                reads: Cell::new(0),
                bounds,
                place,
                alarm,
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

    /// Whether it reads from the descriptor of this socket, and nothing is left in the middle.
    pub fn may_be_reused(&self, socket: &Py<PyAny>) -> bool {
        let inner = &*self.inner;
        inner.transport.get() == Transport::Descriptor
            && inner.place.is_some()
            && !inner.is_closed.get()
            && !inner.is_stalled.get()
            && !inner.parser.borrow().has_partial_head()
            && inner.socket.borrow().as_ref().is_some_and(|own| own.is(socket))
    }

    /// Lets go of a buffer that had to grow.
    pub fn release_large(&self) {
        let mut buffer = self.inner.buffer.borrow_mut();
        if buffer.capacity() > 4 * READ_BYTES {
            *buffer = Vec::with_capacity(READ_BYTES);
        }
    }

    /// Makes it that of another connection, whose entry in the same service is `key`; its socket has adopted that.
    pub fn reuse(&self, key: usize) {
        let inner = &*self.inner;
        inner.buffer.borrow_mut().clear();
        inner.kept.set(0);
        inner.start.set(0);
        inner.has_head.set(false);
        inner.at_end.set(false);
        inner.reads.set(0);
        if let Some((service, place)) = &inner.place {
            place.set(key);
            service.get().set_alarm(key, &inner.alarm);
        }
    }

    /// Whether nobody can read from it any more.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed.get()
    }

    /// Reads more into the buffer, about `wanted` bytes. Returns how many came; none at the end of the stream.
    ///
    /// Switches if nothing is there yet, for as long as the patience lasts and the socket's own time-out allows.
    pub fn fill(&self, py: Python<'_>, wanted: usize, patience: Patience) -> PyResult<usize> {
        let inner = &*self.inner;
        if inner.at_end.get() || inner.is_closed.get() {
            return Ok(0);
        }
        let room = wanted.clamp(READ_BYTES, LARGEST_READ_BYTES);
        let count = match inner.transport.get() {
            Transport::Descriptor => self.receive(py, room, patience)?,
            Transport::Methods => {
                let socket = self.socket(py)?;
                let data = with_timeout(&socket, patience, || socket.call_method1(intern!(py, "recv"), (room,)))?;
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

    fn receive(&self, py: Python<'_>, room: usize, patience: Patience) -> PyResult<usize> {
        let reads = self.inner.reads.get() + 1;
        self.inner.reads.set(reads);
        if reads > READS_IN_A_TURN {
            self.inner.reads.set(0);
            let (hub, waker) = host::begin_park(py, WaitingFor::Turn)?;
            waker.unpark();
            host::park(py, hub, &waker, None, true)?;
        }
        let mut deadline = Deadline::with_patience(patience, &self.inner.alarm);
        self.with_socket(py, |socket| {
            let mut offered = 0;
            let count = socket.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
                self.receive_into_buffer(descriptor, room, &mut offered)
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
        self.send_flagged(py, parts, 0)
    }

    /// Sends all parts, and ends our sending: the last segment says so, in place of one of its own. Switches as `send_all`.
    pub fn send_last(&self, py: Python<'_>, parts: &[&[u8]]) -> PyResult<()> {
        if self.inner.transport.get() != Transport::Descriptor {
            return self.send_all(py, parts);
        }
        // Held back for no longer than until the next call.
        self.send_flagged(py, parts, libc::MSG_MORE)?;
        self.end_sending(py)
    }

    fn end_sending(&self, py: Python<'_>) -> PyResult<()> {
        self.with_socket(py, |socket| {
            // SAFETY: a plain system call; an error does not matter, the connection is about to go.
            unsafe { libc::shutdown(socket.descriptor(), libc::SHUT_WR) };
            Ok(())
        })
    }

    fn send_flagged(&self, py: Python<'_>, parts: &[&[u8]], flags: libc::c_int) -> PyResult<()> {
        if self.inner.transport.get() != Transport::Descriptor {
            let data = match parts {
                [only] => PyBytes::new(py, only),
                _ => PyBytes::new(py, &parts.concat()),
            };
            let socket = self.socket(py)?;
            // TLS has no answer to how much of it went; this is the whole's time-out.
            let patience = self.write_patience();
            let sent = with_timeout(&socket, patience, || socket.call_method1(intern!(py, "sendall"), (data,)));
            if let Err(error) = &sent
                && error.is_instance_of::<PyTimeoutError>(py)
            {
                self.inner.is_stalled.set(true);
            }
            return sent.map(|_| ());
        }
        let total: usize = parts.iter().map(|part| part.len()).sum();
        self.with_socket(py, |socket| {
            let mut sent = 0;
            while sent < total {
                let mut deadline = Deadline::with_patience(self.write_patience(), &self.inner.alarm);
                let attempt = |descriptor| send_some(descriptor, parts, sent, flags);
                match socket.run(py, Direction::Write, 0, &mut deadline, attempt) {
                    Ok(count) => sent += count,
                    Err(error) => {
                        if error.is_instance_of::<PyTimeoutError>(py) {
                            self.inner.is_stalled.set(true);
                            forget_unsent(socket.descriptor());
                        }
                        return Err(error);
                    }
                }
            }
            Ok(())
        })
    }

    /// Has the kernel send `count` bytes of a regular file, beginning at `offset`. Returns how many it sent, fewer only at
    /// the file's end; None if the connection, or the file's system, needs another way, and nothing was sent. Switches.
    pub fn send_file(&self, py: Python<'_>, file: RawFd, offset: u64, count: u64) -> PyResult<Option<u64>> {
        if self.inner.transport.get() != Transport::Descriptor {
            return Ok(None);
        }
        let Ok(mut position) = libc::off_t::try_from(offset) else { return Ok(None) };
        let mut sent = 0;
        let mut pieces = 0;
        while sent < count {
            pieces += 1;
            if pieces % SENDS_IN_A_TURN == 0 {
                let (hub, waker) = host::begin_park(py, WaitingFor::Turn)?;
                waker.unpark();
                host::park(py, hub, &waker, None, true)?;
            }
            let piece = usize::try_from(count - sent).map_or(LARGEST_SENT_BYTES, |left| left.min(LARGEST_SENT_BYTES));
            let outcome = self.with_socket(py, |socket| {
                let mut deadline = Deadline::with_patience(self.write_patience(), &self.inner.alarm);
                let result = socket.run(py, Direction::Write, 0, &mut deadline, |descriptor| {
                    // SAFETY: a system call on two descriptors, and a position that lives on the stack.
                    outcome(unsafe { libc::sendfile(descriptor, file, &raw mut position, piece) })
                });
                if result.as_ref().is_err_and(|error| error.is_instance_of::<PyTimeoutError>(py)) {
                    self.inner.is_stalled.set(true);
                    forget_unsent(socket.descriptor());
                }
                result
            });
            match outcome {
                Ok(0) => break,
                Ok(count) => sent += count as u64,
                Err(error) if sent == 0 && is_unsupported(py, &error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(sent))
    }

    fn write_patience(&self) -> Patience {
        self.inner.bounds.write_timeout.map_or(Patience::Unlimited, Patience::For)
    }

    /// How long a read of a body waits.
    pub fn body_patience(&self) -> Patience {
        self.inner.bounds.body_timeout.map_or(Patience::Unlimited, Patience::For)
    }

    /// The largest body that is taken, bytes.
    pub fn most_body_bytes(&self) -> Option<u64> {
        self.inner.bounds.body_bytes
    }

    /// Whether the peer took nothing for longer than a write may wait.
    pub fn is_stalled(&self) -> bool {
        self.inner.is_stalled.get()
    }

    /// Whether the server is being drained: this connection's next answer is its last.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.inner.place.as_ref().is_some_and(|(service, _)| service.get().is_draining())
    }

    /// Notes which WebSocket the connection has become, if it is one.
    pub fn set_websocket(&self, websocket: Option<&Bound<'_, WebSocket>>) {
        if let Some((service, key)) = &self.inner.place {
            service.get().set_websocket(key.get(), websocket.map(|websocket| websocket.clone().unbind()));
        }
    }

    /// Has the present wait for bytes end in `patience` at the latest.
    pub fn hasten(&self, py: Python<'_>, patience: Duration) -> PyResult<()> {
        let hub = py_hub::ensure(py)?;
        self.inner.alarm.hasten(hub, hub.clock().now().after(patience));
        Ok(())
    }

    /// Looks for the next request's head, reading as long as it is not whole. Switches.
    ///
    /// A connection `is_new` before its first request; one that `may_doze` is given back as idle after a while, or at once
    /// if it is a worker that looks, which can serve another one meanwhile.
    ///
    /// # Errors
    ///
    /// What reading raises.
    pub fn read_head(
        &self,
        py: Python<'_>,
        is_new: bool,
        may_doze: bool,
        worker: Option<&Worker<'_>>,
    ) -> PyResult<Arrival> {
        let inner = &*self.inner;
        self.forget_head();
        let mut head_deadline = None;
        let mut is_waiting = false;
        loop {
            let status = inner.parser.borrow_mut().parse(&inner.buffer.borrow());
            match status {
                Ok(ParseStatus::Complete { consumed }) => {
                    inner.kept.set(consumed);
                    inner.start.set(consumed);
                    inner.has_head.set(true);
                    self.end_waiting(is_waiting);
                    return Ok(Arrival::Head);
                }
                Ok(ParseStatus::Incomplete) => {}
                Err(error) => {
                    self.end_waiting(is_waiting);
                    return Ok(Arrival::Refused(error));
                }
            }
            let has_begun = inner.parser.borrow().has_partial_head();
            let limit = if is_new { inner.bounds.header_timeout } else { inner.bounds.keep_alive_timeout };
            let may_doze = may_doze && inner.transport.get() == Transport::Descriptor;
            if let Some(worker) = worker
                && may_doze
                && !has_begun
                && self.may_rest(limit)
            {
                match self.receive_if_there(py) {
                    Ok(Some(0)) => {
                        self.end_waiting(is_waiting);
                        return Ok(Arrival::End);
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) if worker.is_untouched() => return Ok(Arrival::Idle(Idle::Now(limit))),
                    Ok(None) => {}
                    Err(error) => {
                        self.end_waiting(is_waiting);
                        return Err(error);
                    }
                }
            }
            is_waiting = true;
            let patience = if has_begun {
                self.head_patience(py, &mut head_deadline)?
            } else {
                self.idle_patience(py, limit, may_doze, Awaited::between_heads(!is_new))?
            };
            let error = match self.fill(py, 0, patience) {
                Ok(0) => {
                    self.end_waiting(true);
                    return Ok(Arrival::End);
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            if !error.is_instance_of::<PyTimeoutError>(py) {
                self.end_waiting(true);
                return Err(error);
            }
            let must_end = match &inner.place {
                Some((service, key)) => service.get().is_draining() || service.get().is_evicted(key.get()),
                None => false,
            };
            let arrival = match () {
                () if has_begun => Arrival::Late,
                () if is_new && self.is_still_owed(py)? => continue,
                // What came in the last moment is answered, with `Connection: close`.
                () if must_end && self.receive_at_once(py)? > 0 => continue,
                () if must_end => Arrival::End,
                () if may_doze && limit.is_none_or(|limit| limit > DOZE_AFTER) => {
                    Arrival::Idle(Idle::Longer(limit.map(|limit| limit - DOZE_AFTER)))
                }
                () => Arrival::End,
            };
            self.end_waiting(true);
            return Ok(arrival);
        }
    }

    /// Whether the connection may do without a greenlet from now on.
    fn may_rest(&self, limit: Option<Duration>) -> bool {
        let inner = &*self.inner;
        limit.is_none_or(|limit| limit > DOZE_AFTER)
            && !inner.at_end.get()
            && inner.reads.get() < READS_IN_A_TURN
            && inner.place.is_some()
            && !self.is_draining()
    }

    /// Reads what is there into the buffer, without waiting. Returns how many bytes came; None if there are none yet.
    fn receive_if_there(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        let hub = py_hub::ensure(py)?;
        self.with_socket(py, |socket| {
            let descriptor = socket.descriptor();
            if descriptor < 0 {
                return Err(closed());
            }
            if socket.is_exhausted(descriptor, Direction::Read) {
                self.inner.reads.set(0);
                return Ok(None);
            }
            let mut offered = 0;
            loop {
                match self.receive_into_buffer(descriptor, READ_BYTES, &mut offered) {
                    Ok(count) => {
                        self.inner.reads.set(self.inner.reads.get() + 1);
                        if count > 0 && count < offered {
                            socket.note_short(descriptor, Direction::Read);
                        }
                        return Ok(Some(count));
                    }
                    Err(libc::EINTR) => {}
                    Err(libc::EAGAIN) => {
                        socket.register(py, hub, descriptor)?;
                        hub.mark_blocked(descriptor, Direction::Read);
                        self.inner.reads.set(0);
                        return Ok(None);
                    }
                    Err(number) => return Err(PyOSError::new_err((number, "the connection failed"))),
                }
            }
        })
    }

    /// Receives once, with `room` for that at least; `offered` is the room that there was.
    fn receive_into_buffer(&self, descriptor: RawFd, room: usize, offered: &mut usize) -> Result<usize, i32> {
        let mut buffer = self.inner.buffer.borrow_mut();
        self.make_room(&mut buffer, room);
        let spare = buffer.spare_capacity_mut();
        *offered = spare.len();
        // SAFETY: the kernel writes at most as many bytes as the spare room has.
        let count = outcome(unsafe { libc::recv(descriptor, spare.as_mut_ptr().cast(), spare.len(), 0) })?;
        let filled = buffer.len() + count;
        // SAFETY: the kernel has initialized that many bytes behind the old length.
        unsafe { buffer.set_len(filled) };
        Ok(count)
    }

    fn end_waiting(&self, is_waiting: bool) {
        if let Some((service, key)) = self.inner.place.as_ref().filter(|_| is_waiting) {
            service.get().note_serving(key.get());
        }
    }

    /// How long to wait for the rest of a head; its deadline is set when it begins.
    fn head_patience(&self, py: Python<'_>, deadline: &mut Option<Instant>) -> PyResult<Patience> {
        if let Some(deadline) = *deadline {
            return Ok(Patience::Until(deadline));
        }
        let now = py_hub::ensure(py)?.clock().now();
        let limit = match &self.inner.place {
            None => self.inner.bounds.header_timeout,
            Some((service, key)) => {
                service.get().note_waiting(key.get(), Some(now), Awaited::Owed);
                Some(self.inner.bounds.header_timeout.unwrap_or(ENDLESS))
            }
        };
        let Some(limit) = limit else { return Ok(Patience::Unlimited) };
        let end = now.after(limit);
        let last = self.last_wait(now, Awaited::Owed);
        Ok(Patience::Until(*deadline.insert(last.map_or(end, |last| last.min(end)))))
    }

    /// How long to wait for the first byte of a head.
    fn idle_patience(
        &self,
        py: Python<'_>,
        limit: Option<Duration>,
        may_doze: bool,
        awaited: Awaited,
    ) -> PyResult<Patience> {
        let Some((service, key)) = &self.inner.place else {
            return Ok(limit.map_or(Patience::Unlimited, Patience::For));
        };
        let service = service.get();
        let is_draining = service.is_draining();
        let now = if may_doze && !is_draining { None } else { Some(py_hub::ensure(py)?.clock().now()) };
        service.note_waiting(key.get(), now, awaited);
        let most = match now {
            None => Some(DOZE_AFTER),
            Some(now) if is_draining => service.last_wait(now, awaited).map(|last| last.since(now)),
            Some(_) => None,
        };
        Ok(match (limit, most) {
            (None, None) => Patience::For(ENDLESS),
            (Some(limit), Some(most)) => Patience::For(limit.min(most)),
            (Some(limit), None) | (None, Some(limit)) => Patience::For(limit),
        })
    }

    /// Whether a drain waits on for a connection that was never answered.
    fn is_still_owed(&self, py: Python<'_>) -> PyResult<bool> {
        let Some((service, key)) = &self.inner.place else { return Ok(false) };
        let service = service.get();
        Ok(service.is_draining()
            && !service.is_evicted(key.get())
            && service.waits_for_owed(py_hub::ensure(py)?.clock().now()))
    }

    /// When a wait that begins now has to end because the server is being drained, if it is.
    fn last_wait(&self, now: Instant, awaited: Awaited) -> Option<Instant> {
        let service = self.inner.place.as_ref().map(|(service, _)| service.get())?;
        if service.is_draining() { service.last_wait(now, awaited) } else { None }
    }

    /// Reads what came since the hub looked last. Returns how many bytes, 0 also where it can't be read.
    fn receive_at_once(&self, py: Python<'_>) -> PyResult<usize> {
        if self.inner.transport.get() != Transport::Descriptor {
            return Ok(0);
        }
        let descriptor = self.with_socket(py, |socket| Ok(socket.descriptor()))?;
        Ok(self.receive_into_buffer(descriptor, READ_BYTES, &mut 0).unwrap_or(0))
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
        *parser = RequestParser::new(self.inner.bounds.head);
    }

    /// Lets go of the room for the next request; it is made anew when that comes.
    pub fn release_memory(&self) {
        self.forget_head();
        self.inner.buffer.borrow_mut().shrink_to_fit();
    }

    /// Reads a request line for a handler that looks at it itself. The connection `is_new` before its first request.
    /// Switches.
    pub fn read_request_line(&self, py: Python<'_>, limit: usize, is_new: bool) -> PyResult<Vec<u8>> {
        let bounds = &self.inner.bounds;
        let patience = match (bounds.header_timeout, bounds.keep_alive_timeout) {
            (Some(head), Some(idle)) => Some(head.max(idle)),
            (head, idle) => head.or(idle),
        };
        let is_waiting = self.with_unread(<[u8]>::is_empty);
        if is_waiting {
            self.idle_patience(py, None, false, Awaited::between_heads(!is_new))?;
        }
        let line = self.read_line(py, limit, patience.map_or(Patience::Unlimited, Patience::For));
        self.end_waiting(is_waiting);
        line
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
        let object = self.socket(py)?;
        let Some(socket) = Socket::from_object(&object).filter(|_| !self.reads_file()) else { return Ok(()) };
        // Over TLS it is not deciphered: nobody is going to look at it.
        self.end_sending(py)?;
        let hub = py_hub::ensure(py)?;
        let end = hub.clock().now().after(longest);
        let mut scrap = vec![0; SCRAP_BYTES];
        let mut taken = 0;
        while taken < most_bytes && hub.clock().now() < end {
            let mut deadline = Deadline::with_patience(Patience::Until(end), &self.inner.alarm);
            let count = socket.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
                // SAFETY: the kernel writes at most as many bytes as the vector has.
                outcome(unsafe { libc::recv(descriptor, scrap.as_mut_ptr().cast(), scrap.len(), 0) })
            })?;
            if count == 0 {
                break;
            }
            taken += count;
        }
        Ok(())
    }

    /// Lets go of the socket: nothing can be read any more.
    pub fn close_reading(&self) {
        self.inner.is_closed.set(true);
        if let Some(hub) = Hub::if_current() {
            self.inner.alarm.cancel(hub);
        }
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
            if taken == left || self.fill(py, (left - taken).min(LARGEST_READ_BYTES), Patience::Unlimited)? == 0 {
                return Ok(data);
            }
        }
    }

    /// Reads up to and with the next line feed, at most `limit` bytes. Switches.
    pub fn read_line(&self, py: Python<'_>, limit: usize, patience: Patience) -> PyResult<Vec<u8>> {
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
            if is_whole || self.fill(py, 0, patience)? == 0 {
                return Ok(line);
            }
        }
    }

    fn check_open(&self) -> PyResult<()> {
        if self.is_closed() { Err(PyValueError::new_err("I/O operation on closed file.")) } else { Ok(()) }
    }
}

/// Whether `sendfile` does not work for a file of this system.
fn is_unsupported(py: Python<'_>, error: &PyErr) -> bool {
    let number = error.value(py).getattr(intern!(py, "errno")).and_then(|number| number.extract::<i32>());
    number.is_ok_and(|number| matches!(number, libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Reads the PROXY protocol's header, not a byte more, from a socket of ours. Returns what it says of the client, or None
/// if the connection must be closed. Switches.
pub fn read_proxy_header(socket: &Bound<'_, PyAny>, patience: Patience) -> PyResult<Option<Option<SocketAddr>>> {
    let py = socket.py();
    let Some(own) = Socket::from_object(socket) else { return Ok(None) };
    let alarm = Alarm::new();
    let mut deadline = Deadline::with_patience(patience, &alarm);
    let mut header = Vec::new();
    loop {
        let wanted = match parse_proxy_header(&header) {
            Ok(ProxyHeader::Complete { source, .. }) => return Ok(Some(source)),
            Ok(ProxyHeader::Incomplete(wanted)) => wanted,
            Err(_) => return Ok(None),
        };
        let read = own.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
            header.reserve(wanted);
            let spare = header.spare_capacity_mut();
            // SAFETY: the kernel writes at most `wanted` bytes, for which room was made.
            let count = outcome(unsafe { libc::recv(descriptor, spare.as_mut_ptr().cast(), wanted, 0) })?;
            let filled = header.len() + count;
            // SAFETY: the kernel has initialized that many bytes behind the old length.
            unsafe { header.set_len(filled) };
            Ok(count)
        });
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.is_instance_of::<PyOSError>(py) => return Ok(None),
            Err(error) => return Err(error),
        }
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
            self.fill(py, most, Patience::Unlimited)?;
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
        Ok(PyBytes::new(py, &self.read_line(py, limit_of(size).unwrap_or(usize::MAX), Patience::Unlimited)?))
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
            let line = self.read_line(py, usize::MAX, Patience::Unlimited)?;
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
        let line = self.read_line(py, usize::MAX, Patience::Unlimited)?;
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

/// Has small writes sent at once: a response is written whole, so waiting for more gains nothing. What a listener
/// accepts inherits it (tcp(7)).
pub fn send_without_delay(descriptor: RawFd) {
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

/// Has the kernel drop what the peer has not taken, when the socket is closed, in place of keeping it and trying on.
fn forget_unsent(descriptor: RawFd) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a `linger`, whose address and size are given. An error leaves it as it is.
    unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&at_once).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Runs `call`, a method of the socket that waits, with a time-out, and restores the socket's own afterwards.
fn with_timeout<R>(socket: &Bound<'_, PyAny>, patience: Patience, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = socket.py();
    let seconds = match patience {
        Patience::Unlimited => return call(),
        Patience::For(duration) => duration.as_secs_f64(),
        Patience::Until(instant) => instant.since(py_hub::ensure(py)?.clock().now()).as_secs_f64(),
    };
    // What only looks like a socket may have no time-outs.
    let Some(own) = socket.getattr_opt(intern!(py, "gettimeout"))? else { return call() };
    let own = own.call0()?;
    let name = intern!(py, "settimeout");
    if own.extract::<f64>().is_ok_and(|own| own <= seconds) {
        return call();
    }
    // Zero would mean not to wait, also for what is there.
    socket.call_method1(name, (seconds.max(1e-6),))?;
    let result = call();
    // A socket that was closed meanwhile takes it, too.
    socket.call_method1(name, (own,))?;
    result
}

/// Sends once, beginning `sent` bytes into the parts.
fn send_some(descriptor: RawFd, parts: &[&[u8]], sent: usize, flags: libc::c_int) -> Result<usize, i32> {
    let flags = flags | libc::MSG_NOSIGNAL;
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
        unsafe { libc::send(descriptor, slices[0].as_ptr().cast(), slices[0].len(), flags) }
    } else {
        // SAFETY: a message of zeros is a message without address and ancillary data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is guaranteed to have the layout of `iovec`.
        message.msg_iov = slices.as_mut_ptr().cast();
        message.msg_iovlen = count as _;
        // SAFETY: the message points to `count` valid slices.
        unsafe { libc::sendmsg(descriptor, &raw const message, flags) }
    };
    outcome(result)
}
