//! A function that the loop is going to call once.

#![forbid(unsafe_code)]

use std::cell::RefCell;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::PyLoop;
use crate::gil::Gil;

struct Fields {
    /// None once the call has begun, or was taken back.
    function: RefCell<Option<Py<PyAny>>>,
    /// None once the call has ended, or was taken back.
    args: RefCell<Option<Py<PyTuple>>>,
}

/// What `loop.run_callback` returns: a call that is to be made. True until it has been made or taken back.
#[pyclass(name = "callback", module = "gevent.core", frozen, weakref)]
pub struct PyCallback {
    fields: Gil<Fields>,
}

impl PyCallback {
    pub(super) fn new(function: Py<PyAny>, args: Py<PyTuple>) -> Self {
        Self { fields: Gil::new(Fields { function: RefCell::new(Some(function)), args: RefCell::new(Some(args)) }) }
    }

    /// Makes the call, unless it was taken back. Runs in the hub.
    pub(super) fn run(slf: &Bound<'_, Self>, owner: &Bound<'_, PyLoop>) {
        let py = slf.py();
        let fields = &slf.get().fields;
        let Some(function) = fields.function.take() else { return };
        let args = fields.args.borrow().as_ref().map(|args| args.clone_ref(py));
        let args = args.map_or_else(|| PyTuple::empty(py), |args| args.into_bound(py));
        let result = if args.is_empty() { function.bind(py).call0() } else { function.bind(py).call1(args) };
        if let Err(error) = result {
            // The report shows the function.
            fields.function.replace(Some(function));
            PyLoop::report(owner, slf.as_any(), error);
        }
        slf.get().stop();
    }
}

#[pymethods]
impl PyCallback {
    /// Takes the call back.
    fn stop(&self) {
        let old = (self.fields.function.take(), self.fields.args.take());
        drop(old);
    }

    /// Takes the call back.
    fn close(&self) {
        self.stop();
    }

    /// Whether the call has not begun.
    #[getter]
    fn pending(&self) -> bool {
        self.fields.function.borrow().is_some()
    }

    /// What is called; None when the call has begun.
    #[getter]
    fn callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.function.borrow().as_ref().map(|function| function.clone_ref(py))
    }

    #[setter]
    fn set_callback(&self, function: Option<Py<PyAny>>) {
        let old = self.fields.function.replace(function);
        drop(old);
    }

    /// The arguments; None when the call has ended.
    #[getter]
    fn args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.fields.args.borrow().as_ref().map(|args| args.clone_ref(py))
    }

    #[setter]
    fn set_args(&self, args: Option<Py<PyTuple>>) {
        let old = self.fields.args.replace(args);
        drop(old);
    }

    fn __bool__(&self) -> bool {
        self.fields.args.borrow().is_some()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let mut text = format!("<{} at {:#x}", slf.get_type().name()?, slf.as_ptr() as usize);
        if slf.get().pending() {
            text.push_str(" pending");
        }
        if let Some(function) = slf.get().callback(py) {
            text.push_str(&format!(" callback={}", function.bind(py).repr()?));
        }
        match slf.get().args(py) {
            Some(args) => text.push_str(&format!(" args={}", args.bind(py).repr()?)),
            None if !slf.get().pending() => text.push_str(" stopped"),
            None => {}
        }
        text.push('>');
        Ok(text)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(function) = self.fields.function.try_borrow() {
            visit.call(&*function)?;
        }
        if let Ok(args) = self.fields.args.try_borrow() {
            visit.call(&*args)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.stop();
    }
}
