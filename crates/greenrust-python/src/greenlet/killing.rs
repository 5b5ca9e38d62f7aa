//! The end that others bring: `kill`, before the begin and after.

#![forbid(unsafe_code)]

use greenrust::context::State;
use greenrust::hub::WaitingFor;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::{PyGeventGreenlet, Start};
use crate::host::{self, Thrown};
use crate::hub as py_hub;
use crate::lowlevel::{self, PyGreenlet};

impl PyGeventGreenlet {
    /// Has the hub throw the exception into the greenlet, unless that ends without. Switches until it was thrown if `waits`.
    /// Returns whether the greenlet may live on for a while.
    pub(super) fn kill_begun(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>, waits: bool) -> PyResult<bool> {
        let py = slf.py();
        if Self::end_before_start(slf, &exception)? || Self::is_ready(slf) {
            return Ok(false);
        }
        let hub = slf.as_super().get().hub();
        let greenlet = slf.clone().into_any().unbind();
        let exception = exception.unbind();
        if !waits {
            hub.push_call(move |_| Python::attach(|py| throw_from_hub(greenlet.bind(py), exception.bind(py))));
            return Ok(true);
        }
        let serial = slf.as_super().get().raw().serial();
        let (own_hub, waker) = host::begin_park(py, WaitingFor::Join(Some(serial)))?;
        let thrown = waker.clone();
        hub.push_call(move |_| {
            Python::attach(|py| throw_from_hub(greenlet.bind(py), exception.bind(py)));
            thrown.unpark();
        });
        host::park(py, own_hub, &waker, None, true)?;
        Ok(true)
    }

    /// What `kill` does to a greenlet that has not begun. Returns true if it is dead now.
    pub(super) fn end_before_start(slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<bool> {
        let fields = &slf.get().fields;
        if matches!(fields.start.get(), Start::Begun) || slf.as_super().get().raw().state() == State::Started {
            return Ok(Self::is_dead(slf));
        }
        slf.get().cancel_start(slf.as_super().get());
        fields.free();
        if fields.is_pending() {
            let error = killing_error(slf.py(), exception)?;
            Self::report_error(slf, error);
        }
        Ok(true)
    }
}

/// The exception that `kill(exception)` stands for: a class, an instance, or a (type, value, traceback) triple.
fn killing_error(py: Python<'_>, exception: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    if let Some(triple) = as_triple(exception) {
        let (kind, value) = (triple.get_item(0)?, triple.get_item(1)?);
        if value.is_instance_of::<PyBaseException>() {
            return Ok(PyErr::from_value(value));
        }
        return lowlevel::thrown(py, Some(&kind), Some(&value), None);
    }
    match lowlevel::thrown(py, Some(exception), None, None) {
        Ok(error) => Ok(error),
        // Something that can't be raised still kills.
        Err(_) => Ok(PyErr::from_value(PyType::new::<PyBaseException>(py).call1((exception,))?)),
    }
}

fn as_triple<'a, 'py>(exception: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyTuple>> {
    exception.cast::<PyTuple>().ok().filter(|triple| triple.len() == 3)
}

/// Throws into a greenlet, from the hub, or when its shield ends; reports what comes back.
fn throw_from_hub(greenlet: &Bound<'_, PyAny>, exception: &Bound<'_, PyAny>) {
    let py = greenlet.py();
    if let Ok(target) = greenlet.cast::<PyGreenlet>()
        && target.get().raw().shield_against(None).is_some()
    {
        match killing_error(py, exception) {
            Ok(error) => target.get().raw().interrupt_from(None, Box::new(Thrown { error, by: 0 })),
            Err(error) => py_hub::handle_error(py, Some(greenlet), error),
        }
        return;
    }
    let throw = pyo3::intern!(py, "throw");
    let result = match as_triple(exception) {
        Some(triple) => greenlet.call_method1(throw, triple.clone()),
        None => greenlet.call_method1(throw, (exception,)),
    };
    if let Err(error) = result {
        py_hub::handle_error(py, Some(greenlet), error);
    }
}
