//! `gevent.Timeout`: an exception that is thrown into a greenlet when its time is over.

use std::cell::{Cell, RefCell};

use greenrust::hub::{Hub, RawGreenlet, Scope, TimerAction};
use greenrust::timers::TimerKey;
use pyo3::exceptions::PyAssertionError;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyString, PyTuple, PyType};

use crate::arguments::{Real, Truth};
use crate::gil::Gil;
use crate::host::{self, Payload, Thrown};
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;

struct Fields {
    seconds: RefCell<Option<Py<PyAny>>>,
    exception: RefCell<Option<Py<PyAny>>>,
    keep_alive: Cell<bool>,
    /// The pending timer, and a greenlet of its hub: that keeps the hub allocated if its thread ends before the timer.
    timer: RefCell<Option<(TimerKey, RawGreenlet)>>,
    /// The greenlet for which the exception lies behind a shield, or lay there.
    held_for: RefCell<Option<RawGreenlet>>,
    is_closed: Cell<bool>,
}

/// Timeout(seconds=None, exception=None, ref=True, priority=-1)
///
/// Raises itself, or *exception*, in the greenlet that started it, after *seconds* (a float; None: never). As a context
/// manager it is started on entry and closed on exit; with *exception* False the block is left silently.
#[pyclass(name = "Timeout", module = "gevent.timeout", extends = PyBaseException, subclass, frozen, weakref)]
pub struct PyTimeout {
    fields: Gil<Fields>,
}

impl PyTimeout {
    /// Makes the exception for a wait that took `seconds` too long.
    pub fn new_err(py: Python<'_>, seconds: Option<&Bound<'_, PyAny>>) -> PyErr {
        match PyType::new::<PyTimeout>(py).call1((seconds,)) {
            Ok(instance) => PyErr::from_value(instance),
            Err(error) => error,
        }
    }

    fn stop(&self) {
        let held_for = self.fields.held_for.take();
        if let Some(greenlet) = held_for {
            let own = std::ptr::from_ref(self) as usize;
            let retracted =
                greenlet.retract_interrupt(|held| held.downcast_ref::<Thrown>().is_some_and(|held| held.by == own));
            drop(retracted);
        }
        let pending = self.fields.timer.take();
        if let Some((key, greenlet)) = pending {
            // SAFETY: the greenlet keeps its hub allocated; one whose thread has ended has no timers left.
            unsafe { (*greenlet.hub()).remove_timer(key) };
        }
    }

    fn stop_for_good(&self) {
        self.stop();
        self.fields.is_closed.set(true);
    }

    fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.fields.timer.borrow().is_some() {
            return Err(PyAssertionError::new_err(format!(
                "{} is already started; to restart it, cancel it first",
                slf.repr()?
            )));
        }
        let seconds: Option<f64> = match &*this.fields.seconds.borrow() {
            None => None,
            Some(seconds) => Some(seconds.bind(py).extract()?),
        };
        let Some(seconds) = seconds else { return Ok(()) };
        if this.fields.is_closed.get() {
            return Err(PyAssertionError::new_err(format!(
                "{} is closed and cannot be started again; make a new one, or cancel it instead",
                slf.repr()?
            )));
        }
        let hub = py_hub::ensure(py)?;
        let deadline = hub.clock().now().after(py_hub::duration(seconds));
        let timeout = slf.clone().unbind();
        let greenlet = host::current(py).unbind();
        // A shield holds it back, unless the timeout itself is behind that shield.
        let origin = hub.running().scope();
        let action = TimerAction::Call(Box::new(move |_: &Hub| {
            // SAFETY: hubs run with the GIL held.
            let py = unsafe { Python::assume_attached() };
            drop(timeout.get().fields.timer.take());
            if let Err(error) = expire(timeout.bind(py), greenlet.bind(py), origin.as_ref()) {
                py_hub::handle_error(py, Some(timeout.bind(py)), error);
            }
        }));
        let key = hub.add_timer(deadline, action, this.fields.keep_alive.get());
        this.fields.timer.replace(Some((key, hub.root().clone())));
        Ok(())
    }
}

/// How long a call may wait, by its argument `timeout`: seconds, or a `Timeout` object, which then runs meanwhile.
pub enum Limit<'py> {
    /// The number, and the object that it came as.
    Seconds(f64, Bound<'py, PyAny>),
    /// Raises what it raises.
    Object(Bound<'py, PyTimeout>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Limit<'py> {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(seconds) = object.cast_exact::<PyFloat>() {
            return Ok(Self::Seconds(seconds.value(), object.to_owned()));
        }
        if let Ok(timeout) = object.cast::<PyTimeout>() {
            return Ok(Self::Object(timeout.to_owned()));
        }
        Ok(Self::Seconds(object.extract::<Real>()?.0, object.to_owned()))
    }
}

impl<'py> Limit<'py> {
    /// Runs `wait` with the seconds that the limit, if there is one, allows.
    #[inline]
    pub fn apply<R>(limit: Option<&Self>, wait: impl FnOnce(Option<f64>) -> PyResult<R>) -> PyResult<R> {
        match limit {
            None => wait(None),
            Some(Self::Seconds(seconds, _)) => wait(Some(*seconds)),
            Some(Self::Object(timeout)) => {
                if !timeout.get().pending() {
                    timeout.call_method0(pyo3::intern!(timeout.py(), "start"))?;
                }
                let result = wait(None);
                timeout.call_method0(pyo3::intern!(timeout.py(), "close"))?;
                result
            }
        }
    }

    /// As [`Self::apply`], for calls that return `expired` when the time is over.
    #[inline]
    pub fn apply_quietly<R>(
        limit: Option<&Self>,
        expired: R,
        wait: impl FnOnce(Option<f64>) -> PyResult<R>,
    ) -> PyResult<R> {
        match (Self::apply(limit, wait), limit) {
            (Err(error), Some(Self::Object(timeout))) if error.value(timeout.py()).is(timeout) => Ok(expired),
            (result, _) => result,
        }
    }

    /// Makes the exception for a wait that has reached the limit; None stands for a wait that was not allowed.
    pub fn expired(py: Python<'py>, limit: Option<&Self>) -> PyErr {
        match limit {
            Some(Self::Object(timeout)) => PyErr::from_value(timeout.clone().into_any()),
            Some(Self::Seconds(_, seconds)) => PyTimeout::new_err(py, Some(seconds)),
            None => PyTimeout::new_err(py, None),
        }
    }
}

/// Throws what the timeout is to throw. Runs in the hub.
fn expire(timeout: &Bound<'_, PyTimeout>, greenlet: &Bound<'_, PyGreenlet>, origin: Option<&Scope>) -> PyResult<()> {
    let py = timeout.py();
    let exception = timeout.get().fields.exception.borrow().as_ref().map(|exception| exception.clone_ref(py));
    let exception = match exception {
        Some(exception)
            if !exception.bind(py).is_instance_of::<PyBool>() && !exception.bind(py).is_instance_of::<PyString>() =>
        {
            exception.into_bound(py)
        }
        _ => timeout.clone().into_any(),
    };
    if greenlet.get().raw().shield_against(origin).is_some() {
        let error = crate::lowlevel::thrown(py, Some(&exception), None, None).unwrap_or_else(|error| error);
        timeout.get().fields.held_for.replace(Some(greenlet.get().raw().clone()));
        greenlet
            .get()
            .raw()
            .interrupt_from(origin, Box::new(Thrown { error, by: std::ptr::from_ref(timeout.get()) as usize }));
        return Ok(());
    }
    if timeout.get_type().is(PyType::new::<PyTimeout>(py)) {
        throw_into(greenlet, &exception)
    } else {
        timeout.call_method1(pyo3::intern!(py, "_on_expiration"), (greenlet, exception)).map(drop)
    }
}

fn throw_into(greenlet: &Bound<'_, PyGreenlet>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
    // What cannot be raised is the fault of the greenlet that waits for it: it gets the TypeError that says so.
    let error = crate::lowlevel::thrown(greenlet.py(), Some(exception), None, None).unwrap_or_else(|error| error);
    PyGreenlet::enter(greenlet, Payload::Throw(Box::new(error))).map(drop)
}

#[pymethods]
impl PyTimeout {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(py: Python<'_>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        // Subclasses may pass arguments of their own; they call __init__ with ours.
        let argument = |index: usize, name: &str| -> Option<Py<PyAny>> {
            let given = if index < args.len() { args.get_item(index).ok() } else { None };
            given
                .or_else(|| kwargs.and_then(|kwargs| kwargs.get_item(name).ok().flatten()))
                .filter(|value| !value.is_none())
                .map(Bound::unbind)
        };
        let keep_alive = match argument(2, "ref") {
            Some(value) => value.bind(py).is_truthy()?,
            None => true,
        };
        Ok(Self {
            fields: Gil::new(Fields {
                seconds: RefCell::new(argument(0, "seconds")),
                exception: RefCell::new(argument(1, "exception")),
                keep_alive: Cell::new(keep_alive),
                timer: RefCell::new(None),
                held_for: RefCell::new(None),
                is_closed: Cell::new(false),
            }),
        })
    }

    #[pyo3(signature = (seconds=None, exception=None, r#ref=Truth(true), priority=-1))]
    fn __init__(
        &self,
        seconds: Option<Bound<'_, PyAny>>,
        exception: Option<Py<PyAny>>,
        r#ref: Truth,
        priority: i32,
    ) -> PyResult<()> {
        let _ = priority;
        if let Some(seconds) = &seconds
            && seconds.is_truthy()?
        {
            seconds.extract::<Real>()?;
        }
        let old = (self.fields.seconds.replace(seconds.map(Bound::unbind)), self.fields.exception.replace(exception));
        drop(old);
        self.fields.keep_alive.set(r#ref.0);
        self.fields.is_closed.set(false);
        Ok(())
    }

    /// The time in seconds, or None.
    #[getter]
    fn seconds(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.seconds.borrow().as_ref().map(|seconds| seconds.clone_ref(py))
    }

    #[setter]
    fn set_seconds(&self, seconds: Option<Py<PyAny>>) {
        let old = self.fields.seconds.replace(seconds);
        drop(old);
    }

    /// What is raised instead of the timeout itself, or None, or False.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.exception.borrow().as_ref().map(|exception| exception.clone_ref(py))
    }

    #[setter]
    fn set_exception(&self, exception: Option<Py<PyAny>>) {
        let old = self.fields.exception.replace(exception);
        drop(old);
    }

    /// Whether the time runs.
    #[getter]
    fn pending(&self) -> bool {
        self.fields.timer.borrow().is_some()
    }

    /// Starts the time. Raises AssertionError if it runs already, or was closed.
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::begin(slf)
    }

    /// Stops the time; it can be started again.
    fn cancel(&self) {
        self.stop();
    }

    /// Stops the time for good; leaving a block does the same.
    fn close(&self) {
        self.stop_for_good();
    }

    /// start_new(timeout=None, exception=None, ref=True) -> a started Timeout; a Timeout given is started if it was not
    #[classmethod]
    #[pyo3(signature = (timeout=None, exception=None, r#ref=true, _one_shot=false))]
    fn start_new<'py>(
        cls: &Bound<'py, PyType>,
        timeout: Option<Bound<'py, PyAny>>,
        exception: Option<Bound<'py, PyAny>>,
        r#ref: bool,
        _one_shot: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = cls.py();
        if let Some(timeout) = &timeout
            && let Ok(existing) = timeout.cast::<PyTimeout>()
        {
            if !existing.get().pending() {
                existing.call_method0(pyo3::intern!(py, "start"))?;
            }
            return Ok(timeout.clone());
        }
        let kwargs = PyDict::new(py);
        kwargs.set_item("ref", r#ref)?;
        let made = cls.call((timeout, exception), Some(&kwargs))?;
        made.call_method0(pyo3::intern!(py, "start"))?;
        Ok(made)
    }

    #[staticmethod]
    #[pyo3(signature = (timeout=None, exception=None, r#ref=true))]
    fn _start_new_or_dummy<'py>(
        py: Python<'py>,
        timeout: Option<Bound<'py, PyAny>>,
        exception: Option<Bound<'py, PyAny>>,
        r#ref: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::start_new(&PyType::new::<PyTimeout>(py), timeout, exception, r#ref, false)
    }

    /// Called in the hub when the time is over, by subclasses that override it.
    fn _on_expiration(&self, prev_greenlet: &Bound<'_, PyGreenlet>, ex: &Bound<'_, PyAny>) -> PyResult<()> {
        throw_into(prev_greenlet, ex)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        if !slf.get().pending() {
            if slf.get_type().is(PyType::new::<PyTimeout>(slf.py())) {
                Self::begin(slf)?;
            } else {
                slf.call_method0(pyo3::intern!(slf.py(), "start"))?;
            }
        }
        Ok(slf.clone())
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        typ: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        tb: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let _ = (typ, tb);
        if slf.get_type().is(PyType::new::<PyTimeout>(slf.py())) {
            slf.get().stop_for_good();
        } else {
            slf.call_method0(pyo3::intern!(slf.py(), "close"))?;
        }
        let is_silent = slf
            .get()
            .fields
            .exception
            .borrow()
            .as_ref()
            .is_some_and(|exception| exception.bind(slf.py()).is(PyBool::new(slf.py(), false)));
        Ok(value.is(slf) && is_silent)
    }

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let Some(seconds) = slf.get().seconds(py) else { return Ok(String::new()) };
        let plural = if seconds.bind(py).eq(1)? { "" } else { "s" };
        let text = format!("{} second{plural}", seconds.bind(py).str()?);
        Ok(match slf.get().exception(py) {
            None => text,
            Some(exception) if exception.bind(py).is(PyBool::new(py, false)) => format!("{text} (silent)"),
            Some(exception) => format!("{text}: {}", exception.bind(py).str()?),
        })
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let pending = if slf.get().pending() { " pending" } else { "" };
        let show = |value: Option<Py<PyAny>>| -> PyResult<String> {
            value.map_or(Ok("None".to_owned()), |value| Ok(value.bind(py).str()?.to_string()))
        };
        let exception = match slf.get().exception(py) {
            None => String::new(),
            Some(exception) => format!(" exception={}", exception.bind(py).repr()?),
        };
        Ok(format!(
            "<{} at {:#x} seconds={}{exception}{pending}>",
            slf.get_type().name()?,
            slf.as_ptr() as usize,
            show(slf.get().seconds(py))?
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(seconds) = self.fields.seconds.try_borrow() {
            visit.call(&*seconds)?;
        }
        if let Ok(exception) = self.fields.exception.try_borrow() {
            visit.call(&*exception)?;
        }
        Ok(())
    }
}
