//! Values that each greenlet has for itself.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use crate::hub::Hub;

trait Forget {
    fn forget(&self, greenlet: usize);
}

type Values<T> = RefCell<HashMap<usize, Rc<T>>>;

impl<T> Forget for Values<T> {
    fn forget(&self, greenlet: usize) {
        let value = self.borrow_mut().remove(&greenlet);
        // The value's own `Drop` may use the local.
        drop(value);
    }
}

thread_local! {
    /// The locals of this thread, to be told when a greenlet ends.
    static LOCALS: RefCell<Vec<Weak<dyn Forget>>> = const { RefCell::new(Vec::new()) };
    static HAS_LOCALS: Cell<bool> = const { Cell::new(false) };
}

/// A variable with a value for each greenlet of the thread, made at its first use there.
///
/// A greenlet's value is dropped when the greenlet ends, or with the `Local`.
///
/// ```
/// use greenrust::local::Local;
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// let counter = Rc::new(Local::new(|| Cell::new(0)));
/// counter.get().set(1);
/// let other = counter.clone();
/// let seen = greenrust::spawn(move || other.get().get()).get();
/// assert_eq!(seen.unwrap(), 0);
/// assert_eq!(counter.get().get(), 1);
/// ```
pub struct Local<T: 'static, F: Fn() -> T = fn() -> T> {
    values: Rc<Values<T>>,
    init: F,
}

impl<T: 'static, F: Fn() -> T> Local<T, F> {
    /// Creates a variable; `init` makes a greenlet's first value.
    pub fn new(init: F) -> Self {
        let values: Rc<Values<T>> = Rc::default();
        let weak: Weak<Values<T>> = Rc::downgrade(&values);
        LOCALS.with_borrow_mut(|locals| {
            locals.retain(|local| local.strong_count() > 0);
            locals.push(weak);
        });
        HAS_LOCALS.set(true);
        Self { values, init }
    }

    /// Returns the running greenlet's value.
    pub fn get(&self) -> Rc<T> {
        let greenlet = Hub::current().running().address();
        let value = self.values.borrow().get(&greenlet).cloned();
        value.unwrap_or_else(|| {
            let value = Rc::new((self.init)());
            self.replace(greenlet, value.clone());
            value
        })
    }

    /// Gives the running greenlet a new value.
    pub fn set(&self, value: T) {
        self.replace(Hub::current().running().address(), Rc::new(value));
    }

    fn replace(&self, greenlet: usize, value: Rc<T>) {
        let previous = self.values.borrow_mut().insert(greenlet, value);
        drop(previous);
    }
}

impl<T: 'static, F: Fn() -> T> std::fmt::Debug for Local<T, F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Local({} greenlets)", self.values.borrow().len())
    }
}

/// Drops the values of a greenlet that ends.
#[inline]
pub(crate) fn forget(greenlet: usize) {
    if HAS_LOCALS.get() {
        forget_all(greenlet);
    }
}

#[cold]
fn forget_all(greenlet: usize) {
    // At the end of a thread the list may be gone already.
    let locals = LOCALS.try_with(|locals| locals.borrow().clone()).unwrap_or_default();
    for local in locals {
        if let Some(local) = local.upgrade() {
            local.forget(greenlet);
        }
    }
}
