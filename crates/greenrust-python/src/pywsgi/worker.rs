//! Workers: greenlets that serve one connection after another.
//!
//! A greenlet's stack, once it was used, is a page or two of memory and as many entries of the processor's table of pages.
//! If each of many busy connections had its own, each request would find its stack in no cache. So idle connections have
//! none, and those that have become ready are served in turn on one stack, which so stays in the cache.
//!
//! ```text
//! hub: bytes arrive ──► Service::ready ──► worker: serve, serve, serve ... ──none left──► ends
//!                             ▲                      │ waits for something
//!                             └─── another worker ◄──┘
//! ```
//!
//! Nobody can tell a worker from a greenlet of the connection's own: before it turns to another connection it looks
//! whether the last one's application has left anything in it or knows of it (`local` objects, context variables, links,
//! references). If so it stays with that connection, and ends with it.

#![forbid(unsafe_code)]

use std::cell::Cell;

use greenrust::hub::Hub;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::references;
use super::service::Service;
use crate::gil::Gil;
use crate::greenlet::PyGeventGreenlet;
use crate::host;
use crate::lowlevel::PyGreenlet;
use crate::thread_state;

/// The argument of a worker; if that can't begin, another one is to.
#[pyclass(name = "WSGITurn", module = "gevent._greenrust", frozen)]
pub struct Turn {
    service: Py<Service>,
    has_begun: Gil<Cell<bool>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.has_begun.get() {
            Python::attach(|py| Service::put_off_worker(self.service.bind(py)));
        }
    }
}

/// The running greenlet, as it was before it served anything.
pub struct Worker<'py> {
    greenlet: Bound<'py, PyGreenlet>,
    references: isize,
}

impl Worker<'_> {
    fn new(py: Python<'_>) -> Worker<'_> {
        let greenlet = host::current(py);
        let references = references::count(greenlet.as_unbound());
        Worker { greenlet, references }
    }

    /// Whether no trace of what was served is left in the greenlet, and nobody else knows of it.
    pub fn is_untouched(&self) -> bool {
        let py = self.greenlet.py();
        references::count(self.greenlet.as_unbound()) == self.references
            && references::is_bare(self.greenlet.as_any())
            && self.greenlet.cast::<PyGeventGreenlet>().is_ok_and(PyGeventGreenlet::is_unmarked)
            && Hub::current().running().scope().is_none()
            && thread_state::running_context(py)
                .is_none_or(|context| context.bind(py).len().is_ok_and(|length| length == 0))
    }
}

/// serve_ready(turn)
///
/// Serve the connections of a service that are ready, one after another. Switches.
#[pyfunction]
pub fn serve_ready(turn: &Bound<'_, Turn>) -> PyResult<()> {
    let py = turn.py();
    turn.get().has_begun.set(true);
    let service = turn.get().service.bind(py);
    service.get().begin_work();
    let worker = Worker::new(py);
    while let Some(ready) = Service::next_ready(service) {
        let rests = ready.serve(py, &worker)?;
        if !rests && !worker.is_untouched() {
            // What the application has left behind goes with the greenlet.
            break;
        }
    }
    Ok(())
}

/// Spawns a worker.
pub fn spawn(service: &Bound<'_, Service>) -> PyResult<()> {
    static SERVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = service.py();
    let serve =
        SERVE.get_or_try_init(py, || PyResult::Ok(py.import("gevent._greenrust")?.getattr("serve_ready")?.unbind()))?;
    let turn = Turn { service: service.clone().unbind(), has_begun: Gil::new(Cell::new(false)) };
    let arguments = PyTuple::new(py, [Bound::new(py, turn)?])?;
    PyGeventGreenlet::spawn_plain(py, serve.bind(py).clone(), arguments, None).map(|_| ())
}
