//! Callbacks of objects that become ready: `rawlink` and `unlink`.
//!
//! A callback is called once, in the hub of the thread that linked first, with the object as its argument. Parked
//! greenlets are no links: the object's core wakes them by itself, and before the callbacks are called.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::hub as py_hub;
use crate::nesting;

/// The links of one object.
#[derive(Default)]
pub struct Links {
    callbacks: RefCell<VecDeque<Py<PyAny>>>,
    /// The hub in which they are called.
    home: RefCell<Option<Py<PyAny>>>,
    is_scheduled: Cell<bool>,
}

impl Drop for Links {
    fn drop(&mut self) {
        for callback in self.callbacks.take() {
            nesting::free(callback);
        }
    }
}

impl Links {
    /// Says whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.callbacks.borrow().is_empty()
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.callbacks.borrow().len()
    }

    /// Returns the hub in which they are called, if something was ever linked.
    pub fn home(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.home.borrow().as_ref().map(|home| home.clone_ref(py))
    }

    /// Adds a callback.
    ///
    /// # Errors
    ///
    /// TypeError for what can't be called.
    pub fn add(&self, callback: Bound<'_, PyAny>) -> PyResult<()> {
        let py = callback.py();
        if !callback.is_callable() {
            return Err(PyTypeError::new_err(format!("Expected callable: {}", callback.repr()?)));
        }
        let has_home = self.home.borrow().is_some();
        if !has_home {
            let hub = py_hub::get_hub(py)?;
            self.home.replace(Some(hub.unbind()));
        }
        self.callbacks.borrow_mut().push_back(callback.unbind());
        Ok(())
    }

    /// Removes the first callback that equals the given one, if there is one.
    ///
    /// # Errors
    ///
    /// What comparing raises.
    pub fn remove(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = callback.py();
        let known: Vec<Py<PyAny>> = self.callbacks.borrow().iter().map(|known| known.clone_ref(py)).collect();
        for known in known {
            if known.bind(py).eq(callback)? {
                let removed = {
                    let mut callbacks = self.callbacks.borrow_mut();
                    // Comparing may have run code that changed the list.
                    let place = callbacks.iter().position(|other| other.is(&known));
                    place.and_then(|place| callbacks.remove(place))
                };
                drop(removed);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Has the hub call the links of `owner`, as long as it is ready; all that are there now if `notify_all`.
    pub fn schedule<T>(owner: &Bound<'_, T>, links: fn(&T) -> &Links, is_ready: fn(&T) -> bool, notify_all: bool)
    where
        T: pyo3::PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
    {
        let py = owner.py();
        let this = links(owner.get());
        if this.is_empty() || this.is_scheduled.get() {
            return;
        }
        let Some(home) = this.home(py) else { return };
        this.is_scheduled.set(true);
        let owner = owner.clone().unbind();
        py_hub::call_soon(home.bind(py), move |py| {
            let owner = owner.into_bound(py);
            Self::tell(&owner, links, is_ready, notify_all);
        });
    }

    fn tell<T>(owner: &Bound<'_, T>, links: fn(&T) -> &Links, is_ready: fn(&T) -> bool, notify_all: bool)
    where
        T: pyo3::PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
    {
        let py = owner.py();
        let this = links(owner.get());
        // What is linked meanwhile has its turn later, so that a link that links itself again starves nobody.
        for _ in 0..this.len() {
            if !notify_all && !is_ready(owner.get()) {
                break;
            }
            let Some(callback) = this.callbacks.borrow_mut().pop_front() else { break };
            if let Err(error) = callback.bind(py).call1((owner,)) {
                let context = PyTuple::new(py, [callback.bind(py), owner.as_any()]).map(Bound::into_any);
                py_hub::handle_error(py, context.as_ref().ok(), error);
            }
        }
        this.is_scheduled.set(false);
        if is_ready(owner.get()) {
            Self::schedule(owner, links, is_ready, notify_all);
        }
    }

    /// Reports the references to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(callbacks) = self.callbacks.try_borrow() {
            for callback in &*callbacks {
                visit.call(callback)?;
            }
        }
        if let Ok(home) = self.home.try_borrow() {
            visit.call(&*home)?;
        }
        Ok(())
    }

    /// Drops all links.
    pub fn clear(&self) {
        let old = (std::mem::take(&mut *self.callbacks.borrow_mut()), self.home.take());
        drop(old);
    }
}
