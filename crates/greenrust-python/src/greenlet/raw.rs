//! `spawn_raw`: a greenlet that the hub starts, with no result, no links and no join.

#![forbid(unsafe_code)]

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyWeakrefReference};

use super::hub_object;
use super::spawning::{TRACK_TREE, schedule, tree_locals_for_child};
use crate::exceptions;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;

/// Runs what `spawn_raw` has scheduled: `run` holds the function and its arguments.
pub fn spawned_raw(object: &Bound<'_, PyGreenlet>) -> PyResult<Py<PyAny>> {
    let py = object.py();
    let run = object.get().take_slot().ok_or_else(|| exceptions::internal("a raw greenlet without a function"))?;
    object.get().mark_begun();
    let run = run.bind(py);
    match run.cast::<RawCall>() {
        Ok(call) => {
            let call = call.get();
            call.function.bind(py).call(call.args.bind(py), call.kwargs.as_ref().map(|kwargs| kwargs.bind(py)))
        }
        Err(_) => run.call0(),
    }
    .map(Bound::unbind)
}

/// A function with its arguments: what a raw greenlet is going to run.
#[pyclass(frozen, module = "gevent._greenrust")]
pub struct RawCall {
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
}

#[pymethods]
impl RawCall {
    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.function
            .bind(py)
            .call(self.args.bind(py), self.kwargs.as_ref().map(|kwargs| kwargs.bind(py)))
            .map(Bound::unbind)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)
    }
}

/// spawn_raw(function, *args, **kwargs) -> a raw greenlet, scheduled to start in this turn of the loop
#[pyfunction]
#[pyo3(signature = (function, *args, **kwargs))]
pub fn spawn_raw<'py>(
    py: Python<'py>,
    function: Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
    kwargs: Option<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyGreenlet>> {
    if !function.is_callable() {
        return Err(PyTypeError::new_err(format!("function must be callable, not {}", function.repr()?)));
    }
    let hub = py_hub::ensure(py)?;
    let run = if args.is_empty() && kwargs.is_none() {
        function.unbind()
    } else {
        let call = RawCall { function: function.unbind(), args: args.unbind(), kwargs: kwargs.map(Bound::unbind) };
        Py::new(py, call)?.into_any()
    };
    let greenlet = Bound::new(py, PyGreenlet::unstarted(py, Some(run), Some(hub_object(py)?)))?;
    PyGreenlet::bind_object(&greenlet);
    if TRACK_TREE.load(std::sync::atomic::Ordering::Relaxed) {
        let spawner = host::current(py);
        // The main greenlet's children get a tree each.
        let locals = tree_locals_for_child(&spawner)?.unwrap_or_else(|| PyDict::new(py).into_any().unbind());
        let dictionary = greenlet.as_any().getattr(pyo3::intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        dictionary.set_item(pyo3::intern!(py, "spawn_tree_locals"), locals)?;
        dictionary.set_item(pyo3::intern!(py, "spawning_greenlet"), PyWeakrefReference::new(spawner.as_any())?)?;
    }
    schedule(hub, &greenlet);
    Ok(greenlet)
}
