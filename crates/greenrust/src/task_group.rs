//! Task groups: greenlets that end before the block of code that started them does.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use crate::cancel_scope::CancelScope;
use crate::greenlet::{
    Greenlet, ScopeCancelled, blocking, end_unwinding, is_exit, panic_message, spawn_in_scope, unwind_on,
};
use crate::hub::{Hub, Scope, WaitingFor};
use crate::wait_queue::WaitQueue;

/// What went wrong in one task of a group, or in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskFailure<E> {
    /// It returned an error.
    Failed(E),
    /// It panicked, with this message; the panic hook has reported it.
    Panicked(String),
}

impl<E: fmt::Display> fmt::Display for TaskFailure<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskFailure::Failed(error) => write!(formatter, "{error}"),
            TaskFailure::Panicked(message) => write!(formatter, "panicked: {message}"),
        }
    }
}

/// All that went wrong in a group, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskGroupError<E> {
    /// The failures; none if the group was cancelled before its body returned.
    pub failures: Vec<TaskFailure<E>>,
}

impl<E: fmt::Display> fmt::Display for TaskGroupError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failures.is_empty() {
            return formatter.write_str("the task group was cancelled");
        }
        write!(formatter, "{} failure(s) in a task group", self.failures.len())?;
        self.failures.iter().try_for_each(|failure| write!(formatter, "; {failure}"))
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for TaskGroupError<E> {}

struct Shared<E> {
    scope: Scope,
    failures: RefCell<Vec<TaskFailure<E>>>,
    running: Cell<usize>,
    joiner: WaitQueue,
    is_closed: Cell<bool>,
}

impl<E> Shared<E> {
    fn fail(&self, failure: TaskFailure<E>) {
        self.failures.borrow_mut().push(failure);
        self.scope.cancel();
    }
}

/// Counts a task as running until it is dropped: also that of one which never starts.
struct Membership<E>(Rc<Shared<E>>);

impl<E> Drop for Membership<E> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.running.get() == 0 {
            self.0.joiner.wake_all();
        }
    }
}

/// Greenlets that all end before [`TaskGroup::run`] returns. The first failure cancels the others.
///
/// Cloning gives another handle, so that tasks can start tasks.
pub struct TaskGroup<E> {
    shared: Rc<Shared<E>>,
}

impl<E> Clone for TaskGroup<E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<E> fmt::Debug for TaskGroup<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TaskGroup({} running)", self.shared.running.get())
    }
}

impl<E: 'static> TaskGroup<E> {
    /// Runs `body`, which starts tasks by [`TaskGroup::spawn`], and waits until all of them have ended.
    ///
    /// ```
    /// use greenrust::{TaskGroup, sleep};
    /// use std::time::Duration;
    ///
    /// let outcome: Result<(), _> = TaskGroup::run(|group| {
    ///     group.spawn(|| Ok(sleep(Duration::from_secs(60))));
    ///     group.spawn(|| -> Result<(), &str> { Err("no such host") });
    ///     Ok(())
    /// });
    /// assert_eq!(outcome.unwrap_err().to_string(), "1 failure(s) in a task group; no such host");
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskGroupError`] with all failures, those of the body and of tasks that failed while they were cancelled
    /// included; with none, if the group was cancelled and its body did not return.
    ///
    /// # Switches
    ///
    /// While a task is running.
    ///
    /// # Cancellation
    ///
    /// A kill, a timeout or an outer scope cancels the tasks, waits until they have ended, and then unwinds.
    pub fn run<R>(body: impl FnOnce(&Self) -> Result<R, E>) -> Result<R, TaskGroupError<E>> {
        let group = Self {
            shared: Rc::new(Shared {
                scope: Scope::new(),
                failures: RefCell::default(),
                running: Cell::new(0),
                joiner: WaitQueue::new(),
                is_closed: Cell::new(false),
            }),
        };
        let shared = &group.shared;
        let hub = Hub::current();
        let greenlet = hub.running();
        greenlet.enter_scope(&shared.scope);
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&group)));
        let is_own = shared.scope.is_cancelled() && !shared.scope.is_reached_from_above();
        let is_innermost = greenlet.leave_scope(&shared.scope);
        assert!(is_innermost, "a task group's body ended in another greenlet");
        let mut result = None;
        // What unwinds on when all tasks have ended.
        let mut outer = None;
        match outcome {
            Ok(Ok(value)) => result = Some(value),
            Ok(Err(error)) => shared.fail(TaskFailure::Failed(error)),
            Err(payload) if is_own && payload.is::<ScopeCancelled>() => end_unwinding(&greenlet),
            Err(payload) => outer = Some(payload),
        }
        while shared.running.get() > 0 {
            let address = Rc::as_ptr(shared) as usize;
            let wait = || {
                let _ = blocking(|| {
                    let outcome = shared.joiner.wait(WaitingFor::Object("TaskGroup", address), None);
                    outcome.map_err(|abandoned| abandoned.error)
                });
            };
            if outer.is_some() {
                shared.scope.cancel();
                // Whatever else comes, comes when the tasks have ended.
                let _ = CancelScope::new().shielded().run(wait);
            } else if let Err(payload) = catch_unwind(AssertUnwindSafe(wait)) {
                outer = Some(payload);
            }
        }
        shared.is_closed.set(true);
        shared.scope.close(hub);
        let failures = shared.failures.take();
        match outer {
            // The outer scope stays cancelled, so the failures may go first.
            Some(payload) if payload.is::<ScopeCancelled>() && !failures.is_empty() => end_unwinding(&greenlet),
            Some(payload) => unwind_on(&greenlet, payload),
            None => {}
        }
        match result {
            Some(value) if failures.is_empty() => Ok(value),
            _ => Err(TaskGroupError { failures }),
        }
    }

    /// Starts a task: a greenlet of the group. Does not switch.
    ///
    /// Its result is None if it returned an error, which the group has then. In a group that was cancelled it never runs.
    ///
    /// # Panics
    ///
    /// If the group's [`TaskGroup::run`] has returned.
    pub fn spawn<T: 'static>(&self, function: impl FnOnce() -> Result<T, E> + 'static) -> Greenlet<Option<T>> {
        assert!(!self.shared.is_closed.get(), "the task group has ended");
        self.shared.running.set(self.shared.running.get() + 1);
        let membership = Membership(self.shared.clone());
        spawn_in_scope(&self.shared.scope, move || {
            let group = membership;
            match catch_unwind(AssertUnwindSafe(function)) {
                Ok(Ok(value)) => Some(value),
                Ok(Err(error)) => {
                    group.0.fail(TaskFailure::Failed(error));
                    None
                }
                Err(payload) => {
                    if !is_exit(&*payload) {
                        group.0.fail(TaskFailure::Panicked(panic_message(&*payload)));
                    }
                    resume_unwind(payload)
                }
            }
        })
    }

    /// Cancels the body and all tasks. Does not switch.
    pub fn cancel(&self) {
        self.shared.scope.cancel();
    }

    /// Returns how many tasks have not ended.
    pub fn len(&self) -> usize {
        self.shared.running.get()
    }

    /// Says whether all tasks have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
