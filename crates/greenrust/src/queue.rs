//! Queues between greenlets, bounded or not, over a store of the user's choice.
//!
//! # How turns are kept
//!
//! An item that is put while greenlets wait stays in the store, and the first waiter is woken: the item is *promised*.
//! A blocking get leaves promised items to whom they were promised, and waits behind them. A non-blocking get takes
//! what it sees; who was promised it then finds nothing and waits on, in front of all others. Room in a bounded queue
//! is promised to putters in the same way. With [`Barging::Allowed`] blocking calls take what they see as well.
//!
//! Invariants:
//! - While greenlets wait for items, every item is promised; while they wait for room, all room is.
//! - A promise to a greenlet that is switched to by something else before its turn goes to the next in line.
//! - The store's methods run without any borrow held: they may be foreign code, and fail.
//!
//! Methods whose names end in `_core` never unwind and know of no face; they report why they failed. The others are for
//! Rust programs: they unwind on a kill or a timeout, as [`crate::greenlet`] tells.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::clock::Instant;
use crate::greenlet::{BlockingError, after, blocking};
use crate::hub::{RawGreenlet, WaitingFor};
use crate::wait_queue::{Barging, PromiseQueue, TimedOut, WaitError, WaitQueue};

/// Where a queue keeps its items, and in which order they leave.
#[expect(clippy::len_without_is_empty, reason = "a queue asks for the length alone, and foreign code has to supply it")]
pub trait Store<T> {
    /// What can go wrong in a store of foreign code; [`Infallible`] for ours.
    type Error;

    /// Adds an item.
    ///
    /// # Errors
    ///
    /// The store's own; the item counts as not put.
    fn put(&self, item: T) -> Result<(), Self::Error>;

    /// Removes and returns the next item. Called when [`Store::len`] was not 0; `None` if somebody else has taken the last
    /// item since, which can be when the store runs foreign code.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn get(&self) -> Result<Option<T>, Self::Error>;

    /// Returns how many items there are.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn len(&self) -> Result<usize, Self::Error>;

    /// Says whether each item that is put counts as a task to be done; see [`Queue::join_core`].
    #[inline]
    fn counts_tasks(&self) -> bool {
        true
    }
}

/// A store that can show its next item.
pub trait Peek<T>: Store<T> {
    /// Returns a copy of the next item; otherwise as [`Store::get`].
    ///
    /// # Errors
    ///
    /// The store's own.
    fn peek(&self) -> Result<Option<T>, Self::Error>;
}

/// First in, first out.
#[derive(Debug)]
pub struct Fifo<T>(RefCell<VecDeque<T>>);

/// Last in, first out.
#[derive(Debug)]
pub struct Lifo<T>(RefCell<Vec<T>>);

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self(RefCell::new(VecDeque::new()))
    }
}

impl<T> Default for Lifo<T> {
    fn default() -> Self {
        Self(RefCell::new(Vec::new()))
    }
}

impl<T> FromIterator<T> for Fifo<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(RefCell::new(items.into_iter().collect()))
    }
}

impl<T> FromIterator<T> for Lifo<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(RefCell::new(items.into_iter().collect()))
    }
}

impl<T> Store<T> for Fifo<T> {
    type Error = Infallible;

    #[inline]
    fn put(&self, item: T) -> Result<(), Infallible> {
        self.0.borrow_mut().push_back(item);
        Ok(())
    }

    #[inline]
    fn get(&self) -> Result<Option<T>, Infallible> {
        Ok(self.0.borrow_mut().pop_front())
    }

    #[inline]
    fn len(&self) -> Result<usize, Infallible> {
        Ok(self.0.borrow().len())
    }
}

impl<T> Store<T> for Lifo<T> {
    type Error = Infallible;

    #[inline]
    fn put(&self, item: T) -> Result<(), Infallible> {
        self.0.borrow_mut().push(item);
        Ok(())
    }

    #[inline]
    fn get(&self) -> Result<Option<T>, Infallible> {
        Ok(self.0.borrow_mut().pop())
    }

    #[inline]
    fn len(&self) -> Result<usize, Infallible> {
        Ok(self.0.borrow().len())
    }
}

/// Puts an item back where it was taken from, also if copying it panics.
struct PutBack<T, F: FnMut(T)> {
    item: Option<T>,
    put: F,
}

impl<T, F: FnMut(T)> Drop for PutBack<T, F> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            (self.put)(item);
        }
    }
}

fn copy_outside<T: Clone>(item: T, put: impl FnMut(T)) -> T {
    // `Clone` is the user's code: it may use the queue, so the item is out of the store meanwhile.
    let held = PutBack { item: Some(item), put };
    held.item.clone().expect("set above")
}

impl<T: Clone> Peek<T> for Fifo<T> {
    fn peek(&self) -> Result<Option<T>, Infallible> {
        let copy = |item| copy_outside(item, |item| self.0.borrow_mut().push_front(item));
        Ok(self.get()?.map(copy))
    }
}

impl<T: Clone> Peek<T> for Lifo<T> {
    fn peek(&self) -> Result<Option<T>, Infallible> {
        let copy = |item| copy_outside(item, |item| self.0.borrow_mut().push(item));
        Ok(self.get()?.map(copy))
    }
}

/// Why an operation on a queue failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueError<E = Infallible> {
    /// Nothing is there, for a get that does not wait.
    Empty,
    /// No room is there, for a put that does not wait.
    Full,
    /// The queue was shut down, and, for a get, has no items left.
    ShutDown,
    /// The wait ended without success.
    Wait(WaitError),
    /// The store failed.
    Store(E),
}

impl<E: fmt::Display> fmt::Display for QueueError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueError::Empty => formatter.write_str("the queue is empty"),
            QueueError::Full => formatter.write_str("the queue is full"),
            QueueError::ShutDown => formatter.write_str("the queue was shut down"),
            QueueError::Wait(error) => error.fmt(formatter),
            QueueError::Store(error) => error.fmt(formatter),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for QueueError<E> {}

impl<E> From<WaitError> for QueueError<E> {
    fn from(error: WaitError) -> Self {
        QueueError::Wait(error)
    }
}

impl<E> BlockingError for QueueError<E> {
    fn wait_error(&self) -> Option<WaitError> {
        match self {
            QueueError::Wait(error) => Some(*error),
            _ => None,
        }
    }
}

/// An item that could not be put, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutError<T> {
    /// The item.
    pub item: T,
    /// [`QueueError::Full`], [`QueueError::ShutDown`], or [`QueueError::Wait`] after a timeout.
    pub error: QueueError,
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl<T: fmt::Debug> std::error::Error for PutError<T> {}

/// More tasks were reported done than items were put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyTasksDone;

impl fmt::Display for TooManyTasksDone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("more tasks done than items put")
    }
}

impl std::error::Error for TooManyTasksDone {}

/// A queue of items: greenlets put them in and get them out, and wait when they can't.
///
/// ```
/// use greenrust::queue::Queue;
/// use std::rc::Rc;
///
/// let queue = Rc::new(Queue::bounded(2));
/// let producer = queue.clone();
/// greenrust::spawn(move || {
///     for number in 0..5 {
///         producer.put(number).unwrap(); // waits while two are there
///     }
///     producer.shut_down();
/// });
/// let mut sum = 0;
/// while let Ok(number) = queue.get() {
///     sum += number;
/// }
/// assert_eq!(sum, 10);
/// ```
#[derive(Debug)]
pub struct Queue<T, S: Store<T> = Fifo<T>> {
    store: S,
    /// `usize::MAX` for a queue without limit.
    capacity: Cell<usize>,
    getters: PromiseQueue,
    putters: PromiseQueue,
    barging: Barging,
    is_shut_down: Cell<bool>,
    unfinished: Cell<usize>,
    joiners: WaitQueue,
    item: std::marker::PhantomData<T>,
}

impl<T, S: Store<T> + Default> Default for Queue<T, S> {
    fn default() -> Self {
        Self::with_store(S::default(), None)
    }
}

impl<T> Queue<T> {
    /// Creates a queue, first in, first out, that takes any number of items.
    pub fn unbounded() -> Self {
        Self::with_store(Fifo::default(), None)
    }

    /// Creates a queue, first in, first out, in which a put waits while it holds `capacity` items.
    ///
    /// # Panics
    ///
    /// With capacity 0; see [`crate::channel::Channel`] for a queue that holds nothing.
    pub fn bounded(capacity: usize) -> Self {
        Self::with_store(Fifo::default(), Some(capacity))
    }
}

impl<T, S: Store<T>> Queue<T, S> {
    /// Creates a queue over `store`; without a capacity it takes any number of items.
    ///
    /// # Panics
    ///
    /// With capacity 0.
    pub fn with_store(store: S, capacity: Option<usize>) -> Self {
        assert_ne!(capacity, Some(0), "a queue has room for an item at least");
        Self {
            store,
            capacity: Cell::new(capacity.unwrap_or(usize::MAX)),
            getters: PromiseQueue::default(),
            putters: PromiseQueue::default(),
            barging: Barging::Refused,
            is_shut_down: Cell::new(false),
            unfinished: Cell::new(0),
            joiners: WaitQueue::new(),
            item: std::marker::PhantomData,
        }
    }

    /// Sets whether a blocking put or get takes room or items that are promised to others; they don't by default.
    #[must_use]
    pub fn with_barging(self, barging: Barging) -> Self {
        Self { barging, ..self }
    }

    /// Returns the store. Whoever changes it directly calls [`Queue::balance`] afterwards.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Returns how many items the queue can hold, `None` if any number.
    pub fn capacity(&self) -> Option<usize> {
        match self.capacity.get() {
            usize::MAX => None,
            capacity => Some(capacity),
        }
    }

    /// Changes how many items the queue can hold; those who wait for room get what there is now.
    ///
    /// # Errors
    ///
    /// [`QueueError::Store`].
    ///
    /// # Panics
    ///
    /// With capacity 0.
    pub fn set_capacity(&self, capacity: Option<usize>) -> Result<(), QueueError<S::Error>> {
        assert_ne!(capacity, Some(0), "a queue has room for an item at least");
        self.capacity.set(capacity.unwrap_or(usize::MAX));
        self.balance()
    }

    /// Returns how many greenlets wait for an item.
    pub fn waiting_getters(&self) -> usize {
        self.getters.waiters.len()
    }

    /// Returns how many greenlets wait for room.
    pub fn waiting_putters(&self) -> usize {
        self.putters.waiters.len()
    }

    /// Returns the greenlets that wait for an item.
    pub fn getters(&self) -> Vec<RawGreenlet> {
        self.getters.waiters.greenlets()
    }

    /// Returns the greenlets that wait for room.
    pub fn putters(&self) -> Vec<RawGreenlet> {
        self.putters.waiters.greenlets()
    }

    /// Says whether the queue was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.is_shut_down.get()
    }

    #[inline]
    fn length(&self) -> Result<usize, QueueError<S::Error>> {
        self.store.len().map_err(QueueError::Store)
    }

    /// Returns how many items the queue holds.
    ///
    /// # Errors
    ///
    /// [`QueueError::Store`].
    pub fn len_core(&self) -> Result<usize, QueueError<S::Error>> {
        self.length()
    }

    /// Says whether a put would have to wait.
    ///
    /// # Errors
    ///
    /// [`QueueError::Store`].
    pub fn is_full_core(&self) -> Result<bool, QueueError<S::Error>> {
        Ok(self.capacity.get() != usize::MAX && self.length()? >= self.capacity.get())
    }

    /// Promises items and room to those who wait for them. Called by every operation; call it after a change of the
    /// store that did not come through the queue.
    ///
    /// # Errors
    ///
    /// [`QueueError::Store`].
    #[inline]
    pub fn balance(&self) -> Result<(), QueueError<S::Error>> {
        if !self.getters.waiters.is_empty() {
            self.getters.promise(self.length()?);
        }
        if !self.putters.waiters.is_empty() {
            self.putters.promise(self.capacity.get().saturating_sub(self.length()?));
        }
        Ok(())
    }

    // -- put -------------------------------------------------------------------------------------------------

    fn store_item(&self, item: &mut Option<T>) -> Result<(), QueueError<S::Error>> {
        let item = item.take().expect("a put has an item");
        self.store.put(item).map_err(QueueError::Store)?;
        if self.store.counts_tasks() {
            self.add_task();
        }
        self.balance()
    }

    /// Puts the item, if there is room, and takes it out of `item`. Does not switch.
    ///
    /// # Errors
    ///
    /// [`QueueError::Full`], [`QueueError::ShutDown`], [`QueueError::Store`].
    ///
    /// # Panics
    ///
    /// If `item` is `None`.
    #[inline]
    pub fn try_put_core(&self, item: &mut Option<T>) -> Result<(), QueueError<S::Error>> {
        if self.is_shut_down.get() {
            return Err(QueueError::ShutDown);
        }
        if self.is_full_core()? {
            return Err(QueueError::Full);
        }
        self.store_item(item)
    }

    /// Puts the item and takes it out of `item`; waits for room until `deadline`.
    ///
    /// # Errors
    ///
    /// [`QueueError::ShutDown`], [`QueueError::Wait`], [`QueueError::Store`]. Except after the last one, `item` still
    /// has the item.
    ///
    /// # Switches
    ///
    /// Only if there is no room that is not promised to others.
    ///
    /// # Panics
    ///
    /// If `item` is `None`.
    #[inline]
    pub fn put_core(&self, item: &mut Option<T>, deadline: Option<Instant>) -> Result<(), QueueError<S::Error>> {
        let mut is_newcomer = true;
        loop {
            if self.is_shut_down.get() {
                return Err(QueueError::ShutDown);
            }
            let capacity = self.capacity.get();
            let is_held_back = is_newcomer && self.barging == Barging::Refused;
            let promised_to_others = if is_held_back { self.putters.promised() } else { 0 };
            if capacity == usize::MAX || self.length()? + promised_to_others < capacity {
                return self.store_item(item);
            }
            self.wait(&self.putters, deadline, !is_newcomer)?;
            is_newcomer = false;
        }
    }

    // -- get -------------------------------------------------------------------------------------------------

    fn take_item(&self) -> Result<Option<T>, QueueError<S::Error>> {
        let item = self.store.get().map_err(QueueError::Store)?;
        // The item is out: a store that fails to count now will say so to the next who asks.
        let _ = self.balance();
        Ok(item)
    }

    fn why_empty(&self) -> QueueError<S::Error> {
        if self.is_shut_down.get() { QueueError::ShutDown } else { QueueError::Empty }
    }

    /// Gets an item, if there is one. Does not switch.
    ///
    /// # Errors
    ///
    /// [`QueueError::Empty`], [`QueueError::ShutDown`], [`QueueError::Store`].
    #[inline]
    pub fn try_get_core(&self) -> Result<T, QueueError<S::Error>> {
        if self.length()? == 0 {
            return Err(self.why_empty());
        }
        self.take_item()?.ok_or_else(|| self.why_empty())
    }

    /// Gets an item; waits for one until `deadline`.
    ///
    /// # Errors
    ///
    /// [`QueueError::ShutDown`], [`QueueError::Wait`], [`QueueError::Store`]. No item is lost.
    ///
    /// # Switches
    ///
    /// Only if there is no item that is not promised to others.
    #[inline]
    pub fn get_core(&self, deadline: Option<Instant>) -> Result<T, QueueError<S::Error>> {
        let mut is_newcomer = true;
        loop {
            self.wait_for_item(deadline, &mut is_newcomer)?;
            if let Some(item) = self.take_item()? {
                return Ok(item);
            }
        }
    }

    /// Waits until there is an item for the caller, which stays in the store. Who has waited is no newcomer any more.
    fn wait_for_item(&self, deadline: Option<Instant>, is_newcomer: &mut bool) -> Result<(), QueueError<S::Error>> {
        loop {
            let length = self.length()?;
            let is_shut_down = self.is_shut_down.get();
            // After a shutdown nothing comes any more: whoever is first takes the rest.
            let is_held_back = *is_newcomer && !is_shut_down && self.barging == Barging::Refused;
            let promised_to_others = if is_held_back { self.getters.promised() } else { 0 };
            if length > promised_to_others {
                return Ok(());
            }
            if is_shut_down {
                return Err(QueueError::ShutDown);
            }
            self.wait(&self.getters, deadline, !*is_newcomer)?;
            *is_newcomer = false;
        }
    }

    fn wait(&self, side: &PromiseQueue, deadline: Option<Instant>, in_front: bool) -> Result<(), QueueError<S::Error>> {
        let kind = if std::ptr::eq(side, &raw const self.getters) { "Queue.get" } else { "Queue.put" };
        let waiting_for = WaitingFor::Object(kind, std::ptr::from_ref(self) as usize);
        side.wait(waiting_for, deadline, in_front).map_err(|error| {
            // What was promised goes to the next; the reason of the failure is worth more than a failing store.
            let _ = self.balance();
            error.into()
        })
    }

    // -- shutdown and tasks ----------------------------------------------------------------------------------

    /// Refuses puts from now on, and gets once the queue is empty; wakes all who wait. With `immediate`, removes the
    /// items at once and counts them as done. Does not switch.
    ///
    /// # Errors
    ///
    /// [`QueueError::Store`]; the queue is shut down all the same.
    pub fn shut_down_core(&self, immediate: bool) -> Result<(), QueueError<S::Error>> {
        self.is_shut_down.set(true);
        let mut outcome = Ok(());
        while immediate && outcome.is_ok() {
            outcome = match self.length() {
                Ok(0) => break,
                Ok(_) => self.store.get().map_err(QueueError::Store).map(|item| {
                    drop(item);
                    let _ = self.task_done();
                }),
                Err(error) => Err(error),
            };
        }
        self.getters.wake_all();
        self.putters.wake_all();
        outcome
    }

    /// Returns how many items were put and not reported done.
    pub fn unfinished_tasks(&self) -> usize {
        self.unfinished.get()
    }

    /// Sets how many items count as put and not done.
    pub fn set_unfinished_tasks(&self, count: usize) {
        self.unfinished.set(count);
        if count == 0 {
            self.joiners.wake_all();
        }
    }

    /// Counts one more item as put and not done, for a store that does not have it counted by itself.
    #[inline]
    pub fn add_task(&self) {
        self.unfinished.set(self.unfinished.get() + 1);
    }

    /// Reports one item that was got as done; with the last one, [`Queue::join_core`] returns. Does not switch.
    ///
    /// # Errors
    ///
    /// [`TooManyTasksDone`].
    pub fn task_done(&self) -> Result<(), TooManyTasksDone> {
        let count = self.unfinished.get().checked_sub(1);
        self.set_unfinished_tasks(count.ok_or(TooManyTasksDone)?);
        Ok(())
    }

    /// Waits until every item that was put is reported done, or until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    ///
    /// # Switches
    ///
    /// Only if there are unfinished tasks.
    pub fn join_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.unfinished.get() == 0 {
            return Ok(());
        }
        let address = std::ptr::from_ref(self) as usize;
        self.joiners.wait(WaitingFor::Object("Queue.join", address), deadline).map_err(|abandoned| abandoned.error)
    }
}

impl<T, S: Peek<T>> Queue<T, S> {
    /// Returns a copy of the next item, if there is one. Does not switch.
    ///
    /// # Errors
    ///
    /// [`QueueError::Empty`], [`QueueError::ShutDown`], [`QueueError::Store`].
    pub fn try_peek_core(&self) -> Result<T, QueueError<S::Error>> {
        if self.length()? == 0 {
            return Err(self.why_empty());
        }
        self.store.peek().map_err(QueueError::Store)?.ok_or_else(|| self.why_empty())
    }

    /// Returns a copy of the next item; waits for one until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Queue::get_core`].
    ///
    /// # Switches
    ///
    /// Only if there is no item that is not promised to others.
    pub fn peek_core(&self, deadline: Option<Instant>) -> Result<T, QueueError<S::Error>> {
        let mut is_newcomer = true;
        loop {
            self.wait_for_item(deadline, &mut is_newcomer)?;
            let item = self.store.peek().map_err(QueueError::Store);
            // The promise was used up, the item was not.
            let _ = self.balance();
            if let Some(item) = item? {
                return Ok(item);
            }
        }
    }
}

fn given_back<T>(item: Option<T>, outcome: Result<(), QueueError>) -> Result<(), PutError<T>> {
    outcome.map_err(|error| PutError {
        item: item.expect("a store of ours does not fail, so the item was not taken"),
        error,
    })
}

/// For Rust programs, whose stores don't fail.
impl<T, S: Store<T, Error = Infallible>> Queue<T, S> {
    /// Returns how many items the queue holds.
    pub fn len(&self) -> usize {
        match self.store.len() {
            Ok(length) => length,
        }
    }

    /// Says whether the queue holds no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says whether a put would have to wait.
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity.get()
    }

    /// Puts an item; waits for room.
    ///
    /// # Errors
    ///
    /// [`PutError`] with [`QueueError::ShutDown`].
    ///
    /// # Switches
    ///
    /// Only if there is no room.
    ///
    /// # Cancellation
    ///
    /// After a kill or a timeout the item was not put, and is dropped.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        let mut item = Some(item);
        let outcome = blocking(|| self.put_core(&mut item, None));
        given_back(item, outcome)
    }

    /// Puts an item; waits for room, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`PutError`] with [`QueueError::ShutDown`], or [`QueueError::Wait`] when the time was over.
    ///
    /// # Switches
    ///
    /// Only if there is no room.
    pub fn put_timeout(&self, item: T, duration: Duration) -> Result<(), PutError<T>> {
        let deadline = after(duration);
        let mut item = Some(item);
        let outcome = blocking(|| self.put_core(&mut item, Some(deadline)));
        given_back(item, outcome)
    }

    /// Puts an item, if there is room. Does not switch.
    ///
    /// # Errors
    ///
    /// [`PutError`] with [`QueueError::Full`] or [`QueueError::ShutDown`].
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        let mut item = Some(item);
        let outcome = self.try_put_core(&mut item);
        given_back(item, outcome)
    }

    /// Gets an item; waits for one.
    ///
    /// # Errors
    ///
    /// [`QueueError::ShutDown`].
    ///
    /// # Switches
    ///
    /// Only if there is no item.
    ///
    /// # Cancellation
    ///
    /// After a kill or a timeout no item was taken.
    pub fn get(&self) -> Result<T, QueueError> {
        blocking(|| self.get_core(None))
    }

    /// Gets an item; waits for one, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`QueueError::ShutDown`], or [`QueueError::Wait`] when the time was over.
    ///
    /// # Switches
    ///
    /// Only if there is no item.
    pub fn get_timeout(&self, duration: Duration) -> Result<T, QueueError> {
        let deadline = after(duration);
        blocking(|| self.get_core(Some(deadline)))
    }

    /// Gets an item, if there is one. Does not switch.
    ///
    /// # Errors
    ///
    /// [`QueueError::Empty`], [`QueueError::ShutDown`].
    pub fn try_get(&self) -> Result<T, QueueError> {
        self.try_get_core()
    }

    /// Refuses puts from now on, and gets once the queue is empty. Does not switch.
    pub fn shut_down(&self) {
        match self.shut_down_core(false) {
            Ok(()) | Err(_) => {}
        }
    }

    /// Waits until every item that was put is reported done by [`Queue::task_done`].
    ///
    /// # Switches
    ///
    /// Only if there are unfinished tasks.
    pub fn join(&self) {
        let _ = blocking(|| self.join_core(None));
    }

    /// As [`Queue::join`], no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    pub fn join_timeout(&self, duration: Duration) -> Result<(), TimedOut> {
        let deadline = after(duration);
        blocking(|| self.join_core(Some(deadline))).map_err(|_| TimedOut)
    }
}

impl<T, S: Peek<T, Error = Infallible>> Queue<T, S> {
    /// Returns a copy of the next item; waits for one.
    ///
    /// # Errors
    ///
    /// [`QueueError::ShutDown`].
    ///
    /// # Switches
    ///
    /// Only if there is no item.
    pub fn peek(&self) -> Result<T, QueueError> {
        blocking(|| self.peek_core(None))
    }
}
