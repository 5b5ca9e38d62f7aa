//! Who else has an object: what nobody else knows of may serve again.

use pyo3::ffi;
use pyo3::prelude::*;

use super::stock;

/// How many references there are to an object.
#[inline]
pub fn count<T>(object: &Py<T>) -> isize {
    // SAFETY: a live object; the GIL is held, as whoever has a `Py` of an object that is in use must.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// Whether there is no weak reference to the object.
#[inline]
pub fn is_unreferenced(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: where the offset is not 0, the object has a pointer to its first weak reference there, or null.
    unsafe {
        let offset = (*object.get_type_ptr()).tp_weaklistoffset;
        offset == 0 || (*object.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>()).is_null()
    }
}

/// Whether there is no weak reference to the object, and nobody has set attributes of it that its class knows nothing of.
#[inline]
pub fn is_bare(object: &Bound<'_, PyAny>) -> bool {
    is_unreferenced(object) && stock::own_attributes(object).is_ok_and(|own| own.is_none())
}
