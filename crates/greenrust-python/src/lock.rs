//! `gevent.lock`: `Semaphore`, `BoundedSemaphore`, `DummySemaphore` and `RLock`.
//!
//! They are the runtime's, with barging: as in gevent, a greenlet that releases and acquires in a loop does not switch.
//! Threads may share them.

#![forbid(unsafe_code)]

use std::cell::Cell;

use greenrust::lock::{RLock, Semaphore};
use greenrust::wait_queue::Barging;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple, PyType};

use crate::arguments::{Count, Truth};
use crate::fastcall::{Arguments, FastMethod, Method};
use crate::gil::Gil;
use crate::greenlet::deadline;
use crate::host;
use crate::hub as py_hub;
use crate::links::Links;
use crate::lowlevel::PyGreenlet;
use crate::timeout::Limit;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_class::<PySemaphore>()?;
    module.add_class::<PyBoundedSemaphore>()?;
    module.add_class::<PyDummySemaphore>()?;
    module.add_class::<PyRLock>()?;
    // CPython 3.11 and later call a method best that is the object's class's own.
    ACQUIRE.add_to(&py.get_type::<PySemaphore>())?;
    ACQUIRE.add_to(&py.get_type::<PyBoundedSemaphore>())?;
    py.get_type::<PyBoundedSemaphore>().setattr("_OVER_RELEASE_ERROR", py.get_type::<PyValueError>())
}

struct Fields {
    semaphore: Semaphore,
    links: Links,
}

/// Semaphore(value=1, hub=None)
///
/// A counter of permits that greenlets, and threads, take and give back. As a context manager it is acquired and
/// released. *hub* is accepted and not needed.
#[pyclass(name = "Semaphore", module = "gevent.lock", frozen, subclass, weakref)]
pub struct PySemaphore {
    fields: Gil<Fields>,
}

fn count(value: isize) -> PyResult<usize> {
    usize::try_from(value)
        .map_err(|_| PyValueError::new_err(format!("semaphore initial value must be >= 0, not {value}")))
}

impl PySemaphore {
    fn empty() -> Self {
        Self {
            fields: Gil::new(Fields {
                semaphore: Semaphore::with_barging(1, Barging::Allowed),
                links: Links::default(),
            }),
        }
    }

    #[inline]
    fn take(&self, py: Python<'_>, blocking: bool, timeout: Option<Limit<'_>>) -> PyResult<bool> {
        let fields = &*self.fields;
        if fields.semaphore.try_acquire_core() {
            return Ok(true);
        }
        if !blocking {
            return Ok(false);
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply_quietly(timeout.as_ref(), false, |seconds| {
            let end = deadline(hub, seconds);
            Ok(host::block(py, || fields.semaphore.acquire_core(end))?.is_some())
        })
    }

    #[inline]
    fn give(slf: &Bound<'_, Self>) -> usize {
        let fields = &slf.get().fields;
        fields.semaphore.release();
        if !fields.links.is_empty() {
            Self::tell(slf);
        }
        fields.semaphore.permits()
    }

    fn tell(slf: &Bound<'_, Self>) {
        if !slf.get().fields.semaphore.is_locked() {
            Links::schedule(slf, |this| &this.fields.links, |this| !this.fields.semaphore.is_locked(), false);
        }
    }

    fn is_own_class(slf: &Bound<'_, Self>) -> bool {
        slf.get_type().is(PyType::new::<PySemaphore>(slf.py()))
    }
}

#[pymethods]
impl PySemaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // The arguments are __init__'s: subclasses have signatures of their own.
        Self::empty()
    }

    #[pyo3(signature = (value=Count(1), hub=None))]
    fn __init__(&self, value: Count, hub: Option<Bound<'_, py_hub::PyHub>>) -> PyResult<()> {
        let _ = hub;
        self.fields.semaphore.reset(count(value.0)?);
        Ok(())
    }

    /// The hub in which links are called; None if nothing was linked. Any thread may use the semaphore.
    #[getter]
    fn hub(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.links.home(py)
    }

    /// How many permits are free.
    #[getter]
    fn counter(&self) -> usize {
        self.fields.semaphore.permits()
    }

    /// Wakes as many who wait. Programs that inherit a semaphore by a fork make it free so.
    #[setter]
    fn set_counter(slf: &Bound<'_, Self>, value: Count) -> PyResult<()> {
        let permits = usize::try_from(value.0)
            .map_err(|_| PyValueError::new_err(format!("a semaphore's counter must be >= 0, not {}", value.0)))?;
        slf.get().fields.semaphore.set_permits(permits);
        Self::tell(slf);
        Ok(())
    }

    /// locked() -> whether no permit is free
    fn locked(&self) -> bool {
        self.fields.semaphore.is_locked()
    }

    /// ready() -> whether a permit is free
    fn ready(&self) -> bool {
        !self.fields.semaphore.is_locked()
    }

    /// release() -> how many permits are free now
    ///
    /// Gives a permit back, or adds one; the first greenlet that waits is woken. Does not switch.
    fn release(slf: &Bound<'_, Self>) -> usize {
        Self::give(slf)
    }

    /// wait(timeout=None) -> how many permits are free
    ///
    /// Waits until one is, at most *timeout* seconds (a float), and takes none. Switches only if none is free.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Limit<'_>>) -> PyResult<usize> {
        let fields = &*self.fields;
        if fields.semaphore.is_locked() {
            let hub = py_hub::ensure(py)?;
            Limit::apply_quietly(timeout.as_ref(), false, |seconds| {
                let end = deadline(hub, seconds);
                Ok(host::block(py, || fields.semaphore.wait_core(end))?.is_some())
            })?;
        }
        Ok(fields.semaphore.permits())
    }

    /// rawlink(callback): has `callback(semaphore)` called once in the hub when a permit is free.
    fn rawlink(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().fields.links.add(callback)?;
        Self::tell(slf);
        Ok(())
    }

    /// unlink(callback): takes a `rawlink` back.
    fn unlink(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.fields.links.remove(callback)
    }

    /// linkcount() -> how many greenlets wait and callbacks are linked
    fn linkcount(&self) -> usize {
        self.fields.semaphore.waiting() + self.fields.links.len()
    }

    fn _at_fork_reinit(&self) {}

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if Self::is_own_class(slf) || slf.get_type().is(PyType::new::<PyBoundedSemaphore>(py)) {
            slf.get().take(py, true, None)?;
        } else {
            slf.call_method0(pyo3::intern!(py, "acquire"))?;
        }
        Ok(())
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(slf: &Bound<'_, Self>, _exc_info: &Bound<'_, PyTuple>) -> PyResult<()> {
        if Self::is_own_class(slf) {
            Self::give(slf);
        } else {
            slf.call_method0(pyo3::intern!(slf.py(), "release"))?;
        }
        Ok(())
    }

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        Ok(format!(
            "<{} at {:#x} counter={} _links[{}]>",
            slf.get_type().name()?,
            slf.as_ptr() as usize,
            this.counter(),
            this.linkcount()
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        self.fields.links.traverse(&visit)
    }

    fn __clear__(&self) {
        self.fields.links.clear();
    }
}

static ACQUIRE: FastMethod = FastMethod::of::<Acquire>(
    c"acquire",
    c"acquire($self, blocking=..., timeout=None)\n--\n\nacquire(blocking=True, timeout=None) -> whether a permit was taken\n\n\
      Waits for a permit, at most *timeout* seconds (a float), unless *blocking* is false. Switches only if none is free.",
);

struct Acquire;

impl Method for Acquire {
    type Class = PySemaphore;

    #[inline]
    fn quick<'py>(slf: &Bound<'py, PySemaphore>, arguments: &Arguments<'py>) -> Option<Bound<'py, PyAny>> {
        let fields = &slf.get().fields;
        if !arguments.is_empty() {
            return None;
        }
        fields.semaphore.try_acquire_core().then(|| PyBool::new(slf.py(), true).to_owned().into_any())
    }

    fn call<'py>(slf: &Bound<'py, PySemaphore>, arguments: &Arguments<'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let [blocking, timeout] = arguments.bind("acquire", ["blocking", "timeout"])?;
        let blocking = blocking.map_or(Ok(true), |flag| flag.is_truthy())?;
        let timeout = timeout.map_or(Ok(None), |seconds| seconds.extract())?;
        let is_taken = slf.get().take(py, blocking, timeout)?;
        Ok(PyBool::new(py, is_taken).to_owned().into_any())
    }
}

/// BoundedSemaphore(value=1, hub=None)
///
/// A semaphore that never has more permits than it began with: a release too many raises ValueError.
#[pyclass(name = "BoundedSemaphore", module = "gevent.lock", extends = PySemaphore, frozen, subclass)]
pub struct PyBoundedSemaphore {
    initial: Gil<Cell<usize>>,
}

#[pymethods]
impl PyBoundedSemaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(PySemaphore::empty()).add_subclass(Self { initial: Gil::new(Cell::new(1)) })
    }

    #[pyo3(signature = (value=Count(1), hub=None))]
    fn __init__(slf: &Bound<'_, Self>, value: Count, hub: Option<Bound<'_, py_hub::PyHub>>) -> PyResult<()> {
        slf.as_super().get().__init__(value, hub)?;
        slf.get().initial.set(count(value.0)?);
        Ok(())
    }

    #[getter]
    fn _initial_value(&self) -> usize {
        self.initial.get()
    }

    /// release() -> how many permits are free now; raises ValueError if none was taken
    fn release(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let semaphore = slf.as_super();
        if semaphore.get().fields.semaphore.permits() >= slf.get().initial.get() {
            let kind = slf.getattr(pyo3::intern!(slf.py(), "_OVER_RELEASE_ERROR"))?;
            return Err(PyErr::from_value(kind.call1(("Semaphore released too many times",))?));
        }
        Ok(PySemaphore::give(semaphore))
    }

    fn _at_fork_reinit(slf: &Bound<'_, Self>) {
        let semaphore = slf.as_super().get();
        semaphore._at_fork_reinit();
        semaphore.fields.semaphore.reset(slf.get().initial.get());
    }
}

/// DummySemaphore(value=None)
///
/// A semaphore with permits for everybody: nothing ever waits. *value* is ignored.
#[pyclass(name = "DummySemaphore", module = "gevent.lock", frozen, subclass, weakref)]
pub struct PyDummySemaphore {}

#[pymethods]
impl PyDummySemaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {}
    }

    #[pyo3(signature = (value=None))]
    fn __init__(&self, value: Option<Bound<'_, PyAny>>) {
        let _ = value;
    }

    /// locked() -> False
    fn locked(&self) -> bool {
        false
    }

    /// ready() -> True
    fn ready(&self) -> bool {
        true
    }

    /// release(): does nothing.
    fn release(&self) {}

    /// rawlink(callback): does nothing.
    fn rawlink(&self, callback: &Bound<'_, PyAny>) {
        let _ = callback;
    }

    /// unlink(callback): does nothing.
    fn unlink(&self, callback: &Bound<'_, PyAny>) {
        let _ = callback;
    }

    /// wait(timeout=None) -> 1
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, timeout: Option<Bound<'_, PyAny>>) -> u32 {
        let _ = timeout;
        1
    }

    /// acquire(blocking=True, timeout=None) -> True
    #[pyo3(signature = (blocking=None, timeout=None))]
    fn acquire(&self, blocking: Option<Bound<'_, PyAny>>, timeout: Option<Bound<'_, PyAny>>) -> bool {
        let _ = (blocking, timeout);
        true
    }

    fn __enter__(&self) {}

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<'_, PyTuple>) {}

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{}>", slf.get_type().name()?))
    }
}

/// RLock(hub=None)
///
/// A lock that its owner, a greenlet, can take again. As a context manager it is acquired and released. *hub* is
/// accepted and not needed.
#[pyclass(name = "RLock", module = "gevent.lock", frozen, subclass, weakref)]
pub struct PyRLock {
    lock: Gil<RLock>,
}

impl PyRLock {
    fn take(&self, py: Python<'_>, blocking: bool, timeout: Option<Limit<'_>>) -> PyResult<bool> {
        host::runtime(py);
        if self.lock.try_acquire_core() {
            return Ok(true);
        }
        if !blocking {
            return Ok(false);
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply_quietly(timeout.as_ref(), false, |seconds| {
            let end = deadline(hub, seconds);
            Ok(host::block(py, || self.lock.acquire_core(end))?.is_some())
        })
    }

    fn not_owner(slf: &Bound<'_, Self>) -> PyErr {
        let py = slf.py();
        let show = |object: Option<Bound<'_, PyAny>>| match object {
            Some(object) => object.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string()),
            None => "None".to_owned(),
        };
        PyRuntimeError::new_err(format!(
            "cannot release un-acquired lock. Owner: {} Current: {}",
            show(slf.get()._owner(py)),
            show(Some(host::current(py).into_any()))
        ))
    }
}

#[pymethods]
impl PyRLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { lock: Gil::new(RLock::with_barging(Barging::Allowed)) }
    }

    #[pyo3(signature = (hub=None))]
    fn __init__(&self, hub: Option<Bound<'_, py_hub::PyHub>>) {
        let _ = hub;
    }

    /// acquire(blocking=True, timeout=None) -> whether the lock was taken
    ///
    /// Waits for it, at most *timeout* seconds (a float), unless *blocking* is false. Switches only if another greenlet
    /// holds it.
    #[pyo3(signature = (blocking=Truth(true), timeout=None))]
    fn acquire(&self, py: Python<'_>, blocking: Truth, timeout: Option<Limit<'_>>) -> PyResult<bool> {
        self.take(py, blocking.0, timeout)
    }

    /// release(): undoes one acquisition; raises RuntimeError if the running greenlet does not hold the lock.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        host::runtime(slf.py());
        slf.get().lock.release().map_err(|_| Self::not_owner(slf))
    }

    /// locked() -> whether any greenlet holds the lock
    fn locked(&self) -> bool {
        self.lock.count() > 0
    }

    #[getter]
    fn _count(&self) -> usize {
        self.lock.count()
    }

    /// The greenlet that holds the lock, or None.
    #[getter]
    fn _owner<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.lock.owner().and_then(|owner| PyGreenlet::object_of(py, &owner)).map(Bound::into_any)
    }

    fn _is_owned(&self, py: Python<'_>) -> bool {
        host::runtime(py);
        self.lock.is_owned()
    }

    /// Undoes all acquisitions, as a condition variable does before it waits.
    fn _release_save<'py>(slf: &Bound<'py, Self>) -> PyResult<(usize, Bound<'py, PyAny>)> {
        let py = slf.py();
        let owner = host::current(py).into_any();
        let count = slf.get().lock.release_all().map_err(|_| Self::not_owner(slf))?;
        Ok((count, owner))
    }

    /// Takes the lock as often as `_release_save` has released it.
    fn _acquire_restore(&self, py: Python<'_>, state: (usize, Bound<'_, PyAny>)) -> PyResult<()> {
        py_hub::ensure(py)?;
        host::block(py, || self.lock.acquire_all_core(state.0, None))?;
        Ok(())
    }

    fn _at_fork_reinit(&self) {
        self.lock.reset();
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        if slf.get_type().is(PyType::new::<PyRLock>(py)) {
            slf.get().take(py, true, None)?;
            return Ok(true.into_pyobject(py)?.to_owned().into_any().unbind());
        }
        slf.call_method0(pyo3::intern!(py, "acquire")).map(Bound::unbind)
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(slf: &Bound<'_, Self>, _exc_info: &Bound<'_, PyTuple>) -> PyResult<()> {
        if slf.get_type().is(PyType::new::<PyRLock>(slf.py())) {
            return Self::release(slf);
        }
        slf.call_method0(pyo3::intern!(slf.py(), "release")).map(drop)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let owner = match slf.get()._owner(slf.py()) {
            Some(owner) => owner.repr()?.to_string(),
            None => "None".to_owned(),
        };
        Ok(format!(
            "<{} at {:#x} _count={} _owner={owner}>",
            slf.get_type().name()?,
            slf.as_ptr() as usize,
            slf.get()._count()
        ))
    }
}
