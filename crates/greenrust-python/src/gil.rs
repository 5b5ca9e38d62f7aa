//! Interior state of Python objects, guarded by the GIL.
//!
//! PyO3 asks that a Python class be `Send + Sync`, as any OS thread may hold it. What the runtime is made of is neither.
//! Under the GIL one thread at a time touches an object, and the GIL's hand-over orders their accesses, which is all
//! that `Sync` asks for. The wrapper says so in one place.
//!
//! Rules for what is inside: no borrow (`RefCell`, reference into a `Cell`) is held where the GIL may be given up, which
//! includes every call of Python code, every drop of a Python object, and every switch.

use std::ops::Deref;

/// A value that is only touched with the GIL held.
pub struct Gil<T> {
    /// False while the object is nothing but zeros: CPython 3.11 and 3.12 make an instance's dictionary, which may
    /// collect garbage and so traverse the object, before PyO3 writes what is inside.
    is_made: bool,
    value: T,
}

impl<T: Default> Default for Gil<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

// SAFETY: all code of this crate that reaches into a `Gil` runs with the GIL held: in methods called by Python, in the
// host's callbacks, and in the hub, which gives up the GIL inside `Host::poll` only.
unsafe impl<T> Send for Gil<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Gil<T> {}

impl<T> Gil<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self { is_made: true, value }
    }

    /// Returns the value, unless the object that holds it is not made yet: what `__traverse__` has to ask first.
    #[inline]
    pub fn if_made(&self) -> Option<&T> {
        self.is_made.then_some(&self.value)
    }
}

impl<T> Deref for Gil<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}
