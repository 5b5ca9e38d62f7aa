//! What happens around each round of a thread's hub: the watchers that every round concerns, and those who wait for a
//! round, or for the end of the loop.
//!
//! The hub calls here at every poll, so the common case, nobody, is a few loads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use greenrust::hub::{Hub, Waker};
use pyo3::prelude::*;

use super::{PyWatcher, child, signal, signal_wakeup};

/// Which list of the book a watcher stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Called before each poll.
    Prepare,
    /// Called after each poll.
    Check,
    /// Called in each round that found nothing else to do.
    Idle,
    /// Called in the child of a fork.
    Fork,
    /// Called after a signal.
    Signal,
    /// Looked at after SIGCHLD.
    Child,
}

const LISTS: usize = 6;

/// A thread's book of what its rounds have to do.
#[derive(Default)]
pub(super) struct Rounds {
    iteration: Cell<u64>,
    /// How many entries there are in all lists but `runners`.
    busy: Cell<usize>,
    lists: [RefCell<Vec<Py<PyWatcher>>>; LISTS],
    /// Greenlets that wait for the end of a round; with true, the round shall not wait for events.
    ticks: RefCell<Vec<(Waker, bool)>>,
    /// Greenlets that wait until the hub has nothing left.
    runners: RefCell<Vec<Waker>>,
}

thread_local! {
    static ROUNDS: Cell<*const Rounds> = const { Cell::new(std::ptr::null()) };
}

/// Gives access to the thread's book, if there is one.
fn with<R>(function: impl FnOnce(&Rounds) -> R) -> Option<R> {
    let rounds = ROUNDS.with(Cell::get);
    if rounds.is_null() {
        return None;
    }
    // SAFETY: from `Rc::into_raw`, given back by `end_thread` alone. The count is raised, as what runs may call that.
    let rounds = unsafe {
        Rc::increment_strong_count(rounds);
        Rc::from_raw(rounds)
    };
    Some(function(&rounds))
}

impl Rounds {
    /// Returns the calling thread's book; makes it if there is none.
    pub(super) fn of_thread() -> Rc<Self> {
        let rounds = ROUNDS.with(Cell::get);
        if rounds.is_null() {
            let made = Rc::new(Self::default());
            ROUNDS.with(|cell| cell.set(Rc::into_raw(made.clone())));
            signal_wakeup::prepare();
            return made;
        }
        // SAFETY: as in `with`.
        unsafe {
            Rc::increment_strong_count(rounds);
            Rc::from_raw(rounds)
        }
    }

    pub(super) fn iteration(&self) -> u64 {
        self.iteration.get()
    }

    /// Enters a watcher into a list.
    pub(super) fn add(&self, list: List, watcher: &Bound<'_, PyWatcher>) {
        self.busy.set(self.busy.get() + 1);
        self.lists[list as usize].borrow_mut().push(watcher.clone().unbind());
    }

    /// Takes a watcher out of a list.
    pub(super) fn remove(&self, list: List, watcher: &Bound<'_, PyWatcher>) {
        let found = {
            let mut members = self.lists[list as usize].borrow_mut();
            let place = members.iter().position(|member| member.is(watcher));
            place.map(|place| members.remove(place))
        };
        self.busy.set(self.busy.get() - usize::from(found.is_some()));
        drop(found);
    }

    /// Says whether a list has no members.
    pub(super) fn is_empty(&self, list: List) -> bool {
        self.lists[list as usize].borrow().is_empty()
    }

    /// Returns a list's members, to go through while it may change.
    fn members<'py>(&self, py: Python<'py>, list: List) -> Vec<Bound<'py, PyWatcher>> {
        self.lists[list as usize].borrow().iter().map(|member| member.bind(py).clone()).collect()
    }

    /// Has the end of the next round wake a greenlet.
    pub(super) fn add_tick(&self, waker: Waker, nowait: bool) {
        self.busy.set(self.busy.get() + 1);
        self.ticks.borrow_mut().push((waker, nowait));
    }

    /// Has the end of the loop wake a greenlet.
    pub(super) fn add_runner(&self, waker: Waker) {
        self.runners.borrow_mut().push(waker);
    }

    /// Forgets a greenlet that waits no more.
    pub(super) fn forget(&self, waker: &Waker) {
        self.runners.borrow_mut().retain(|other| other != waker);
        let mut ticks = self.ticks.borrow_mut();
        let before = ticks.len();
        ticks.retain(|(other, _)| other != waker);
        self.busy.set(self.busy.get() - (before - ticks.len()));
    }
}

/// Runs before the hub waits for events. Returns true if it shall not wait.
pub fn before_poll(py: Python<'_>) -> bool {
    with(|rounds| {
        rounds.iteration.set(rounds.iteration.get() + 1);
        if rounds.busy.get() == 0 {
            return false;
        }
        for watcher in rounds.members(py, List::Prepare) {
            if watcher.get().is_active() {
                PyWatcher::fire(&watcher, 0);
            }
        }
        !rounds.is_empty(List::Idle) || rounds.ticks.borrow().iter().any(|(_, nowait)| *nowait)
    })
    .unwrap_or(false)
}

/// Runs after the hub has waited for events, before it acts on them.
pub fn after_poll(py: Python<'_>) {
    with(|rounds| {
        if rounds.busy.get() == 0 {
            return;
        }
        for watcher in rounds.members(py, List::Signal) {
            signal::look(&watcher);
        }
        for watcher in rounds.members(py, List::Child) {
            child::look(&watcher);
        }
        for watcher in rounds.members(py, List::Check) {
            PyWatcher::feed_soon(&watcher, 0);
        }
        let ticks = rounds.ticks.take();
        rounds.busy.set(rounds.busy.get() - ticks.len());
        for (waker, _) in ticks {
            // By way of two entries of the queue, so that what the events call comes before.
            Hub::current().push_call(move |_| {
                waker.unpark();
            });
        }
    });
}

/// Runs when the hub has nothing else to do. Returns true if it did something.
pub fn idle(py: Python<'_>) -> bool {
    with(|rounds| {
        if rounds.busy.get() == 0 {
            return false;
        }
        let watchers = rounds.members(py, List::Idle);
        for watcher in &watchers {
            if watcher.get().is_active() {
                PyWatcher::fire(watcher, 0);
            }
        }
        !watchers.is_empty()
    })
    .unwrap_or(false)
}

/// Wakes the greenlets that wait for the end of the loop, or of a round, as there is none any more. Returns true if
/// there were any.
pub fn wake_runners() -> bool {
    with(|rounds| {
        let ticks = rounds.ticks.take();
        rounds.busy.set(rounds.busy.get() - ticks.len());
        let runners = rounds.runners.take();
        let wakers = runners.iter().chain(ticks.iter().map(|(waker, _)| waker));
        wakers.filter(|waker| waker.unpark()).count() > 0
    })
    .unwrap_or(false)
}

/// Brings the book up to date in the child of a fork, whose hub has been given new descriptors.
pub fn after_fork(py: Python<'_>, hub: &Hub) {
    // Also in a thread that has no book: another one's hub may have been waiting.
    signal_wakeup::after_fork(py, hub);
    with(|rounds| {
        signal::after_fork(hub);
        child::after_fork(py);
        for watcher in rounds.members(py, List::Fork) {
            PyWatcher::feed_soon(&watcher, 0);
        }
    });
}

/// Calls the fork watchers again, after the hub's queue was forgotten.
pub fn repeat_fork_watchers(py: Python<'_>, hub: &Hub) {
    // What the hub waited for was forgotten as well.
    signal_wakeup::after_fork(py, hub);
    with(|rounds| {
        for watcher in rounds.members(py, List::Fork) {
            PyWatcher::feed_anew(&watcher, 0);
        }
    });
}

/// Forgets the thread's book: the thread is about to end.
pub fn end_thread(hub: &Hub) {
    let rounds = ROUNDS.with(|cell| cell.replace(std::ptr::null()));
    if rounds.is_null() {
        return;
    }
    // SAFETY: from `Rc::into_raw`, given back once.
    let rounds = unsafe { Rc::from_raw(rounds) };
    signal::forget_hub(hub);
    signal_wakeup::forget_hub(hub);
    for list in &rounds.lists {
        drop(list.take());
    }
    rounds.busy.set(0);
}
