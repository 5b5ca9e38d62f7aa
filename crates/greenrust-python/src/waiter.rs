//! `gevent.hub.Waiter`: a greenlet's `switch` and `throw` that may also come before anybody waits.

#![forbid(unsafe_code)]

use std::cell::RefCell;

use pyo3::exceptions::PyAssertionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::exceptions;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::{self, PyGreenlet};

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyWaiter>()
}

enum Outcome {
    Pending,
    Value(Py<PyAny>),
    Thrown(Py<PyTuple>),
}

struct Fields {
    hub: RefCell<Option<Py<PyAny>>>,
    greenlet: RefCell<Option<Py<PyGreenlet>>>,
    outcome: RefCell<Outcome>,
}

/// Waiter(hub=None)
///
/// Lets one greenlet wait in `get` for a `switch` or `throw`, which callbacks of the hub call. What comes before
/// anybody waits is kept for `get`. *hub* is the hub of the thread if None.
#[pyclass(name = "Waiter", module = "gevent.hub", frozen, subclass, weakref)]
pub struct PyWaiter {
    fields: Gil<Fields>,
}

impl PyWaiter {
    fn is_pending(&self) -> bool {
        matches!(&*self.fields.outcome.borrow(), Outcome::Pending)
    }

    /// Returns the greenlet that waits, after making sure that the hub is calling.
    fn waiting(&self, py: Python<'_>) -> PyResult<Option<Py<PyGreenlet>>> {
        let greenlet = self.fields.greenlet.borrow().as_ref().map(|greenlet| greenlet.clone_ref(py));
        if greenlet.is_some() {
            let current = host::current(py);
            let is_hub = self.fields.hub.borrow().as_ref().is_some_and(|hub| hub.is(&current));
            if !is_hub {
                return Err(PyAssertionError::new_err("Can only use Waiter.switch method from the Hub greenlet"));
            }
        }
        Ok(greenlet)
    }

    /// Continues the greenlet by its method `name`; the hub treats what comes back.
    fn resume(greenlet: &Bound<'_, PyGreenlet>, name: &str, args: Bound<'_, PyTuple>) -> PyResult<()> {
        let method = greenlet.getattr(name)?;
        if let Err(error) = method.call1(args) {
            py_hub::handle_error(greenlet.py(), Some(&method), error);
        }
        Ok(())
    }

    /// Makes the waiter that shows a greenlet which waits otherwise.
    pub fn showing(py: Python<'_>, greenlet: &Bound<'_, PyGreenlet>) -> PyResult<Py<Self>> {
        let fields = Fields {
            hub: RefCell::new(Some(py_hub::get_hub(py)?.unbind())),
            greenlet: RefCell::new(Some(greenlet.clone().unbind())),
            outcome: RefCell::new(Outcome::Pending),
        };
        Py::new(py, Self { fields: Gil::new(fields) })
    }

    fn keep(&self, outcome: Outcome) {
        let old = self.fields.outcome.replace(outcome);
        drop(old);
    }
}

#[pymethods]
impl PyWaiter {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // The arguments are __init__'s: subclasses have signatures of their own.
        Self {
            fields: Gil::new(Fields {
                hub: RefCell::new(None),
                greenlet: RefCell::new(None),
                outcome: RefCell::new(Outcome::Pending),
            }),
        }
    }

    #[pyo3(signature = (hub=None))]
    fn __init__(&self, py: Python<'_>, hub: Option<Bound<'_, py_hub::PyHub>>) -> PyResult<()> {
        let hub = match hub {
            Some(hub) => hub.into_any(),
            None => py_hub::get_hub(py)?,
        };
        let old = self.fields.hub.replace(Some(hub.unbind()));
        drop(old);
        Ok(())
    }

    #[getter]
    fn hub(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.hub.borrow().as_ref().map(|hub| hub.clone_ref(py))
    }

    /// The greenlet that waits in `get`, or None.
    #[getter]
    fn greenlet(&self, py: Python<'_>) -> Option<Py<PyGreenlet>> {
        self.fields.greenlet.borrow().as_ref().map(|greenlet| greenlet.clone_ref(py))
    }

    /// The value that is kept, or None.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &*self.fields.outcome.borrow() {
            Outcome::Value(value) => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// The arguments of a `throw` that are kept, or None.
    #[getter]
    fn exc_info(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        match &*self.fields.outcome.borrow() {
            Outcome::Thrown(args) => Some(args.clone_ref(py)),
            _ => None,
        }
    }

    /// clear(): forgets what is kept; the waiter can be used anew.
    fn clear(&self) {
        let old = (self.fields.greenlet.take(), self.fields.outcome.replace(Outcome::Pending));
        drop(old);
    }

    /// ready() -> whether a value or an exception is kept
    fn ready(&self) -> bool {
        !self.is_pending()
    }

    /// successful() -> whether a value is kept
    fn successful(&self) -> bool {
        matches!(&*self.fields.outcome.borrow(), Outcome::Value(_))
    }

    /// switch(value): continues the greenlet that waits, with *value*, or keeps it. In the hub only if one waits.
    fn switch(&self, py: Python<'_>, value: Py<PyAny>) -> PyResult<()> {
        match self.waiting(py)? {
            Some(greenlet) => Self::resume(greenlet.bind(py), "switch", PyTuple::new(py, [value])?),
            None => {
                self.keep(Outcome::Value(value));
                Ok(())
            }
        }
    }

    /// switch_args(*args): as `switch`, with the tuple of the arguments
    #[pyo3(signature = (*args))]
    fn switch_args(slf: &Bound<'_, Self>, args: Bound<'_, PyTuple>) -> PyResult<()> {
        slf.call_method1(pyo3::intern!(slf.py(), "switch"), (args,)).map(drop)
    }

    /// throw(*throw_args): raises in the greenlet that waits, or keeps it. In the hub only if one waits.
    #[pyo3(signature = (*throw_args))]
    fn throw(&self, py: Python<'_>, throw_args: Bound<'_, PyTuple>) -> PyResult<()> {
        match self.waiting(py)? {
            Some(greenlet) => Self::resume(greenlet.bind(py), "throw", throw_args),
            None => {
                self.keep(Outcome::Thrown(throw_args.unbind()));
                Ok(())
            }
        }
    }

    /// get() -> what `switch` brings; raises what `throw` brings. Switches unless it is there already.
    fn get(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let thrown = match &*self.fields.outcome.borrow() {
            Outcome::Pending => None,
            Outcome::Value(value) => return Ok(value.clone_ref(py)),
            Outcome::Thrown(args) => Some(args.clone_ref(py)),
        };
        if let Some(args) = thrown {
            let args = args.bind(py);
            let argument = |index: usize| args.get_item(index).ok();
            let (kind, value, traceback) = (argument(0), argument(1), argument(2));
            return Err(lowlevel::thrown(py, kind.as_ref(), value.as_ref(), traceback.as_ref())?);
        }
        if let Some(greenlet) = self.greenlet(py) {
            let message = format!("This Waiter is already used by {}", greenlet.bind(py).repr()?);
            return Err(exceptions::concurrent_object_use(py, &message));
        }
        py_hub::ensure(py)?;
        let current = host::current(py);
        if py_hub::get_hub_if_exists(py).is_some_and(|hub| hub.is(&current)) {
            return Err(exceptions::blocking_switch_out(py));
        }
        self.fields.greenlet.replace(Some(current.unbind()));
        let result = lowlevel::switch_to_hub(py);
        let own = self.fields.greenlet.take();
        drop(own);
        result
    }

    /// Takes the outcome of *source*: what makes this a link target.
    fn __call__(slf: &Bound<'_, Self>, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let exception = source.getattr(pyo3::intern!(py, "exception"))?;
        if exception.is_none() {
            let value = source.getattr(pyo3::intern!(py, "value"))?;
            slf.call_method1(pyo3::intern!(py, "switch"), (value,)).map(drop)
        } else {
            slf.call_method1(pyo3::intern!(py, "throw"), (exception,)).map(drop)
        }
    }

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let this = slf.get();
        let greenlet = match this.greenlet(py) {
            Some(greenlet) => greenlet.bind(py).str()?.to_string(),
            None => "None".to_owned(),
        };
        let outcome = match (this.value(py), this.exc_info(py)) {
            (Some(value), _) => format!(" value={}", value.bind(py).repr()?),
            (None, Some(args)) => format!(" exc_info={}", args.bind(py).repr()?),
            (None, None) => String::new(),
        };
        Ok(format!("<{} greenlet={greenlet}{outcome}>", slf.get_type().name()?))
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        crate::queue::generic_alias(cls, item)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(hub) = self.fields.hub.try_borrow() {
            visit.call(&*hub)?;
        }
        if let Ok(greenlet) = self.fields.greenlet.try_borrow() {
            visit.call(&*greenlet)?;
        }
        if let Ok(outcome) = self.fields.outcome.try_borrow() {
            match &*outcome {
                Outcome::Pending => {}
                Outcome::Value(value) => visit.call(value)?,
                Outcome::Thrown(args) => visit.call(args)?,
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.clear();
        drop(self.fields.hub.take());
    }
}
