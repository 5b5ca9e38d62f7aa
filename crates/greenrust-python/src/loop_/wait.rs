//! Waiting: for a watcher, and for a descriptor without one.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};

use greenrust::hub::{WaitingFor, Wake, Waker};
use greenrust::sys::Interest;
use pyo3::exceptions::{PyOSError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};

use super::PyWatcher;
use super::io::checked_descriptor;
use crate::arguments::Integer;
use crate::exceptions;
use crate::gil::Gil;
use crate::greenlet::deadline;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;
use crate::timeout::Limit;

/// What `Hub.wait` gives to a watcher to call. `__self__` and `throw` are for those who end the wait with an error.
#[pyclass(name = "WatcherWait", module = "gevent._greenrust", frozen)]
struct WatcherWait {
    greenlet: Py<PyGreenlet>,
    waker: Gil<RefCell<Option<Waker>>>,
    is_called: Gil<Cell<bool>>,
}

#[pymethods]
impl WatcherWait {
    #[pyo3(signature = (*_args))]
    fn __call__(&self, _args: &Bound<'_, PyTuple>) {
        self.is_called.set(true);
        let waker = self.waker.borrow().clone();
        if let Some(waker) = waker {
            waker.unpark();
        }
    }

    /// Raises an error in the greenlet that waits, if it still does.
    #[pyo3(signature = (*error))]
    fn throw(&self, py: Python<'_>, error: &Bound<'_, PyTuple>) -> PyResult<()> {
        let is_waiting = self.waker.borrow().as_ref().is_some_and(Waker::is_waiting);
        if is_waiting {
            self.greenlet.bind(py).call_method1(pyo3::intern!(py, "throw"), error)?;
        }
        Ok(())
    }

    #[getter(__self__)]
    fn get_self<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }
}

/// Parks the running greenlet until the watcher calls.
pub fn wait_watcher(watcher: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = watcher.py();
    py_hub::ensure(py)?;
    let wait = Bound::new(
        py,
        WatcherWait { greenlet: host::current(py).unbind(), waker: Gil::default(), is_called: Gil::default() },
    )?;
    let native = watcher.cast::<PyWatcher>().ok();
    match native {
        Some(native) => PyWatcher::begin(native, wait.clone().into_any(), PyTuple::empty(py), false)?,
        None => watcher.call_method1(pyo3::intern!(py, "start"), (&wait,)).map(drop)?,
    }
    let result = park(watcher, &wait);
    match native {
        Some(native) => PyWatcher::stop(native),
        None => watcher.call_method0(pyo3::intern!(py, "stop")).map(drop)?,
    }
    result
}

fn park(watcher: &Bound<'_, PyAny>, wait: &Bound<'_, WatcherWait>) -> PyResult<()> {
    let py = watcher.py();
    let (hub, waker) = host::begin_park(py, WaitingFor::Object("a watcher", watcher.as_ptr() as usize))?;
    wait.get().waker.replace(Some(waker.clone()));
    if wait.get().is_called.get() {
        waker.unpark();
    }
    host::park(py, hub, &waker, None, true).map(drop)
}

/// Has the greenlet that waits for the watcher raise `error`, and closes the watcher if asked to.
pub fn cancel_wait(
    hub: &Bound<'_, PyAny>,
    watcher: &Bound<'_, PyAny>,
    error: &Bound<'_, PyAny>,
    close: bool,
) -> PyResult<()> {
    let py = watcher.py();
    if watcher.is_none() {
        return Ok(());
    }
    if watcher.getattr(pyo3::intern!(py, "callback"))?.is_none() {
        if close {
            watcher.call_method0(pyo3::intern!(py, "close"))?;
        }
        return Ok(());
    }
    let end = wrap_pyfunction!(end_wait, py)?;
    hub.getattr(pyo3::intern!(py, "loop"))?
        .call_method1(pyo3::intern!(py, "run_callback"), (end, watcher, error, close))
        .map(drop)
}

/// Throws `error` into whoever waits for the watcher. Runs in the hub.
#[pyfunction]
fn end_wait(watcher: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>, close: bool) -> PyResult<()> {
    let py = watcher.py();
    let is_active = watcher.getattr(pyo3::intern!(py, "active"))?.is_truthy()?;
    let callback = watcher.getattr(pyo3::intern!(py, "callback"))?;
    if close {
        watcher.call_method0(pyo3::intern!(py, "close"))?;
    }
    if is_active && let Some(waiter) = callback.getattr_opt(pyo3::intern!(py, "__self__"))? {
        waiter.call_method1(pyo3::intern!(py, "throw"), (error,))?;
    }
    Ok(())
}

/// Returns the error of a wait for a descriptor that was closed meanwhile.
pub fn closed_error() -> PyErr {
    PyOSError::new_err((libc::EBADF, "File descriptor was closed in another greenlet"))
}

/// What a wait raises when its time is over.
enum OnTimeout<'py> {
    /// `socket.timeout("timed out")`.
    Default,
    /// As `gevent.Timeout` takes it: None is the Timeout itself, False is nothing.
    Given(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for OnTimeout<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Given(object.to_owned()))
    }
}

fn wait_descriptor(
    py: Python<'_>,
    descriptor: i32,
    interest: Interest,
    timeout: Option<Limit<'_>>,
    on_timeout: OnTimeout<'_>,
) -> PyResult<()> {
    checked_descriptor(descriptor)?;
    let hub = py_hub::ensure(py)?;
    let wake = Limit::apply(timeout.as_ref(), |seconds| {
        let deadline = deadline(hub, seconds);
        // While it is parked nobody else needs to hold the greenlet: its own stack does.
        let _own = host::current(py);
        match hub.wait_level(descriptor, interest, deadline) {
            Err(_) => Err(exceptions::blocking_switch_out(py)),
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EPERM) => {
                // A regular file is always ready. The others get their turn all the same.
                let (hub, waker) = host::begin_park(py, WaitingFor::Turn)?;
                waker.unpark();
                host::park(py, hub, &waker, None, true)
            }
            Ok(Err(error)) => Err(exceptions::os_error(&error)),
            Ok(Ok(wake)) => host::settle(py, wake),
        }
    })?;
    match (wake, on_timeout) {
        (Wake::Closed, _) => Err(closed_error()),
        (Wake::TimedOut, OnTimeout::Default) => Err(PyTimeoutError::new_err("timed out")),
        (Wake::TimedOut, OnTimeout::Given(error)) => {
            if error.is_none() {
                Err(Limit::expired(py, timeout.as_ref()))
            } else if error.is(PyBool::new(py, false)) {
                Ok(())
            } else {
                Err(PyErr::from_value(error))
            }
        }
        _ => Ok(()),
    }
}

/// wait_read(fileno, timeout=None, timeout_exc=socket.timeout("timed out"))
///
/// Parks the running greenlet until the descriptor can be read, for at most *timeout* seconds (None: for ever).
///
/// Raises *timeout_exc* when the time is over (None: a `Timeout`; False: nothing, it returns); OSError (EBADF) for a
/// descriptor that is not open, or that is closed meanwhile; ValueError for a negative one.
#[pyfunction]
#[pyo3(signature = (fileno, timeout=None, timeout_exc=OnTimeout::Default))]
fn wait_read<'py>(
    py: Python<'py>,
    fileno: Integer<i32>,
    timeout: Option<Limit<'py>>,
    timeout_exc: OnTimeout<'py>,
) -> PyResult<()> {
    wait_descriptor(py, fileno.0, Interest { read: true, write: false }, timeout, timeout_exc)
}

/// wait_write(fileno, timeout=None, timeout_exc=socket.timeout("timed out"), event=None)
///
/// Parks the running greenlet until the descriptor can be written, for at most *timeout* seconds (None: for ever).
///
/// Raises *timeout_exc* when the time is over (None: a `Timeout`; False: nothing, it returns); OSError (EBADF) for a
/// descriptor that is not open, or that is closed meanwhile; ValueError for a negative one.
#[pyfunction]
#[pyo3(signature = (fileno, timeout=None, timeout_exc=OnTimeout::Default, event=None))]
fn wait_write<'py>(
    py: Python<'py>,
    fileno: Integer<i32>,
    timeout: Option<Limit<'py>>,
    timeout_exc: OnTimeout<'py>,
    event: Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let _ = event;
    wait_descriptor(py, fileno.0, Interest { read: false, write: true }, timeout, timeout_exc)
}

/// wait_readwrite(fileno, timeout=None, timeout_exc=socket.timeout("timed out"), event=None)
///
/// Parks the running greenlet until the descriptor can be read or written, for at most *timeout* seconds (None: for ever).
///
/// Raises *timeout_exc* when the time is over (None: a `Timeout`; False: nothing, it returns); OSError (EBADF) for a
/// descriptor that is not open, or that is closed meanwhile; ValueError for a negative one.
#[pyfunction]
#[pyo3(signature = (fileno, timeout=None, timeout_exc=OnTimeout::Default, event=None))]
fn wait_readwrite<'py>(
    py: Python<'py>,
    fileno: Integer<i32>,
    timeout: Option<Limit<'py>>,
    timeout_exc: OnTimeout<'py>,
    event: Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let _ = event;
    wait_descriptor(py, fileno.0, Interest { read: true, write: true }, timeout, timeout_exc)
}

/// Adds the functions to the native module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(wait_read, module)?)?;
    module.add_function(wrap_pyfunction!(wait_write, module)?)?;
    module.add_function(wrap_pyfunction!(wait_readwrite, module)?)
}
