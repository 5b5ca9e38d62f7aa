//! What happens around each round of a thread's hub: those who wait for a round, or for the end of the loop.
//!
//! The hub calls here at every poll, so the common case, nobody, is two loads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use greenrust::hub::{Hub, Waker};
use pyo3::prelude::*;

/// A thread's book of what its rounds have to do.
#[derive(Default)]
pub(super) struct Rounds {
    iteration: Cell<u64>,
    /// How many entries all lists but `runners` have.
    busy: Cell<usize>,
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
    // SAFETY: from `Rc::into_raw`; `end_thread` is the thread's last use. The count is raised as the function may end
    // the use.
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
pub fn before_poll(_py: Python<'_>) -> bool {
    with(|rounds| {
        rounds.iteration.set(rounds.iteration.get() + 1);
        rounds.busy.get() != 0 && rounds.ticks.borrow().iter().any(|(_, nowait)| *nowait)
    })
    .unwrap_or(false)
}

/// Runs after the hub has waited for events, before it acts on them.
pub fn after_poll(_py: Python<'_>) {
    with(|rounds| {
        if rounds.busy.get() == 0 {
            return;
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
pub fn idle(_py: Python<'_>) -> bool {
    false
}

/// Wakes the greenlets that wait for the end of the loop. Returns true if there were any.
pub fn wake_runners() -> bool {
    with(|rounds| {
        let runners = rounds.runners.take();
        runners.iter().filter(|waker| waker.unpark()).count() > 0
    })
    .unwrap_or(false)
}

/// Schedules what is to be told of a fork, in the child.
pub(super) fn after_fork(_py: Python<'_>, _rounds: &Rounds) {}

/// Forgets the thread's book: the thread is about to end.
pub fn end_thread() {
    let rounds = ROUNDS.with(|cell| cell.replace(std::ptr::null()));
    if !rounds.is_null() {
        // SAFETY: from `Rc::into_raw`, given back once.
        drop(unsafe { Rc::from_raw(rounds) });
    }
}
