//! The only code that knows `PyThreadState`: what of it belongs to a greenlet, and moving that out and in.
//!
//! The layout of the saved part is the C compiler's affair (`shim.c`); here it is a block of bytes of the size that the
//! shim states, inside the greenlet object.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int};

use greenrust::stack::Stack;
use pyo3::ffi;
use pyo3::prelude::*;

/// At least what any supported version saves, in machine words.
const WORDS: usize = 16;

unsafe extern "C" {
    static greenrust_thread_state_size: usize;
    fn greenrust_unsupported() -> *const c_char;
    fn greenrust_thread_state_save(tstate: *mut ffi::PyThreadState, saved: *mut Saved);
    fn greenrust_thread_state_load(tstate: *mut ffi::PyThreadState, saved: *mut Saved);
    fn greenrust_thread_state_begin(
        tstate: *mut ffi::PyThreadState,
        saved: *mut Saved,
        area: *mut u8,
        area_size: usize,
        stack_limit: *mut u8,
        stack_usable: usize,
        c_recursion: c_int,
    );
    fn greenrust_thread_state_end(tstate: *mut ffi::PyThreadState, saved: *mut Saved);
    fn greenrust_thread_state_frame(tstate: *mut ffi::PyThreadState, saved: *const Saved) -> *mut ffi::PyObject;
    fn greenrust_thread_state_context(saved: *mut Saved) -> *mut *mut ffi::PyObject;
    fn greenrust_thread_state_running_context(tstate: *mut ffi::PyThreadState) -> *mut *mut ffi::PyObject;
    fn greenrust_thread_state_c_recursion_limit() -> c_int;
    fn greenrust_is_finalizing() -> c_int;
    fn greenrust_thread_count() -> c_int;
    fn greenrust_resurrect(object: *mut ffi::PyObject);
    fn greenrust_is_still_referenced(object: *mut ffi::PyObject) -> c_int;
}

#[repr(C, align(8))]
struct Saved([usize; WORDS]);

/// Bytes at the top of each stack where a greenlet's Python frames begin.
///
/// CPython's own chunks are 16 KiB. This one ends at the top of the stack's mapping and begins in the same page as the
/// C stack below it, so that a shallow greenlet touches one page in all: the C stack has [`SHARED_PAGE_FOR_C`] of it.
/// From 3.15 on it is not shorter than CPython's own: the sampling profiler reads 16 KiB from its beginning.
pub const FRAME_AREA: usize = if cfg!(Py_3_15) { 20480 } else { 16384 } - SHARED_PAGE_FOR_C;
const SHARED_PAGE_FOR_C: usize = 2560;

/// The smallest stack that CPython can be given, in bytes, guard included. From 3.14 on it keeps margins of its own in
/// each stack: at least 96 KiB must be usable, in debug builds 192 KiB.
pub const MINIMUM_STACK_SIZE: usize = if cfg!(Py_3_14) { 256 << 10 } else { greenrust::stack::MINIMUM_STACK_SIZE };

static C_RECURSION: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

/// Reads what must be known once a process.
///
/// # Errors
///
/// ImportError for an interpreter that greenlets can't run on, and where the saved state would not fit.
pub fn initialize() -> PyResult<()> {
    // SAFETY: a plain query.
    let reason = unsafe { greenrust_unsupported() };
    if !reason.is_null() {
        // SAFETY: a constant text of the shim.
        let reason = unsafe { CStr::from_ptr(reason) }.to_string_lossy();
        return Err(pyo3::exceptions::PyImportError::new_err(format!("gevent._greenrust: {reason}")));
    }
    // SAFETY: a constant of the shim.
    let size = unsafe { greenrust_thread_state_size };
    if size > WORDS * size_of::<usize>() {
        return Err(pyo3::exceptions::PyImportError::new_err(format!(
            "gevent._greenrust was built with room for {} bytes of thread state, but this interpreter needs {size}",
            WORDS * size_of::<usize>()
        )));
    }
    // SAFETY: called while the module is imported, with the GIL held.
    let limit = unsafe { greenrust_thread_state_c_recursion_limit() };
    C_RECURSION.store(limit, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// Returns how many threads have a state in this interpreter: those that run Python code or may come to.
pub fn count(_py: Python<'_>) -> usize {
    // SAFETY: the GIL is held.
    usize::try_from(unsafe { greenrust_thread_count() }).unwrap_or(0)
}

/// Says whether the interpreter is ending, so that Python code can't be relied upon any more.
pub fn is_finalizing() -> bool {
    // SAFETY: a plain query.
    unsafe { greenrust_is_finalizing() != 0 }
}

/// Gives an object that is being deallocated one reference, so that code which refers to it can run.
///
/// # Safety
///
/// Called from `tp_dealloc`, with the GIL held, before anything of the object was freed.
pub unsafe fn resurrect(object: *mut ffi::PyObject) {
    // SAFETY: the caller's guarantee.
    unsafe { greenrust_resurrect(object) }
}

/// Takes the reference of [`resurrect`] back. Returns true if others exist now, so that the object must live.
///
/// # Safety
///
/// Called once after [`resurrect`], with the GIL held.
pub unsafe fn is_still_referenced(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller's guarantee.
    unsafe { greenrust_is_still_referenced(object) != 0 }
}

/// What a suspended greenlet owns of its thread's state.
pub struct ThreadState {
    saved: UnsafeCell<Saved>,
}

impl Default for ThreadState {
    fn default() -> Self {
        Self { saved: UnsafeCell::new(Saved([0; WORDS])) }
    }
}

/// CPython's record of a thread, as others may hold it.
pub type Running = *mut ffi::PyThreadState;

/// Returns CPython's record of the calling thread.
#[inline]
pub fn running() -> Running {
    // SAFETY: only called with the GIL held.
    unsafe { ffi::PyThreadState_Get() }
}

impl ThreadState {
    /// Moves the running greenlet's part out of the thread state.
    #[inline]
    pub fn save(&self, running: Running) {
        // SAFETY: the GIL is held; `running` is this thread's; `saved` is large enough, as `initialize` has checked; it is only touched here.
        unsafe { greenrust_thread_state_save(running, self.saved.get()) }
    }

    /// Moves a suspended greenlet's part back in.
    #[inline]
    pub fn load(&self, running: Running) {
        // SAFETY: as above, and the content was written by `save`.
        unsafe { greenrust_thread_state_load(running, self.saved.get()) }
    }

    /// Makes the thread state that of a greenlet which begins on `stack`.
    pub fn begin(&self, stack: &Stack) {
        let (area, length) = stack.host_area();
        // SAFETY: the area is reserved on the greenlet's own stack for this very purpose.
        unsafe {
            greenrust_thread_state_begin(
                running(),
                self.saved.get(),
                area as *mut u8,
                length,
                stack.limit() as *mut u8,
                stack.usable(),
                c_recursion_for(stack),
            );
        }
    }

    /// Frees what the running greenlet, which has ended, still owns, but for its context.
    pub fn end(&self) {
        // SAFETY: the GIL is held; this is the running greenlet's, whose `saved` holds nothing while it runs.
        unsafe { greenrust_thread_state_end(running(), self.saved.get()) }
    }

    /// Returns the innermost frame of a suspended greenlet.
    pub fn frame(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: the content was written by `save`; a new reference or NULL comes back.
        unsafe { Bound::from_owned_ptr_or_opt(py, greenrust_thread_state_frame(running(), self.saved.get())) }
            .map(Bound::unbind)
    }

    /// Returns the `contextvars.Context` of a greenlet that does not run.
    pub fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: the field holds NULL or an owned reference.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, *greenrust_thread_state_context(self.saved.get())) }
            .map(Bound::unbind)
    }

    /// Replaces the context of a greenlet that does not run.
    pub fn set_context(&self, context: Option<Py<PyAny>>) {
        // SAFETY: as in `context`; the old reference is dropped after the field is consistent again.
        unsafe { replace(greenrust_thread_state_context(self.saved.get()), context) }
    }
}

/// Returns the context of the running greenlet.
pub fn running_context(py: Python<'_>) -> Option<Py<PyAny>> {
    // SAFETY: the field holds NULL or an owned reference.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, *greenrust_thread_state_running_context(running())) }
        .map(Bound::unbind)
}

/// Replaces the context of the running greenlet.
pub fn set_running_context(context: Option<Py<PyAny>>) {
    // SAFETY: as in `running_context`.
    unsafe { replace(greenrust_thread_state_running_context(running()), context) }
}

/// # Safety
///
/// `place` holds NULL or an owned reference.
unsafe fn replace(place: *mut *mut ffi::PyObject, value: Option<Py<PyAny>>) {
    // SAFETY: the caller's guarantee.
    unsafe {
        let old = *place;
        *place = value.map_or(std::ptr::null_mut(), Py::into_ptr);
        ffi::Py_XDECREF(old);
    }
}

/// How deep C code may recurse on a stack of this size. Measured worst case: 1792 bytes a level, 64 KiB aside.
fn c_recursion_for(stack: &Stack) -> c_int {
    let own = C_RECURSION.load(std::sync::atomic::Ordering::Relaxed);
    let fitting = stack.usable().saturating_sub(64 << 10) / 1792;
    own.min(c_int::try_from(fitting).unwrap_or(c_int::MAX)).max(16)
}
