//! How loosely Python's arguments are read.

#![forbid(unsafe_code)]

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyFloat;

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

/// A number as a float: seconds, mostly. The error for anything else names it.
#[derive(Clone, Copy)]
pub struct Real(pub f64);

impl<'a, 'py> FromPyObject<'a, 'py> for Real {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self).map_err(|error| naming(object, error))
    }
}

/// An int. The error for anything else names it.
#[derive(Clone, Copy)]
pub struct Integer<T>(pub T);

impl<'a, 'py, T: FromPyObject<'a, 'py, Error = PyErr>> FromPyObject<'a, 'py> for Integer<T> {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self).map_err(|error| naming(object, error))
    }
}

/// How many: an int, or a float, which is cut as gevent does, so that `n / 2` can be given. The error for anything else
/// names it.
#[derive(Clone, Copy)]
pub struct Count(pub isize);

impl<'a, 'py> FromPyObject<'a, 'py> for Count {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyFloat>() {
            Ok(number) if number.value().is_finite() => Ok(Self(number.value() as isize)),
            _ => object.extract().map(Self).map_err(|error| naming(object, error)),
        }
    }
}

/// Adds the value to a TypeError that tells its type alone.
#[cold]
fn naming(object: Borrowed<'_, '_, PyAny>, error: PyErr) -> PyErr {
    let py = object.py();
    if !error.is_instance_of::<PyTypeError>(py) {
        return error;
    }
    match object.repr() {
        Ok(text) => PyTypeError::new_err(format!("{}: {text}", error.value(py))),
        Err(_) => error,
    }
}
