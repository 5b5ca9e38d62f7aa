//! The native class under `gevent.socket.socket`: a subclass of the standard library's whose waiting methods park.
//!
//! ```text
//!   object:  PySocketSockObject (_socket)  |  _io_refs, _closed (socket.socket)  |  Extra (ours)
//!            descriptor, family, type...                                            time-out, where it is registered
//! ```
//!
//! The life of `recv(n)`: the system call, with the GIL held, on a descriptor that never blocks in the kernel.
//! On EAGAIN the descriptor is registered with the hub of the thread (once for its life) and the greenlet parks. A read
//! that gave less than it was asked for says that there is no more, so the next one parks without asking. What needs
//! ancillary data, or an address of a rare family, goes through `_socket`, which is told never to wait.
//!
//! | looking for | look in |
//! | --- | --- |
//! | how long a call waits, and how it is woken | `wait` |
//! | receiving and sending | `transfer` |
//! | connect, accept, shutdown | `connection` |
//! | addresses of the system, as Python has them | `address` |
//! | how an object begins and ends: `__init__`, close, detach | `life` |
//! | settimeout and its relatives | `timeout` |
//! | the list of methods, and the making of the class | `class` |
//! | arguments as C calls bring them, and results | `arguments` |
//!
//! Invariants:
//! - The time-out that `_socket` sees is 0: it never waits. The one that users see is in [`Extra`].
//! - A registration ends before its descriptor is closed or given away, in every hub that has it.
//! - `Extra` is valid when zeroed, which is how CPython makes it.

mod address;
mod arguments;
mod class;
mod connection;
mod life;
mod timeout;
mod transfer;
mod wait;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use greenrust::hub::Hub;
use pyo3::exceptions::PyOSError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::gil::Gil;

pub use class::register;
pub use connection::Accepted;
pub use life::Parted;
pub use wait::{Deadline, Patience, forget_hub, forget_other_hubs};

unsafe extern "C" {
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
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
    /// Our own `_real_close`, which subclasses may override.
    real_close: Py<PyAny>,
}

static CLASS: OnceLock<Gil<Class>> = OnceLock::new();

fn class() -> &'static Class {
    CLASS.get().expect("set when the module is made")
}

/// A socket object, borrowed from whoever called.
#[derive(Clone, Copy)]
pub struct Socket(*mut ffi::PyObject);

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

    /// Family, type and protocol, which a listener's connections have as well.
    fn kind_of_connections(self) -> [c_int; 3] {
        [self.family(), self.kind(), self.protocol()]
    }

    /// Whether it is a stream, such as TCP.
    pub fn is_stream(self) -> bool {
        self.kind() & 0xf == libc::SOCK_STREAM
    }

    fn protocol(self) -> c_int {
        // SAFETY: as in `descriptor`.
        unsafe { (*self.plain()).protocol }
    }

    /// Returns the time-out in seconds: negative for no limit, 0 for a socket that never waits.
    #[inline]
    pub fn timeout(self) -> f64 {
        self.extra().timeout.get()
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

/// Tells the audit hooks what `_socket` would tell them; `tell` gives the values to `PySys_Audit`.
///
/// # Errors
///
/// What a hook raises.
#[inline]
fn audit(
    py: Python<'_>,
    event: &CStr,
    format: &CStr,
    tell: impl FnOnce(*const c_char, *const c_char) -> c_int,
) -> PyResult<()> {
    if tell(event.as_ptr(), format.as_ptr()) == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}
