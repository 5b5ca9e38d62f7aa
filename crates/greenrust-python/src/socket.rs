//! The native class under `gevent.socket.socket`: a subclass of the standard library's whose waiting methods park.
//!
//! ```text
//!   object:  PySocketSockObject (_socket)  |  _io_refs, _closed (socket.socket)  |  Extra (ours)
//!            descriptor, family, type...                                            time-out, where it is registered
//! ```
//!
//! The life of `recv(n)`: the system call, with the GIL held, on a descriptor that never blocks in the kernel.
//! On EAGAIN the descriptor is registered with the hub of the thread (once for its life) and the greenlet parks. A read
//! that gave less than it was asked for says that there is no more, so the next one parks without asking. What needs an
//! address or ancillary data goes through `_socket`, which is told never to wait.
//!
//! Invariants:
//! - The time-out that `_socket` sees is 0: it never waits. The one that users see is in [`Extra`].
//! - A registration ends before its descriptor is closed or given away, in every hub that has it.
//! - `Extra` is valid when zeroed, which is how CPython makes it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::OnceLock;

use greenrust::clock::Instant;
use greenrust::hub::{Alarm, Direction, Hub, WaitingFor, Wake};
use pyo3::exceptions::{PyBlockingIOError, PyImportError, PyOSError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyString, PyTuple, PyType};

use crate::exceptions;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;

unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
    fn inet_ntop(family: c_int, address: *const c_void, text: *mut c_char, size: libc::socklen_t) -> *const c_char;
}

/// The head of CPython's `PySocketSockObject` (Modules/socketmodule.h); [`check_layout`] compares it with a socket.
#[repr(C)]
struct Plain {
    head: ffi::PyObject,
    descriptor: c_int,
    family: c_int,
    kind: c_int,
    protocol: c_int,
    error_handler: *const c_void,
    /// Nanoseconds; negative for no limit.
    timeout: i64,
}

/// What our class adds to an object. All zero is a socket that never waits and is registered nowhere.
#[repr(C)]
struct Extra {
    /// Seconds; negative for no limit, 0 for a socket that never waits.
    timeout: Cell<f64>,
    /// The hub where the descriptor was registered last; it may be gone, see [`HUBS`].
    hub: Cell<*const Hub>,
    /// Whether other hubs have it too.
    is_shared: Cell<bool>,
    /// Whether waits for it keep no loop alive.
    is_unreferenced: Cell<bool>,
}

/// The types and methods that are looked up once.
struct Class {
    ours: *mut ffi::PyTypeObject,
    plain: *mut ffi::PyTypeObject,
    offset: usize,
    accept: Py<PyAny>,
    close: Py<PyAny>,
    connect_ex: Py<PyAny>,
    detach: Py<PyAny>,
    recvfrom: Py<PyAny>,
    recvfrom_into: Py<PyAny>,
    recvmsg: Py<PyAny>,
    recvmsg_into: Py<PyAny>,
    sendmsg: Py<PyAny>,
    sendto: Py<PyAny>,
    shutdown: Py<PyAny>,
    getdefaulttimeout: Py<PyAny>,
}

static CLASS: OnceLock<Gil<Class>> = OnceLock::new();

fn class() -> &'static Class {
    CLASS.get().expect("set when the module is made")
}

/// The hubs that have had sockets registered and still exist.
static HUBS: Gil<RefCell<Vec<*const Hub>>> = Gil::new(RefCell::new(Vec::new()));

/// Forgets a hub whose thread ends.
pub fn forget_hub(hub: &Hub) {
    HUBS.borrow_mut().retain(|&other| !std::ptr::eq(other, hub));
}

/// Reads up to this size go through a buffer, so that the result is allocated in its final size.
const SMALL_READ: usize = 4096;

/// Where short reads go. On the stack it would take two pages more of each greenlet that waits for a socket.
struct Small(UnsafeCell<[u8; SMALL_READ]>);

// SAFETY: written and read with the GIL held, which is not given up between.
unsafe impl Sync for Small {}

static SMALL: Small = Small(UnsafeCell::new([0; SMALL_READ]));

/// How long to wait before a Unix listener with a full backlog is asked again: the kernel does not tell when.
const BACKLOG_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// A socket object, borrowed from whoever called.
#[derive(Clone, Copy)]
pub struct Socket(*mut ffi::PyObject);

/// How long a call may wait.
#[derive(Clone, Copy, Debug, Default)]
pub enum Patience {
    /// As long as the socket's own time-out says.
    #[default]
    Unlimited,
    /// For so long, from its first wait on.
    For(std::time::Duration),
    /// Until then.
    Until(Instant),
}

/// When the patience of a call ends; computed at its first wait.
#[derive(Default)]
pub struct Deadline<'a> {
    is_known: bool,
    instant: Option<Instant>,
    patience: Patience,
    /// What times a wait that may be one of many.
    alarm: Option<&'a Alarm>,
}

impl<'a> Deadline<'a> {
    /// The deadline of a call with a patience of its own, beside the socket's time-out.
    pub fn with_patience(patience: Patience, alarm: &'a Alarm) -> Self {
        Self { patience, alarm: Some(alarm), ..Self::default() }
    }

    fn get(&mut self, hub: &Hub, timeout: f64) -> Option<Instant> {
        if !self.is_known {
            self.is_known = true;
            let own = (timeout > 0.0).then(|| hub.clock().now().after(py_hub::duration(timeout)));
            let given = match self.patience {
                Patience::Unlimited => None,
                Patience::For(duration) => Some(hub.clock().now().after(duration)),
                Patience::Until(instant) => Some(instant),
            };
            self.instant = own.into_iter().chain(given).min();
        }
        self.instant
    }
}

impl Socket {
    /// Returns the socket under a Python object, if it is one of ours.
    pub fn from_object(object: &Bound<'_, PyAny>) -> Option<Socket> {
        // SAFETY: a type check of a live object.
        (unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class().ours) } != 0).then(|| Socket(object.as_ptr()))
    }

    #[inline]
    fn plain(self) -> *mut Plain {
        self.0.cast()
    }

    #[inline]
    fn extra(&self) -> &Extra {
        // SAFETY: our methods are only called with our objects, whose extra part begins at the offset; it is valid from
        // the moment of allocation. The GIL is held.
        unsafe { &*self.0.byte_add(class().offset).cast::<Extra>() }
    }

    /// Returns the descriptor, or -1 if it is closed.
    #[inline]
    pub fn descriptor(self) -> c_int {
        // SAFETY: the object is alive; `check_layout` has proved where the field is.
        unsafe { (*self.plain()).descriptor }
    }

    fn family(self) -> c_int {
        // SAFETY: as in `descriptor`.
        unsafe { (*self.plain()).family }
    }

    fn kind(self) -> c_int {
        // SAFETY: as in `descriptor`.
        unsafe { (*self.plain()).kind }
    }

    /// Whether it is a stream, such as TCP.
    pub fn is_stream(self) -> bool {
        self.kind() & 0xf == libc::SOCK_STREAM
    }

    fn protocol(self) -> c_int {
        // SAFETY: as in `descriptor`.
        unsafe { (*self.plain()).protocol }
    }

    #[inline]
    fn timeout(self) -> f64 {
        self.extra().timeout.get()
    }

    /// Says whether the direction is known to be exhausted, so that a system call is not worth trying.
    #[inline]
    fn is_exhausted(self, descriptor: c_int, direction: Direction) -> bool {
        let hub = self.extra().hub.get();
        // SAFETY: compared with this thread's hub before it is used.
        !hub.is_null() && std::ptr::eq(hub, Hub::current()) && !unsafe { &*hub }.is_ready(descriptor, direction)
    }

    /// Notes that a system call moved less than it was asked for.
    #[inline]
    pub fn note_short(self, descriptor: c_int, direction: Direction) {
        let hub = self.extra().hub.get();
        if !hub.is_null() && self.kind() == libc::SOCK_STREAM && std::ptr::eq(hub, Hub::current()) {
            // SAFETY: it is this thread's hub, as was just compared.
            unsafe { &*hub }.clear_ready(descriptor, direction);
        }
    }

    /// Makes sure that the hub watches the descriptor.
    fn register(self, py: Python<'_>, hub: &'static Hub, descriptor: c_int) -> PyResult<()> {
        let extra = self.extra();
        if !std::ptr::eq(extra.hub.get(), hub) {
            let is_waited_for =
                hub.has_waiter(descriptor, Direction::Read) || hub.has_waiter(descriptor, Direction::Write);
            if !is_waited_for {
                // Somebody may have closed an earlier socket of this number behind our back.
                hub.deregister(descriptor);
            }
            if !extra.hub.get().is_null() {
                extra.is_shared.set(true);
            }
            let mut hubs = HUBS.borrow_mut();
            if !hubs.iter().any(|&other| std::ptr::eq(other, hub)) {
                hubs.push(hub);
            }
            extra.hub.set(hub);
        }
        hub.register(descriptor).map_err(|error| os_error(py, error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Ends the registrations of the descriptor; whoever waits for it goes on with an error.
    fn deregister(self) {
        let extra = self.extra();
        let descriptor = self.descriptor();
        let hub = extra.hub.replace(std::ptr::null());
        if descriptor < 0 || hub.is_null() {
            return;
        }
        let is_shared = extra.is_shared.replace(false);
        // Waking may not run Python code, so the borrow is safe.
        for &other in HUBS.borrow().iter() {
            if is_shared || std::ptr::eq(other, hub) {
                // SAFETY: in the list, so it exists; the GIL keeps its thread from using it meanwhile.
                unsafe { &*other }.deregister(descriptor);
            }
        }
    }

    /// Parks until the direction is ready.
    ///
    /// # Errors
    ///
    /// TimeoutError, OSError(EBADF) when the socket is closed meanwhile, `ConcurrentObjectUseError`, and whatever is
    /// thrown into the greenlet.
    fn wait(
        self,
        py: Python<'_>,
        hub: &'static Hub,
        descriptor: c_int,
        direction: Direction,
        deadline: Option<Instant>,
        alarm: Option<&Alarm>,
    ) -> PyResult<()> {
        if hub.has_waiter(descriptor, direction) {
            return Err(in_use(py, descriptor, direction));
        }
        let wait = || host::wait_ready(py, hub, descriptor, direction, deadline, alarm);
        let ended = if self.extra().is_unreferenced.get() { hub.disregard_waits_of(wait) } else { wait() };
        match ended? {
            Wake::TimedOut => Err(PyTimeoutError::new_err("timed out")),
            Wake::Closed => Err(closed_elsewhere()),
            _ => Ok(()),
        }
    }

    /// Parks after a system call that said EAGAIN (or EINPROGRESS).
    fn wait_blocked(self, py: Python<'_>, direction: Direction, deadline: &mut Deadline<'_>) -> PyResult<()> {
        let hub = py_hub::ensure(py)?;
        let descriptor = self.descriptor();
        self.register(py, hub, descriptor)?;
        hub.mark_blocked(descriptor, direction);
        let instant = deadline.get(hub, self.timeout());
        self.wait(py, hub, descriptor, direction, instant, deadline.alarm)
    }

    /// Repeats a system call until it does not block. `flags` are those of the call: MSG_DONTWAIT forbids waiting.
    #[inline]
    pub fn run(
        self,
        py: Python<'_>,
        direction: Direction,
        flags: c_int,
        deadline: &mut Deadline<'_>,
        mut attempt: impl FnMut(c_int) -> Result<usize, c_int>,
    ) -> PyResult<usize> {
        let mut has_waited = false;
        loop {
            let descriptor = self.descriptor();
            if descriptor < 0 {
                return Err(if has_waited { closed_elsewhere() } else { os_error(py, libc::EBADF) });
            }
            let may_wait = self.timeout() != 0.0 && flags & libc::MSG_DONTWAIT == 0;
            if may_wait && self.is_exhausted(descriptor, direction) {
                let hub = py_hub::ensure(py)?;
                let instant = deadline.get(hub, self.timeout());
                self.wait(py, hub, descriptor, direction, instant, deadline.alarm)?;
                has_waited = true;
                continue;
            }
            match attempt(descriptor) {
                Ok(done) => return Ok(done),
                Err(libc::EINTR) => py.check_signals()?,
                // EWOULDBLOCK is the same number on the platforms that we know.
                Err(libc::EAGAIN) if may_wait => {
                    self.wait_blocked(py, direction, deadline)?;
                    has_waited = true;
                }
                Err(number) => return Err(os_error(py, number)),
            }
        }
    }

    /// Receives into memory; returns how much, 0 at the end of the stream. Switches.
    pub fn receive_into(self, py: Python<'_>, memory: *mut u8, length: usize, flags: c_int) -> PyResult<usize> {
        let received = self.run(py, Direction::Read, flags, &mut Deadline::default(), |descriptor| {
            // SAFETY: the caller vouches for the memory.
            outcome(unsafe { libc::recv(descriptor, memory.cast(), length, flags) })
        })?;
        self.after_receive(received, length, flags);
        Ok(received)
    }

    #[inline]
    fn after_receive(self, received: usize, length: usize, flags: c_int) {
        // With flags (MSG_PEEK, MSG_OOB, ...) a short read says nothing of what is left.
        if received > 0 && received < length && flags == 0 {
            self.note_short(self.descriptor(), Direction::Read);
        }
    }

    /// Sends some of the memory; returns how much. Switches.
    pub fn send_some(
        self,
        py: Python<'_>,
        memory: *const u8,
        length: usize,
        flags: c_int,
        deadline: &mut Deadline<'_>,
    ) -> PyResult<usize> {
        let sent = self.run(py, Direction::Write, flags, deadline, |descriptor| {
            // SAFETY: the caller vouches for the memory.
            outcome(unsafe { libc::send(descriptor, memory.cast(), length, flags) })
        })?;
        if sent < length {
            self.note_short(self.descriptor(), Direction::Write);
        }
        Ok(sent)
    }

    /// Sends all of the memory; the socket's time-out is for the whole. Switches.
    pub fn send_all(self, py: Python<'_>, memory: *const u8, length: usize, flags: c_int) -> PyResult<()> {
        let mut deadline = Deadline::default();
        let mut sent = 0;
        while sent < length {
            // SAFETY: within the memory, as `sent` is less than its length.
            let rest = unsafe { memory.add(sent) };
            sent += self.send_some(py, rest, length - sent, flags, &mut deadline)?;
        }
        Ok(())
    }
}

#[inline]
fn errno() -> c_int {
    // SAFETY: the address of the calling thread's errno.
    unsafe { *libc::__errno_location() }
}

#[inline]
fn outcome(result: isize) -> Result<usize, c_int> {
    usize::try_from(result).map_err(|_| errno())
}

/// The OSError subclass for an error number, with the system's text.
#[cold]
fn os_error(py: Python<'_>, number: c_int) -> PyErr {
    // SAFETY: the GIL is held; the call always sets an exception.
    unsafe {
        *libc::__errno_location() = number;
        ffi::PyErr_SetFromErrno(ffi::PyExc_OSError);
    }
    PyErr::fetch(py)
}

#[cold]
fn closed_elsewhere() -> PyErr {
    PyOSError::new_err((libc::EBADF, "File descriptor was closed in another greenlet"))
}

#[cold]
fn in_use(py: Python<'_>, descriptor: c_int, direction: Direction) -> PyErr {
    let what = match direction {
        Direction::Read => "readable",
        Direction::Write => "writable",
    };
    let message = format!(
        "This socket is already used by another greenlet: one waits for descriptor {descriptor} to become {what}"
    );
    exceptions::concurrent_object_use(py, &message)
}

// -- arguments ------------------------------------------------------------------------------------------------------

/// The arguments of a vector call.
#[derive(Clone, Copy)]
struct Arguments {
    values: *const *mut ffi::PyObject,
    /// How many are positional.
    count: usize,
    /// A tuple of names for the values after these, or null.
    names: *mut ffi::PyObject,
}

impl Arguments {
    fn named(self) -> usize {
        // SAFETY: null or a tuple.
        if self.names.is_null() { 0 } else { (unsafe { ffi::PyTuple_GET_SIZE(self.names) }) as usize }
    }

    /// Returns the positional argument `index`, or null.
    fn positional(self, index: usize) -> *mut ffi::PyObject {
        // SAFETY: within the vector.
        if index < self.count { unsafe { *self.values.add(index) } } else { std::ptr::null_mut() }
    }

    /// Returns the argument that is called `name`, or null.
    fn keyword(self, name: &CStr) -> *mut ffi::PyObject {
        for index in 0..self.named() {
            // SAFETY: within the tuple, which holds strings; the values follow the positional ones.
            unsafe {
                let found = ffi::PyTuple_GET_ITEM(self.names, index as ffi::Py_ssize_t);
                if ffi::PyUnicode_CompareWithASCIIString(found, name.as_ptr()) == 0 {
                    return *self.values.add(self.count + index);
                }
            }
        }
        std::ptr::null_mut()
    }

    /// Sorts the arguments by name; the first `required` must be there, the others are null if absent.
    fn parse<const N: usize>(
        self,
        function: &str,
        names: [&CStr; N],
        required: usize,
    ) -> PyResult<[*mut ffi::PyObject; N]> {
        let named = self.named();
        if self.count + named > N || self.count + named < required {
            let given = self.count + named;
            return Err(PyTypeError::new_err(format!(
                "{function}() takes {required} to {N} arguments ({given} given)"
            )));
        }
        let mut found = [std::ptr::null_mut(); N];
        let mut used = 0;
        for (index, slot) in found.iter_mut().enumerate() {
            *slot = self.positional(index);
            if named > 0 && slot.is_null() && !names[index].is_empty() {
                *slot = self.keyword(names[index]);
                used += usize::from(!slot.is_null());
            }
            if slot.is_null() && index < required {
                let name = names[index].to_string_lossy();
                return Err(PyTypeError::new_err(format!("{function}() misses the argument {name:?}")));
            }
        }
        if used < named {
            return Err(PyTypeError::new_err(format!("{function}() got an unexpected keyword argument")));
        }
        Ok(found)
    }
}

fn fetched<T>(py: Python<'_>) -> PyResult<T> {
    Err(PyErr::fetch(py))
}

/// Reads a size as CPython's "n" does.
fn size(py: Python<'_>, object: *mut ffi::PyObject, negative: &'static str) -> PyResult<usize> {
    // SAFETY: a live object; a failure is fetched.
    let value = unsafe { ffi::PyNumber_AsSsize_t(object, ffi::PyExc_OverflowError) };
    // SAFETY: a query.
    if value == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        return fetched(py);
    }
    usize::try_from(value).map_err(|_| PyValueError::new_err(negative))
}

/// Reads flags as CPython's "i" does; 0 for an absent argument.
#[inline]
fn flags(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<c_int> {
    if object.is_null() {
        return Ok(0);
    }
    // SAFETY: a live object; a failure is fetched.
    let value = unsafe { ffi::PyLong_AsLong(object) };
    // SAFETY: a query.
    if value == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        return fetched(py);
    }
    c_int::try_from(value)
        .map_err(|_| pyo3::exceptions::PyOverflowError::new_err("signed integer does not fit a C int"))
}

/// A buffer that is released when dropped. While it is held its exporter can't be resized.
struct Buffer(ffi::Py_buffer);

impl Buffer {
    fn get(py: Python<'_>, object: *mut ffi::PyObject, flags: c_int) -> PyResult<Self> {
        let mut view = MaybeUninit::<ffi::Py_buffer>::uninit();
        // SAFETY: a live object and room for the view.
        if unsafe { ffi::PyObject_GetBuffer(object, view.as_mut_ptr(), flags) } != 0 {
            // SAFETY: a type query of a live object.
            if flags == ffi::PyBUF_WRITABLE && unsafe { ffi::PyObject_CheckBuffer(object) } != 0 {
                drop(PyErr::take(py));
                return Err(PyTypeError::new_err("a read-write bytes-like object is required"));
            }
            return fetched(py);
        }
        // SAFETY: filled in by the successful call.
        Ok(Self(unsafe { view.assume_init() }))
    }

    fn memory(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    fn len(&self) -> usize {
        self.0.len as usize
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: acquired in `get`, with the GIL held as now.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}

// -- methods --------------------------------------------------------------------------------------------------------

fn none() -> *mut ffi::PyObject {
    // SAFETY: None lives for ever; a new reference to it is given away.
    unsafe {
        let none = ffi::Py_None();
        ffi::Py_INCREF(none);
        none
    }
}

fn integer(py: Python<'_>, value: usize) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the GIL is held.
    let object = unsafe { ffi::PyLong_FromSize_t(value) };
    if object.is_null() { fetched(py) } else { Ok(object) }
}

fn recv(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [length, flag] = arguments.parse("recv", [c"", c""], 1)?;
    let length = size(py, length, "negative buffersize in recv")?;
    let flags = flags(py, flag)?;
    if length <= SMALL_READ {
        let memory = SMALL.0.get().cast::<u8>();
        let received = socket.receive_into(py, memory, length, flags)?;
        // SAFETY: the kernel has written that many bytes, and nobody else has run since.
        let bytes = unsafe { ffi::PyBytes_FromStringAndSize(memory.cast(), received as ffi::Py_ssize_t) };
        return if bytes.is_null() { fetched(py) } else { Ok(bytes) };
    }
    let mut bytes = std::ptr::null_mut();
    let result = socket.run(py, Direction::Read, flags, &mut Deadline::default(), |descriptor| {
        // Not before there is something to read: a greenlet that waits holds no memory.
        // SAFETY: the GIL is held; the object is ours alone until it is returned.
        unsafe {
            let made = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as ffi::Py_ssize_t);
            if made.is_null() {
                ffi::PyErr_Clear();
                return Err(libc::ENOMEM);
            }
            let result = outcome(libc::recv(descriptor, ffi::PyBytes_AsString(made).cast(), length, flags));
            match result {
                Ok(_) => bytes = made,
                Err(_) => ffi::Py_DECREF(made),
            }
            result
        }
    });
    let received = result?;
    socket.after_receive(received, length, flags);
    // SAFETY: `bytes` was made by the attempt that succeeded and nobody else has it; on failure it is null.
    if received != length && unsafe { _PyBytes_Resize(&mut bytes, received as ffi::Py_ssize_t) } != 0 {
        return fetched(py);
    }
    Ok(bytes)
}

fn recv_into(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [buffer, count, flag] = arguments.parse("recv_into", [c"buffer", c"nbytes", c"flags"], 1)?;
    let buffer = Buffer::get(py, buffer, ffi::PyBUF_WRITABLE)?;
    let count = if count.is_null() { 0 } else { size(py, count, "negative buffersize in recv_into")? };
    let length = if count == 0 { buffer.len() } else { count };
    if length > buffer.len() {
        return Err(PyValueError::new_err("buffer too small for requested bytes"));
    }
    let received = socket.receive_into(py, buffer.memory(), length, flags(py, flag)?)?;
    drop(buffer);
    integer(py, received)
}

fn send(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [data, flag, timeout] = arguments.parse("send", [c"data", c"flags", c"timeout"], 1)?;
    let flags = flags(py, flag)?;
    let mut deadline = Deadline::default();
    if !timeout.is_null() {
        // SAFETY: a live object, borrowed from the caller.
        let seconds = seconds(&unsafe { Bound::from_borrowed_ptr(py, timeout) })?;
        deadline.get(py_hub::ensure(py)?, seconds);
    }
    let buffer = Buffer::get(py, data, ffi::PyBUF_SIMPLE)?;
    let sent = socket.send_some(py, buffer.memory(), buffer.len(), flags, &mut deadline)?;
    drop(buffer);
    integer(py, sent)
}

fn sendall(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [data, flag] = arguments.parse("sendall", [c"data", c"flags"], 1)?;
    let flags = flags(py, flag)?;
    let buffer = Buffer::get(py, data, ffi::PyBUF_SIMPLE)?;
    if buffer.len() == 0 && socket.descriptor() < 0 {
        return Err(os_error(py, libc::EBADF));
    }
    socket.send_all(py, buffer.memory(), buffer.len(), flags)?;
    drop(buffer);
    Ok(none())
}

/// Calls a method of `_socket.socket` on the object with the same arguments. Returns a new reference.
fn call_plain(
    py: Python<'_>,
    method: &Py<PyAny>,
    socket: Socket,
    arguments: Arguments,
) -> PyResult<*mut ffi::PyObject> {
    let total = arguments.count + arguments.named();
    let mut vector = [std::ptr::null_mut(); 8];
    if total >= vector.len() {
        return Err(PyTypeError::new_err("too many arguments"));
    }
    vector[0] = socket.0;
    // SAFETY: the vectors hold `total` values; the names belong to the last of them. All are alive during the call.
    let result = unsafe {
        std::ptr::copy_nonoverlapping(arguments.values, vector.as_mut_ptr().add(1), total);
        ffi::PyObject_Vectorcall(method.as_ptr(), vector.as_ptr(), arguments.count + 1, arguments.names)
    };
    if result.is_null() { fetched(py) } else { Ok(result) }
}

/// Repeats a method of `_socket.socket` until it does not block. `flag` is the place of the flags among the arguments.
fn through_plain(
    py: Python<'_>,
    method: &Py<PyAny>,
    socket: Socket,
    arguments: Arguments,
    direction: Direction,
    flag: usize,
) -> PyResult<*mut ffi::PyObject> {
    let mut flags = arguments.positional(flag);
    if flags.is_null() && arguments.named() > 0 {
        flags = arguments.keyword(c"flags");
    }
    // SAFETY: a live object, or null. What is no integer is the method's to refuse.
    let is_patient = flags.is_null()
        || unsafe { ffi::PyLong_Check(flags) } == 0
        || unsafe { ffi::PyLong_AsLongLong(flags) } & i64::from(libc::MSG_DONTWAIT) == 0;
    let mut deadline = Deadline::default();
    let mut has_waited = false;
    loop {
        let descriptor = socket.descriptor();
        if descriptor < 0 && has_waited {
            return Err(closed_elsewhere());
        }
        let may_wait = is_patient && socket.timeout() != 0.0 && descriptor >= 0;
        if may_wait && socket.is_exhausted(descriptor, direction) {
            let hub = py_hub::ensure(py)?;
            let instant = deadline.get(hub, socket.timeout());
            socket.wait(py, hub, descriptor, direction, instant, None)?;
            has_waited = true;
            continue;
        }
        match call_plain(py, method, socket, arguments) {
            Err(error) if may_wait && error.is_instance_of::<PyBlockingIOError>(py) => {
                drop(error);
                socket.wait_blocked(py, direction, &mut deadline)?;
                has_waited = true;
            }
            other => return other,
        }
    }
}

fn recvfrom(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvfrom, socket, arguments, Direction::Read, 1)
}

fn recvfrom_into(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvfrom_into, socket, arguments, Direction::Read, 2)
}

fn recvmsg(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvmsg, socket, arguments, Direction::Read, 2)
}

fn recvmsg_into(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    through_plain(py, &class().recvmsg_into, socket, arguments, Direction::Read, 2)
}

fn sendmsg(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [buffers, ancillary, flag, address] =
        arguments.parse("sendmsg", [c"buffers", c"ancdata", c"flags", c"address"], 1)?;
    // `_socket` takes no keywords here, the real gevent does.
    // SAFETY: all are alive during the call; the empty tuple and 0 are made here.
    let empty = PyTuple::empty(py);
    let zero = 0i32.into_pyobject(py)?;
    let or = |given: *mut ffi::PyObject, otherwise: *mut ffi::PyObject| {
        if given.is_null() { otherwise } else { given }
    };
    let values = [buffers, or(ancillary, empty.as_ptr()), or(flag, zero.as_ptr()), address];
    let arguments = Arguments {
        values: values.as_ptr(),
        count: if address.is_null() { 3 } else { 4 },
        names: std::ptr::null_mut(),
    };
    through_plain(py, &class().sendmsg, socket, arguments, Direction::Write, 2)
}

fn sendto(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    // sendto(data, address) or sendto(data, flags, address)
    let flag = if arguments.count == 3 { 1 } else { usize::MAX };
    through_plain(py, &class().sendto, socket, arguments, Direction::Write, flag)
}

/// Connects; returns an error number, 0 when connected.
fn connect_number(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<c_int> {
    let mut deadline = Deadline::default();
    loop {
        let answer = call_plain(py, &class().connect_ex, socket, arguments)?;
        // SAFETY: the new reference of the call.
        let number: c_int = unsafe { Bound::from_owned_ptr(py, answer) }.extract()?;
        if socket.timeout() == 0.0 {
            return Ok(number);
        }
        match number {
            0 | libc::EISCONN => return Ok(0),
            libc::EINPROGRESS | libc::EALREADY => {
                // Before it connects a stream socket hangs up in both directions.
                if let hub = socket.extra().hub.get()
                    && std::ptr::eq(hub, Hub::current())
                {
                    // SAFETY: it is this thread's hub, as was just compared.
                    unsafe { &*hub }.mark_blocked(socket.descriptor(), Direction::Read);
                }
                socket.wait_blocked(py, Direction::Write, &mut deadline)?;
                if socket.descriptor() < 0 {
                    return Err(closed_elsewhere());
                }
                // Asking again tells the outcome, and after a failure makes the socket fit for another attempt, which
                // SO_ERROR would not.
            }
            libc::EAGAIN if socket.family() == libc::AF_UNIX => {
                let (hub, waker) = host::begin_park(py, WaitingFor::Write(socket.descriptor()))?;
                let patience = deadline.get(hub, socket.timeout());
                if patience.is_some_and(|deadline| deadline <= hub.clock().now()) {
                    waker.unpark();
                    host::park(py, hub, &waker, None, true)?;
                    return Err(PyTimeoutError::new_err("timed out"));
                }
                host::park(py, hub, &waker, Some(hub.clock().now().after(BACKLOG_PAUSE)), true)?;
            }
            _ => return Ok(number),
        }
    }
}

fn connect(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    match connect_number(py, socket, arguments)? {
        0 => Ok(none()),
        number => Err(os_error(py, number)),
    }
}

fn connect_ex(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    match connect_number(py, socket, arguments) {
        Ok(number) => integer(py, number as usize),
        Err(error) if error.is_instance_of::<PyTimeoutError>(py) => integer(py, libc::EAGAIN as usize),
        Err(error) => Err(error),
    }
}

/// A descriptor that is closed unless it is taken.
struct Descriptor(c_int);

impl Descriptor {
    fn take(mut self) -> c_int {
        std::mem::replace(&mut self.0, -1)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.0 >= 0 {
            // SAFETY: it is ours: the kernel has just given it to us.
            unsafe { libc::close(self.0) };
        }
    }
}

fn accept(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("accept", [], 0)?;
    let (descriptor, address) = match socket.family() {
        libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX => accept_known(py, socket)?,
        _ => {
            let pair = through_plain(py, &class().accept, socket, arguments, Direction::Read, usize::MAX)?;
            // SAFETY: the new reference of the call.
            let (descriptor, address): (c_int, Bound<'_, PyAny>) =
                unsafe { Bound::from_owned_ptr(py, pair) }.extract()?;
            (Descriptor(descriptor), address)
        }
    };
    let made = make(py, socket, descriptor)?;
    Ok((made, address).into_pyobject(py)?.into_ptr())
}

/// A connection that was accepted, and has no object yet. It is closed unless an object takes it.
pub struct Accepted {
    descriptor: Descriptor,
    storage: libc::sockaddr_storage,
    length: usize,
}

impl Accepted {
    /// The descriptor. It does not block.
    pub fn descriptor(&self) -> c_int {
        self.descriptor.0
    }

    /// The peer's address, if it is one of IPv4.
    pub fn ipv4(&self) -> Option<SocketAddrV4> {
        if c_int::from(self.storage.ss_family) != libc::AF_INET {
            return None;
        }
        // SAFETY: the family says what it is; the storage is large and aligned enough for all.
        let address = unsafe { &*std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in>() };
        Some(SocketAddrV4::new(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)), u16::from_be(address.sin_port)))
    }

    /// The peer's address, in the form of `_socket`.
    pub fn address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address(py, &self.storage, self.length)
    }

    /// Makes the `gevent.socket.socket`.
    pub fn into_object<'py>(self, py: Python<'py>, listener: Socket) -> PyResult<Bound<'py, PyAny>> {
        make(py, listener, self.descriptor)
    }

    fn take_from(listener: c_int) -> Result<Self, c_int> {
        let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: room for an address of any family.
        let accepted = unsafe { libc::accept4(listener, storage.as_mut_ptr().cast(), &mut length, flags) };
        let descriptor = Descriptor(outcome(accepted as isize)? as c_int);
        // SAFETY: zeroed at first, which is valid for this plain data, then written by the kernel.
        Ok(Self { descriptor, storage: unsafe { storage.assume_init() }, length: length as usize })
    }
}

impl Socket {
    /// Takes a connection from this listener without waiting, whatever its time-out; None if there is none.
    ///
    /// # Errors
    ///
    /// The number of the system's error.
    pub fn accept_at_once(self) -> Result<Option<Accepted>, c_int> {
        match self.family() {
            libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX => {}
            _ => return Err(libc::EAFNOSUPPORT),
        }
        loop {
            match Accepted::take_from(self.descriptor()) {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(libc::EAGAIN) => return Ok(None),
                // accept(2): the connection that would have been returned is gone already.
                Err(libc::EINTR | libc::ECONNABORTED) => {}
                Err(number) => return Err(number),
            }
        }
    }

    /// Closes the descriptor of an object that nobody but the caller has, so that it may [`adopt`](Self::adopt) another.
    pub fn close_to_adopt(self) {
        release(self);
        // SAFETY: the object is alive and the layout is proved.
        let descriptor = unsafe { std::mem::replace(&mut (*self.plain()).descriptor, -1) };
        drop(Descriptor(descriptor));
    }

    /// Makes a socket that was closed [so](Self::close_to_adopt) that of another connection to the same listener.
    pub fn adopt(self, py: Python<'_>, accepted: Accepted) -> PyResult<()> {
        let timeout = default_timeout(py)?;
        self.extra().timeout.set(timeout);
        // SAFETY: as in `close_to_adopt`.
        unsafe { (*self.plain()).descriptor = accepted.descriptor.take() };
        Ok(())
    }
}

fn accept_known<'py>(py: Python<'py>, socket: Socket) -> PyResult<(Descriptor, Bound<'py, PyAny>)> {
    let mut accepted = None;
    socket.run(py, Direction::Read, 0, &mut Deadline::default(), |listener| {
        accepted = Some(Accepted::take_from(listener)?);
        Ok(0)
    })?;
    let accepted = accepted.expect("set by the attempt that succeeded");
    let address = accepted.address(py)?;
    Ok((accepted.descriptor, address))
}

/// `_socket.getdefaulttimeout()`, seconds; negative for None.
fn default_timeout(py: Python<'_>) -> PyResult<f64> {
    let default: Option<f64> = class().getdefaulttimeout.call0(py)?.extract(py)?;
    Ok(default.unwrap_or(-1.0))
}

fn numeric_host<'py, A>(py: Python<'py>, family: c_int, address: &A) -> PyResult<Bound<'py, PyString>> {
    let mut text = [0 as c_char; 64];
    // SAFETY: 64 bytes hold every address of both families (INET6_ADDRSTRLEN is 46).
    let found = unsafe { inet_ntop(family, std::ptr::from_ref(address).cast(), text.as_mut_ptr(), 64) };
    if found.is_null() {
        return Err(os_error(py, errno()));
    }
    // SAFETY: terminated by inet_ntop.
    Ok(PyString::new(py, &unsafe { CStr::from_ptr(found) }.to_string_lossy()))
}

/// Gives an address the form that `_socket` gives it.
fn address<'py>(py: Python<'py>, storage: &libc::sockaddr_storage, length: usize) -> PyResult<Bound<'py, PyAny>> {
    let pointer = std::ptr::from_ref(storage);
    if length == 0 {
        return Ok(py.None().into_bound(py));
    }
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is; the storage is large and aligned enough for all.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let host = numeric_host(py, libc::AF_INET, &address.sin_addr)?;
            Ok((host, u16::from_be(address.sin_port)).into_pyobject(py)?.into_any())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let host = numeric_host(py, libc::AF_INET6, &address.sin6_addr)?;
            let port = u16::from_be(address.sin6_port);
            let flow = u32::from_be(address.sin6_flowinfo);
            Ok((host, port, flow, address.sin6_scope_id).into_pyobject(py)?.into_any())
        }
        libc::AF_UNIX => {
            // SAFETY: as above.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_un>() };
            let length = length.saturating_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path));
            let path: Vec<u8> =
                address.sun_path[..length.min(address.sun_path.len())].iter().map(|&byte| byte as u8).collect();
            if path.first() == Some(&0) {
                // unix(7): an abstract address is bytes, zeros included.
                return Ok(PyBytes::new(py, &path).into_any());
            }
            let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
            use std::os::unix::ffi::OsStrExt;
            Ok(std::ffi::OsStr::from_bytes(&path[..end]).into_pyobject(py)?.into_any())
        }
        family => Err(exceptions::internal(&format!("accept gave an address of family {family}"))),
    }
}

/// Makes the `gevent.socket.socket` of an accepted connection. The descriptor is non-blocking unless `_socket` made it.
fn make<'py>(py: Python<'py>, listener: Socket, descriptor: Descriptor) -> PyResult<Bound<'py, PyAny>> {
    static PUBLIC: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let public = PUBLIC
        .get_or_try_init(py, || {
            py.import("gevent.socket")?.getattr("socket")?.cast_into::<PyType>().map(Bound::unbind).map_err(PyErr::from)
        })?
        .bind(py);
    let (family, kind, protocol) = (listener.family(), listener.kind(), listener.protocol());
    // SAFETY: a live type.
    let init = unsafe { (*public.as_type_ptr()).tp_init };
    let is_plain_init = init.is_some_and(|init| std::ptr::fn_addr_eq(init, initialize as ffi::initproc));
    let is_known = matches!(family, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX);
    if !is_plain_init || !is_known {
        let made = public.call1((family, kind, protocol, descriptor.0))?;
        descriptor.take();
        return Ok(made);
    }
    // As `_socket.socket.__init__` does, but for its question to the kernel whether the descriptor is a socket.
    // SAFETY: `tp_new` of a live type with an empty tuple.
    let object = unsafe {
        let new = (*public.as_type_ptr()).tp_new.expect("every class has it");
        new(public.as_type_ptr(), PyTuple::empty(py).as_ptr(), std::ptr::null_mut())
    };
    if object.is_null() {
        return fetched(py);
    }
    // SAFETY: the new reference of the call.
    let object = unsafe { Bound::from_owned_ptr(py, object) };
    begin_life(&object)?;
    let socket = Socket(object.as_ptr());
    socket.extra().timeout.set(default_timeout(py)?);
    // SAFETY: a socket object of ours that nobody else has; the layout is proved.
    unsafe {
        let plain = socket.plain();
        (*plain).family = family;
        (*plain).kind = kind;
        (*plain).protocol = protocol;
        (*plain).timeout = 0;
        (*plain).descriptor = descriptor.take();
    }
    Ok(object)
}

/// Sets what `socket.socket.__init__` sets.
fn begin_life(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    object.setattr(intern!(py, "_io_refs"), 0)?;
    object.setattr(intern!(py, "_closed"), false)
}

/// `__init__(family=-1, type=-1, proto=-1, fileno=None)`.
unsafe extern "C" fn initialize(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: CPython calls slots with the GIL held.
    let py = unsafe { Python::assume_attached() };
    let socket = Socket(object);
    socket.deregister();
    // SAFETY: the slot of the class that ours is derived from.
    let result = unsafe {
        let init = (*class().plain).tp_init.expect("_socket.socket has it");
        init(object, args, kwargs)
    };
    if result != 0 {
        return result;
    }
    // SAFETY: a live object; the layout is proved.
    let default = unsafe { std::mem::replace(&mut (*socket.plain()).timeout, 0) };
    socket.extra().timeout.set(if default < 0 { -1.0 } else { default as f64 / 1e9 });
    if default < 0 {
        let mut on: c_int = 1;
        // SAFETY: FIONBIO reads one int.
        if unsafe { libc::ioctl(socket.descriptor(), libc::FIONBIO, &mut on) } != 0 {
            os_error(py, errno()).restore(py);
            return -1;
        }
    }
    // SAFETY: alive during the call.
    if let Err(error) = begin_life(&unsafe { Bound::from_borrowed_ptr(py, object) }) {
        error.restore(py);
        return -1;
    }
    0
}

/// Ends the registration of a socket that nobody refers to, then lets `_socket` warn and close.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    Socket(object).deregister();
    // SAFETY: the slot of the class that ours is derived from.
    unsafe {
        if let Some(finalize) = (*class().plain).tp_finalize {
            finalize(object);
        }
    }
}

fn shutdown(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [how] = arguments.parse("shutdown", [c"how"], 1)?;
    // SAFETY: a live object; what is no integer is `_socket`'s to refuse.
    let how = if unsafe { ffi::PyLong_Check(how) } != 0 { flags(py, how).unwrap_or(-1) } else { -1 };
    let hub = socket.extra().hub.get();
    if std::ptr::eq(hub, Hub::current()) {
        let descriptor = socket.descriptor();
        for (direction, is_meant) in [
            (Direction::Read, how == libc::SHUT_RD || how == libc::SHUT_RDWR),
            (Direction::Write, how == libc::SHUT_WR || how == libc::SHUT_RDWR),
        ] {
            if is_meant {
                // SAFETY: it is this thread's hub, as was just compared.
                unsafe { &*hub }.cancel_waiters(descriptor, direction);
            }
        }
    }
    call_plain(py, &class().shutdown, socket, arguments)
}

/// Prepares for the descriptor's end: nobody shall wait for a number that may soon be somebody else's.
fn release(socket: Socket) {
    let descriptor = socket.descriptor();
    if descriptor >= 0 {
        socket.deregister();
        Hub::current().close_level(descriptor);
    }
}

fn real_close(py: Python<'_>, socket: Socket, _arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    release(socket);
    let none = Arguments { values: std::ptr::null(), count: 0, names: std::ptr::null_mut() };
    call_plain(py, &class().close, socket, none)
}

fn detach(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("detach", [], 0)?;
    release(socket);
    // SAFETY: alive during the call.
    unsafe { Bound::<PyAny>::from_borrowed_ptr(py, socket.0) }.setattr(intern!(py, "_closed"), true)?;
    call_plain(py, &class().detach, socket, arguments)
}

/// Reads a time-out: None is negative, for ever.
fn seconds(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_none() {
        return Ok(-1.0);
    }
    let seconds: f64 = value.extract()?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err("Timeout value out of range"));
    }
    Ok(seconds)
}

fn settimeout(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [value] = arguments.parse("settimeout", [c"value"], 1)?;
    // SAFETY: borrowed from the caller.
    let seconds = seconds(&unsafe { Bound::from_borrowed_ptr(py, value) })?;
    socket.extra().timeout.set(seconds);
    Ok(none())
}

fn timeout_object(py: Python<'_>, socket: Socket) -> PyResult<*mut ffi::PyObject> {
    let timeout = socket.timeout();
    if timeout < 0.0 { Ok(none()) } else { Ok(timeout.into_pyobject(py)?.into_ptr()) }
}

fn gettimeout(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("gettimeout", [], 0)?;
    timeout_object(py, socket)
}

fn setblocking(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [flag] = arguments.parse("setblocking", [c"flag"], 1)?;
    // SAFETY: borrowed from the caller.
    let is_blocking = unsafe { Bound::<PyAny>::from_borrowed_ptr(py, flag) }.is_truthy()?;
    socket.extra().timeout.set(if is_blocking { -1.0 } else { 0.0 });
    Ok(none())
}

fn getblocking(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("getblocking", [], 0)?;
    Ok((socket.timeout() != 0.0).into_pyobject(py)?.to_owned().into_any().into_ptr())
}

/// Gives a result to CPython.
#[inline]
fn respond(py: Python<'_>, result: PyResult<*mut ffi::PyObject>) -> *mut ffi::PyObject {
    match result {
        Ok(object) => object,
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}

/// A definition of a method: its C entry around the function of the same name.
macro_rules! method {
    ($function:ident, $name:literal, $doc:literal) => {{
        unsafe extern "C" fn entry(
            object: *mut ffi::PyObject,
            values: *const *mut ffi::PyObject,
            count: ffi::Py_ssize_t,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: CPython calls methods with the GIL held.
            let py = unsafe { Python::assume_attached() };
            respond(py, $function(py, Socket(object), Arguments { values, count: count as usize, names }))
        }
        ffi::PyMethodDef {
            ml_name: $name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: $doc.as_ptr(),
        }
    }};
}

fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        method!(
            recv,
            c"recv",
            c"recv($self, bufsize, flags=0, /)\n--\n\n\
             Receive up to *bufsize* bytes; b'' is the end of the stream. Switches."
        ),
        method!(
            recv_into,
            c"recv_into",
            c"recv_into($self, buffer, nbytes=0, flags=0)\n--\n\n\
             Receive into *buffer*; returns the number of bytes. Switches."
        ),
        method!(
            recvfrom,
            c"recvfrom",
            c"recvfrom($self, bufsize, flags=0, /)\n--\n\n\
             Receive; returns (bytes, address of the sender). Switches."
        ),
        method!(
            recvfrom_into,
            c"recvfrom_into",
            c"recvfrom_into($self, buffer, nbytes=0, flags=0)\n--\n\n\
             Receive into *buffer*; returns (number of bytes, address of the sender). Switches."
        ),
        method!(
            recvmsg,
            c"recvmsg",
            c"recvmsg($self, bufsize, ancbufsize=0, flags=0, /)\n--\n\n\
             Receive with ancillary data, as the standard library's. Switches."
        ),
        method!(
            recvmsg_into,
            c"recvmsg_into",
            c"recvmsg_into($self, buffers, ancbufsize=0, flags=0, /)\n--\n\n\
             Receive into buffers with ancillary data, as the standard library's. Switches."
        ),
        method!(
            send,
            c"send",
            c"send($self, data, flags=0, timeout=None)\n--\n\n\
             Send some of *data*; returns the number of bytes. *timeout*: seconds, instead of the socket's. Switches."
        ),
        method!(
            sendall,
            c"sendall",
            c"sendall($self, data, flags=0)\n--\n\n\
             Send all of *data*; the socket's time-out is for the whole. Switches."
        ),
        method!(
            sendmsg,
            c"sendmsg",
            c"sendmsg($self, buffers, ancdata=(), flags=0, address=None)\n--\n\n\
             Send with ancillary data, as the standard library's. Switches."
        ),
        method!(
            sendto,
            c"sendto",
            c"Send to an address: sendto(data, address) or sendto(data, flags, address). Switches."
        ),
        method!(
            connect,
            c"connect",
            c"connect($self, address, /)\n--\n\n\
             Connect; a host name is looked up by the system, blocking. Switches."
        ),
        method!(
            connect_ex,
            c"connect_ex",
            c"connect_ex($self, address, /)\n--\n\n\
             Connect, but return an error number, 0 when connected. Switches."
        ),
        method!(
            accept,
            c"accept",
            c"accept($self, /)\n--\n\n\
             Wait for a connection; returns (gevent.socket.socket, address of the peer). Switches."
        ),
        method!(
            shutdown,
            c"shutdown",
            c"shutdown($self, how, /)\n--\n\n\
             End reading, writing or both; greenlets that wait for that go on with OSError."
        ),
        method!(real_close, c"_real_close", c"Close the descriptor; greenlets that wait for it go on with OSError."),
        method!(
            detach,
            c"detach",
            c"detach($self, /)\n--\n\n\
             Give the descriptor away, and return it; it stays non-blocking."
        ),
        method!(
            settimeout,
            c"settimeout",
            c"settimeout($self, value, /)\n--\n\n\
             Set the time-out of each call in seconds; None: no limit; 0: never wait."
        ),
        method!(
            gettimeout,
            c"gettimeout",
            c"gettimeout($self, /)\n--\n\n\
             Return the time-out in seconds, or None."
        ),
        method!(
            setblocking,
            c"setblocking",
            c"setblocking($self, flag, /)\n--\n\n\
             True: no time-out. False: never wait."
        ),
        method!(
            getblocking,
            c"getblocking",
            c"getblocking($self, /)\n--\n\n\
             Return whether calls may wait."
        ),
        // SAFETY: the all-zero definition ends the list.
        unsafe { std::mem::zeroed() },
    ]
}

unsafe extern "C" fn get_timeout(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: CPython calls getters with the GIL held.
    let py = unsafe { Python::assume_attached() };
    respond(py, timeout_object(py, Socket(object)))
}

unsafe extern "C" fn set_timeout(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
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

unsafe extern "C" fn get_ref(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: CPython calls getters with the GIL held.
    let py = unsafe { Python::assume_attached() };
    respond(py, Ok(PyBool::new(py, !Socket(object).extra().is_unreferenced.get()).to_owned().into_any().into_ptr()))
}

unsafe extern "C" fn set_ref(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    // SAFETY: CPython calls setters with the GIL held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: null, or borrowed from the caller.
    let on = match unsafe { Bound::from_borrowed_ptr_or_opt(py, value) } {
        None => Err(pyo3::exceptions::PyAttributeError::new_err("ref can't be deleted")),
        Some(value) => value.is_truthy(),
    };
    match on {
        Ok(on) => {
            Socket(object).extra().is_unreferenced.set(!on);
            0
        }
        Err(error) => {
            error.restore(py);
            -1
        }
    }
}

unsafe extern "C" fn get_closed(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: CPython calls getters with the GIL held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: alive during the call.
    let result = unsafe { Bound::<PyAny>::from_borrowed_ptr(py, object) }.getattr(intern!(py, "_closed"));
    respond(py, result.map(Bound::into_ptr))
}

fn attributes() -> Vec<ffi::PyGetSetDef> {
    vec![
        ffi::PyGetSetDef {
            name: c"timeout".as_ptr(),
            get: Some(get_timeout),
            set: Some(set_timeout),
            doc: c"The time-out in seconds, or None.".as_ptr(),
            closure: std::ptr::null_mut(),
        },
        ffi::PyGetSetDef {
            name: c"ref".as_ptr(),
            get: Some(get_ref),
            set: Some(set_ref),
            doc: c"Whether waiting for the socket keeps the event loop alive; True unless assigned.".as_ptr(),
            closure: std::ptr::null_mut(),
        },
        ffi::PyGetSetDef {
            name: c"closed".as_ptr(),
            get: Some(get_closed),
            set: None,
            doc: c"Whether `close` was called.".as_ptr(),
            closure: std::ptr::null_mut(),
        },
        // SAFETY: the all-zero definition ends the list.
        unsafe { std::mem::zeroed() },
    ]
}

/// Proves that `Plain` is what `_socket` uses, by a real socket.
fn check_layout(plain: &Bound<'_, PyType>) -> PyResult<()> {
    let sample = plain.call1((libc::AF_UNIX, libc::SOCK_DGRAM, 0))?;
    sample.call_method1("settimeout", (1.5,))?;
    let socket = Socket(sample.as_ptr());
    // SAFETY: the type's basic size, checked first, covers what is read.
    let is_as_expected = unsafe { (*plain.as_type_ptr()).tp_basicsize } as usize >= size_of::<Plain>() && {
        let descriptor: c_int = sample.call_method0("fileno")?.extract()?;
        socket.descriptor() == descriptor
            && socket.family() == libc::AF_UNIX
            && socket.kind() == libc::SOCK_DGRAM
            && socket.protocol() == 0
            // SAFETY: as above.
            && unsafe { (*socket.plain()).timeout } == 1_500_000_000
    };
    sample.call_method0("close")?;
    if is_as_expected {
        Ok(())
    } else {
        Err(PyImportError::new_err("this interpreter's _socket.socket is laid out in a way that gevent does not know"))
    }
}

/// Parks until a socket is ready, after an operation on it that would have blocked.
///
/// *sock*: a `gevent.socket.socket`; *direction*: 1 to read, 2 to write; *timeout*: seconds, None for no limit. Raises
/// TimeoutError, or OSError when the socket is closed meanwhile. Switches.
#[pyfunction]
#[pyo3(signature = (sock, direction, timeout=None))]
pub fn wait_socket(
    py: Python<'_>,
    sock: &Bound<'_, PyAny>,
    direction: i32,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let socket = Socket::from_object(sock).ok_or_else(|| PyTypeError::new_err("a gevent socket is required"))?;
    let direction = match direction {
        1 => Direction::Read,
        2 => Direction::Write,
        _ => return Err(PyValueError::new_err("the direction is 1 (read) or 2 (write)")),
    };
    let timeout = timeout.map_or(Ok(-1.0), seconds)?;
    if socket.descriptor() < 0 {
        return Err(os_error(py, libc::EBADF));
    }
    if timeout == 0.0 {
        return Err(PyTimeoutError::new_err("timed out"));
    }
    let mut deadline = Deadline::default();
    deadline.get(py_hub::ensure(py)?, timeout);
    socket.wait_blocked(py, direction, &mut deadline)
}

/// is_readable(sock) -> whether reading gives something at once: data, the end, or an error. Does not switch.
///
/// *sock*: a `gevent.socket.socket`. True when it is closed.
#[pyfunction]
pub fn is_readable(sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let socket = Socket::from_object(sock).ok_or_else(|| PyTypeError::new_err("a gevent socket is required"))?;
    let mut asked = libc::pollfd { fd: socket.descriptor(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: one record, alive during the call, which does not wait. A negative descriptor is ignored.
    let found = unsafe { libc::poll(&mut asked, 1, 0) };
    Ok(found != 0 || asked.fd < 0)
}

/// Forgets, in the child of a fork, the hubs of the threads that the child lacks: their pollers are the parent's.
pub fn forget_other_hubs(hub: &Hub) {
    HUBS.borrow_mut().retain(|&other| std::ptr::eq(other, hub));
}

/// Makes the class and adds it to the module.
///
/// # Errors
///
/// ImportError if the interpreter's sockets are not what this code was written for.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let native = py.import("_socket")?;
    let plain = native.getattr("socket")?.cast_into::<PyType>()?;
    let base = py.import("socket")?.getattr("socket")?.cast_into::<PyType>()?;
    check_layout(&plain)?;
    // SAFETY: a live type.
    let offset = (unsafe { (*base.as_type_ptr()).tp_basicsize } as usize).next_multiple_of(align_of::<Extra>());
    // The definitions belong to the type, which lives as long as the process.
    let methods = Box::leak(methods().into_boxed_slice());
    let attributes = Box::leak(attributes().into_boxed_slice());
    let doc = c"A subclass of the standard library's socket whose waiting methods park the greenlet.";
    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_init, initialize as *mut c_void),
        slot(ffi::Py_tp_finalize, finalize as *mut c_void),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, attributes.as_mut_ptr().cast()),
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
        slot(0, std::ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"gevent._greenrust.socket".as_ptr(),
        basicsize: (offset + size_of::<Extra>()) as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the specification is complete, and what it points to lives long enough.
    let made = unsafe { ffi::PyType_FromSpecWithBases(&mut spec, PyTuple::new(py, [&base])?.as_ptr()) };
    if made.is_null() {
        return fetched(py);
    }
    // SAFETY: the new reference of the call, a type.
    let ours: Bound<'_, PyType> = unsafe { Bound::from_owned_ptr(py, made).cast_into_unchecked() };
    let method = |name: &str| plain.getattr(name).map(Bound::unbind);
    let class = Class {
        // The type lives as long as the process.
        ours: ours.clone().into_ptr().cast(),
        plain: plain.clone().into_ptr().cast(),
        offset,
        accept: method("_accept")?,
        close: method("close")?,
        connect_ex: method("connect_ex")?,
        detach: method("detach")?,
        recvfrom: method("recvfrom")?,
        recvfrom_into: method("recvfrom_into")?,
        recvmsg: method("recvmsg")?,
        recvmsg_into: method("recvmsg_into")?,
        sendmsg: method("sendmsg")?,
        sendto: method("sendto")?,
        shutdown: method("shutdown")?,
        getdefaulttimeout: native.getattr("getdefaulttimeout")?.unbind(),
    };
    if CLASS.set(Gil::new(class)).is_err() {
        return Err(PyImportError::new_err("gevent._greenrust can't be imported twice in a process"));
    }
    module.add("socket", ours)?;
    module.add_function(wrap_pyfunction!(wait_socket, module)?)?;
    module.add_function(wrap_pyfunction!(is_readable, module)?)?;
    Ok(())
}
