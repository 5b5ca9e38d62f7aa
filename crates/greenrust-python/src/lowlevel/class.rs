//! The class as Python sees it.

use greenrust::context::State;
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::switching::thrown;
use super::{PyGreenlet, getcurrent};
use crate::host::{self, Payload};
use crate::thread_state::{self};

#[pymethods]
impl PyGreenlet {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(py: Python<'_>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // Subclasses pass arguments of their own; __init__ looks at them.
        let _ = (args, kwargs);
        let parent = getcurrent(py).unbind();
        Self::unstarted(py, None, Some(parent))
    }

    #[pyo3(signature = (run=Run::Missing, parent=None))]
    fn __init__(slf: &Bound<'_, Self>, run: Run<'_>, parent: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        Self::bind_object(slf);
        if let Run::Given(run) = run {
            slf.get().set_run(run)?;
        }
        if let Some(parent) = parent {
            Self::set_parent(slf, parent)?;
        }
        Ok(())
    }

    /// throw(typ=GreenletExit, val=None, tb=None)
    ///
    /// Continues this greenlet with an exception, raised where it waits. Returns what this one is switched back with.
    #[pyo3(signature = (*args))]
    fn throw(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        if args.len() > 3 {
            return Err(PyTypeError::new_err(format!("throw() takes at most 3 arguments ({} given)", args.len())));
        }
        let mut given = args.iter();
        let (typ, val, tb) = (given.next(), given.next(), given.next());
        let error = thrown(slf.py(), typ.as_ref(), val.as_ref(), tb.as_ref())?;
        Self::enter(slf, Payload::Throw(Box::new(error)))
    }

    /// True once the greenlet has ended, or its thread has, or it can never run.
    #[getter]
    fn dead(&self) -> bool {
        self.fields.raw.state() == State::Finished || self.has_lost_its_thread()
    }

    /// Called, if it is set or a class defines it, each time before the greenlet waits: when it gives way to the hub.
    ///
    /// What it raises is raised where the greenlet would wait. It must not wait itself.
    #[getter]
    fn switch_out<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let name = pyo3::intern!(slf.py(), "switch_out");
        Self::attributes(slf)?.get_item(name)?.ok_or_else(|| PyAttributeError::new_err("switch_out"))
    }

    #[setter]
    fn set_switch_out(slf: &Bound<'_, Self>, function: Bound<'_, PyAny>) -> PyResult<()> {
        Self::attributes(slf)?.set_item(pyo3::intern!(slf.py(), "switch_out"), function)?;
        slf.get().fields.raw.set_announced(true);
        Ok(())
    }

    #[deleter]
    fn delete_switch_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        let name = pyo3::intern!(slf.py(), "switch_out");
        Self::attributes(slf)?.del_item(name).map_err(|_| PyAttributeError::new_err("switch_out"))?;
        slf.get().fields.raw.set_announced(false);
        Ok(())
    }

    /// What the greenlet shall run; gone once it has started.
    #[getter]
    fn run(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.has_begun() {
            return Err(PyAttributeError::new_err("run"));
        }
        self.fields.run.borrow().as_ref().map(|run| run.clone_ref(py)).ok_or_else(|| PyAttributeError::new_err("run"))
    }

    #[setter]
    fn set_run(&self, run: Bound<'_, PyAny>) -> PyResult<()> {
        if self.has_begun() {
            return Err(PyAttributeError::new_err("run cannot be set after the start of the greenlet"));
        }
        self.set_run_slot(Some(run.unbind()));
        Ok(())
    }

    #[deleter]
    fn delete_run(&self) -> PyResult<()> {
        if self.has_begun() {
            return Err(PyAttributeError::new_err("run cannot be set after the start of the greenlet"));
        }
        self.set_run_slot(None);
        Ok(())
    }

    /// Where the result, or exception, goes when the greenlet ends.
    #[getter]
    fn parent(&self, py: Python<'_>) -> Option<Py<PyGreenlet>> {
        self.parent_of(py)
    }

    #[setter]
    pub(super) fn set_parent(slf: &Bound<'_, Self>, parent: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.fields.is_root {
            return Err(PyAttributeError::new_err("cannot set the parent of a main greenlet"));
        }
        let parent = match parent.cast_into::<PyGreenlet>() {
            Ok(parent) => parent,
            Err(error) => {
                // Programs and their tests know this text.
                return Err(PyTypeError::new_err(format!(
                    "GreenletChecker: Expected any type of greenlet, not {}",
                    error.into_inner().get_type().name()?
                )));
            }
        };
        // One that has not started goes to its parent's thread.
        if this.fields.raw.state() != State::Unstarted
            && !std::ptr::eq(this.fields.raw.hub(), parent.get().thread_hub())
        {
            return Err(PyValueError::new_err("parent cannot be on a different thread"));
        }
        let mut ancestor = Some(parent.clone().unbind());
        while let Some(greenlet) = ancestor {
            if greenlet.is(slf) {
                return Err(PyValueError::new_err("cyclic parent chain"));
            }
            ancestor = greenlet.get().parent_of(py);
        }
        let old = this.fields.parent.replace(Some(parent.unbind()));
        drop(old);
        Ok(())
    }

    #[deleter]
    fn delete_parent(&self) -> PyResult<()> {
        Err(PyAttributeError::new_err("can't delete attribute"))
    }

    /// The innermost Python frame of a suspended greenlet; None of one that does not run or has ended.
    #[getter]
    fn gr_frame(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.frame(py)
    }

    /// The `contextvars.Context` that the greenlet runs in, or will, or did; None for an empty one.
    #[getter]
    fn gr_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.is_running() {
            if self.is_of_this_thread() {
                return Ok(thread_state::running_context(py));
            }
            return Err(PyValueError::new_err(
                "cannot get context of a greenlet that is running in a different thread",
            ));
        }
        Ok(self.state.context(py))
    }

    #[setter]
    fn set_gr_context(&self, py: Python<'_>, context: Bound<'_, PyAny>) -> PyResult<()> {
        let context = if context.is_none() {
            None
        } else {
            // SAFETY: a type check of a valid object.
            if unsafe { ffi::PyContext_CheckExact(context.as_ptr()) } == 0 {
                return Err(PyTypeError::new_err("greenlet context must be a contextvars.Context or None"));
            }
            Some(context.unbind())
        };
        if !self.is_running() {
            self.state.set_context(context);
        } else if self.is_of_this_thread() {
            host::runtime(py);
            thread_state::set_running_context(context);
        } else {
            return Err(PyValueError::new_err(
                "cannot set context of a greenlet that is running in a different thread",
            ));
        }
        Ok(())
    }

    #[deleter]
    fn delete_gr_context(&self) -> PyResult<()> {
        Err(PyAttributeError::new_err("can't delete context attribute"))
    }

    #[getter]
    fn _stack_saved(&self) -> u64 {
        0
    }

    fn __bool__(&self) -> bool {
        self.is_active()
    }

    fn __getstate__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Err(PyTypeError::new_err(format!("cannot serialize '{}' object", slf.get_type().fully_qualified_name()?)))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = match this.fields.raw.state() {
            _ if this.has_lost_its_thread() => "(thread exited) dead",
            State::Unstarted if this.has_begun() => "dead",
            State::Unstarted => "pending",
            State::Finished => "dead",
            State::Started if this.is_of_this_thread() && this.is_running() => "current active started",
            State::Started => "suspended active started",
        };
        let main = if this.fields.is_root && !this.has_lost_its_thread() { " main" } else { "" };
        // Programs know the class itself by the name of the module that they import it from.
        let class = slf.get_type();
        let name = if class.is(PyType::new::<Self>(slf.py())) {
            "greenlet.greenlet".to_owned()
        } else {
            class.fully_qualified_name()?.to_string()
        };
        Ok(format!(
            "<{name} object at {:#x} (otid={:#x}) {state}{main}>",
            slf.as_ptr() as usize,
            this.fields.raw.hub() as usize,
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(run) = self.fields.run.try_borrow() {
            visit.call(&*run)?;
        }
        if let Ok(parent) = self.fields.parent.try_borrow() {
            visit.call(&*parent)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        if !self.is_active() {
            drop(self.fields.run.take());
            drop(self.fields.parent.take());
        }
    }
}

/// The argument `run` of the class, where None is a value.
enum Run<'py> {
    Missing,
    Given(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Run<'py> {
    type Error = std::convert::Infallible;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Run::Given(object.to_owned()))
    }
}
