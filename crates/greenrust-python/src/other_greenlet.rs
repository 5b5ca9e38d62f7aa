//! What `gevent/_other_greenlet.py` needs to confine PyPI's greenlet, if a program has imported it before gevent.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

/// Adds the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(replace_method, module)?)
}

/// replace_method(class, name, method, /)
///
/// Set a method of a class that does not allow it, such as one of an extension module. Raises TypeError for a *class* that
/// has no method of that *name* of its own. Does not switch.
#[pyfunction]
#[pyo3(signature = (class, name, method, /))]
fn replace_method(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>, method: &Bound<'_, PyAny>) -> PyResult<()> {
    let class_pointer = class.as_type_ptr();
    // SAFETY: a live class, whose dictionary lives as long; the GIL is held. Extensions' classes keep it in this field, also
    // where CPython's own static ones (3.12 and later) have one for each interpreter, and null here.
    let methods = unsafe { Bound::from_borrowed_ptr_or_opt(class.py(), (*class_pointer).tp_dict) };
    let Some(methods) = methods.and_then(|methods| methods.cast_into::<PyDict>().ok()) else {
        return Err(PyTypeError::new_err(format!("{class} has no dictionary of its own")));
    };
    if !methods.contains(name)? {
        return Err(PyTypeError::new_err(format!("{class} has no method {name}")));
    }
    methods.set_item(name, method)?;
    // SAFETY: as above; what CPython has remembered of the class's attributes is forgotten.
    unsafe { ffi::PyType_Modified(class_pointer) };
    Ok(())
}
