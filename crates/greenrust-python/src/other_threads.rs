//! A hub with nothing left to do, and the other threads that may still wake a greenlet of it.
//!
//! Events, locks, queues and results may be shared by threads, and nothing tells beforehand which thread will use one:
//! it may not even have a hub. So a hub whose loop has ended does not call that a deadlock while any other thread
//! could run Python code that ends it. It waits, and looks from time to time whether such a thread is left.
//!
//! Threads that wake nobody do not count: idle workers of thread pools, and hubs that wait here themselves. When only
//! those are left they wait for each other, and all of them give up.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use greenrust::hub::{Hub, RunEnd, TimerAction};
use pyo3::prelude::*;

use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::thread_state;

/// How long a hub waits at first before it looks whether other threads are left. Each time it waits twice as long.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// The longest that the end of the last other thread goes unnoticed.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How often a thread looks whether it is its turn: code that holds one is short.
const TURN_LOOK: Duration = Duration::from_micros(50);

/// See [`forks`].
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Hubs that wait for other threads: each is allocated, as its thread is inside [`wait`].
static WAITING: Gil<RefCell<Vec<*const Hub>>> = Gil::new(RefCell::new(Vec::new()));
/// How many threads do nothing that could wake anyone.
static QUIET: Gil<Cell<usize>> = Gil::new(Cell::new(0));

/// Runs `wait` in a thread that will wake nobody meanwhile.
pub fn quiet<R>(_py: Python<'_>, wait: impl FnOnce() -> R) -> R {
    QUIET.set(QUIET.get() + 1);
    let result = wait();
    // A fork that another thread made meanwhile has reset the count in the child, where this thread is gone.
    QUIET.set(QUIET.get().saturating_sub(1));
    result
}

/// Returns how many forks this process is away from the one that loaded the module: threads of another are gone.
pub fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Forgets the threads that the child of a fork does not have.
pub fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    WAITING.borrow_mut().clear();
    QUIET.set(0);
}

/// How patient a hub is. It begins anew when something was done.
pub struct Patience(Cell<Duration>);

impl Default for Patience {
    fn default() -> Self {
        Self(Cell::new(FIRST_LOOK))
    }
}

/// Takes the hub off the list. Returns false if another hub has: then no thread is left that does anything.
fn take_off(hub: &Hub) -> bool {
    let mut waiting = WAITING.borrow_mut();
    let place = waiting.iter().position(|other| std::ptr::eq(*other, hub));
    place.map(|place| waiting.swap_remove(place)).is_some()
}

/// Waits a while for other threads, in the hub, which has nothing left to do. Returns what ended the wait, or None if
/// there is no thread that could end it.
pub fn wait(py: Python<'_>, hub: &Hub, patience: &Patience) -> Option<RunEnd> {
    let others = thread_state::count(py).saturating_sub(1);
    if others <= QUIET.get() + host::count_starving(py, &WAITING.borrow()) {
        for other in WAITING.take() {
            host::end_poll(py, other);
        }
        return None;
    }
    WAITING.borrow_mut().push(hub);
    let wait = patience.0.get();
    let timer = hub.add_timer(hub.clock().now().after(wait), TimerAction::Call(Box::new(|_| {})), true);
    let end = hub.run(true, false);
    let is_expired = !hub.remove_timer(timer);
    patience.0.set(if is_expired { (wait * 2).min(LAST_LOOK) } else { FIRST_LOOK });
    if take_off(hub) || end == RunEnd::Stopped {
        return Some(end);
    }
    // The wake-up itself may not have been seen yet; it is no work.
    let end = hub.run(true, true);
    (end == RunEnd::Stopped || hub.is_alive()).then_some(end)
}

/// The turn of one thread to change something by code that may give up the GIL. Greenlets of that thread may take it
/// again, as a finalizer may.
#[derive(Default)]
pub struct Turn {
    /// Who has it, and in which process.
    holder: Cell<Option<(u64, u32)>>,
    depth: Cell<u32>,
}

impl Turn {
    /// Takes the turn until the guard is dropped; waits, with the GIL given up and without a switch, while another thread
    /// has it.
    #[inline]
    pub fn take(&self, py: Python<'_>) -> TurnGuard<'_> {
        let here = (py_hub::thread_ident(), forks());
        if self.holder.get().is_some_and(|holder| holder != here) {
            self.wait(py, here.1);
        }
        if self.holder.replace(Some(here)) != Some(here) {
            self.depth.set(0);
        }
        self.depth.set(self.depth.get() + 1);
        TurnGuard { turn: self }
    }

    #[cold]
    fn wait(&self, py: Python<'_>, forks: u32) {
        // A thread that the end of the process has stopped never gives its turn back; nor does one that a fork left out.
        while self.holder.get().is_some_and(|(_, process)| process == forks) && !thread_state::is_finalizing() {
            py.detach(|| std::thread::sleep(TURN_LOOK));
        }
    }
}

/// A turn that is taken.
pub struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Drop for TurnGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let depth = self.turn.depth.get().saturating_sub(1);
        self.turn.depth.set(depth);
        if depth == 0 {
            self.turn.holder.set(None);
        }
    }
}
