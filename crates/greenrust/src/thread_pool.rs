//! Worker threads for what blocks in ways that no poller knows: look-ups of names, files, libraries that wait.
//!
//! Two layers. [`Tasks`] is the queue that worker threads wait at, whatever a task is; a face that starts threads in
//! its own way builds on it. [`ThreadPool`] is the whole for Rust programs: threads are started when there is more to do
//! than threads, up to a maximum, and end when they were idle for too long.
//!
//! ```
//! use greenrust::thread_pool::ThreadPool;
//!
//! let pool = ThreadPool::new(2);
//! let answer = pool.run(|| std::fs::read_to_string("/proc/self/comm")); // other greenlets run meanwhile
//! assert!(answer.is_ok());
//! ```

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::event::Event;
use crate::hub::Hub;

/// What a worker finds at the queue.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Something to do.
    Task(T),
    /// The worker is to end: it was asked to.
    Stop,
    /// The worker is to end: it was idle for as long as it may be.
    Idle,
}

#[derive(Debug)]
struct Queue<T> {
    tasks: VecDeque<T>,
    stops: usize,
    idle: usize,
}

/// A queue of tasks that threads wait at, first in, first out.
#[derive(Debug)]
pub struct Tasks<T> {
    queue: Mutex<Queue<T>>,
    changed: Condvar,
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self { queue: Mutex::new(Queue { tasks: VecDeque::new(), stops: 0, idle: 0 }), changed: Condvar::new() }
    }
}

impl<T> Tasks<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing that is done under the lock can panic halfway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task. Returns false if there are more tasks than idle workers: then another worker is of use.
    pub fn push(&self, task: T) -> bool {
        let mut queue = self.lock();
        queue.tasks.push_back(task);
        let is_enough = queue.tasks.len() <= queue.idle;
        drop(queue);
        self.changed.notify_one();
        is_enough
    }

    /// Has `count` workers end once there is nothing left to do.
    pub fn stop(&self, count: usize) {
        self.lock().stops += count;
        self.changed.notify_all();
    }

    /// Takes back requests to end that no worker has followed. Returns how many there were.
    pub fn cancel_stops(&self) -> usize {
        std::mem::take(&mut self.lock().stops)
    }

    /// Returns how many workers were asked to end and have not.
    pub fn stopping(&self) -> usize {
        self.lock().stops
    }

    /// Returns how many tasks no worker has taken.
    pub fn waiting(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Removes the tasks that no worker has taken.
    pub fn drain(&self) -> Vec<T> {
        self.lock().tasks.drain(..).collect()
    }

    /// Waits for the next task, no longer than `patience`. Blocks the thread: call it in workers only.
    pub fn take(&self, patience: Option<Duration>) -> Next<T> {
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut queue = self.lock();
        queue.idle += 1;
        let next = loop {
            if let Some(task) = queue.tasks.pop_front() {
                break Next::Task(task);
            }
            if queue.stops > 0 {
                queue.stops -= 1;
                break Next::Stop;
            }
            queue = match until {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break Next::Idle;
                    }
                    self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        queue.idle -= 1;
        next
    }
}

type Call = Box<dyn FnOnce() + Send>;
/// Where a worker leaves what a call returned, or its panic.
type Answer<T> = Mutex<Option<Result<T, Box<dyn Any + Send>>>>;

#[derive(Default)]
struct Shared {
    tasks: Tasks<Call>,
    workers: Mutex<usize>,
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, usize> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, idle_timeout: Option<Duration>) {
        loop {
            match self.tasks.take(idle_timeout) {
                Next::Task(call) => call(),
                end => {
                    // Under the lock that `push` counts workers by, so that a task which has just come is not left.
                    let mut workers = self.workers();
                    if self.tasks.waiting() == 0 {
                        *workers -= 1;
                        return;
                    }
                    self.tasks.stop(usize::from(matches!(end, Next::Stop)));
                }
            }
        }
    }
}

thread_local! {
    /// What this thread's greenlets wait for in pools: a worker sends the key, as an event can't leave its thread.
    static AWAITED: RefCell<Slab<Rc<Event>>> = const { RefCell::new(Slab::new()) };
}

/// A wait for a worker: keeps the loop alive, and is forgotten however it ends.
struct Awaited {
    key: usize,
    hub: &'static Hub,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.hub.release();
        AWAITED.with_borrow_mut(|awaited| drop(awaited.try_remove(self.key)));
    }
}

/// A pool of threads that greenlets leave blocking work to. Any thread may use it; clones are of one pool.
#[derive(Clone)]
pub struct ThreadPool {
    shared: Arc<Shared>,
    maximum: usize,
    idle_timeout: Option<Duration>,
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ThreadPool({} of {} threads)", self.size(), self.maximum)
    }
}

impl ThreadPool {
    /// Creates a pool of at most `maximum` threads, at least one. Starts none.
    pub fn new(maximum: usize) -> Self {
        Self { shared: Arc::default(), maximum: maximum.max(1), idle_timeout: None }
    }

    /// Has threads end that were idle for this long.
    #[must_use]
    pub fn idle_timeout(mut self, duration: Duration) -> Self {
        self.idle_timeout = Some(duration);
        self
    }

    /// Returns how many threads there are.
    pub fn size(&self) -> usize {
        *self.shared.workers()
    }

    /// Runs `function` in a thread of the pool and returns what it returns.
    ///
    /// # Panics
    ///
    /// With the panic of `function`; when the system gives neither the pool's first thread nor the hub's descriptor.
    ///
    /// # Cancellation
    ///
    /// A kill or timeout ends the wait, not the work; its result is dropped.
    ///
    /// # Switches
    ///
    /// Always.
    pub fn run<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> T {
        let hub = Hub::current();
        let remote = hub.remote().expect("a hub needs a descriptor to be woken by");
        let event = Rc::new(Event::new());
        let key = AWAITED.with_borrow_mut(|awaited| awaited.insert(event.clone()));
        hub.hold();
        let awaited = Awaited { key, hub };
        let answer: Arc<Answer<T>> = Arc::default();
        let slot = answer.clone();
        let token = Arc::downgrade(&answer);
        self.push(Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(function));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            drop(slot);
            remote.post(move |_| {
                // Who gave up the wait has given up the answer; the key may be another's by now.
                if token.strong_count() > 0 {
                    let event = AWAITED.with_borrow(|awaited| awaited.get(key).cloned());
                    if let Some(event) = event {
                        event.set();
                    }
                }
            });
        }));
        event.wait();
        drop(awaited);
        let outcome = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match outcome.expect("the worker stores the outcome before it wakes") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn push(&self, call: Call) {
        let mut workers = self.shared.workers();
        if self.shared.tasks.push(call) || *workers >= self.maximum {
            return;
        }
        *workers += 1;
        let (shared, idle_timeout) = (self.shared.clone(), self.idle_timeout);
        let started =
            std::thread::Builder::new().name("greenrust worker".to_owned()).spawn(move || shared.work(idle_timeout));
        if let Err(error) = started {
            *workers -= 1;
            // Those that exist will come to it.
            assert!(*workers > 0, "no thread for a pool: {error}");
        }
    }

    /// Has all threads end once nothing is left to do. The pool can be used again.
    pub fn stop(&self) {
        let workers = self.shared.workers();
        self.shared.tasks.stop(workers.saturating_sub(self.shared.tasks.stopping()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_come_in_order_and_a_stop_comes_after_them() {
        let tasks = Tasks::default();
        tasks.stop(1);
        assert!(!tasks.push(1), "no worker is idle");
        tasks.push(2);
        assert_eq!([tasks.take(None), tasks.take(None), tasks.take(None)], [Next::Task(1), Next::Task(2), Next::Stop]);
        assert_eq!(tasks.take(Some(Duration::ZERO)), Next::Idle);
    }

    #[test]
    fn a_greenlet_gets_the_result_of_another_thread_while_others_run() {
        let pool = ThreadPool::new(1);
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiting = {
            let pool = pool.clone();
            crate::spawn(move || pool.run(move || receiver.recv().unwrap()))
        };
        // Runs while the other waits, else neither would ever end.
        let sending = crate::spawn(move || sender.send(7).unwrap());
        sending.get().unwrap();
        assert_eq!(waiting.get().unwrap(), 7);
        assert_eq!(pool.size(), 1);
    }

    #[test]
    fn a_panic_of_the_work_goes_to_its_caller() {
        let pool = ThreadPool::new(1);
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(|| -> () { panic!("expected") })));
        assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "expected");
        assert_eq!(pool.run(|| 1), 1);
    }

    #[test]
    fn no_more_threads_than_the_maximum_work_at_once() {
        let pool = ThreadPool::new(2);
        let ids: Vec<_> = (0..20)
            .map(|_| {
                let pool = pool.clone();
                crate::spawn(move || pool.run(|| std::thread::current().id()))
            })
            .collect();
        let ids: std::collections::HashSet<_> = ids.into_iter().map(|greenlet| greenlet.get().unwrap()).collect();
        assert!(ids.len() <= 2 && pool.size() <= 2);
    }

    #[test]
    fn a_given_up_wait_does_not_disturb_the_next() {
        let pool = ThreadPool::new(1);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let given_up = crate::Timeout::run(Duration::from_millis(1), || pool.run(move || receiver.recv().ok()));
        assert!(given_up.is_err());
        sender.send(()).unwrap();
        assert_eq!(pool.run(|| 3), 3);
    }
}
