//! Where a greenlet was made: a light copy of the spawner's stack.
//!
//! Only the code objects and the positions in them are kept, so that no frame, and no local variable, lives longer.

use pyo3::ffi;
use pyo3::prelude::*;

/// How many frames are kept.
pub const LIMIT: usize = 10;

/// A code object, and the instruction that it had come to.
type Position = (Py<PyAny>, i32);

/// The innermost frames of the spawner, innermost first.
#[derive(Default)]
pub struct SpawnStack {
    frames: Option<Box<[Position]>>,
}

/// A frame-like object: enough for `traceback.print_stack`.
#[pyclass(frozen, module = "gevent._greenrust", name = "SpawnFrame")]
pub struct SpawnFrame {
    /// The code that ran.
    #[pyo3(get)]
    f_code: Py<PyAny>,
    /// The line that it had come to.
    #[pyo3(get)]
    f_lineno: i32,
    /// The caller's frame, or None.
    #[pyo3(get)]
    f_back: Option<Py<PyAny>>,
}

#[pymethods]
impl SpawnFrame {
    /// None: variables are not kept.
    #[getter]
    fn f_globals(&self) -> Option<Py<PyAny>> {
        None
    }
}

impl SpawnStack {
    /// Copies the stack of the running greenlet.
    pub fn capture(py: Python<'_>) -> Self {
        let mut frames: Vec<(Py<PyAny>, i32)> = Vec::with_capacity(LIMIT);
        // SAFETY: the GIL is held; each call returns a new reference or NULL, none of them with an exception set.
        unsafe {
            let mut frame = ffi::PyThreadState_GetFrame(ffi::PyThreadState_Get());
            while !frame.is_null() && frames.len() < LIMIT {
                let code = Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(frame).cast()).unbind();
                frames.push((code, ffi::PyFrame_GetLasti(frame)));
                let back = ffi::PyFrame_GetBack(frame);
                ffi::Py_DECREF(frame.cast());
                frame = back;
            }
            ffi::Py_XDECREF(frame.cast());
        }
        Self { frames: Some(frames.into_boxed_slice()) }
    }

    /// Builds the chain of frame-like objects.
    pub fn to_frames(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let mut back = None;
        for (code, position) in self.frames.iter().flat_map(|frames| frames.iter().rev()) {
            // SAFETY: a code object, and a position that came from a frame of it.
            let line = unsafe { ffi::PyCode_Addr2Line(code.as_ptr().cast(), *position) };
            let frame = SpawnFrame { f_code: code.clone_ref(py), f_lineno: line, f_back: back };
            back = Some(Py::new(py, frame)?.into_any());
        }
        Ok(back)
    }
}
