//! Whom the end of a greenlet is told: those that wait in `join`, `get` and `joinall`, and callbacks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use greenrust::hub::Waker;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{PyGeventGreenlet, hub_object};
use crate::host::Payload;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;

/// Whom to tell of the end.
pub(super) enum Link {
    /// A greenlet parked in `join` or `get`.
    Waker(Waker),
    /// A greenlet parked in `joinall`.
    Joiner(Rc<Joiner>),
    /// A callable, called in the hub.
    Raw(Py<PyAny>),
    /// A callable, called in a greenlet of its own; for every end, or only for success or failure.
    Spawned(Py<PyAny>, Option<bool>),
}

/// A `joinall` that waits for several greenlets.
pub(super) struct Joiner {
    pub(super) waker: Waker,
    pub(super) missing: Cell<usize>,
    pub(super) done: RefCell<Vec<Py<PyAny>>>,
}

impl PyGeventGreenlet {
    /// Has the links told. Parked greenlets are woken by themselves; anything else takes one callback of the hub.
    pub(super) fn schedule_links(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        if fields.links.borrow().is_empty() || fields.links_scheduled.get() {
            return;
        }
        if fields.links.borrow().iter().all(|link| matches!(link, Link::Waker(_) | Link::Joiner(_))) {
            Self::tell_links(slf);
            return;
        }
        fields.links_scheduled.set(true);
        let greenlet = slf.clone().unbind();
        slf.as_super().get().hub().push_call(move |_| {
            // SAFETY: hubs run with the GIL held.
            let py = unsafe { Python::assume_attached() };
            let greenlet = greenlet.into_bound(py);
            greenlet.get().fields.links_scheduled.set(false);
            Self::tell_links(&greenlet);
        });
    }

    fn tell_links(slf: &Bound<'_, Self>) {
        let py = slf.py();
        loop {
            let link = {
                let mut links = slf.get().fields.links.borrow_mut();
                if links.is_empty() {
                    return;
                }
                links.remove(0)
            };
            let outcome = match link {
                Link::Waker(waker) => {
                    waker.unpark();
                    Ok(())
                }
                Link::Joiner(joiner) => {
                    joiner.done.borrow_mut().push(slf.clone().unbind().into_any());
                    let missing = joiner.missing.get().saturating_sub(1);
                    joiner.missing.set(missing);
                    if missing == 0 {
                        joiner.waker.unpark();
                    }
                    Ok(())
                }
                Link::Raw(callback) => callback.bind(py).call1((slf,)).map(drop).map_err(|error| (error, callback)),
                Link::Spawned(callback, only) => {
                    if only.is_none_or(|wanted| wanted == slf.get().is_successful()) {
                        call_in_greenlet(slf, &callback).map_err(|error| (error, callback))
                    } else {
                        Ok(())
                    }
                }
            };
            if let Err((error, callback)) = outcome {
                let context = PyTuple::new(py, [callback.bind(py), slf.as_any()]).map(Bound::into_any);
                py_hub::handle_error(py, context.as_ref().ok(), error);
            }
        }
    }

    pub(super) fn add_link(slf: &Bound<'_, Self>, link: Link) {
        slf.get().fields.links.borrow_mut().push(link);
        if Self::is_ready(slf) {
            Self::schedule_links(slf);
        }
    }

    pub(super) fn link_spawned(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>, only: Option<bool>) -> PyResult<()> {
        if !callback.is_callable() {
            return Err(PyTypeError::new_err(format!("Expected callable: {}", callback.repr()?)));
        }
        Self::add_link(slf, Link::Spawned(callback.unbind(), only));
        Ok(())
    }
}

/// Calls a link's callback with its source, in a greenlet of its own that starts at once.
fn call_in_greenlet(source: &Bound<'_, PyGeventGreenlet>, callback: &Py<PyAny>) -> PyResult<()> {
    let py = source.py();
    let parent = hub_object(py)?;
    let greenlet = Bound::new(py, PyGreenlet::unstarted(py, Some(callback.clone_ref(py)), Some(parent)))?;
    PyGreenlet::bind_object(&greenlet);
    PyGreenlet::enter(&greenlet, Payload::Start(PyTuple::new(py, [source])?.unbind(), None)).map(drop)
}
