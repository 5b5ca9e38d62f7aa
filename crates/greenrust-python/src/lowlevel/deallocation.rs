//! The end of a suspended greenlet that nobody refers to.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::PyGreenlet;
use crate::exceptions::{GreenletError, GreenletExit};
use crate::host::{self, Payload, Thread};
use crate::hub as py_hub;
use crate::nesting;
use crate::thread_state::{self};

type Destructor = unsafe extern "C" fn(*mut ffi::PyObject);

/// Ends a suspended greenlet that nobody refers to: throws `GreenletExit` into it.
fn end_unreferenced(object: &Bound<'_, PyGreenlet>) {
    let py = object.py();
    let this = object.get();
    if !this.is_of_this_thread() {
        py_hub::end_in_its_thread(object);
        return;
    }
    // The pending exception of whoever drops the object is put aside and back.
    let pending = PyErr::take(py);
    // Control comes back here when it has ended.
    let current = host::current(py);
    let parent = this.fields.parent.replace(Some(current.clone().unbind()));
    let error = GreenletExit::new_err(());
    let outer = Thread::with(|thread| thread.deallocating.replace(object.as_ptr()));
    if let Err(error) = PyGreenlet::enter(object, Payload::Throw(Box::new(error))) {
        error.write_unraisable(py, Some(object.as_any()));
    }
    Thread::with(|thread| thread.deallocating.set(outer));
    // One that goes on elsewhere gets its parent back, unless it has chosen another.
    let survives = this.is_active();
    let lent = if survives && this.fields.parent.borrow().as_ref().is_some_and(|parent| parent.is(&current)) {
        this.fields.parent.replace(parent)
    } else {
        parent
    };
    drop(lent);
    // SAFETY: a plain query of a valid object.
    if survives && unsafe { ffi::Py_REFCNT(object.as_ptr()) } == 1 {
        // Nobody refers to it, and it refuses to end. Its frames refer to its object, so that one stays.
        std::mem::forget(object.clone());
        let message = "a greenlet did not end by GreenletExit: it is never collected";
        GreenletError::new_err(message).write_unraisable(py, Some(object.as_any()));
    }
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

/// Deallocates a greenlet object, unless ending its suspended greenlet makes somebody refer to it again.
///
/// Not in `tp_finalize`: the slot belongs to `__del__`, which subclasses may define. The object's dictionary is still
/// there, as it is freed by the class that has it, which is ours.
///
/// # Safety
///
/// Called as `tp_dealloc` of a class that derives from ours, with the GIL held.
pub unsafe fn end_and_deallocate(object: *mut ffi::PyObject, original: Destructor) {
    // SAFETY: the caller's guarantee; the content is untouched until `original` runs.
    let this = unsafe { PyGreenlet::from_pointer(object) };
    let is_suspended = this.is_active() && !this.fields.is_root && !this.fields.raw.host().is_null();
    if is_suspended {
        // SAFETY: the object is brought back to life for as long as its code runs; see the shim.
        let is_needed = unsafe {
            thread_state::resurrect(object);
            Python::attach(|py| end_unreferenced(&Borrowed::from_ptr(py, object).cast_unchecked()));
            thread_state::is_still_referenced(object)
        };
        if is_needed {
            // SAFETY: alive; a subclass's part of the deallocation has hidden it from the collector.
            unsafe {
                if ffi::PyObject_GC_IsTracked(object) == 0 {
                    ffi::PyObject_GC_Track(object.cast());
                }
            }
            return;
        }
    }
    let parent = this.fields.parent.take();
    // SAFETY: nobody refers to the object.
    unsafe { original(object) };
    let Some(parent) = parent.map(Py::into_ptr) else { return };
    // SAFETY: the reference is this function's own, and is given up once.
    unsafe {
        // A chain of parents may be long; mostly it is the hub, which others have as well.
        if ffi::Py_REFCNT(parent) > 1
            || Python::try_attach(|py| nesting::free(Bound::from_owned_ptr(py, parent).unbind())).is_none()
        {
            ffi::Py_DECREF(parent);
        }
    }
}

/// Makes a class end its suspended greenlets when they are deallocated; before any class is derived from it.
pub fn install_dealloc(
    class: &Bound<'_, PyType>,
    original: &'static std::sync::OnceLock<Destructor>,
    ours: Destructor,
) {
    let class = class.as_type_ptr();
    // SAFETY: the type was just made and is not shared yet; slots of a heap type may be set before subclasses copy them.
    unsafe {
        let dealloc = (*class).tp_dealloc.expect("PyO3 sets tp_dealloc");
        original.get_or_init(|| dealloc);
        (*class).tp_dealloc = Some(ours);
        ffi::PyType_Modified(class);
    }
}

/// Defines a `tp_dealloc` that ends a suspended greenlet first.
macro_rules! ending_dealloc {
    ($name:ident, $original:ident) => {
        pub static $original: std::sync::OnceLock<unsafe extern "C" fn(*mut pyo3::ffi::PyObject)> =
            std::sync::OnceLock::new();

        pub unsafe extern "C" fn $name(object: *mut pyo3::ffi::PyObject) {
            // SAFETY: called by CPython as tp_dealloc; the original is the one that it replaced.
            unsafe { crate::lowlevel::end_and_deallocate(object, *$original.get().expect("installed")) }
        }
    };
}
pub(crate) use ending_dealloc;
