//! `greenlet._C_API`: the functions that extensions compiled with PyPI's `greenlet.h` call.
//!
//! The header reads a table of twelve pointers from a capsule and knows their order (`greenlet.h` 3.5, `PyGreenlet_*_NUM`).
//! It takes the object itself for opaque, which ours is.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::exceptions;
use crate::fastcall;
use crate::host;
use crate::lowlevel::PyGreenlet;

type Object = *mut ffi::PyObject;

/// The functions, by their types.
#[repr(C)]
struct Table {
    greenlet_type: Object,
    greenlet_error: Object,
    greenlet_exit: Object,
    new: unsafe extern "C" fn(Object, Object) -> Object,
    get_current: unsafe extern "C" fn() -> Object,
    throw: unsafe extern "C" fn(Object, Object, Object, Object) -> Object,
    switch: unsafe extern "C" fn(Object, Object, Object) -> Object,
    set_parent: unsafe extern "C" fn(Object, Object) -> c_int,
    main: unsafe extern "C" fn(Object) -> c_int,
    started: unsafe extern "C" fn(Object) -> c_int,
    active: unsafe extern "C" fn(Object) -> c_int,
    get_parent: unsafe extern "C" fn(Object) -> Object,
}

/// Adds the capsule to the module; the table lives as long as the process.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let table = Box::leak(Box::new(Table {
        greenlet_type: PyType::new::<PyGreenlet>(py).into_ptr(),
        greenlet_error: py.get_type::<exceptions::GreenletError>().into_ptr(),
        greenlet_exit: py.get_type::<exceptions::GreenletExit>().into_ptr(),
        new,
        get_current,
        throw,
        switch,
        set_parent,
        main,
        started,
        active,
        get_parent,
    }));
    // SAFETY: table and name live for ever.
    let capsule = unsafe {
        let capsule = ffi::PyCapsule_New(std::ptr::from_mut(table).cast(), c"greenlet._C_API".as_ptr(), None);
        Bound::from_owned_ptr_or_err(py, capsule)?
    };
    module.add("_C_API", capsule)
}

/// Returns the object at an address that C code has passed, as long as the call lasts.
fn given<'py>(py: Python<'py>, object: Object) -> Option<Bound<'py, PyAny>> {
    // SAFETY: null or an object that the caller holds, as everywhere in CPython's own interface.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, object) }
}

/// Returns the greenlet at an address that C code has passed; TypeError ("bad argument type") for anything else.
fn greenlet<'py>(py: Python<'py>, object: Object) -> PyResult<Bound<'py, PyGreenlet>> {
    match given(py, object).map(|object| object.cast_into::<PyGreenlet>()) {
        Some(Ok(greenlet)) => Ok(greenlet),
        _ => {
            // SAFETY: sets the error that is fetched next.
            unsafe { ffi::PyErr_BadArgument() };
            Err(PyErr::fetch(py))
        }
    }
}

/// Runs the body of a function that returns an object, or null for none.
fn answer(body: impl for<'py> FnOnce(Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>>) -> Object {
    // SAFETY: C code calls with the GIL held.
    let py = unsafe { Python::assume_attached() };
    fastcall::guard(py, || Ok(body(py)?.map_or(std::ptr::null_mut(), Bound::into_ptr)))
}

/// Runs the body of a function that returns a number; -1 with an exception set says that it has failed.
fn number(body: impl for<'py> FnOnce(Python<'py>) -> PyResult<bool>) -> c_int {
    // SAFETY: as in `answer`.
    let py = unsafe { Python::assume_attached() };
    let mut result = -1;
    fastcall::guard(py, || {
        result = c_int::from(body(py)?);
        Ok(std::ptr::null_mut())
    });
    result
}

/// Calls a method of the class itself: what a subclass overrides is not for C code.
fn call<'py>(
    greenlet: &Bound<'py, PyGreenlet>,
    name: &str,
    args: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = greenlet.py();
    let arguments: Vec<Bound<'_, PyAny>> = std::iter::once(greenlet.clone().into_any()).chain(args.iter()).collect();
    PyType::new::<PyGreenlet>(py).getattr(name)?.call(PyTuple::new(py, arguments)?, keywords)
}

unsafe extern "C" fn new(run: Object, parent: Object) -> Object {
    answer(|py| {
        let keywords = PyDict::new(py);
        if let Some(run) = given(py, run) {
            keywords.set_item("run", run)?;
        }
        if let Some(parent) = given(py, parent) {
            keywords.set_item("parent", parent)?;
        }
        PyType::new::<PyGreenlet>(py).call((), Some(&keywords)).map(Some)
    })
}

unsafe extern "C" fn get_current() -> Object {
    answer(|py| Ok(Some(host::current(py).into_any())))
}

unsafe extern "C" fn throw(this: Object, kind: Object, value: Object, traceback: Object) -> Object {
    answer(|py| {
        let none = || py.None().into_bound(py);
        let mut arguments = Vec::new();
        if let Some(kind) = given(py, kind) {
            arguments = vec![kind, given(py, value).unwrap_or_else(none), given(py, traceback).unwrap_or_else(none)];
        }
        call(&greenlet(py, this)?, "throw", &PyTuple::new(py, arguments)?, None).map(Some)
    })
}

unsafe extern "C" fn switch(this: Object, args: Object, keywords: Object) -> Object {
    answer(|py| {
        let this = greenlet(py, this)?;
        let args = match given(py, args) {
            Some(args) => args.cast_into::<PyTuple>()?,
            None => PyTuple::empty(py),
        };
        // As the original does it, anything that is no dictionary stands for none.
        let keywords = given(py, keywords).and_then(|keywords| keywords.cast_into::<PyDict>().ok());
        call(&this, "switch", &args, keywords.as_ref()).map(Some)
    })
}

unsafe extern "C" fn set_parent(this: Object, parent: Object) -> c_int {
    number(|py| PyGreenlet::adopt(&greenlet(py, this)?, greenlet(py, parent)?).map(|()| false))
}

unsafe extern "C" fn main(this: Object) -> c_int {
    number(|py| Ok(greenlet(py, this)?.get().is_root()))
}

unsafe extern "C" fn started(this: Object) -> c_int {
    number(|py| Ok(greenlet(py, this)?.get().has_begun()))
}

unsafe extern "C" fn active(this: Object) -> c_int {
    number(|py| greenlet(py, this)?.is_truthy())
}

unsafe extern "C" fn get_parent(this: Object) -> Object {
    answer(|py| Ok(greenlet(py, this)?.get().parent_of(py).map(|parent| parent.into_bound(py).into_any())))
}
