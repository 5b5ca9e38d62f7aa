//! How long a call may wait, where its socket is registered, and the repetition of what would block.

use std::cell::RefCell;
use std::ffi::c_int;

use greenrust::clock::Instant;
use greenrust::hub::{Alarm, Direction, Hub, Wake};
use pyo3::exceptions::{PyBlockingIOError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::arguments::{Arguments, fetched};
use super::timeout::seconds;
use super::{Socket, closed_elsewhere, os_error};
use crate::exceptions;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;

/// The hubs that have had sockets registered and still exist.
static HUBS: Gil<RefCell<Vec<*const Hub>>> = Gil::new(RefCell::new(Vec::new()));

/// Forgets a hub whose thread ends.
pub fn forget_hub(hub: &Hub) {
    HUBS.borrow_mut().retain(|&other| !std::ptr::eq(other, hub));
}

/// Ends the registrations of a descriptor: in `hub`, or in all if it `is_shared`.
pub(super) fn deregister(descriptor: c_int, hub: *const Hub, is_shared: bool) {
    if descriptor < 0 || hub.is_null() {
        return;
    }
    // Waking may not run Python code, so the borrow is safe.
    for &other in HUBS.borrow().iter() {
        if is_shared || std::ptr::eq(other, hub) {
            // SAFETY: in the list, so it exists; the GIL keeps its thread from using it meanwhile.
            unsafe { &*other }.deregister(descriptor);
        }
    }
}

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

    pub(super) fn get(&mut self, hub: &Hub, timeout: f64) -> Option<Instant> {
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
    /// Says whether the direction is known to be exhausted, so that a system call is not worth trying.
    #[inline]
    pub fn is_exhausted(self, descriptor: c_int, direction: Direction) -> bool {
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
    pub fn register(self, py: Python<'_>, hub: &'static Hub, descriptor: c_int) -> PyResult<()> {
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
    pub(super) fn deregister(self) {
        let extra = self.extra();
        deregister(self.descriptor(), extra.hub.replace(std::ptr::null()), extra.is_shared.replace(false));
    }

    /// Parks until the direction is ready.
    ///
    /// # Errors
    ///
    /// TimeoutError, OSError(EBADF) when the socket is closed meanwhile, `ConcurrentObjectUseError`, and whatever is
    /// thrown into the greenlet.
    pub(super) fn wait(
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

    /// Asks the system whether reading gives something at once: data, the end, or an error. True when it is closed.
    pub fn is_readable(self) -> bool {
        let mut asked = libc::pollfd { fd: self.descriptor(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
        // SAFETY: one record, alive during the call, which does not wait. A negative descriptor is ignored.
        let found = unsafe { libc::poll(&mut asked, 1, 0) };
        found != 0 || asked.fd < 0
    }

    /// Parks after a system call that said EAGAIN (or EINPROGRESS).
    pub fn wait_blocked(self, py: Python<'_>, direction: Direction, deadline: &mut Deadline<'_>) -> PyResult<()> {
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

/// Calls a method of `_socket.socket` on the object with the same arguments. Returns a new reference.
pub(super) fn call_plain(
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
pub(super) fn through_plain(
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

/// Forgets, in the child of a fork, the hubs of the threads that the child lacks: their pollers are the parent's.
pub fn forget_other_hubs(hub: &Hub) {
    HUBS.borrow_mut().retain(|&other| std::ptr::eq(other, hub));
}
