//! What `gevent.util.format_run_info` has to know of the runtime.

#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::lowlevel::PyGreenlet;

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(get_reachable_greenlets, module)?)?;
    module.add_function(wrap_pyfunction!(running_thread, module)?)
}

/// running_thread(greenlet) -> the ident of the thread in which it runs, or None
///
/// In other threads than the calling one, that is the greenlet which gave up the GIL there.
#[pyfunction]
fn running_thread(greenlet: &Bound<'_, PyGreenlet>) -> Option<u64> {
    greenlet.get().running_thread(greenlet.py())
}

/// get_reachable_greenlets() -> the greenlets that the garbage collector knows
///
/// Without those that have a true attribute `greenlet_tree_is_ignored`.
#[pyfunction]
fn get_reachable_greenlets(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let found = PyList::empty(py);
    for object in py.import("gc")?.call_method0("get_objects")?.cast_into::<PyList>()?.iter() {
        // Other objects may not be whole yet, and are not touched.
        if object.cast::<PyGreenlet>().is_err() {
            continue;
        }
        let is_ignored = object.getattr_opt(pyo3::intern!(py, "greenlet_tree_is_ignored"))?;
        if !is_ignored.map_or(Ok(false), |mark| mark.is_truthy())? {
            found.append(object)?;
        }
    }
    Ok(found)
}
