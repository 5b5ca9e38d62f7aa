//! `gevent.event`: `Event` and `AsyncResult`.

#![forbid(unsafe_code)]

use std::cell::RefCell;

use greenrust::event::Event;
use greenrust::hub::WaitingFor;
use greenrust::wait_queue::WaitQueue;
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::arguments::Truth;
use crate::gil::Gil;
use crate::greenlet::deadline;
use crate::host;
use crate::hub as py_hub;
use crate::links::Links;
use crate::nesting;
use crate::timeout::Limit;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEvent>()?;
    module.add_class::<PyAsyncResult>()
}

/// Refuses arguments of a class itself; its subclasses may have an `__init__` that takes some.
fn refuse_arguments(
    cls: &Bound<'_, PyType>,
    is_own: bool,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    if is_own && !(args.is_empty() && kwargs.is_none_or(|kwargs| kwargs.is_empty())) {
        return Err(PyTypeError::new_err(format!("{}() takes no arguments", cls.name()?)));
    }
    Ok(())
}

/// Event()
///
/// A flag that greenlets wait for. `set` wakes all who wait, in the order in which they came, also if the flag is
/// cleared again before their turn.
#[pyclass(name = "Event", module = "gevent.event", frozen, subclass, weakref)]
pub struct PyEvent {
    event: Gil<Event>,
    links: Gil<Links>,
}

impl PyEvent {
    fn tell(slf: &Bound<'_, Self>) {
        if !slf.get().links.is_empty() {
            // Who was linked when the event was set is told, though it may be cleared by now.
            Links::schedule(slf, |this| &this.links, |this| this.event.is_set(), true);
        }
    }
}

#[pymethods]
impl PyEvent {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(cls: &Bound<'_, PyType>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        refuse_arguments(cls, cls.is(PyType::new::<PyEvent>(cls.py())), args, kwargs)?;
        Ok(Self { event: Gil::default(), links: Gil::default() })
    }

    /// The hub in which links are called; None if nothing was linked. Any thread may use it.
    #[getter]
    fn hub(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.links.home(py)
    }

    /// is_set() -> whether the flag is set
    #[inline]
    fn is_set(&self) -> bool {
        self.event.is_set()
    }

    /// is_set, under `threading.Event`'s old name
    #[pyo3(name = "isSet")]
    fn is_set_old(&self) -> bool {
        self.event.is_set()
    }

    /// ready() -> whether the flag is set
    fn ready(&self) -> bool {
        self.event.is_set()
    }

    /// set(): sets the flag and wakes all who wait, each at its turn. Does not switch.
    fn set(slf: &Bound<'_, Self>) {
        slf.get().event.set();
        Self::tell(slf);
    }

    /// clear(): takes the flag down; who waits from now on waits for the next `set`.
    fn clear(&self) {
        self.event.clear();
    }

    /// wait(timeout=None) -> True; False if *timeout* (seconds, a float) passed first
    ///
    /// Waits until the flag is set. Switches only if it is not, or if others were woken by it and have not run yet.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Limit<'_>>) -> PyResult<bool> {
        if self.event.is_free() {
            return Ok(true);
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply_quietly(timeout.as_ref(), false, |seconds| {
            let end = deadline(hub, seconds);
            Ok(host::block(py, || self.event.wait_core(end))?.is_some())
        })
    }

    /// rawlink(callback): has `callback(event)` called once in the hub when the flag is set.
    fn rawlink(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().links.add(callback)?;
        if slf.get().event.is_set() {
            Self::tell(slf);
        }
        Ok(())
    }

    /// unlink(callback): takes a `rawlink` back.
    fn unlink(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.links.remove(callback)
    }

    /// linkcount() -> how many greenlets wait and callbacks are linked
    fn linkcount(&self) -> usize {
        self.event.waiting() + self.links.len()
    }

    fn _reset_internal_locks(&self) {}

    fn _at_fork_reinit(&self) {}

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let state = if slf.get().event.is_set() { "set" } else { "clear" };
        let class = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{class} at {:#x} {state} _links[{}]>", slf.as_ptr() as usize, slf.get().linkcount()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.links.if_made().is_none() {
            return Ok(());
        }
        self.links.traverse(&visit)
    }

    fn __clear__(&self) {
        self.links.clear();
    }
}

struct Failure {
    kind: Py<PyAny>,
    value: Py<PyAny>,
    traceback: Option<Py<PyAny>>,
}

#[derive(Default)]
struct Fields {
    value: RefCell<Option<Py<PyAny>>>,
    failure: RefCell<Option<Failure>>,
    waiters: WaitQueue,
    links: Links,
}

impl Drop for Fields {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            nesting::free(value);
        }
    }
}

/// AsyncResult()
///
/// A value, or an exception, that comes later. Greenlets wait for it in `get` and `wait`. It is a link target:
/// `greenlet.link(result)` passes the greenlet's outcome on.
#[pyclass(name = "AsyncResult", module = "gevent.event", frozen, subclass, weakref)]
pub struct PyAsyncResult {
    fields: Gil<Fields>,
}

impl PyAsyncResult {
    #[inline]
    fn is_ready(&self) -> bool {
        self.fields.value.borrow().is_some() || self.fields.failure.borrow().is_some()
    }

    fn tell(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        fields.waiters.wake_all();
        if !fields.links.is_empty() {
            Links::schedule(slf, |this| &this.fields.links, |this| this.is_ready(), true);
        }
    }

    /// Stores a value and wakes who waits for it. Does not switch.
    pub fn store(slf: &Bound<'_, Self>, value: Py<PyAny>) {
        let old = slf.get().fields.value.replace(Some(value));
        Self::tell(slf);
        drop(old);
    }

    /// Returns the outcome if there is one.
    fn outcome(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        if let Some(value) = &*self.fields.value.borrow() {
            return Some(Ok(value.clone_ref(py)));
        }
        let (value, traceback) = {
            let failure = self.fields.failure.borrow();
            let failure = failure.as_ref()?;
            (failure.value.clone_ref(py), failure.traceback.as_ref().map(|traceback| traceback.clone_ref(py)))
        };
        let value = value.into_bound(py);
        if value.is_instance_of::<PyBaseException>()
            && let Err(error) = value.setattr(pyo3::intern!(py, "__traceback__"), traceback)
        {
            return Some(Err(error));
        }
        Some(Err(PyErr::from_value(value)))
    }

    /// Parks until there is an outcome. Returns false if the time was over first.
    fn park(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let hub = py_hub::ensure(py)?;
        let end = deadline(hub, timeout);
        let reason = WaitingFor::Object("AsyncResult", std::ptr::from_ref(self) as usize);
        let woken = host::block(py, || self.fields.waiters.wait(reason, end).map_err(|abandoned| abandoned.error))?;
        Ok(woken.is_some())
    }
}

#[pymethods]
impl PyAsyncResult {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(cls: &Bound<'_, PyType>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        refuse_arguments(cls, cls.is(PyType::new::<PyAsyncResult>(cls.py())), args, kwargs)?;
        Ok(Self { fields: Gil::default() })
    }

    /// The value, or None if there is none yet.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.value.borrow().as_ref().map(|value| value.clone_ref(py))
    }

    /// The hub in which links are called; None if nothing was linked. Any thread may use it.
    #[getter]
    fn hub(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.links.home(py)
    }

    /// The exception, or None.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.failure.borrow().as_ref().map(|failure| failure.value.clone_ref(py))
    }

    /// (type, value, traceback) of the exception; an empty tuple if there is none.
    #[getter]
    fn exc_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        match &*self.fields.failure.borrow() {
            Some(failure) => {
                let traceback = failure.traceback.as_ref().map_or_else(|| py.None(), |it| it.clone_ref(py));
                PyTuple::new(py, [failure.kind.clone_ref(py), failure.value.clone_ref(py), traceback])
            }
            None => Ok(PyTuple::empty(py)),
        }
    }

    /// ready() -> whether there is a value or an exception
    fn ready(&self) -> bool {
        self.is_ready()
    }

    /// successful() -> whether there is a value
    fn successful(&self) -> bool {
        self.fields.value.borrow().is_some()
    }

    /// set(value=None): stores the value and wakes all who wait, each at its turn. Does not switch.
    #[pyo3(signature = (value=None))]
    fn set(slf: &Bound<'_, Self>, value: Option<Py<PyAny>>) {
        Self::store(slf, value.unwrap_or_else(|| slf.py().None()));
    }

    /// set_result(value=None): as `set`, under the name of `concurrent.futures.Future`
    #[pyo3(signature = (value=None))]
    fn set_result(slf: &Bound<'_, Self>, value: Option<Py<PyAny>>) {
        Self::set(slf, value);
    }

    /// set_exception(exception, exc_info=None): stores an exception and wakes all who wait. Does not switch.
    ///
    /// *exc_info*: a (type, value, traceback) triple, whose traceback is shown when the exception is raised.
    #[pyo3(signature = (exception, exc_info=None))]
    fn set_exception(
        slf: &Bound<'_, Self>,
        exception: Bound<'_, PyAny>,
        exc_info: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let failure = match exc_info {
            Some(triple) if triple.is_truthy()? => {
                let traceback = triple.get_item(2)?;
                Failure {
                    kind: triple.get_item(0)?.unbind(),
                    value: triple.get_item(1)?.unbind(),
                    traceback: (!traceback.is_none()).then(|| traceback.unbind()),
                }
            }
            _ => Failure { kind: exception.get_type().into_any().unbind(), value: exception.unbind(), traceback: None },
        };
        let old = slf.get().fields.failure.replace(Some(failure));
        Self::tell(slf);
        drop(old);
        Ok(())
    }

    fn _raise_exception(&self, py: Python<'_>) -> PyResult<()> {
        match self.outcome(py) {
            Some(outcome) => outcome.map(drop),
            None => Ok(()),
        }
    }

    /// get(block=True, timeout=None) -> the value
    ///
    /// Waits for it, at most *timeout* seconds (a float); raises the exception if there is one. Raises Timeout when the
    /// time is over, or at once if *block* is false. Switches only if there is no outcome yet.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn get(&self, py: Python<'_>, block: Truth, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        loop {
            if let Some(outcome) = self.outcome(py) {
                return outcome;
            }
            if !block.0 {
                return Err(Limit::expired(py, None));
            }
            if !Limit::apply(timeout.as_ref(), |seconds| self.park(py, seconds))? {
                return Err(Limit::expired(py, timeout.as_ref()));
            }
        }
    }

    /// get_nowait() -> the value; raises Timeout if there is no outcome yet
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get(py, Truth(false), None)
    }

    /// result(timeout=None) -> as `get`, under the name of `concurrent.futures.Future`
    #[pyo3(signature = (timeout=None))]
    fn result(&self, py: Python<'_>, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        self.get(py, Truth(true), timeout)
    }

    /// wait(timeout=None) -> the value; None for an exception, or when *timeout* (seconds, a float) passed first
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Limit<'_>>) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_ready() {
            Limit::apply_quietly(timeout.as_ref(), false, |seconds| self.park(py, seconds))?;
        }
        Ok(self.value(py))
    }

    /// rawlink(callback): has `callback(result)` called once in the hub when there is an outcome.
    fn rawlink(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().fields.links.add(callback)?;
        if slf.get().is_ready() {
            Self::tell(slf);
        }
        Ok(())
    }

    /// unlink(callback): takes a `rawlink` back.
    fn unlink(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.fields.links.remove(callback)
    }

    /// linkcount() -> how many greenlets wait and callbacks are linked
    fn linkcount(&self) -> usize {
        self.fields.waiters.len() + self.fields.links.len()
    }

    /// Takes the outcome of *source*: what makes this a link target.
    fn __call__(slf: &Bound<'_, Self>, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if source.call_method0(pyo3::intern!(py, "successful"))?.is_truthy()? {
            let value = source.getattr(pyo3::intern!(py, "value"))?;
            slf.call_method1(pyo3::intern!(py, "set"), (value,))?;
        } else {
            let exception = source.getattr(pyo3::intern!(py, "exception"))?;
            let exc_info = source.getattr_opt(pyo3::intern!(py, "exc_info"))?;
            slf.call_method1(pyo3::intern!(py, "set_exception"), (exception, exc_info))?;
        }
        Ok(())
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        crate::queue::generic_alias(cls, item)
    }

    /// done() -> as `ready`
    fn done(&self) -> bool {
        self.is_ready()
    }

    /// cancel() -> False: a result can't be cancelled
    fn cancel(&self) -> bool {
        false
    }

    /// cancelled() -> False
    fn cancelled(&self) -> bool {
        false
    }

    fn _at_fork_reinit(&self) {}

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let mut text = format!("<{} ", slf.get_type().name()?);
        let (value, exception) = (slf.get().value(py), slf.get().exception(py));
        let value = value.unwrap_or_else(|| py.None());
        if !value.is_none(py) || exception.is_some() {
            text.push_str(&format!("value={} ", value.bind(py).repr()?));
        }
        match exception {
            Some(exception) => text.push_str(&format!("exception={} ", exception.bind(py).repr()?)),
            None => text.push_str("unset "),
        }
        Ok(format!("{text} _links[{}]>", slf.get().linkcount()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(value) = self.fields.value.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(failure) = self.fields.failure.try_borrow()
            && let Some(failure) = &*failure
        {
            visit.call(&failure.kind)?;
            visit.call(&failure.value)?;
            visit.call(&failure.traceback)?;
        }
        self.fields.links.traverse(&visit)
    }

    fn __clear__(&self) {
        if let Some(value) = self.fields.value.take() {
            nesting::free(value);
        }
        drop(self.fields.failure.take());
        self.fields.links.clear();
    }
}
