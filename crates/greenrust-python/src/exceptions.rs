//! The exception types that native code raises: ours, and those that `gevent.exceptions` defines in Python.

#![forbid(unsafe_code)]

use pyo3::create_exception;
use pyo3::exceptions::{PyBaseException, PyException, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

create_exception!(gevent.lowlevel, GreenletError, PyException, "A greenlet was used where it can't be.");
create_exception!(gevent.lowlevel, GreenletExit, PyBaseException, "Ends a greenlet; not an error.");
create_exception!(gevent.websocket, WebSocketError, PyOSError, "A WebSocket cannot do what was asked of it.");

create_exception!(
    gevent,
    Cancelled,
    GreenletExit,
    "Ends a wait in a cancelled CancelScope, whose block's end catches it. Do not catch it for good: each further wait \
     raises it again."
);

/// Returns a class of `gevent.exceptions`.
fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || py.import("gevent.exceptions").map(Bound::unbind))?;
    module.bind(py).getattr(name)
}

fn make(py: Python<'_>, name: &str, message: String) -> PyErr {
    match class(py, name).and_then(|class| class.call1((message,))) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// `InvalidSwitchError`: a greenlet that waits for something else was switched to by hand.
pub fn invalid_switch(py: Python<'_>, value: &Py<PyAny>) -> PyErr {
    let value = value.bind(py).repr().map_or_else(|_| "a value".to_owned(), |text| text.to_string());
    make(py, "InvalidSwitchError", format!("Invalid switch: a parked greenlet was switched to by hand, with {value}"))
}

/// `BlockingSwitchOutError`: something that blocks was called in the hub.
pub fn blocking_switch_out(py: Python<'_>) -> PyErr {
    make(py, "BlockingSwitchOutError", "Impossible to call blocking function in the event loop callback".to_owned())
}

/// `BlockingSwitchOutError`: a greenlet waited in the hook that says that it is about to wait.
pub fn wait_in_switch_out(py: Python<'_>, greenlet: &Bound<'_, PyAny>) -> PyErr {
    let name = greenlet.repr().map_or_else(|_| "a greenlet".to_owned(), |text| text.to_string());
    make(py, "BlockingSwitchOutError", format!("switch_out() of {name} has waited, which it must not"))
}

/// `InvalidThreadUseError`: an object that belongs to another OS thread's hub was used.
pub fn invalid_thread_use(py: Python<'_>, message: &str) -> PyErr {
    make(py, "InvalidThreadUseError", message.to_owned())
}

/// `ConcurrentObjectUseError`: a second greenlet waits where only one can.
pub fn concurrent_object_use(py: Python<'_>, message: &str) -> PyErr {
    make(py, "ConcurrentObjectUseError", message.to_owned())
}

/// `LoopExit`: nothing can wake the waiter any more.
pub fn loop_exit(py: Python<'_>, message: String) -> PyErr {
    make(py, "LoopExit", message)
}

/// No memory for a stack.
pub fn no_stack(error: &greenrust::stack::StackError) -> PyErr {
    pyo3::exceptions::PyMemoryError::new_err(error.to_string())
}

/// An `OSError` with its `errno`.
pub fn os_error(error: &std::io::Error) -> PyErr {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(code) => {
            let text = text.split(" (os error ").next().unwrap_or_default().to_owned();
            pyo3::exceptions::PyOSError::new_err((code, text))
        }
        None => pyo3::exceptions::PyOSError::new_err(text),
    }
}

/// Something that cannot be is.
pub fn internal(message: &str) -> PyErr {
    PyRuntimeError::new_err(message.to_owned())
}

/// Says whether an exception is the one that ends a hub.
pub fn is_hub_destroyed(py: Python<'_>, error: &PyErr) -> bool {
    class(py, "HubDestroyed").is_ok_and(|class| error.value(py).is_instance(&class).unwrap_or(false))
}
