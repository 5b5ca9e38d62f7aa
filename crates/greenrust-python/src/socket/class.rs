//! The list of methods and attributes, and the making of the class.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::{PyAttributeError, PyImportError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple, PyType};

use super::arguments::{Arguments, fetched, respond};
use super::connection::{accept, accept_ready, connect, connect_ex, shutdown};
use super::life::{close, detach, finalize, initialize, real_close};
use super::timeout::{get_timeout, getblocking, gettimeout, set_timeout, setblocking, settimeout};
use super::transfer::{
    recv, recv_into, recvfrom, recvfrom_into, recvmsg, recvmsg_into, send, sendall, sendmsg, sendto,
};
use super::wait::wait_socket;
use super::{CLASS, Class, Extra, Plain, Socket};
use crate::gil::Gil;

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
            c"recvmsg_into($self, buffers, *args)\n--\n\n\
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
            c"connect($self, address)\n--\n\n\
             Connect; a host name is looked up by the hub's resolver. Switches."
        ),
        method!(
            connect_ex,
            c"connect_ex",
            c"connect_ex($self, address)\n--\n\n\
             Connect, but return an error number, 0 when connected; a failed look-up is raised. Switches."
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
            c"shutdown($self, how)\n--\n\n\
             End reading, writing or both; greenlets that wait for that go on with OSError."
        ),
        method!(
            accept_ready,
            c"accept_ready",
            c"accept_ready($self, /)\n--\n\n\
             Accept as `accept` does, but return None when no connection waits. Does not switch."
        ),
        method!(
            close,
            c"close",
            c"close($self, /)\n--\n\n\
             Close the descriptor, when the files of `makefile` are closed too; greenlets that wait go on with OSError."
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
            c"settimeout($self, howlong)\n--\n\n\
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
            c"setblocking($self, flag)\n--\n\n\
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
        None => Err(PyAttributeError::new_err("ref can't be deleted")),
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
        real_close: ours.getattr("_real_close")?.unbind(),
    };
    if CLASS.set(Gil::new(class)).is_err() {
        return Err(PyImportError::new_err("gevent._greenrust can't be imported twice in a process"));
    }
    module.add("socket", ours)?;
    module.add_function(wrap_pyfunction!(wait_socket, module)?)?;
    Ok(())
}
