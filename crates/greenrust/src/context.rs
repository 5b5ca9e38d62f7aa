//! Machine contexts: any-to-any transfer of control between stacks of one thread.
//!
//! corosensei gives asymmetric coroutines: a parent resumes, the child suspends. Greenlets switch to whichever other
//! greenlet they like. A *trampoline* on the thread's own stack makes the one from the other:
//!
//! ```text
//!   thread's own stack             stack of A                   stack of B
//!   ┌──────────────────┐
//!   │ root code        │
//!   │ transfer(A) ─────┼──resume──► runs
//!   │   trampoline     │ ◄─suspend─ transfer(B): next = B
//!   │     next is B ───┼──resume──────────────────────────────► runs
//!   │     next is root │ ◄─suspend───────────────────────────── transfer(root): next = root
//!   │ ... goes on      │
//!   └──────────────────┘
//! ```
//!
//! A hand-written symmetric switch costs more than this detour, as it defeats the processor's return prediction.
//!
//! Invariants:
//! - A [`Context`] belongs to the thread that made it (`!Send`), as does everything on its stack.
//! - The coroutine's record stands at the top of the stack that it describes ([`Stack::record`]), so that a context
//!   needs no allocation of its own, and the trampoline never touches a `Context` that may have ended.
//! - Nothing unwinds out of a context: its body catches.
//! - A started context is never reset or force-unwound from outside: frames of C code may stand on its stack. Who wants
//!   to end it makes its code return.

use std::cell::{Cell, UnsafeCell};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::stack::{Stack, StackError, StackPool};

type Machine = Coroutine<(), (), (), Stack>;

// SAFETY: a slot stays mapped for the life of the process, has a guard at its low end, and is owned by whoever holds the
// descriptor that the pool handed out.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.record().0).expect("a stack does not end at address 0")
    }

    fn limit(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.bottom()).expect("a stack does not begin at address 0")
    }
}

/// Where a context is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Has a body, but no stack yet.
    Unstarted,
    /// Running or suspended.
    Started,
    /// Its body has returned; the stack went back to the pool.
    Finished,
}

/// One flow of control: the thread's own ([`Context::root`]) or one with a stack from the pool.
#[derive(Debug)]
pub struct Context {
    machine: Cell<Option<NonNull<Machine>>>,
    yielder: Cell<*const Yielder<(), ()>>,
    state: Cell<State>,
    is_root: bool,
}

/// What one thread needs for transfers: who is next, and the stacks.
#[derive(Debug)]
pub struct Switcher {
    next: Cell<*const Context>,
    pool: UnsafeCell<StackPool>,
}

impl Switcher {
    /// Creates the switcher of a thread. All contexts that transfer to each other use one.
    pub const fn new() -> Self {
        Self { next: Cell::new(std::ptr::null()), pool: UnsafeCell::new(StackPool::new()) }
    }

    /// Puts a stack aside for the context that [`Switcher::yield_reserve`] is called for.
    ///
    /// # Errors
    ///
    /// [`StackError`] when there is no memory for a stack.
    pub fn reserve(&self) -> Result<(), StackError> {
        // SAFETY: the pool is borrowed for this call only, and `reserve` runs no foreign code.
        unsafe { (*self.pool.get()).reserve() }
    }

    /// Has the next [`Context::start`] take the stack that was put aside.
    pub fn yield_reserve(&self) {
        // SAFETY: as above.
        unsafe { (*self.pool.get()).yield_reserve() }
    }
}

impl Default for Switcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// Creates the context of the thread's own stack. It counts as started, and as current until the first transfer.
    pub const fn root() -> Self {
        Self {
            machine: Cell::new(None),
            yielder: Cell::new(std::ptr::null()),
            state: Cell::new(State::Started),
            is_root: true,
        }
    }

    /// Creates a context that has not started; it takes no stack until [`Context::start`].
    pub const fn new() -> Self {
        Self {
            machine: Cell::new(None),
            yielder: Cell::new(std::ptr::null()),
            state: Cell::new(State::Unstarted),
            is_root: false,
        }
    }

    /// Returns where the context is in its life.
    #[inline]
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Marks an unstarted context as finished, so that it never starts.
    pub fn abandon(&self) {
        debug_assert_eq!(self.state.get(), State::Unstarted);
        self.state.set(State::Finished);
    }

    /// Returns the stack, if the context has one now.
    pub fn stack(&self) -> Option<Stack> {
        // SAFETY: while `machine` is set, the record is alive: it is cleared before the body returns.
        self.machine.get().map(|machine| unsafe { *Record::stack(machine) })
    }

    /// Gives the context a stack and a body. The body begins at the first transfer to the context; it returns the
    /// context that control goes to when it ends, and must not unwind.
    ///
    /// # Errors
    ///
    /// [`StackError`] when there is no memory for a stack; the context stays unstarted.
    ///
    /// # Safety
    ///
    /// The context must stay where it is in memory until its body has returned, and so must the one that the body
    /// returns. Both belong to this thread, as does the switcher, which stays in place as long as they.
    #[inline]
    pub unsafe fn start<F>(&self, switcher: &Switcher, body: F) -> Result<(), StackError>
    where
        F: FnOnce() -> *const Context + 'static,
    {
        debug_assert_eq!(self.state.get(), State::Unstarted);
        // SAFETY: the pool is borrowed for this call only, and `allocate` runs no foreign code.
        let stack = unsafe { (*switcher.pool.get()).allocate() }?;
        let this: *const Context = self;
        let switcher: *const Switcher = switcher;
        let machine = Machine::with_stack(stack, move |yielder, ()| {
            // SAFETY: the caller of `start` keeps the context in place until this closure has returned.
            unsafe { (*this).yielder.set(yielder) };
            let next = body();
            // SAFETY: as above; this is the last use.
            unsafe {
                (*this).machine.set(None);
                (*this).state.set(State::Finished);
            }
            // SAFETY: the switcher outlives the contexts that use it.
            unsafe { (*switcher).next.set(next) };
        });
        // SAFETY: the record is reserved room at the top of the slot that `machine` now owns, checked for size above.
        self.machine.set(Some(unsafe { Record::place(stack, machine) }));
        self.state.set(State::Started);
        Ok(())
    }

    /// Suspends the running context and continues `self`; returns when somebody transfers back.
    ///
    /// # Safety
    ///
    /// `self` is started, not finished, not the running context, and of this thread. `from` is the running context.
    #[inline]
    pub unsafe fn transfer(&self, from: &Context, switcher: &Switcher) {
        switcher.next.set(self);
        if from.is_root {
            trampoline(switcher, from);
        } else {
            // SAFETY: `from` runs, so the yielder that its body was given is alive on its stack.
            unsafe { (*from.yielder.get()).suspend(()) };
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

/// Resumes one context after the other on the thread's own stack, until `root` is the next.
fn trampoline(switcher: &Switcher, root: &Context) {
    loop {
        let next = switcher.next.get();
        if std::ptr::eq(next, root) {
            return;
        }
        // SAFETY: the pool is borrowed for this call only, and `keep_ready` runs no foreign code.
        unsafe { (*switcher.pool.get()).keep_ready() };
        // SAFETY: whoever set `next` guarantees that it is alive, started and suspended, so it has a machine.
        let machine = unsafe { (*next).machine.get().expect("a transfer goes to a started context").as_ptr() };
        // SAFETY: only the trampoline of this thread touches a machine, one at a time.
        if let CoroutineResult::Return(()) = unsafe { (*machine).resume(()) } {
            // The context may be gone by now; its record is not, as it stands on the stack that is released here.
            // SAFETY: the machine has returned: nothing runs on its stack, and nothing refers to the record.
            unsafe {
                let stack = machine.read().into_stack();
                (*switcher.pool.get()).release(stack);
            }
        }
    }
}

/// The coroutine's place at the top of its own stack.
struct Record;

impl Record {
    /// # Safety
    ///
    /// The slot is owned by the caller and not in use.
    unsafe fn place(stack: Stack, machine: Machine) -> NonNull<Machine> {
        let pointer = NonNull::new(stack.record().0 as *mut Machine).expect("a stack does not end at address 0");
        // SAFETY: reserved room of sufficient size and alignment (the top is page-aligned, areas are multiples of 16).
        unsafe { pointer.write(machine) };
        // SAFETY: the room behind the coroutine is reserved too; `record` says how much.
        unsafe { Self::stack(pointer).write(stack) };
        pointer
    }

    /// Returns where the descriptor of the stack is kept: behind the coroutine.
    fn stack(machine: NonNull<Machine>) -> *mut Stack {
        machine.as_ptr().wrapping_add(1).cast()
    }
}

const _: () = assert!(size_of::<Machine>() + size_of::<Stack>() <= 96 && align_of::<Stack>() <= align_of::<Machine>());

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn control_goes_from_any_context_to_any_other() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let root: &'static Context = Box::leak(Box::new(Context::root()));
        let one: &'static Context = Box::leak(Box::new(Context::new()));
        let two: &'static Context = Box::leak(Box::new(Context::new()));
        let switcher: &'static Switcher = Box::leak(Box::new(Switcher::new()));
        let (log_one, log_two) = (log.clone(), log.clone());
        // SAFETY: all three contexts live for ever, on this thread; each transfer names the running one.
        unsafe {
            one.start(switcher, move || {
                log_one.borrow_mut().push("one begins");
                two.transfer(one, switcher);
                log_one.borrow_mut().push("one ends");
                root as *const Context
            })
            .unwrap();
            two.start(switcher, move || {
                log_two.borrow_mut().push("two begins");
                one.transfer(two, switcher);
                log_two.borrow_mut().push("two ends");
                root as *const Context
            })
            .unwrap();
            one.transfer(root, switcher);
            log.borrow_mut().push("root");
            two.transfer(root, switcher);
        }
        assert_eq!(*log.borrow(), ["one begins", "two begins", "one ends", "root", "two ends"]);
        assert_eq!((one.state(), two.state()), (State::Finished, State::Finished));
        assert!(one.stack().is_none());
    }
}
