//! How loosely Python's arguments are read.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

/// The truth of any object, for flags such as `block`: callers pass 0, 1 and None as well as bools.
#[derive(Clone, Copy)]
pub struct Truth(pub bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Truth {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.is_truthy().map(Truth)
    }
}
