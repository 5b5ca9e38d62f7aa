//! How a socket object begins, and how it ends.

use std::ffi::c_int;

use greenrust::hub::Hub;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::arguments::{Arguments, fetched, none};
use super::connection::{Accepted, Descriptor};
use super::wait::{call_plain, deregister};
use super::{PySys_Audit, Socket, audit, class, errno, os_error, outcome};

/// Makes the `gevent.socket.socket` of an accepted connection. The descriptor is non-blocking unless `_socket` made it.
pub(super) fn make<'py>(
    py: Python<'py>,
    [family, kind, protocol]: [c_int; 3],
    descriptor: Descriptor,
) -> PyResult<Bound<'py, PyAny>> {
    static PUBLIC: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let public = PUBLIC
        .get_or_try_init(py, || {
            py.import("gevent.socket")?.getattr("socket")?.cast_into::<PyType>().map(Bound::unbind).map_err(PyErr::from)
        })?
        .bind(py);
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
    Socket(object.as_ptr()).begin(descriptor, [family, kind, protocol], default_timeout(py)?);
    Ok(object)
}

/// Sets what `socket.socket.__init__` sets.
fn begin_life(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    object.setattr(intern!(py, "_io_refs"), 0)?;
    object.setattr(intern!(py, "_closed"), false)
}

/// What a new socket is to be, if it is asked for in the usual way: by up to three numbers.
struct Request {
    family: c_int,
    kind: c_int,
    protocol: c_int,
}

impl Request {
    /// Reads the arguments of `__init__`; None for those that `_socket` shall read.
    ///
    /// # Safety
    ///
    /// A tuple, and null or a dictionary.
    unsafe fn read(args: *mut ffi::PyObject, kwargs: *mut ffi::PyObject) -> Option<Self> {
        let mut values: [c_int; 3] = [-1; 3];
        // SAFETY: as the caller says; each index is within the tuple.
        unsafe {
            let count = usize::try_from(ffi::PyTuple_GET_SIZE(args)).ok().filter(|&count| count <= values.len())?;
            if !kwargs.is_null() && ffi::PyDict_Size(kwargs) != 0 {
                return None;
            }
            for (index, value) in values.iter_mut().enumerate().take(count) {
                let given = ffi::PyTuple_GET_ITEM(args, index as ffi::Py_ssize_t);
                if ffi::PyLong_Check(given) == 0 {
                    return None;
                }
                let mut has_overflowed = 0;
                let number = ffi::PyLong_AsLongLongAndOverflow(given, &mut has_overflowed);
                *value = c_int::try_from(number).ok().filter(|&number| has_overflowed == 0 && number >= -1)?;
            }
        }
        let or = |given: c_int, otherwise| if given == -1 { otherwise } else { given };
        let [family, kind, protocol] = values;
        let family = or(family, libc::AF_INET);
        matches!(family, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX).then(|| Self {
            family,
            kind: or(kind, libc::SOCK_STREAM),
            protocol: or(protocol, 0),
        })
    }

    /// Makes the descriptor non-blocking from the start, which `_socket` would need another system call for.
    fn open(&self, py: Python<'_>, socket: Socket) -> PyResult<()> {
        let Self { family, kind, protocol } = *self;
        audit(py, c"socket.__new__", c"Oiii", |event, format| {
            // SAFETY: an object and three numbers, as the format says.
            unsafe { PySys_Audit(event, format, socket.0, family, kind, protocol) }
        })?;
        // SAFETY: a system call on numbers.
        let made = unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
        let descriptor = Descriptor(outcome(made as isize).map_err(|number| os_error(py, number))? as c_int);
        let timeout = if kind & libc::SOCK_NONBLOCK == 0 { default_timeout(py)? } else { 0.0 };
        socket.begin(descriptor, [family, kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol], timeout);
        Ok(())
    }
}

/// Returns `socket.getdefaulttimeout()`, negative for none.
fn default_timeout(py: Python<'_>) -> PyResult<f64> {
    let default: Option<f64> = class().getdefaulttimeout.call0(py)?.extract(py)?;
    Ok(default.unwrap_or(-1.0))
}

impl Socket {
    /// Gives the object its descriptor, which is non-blocking.
    fn begin(self, descriptor: Descriptor, [family, kind, protocol]: [c_int; 3], timeout: f64) {
        self.extra().timeout.set(timeout);
        // SAFETY: a socket object of ours that nobody else uses; the layout is proved.
        unsafe {
            let plain = self.plain();
            (*plain).family = family;
            (*plain).kind = kind;
            (*plain).protocol = protocol;
            (*plain).timeout = 0;
            (*plain).descriptor = descriptor.take();
        }
    }
}

/// `__init__(family=-1, type=-1, proto=-1, fileno=None)`.
pub(super) unsafe extern "C" fn initialize(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: CPython calls slots with the GIL held.
    let py = unsafe { Python::assume_attached() };
    let socket = Socket(object);
    socket.deregister();
    // SAFETY: a tuple, and null or a dictionary.
    if let Some(request) = unsafe { Request::read(args, kwargs) } {
        // SAFETY: alive during the call.
        let begun =
            request.open(py, socket).and_then(|()| begin_life(&unsafe { Bound::from_borrowed_ptr(py, object) }));
        return begun.map_or_else(
            |error| {
                error.restore(py);
                -1
            },
            |()| 0,
        );
    }
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
pub(super) unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    Socket(object).deregister();
    // SAFETY: the slot of the class that ours is derived from.
    unsafe {
        if let Some(finalize) = (*class().plain).tp_finalize {
            finalize(object);
        }
    }
}

/// Prepares for the descriptor's end: nobody shall wait for a number that may soon be somebody else's.
fn release(socket: Socket) {
    let descriptor = socket.descriptor();
    if descriptor >= 0 {
        socket.deregister();
        Hub::current().close_level(descriptor);
    }
}

impl Socket {
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

/// A connection that was taken out of its socket object. It is closed, and waited for no more, unless an object takes it.
pub struct Parted {
    descriptor: Descriptor,
    /// Family, type and protocol.
    kind: [c_int; 3],
    timeout: f64,
    /// Where it is registered; as in `Extra`.
    hub: *const Hub,
}

impl Parted {
    /// The descriptor. It does not block.
    pub fn descriptor(&self) -> c_int {
        self.descriptor.0
    }

    /// Makes a `gevent.socket.socket` for it.
    pub fn into_object(mut self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let descriptor = std::mem::replace(&mut self.descriptor, Descriptor(-1));
        let hub = std::mem::replace(&mut self.hub, std::ptr::null());
        let object = make(py, self.kind, descriptor)?;
        let socket = Socket(object.as_ptr());
        socket.extra().timeout.set(self.timeout);
        socket.extra().hub.set(hub);
        Ok(object)
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        deregister(self.descriptor.0, self.hub, false);
    }
}

impl Socket {
    /// Takes the connection out of an object that nobody but the caller has, so that this may have another. None if it is
    /// registered in several hubs, or waits for it keep no loop alive.
    pub fn part(self) -> Option<Parted> {
        let extra = self.extra();
        if extra.is_shared.get() || extra.is_unreferenced.get() {
            return None;
        }
        // SAFETY: the object is alive and the layout is proved.
        let descriptor = unsafe { std::mem::replace(&mut (*self.plain()).descriptor, -1) };
        Some(Parted {
            descriptor: Descriptor(descriptor),
            kind: self.kind_of_connections(),
            timeout: extra.timeout.get(),
            hub: extra.hub.replace(std::ptr::null()),
        })
    }

    /// Makes an object without a descriptor that of the connection.
    pub fn rejoin(self, mut parted: Parted) {
        let descriptor = std::mem::replace(&mut parted.descriptor, Descriptor(-1));
        self.extra().hub.set(std::mem::replace(&mut parted.hub, std::ptr::null()));
        self.begin(descriptor, parted.kind, parted.timeout);
    }
}

pub(super) fn real_close(py: Python<'_>, socket: Socket, _arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    release(socket);
    let none = Arguments { values: std::ptr::null(), count: 0, names: std::ptr::null_mut() };
    call_plain(py, &class().close, socket, none)
}

pub(super) fn close(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("close", [], 0)?;
    // SAFETY: alive during the call.
    let object = unsafe { Bound::<PyAny>::from_borrowed_ptr(py, socket.0) };
    object.setattr(intern!(py, "_closed"), true)?;
    if object.getattr(intern!(py, "_io_refs"))?.extract::<isize>()? > 0 {
        return Ok(none());
    }
    if object.get_type().getattr(intern!(py, "_real_close"))?.is(&class().real_close) {
        return real_close(py, socket, arguments);
    }
    object.call_method0(intern!(py, "_real_close"))?;
    Ok(none())
}

pub(super) fn detach(py: Python<'_>, socket: Socket, arguments: Arguments) -> PyResult<*mut ffi::PyObject> {
    let [] = arguments.parse("detach", [], 0)?;
    release(socket);
    // SAFETY: alive during the call.
    unsafe { Bound::<PyAny>::from_borrowed_ptr(py, socket.0) }.setattr(intern!(py, "_closed"), true)?;
    call_plain(py, &class().detach, socket, arguments)
}
