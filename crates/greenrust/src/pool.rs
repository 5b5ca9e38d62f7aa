//! Groups of greenlets, and pools: groups of limited size.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Instant;
use crate::greenlet::{AnyGreenlet, Greenlet, GreenletError, Joinable, after, blocking, catch, killall, spawn};
use crate::hub::WaitingFor;
use crate::lock::Semaphore;
use crate::queue::Queue;
use crate::wait_queue::{TimedOut, WaitError, WaitQueue};

/// Greenlets that are joined and killed together. Cloning gives another handle of the same group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    members: Rc<Members>,
}

#[derive(Debug, Default)]
struct Members {
    greenlets: RefCell<HashMap<u64, AnyGreenlet>>,
    next: Cell<u64>,
    joiners: WaitQueue,
}

/// A greenlet's own part in its group: ends with the greenlet's closure, however that ends.
struct Membership {
    members: Rc<Members>,
    identity: u64,
    slots: Option<Rc<Semaphore>>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let member = self.members.greenlets.borrow_mut().remove(&self.identity);
        drop(member);
        if let Some(slots) = &self.slots {
            slots.release();
        }
        if self.members.greenlets.borrow().is_empty() {
            self.members.joiners.wake_all();
        }
    }
}

impl Group {
    /// Creates an empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many greenlets of the group have not ended.
    pub fn len(&self) -> usize {
        self.members.greenlets.borrow().len()
    }

    /// Says whether all greenlets of the group have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts a greenlet in the group. Does not switch.
    pub fn spawn<T: 'static>(&self, function: impl FnOnce() -> T + 'static) -> Greenlet<T> {
        self.spawn_in_slot(None, function)
    }

    fn spawn_in_slot<T: 'static>(
        &self,
        slots: Option<Rc<Semaphore>>,
        function: impl FnOnce() -> T + 'static,
    ) -> Greenlet<T> {
        let identity = self.members.next.get();
        self.members.next.set(identity + 1);
        let membership = Membership { members: self.members.clone(), identity, slots };
        let greenlet = spawn(move || {
            let _membership = membership;
            function()
        });
        self.members.greenlets.borrow_mut().insert(identity, greenlet.to_any());
        greenlet
    }

    fn join_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        while !self.is_empty() {
            let address = Rc::as_ptr(&self.members) as usize;
            self.members
                .joiners
                .wait(WaitingFor::Object("Group.join", address), deadline)
                .map_err(|abandoned| abandoned.error)?;
        }
        Ok(())
    }

    /// Waits until all greenlets of the group have ended.
    ///
    /// # Switches
    ///
    /// Unless the group is empty.
    pub fn join(&self) {
        let _ = blocking(|| self.join_core(None));
    }

    /// Waits until all greenlets of the group have ended, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    pub fn join_timeout(&self, duration: Duration) -> Result<(), TimedOut> {
        let deadline = after(duration);
        blocking(|| self.join_core(Some(deadline))).map_err(|_| TimedOut)
    }

    /// Kills all greenlets of the group and waits until they have ended.
    pub fn kill(&self) {
        while !self.is_empty() {
            let members: Vec<_> = self.members.greenlets.borrow().values().cloned().collect();
            killall(&members);
        }
    }

    /// Kills all greenlets of the group and does not wait.
    pub fn kill_nowait(&self) {
        let members: Vec<_> = self.members.greenlets.borrow().values().cloned().collect();
        for member in members {
            member.kill_nowait();
        }
    }
}

/// A group of at most so many greenlets: who wants to start one more waits until another has ended. Cloning gives another
/// handle of the same pool.
///
/// ```
/// use greenrust::pool::Pool;
///
/// let pool = Pool::new(2);
/// let squares = pool.map([1, 2, 3], |number| number * number)?;
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), greenrust::GreenletError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Pool {
    group: Group,
    slots: Rc<Semaphore>,
    size: usize,
}

impl Pool {
    /// Creates a pool for `size` greenlets at a time.
    ///
    /// # Panics
    ///
    /// With size 0.
    pub fn new(size: usize) -> Self {
        assert_ne!(size, 0, "a pool has room for a greenlet at least");
        Self { group: Group::new(), slots: Rc::new(Semaphore::new(size)), size }
    }

    /// Returns how many greenlets the pool may have at a time.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the greenlets as a group, to join or kill them.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Returns how many more greenlets could start now.
    pub fn free(&self) -> usize {
        self.slots.permits()
    }

    /// Starts a greenlet; waits until there is room for it.
    ///
    /// # Switches
    ///
    /// Only if the pool is full.
    ///
    /// # Cancellation
    ///
    /// After a kill or a timeout nothing was started.
    pub fn spawn<T: 'static>(&self, function: impl FnOnce() -> T + 'static) -> Greenlet<T> {
        self.slots.acquire().forget();
        self.group.spawn_in_slot(Some(self.slots.clone()), function)
    }

    /// Starts a greenlet if there is room; else gives the function back. Does not switch.
    ///
    /// # Errors
    ///
    /// The function, when the pool is full.
    pub fn try_spawn<T: 'static, F: FnOnce() -> T + 'static>(&self, function: F) -> Result<Greenlet<T>, F> {
        match self.slots.try_acquire() {
            Some(permit) => {
                permit.forget();
                Ok(self.group.spawn_in_slot(Some(self.slots.clone()), function))
            }
            None => Err(function),
        }
    }

    /// Waits until all greenlets of the pool have ended.
    pub fn join(&self) {
        self.group.join();
    }

    /// Kills all greenlets of the pool and waits until they have ended.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// Applies `function` to every item, each in a greenlet of the pool, and returns the results in the items' order.
    ///
    /// # Errors
    ///
    /// The first item's [`GreenletError`] that has one. All others have run to their end.
    ///
    /// # Switches
    ///
    /// Unless there are no items.
    ///
    /// # Cancellation
    ///
    /// A kill or a timeout of the caller leaves the greenlets running that have started.
    pub fn map<I: 'static, R: 'static>(
        &self,
        items: impl IntoIterator<Item = I>,
        function: impl Fn(I) -> R + 'static,
    ) -> Result<Vec<R>, GreenletError> {
        let function = Rc::new(function);
        let greenlets: Vec<_> = items
            .into_iter()
            .map(|item| {
                let function = function.clone();
                self.spawn(move || function(item))
            })
            .collect();
        let outcomes: Vec<_> = greenlets.into_iter().map(Greenlet::get).collect();
        outcomes.into_iter().collect()
    }

    /// As [`Pool::map`], but gives each result as soon as it is the next in the items' order. Items are taken as there is
    /// room in the pool, from a greenlet of its own.
    pub fn imap<I: 'static, R: 'static>(
        &self,
        items: impl IntoIterator<Item = I> + 'static,
        function: impl Fn(I) -> R + 'static,
    ) -> Ordered<R> {
        Ordered { results: self.imap_numbered(items, function), next: 0, early: BTreeMap::new() }
    }

    /// As [`Pool::imap`], but gives the results in the order in which they are ready.
    pub fn imap_unordered<I: 'static, R: 'static>(
        &self,
        items: impl IntoIterator<Item = I> + 'static,
        function: impl Fn(I) -> R + 'static,
    ) -> Unordered<R> {
        Unordered { results: self.imap_numbered(items, function) }
    }

    fn imap_numbered<I: 'static, R: 'static>(
        &self,
        items: impl IntoIterator<Item = I> + 'static,
        function: impl Fn(I) -> R + 'static,
    ) -> Numbered<R> {
        let queue = Rc::new(Queue::unbounded());
        let pool = self.clone();
        let function = Rc::new(function);
        let sender = Rc::new(Sender { queue: queue.clone() });
        let feeder = spawn(move || {
            for (number, item) in items.into_iter().enumerate() {
                let function = function.clone();
                let report = Report { number, sender: sender.clone(), outcome: None };
                pool.spawn(move || report.send(catch(|| function(item))));
            }
        });
        Numbered { queue, feeder: Some(feeder) }
    }
}

/// Shuts the queue of results down when the last one who could send is gone.
struct Sender<R> {
    queue: Rc<Queue<(usize, Outcome<R>)>>,
}

type Outcome<R> = Result<R, GreenletError>;

impl<R> Drop for Sender<R> {
    fn drop(&mut self) {
        self.queue.shut_down();
    }
}

/// Sends one item's outcome when it is dropped: a greenlet that is killed before it starts has none.
struct Report<R> {
    number: usize,
    sender: Rc<Sender<R>>,
    outcome: Option<Outcome<R>>,
}

impl<R> Report<R> {
    fn send(mut self, outcome: Outcome<R>) {
        self.outcome = Some(outcome);
    }
}

impl<R> Drop for Report<R> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(Err(GreenletError::Killed));
        // Nobody may be left to get it.
        let _ = self.sender.queue.try_put((self.number, outcome));
    }
}

#[derive(Debug)]
struct Numbered<R> {
    queue: Rc<Queue<(usize, Outcome<R>)>>,
    feeder: Option<Greenlet<()>>,
}

impl<R> Numbered<R> {
    fn next(&mut self) -> Option<(usize, Outcome<R>)> {
        if let Ok(result) = self.queue.get() {
            return Some(result);
        }
        // Nothing comes any more; a panic of the items' iterator is the last result.
        let error = self.feeder.take()?.get().err()?;
        Some((usize::MAX, Err(error)))
    }
}

impl<R> Drop for Numbered<R> {
    fn drop(&mut self) {
        if let Some(feeder) = &self.feeder {
            Joinable::kill_nowait(feeder);
        }
    }
}

/// The results of [`Pool::imap_unordered`]. Asking for the next one waits for it. Dropping it stops taking items.
#[derive(Debug)]
pub struct Unordered<R> {
    results: Numbered<R>,
}

impl<R> Iterator for Unordered<R> {
    type Item = Result<R, GreenletError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.results.next().map(|(_, outcome)| outcome)
    }
}

/// The results of [`Pool::imap`]. Asking for the next one waits for it. Dropping it stops taking items.
#[derive(Debug)]
pub struct Ordered<R> {
    results: Numbered<R>,
    next: usize,
    early: BTreeMap<usize, Outcome<R>>,
}

impl<R> Iterator for Ordered<R> {
    type Item = Result<R, GreenletError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(outcome) = self.early.remove(&self.next) {
                self.next += 1;
                return Some(outcome);
            }
            match self.results.next() {
                Some((number, outcome)) => {
                    self.early.insert(number, outcome);
                }
                None => return self.early.pop_first().map(|(_, outcome)| outcome),
            }
        }
    }
}
