//! `gevent.local.local`: an object whose attributes each greenlet has for itself.
//!
//! ```text
//!   local object ──owns──► Dictionaries { greenlet -> dict }   (+ the one used last)
//!                                ▲
//!   greenlet ──Owned: weak───────┘    frees its dictionaries when it ends, or goes without having run
//! ```
//!
//! Attributes are looked up as `object.__getattribute__` does, with the greenlet's dictionary in the place of the
//! object's own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use greenrust::hub::Hub;
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};

use crate::gil::Gil;
use crate::host;
use crate::lowlevel::PyGreenlet;

unsafe extern "C" {
    /// The cached look-up of a name in a class and its bases: a borrowed reference or NULL, and never an exception.
    fn _PyType_Lookup(class: *mut ffi::PyTypeObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// Adds the class and the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLocal>()?;
    module.add_function(wrap_pyfunction!(all_local_dicts_for_greenlet, module)?)
}

/// No greenlet's address.
const NOBODY: usize = usize::MAX;

/// The dictionaries of one `local` object.
struct Dictionaries {
    /// By the address of the greenlet's object, which is its identity until it ends.
    entries: RefCell<HashMap<usize, Py<PyDict>>>,
    /// The entry that was used last: its dictionary is owned by `entries`.
    last: Cell<(usize, *mut ffi::PyObject)>,
    /// The `local` object, once it was used: what debuggers are shown.
    owner: Cell<*mut ffi::PyObject>,
}

impl Dictionaries {
    fn new() -> Self {
        Self {
            entries: RefCell::default(),
            last: Cell::new((NOBODY, std::ptr::null_mut())),
            owner: Cell::new(std::ptr::null_mut()),
        }
    }

    #[inline]
    fn find<'py>(&self, py: Python<'py>, greenlet: usize) -> Option<Bound<'py, PyDict>> {
        let (last, dictionary) = self.last.get();
        if last == greenlet {
            // SAFETY: an entry of `entries`, which owns it; every change there sets `last` anew.
            return Some(unsafe { Bound::from_borrowed_ptr(py, dictionary).cast_into_unchecked() });
        }
        let entries = self.entries.borrow();
        let found = entries.get(&greenlet)?;
        self.last.set((greenlet, found.as_ptr()));
        Some(found.bind(py).clone())
    }

    fn insert(&self, greenlet: usize, dictionary: Py<PyDict>) {
        self.last.set((greenlet, dictionary.as_ptr()));
        let old = self.entries.borrow_mut().insert(greenlet, dictionary);
        drop(old);
    }

    fn remove(&self, greenlet: usize) {
        self.forget_last();
        let old = self.entries.borrow_mut().remove(&greenlet);
        drop(old);
    }

    fn forget_last(&self) {
        self.last.set((NOBODY, std::ptr::null_mut()));
    }
}

/// A greenlet's list of the `local` objects that have a dictionary for it.
#[derive(Default)]
#[expect(clippy::box_collection, reason = "the greenlets without one, most of them, pay for a word")]
pub struct Owned(Cell<Option<Box<Vec<Weak<Dictionaries>>>>>);

impl Owned {
    fn add(&self, dictionaries: &Rc<Dictionaries>) {
        let mut list = self.0.take().unwrap_or_default();
        if list.len() == list.capacity() {
            // A greenlet that lives long may see many `local` objects go.
            list.retain(|weak| weak.strong_count() > 0);
        }
        list.push(Rc::downgrade(dictionaries));
        self.0.set(Some(list));
    }

    /// Frees the dictionaries of the greenlet whose object is at `greenlet`.
    #[inline]
    pub fn free(&self, greenlet: *mut ffi::PyObject) {
        // What is dropped may run code that makes new ones.
        while let Some(list) = self.0.take() {
            for dictionaries in list.iter().filter_map(Weak::upgrade) {
                dictionaries.remove(greenlet as usize);
            }
        }
    }

    /// Whether no `local` object has had a dictionary for the greenlet.
    pub fn is_empty(&self) -> bool {
        let list = self.0.take();
        let is_empty = list.is_none();
        self.0.set(list);
        is_empty
    }

    fn all(&self) -> Vec<Rc<Dictionaries>> {
        let list = self.0.take();
        let all = list.iter().flat_map(|list| list.iter()).filter_map(Weak::upgrade).collect();
        self.0.set(list);
        all
    }
}

struct Fields {
    dictionaries: Rc<Dictionaries>,
    args: RefCell<Option<Py<PyTuple>>>,
    kwargs: RefCell<Option<Py<PyDict>>>,
}

/// local(*args, **kwargs)
///
/// An object whose attributes each greenlet has for itself; a greenlet's are freed when it ends. The `__init__` of a
/// subclass is called with the arguments in each greenlet that uses the object. Slots of a subclass are shared.
#[pyclass(name = "local", module = "gevent.local", frozen, subclass, weakref)]
pub struct PyLocal {
    fields: Gil<Fields>,
}

/// Says whether the class has an `__init__` of its own.
fn has_init(class: &Bound<'_, PyType>) -> bool {
    // SAFETY: slots of valid types are read.
    unsafe {
        let own = (*class.as_type_ptr()).tp_init.map(|function| function as usize);
        let base = ffi::PyBaseObject_Type.tp_init.map(|function| function as usize);
        own != base
    }
}

fn is_dict_name(name: &Bound<'_, PyAny>) -> bool {
    let dict = pyo3::intern!(name.py(), "__dict__");
    // Attribute names are mostly interned, and few others have the length.
    name.is(dict)
        || (name.len().is_ok_and(|length| length == 8) && name.cast::<PyString>().is_ok_and(|name| name == "__dict__"))
}

fn missing(class: &Bound<'_, PyType>, name: &Bound<'_, PyAny>) -> PyErr {
    let class = class.name().map_or_else(|_| "local".to_owned(), |name| name.to_string());
    PyAttributeError::new_err(format!("'{class}' object has no attribute '{name}'"))
}

fn read_only(class: &Bound<'_, PyType>) -> PyErr {
    let class = class.name().map_or_else(|_| "local".to_owned(), |name| name.to_string());
    PyAttributeError::new_err(format!("'{class}' object attribute '__dict__' is read-only"))
}

impl PyLocal {
    /// Returns the running greenlet's dictionary. In a greenlet that has none yet, makes it and calls `__init__`.
    #[inline]
    fn dictionary<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let dictionaries = &slf.get().fields.dictionaries;
        dictionaries.owner.set(slf.as_ptr());
        match dictionaries.find(slf.py(), Hub::current().running_host() as usize) {
            Some(dictionary) => Ok(dictionary),
            None => Self::begin(slf),
        }
    }

    #[cold]
    fn begin<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let fields = &slf.get().fields;
        let dictionary = fields.make(&host::current(py));
        let class = slf.get_type();
        if has_init(&class) {
            let args = fields.args.borrow().as_ref().map(|args| args.clone_ref(py).into_bound(py));
            let kwargs = fields.kwargs.borrow().as_ref().map(|kwargs| kwargs.clone_ref(py).into_bound(py));
            let init = slf.as_any().getattr(pyo3::intern!(py, "__init__"))?;
            init.call(args.unwrap_or_else(|| PyTuple::empty(py)), kwargs.as_ref())?;
        }
        Ok(dictionary)
    }

    /// Looks `name` up in the class: what is found, and the class's own dictionary does not matter.
    #[inline]
    fn class_attribute<'py>(class: &Bound<'py, PyType>, name: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: a valid class and a name; the reference is borrowed.
        unsafe { Bound::from_borrowed_ptr_or_opt(class.py(), _PyType_Lookup(class.as_type_ptr(), name.as_ptr())) }
    }
}

impl Fields {
    fn make<'py>(&self, greenlet: &Bound<'py, PyGreenlet>) -> Bound<'py, PyDict> {
        let dictionary = PyDict::new(greenlet.py());
        self.dictionaries.insert(greenlet.as_ptr() as usize, dictionary.clone().unbind());
        greenlet.get().locals().add(&self.dictionaries);
        dictionary
    }
}

/// Reads the slots of a descriptor's class.
fn descriptor_slots(descriptor: &Bound<'_, PyAny>) -> (Option<ffi::descrgetfunc>, Option<ffi::descrsetfunc>) {
    // SAFETY: the type of a valid object.
    unsafe {
        let class = ffi::Py_TYPE(descriptor.as_ptr());
        ((*class).tp_descr_get, (*class).tp_descr_set)
    }
}

#[pymethods]
impl PyLocal {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(cls: &Bound<'_, PyType>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let py = cls.py();
        let has_arguments = !args.is_empty() || kwargs.is_some_and(|kwargs| !kwargs.is_empty());
        if has_arguments && !has_init(cls) {
            return Err(PyTypeError::new_err("Initialization arguments are not supported"));
        }
        let fields = Fields {
            dictionaries: Rc::new(Dictionaries::new()),
            args: RefCell::new(has_arguments.then(|| args.clone().unbind())),
            kwargs: RefCell::new(kwargs.map(|kwargs| kwargs.clone().unbind())),
        };
        // __init__ is about to be called for this greenlet, so the first access must not.
        fields.make(&host::current(py));
        Ok(Self { fields: Gil::new(fields) })
    }

    fn __getattribute__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let dictionary = Self::dictionary(slf)?;
        let class = slf.get_type();
        // SAFETY: valid objects; the results are owned or borrowed as the calls say.
        unsafe {
            if class.is(PyType::new::<PyLocal>(py)) {
                // Nothing in the class is a data descriptor that a program would want.
                let value = ffi::PyDict_GetItemWithError(dictionary.as_ptr(), name.as_ptr());
                if !value.is_null() {
                    return Ok(Bound::from_borrowed_ptr(py, value));
                }
                if !ffi::PyErr_Occurred().is_null() {
                    return Err(PyErr::fetch(py));
                }
                if is_dict_name(name) {
                    return Ok(dictionary.into_any());
                }
                return Bound::from_owned_ptr_or_err(py, ffi::PyObject_GenericGetAttr(slf.as_ptr(), name.as_ptr()));
            }
            if is_dict_name(name) {
                return Ok(dictionary.into_any());
            }
            let attribute = Self::class_attribute(&class, name);
            let get = attribute.as_ref().map(descriptor_slots);
            if let (Some(attribute), Some((Some(get), Some(_)))) = (&attribute, get) {
                let value = get(attribute.as_ptr(), slf.as_ptr(), class.as_ptr());
                return Bound::from_owned_ptr_or_err(py, value);
            }
            let value = ffi::PyDict_GetItemWithError(dictionary.as_ptr(), name.as_ptr());
            if !value.is_null() {
                return Ok(Bound::from_borrowed_ptr(py, value));
            }
            if !ffi::PyErr_Occurred().is_null() {
                return Err(PyErr::fetch(py));
            }
            match (attribute, get) {
                (Some(attribute), Some((Some(get), _))) => {
                    let value = get(attribute.as_ptr(), slf.as_ptr(), class.as_ptr());
                    Bound::from_owned_ptr_or_err(py, value)
                }
                (Some(attribute), _) => Ok(attribute),
                (None, _) => Err(missing(&class, name)),
            }
        }
    }

    /// Called after `__getattribute__` has found nothing: without it, PyO3's own error says only the name.
    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Err(missing(&slf.get_type(), name))
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let class = slf.get_type();
        if is_dict_name(name) {
            return Err(read_only(&class));
        }
        let dictionary = Self::dictionary(slf)?;
        if !class.is(PyType::new::<PyLocal>(py))
            && let Some(attribute) = Self::class_attribute(&class, name)
            && let (_, Some(set)) = descriptor_slots(&attribute)
        {
            // SAFETY: the slot of a valid descriptor, called as CPython does.
            let failed = unsafe { set(attribute.as_ptr(), slf.as_ptr(), value.as_ptr()) } != 0;
            return if failed { Err(PyErr::fetch(py)) } else { Ok(()) };
        }
        dictionary.set_item(name, value)
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let class = slf.get_type();
        if is_dict_name(name) {
            return Err(read_only(&class));
        }
        let dictionary = Self::dictionary(slf)?;
        if let Some(attribute) = Self::class_attribute(&class, name)
            && let (_, Some(set)) = descriptor_slots(&attribute)
        {
            // SAFETY: as in `__setattr__`; NULL deletes.
            let failed = unsafe { set(attribute.as_ptr(), slf.as_ptr(), std::ptr::null_mut()) } != 0;
            return if failed { Err(PyErr::fetch(py)) } else { Ok(()) };
        }
        if dictionary.contains(name)? {
            dictionary.del_item(name)
        } else {
            Err(PyAttributeError::new_err(name.clone().unbind()))
        }
    }

    /// A new object of the class, with a copy of the running greenlet's attributes.
    fn __copy__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let copy = Self::dictionary(slf)?.copy()?;
        let fields = &slf.get().fields;
        let args = fields.args.borrow().as_ref().map(|args| args.clone_ref(py).into_bound(py));
        let kwargs = fields.kwargs.borrow().as_ref().map(|kwargs| kwargs.clone_ref(py).into_bound(py));
        let made = slf.get_type().call(args.unwrap_or_else(|| PyTuple::empty(py)), kwargs.as_ref())?;
        if let Ok(local) = made.cast::<PyLocal>() {
            let current = host::current(py).as_ptr() as usize;
            local.get().fields.dictionaries.insert(current, copy.unbind());
        }
        Ok(made)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(entries) = self.fields.dictionaries.entries.try_borrow() {
            for dictionary in entries.values() {
                visit.call(dictionary)?;
            }
        }
        if let Ok(args) = self.fields.args.try_borrow() {
            visit.call(&*args)?;
        }
        if let Ok(kwargs) = self.fields.kwargs.try_borrow() {
            visit.call(&*kwargs)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.fields.dictionaries.forget_last();
        let entries = std::mem::take(&mut *self.fields.dictionaries.entries.borrow_mut());
        let old = (entries, self.fields.args.take(), self.fields.kwargs.take());
        drop(old);
    }
}

/// all_local_dicts_for_greenlet(greenlet) -> [((class, id of the local object), dictionary)]
///
/// The values that the greenlet has in `local` objects: for debuggers and reports.
#[pyfunction]
fn all_local_dicts_for_greenlet<'py>(greenlet: &Bound<'py, PyGreenlet>) -> PyResult<Bound<'py, PyList>> {
    let py = greenlet.py();
    let found = PyList::empty(py);
    for dictionaries in greenlet.get().locals().all() {
        let Some(dictionary) = dictionaries.find(py, greenlet.as_ptr() as usize) else { continue };
        let owner = dictionaries.owner.get();
        // SAFETY: the object owns what the weak reference found, so it is alive; null if it was never used.
        if let Some(object) = unsafe { Bound::from_borrowed_ptr_or_opt(py, owner) } {
            found.append(((object.get_type(), owner as usize), dictionary))?;
        }
    }
    Ok(found)
}
