//! A channel: a queue that holds nothing. A put and a get meet, and the item passes from the one to the other.
//!
//! Whoever comes second completes the exchange and goes on; whoever came first is woken. Invariant: greenlets wait on
//! one side at most. An item that was handed to a getter which then was switched to by something else goes to the next
//! getter, before the items of those who wait with one.
//!
//! Methods whose names end in `_core` never unwind and know of no face; they report why they failed. The others are for
//! Rust programs: they unwind on a kill or a timeout, as [`crate::greenlet`] tells.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Instant;
use crate::greenlet::{after, blocking};
use crate::hub::{Hub, WaitingFor, Waker};
use crate::wait_queue::{TimedOut, WaitError};

/// One greenlet that waits, and the item that it brings or gets.
struct Party<T> {
    waker: Waker,
    item: Cell<Option<T>>,
}

/// A meeting place for an item's giver and its taker.
pub struct Channel<T> {
    putters: RefCell<VecDeque<Rc<Party<T>>>>,
    getters: RefCell<VecDeque<Rc<Party<T>>>>,
    /// Items whose putter has gone on and whose getter could not take them.
    returned: RefCell<VecDeque<T>>,
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Channel")
            .field("waiting_putters", &self.waiting_putters())
            .field("waiting_getters", &self.waiting_getters())
            .finish_non_exhaustive()
    }
}

impl<T> Default for Channel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Channel<T> {
    /// Creates a channel.
    pub const fn new() -> Self {
        Self {
            putters: RefCell::new(VecDeque::new()),
            getters: RefCell::new(VecDeque::new()),
            returned: RefCell::new(VecDeque::new()),
        }
    }

    /// Returns how many greenlets wait to put.
    pub fn waiting_putters(&self) -> usize {
        count(&self.putters)
    }

    /// Returns how many greenlets wait to get.
    pub fn waiting_getters(&self) -> usize {
        count(&self.getters)
    }

    /// Returns the wakers of those who wait to put, with what `show` makes of the item of each.
    pub fn putters<R>(&self, show: impl Fn(&T) -> R) -> Vec<(R, Waker)> {
        let putters = self.putters.borrow();
        let waiting = putters.iter().filter(|party| party.waker.is_waiting());
        waiting
            .filter_map(|party| {
                let item = party.item.take();
                let shown = item.as_ref().map(&show);
                party.item.set(item);
                Some((shown?, party.waker.clone()))
            })
            .collect()
    }

    /// Returns the wakers of those who wait to get.
    pub fn getters(&self) -> Vec<Waker> {
        let getters = self.getters.borrow();
        getters.iter().filter(|party| party.waker.is_waiting()).map(|party| party.waker.clone()).collect()
    }

    /// Returns how many greenlets wait to put, less those that wait to get.
    pub fn balance(&self) -> isize {
        self.waiting_putters() as isize - self.waiting_getters() as isize
    }

    /// Gives the item to a greenlet that waits for one, and takes it out of `item`; returns false if none does. Does
    /// not switch.
    ///
    /// # Panics
    ///
    /// If `item` is `None`.
    pub fn try_put_core(&self, item: &mut Option<T>) -> bool {
        assert!(item.is_some(), "a put has an item");
        while let Some(getter) = pop(&self.getters) {
            if getter.waker.unpark() {
                getter.item.set(item.take());
                return true;
            }
        }
        false
    }

    /// Gives the item to a greenlet that gets it, and takes it out of `item`; waits for one until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; `item` has the item, unless a getter had taken it before a raw switch ended the wait.
    ///
    /// # Switches
    ///
    /// Only if nobody waits to get.
    ///
    /// # Panics
    ///
    /// If `item` is `None`.
    pub fn put_core(&self, item: &mut Option<T>, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.try_put_core(item) {
            return Ok(());
        }
        let (party, outcome) = self.wait(&self.putters, item, deadline)?;
        if outcome.is_err() {
            *item = party.item.take();
        }
        outcome
    }

    /// Gets an item from a greenlet that waits to put one. Does not switch.
    pub fn try_get_core(&self) -> Option<T> {
        let returned = self.returned.borrow_mut().pop_front();
        if returned.is_some() {
            return returned;
        }
        while let Some(putter) = pop(&self.putters) {
            if putter.waker.unpark() {
                return putter.item.take();
            }
        }
        None
    }

    /// Gets an item; waits for one until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; no item is lost.
    ///
    /// # Switches
    ///
    /// Only if nobody waits to put.
    pub fn get_core(&self, deadline: Option<Instant>) -> Result<T, WaitError> {
        if let Some(item) = self.try_get_core() {
            return Ok(item);
        }
        let (party, outcome) = self.wait(&self.getters, &mut None, deadline)?;
        let mut item = party.item.take();
        if let Err(error) = outcome {
            if item.is_some()
                && !self.try_put_core(&mut item)
                && let Some(item) = item
            {
                self.returned.borrow_mut().push_front(item);
            }
            return Err(error);
        }
        Ok(item.expect("a getter is woken with an item"))
    }

    /// Gives the item to a greenlet that gets it; waits for one.
    ///
    /// ```
    /// use greenrust::channel::Channel;
    /// use std::rc::Rc;
    ///
    /// let channel = Rc::new(Channel::new());
    /// let giver = channel.clone();
    /// greenrust::spawn(move || giver.put("item"));
    /// assert_eq!(channel.get(), "item");
    /// ```
    ///
    /// # Switches
    ///
    /// Only if nobody waits to get.
    ///
    /// # Cancellation
    ///
    /// After a kill or a timeout nobody got the item; it is dropped.
    pub fn put(&self, item: T) {
        let mut item = Some(item);
        let _ = blocking(|| self.put_core(&mut item, None));
    }

    /// Gives the item to a greenlet that gets it; waits for one, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// The item, when the time was over.
    ///
    /// # Switches
    ///
    /// Only if nobody waits to get.
    pub fn put_timeout(&self, item: T, duration: Duration) -> Result<(), T> {
        let deadline = after(duration);
        let mut item = Some(item);
        let _ = blocking(|| self.put_core(&mut item, Some(deadline)));
        item.map_or(Ok(()), Err)
    }

    /// Gets an item; waits for one.
    ///
    /// # Switches
    ///
    /// Only if nobody waits to put.
    ///
    /// # Cancellation
    ///
    /// After a kill or a timeout no item was taken.
    pub fn get(&self) -> T {
        match blocking(|| self.get_core(None)) {
            Ok(item) => item,
            Err(error) => unreachable!("a wait without a deadline ends with an item: {error}"),
        }
    }

    /// Gets an item; waits for one, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    ///
    /// # Switches
    ///
    /// Only if nobody waits to put.
    pub fn get_timeout(&self, duration: Duration) -> Result<T, TimedOut> {
        let deadline = after(duration);
        blocking(|| self.get_core(Some(deadline))).map_err(|_| TimedOut)
    }

    #[expect(clippy::type_complexity, reason = "the outcome and what it left behind")]
    fn wait(
        &self,
        side: &RefCell<VecDeque<Rc<Party<T>>>>,
        item: &mut Option<T>,
        deadline: Option<Instant>,
    ) -> Result<(Rc<Party<T>>, Result<(), WaitError>), WaitError> {
        let hub = Hub::current();
        let address = std::ptr::from_ref(self) as usize;
        let waker = hub.begin_park(WaitingFor::Object("Channel", address))?;
        let party = Rc::new(Party { waker, item: Cell::new(item.take()) });
        side.borrow_mut().push_back(party.clone());
        let wake = match deadline {
            None => hub.park(&party.waker),
            Some(deadline) => hub.park_until(&party.waker, deadline, true),
        };
        let outcome = WaitError::check(wake);
        if outcome.is_err() {
            let mut side = side.borrow_mut();
            if let Some(place) = side.iter().position(|other| Rc::ptr_eq(other, &party)) {
                side.remove(place);
            }
        }
        Ok((party, outcome))
    }
}

fn pop<T>(side: &RefCell<VecDeque<Rc<Party<T>>>>) -> Option<Rc<Party<T>>> {
    side.borrow_mut().pop_front()
}

fn count<T>(side: &RefCell<VecDeque<Rc<Party<T>>>>) -> usize {
    side.borrow().iter().filter(|party| party.waker.is_waiting()).count()
}
