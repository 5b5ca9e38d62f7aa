//! What `gevent.pywsgi` tells the native driver about its own classes, so that the driver knows what a program overrides.
//!
//! What is found out about a class holds until the class is changed, or one that it is derived from: CPython then gives
//! it another version (`tp_version_tag`, Objects/typeobject.c).

use std::cell::RefCell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};

use crate::gil::Gil;
use crate::socket::Socket;

macro_rules! steps {
    ($($constant:ident = $name:literal,)*) => {
        /// The methods of a handler that a subclass may override, as bits.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        #[allow(clippy::upper_case_acronyms, reason = "named by the methods")]
        pub enum Step { $($constant,)* }

        const NAMES: &[(Step, &str)] = &[$((Step::$constant, $name),)*];
    };
}

steps! {
    HandleOneRequest = "handle_one_request",
    ReadRequestline = "read_requestline",
    ReadRequest = "read_request",
    MessageClass = "MessageClass",
    GetEnviron = "get_environ",
    HandleOneResponse = "handle_one_response",
    RunApplication = "run_application",
    ProcessResult = "process_result",
    StartResponse = "start_response",
    Write = "write",
    WriteWithHeaders = "_write_with_headers",
    WriteBody = "_write",
    SendAll = "_sendall",
    FinalizeHeaders = "finalize_headers",
    LogRequest = "log_request",
    FormatRequest = "format_request",
    ConnectionUpgradeRequested = "_connection_upgrade_requested",
}

/// The methods that a handler's class or the handler itself has in place of ours.
#[derive(Clone, Copy, Default)]
pub struct Overrides(u32);

impl Overrides {
    /// Whether the method is not ours.
    #[inline]
    pub fn has(self, step: Step) -> bool {
        self.0 & 1 << step as u32 != 0
    }

    /// Whether any of the methods is not ours.
    #[inline]
    pub fn has_any(self, steps: &[Step]) -> bool {
        steps.iter().any(|&step| self.has(step))
    }

    /// Whether no method is overridden.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The methods of a server that are run for each connection, or tell whether and how it is run.
const ACCEPTING: &[&str] = &["_do_read", "do_read", "do_handle", "do_close", "handle", "full"];

type Method = (Py<PyString>, Py<PyAny>);

struct Stock {
    handler: Py<PyType>,
    methods: Vec<(Step, Py<PyAny>, Py<PyString>)>,
    init: Py<PyAny>,
    get_environ: Py<PyAny>,
    handle_connection: Py<PyAny>,
    accepting: Vec<Method>,
    handle: Py<PyAny>,
    no_log: Py<PyType>,
    file_wrapper: Py<PyType>,
    invalid_client_request: Py<PyAny>,
    invalid_client_input: Py<PyAny>,
    socket: Py<PyType>,
    socket_methods: [Py<PyAny>; 2],
}

static STOCK: PyOnceLock<Stock> = PyOnceLock::new();

/// set_pywsgi_classes(handler, server, no_log, file_wrapper, invalid_client_request, invalid_client_input)
///
/// Tells which classes are those of `gevent.pywsgi` itself: its handler and server, the log that writes nothing, what
/// `wsgi.file_wrapper` makes, and the exceptions for what a client sent.
#[pyfunction]
pub fn set_pywsgi_classes(
    py: Python<'_>,
    handler: &Bound<'_, PyType>,
    server: &Bound<'_, PyType>,
    no_log: Py<PyType>,
    file_wrapper: Py<PyType>,
    invalid_client_request: Py<PyAny>,
    invalid_client_input: Py<PyAny>,
) -> PyResult<()> {
    let mut methods = Vec::new();
    for (step, name) in NAMES {
        methods.push((*step, handler.getattr(*name)?.unbind(), PyString::intern(py, name).unbind()));
    }
    let mut accepting = Vec::new();
    for name in ACCEPTING {
        accepting.push((PyString::intern(py, name).unbind(), server.getattr(*name)?.unbind()));
    }
    let socket = py.import("gevent.socket")?.getattr("socket")?.cast_into::<PyType>()?;
    let socket_methods = [socket.getattr("recv")?.unbind(), socket.getattr("sendall")?.unbind()];
    let stock = Stock {
        handler: handler.clone().unbind(),
        methods,
        init: handler.getattr("__init__")?.unbind(),
        get_environ: server.getattr("get_environ")?.unbind(),
        handle_connection: server.getattr("handle")?.unbind(),
        accepting,
        handle: handler.getattr("handle")?.unbind(),
        no_log,
        file_wrapper,
        invalid_client_request,
        invalid_client_input,
        socket: socket.unbind(),
        socket_methods,
    };
    let _ = STOCK.set(py, stock);
    Ok(())
}

fn stock(py: Python<'_>) -> PyResult<&Stock> {
    match STOCK.get(py) {
        Some(stock) => Ok(stock),
        None => {
            py.import("gevent.pywsgi")?;
            STOCK.get(py).ok_or_else(|| PyRuntimeError::new_err("gevent.pywsgi is being imported"))
        }
    }
}

// -- what is known of classes -----------------------------------------------------------------------------------------

/// An answer about classes, remembered for the last few.
struct Known<T>(RefCell<Vec<(*mut ffi::PyTypeObject, u32, T)>>);

/// How many classes are remembered.
const REMEMBERED: usize = 4;

impl<T: Copy> Known<T> {
    const fn new() -> Gil<Self> {
        Gil::new(Self(RefCell::new(Vec::new())))
    }

    #[inline]
    fn get(&self, class: &Bound<'_, PyType>, find: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        let pointer = class.as_type_ptr();
        let version = version(class);
        // No version is given twice, so one tells a class from another that has its address later. 0 is none.
        let known = self.0.borrow().iter().find(|known| known.0 == pointer && known.1 == version).map(|known| known.2);
        match known {
            Some(answer) if version != 0 => Ok(answer),
            _ => self.find(class, find),
        }
    }

    #[cold]
    fn find(&self, class: &Bound<'_, PyType>, find: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        // Looking for attributes gives the class a version.
        let answer = find()?;
        let mut known = self.0.borrow_mut();
        known.retain(|known| known.0 != class.as_type_ptr());
        known.truncate(REMEMBERED - 1);
        known.insert(0, (class.as_type_ptr(), version(class), answer));
        Ok(answer)
    }
}

#[inline]
fn version(class: &Bound<'_, PyType>) -> u32 {
    // SAFETY: a field of a live type; the GIL guards it.
    unsafe { (*class.as_type_ptr()).tp_version_tag }
}

/// The attributes of an object's own, beside those of its class; None if there are none.
#[inline]
pub fn own_attributes<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyDict>>> {
    // SAFETY: where the offset is positive, the object has a pointer to a dictionary there, or null.
    let own = unsafe {
        let offset = (*object.get_type_ptr()).tp_dictoffset;
        if offset == 0 {
            None
        } else if offset > 0 {
            let own = *object.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>();
            Bound::from_borrowed_ptr_or_opt(object.py(), own)
        } else {
            // Where it is, the interpreter alone knows.
            let own = ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut());
            Some(Bound::from_owned_ptr_or_err(object.py(), own)?)
        }
    };
    match own {
        Some(own) => Ok(Some(own.cast_into::<PyDict>()?).filter(|own| !own.is_empty())),
        None => Ok(None),
    }
}

/// The class of our handlers.
pub fn handler_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    Ok(stock(py)?.handler.bind(py))
}

/// Finds what `handler` has in place of our methods.
pub fn overrides(handler: &Bound<'_, PyAny>) -> PyResult<Overrides> {
    static KNOWN: Gil<Known<u32>> = Known::new();
    let py = handler.py();
    let class = handler.get_type();
    let stock = stock(py)?;
    let mut found = KNOWN.get(&class, || {
        let mut found = 0;
        for (step, method, name) in &stock.methods {
            if !class.getattr(name.bind(py))?.is(method) {
                found |= 1 << *step as u32;
            }
        }
        Ok(found)
    })?;
    if let Some(own) = own_attributes(handler)? {
        for (step, _, name) in &stock.methods {
            if own.contains(name.bind(py))? {
                found |= 1 << *step as u32;
            }
        }
    }
    Ok(Overrides(found))
}

/// Whether `class` is our handler's itself, and nobody has changed how its objects are made and begin.
pub fn is_stock_handler_class(class: &Bound<'_, PyAny>) -> PyResult<bool> {
    static KNOWN: Gil<Known<bool>> = Known::new();
    let py = class.py();
    let stock = stock(py)?;
    if !class.is(&stock.handler) {
        return Ok(false);
    }
    let class = stock.handler.bind(py);
    KNOWN.get(class, || {
        Ok(class.getattr(intern!(py, "__init__"))?.is(&stock.init)
            && class.getattr(intern!(py, "handle"))?.is(&stock.handle))
    })
}

/// Whether the server accepts connections as ours does, and begins to serve them so.
pub fn accepts(server: &Bound<'_, PyAny>) -> PyResult<bool> {
    static KNOWN: Gil<Known<bool>> = Known::new();
    let py = server.py();
    let class = server.get_type();
    let accepting = &stock(py)?.accepting;
    let is_stock = KNOWN.get(&class, || {
        for (name, method) in accepting {
            if !class.getattr(name.bind(py))?.is(method) {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    if !is_stock || !is_stock_handle(&server.getattr(intern!(py, "_handle"))?)? {
        return Ok(false);
    }
    let own = server.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    for (name, _) in accepting {
        if own.contains(name.bind(py))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `server.get_environ()` copies a dictionary: the method is ours, and so is the class of environments.
pub fn copies_environ(server: &Bound<'_, PyAny>) -> PyResult<bool> {
    static KNOWN: Gil<Known<(bool, bool)>> = Known::new();
    let py = server.py();
    let (get_environ, environ_class) = (intern!(py, "get_environ"), intern!(py, "environ_class"));
    let dict = py.get_type::<PyDict>();
    let class = server.get_type();
    let (is_stock, is_dict) = KNOWN.get(&class, || {
        let stock = &stock(py)?.get_environ;
        let is_stock = class.getattr_opt(get_environ)?.is_some_and(|method| method.is(stock));
        Ok((is_stock, class.getattr_opt(environ_class)?.is_some_and(|class| class.is(&dict))))
    })?;
    let Some(own) = own_attributes(server)?.filter(|_| is_stock) else { return Ok(is_stock && is_dict) };
    let is_dict = own.get_item(environ_class)?.map_or(is_dict, |class| class.is(&dict));
    Ok(is_dict && !own.contains(get_environ)?)
}

/// Whether `handle`, which a server calls for each connection, is the method of our server's class.
pub fn is_stock_handle(handle: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = handle.py();
    match handle.getattr_opt(intern!(py, "__func__"))? {
        Some(function) => Ok(function.is(&stock(py)?.handle_connection)),
        None => Ok(false),
    }
}

/// Whether `handler.handle` is ours.
pub fn has_stock_handle(handler: &Bound<'_, PyAny>) -> PyResult<bool> {
    static KNOWN: Gil<Known<bool>> = Known::new();
    let py = handler.py();
    let class = handler.get_type();
    KNOWN.get(&class, || Ok(class.getattr(intern!(py, "handle"))?.is(&stock(py)?.handle)))
}

/// Whether `log` is the one that writes nothing.
#[inline]
pub fn is_no_log(log: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(log.get_type().is(&stock(log.py())?.no_log))
}

/// Whether `result` is of `wsgi.file_wrapper`'s own class.
#[inline]
pub fn is_file_wrapper(result: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(result.get_type().is(stock(result.py())?.file_wrapper.bind(result.py())))
}

/// `_InvalidClientRequest`, whose response has the given status code.
pub fn invalid_client_request(py: Python<'_>, message: &str, status: u16) -> PyResult<PyErr> {
    let error = stock(py)?.invalid_client_request.bind(py).call1((message,))?;
    error.setattr(intern!(py, "status_code"), status)?;
    Ok(PyErr::from_value(error))
}

/// `_InvalidClientInput`: the body is malformed, or too large; `status` is that of the answer.
pub fn invalid_client_input(py: Python<'_>, message: &str, status: u16) -> PyErr {
    let made = stock(py).and_then(|stock| {
        let error = stock.invalid_client_input.bind(py).call1((message,))?;
        error.setattr(intern!(py, "status_code"), status)?;
        Ok(error)
    });
    match made {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// Whether the error is an `_InvalidClientInput`.
pub fn is_invalid_client_input(py: Python<'_>, error: &PyErr) -> bool {
    stock(py).is_ok_and(|stock| error.is_instance(py, stock.invalid_client_input.bind(py)))
}

/// Whether system calls on the socket's descriptor do what its `recv` and `sendall` do: it is a socket of ours, and its
/// class has no such methods of its own, as TLS sockets have.
pub fn is_plain_socket(socket: &Bound<'_, PyAny>) -> PyResult<bool> {
    static KNOWN: Gil<Known<bool>> = Known::new();
    let py = socket.py();
    let class = socket.get_type();
    let is_plain = KNOWN.get(&class, || {
        let stock = stock(py)?;
        let [recv, sendall] = &stock.socket_methods;
        Ok(class.is_subclass(stock.socket.bind(py))?
            && class.getattr(intern!(py, "recv"))?.is(recv)
            && class.getattr(intern!(py, "sendall"))?.is(sendall))
    })?;
    Ok(is_plain && Socket::from_object(socket).is_some_and(|socket| socket.is_stream()))
}
