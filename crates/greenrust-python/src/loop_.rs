//! `hub.loop`: the ILoop interface over the runtime's hub.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

/// A thread's event loop, as gevent's programs see it.
#[pyclass(name = "loop", module = "gevent.core", subclass, frozen)]
pub struct PyLoop {}

impl PyLoop {
    /// Makes the loop object of the calling thread's hub.
    pub fn for_thread(_py: Python<'_>) -> Self {
        Self {}
    }
}

/// Runs prepare watchers. Returns true if there is something new to do.
pub fn before_poll(_py: Python<'_>) -> bool {
    false
}

/// Runs check watchers.
pub fn after_poll(_py: Python<'_>) {}

/// Runs idle watchers. Returns true if one ran.
pub fn idle(_py: Python<'_>) -> bool {
    false
}
