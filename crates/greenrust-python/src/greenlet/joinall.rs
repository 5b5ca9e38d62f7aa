//! Waiting for many greenlets in one park.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use greenrust::hub::{WaitingFor, Wake};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::links::{Joiner, Link};
use super::{PyGeventGreenlet, deadline};
use crate::arguments::Real;
use crate::host;

/// Waits for greenlets that are all ours, in one park: the fast path of `joinall` without count.
///
/// Returns the ended ones, in the order of their end, or None if some object is not a plain Greenlet of this thread.
#[pyfunction]
#[pyo3(signature = (greenlets, timeout=None))]
pub fn join_greenlets<'py>(
    py: Python<'py>,
    greenlets: &Bound<'py, PyList>,
    timeout: Option<Real>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let mut members: Vec<Bound<'py, PyGeventGreenlet>> = Vec::with_capacity(greenlets.len());
    for object in greenlets.iter() {
        match object.cast_into::<PyGeventGreenlet>() {
            Ok(greenlet) => members.push(greenlet),
            Err(_) => return Ok(None),
        }
    }
    let done = PyList::empty(py);
    let mut waiting: Vec<&Bound<'py, PyGeventGreenlet>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for greenlet in &members {
        if !seen.insert(greenlet.as_ptr() as usize) {
            continue;
        }
        if PyGeventGreenlet::is_ready(greenlet) {
            done.append(greenlet)?;
        } else {
            waiting.push(greenlet);
        }
    }
    if waiting.is_empty() {
        return Ok(Some(done));
    }
    let only = (waiting.len() == 1).then(|| waiting[0].as_super().get().raw().serial());
    let (hub, waker) = host::begin_park(py, WaitingFor::Join(only))?;
    let joiner = Rc::new(Joiner { waker: waker.clone(), missing: Cell::new(waiting.len()), done: RefCell::default() });
    for greenlet in &waiting {
        greenlet.get().fields.links.borrow_mut().push(Link::Joiner(joiner.clone()));
    }
    let result = host::park(py, hub, &waker, deadline(hub, timeout.map(|Real(seconds)| seconds)), true);
    if !matches!(result, Ok(Wake::Unparked)) {
        for greenlet in &waiting {
            let mut links = greenlet.get().fields.links.borrow_mut();
            links.retain(|link| !matches!(link, Link::Joiner(other) if Rc::ptr_eq(other, &joiner)));
        }
    }
    result?;
    for greenlet in joiner.done.take() {
        done.append(greenlet)?;
    }
    Ok(Some(done))
}
