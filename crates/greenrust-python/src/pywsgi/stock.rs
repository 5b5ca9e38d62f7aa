//! What `gevent.pywsgi` tells the native driver about its own classes, so that the driver knows what a program overrides.

#![forbid(unsafe_code)]

use std::ffi::c_int;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

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

struct Stock {
    methods: Vec<(Step, Py<PyAny>, Py<pyo3::types::PyString>)>,
    get_environ: Py<PyAny>,
    handle_connection: Py<PyAny>,
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
        methods.push((*step, handler.getattr(*name)?.unbind(), pyo3::types::PyString::intern(py, name).unbind()));
    }
    let socket = py.import("gevent.socket")?.getattr("socket")?.cast_into::<PyType>()?;
    let socket_methods = [socket.getattr("recv")?.unbind(), socket.getattr("sendall")?.unbind()];
    let stock = Stock {
        methods,
        get_environ: server.getattr("get_environ")?.unbind(),
        handle_connection: server.getattr("handle")?.unbind(),
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

/// Finds what `handler` has in place of our methods.
pub fn overrides(handler: &Bound<'_, PyAny>) -> PyResult<Overrides> {
    let py = handler.py();
    let class = handler.get_type();
    let own = handler.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    let mut found = 0;
    for (step, method, name) in &stock(py)?.methods {
        let name = name.bind(py);
        if !class.getattr(name)?.is(method) || (!own.is_empty() && own.contains(name)?) {
            found |= 1 << *step as u32;
        }
    }
    Ok(Overrides(found))
}

/// Whether `server.get_environ` is ours.
pub fn has_stock_get_environ(server: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = server.py();
    let name = intern!(py, "get_environ");
    let Ok(method) = server.get_type().getattr(name) else { return Ok(false) };
    if !method.is(&stock(py)?.get_environ) {
        return Ok(false);
    }
    match server.getattr(intern!(py, "__dict__")) {
        Ok(own) => Ok(!own.contains(name)?),
        Err(_) => Ok(true),
    }
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
    let py = handler.py();
    Ok(handler.get_type().getattr(intern!(py, "handle"))?.is(&stock(py)?.handle))
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
    let py = socket.py();
    let stock = stock(py)?;
    let class = socket.get_type();
    if !class.is_subclass(stock.socket.bind(py))? {
        return Ok(false);
    }
    let [recv, sendall] = &stock.socket_methods;
    if !class.getattr(intern!(py, "recv"))?.is(recv) || !class.getattr(intern!(py, "sendall"))?.is(sendall) {
        return Ok(false);
    }
    let kind: c_int = socket.getattr(intern!(py, "type"))?.extract()?;
    Ok(kind & 0xf == libc::SOCK_STREAM)
}
