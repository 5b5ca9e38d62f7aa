//! `gevent.CancelScope`: a `with` block that can be cancelled, by a call or by a deadline.
//!
//! The tree of scopes, and the ends of waits, are the runtime's. Here is what a scope's end makes of `Cancelled`.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::hub::{Hub, RawGreenlet, Scope};
use pyo3::exceptions::{PyBaseException, PyBaseExceptionGroup, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyType};

use crate::exceptions::Cancelled;
use crate::gil::Gil;
use crate::greenlet::PyGeventGreenlet;
use crate::host;
use crate::hub as py_hub;

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Cancelled", module.py().get_type::<Cancelled>())?;
    module.add_class::<PyCancelScope>()
}

struct Fields {
    scope: Scope,
    /// Seconds of `time.monotonic()`; infinite for none.
    deadline: Cell<f64>,
    /// Seconds from the entry; infinite for none.
    relative_deadline: Cell<f64>,
    was_caught: Cell<bool>,
    /// The greenlet that is in the scope's block.
    owner: RefCell<Option<RawGreenlet>>,
}

/// CancelScope(*, deadline=inf, relative_deadline=inf, shield=False)
///
/// A block of code that can be cancelled: `with CancelScope() as scope`. Once `scope.cancel()` was called, or *deadline*
/// has passed, everything that would wait in the block raises `Cancelled`, each time anew, and the block's end catches it.
///
/// *deadline*: seconds of `time.monotonic()`, a float. *relative_deadline*: seconds from the entry. *shield*: whether to
/// hold back what comes from outside (outer scopes that are cancelled, kills, timeouts) until the block ends. Raises
/// ValueError for a deadline that is not a number.
#[pyclass(name = "CancelScope", module = "gevent", frozen, weakref)]
pub struct PyCancelScope {
    fields: Gil<Fields>,
}

fn checked(name: &str, seconds: f64) -> PyResult<f64> {
    if seconds.is_nan() {
        return Err(PyValueError::new_err(format!("{name} must be a number of seconds, not NaN")));
    }
    Ok(seconds)
}

/// A shield is on or off; anything else is a mistake, such as a deadline in its place.
fn checked_shield(shield: &Bound<'_, PyAny>) -> PyResult<bool> {
    match shield.cast::<PyBool>() {
        Ok(shield) => Ok(shield.is_true()),
        Err(_) => Err(PyTypeError::new_err(format!("shield must be a bool, not {}", shield.repr()?))),
    }
}

/// Returns the hub's instant for a reading of `time.monotonic()`, which is the same clock.
fn instant(seconds: f64) -> Option<Instant> {
    if seconds == f64::INFINITY {
        return None;
    }
    Some(Instant::default().after(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}

impl PyCancelScope {
    /// Arranges for the deadline, in whichever thread the scope's block runs.
    fn set_timer(&self, py: Python<'_>) {
        let Some(owner) = self.fields.owner.borrow().clone() else { return };
        let (scope, deadline) = (self.fields.scope.clone(), instant(self.fields.deadline.get()));
        let here = host::runtime(py);
        if std::ptr::eq(owner.hub(), here) {
            scope.set_deadline(here, deadline);
        } else {
            host::push_call(py, owner.hub(), move |hub: &Hub| scope.set_deadline(hub, deadline));
        }
    }

    fn is_expired(&self, py: Python<'_>) -> bool {
        self.fields.owner.borrow().is_some()
            && instant(self.fields.deadline.get()).is_some_and(|deadline| deadline <= host::runtime(py).clock().now())
    }

    /// Takes the running greenlet, which must be the block's, out of the scope.
    fn leave(&self, py: Python<'_>) -> PyResult<&'static Hub> {
        let hub = host::runtime(py);
        let running = hub.running();
        let is_own = self.fields.owner.borrow().as_ref().is_some_and(|owner| owner.is(&running));
        if !is_own || !running.leave_scope(&self.fields.scope) {
            return Err(PyRuntimeError::new_err(if is_own {
                "a cancel scope ends before one that was entered in it, or was held across an await of asyncio"
            } else {
                "a cancel scope ends in another greenlet than it began in, or has not begun"
            }));
        }
        drop(self.fields.owner.take());
        Ok(hub)
    }
}

#[pymethods]
impl PyCancelScope {
    #[new]
    #[pyo3(signature = (*, deadline=f64::INFINITY, relative_deadline=f64::INFINITY, shield=None))]
    fn new(deadline: f64, relative_deadline: f64, shield: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let scope = Scope::new();
        if let Some(shield) = shield {
            scope.set_shield(checked_shield(shield)?);
        }
        let relative_deadline = checked("relative_deadline", relative_deadline)?;
        if relative_deadline < 0.0 {
            return Err(PyValueError::new_err(format!("relative_deadline must not be negative: {relative_deadline}")));
        }
        Ok(Self {
            fields: Gil::new(Fields {
                scope,
                deadline: Cell::new(checked("deadline", deadline)?),
                relative_deadline: Cell::new(relative_deadline),
                was_caught: Cell::new(false),
                owner: RefCell::new(None),
            }),
        })
    }

    /// cancel(reason=None): cancels the block. What waits in it is woken. Does not switch.
    ///
    /// *reason* is for people who read the code.
    #[pyo3(signature = (reason=None))]
    fn cancel(&self, reason: Option<&str>) {
        let _ = reason;
        self.fields.scope.cancel();
    }

    /// Whether the scope was cancelled: by `cancel()`, or as its deadline has passed.
    #[getter]
    fn cancel_called(&self, py: Python<'_>) -> bool {
        if !self.fields.scope.is_cancelled() && self.is_expired(py) {
            // The hub has not come to look at the time.
            self.fields.scope.cancel();
        }
        self.fields.scope.is_cancelled()
    }

    /// Whether the block has ended by a `Cancelled` of this scope.
    #[getter]
    fn cancelled_caught(&self) -> bool {
        self.fields.was_caught.get()
    }

    /// When the scope is cancelled, in seconds of `time.monotonic()`; infinite for never.
    #[getter]
    fn deadline(&self) -> f64 {
        self.fields.deadline.get()
    }

    #[setter]
    fn set_deadline(&self, py: Python<'_>, deadline: f64) -> PyResult<()> {
        self.fields.deadline.set(checked("deadline", deadline)?);
        self.set_timer(py);
        Ok(())
    }

    /// How many seconds after its entry the scope is cancelled; infinite for never.
    #[getter]
    fn relative_deadline(&self) -> f64 {
        self.fields.relative_deadline.get()
    }

    /// Whether the block holds back what comes from outside.
    #[getter]
    fn shield(&self) -> bool {
        self.fields.scope.is_shielded()
    }

    #[setter]
    fn set_shield(&self, shield: &Bound<'_, PyAny>) -> PyResult<()> {
        self.fields.scope.set_shield(checked_shield(shield)?);
        Ok(())
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let fields = &slf.get().fields;
        if fields.scope.was_entered() {
            return Err(PyRuntimeError::new_err("a CancelScope is used for one 'with' block only"));
        }
        let hub = py_hub::ensure(slf.py())?;
        let running = hub.running();
        running.enter_scope(&fields.scope);
        fields.owner.replace(Some(running));
        let relative = fields.relative_deadline.get();
        if relative != f64::INFINITY {
            let now = hub.clock().now().as_nanos() as f64 / 1e9;
            fields.deadline.set(fields.deadline.get().min(now + relative));
        }
        slf.get().set_timer(slf.py());
        Ok(slf.clone())
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let is_own = self.fields.scope.is_cancelled() && !self.fields.scope.is_reached_from_above();
        let hub = self.leave(value.py())?;
        self.fields.scope.close(hub);
        if !is_own || value.is_none() {
            return Ok(false);
        }
        if value.is_instance_of::<Cancelled>() {
            self.fields.was_caught.set(true);
            return Ok(true);
        }
        self.catch_in_group(value)
    }

    /// Takes the block's greenlet out of the scope, whose other members may still be in it: a task group waits for them
    /// outside. Returns whether a Cancelled of the block is the scope's to catch.
    fn _leave(&self, py: Python<'_>) -> PyResult<bool> {
        let is_own = self.fields.scope.is_cancelled() && !self.fields.scope.is_reached_from_above();
        self.leave(py).map(|_| is_own)
    }

    /// Ends the scope that `_leave` was called of, when nobody is in it any more: *caught* says whether what ended waits
    /// in it was caught there.
    fn _close(&self, py: Python<'_>, caught: bool) {
        self.fields.was_caught.set(caught);
        self.fields.scope.close(host::runtime(py));
    }

    /// Makes *greenlet*, which has not started, a member of the scope, and its error the business of who asked for that:
    /// the hub does not report it.
    fn _adopt(&self, greenlet: &Bound<'_, PyGeventGreenlet>) {
        greenlet.as_super().get().raw().join_scope(&self.fields.scope);
        greenlet.get().set_supervised();
    }

    /// Says whether *exception* is what was last thrown into the block from outside: by a kill, or a timeout.
    fn _was_thrown(&self, exception: &Bound<'_, PyAny>) -> bool {
        self.fields.scope.mark() == host::thrown_mark(exception)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let state = match (this.fields.owner.borrow().is_some(), this.fields.scope.was_entered()) {
            (true, _) => "active",
            (false, true) => "exited",
            (false, false) => "unbound",
        };
        let cancelled = if this.fields.scope.is_cancelled() { ", cancelled" } else { "" };
        format!("<gevent.CancelScope at {:#x}, {state}{cancelled}>", slf.as_ptr() as usize)
    }
}

impl PyCancelScope {
    /// Takes the `Cancelled`s out of an exception group; the rest goes on.
    fn catch_in_group(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = value.py();
        if !value.is_instance_of::<PyBaseExceptionGroup>() {
            return Ok(false);
        }
        let parts = value.call_method1(pyo3::intern!(py, "split"), (PyType::new::<Cancelled>(py),))?;
        let (caught, rest) = (parts.get_item(0)?, parts.get_item(1)?);
        if caught.is_none() {
            return Ok(false);
        }
        self.fields.was_caught.set(true);
        match rest.cast_into::<PyBaseException>() {
            Ok(rest) => Err(PyErr::from_value(rest.into_any())),
            Err(_) => Ok(true),
        }
    }
}
