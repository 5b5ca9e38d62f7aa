//! `gevent.queue.Channel`: a queue that holds nothing, where a put and a get meet.

#![forbid(unsafe_code)]

use greenrust::channel::Channel;
use greenrust::hub::{WaitingFor, Waker};
use greenrust::wait_queue::WaitError;
use pyo3::exceptions::{PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::arguments::Truth;
use crate::gil::Gil;
use crate::greenlet::deadline;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;
use crate::queue;
use crate::timeout::Limit;
use crate::waiter::PyWaiter;

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyChannel>()
}

/// Channel(maxsize=1)
///
/// Passes items from greenlets that put to greenlets that get; each waits for the other. *maxsize* can only be 1.
#[pyclass(name = "Channel", module = "gevent.queue", frozen, subclass, weakref)]
pub struct PyChannel {
    channel: Gil<Channel<Py<PyAny>>>,
}

impl PyChannel {
    fn format(&self) -> String {
        let mut text = String::new();
        for (name, count) in [("getters", self.channel.waiting_getters()), ("putters", self.channel.waiting_putters())]
        {
            if count > 0 {
                text.push_str(&format!(" {name}[{count}]"));
            }
        }
        text
    }
}

/// Returns the greenlet that waits, in the form in which gevent shows it.
fn show(py: Python<'_>, waker: &Waker) -> PyResult<Option<Py<PyWaiter>>> {
    PyGreenlet::object_of(py, waker.greenlet()).map(|greenlet| PyWaiter::showing(py, &greenlet)).transpose()
}

fn deque<'py, T: IntoPyObject<'py>>(py: Python<'py>, content: Vec<T>) -> PyResult<Bound<'py, PyAny>> {
    py.import("collections")?.getattr("deque")?.call1((PyList::new(py, content)?,))
}

/// Gives the getter its turn before the putter goes on: who is handed an item is the first to run.
fn let_getter_run(py: Python<'_>) -> PyResult<()> {
    match py_hub::ensure(py)?.begin_park(WaitingFor::Turn) {
        Ok(waker) => {
            waker.unpark();
            host::park(py, py_hub::ensure(py)?, &waker, None, true).map(drop)
        }
        // The hub never waits.
        Err(_) => Ok(()),
    }
}

#[pymethods]
impl PyChannel {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { channel: Gil::default() }
    }

    #[pyo3(signature = (maxsize=None))]
    fn __init__(&self, maxsize: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        match maxsize {
            Some(maxsize) if !maxsize.eq(1)? => {
                Err(PyValueError::new_err(format!("Channels have a maxsize of 1, not {}", maxsize.repr()?)))
            }
            _ => Ok(()),
        }
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        queue::generic_alias(cls, item)
    }

    /// The hub of the calling thread.
    #[getter]
    fn hub<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py_hub::get_hub(py)
    }

    /// How many greenlets wait to put, less those that wait to get.
    #[getter]
    fn balance(&self) -> isize {
        self.channel.balance()
    }

    /// The greenlets that wait to get, the longest first: a deque of Waiters. It is a copy; changing it changes nothing.
    #[getter]
    fn getters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut shown = Vec::new();
        for waker in self.channel.getters() {
            shown.extend(show(py, &waker)?);
        }
        deque(py, shown)
    }

    /// The greenlets that wait to put, the longest first: a deque of pairs of an item and a Waiter. It is a copy.
    #[getter]
    fn putters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut shown = Vec::new();
        for (item, waker) in self.channel.putters(|item| item.clone_ref(py)) {
            if let Some(waiter) = show(py, &waker)? {
                shown.push((item, waiter));
            }
        }
        deque(py, shown)
    }

    /// qsize() -> 0
    fn qsize(&self) -> usize {
        0
    }

    /// empty() -> True
    fn empty(&self) -> bool {
        true
    }

    /// full() -> True
    fn full(&self) -> bool {
        true
    }

    /// put(item, block=True, timeout=None)
    ///
    /// Gives *item* to a greenlet that gets it; waits for one, at most *timeout* seconds (a float), or only until the
    /// greenlets that are ready have run if *block* is false. Raises Full if none came. Switches; the getter runs first.
    #[pyo3(signature = (item, block=Truth(true), timeout=None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, block: Truth, timeout: Option<Limit<'_>>) -> PyResult<()> {
        let mut item = Some(item);
        if self.channel.try_put_core(&mut item) {
            return let_getter_run(py);
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply(timeout.as_ref().filter(|_| block.0), |seconds| {
            let end = deadline(hub, if block.0 { seconds } else { Some(0.0) });
            match host::keep_alive(py, || self.channel.put_core(&mut item, end)) {
                Ok(()) => Ok(()),
                Err(WaitError::TimedOut | WaitError::ParkInHub) => Err(queue::full(py)),
                Err(error) => host::settle_error(py, error),
            }
        })
    }

    /// put_nowait(item): `put(item, block=False)`. Switches.
    fn put_nowait(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<()> {
        self.put(py, item, Truth(false), None)
    }

    /// get(block=True, timeout=None) -> the item of a greenlet that puts one
    ///
    /// Waits for it, at most *timeout* seconds (a float), or only until the greenlets that are ready have run if *block*
    /// is false. Raises Empty if none came. Switches only if nobody waits to put.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn get(&self, py: Python<'_>, block: Truth, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        if let Some(item) = self.channel.try_get_core() {
            return Ok(item);
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply(timeout.as_ref().filter(|_| block.0), |seconds| {
            let end = deadline(hub, if block.0 { seconds } else { Some(0.0) });
            host::block(py, || self.channel.get_core(end))?.ok_or_else(|| queue::empty(py))
        })
    }

    /// get_nowait(): `get(block=False)`. Switches only if nobody waits to put.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get(py, Truth(false), None)
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// next() -> the next item, as iteration gives it
    #[pyo3(name = "next")]
    fn next_old(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::__next__(slf)
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let item = slf.call_method0(pyo3::intern!(py, "get"))?;
        if item.is(py.get_type::<PyStopIteration>()) {
            return Err(PyStopIteration::new_err(()));
        }
        Ok(item.unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{} at {:#x} {}>", slf.get_type().name()?, slf.as_ptr() as usize, slf.get().format()))
    }

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{} {}>", slf.get_type().name()?, slf.get().format()))
    }
}
