//! Functions and methods with CPython's fast calling convention, defined by hand.
//!
//! PyO3 packs a tuple for `*args`, and puts about 700 bytes of frames between Python and a function's body. Both matter
//! for the few functions that programs spend their time in, or that stand on the stack of every suspended greenlet.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

/// The arguments of one call: borrowed, positional ones first.
pub struct Arguments<'py> {
    values: *const *mut ffi::PyObject,
    positional: usize,
    names: *mut ffi::PyObject,
    py: PhantomData<Python<'py>>,
}

impl<'py> Arguments<'py> {
    /// # Safety
    ///
    /// The three are what CPython passed to a `METH_FASTCALL | METH_KEYWORDS` function that is still running.
    pub unsafe fn new(values: *const *mut ffi::PyObject, count: ffi::Py_ssize_t, names: *mut ffi::PyObject) -> Self {
        Self { values, positional: count as usize, names, py: PhantomData }
    }

    fn py(&self) -> Python<'py> {
        // SAFETY: a function is called with the GIL held.
        unsafe { Python::assume_attached() }
    }

    fn named(&self) -> usize {
        // SAFETY: `names` is null or a tuple.
        if self.names.is_null() { 0 } else { unsafe { ffi::PyTuple_GET_SIZE(self.names) as usize } }
    }

    /// Says whether there are no arguments at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.positional == 0 && self.named() == 0
    }

    /// Returns the argument of a call with one, which is positional.
    #[inline]
    pub fn only(&self) -> Option<Bound<'py, PyAny>> {
        (self.positional == 1 && self.named() == 0).then(|| self.get(0))
    }

    /// Returns an argument by its place.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    #[inline]
    pub fn get(&self, index: usize) -> Bound<'py, PyAny> {
        assert!(index < self.positional + self.named());
        // SAFETY: CPython passes that many references, which it keeps during the call.
        unsafe { Bound::from_borrowed_ptr(self.py(), *self.values.add(index)) }
    }

    /// Assigns the arguments to the parameters of a function, all of them optional.
    ///
    /// # Errors
    ///
    /// TypeError for too many, unknown or repeated ones.
    #[inline(never)]
    pub fn bind<const N: usize>(
        &self,
        function: &str,
        parameters: [&str; N],
    ) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
        if self.positional > N {
            return Err(PyTypeError::new_err(format!(
                "{function}() takes at most {N} positional arguments ({} given)",
                self.positional
            )));
        }
        let mut bound: [Option<Bound<'py, PyAny>>; N] =
            std::array::from_fn(|index| (index < self.positional).then(|| self.get(index)));
        for index in 0..self.named() {
            // SAFETY: `names` is a tuple with that many entries.
            let name = unsafe {
                Bound::from_borrowed_ptr(self.py(), ffi::PyTuple_GET_ITEM(self.names, index as ffi::Py_ssize_t))
            };
            let name: String = name.extract()?;
            let Some(place) = parameters.iter().position(|parameter| *parameter == name) else {
                return Err(PyTypeError::new_err(format!("{function}() got an unexpected keyword argument '{name}'")));
            };
            if bound[place].replace(self.get(self.positional + index)).is_some() {
                return Err(PyTypeError::new_err(format!("{function}() got multiple values for argument '{name}'")));
            }
        }
        Ok(bound)
    }

    /// Packs the positional arguments from `first` on into a tuple.
    pub fn tuple_from(&self, first: usize) -> PyResult<Bound<'py, PyTuple>> {
        let count = self.positional.saturating_sub(first);
        // SAFETY: the new tuple is filled before anybody sees it; the arguments are alive during the call.
        unsafe {
            let tuple = Bound::from_owned_ptr_or_err(self.py(), ffi::PyTuple_New(count as ffi::Py_ssize_t))?;
            for index in 0..count {
                let value = ffi::Py_NewRef(*self.values.add(first + index));
                ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index as ffi::Py_ssize_t, value);
            }
            Ok(tuple.cast_into_unchecked())
        }
    }

    /// Packs the keyword arguments into a dictionary; None if there are none.
    pub fn keywords(&self) -> PyResult<Option<Bound<'py, PyDict>>> {
        if self.named() == 0 {
            return Ok(None);
        }
        let dictionary = PyDict::new(self.py());
        for index in 0..self.named() {
            // SAFETY: `names` is a tuple with that many entries.
            let name = unsafe {
                Bound::from_borrowed_ptr(self.py(), ffi::PyTuple_GET_ITEM(self.names, index as ffi::Py_ssize_t))
            };
            dictionary.set_item(name, self.get(self.positional + index))?;
        }
        Ok(Some(dictionary))
    }
}

/// Turns the result of a body into what CPython expects; a panic becomes an exception.
#[inline]
pub fn guard(py: Python<'_>, body: impl FnOnce() -> PyResult<*mut ffi::PyObject>) -> *mut ffi::PyObject {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            error.restore(py);
            std::ptr::null_mut()
        }
        Err(panic) => panicked(py, &*panic),
    }
}

#[cold]
fn panicked(py: Python<'_>, panic: &(dyn std::any::Any + Send)) -> *mut ffi::PyObject {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic");
    PanicException::new_err(text.to_owned()).restore(py);
    std::ptr::null_mut()
}

/// What a [`FastFunction`] does, without unsafe code.
pub trait Function {
    /// Does it.
    ///
    /// # Errors
    ///
    /// What the caller in Python is to see.
    fn call(py: Python<'_>, arguments: &Arguments<'_>) -> PyResult<()>;
}

/// A module function that returns None.
pub struct FastFunction {
    definition: UnsafeCell<ffi::PyMethodDef>,
}

// SAFETY: the definition is written never, and read by CPython under the GIL.
unsafe impl Sync for FastFunction {}

impl FastFunction {
    /// Defines a function by what it does.
    pub const fn of<F: Function>(name: &'static CStr, documentation: &'static CStr) -> Self {
        Self {
            definition: UnsafeCell::new(ffi::PyMethodDef {
                ml_name: name.as_ptr(),
                ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: call::<F> },
                ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
                ml_doc: documentation.as_ptr(),
            }),
        }
    }

    /// Adds the function to a module.
    pub fn add_to(&'static self, module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        let module_name = module.name()?;
        // SAFETY: the definition lives for ever. The function's self is the module, by which it is pickled.
        let function = unsafe {
            let made = ffi::PyCFunction_NewEx(self.definition.get(), module.as_ptr(), module_name.as_ptr());
            Bound::from_owned_ptr_or_err(py, made)?
        };
        // SAFETY: the name is a constant.
        let name = unsafe { CStr::from_ptr((*self.definition.get()).ml_name) };
        module.add(name.to_str().expect("ASCII"), function)
    }
}

/// What a [`FastMethod`] of instances does, without unsafe code.
pub trait Method {
    /// The class of the instances.
    type Class: PyTypeInfo;

    /// Does the usual case, which needs no wait; None leaves the call to [`Method::call`].
    ///
    /// PyO3 does not know here that the GIL is held: a `Py` that is dropped is freed later. Drop none but as a `Bound`.
    fn quick<'py>(slf: &Bound<'py, Self::Class>, arguments: &Arguments<'py>) -> Option<Bound<'py, PyAny>>;

    /// Does any case.
    ///
    /// # Errors
    ///
    /// What the caller in Python is to see.
    fn call<'py>(slf: &Bound<'py, Self::Class>, arguments: &Arguments<'py>) -> PyResult<Bound<'py, PyAny>>;
}

/// A method of a class: of its instances, or of the class itself.
pub struct FastMethod {
    definition: UnsafeCell<ffi::PyMethodDef>,
    of_class: bool,
    /// Says whether the body may be called with instances of the class.
    fits: fn(&Bound<'_, PyType>) -> bool,
}

// SAFETY: as for `FastFunction`.
unsafe impl Sync for FastMethod {}

impl FastMethod {
    /// Defines a method of instances by what it does.
    pub const fn of<M: Method>(name: &'static CStr, documentation: &'static CStr) -> Self {
        let fits = |class: &Bound<'_, PyType>| class.is_subclass_of::<M::Class>().unwrap_or(false);
        Self { fits, ..Self::new(name, documentation, call_method::<M>, false) }
    }

    /// Defines a method of instances.
    pub const fn method(
        name: &'static CStr,
        documentation: &'static CStr,
        body: ffi::PyCFunctionFastWithKeywords,
    ) -> Self {
        Self::new(name, documentation, body, false)
    }

    /// Defines a method of the class.
    pub const fn class_method(
        name: &'static CStr,
        documentation: &'static CStr,
        body: ffi::PyCFunctionFastWithKeywords,
    ) -> Self {
        Self::new(name, documentation, body, true)
    }

    const fn new(
        name: &'static CStr,
        documentation: &'static CStr,
        body: ffi::PyCFunctionFastWithKeywords,
        of_class: bool,
    ) -> Self {
        Self {
            definition: UnsafeCell::new(ffi::PyMethodDef {
                ml_name: name.as_ptr(),
                ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: body },
                ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS | if of_class { ffi::METH_CLASS } else { 0 },
                ml_doc: documentation.as_ptr(),
            }),
            of_class,
            fits: |_| true,
        }
    }

    /// Adds the method to its class.
    ///
    /// # Panics
    ///
    /// If the method is of another class's instances.
    pub fn add_to(&'static self, class: &Bound<'_, PyType>) -> PyResult<()> {
        assert!((self.fits)(class), "a method of another class");
        // SAFETY: the definition lives for ever; the class is valid; a new reference or NULL comes back.
        let descriptor = unsafe {
            let make = if self.of_class { ffi::PyDescr_NewClassMethod } else { ffi::PyDescr_NewMethod };
            Bound::from_owned_ptr_or_err(class.py(), make(class.as_type_ptr(), self.definition.get()))?
        };
        // SAFETY: the name is a constant.
        let name = unsafe { CStr::from_ptr((*self.definition.get()).ml_name) };
        class.setattr(name.to_str().expect("ASCII"), descriptor)
    }
}

unsafe extern "C" fn call<F: Function>(
    _module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls with the GIL held, with arguments as documented.
    let (py, arguments) = unsafe { (Python::assume_attached(), Arguments::new(values, count, names)) };
    // SAFETY: a new reference to what lives for ever.
    guard(py, || F::call(py, &arguments).map(|()| unsafe { ffi::Py_NewRef(ffi::Py_None()) }))
}

unsafe extern "C" fn call_method<M: Method>(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls with the GIL held, with arguments as documented, and with an instance of the class that the
    // method was added to, which `add_to` has checked.
    let (py, slf, arguments) = unsafe {
        let py = Python::assume_attached();
        (py, Borrowed::from_ptr(py, slf).cast_unchecked::<M::Class>(), Arguments::new(values, count, names))
    };
    guard(py, || match M::quick(&slf, &arguments) {
        Some(value) => Ok(value.into_ptr()),
        None => Python::attach(|_| M::call(&slf, &arguments)).map(Bound::into_ptr),
    })
}
