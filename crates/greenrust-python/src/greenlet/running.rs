//! The run of a greenlet: its function is called, and what comes of it kept.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{Outcome, PyGeventGreenlet, Start, raw};
use crate::exceptions::{Cancelled, GreenletExit};
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;

/// Runs what the hub has scheduled: on the new greenlet's own stack.
pub fn run_scheduled(object: &Bound<'_, PyGreenlet>) -> PyResult<Py<PyAny>> {
    let py = object.py();
    let is_plain = object.as_any().get_type().is(PyType::new::<PyGeventGreenlet>(py));
    if !is_plain {
        return run_scheduled_other(object);
    }
    // SAFETY: whoever scheduled the start took a reference for the time until it begins.
    drop(unsafe { Bound::from_owned_ptr(py, object.as_ptr()) });
    object.get().mark_begun();
    // SAFETY: its type was just compared.
    PyGeventGreenlet::run_and_report(unsafe { object.as_any().cast_unchecked() });
    Ok(py.None())
}

#[inline(never)]
fn run_scheduled_other(object: &Bound<'_, PyGreenlet>) -> PyResult<Py<PyAny>> {
    let py = object.py();
    if py_hub::get_hub_if_exists(py).is_some_and(|hub| hub.is(object)) {
        // Nobody schedules the hub: the first greenlet that has nobody else to give way to starts it.
        let run = object.as_any().getattr(pyo3::intern!(py, "run"))?;
        object.get().mark_begun();
        return run.call0().map(Bound::unbind);
    }
    // SAFETY: whoever scheduled the start took a reference for the time until it begins.
    drop(unsafe { Bound::from_owned_ptr(py, object.as_ptr()) });
    if object.as_any().is_instance_of::<PyGeventGreenlet>() {
        // A subclass may override run() itself, though that was never supported.
        let run = object.as_any().getattr(pyo3::intern!(py, "run"))?;
        object.get().mark_begun();
        return run.call0().map(Bound::unbind);
    }
    raw::spawned_raw(object)
}

/// The start of a greenlet was refused for want of memory.
pub fn refused(object: &Bound<'_, PyAny>, error: PyErr) {
    if let Ok(greenlet) = object.cast::<PyGeventGreenlet>() {
        greenlet.get().fields.start.set(Start::Begun);
        greenlet.get().fields.free();
        PyGeventGreenlet::report_error(greenlet, error);
    } else {
        py_hub::handle_error(object.py(), Some(object), error);
    }
}

impl PyGeventGreenlet {
    /// Runs the function and keeps its result. Nothing leaves this call but by the object.
    pub(super) fn run_and_report(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        fields.start.set(Start::Begun);
        let is_cancelled = slf.as_super().get().raw().is_cancelled();
        let outcome =
            if is_cancelled { Err(Cancelled::new_err(())) } else { host::survive(|| Self::call_function(slf)) };
        match outcome {
            Ok(value) => Self::report_result(slf, value.unbind()),
            Err(error) => Self::report_error(slf, error),
        }
        fields.free();
    }

    /// Calls the function with its arguments, which the object keeps meanwhile.
    fn call_function<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let fields = &slf.get().fields;
        let own = fields.function.borrow().as_ref().map(|function| function.bind(py).clone());
        let function = match own {
            Some(function) => function,
            None => slf.as_any().getattr(pyo3::intern!(py, "_run"))?,
        };
        let args = fields.args.borrow().as_ref().map(|args| args.bind(py).clone());
        let kwargs = fields.kwargs.borrow().as_ref().map(|kwargs| kwargs.bind(py).clone());
        // SAFETY: all three are alive during the call; a new reference or NULL with an exception comes back.
        unsafe {
            let result = match (&args, &kwargs) {
                (Some(args), kwargs) => ffi::PyObject_Call(
                    function.as_ptr(),
                    args.as_ptr(),
                    kwargs.as_ref().map_or(std::ptr::null_mut(), |kwargs| kwargs.as_ptr()),
                ),
                (None, _) => ffi::PyObject_CallNoArgs(function.as_ptr()),
            };
            Bound::from_owned_ptr_or_err(py, result)
        }
    }

    #[inline(never)]
    fn report_result(slf: &Bound<'_, Self>, value: Py<PyAny>) {
        let fields = &slf.get().fields;
        let old = fields.outcome.replace(Outcome::Value(value));
        drop(old);
        Self::schedule_links(slf);
    }

    #[inline(never)]
    pub(super) fn report_error(slf: &Bound<'_, Self>, error: PyErr) {
        let py = slf.py();
        if error.is_instance_of::<GreenletExit>(py) {
            Self::report_result(slf, error.into_value(py).into_any());
            return;
        }
        let fields = &slf.get().fields;
        let value = error.value(py).clone().unbind();
        let traceback = error.traceback(py).map(|traceback| traceback.into_any().unbind());
        let old = fields.outcome.replace(Outcome::Error { value, traceback });
        drop(old);
        Self::schedule_links(slf);
        if !fields.is_supervised.get() {
            py_hub::handle_error(py, Some(slf.as_any()), error);
        }
    }
}
