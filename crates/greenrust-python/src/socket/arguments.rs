//! The arguments of the methods, as CPython's vector calls bring them, and their results.

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

/// The arguments of a vector call.
#[derive(Clone, Copy)]
pub(super) struct Arguments {
    pub(super) values: *const *mut ffi::PyObject,
    /// How many are positional.
    pub(super) count: usize,
    /// A tuple of names for the values after these, or null.
    pub(super) names: *mut ffi::PyObject,
}

impl Arguments {
    pub(super) fn named(self) -> usize {
        // SAFETY: null or a tuple.
        if self.names.is_null() { 0 } else { (unsafe { ffi::PyTuple_GET_SIZE(self.names) }) as usize }
    }

    /// Returns the positional argument `index`, or null.
    pub(super) fn positional(self, index: usize) -> *mut ffi::PyObject {
        // SAFETY: within the vector.
        if index < self.count { unsafe { *self.values.add(index) } } else { std::ptr::null_mut() }
    }

    /// Returns the argument that is called `name`, or null.
    pub(super) fn keyword(self, name: &CStr) -> *mut ffi::PyObject {
        for index in 0..self.named() {
            // SAFETY: within the tuple, which holds strings; the values follow the positional ones.
            unsafe {
                let found = ffi::PyTuple_GET_ITEM(self.names, index as ffi::Py_ssize_t);
                if ffi::PyUnicode_CompareWithASCIIString(found, name.as_ptr()) == 0 {
                    return *self.values.add(self.count + index);
                }
            }
        }
        std::ptr::null_mut()
    }

    /// Sorts the arguments by name; the first `required` must be there, the others are null if absent.
    pub(super) fn parse<const N: usize>(
        self,
        function: &str,
        names: [&CStr; N],
        required: usize,
    ) -> PyResult<[*mut ffi::PyObject; N]> {
        let named = self.named();
        if self.count + named > N || self.count + named < required {
            let given = self.count + named;
            return Err(PyTypeError::new_err(format!(
                "{function}() takes {required} to {N} arguments ({given} given)"
            )));
        }
        let mut found = [std::ptr::null_mut(); N];
        let mut used = 0;
        for (index, slot) in found.iter_mut().enumerate() {
            *slot = self.positional(index);
            if named > 0 && slot.is_null() && !names[index].is_empty() {
                *slot = self.keyword(names[index]);
                used += usize::from(!slot.is_null());
            }
            if slot.is_null() && index < required {
                let name = names[index].to_string_lossy();
                return Err(PyTypeError::new_err(format!("{function}() misses the argument {name:?}")));
            }
        }
        if used < named {
            return Err(PyTypeError::new_err(format!("{function}() got an unexpected keyword argument")));
        }
        Ok(found)
    }
}

pub(super) fn fetched<T>(py: Python<'_>) -> PyResult<T> {
    Err(PyErr::fetch(py))
}

/// Reads a size as CPython's "n" does.
pub(super) fn size(py: Python<'_>, object: *mut ffi::PyObject, negative: &'static str) -> PyResult<usize> {
    // SAFETY: a live object; a failure is fetched.
    let value = unsafe { ffi::PyNumber_AsSsize_t(object, ffi::PyExc_OverflowError) };
    // SAFETY: a query.
    if value == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        return fetched(py);
    }
    usize::try_from(value).map_err(|_| PyValueError::new_err(negative))
}

/// Reads flags as CPython's "i" does; 0 for an absent argument.
#[inline]
pub(super) fn flags(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<c_int> {
    if object.is_null() {
        return Ok(0);
    }
    // SAFETY: a live object; a failure is fetched.
    let value = unsafe { ffi::PyLong_AsLong(object) };
    // SAFETY: a query.
    if value == -1 && !unsafe { ffi::PyErr_Occurred() }.is_null() {
        return fetched(py);
    }
    c_int::try_from(value)
        .map_err(|_| pyo3::exceptions::PyOverflowError::new_err("signed integer does not fit a C int"))
}

/// A buffer that is released when dropped. While it is held its exporter can't be resized.
pub(super) struct Buffer(ffi::Py_buffer);

impl Buffer {
    pub(super) fn get(py: Python<'_>, object: *mut ffi::PyObject, flags: c_int) -> PyResult<Self> {
        let mut view = MaybeUninit::<ffi::Py_buffer>::uninit();
        // SAFETY: a live object and room for the view.
        if unsafe { ffi::PyObject_GetBuffer(object, view.as_mut_ptr(), flags) } != 0 {
            // SAFETY: a type query of a live object.
            if flags == ffi::PyBUF_WRITABLE && unsafe { ffi::PyObject_CheckBuffer(object) } != 0 {
                drop(PyErr::take(py));
                return Err(PyTypeError::new_err("a read-write bytes-like object is required"));
            }
            return fetched(py);
        }
        // SAFETY: filled in by the successful call.
        Ok(Self(unsafe { view.assume_init() }))
    }

    pub(super) fn memory(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len as usize
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: acquired in `get`, with the GIL held as now.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}

pub(super) fn none() -> *mut ffi::PyObject {
    // SAFETY: None lives for ever; a new reference to it is given away.
    unsafe {
        let none = ffi::Py_None();
        ffi::Py_INCREF(none);
        none
    }
}

pub(super) fn integer(py: Python<'_>, value: usize) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the GIL is held.
    let object = unsafe { ffi::PyLong_FromSize_t(value) };
    if object.is_null() { fetched(py) } else { Ok(object) }
}

/// Gives a result to CPython.
#[inline]
pub(super) fn respond(py: Python<'_>, result: PyResult<*mut ffi::PyObject>) -> *mut ffi::PyObject {
    match result {
        Ok(object) => object,
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}
