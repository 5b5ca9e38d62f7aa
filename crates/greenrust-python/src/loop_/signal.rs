//! Watchers of signals.
//!
//! While a signal is watched its handler in the system is ours, so Python's own handler of it does not run; when the
//! last watcher stops, the handler that was there before comes back. Our handler counts, and raises the wake-up of every
//! hub that watches signals, so the signal may arrive in any thread; the watchers compare counts after the poll.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use greenrust::hub::Hub;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::rounds::List;
use super::watcher::Kind;
use super::{PyLoop, PyWatcher};
use crate::arguments::Truth;
use crate::exceptions;

/// Signals are numbered 1 to 64.
const SIGNALS: usize = 65;
/// How many threads' hubs can watch signals at a time.
const HUBS: usize = 256;

/// How often each signal has arrived while it was watched.
static ARRIVED: [AtomicU64; SIGNALS] = [const { AtomicU64::new(0) }; SIGNALS];
/// The wake-up descriptors of the hubs that watch signals; 0 is a free place.
static WAKEUPS: [AtomicI32; HUBS] = [const { AtomicI32::new(0) }; HUBS];
/// The handler of SIGCHLD that was there before ours: called by ours, as our watch of children is not the program's.
static PREVIOUS_OF_CHILD: AtomicUsize = AtomicUsize::new(0);

struct Installed {
    watchers: usize,
    previous: libc::sigaction,
}

/// The signals whose handler is ours.
static INSTALLED: Mutex<Option<HashMap<i32, Installed>>> = Mutex::new(None);
/// Which hub has which place of `WAKEUPS`, and how many of its watchers need it.
static PLACES: Mutex<Option<HashMap<usize, (usize, usize)>>> = Mutex::new(None);

extern "C" fn on_signal(signal: libc::c_int) {
    // SAFETY: async-signal-safe: atomics, errno, write, and the handler that was called before for this signal.
    unsafe {
        let error = *libc::__errno_location();
        if let Some(arrived) = ARRIVED.get(signal as usize) {
            arrived.fetch_add(1, Ordering::AcqRel);
        }
        let one = 1u64.to_ne_bytes();
        for place in &WAKEUPS {
            let descriptor = place.load(Ordering::Acquire);
            if descriptor > 0 {
                libc::write(descriptor, one.as_ptr().cast(), one.len());
            }
        }
        if signal == libc::SIGCHLD {
            let previous = PREVIOUS_OF_CHILD.load(Ordering::Acquire);
            if previous != libc::SIG_DFL && previous != libc::SIG_IGN {
                let previous: extern "C" fn(libc::c_int) = std::mem::transmute(previous);
                previous(signal);
            }
        }
        *libc::__errno_location() = error;
    }
}

/// Returns how often the signal has arrived while it was watched.
pub(super) fn arrived(signal: i32) -> u64 {
    ARRIVED[signal as usize].load(Ordering::Acquire)
}

/// Makes the handler of `signal` ours and has it wake `hub`, until [`neglect`] is called as often.
pub(super) fn attend(hub: &Hub, signal: i32) -> PyResult<()> {
    let error = |error: std::io::Error| exceptions::os_error(&error);
    let descriptor = hub.remote().map_err(error)?.descriptor();
    take_place(hub, descriptor)?;
    let mut installed = INSTALLED.lock().expect("nothing panics under the lock");
    let installed = installed.get_or_insert_default();
    // SAFETY: plain structures, filled before use; the handler is async-signal-safe.
    let previous = unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        let mut previous: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_signal as *const () as usize;
        ours.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&mut ours.sa_mask);
        if libc::sigaction(signal, &ours, &mut previous) != 0 {
            leave_place(hub);
            return Err(error(std::io::Error::last_os_error()));
        }
        previous
    };
    let is_ours = previous.sa_sigaction == on_signal as *const () as usize;
    match installed.get_mut(&signal) {
        Some(entry) => {
            entry.watchers += 1;
            if !is_ours {
                entry.previous = previous;
            }
        }
        None => {
            installed.insert(signal, Installed { watchers: 1, previous });
        }
    }
    if signal == libc::SIGCHLD && !is_ours && previous.sa_flags & libc::SA_SIGINFO == 0 {
        PREVIOUS_OF_CHILD.store(previous.sa_sigaction, Ordering::Release);
    }
    Ok(())
}

/// Takes one [`attend`] back.
pub(super) fn neglect(hub: &Hub, signal: i32) {
    leave_place(hub);
    let mut installed = INSTALLED.lock().expect("nothing panics under the lock");
    let installed = installed.get_or_insert_default();
    let Some(entry) = installed.get_mut(&signal) else { return };
    entry.watchers -= 1;
    if entry.watchers > 0 {
        return;
    }
    // SAFETY: plain structures; a handler that somebody has set meanwhile stays.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut present) == 0
            && present.sa_sigaction == on_signal as *const () as usize
        {
            libc::sigaction(signal, &entry.previous, std::ptr::null_mut());
        }
    }
    installed.remove(&signal);
}

fn take_place(hub: &Hub, descriptor: i32) -> PyResult<()> {
    let mut places = PLACES.lock().expect("nothing panics under the lock");
    let places = places.get_or_insert_default();
    let key = std::ptr::from_ref(hub) as usize;
    if let Some((_, users)) = places.get_mut(&key) {
        *users += 1;
        return Ok(());
    }
    let Some(free) = WAKEUPS.iter().position(|place| place.load(Ordering::Acquire) == 0) else {
        return Err(exceptions::internal("too many threads watch signals"));
    };
    WAKEUPS[free].store(descriptor, Ordering::Release);
    places.insert(key, (free, 1));
    Ok(())
}

fn leave_place(hub: &Hub) {
    let mut places = PLACES.lock().expect("nothing panics under the lock");
    let places = places.get_or_insert_default();
    let key = std::ptr::from_ref(hub) as usize;
    if let Some((place, users)) = places.get_mut(&key) {
        *users -= 1;
        if *users == 0 {
            WAKEUPS[*place].store(0, Ordering::Release);
            places.remove(&key);
        }
    }
}

/// Stops raising the wake-up of a hub that is about to go.
pub(super) fn forget_hub(hub: &Hub) {
    let mut places = PLACES.lock().expect("nothing panics under the lock");
    if let Some((place, _)) = places.get_or_insert_default().remove(&(std::ptr::from_ref(hub) as usize)) {
        WAKEUPS[place].store(0, Ordering::Release);
    }
}

/// In the child of a fork: only this thread's hub is left, with a new wake-up.
pub(super) fn after_fork(hub: &Hub) {
    let mut places = PLACES.lock().expect("nothing panics under the lock");
    let places = places.get_or_insert_default();
    let own = places.remove(&(std::ptr::from_ref(hub) as usize));
    for (place, _) in places.drain().map(|(_, entry)| entry) {
        WAKEUPS[place].store(0, Ordering::Release);
    }
    if let Some((place, users)) = own {
        let descriptor = hub.remote().map_or(0, |remote| remote.descriptor());
        WAKEUPS[place].store(descriptor, Ordering::Release);
        places.insert(std::ptr::from_ref(hub) as usize, (place, users));
    }
}

pub(super) struct State {
    signal: i32,
    seen: Cell<u64>,
}

pub(super) fn arm(watcher: &Bound<'_, PyWatcher>, state: &State) -> PyResult<()> {
    let owner = watcher.get().owner(watcher.py()).get();
    state.seen.set(arrived(state.signal));
    attend(owner.hub(), state.signal)?;
    owner.rounds().add(List::Signal, watcher);
    Ok(())
}

pub(super) fn disarm(watcher: &Bound<'_, PyWatcher>, state: &State) {
    let owner = watcher.get().owner(watcher.py()).get();
    owner.rounds().remove(List::Signal, watcher);
    neglect(owner.hub(), state.signal);
}

/// Makes the watcher pending if its signal has arrived.
pub(super) fn look(watcher: &Bound<'_, PyWatcher>) {
    if let Kind::Signal(state) = watcher.get().kind() {
        let arrived = arrived(state.signal);
        if state.seen.replace(arrived) != arrived {
            PyWatcher::feed_soon(watcher, 0);
        }
    }
}

/// loop.signal(signum, ref=True, priority=None)
///
/// Calls its function after each arrival of the signal; several in short order may make one call. While it is active,
/// the handler that `signal.signal` has set for the same signal does not run.
#[pyclass(name = "signal", module = "gevent.core", extends = PyWatcher, subclass, frozen)]
pub struct PySignal {}

#[pymethods]
impl PySignal {
    #[new]
    #[pyo3(signature = (r#loop, signum, r#ref=Truth(true), priority=None))]
    pub(super) fn new(
        r#loop: &Bound<'_, PyLoop>,
        signum: i32,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<PyClassInitializer<Self>> {
        if signum < 1 || signum as usize >= SIGNALS {
            return Err(PyValueError::new_err(format!("illegal signal number: {signum}")));
        }
        let kind = Kind::Signal(State { signal: signum, seen: Cell::new(0) });
        Ok(PyClassInitializer::from(PyWatcher::new(r#loop, r#ref, priority, kind)).add_subclass(Self {}))
    }

    /// The number of the signal.
    #[getter]
    fn signum(slf: &Bound<'_, Self>) -> i32 {
        match slf.as_super().get().kind() {
            Kind::Signal(state) => state.signal,
            _ => unreachable!("the class fixes the kind"),
        }
    }
}
