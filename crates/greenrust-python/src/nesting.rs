//! Freeing objects that hold objects that hold objects, without an end of the stack.
//!
//! Each object that is freed frees what it holds. CPython bounds how deep that goes for its own containers (the trashcan
//! of its `object.h`); a chain of ours, results of results for instance, has to bound it itself.

use std::cell::{Cell, RefCell};

use greenrust::hub::Hub;
use pyo3::ffi;
use pyo3::prelude::*;

/// How many objects are freed within each other.
const DEEPEST: usize = 40;

thread_local! {
    /// The greenlet that frees objects, and how deep it is in that. A finalizer may switch, and another one free others.
    static DEPTH: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// What is freed when the outermost one has been.
    static LATER: RefCell<Vec<Py<PyAny>>> = const { RefCell::new(Vec::new()) };
}

/// Gives up a reference that an object of ours held.
pub fn free(object: Py<PyAny>) {
    // SAFETY: a live object, and the GIL is held where objects of ours are freed.
    let may_nest = unsafe { ffi::Py_REFCNT(object.as_ptr()) == 1 && ffi::PyObject_IS_GC(object.as_ptr()) != 0 };
    if may_nest {
        free_nested(object);
    }
}

/// Gives up the last reference to an object that may hold others.
fn free_nested(object: Py<PyAny>) {
    let running = Hub::if_current().map_or(0, |hub| hub.running().address());
    let (owner, depth) = DEPTH.get();
    let depth = if owner == running { depth } else { 0 };
    if depth >= DEEPEST {
        // At the end of the thread there is no list any more, and no stack that is used up either.
        let _ = LATER.try_with(|later| later.borrow_mut().push(object));
        return;
    }
    DEPTH.set((running, depth + 1));
    drop(object);
    if depth > 0 {
        DEPTH.set((running, depth));
        return;
    }
    while let Some(next) = LATER.try_with(|later| later.borrow_mut().pop()).ok().flatten() {
        DEPTH.set((running, 1));
        drop(next);
    }
    DEPTH.set((0, 0));
}
