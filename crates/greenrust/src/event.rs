//! Events: a flag that greenlets wait for, and a value that arrives once.
//!
//! Methods whose names end in `_core` never unwind and know of no face; they report why they failed. The others are for
//! Rust programs: they unwind on a kill or a timeout, as [`crate::greenlet`] tells.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Instant;
use crate::greenlet::{after, blocking};
use crate::hub::{Hub, WaitingFor};
use crate::wait_queue::{TimedOut, WaitError, WaitQueue};

/// A flag; greenlets wait until it is set.
///
/// ```
/// use greenrust::event::Event;
/// use std::rc::Rc;
///
/// let event = Rc::new(Event::new());
/// let waiter = {
///     let event = event.clone();
///     greenrust::spawn(move || event.wait())
/// };
/// event.set();
/// waiter.get().unwrap();
/// ```
#[derive(Debug, Default)]
pub struct Event {
    is_set: Cell<bool>,
    waiters: WaitQueue,
    /// How many were woken and have not run since.
    woken: Cell<usize>,
}

impl Event {
    /// Creates an event that is not set.
    pub const fn new() -> Self {
        Self { is_set: Cell::new(false), waiters: WaitQueue::new(), woken: Cell::new(0) }
    }

    /// Says whether the event is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// Returns how many greenlets wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Sets the event and wakes who waits for it: they go on even if it is cleared before their turn comes. Does not
    /// switch.
    #[inline]
    pub fn set(&self) {
        self.is_set.set(true);
        self.woken.set(self.woken.get() + self.waiters.wake_all());
    }

    /// Clears the event: whoever waits from now on waits for the next [`Event::set`].
    #[inline]
    pub fn clear(&self) {
        self.is_set.set(false);
    }

    /// Says whether a wait would return at once: the event is set, and all whom that woke have run.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.is_set.get() && self.woken.get() == 0
    }

    /// Waits until the event is set, or until `deadline`. Who comes when others were woken by it goes on after them.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    ///
    /// # Switches
    ///
    /// Only if the event is not set, or others were woken by it and have not run yet.
    #[inline]
    pub fn wait_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.is_free() {
            return Ok(());
        }
        if self.is_set.get() {
            return take_a_turn();
        }
        let address = std::ptr::from_ref(self) as usize;
        let outcome = self.waiters.wait(WaitingFor::Object("Event", address), deadline);
        if outcome.is_ok() || outcome.is_err_and(|abandoned| abandoned.was_woken) {
            self.woken.set(self.woken.get() - 1);
        }
        outcome.map_err(|abandoned| abandoned.error)
    }

    /// Waits until the event is set.
    ///
    /// # Switches
    ///
    /// Only if it is not set.
    pub fn wait(&self) {
        let _ = blocking(|| self.wait_core(None));
    }

    /// Waits until the event is set, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    ///
    /// # Switches
    ///
    /// Only if it is not set.
    pub fn wait_timeout(&self, duration: Duration) -> Result<(), TimedOut> {
        let deadline = after(duration);
        blocking(|| self.wait_core(Some(deadline))).map_err(|_| TimedOut)
    }
}

/// Lets everybody run who is ready. In the hub greenlet, which has no turn, it does nothing.
#[cold]
fn take_a_turn() -> Result<(), WaitError> {
    let hub = Hub::current();
    let Ok(waker) = hub.begin_park(WaitingFor::Turn) else { return Ok(()) };
    waker.unpark();
    WaitError::check(hub.park(&waker))
}

/// A value that arrives once, or anew; greenlets wait for it. What it means, a result or an error, is `T`'s affair.
#[derive(Debug)]
pub struct AsyncResult<T> {
    value: RefCell<Option<Rc<T>>>,
    waiters: WaitQueue,
}

impl<T> Default for AsyncResult<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> AsyncResult<T> {
    /// Creates a result without a value.
    pub const fn new() -> Self {
        Self { value: RefCell::new(None), waiters: WaitQueue::new() }
    }

    /// Says whether there is a value.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.value.borrow().is_some()
    }

    /// Returns the value, if there is one. Does not switch.
    #[inline]
    pub fn peek(&self) -> Option<Rc<T>> {
        self.value.borrow().clone()
    }

    /// Returns how many greenlets wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Stores a value, wakes who waits for it, and returns the value that it replaces. Does not switch.
    pub fn set(&self, value: T) -> Option<Rc<T>> {
        let previous = self.value.replace(Some(Rc::new(value)));
        self.waiters.wake_all();
        previous
    }

    /// Waits for the value until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    ///
    /// # Switches
    ///
    /// Only if there is no value.
    pub fn get_core(&self, deadline: Option<Instant>) -> Result<Rc<T>, WaitError> {
        loop {
            if let Some(value) = self.peek() {
                return Ok(value);
            }
            let address = std::ptr::from_ref(self) as usize;
            self.waiters
                .wait(WaitingFor::Object("AsyncResult", address), deadline)
                .map_err(|abandoned| abandoned.error)?;
        }
    }

    /// Waits for the value.
    ///
    /// # Switches
    ///
    /// Only if there is no value.
    pub fn get(&self) -> Rc<T> {
        match blocking(|| self.get_core(None)) {
            Ok(value) => value,
            Err(error) => unreachable!("a wait without a deadline ends with a value: {error}"),
        }
    }

    /// Waits for the value, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    ///
    /// # Switches
    ///
    /// Only if there is no value.
    pub fn get_timeout(&self, duration: Duration) -> Result<Rc<T>, TimedOut> {
        let deadline = after(duration);
        blocking(|| self.get_core(Some(deadline))).map_err(|_| TimedOut)
    }

    /// Takes the value back, as if none had arrived.
    pub fn take(&self) -> Option<Rc<T>> {
        self.value.take()
    }
}
