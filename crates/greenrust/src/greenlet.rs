//! Greenlets as Rust programs use them: spawn, join, kill, sleep.
//!
//! # How a kill or a timeout travels
//!
//! It is an interrupt: the greenlet's current or next blocking call does not return, it *unwinds* (without the panic
//! hook), so that everything on the greenlet's stack is dropped. The greenlet's own boundary, or the
//! [`crate::Timeout`] that it belongs to, catches it. A `catch_unwind` in between that swallows the payload swallows the
//! kill.
//!
//! While a greenlet unwinds, for whatever reason, no (further) interrupt is delivered: a `Drop` may block, and such a wait
//! ends by what it waits for. What arrived meanwhile is delivered at the first blocking call after the unwinding was
//! caught.
//!
//! # What a blocking call does when it can't block
//!
//! In a callback of the hub it panics. When nothing is left that could ever wake anyone, the blocking call of the
//! thread's own (root) greenlet panics with a list of who waits for what.
//!
//! # The end of a thread
//!
//! Greenlets that are still suspended then are killed. Those that block again are left behind, undropped.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use slab::Slab;

use crate::clock::Instant;
use crate::context::State;
use crate::hub::{Body, Hub, Interrupt, LoopExit, RawGreenlet, Scope, TimerAction, WaitingFor, Wake};
use crate::local;
use crate::stack::{self, StackError};
use crate::wait_queue::{TimedOut, WaitError, WaitQueue};

/// The size in bytes of the stacks of a Rust program, unless [`Builder`] says otherwise. Guard included.
pub const DEFAULT_STACK_SIZE: usize = 128 << 10;

static STACK_SIZE_CHOSEN: Once = Once::new();

/// Settings of the runtime, for the whole process.
///
/// ```
/// greenrust::Builder::new().stack_size(1 << 20).install()?;
/// # Ok::<(), greenrust::stack::StackError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "settings take effect with `install`"]
pub struct Builder {
    stack_size: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Begins with the defaults.
    pub const fn new() -> Self {
        Self { stack_size: DEFAULT_STACK_SIZE }
    }

    /// Sets the size of a greenlet's stack in bytes, its guard (an eighth, 1 MiB at most) included. It is address space;
    /// memory is used as far as a stack was touched.
    pub const fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Makes the settings those of all greenlets that start from now on.
    ///
    /// # Errors
    ///
    /// [`StackError`] for a stack size out of range.
    pub fn install(self) -> Result<(), StackError> {
        stack::set_stack_size(self.stack_size)?;
        STACK_SIZE_CHOSEN.call_once(|| {});
        Ok(())
    }
}

/// Why a greenlet has no result.
#[derive(Debug, Clone)]
pub enum GreenletError {
    /// It panicked, with this message; the panic hook has reported it.
    Panicked(String),
    /// It was killed.
    Killed,
    /// There was no memory for its stack; it never ran.
    NoStack(StackError),
}

impl fmt::Display for GreenletError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GreenletError::Panicked(message) => {
                write!(formatter, "the greenlet panicked: {message}")
            }
            GreenletError::Killed => formatter.write_str("the greenlet was killed"),
            GreenletError::NoStack(error) => {
                write!(formatter, "the greenlet got no stack: {error}")
            }
        }
    }
}

impl std::error::Error for GreenletError {}

// -- interrupts -----------------------------------------------------------------------------------------------

/// An interrupt that unwinds with the given payload.
pub(crate) struct Unwind(pub(crate) Box<dyn Any + Send>);

/// The payload of a kill.
struct Killed;

/// The payload by which a blocking call in a cancelled scope unwinds.
pub(crate) struct ScopeCancelled;

/// Says whether a payload ends a greenlet without being a failure.
pub(crate) fn is_exit(payload: &(dyn Any + Send)) -> bool {
    payload.is::<Killed>() || payload.is::<ScopeCancelled>()
}

/// A greenlet that unwinds, and the interrupts that have to wait until that is over.
struct Unwinding {
    greenlet: usize,
    delayed: Vec<Interrupt>,
}

thread_local! {
    /// Few or none: greenlets whose unwinding has not been caught yet.
    static UNWINDING: RefCell<Vec<Unwinding>> = const { RefCell::new(Vec::new()) };
    static UNWINDING_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// A blocking call's error, of which some part may be the failure of a wait.
pub trait BlockingError {
    /// Returns why the wait failed, if that is what happened.
    fn wait_error(&self) -> Option<WaitError>;
}

impl BlockingError for WaitError {
    fn wait_error(&self) -> Option<WaitError> {
        Some(*self)
    }
}

/// Makes a blocking call of a core: what Rust programs need not see leaves by an unwinding or a panic, so that of a wait's
/// errors only [`WaitError::TimedOut`] and [`WaitError::Closed`] are returned.
///
/// # Panics
///
/// In the hub greenlet, on a raw switch from elsewhere, and, in the root greenlet, when nothing can end the wait.
#[inline]
pub fn blocking<T, E: BlockingError>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    if std::thread::panicking() || UNWINDING_COUNT.get() > 0 {
        note_unwinding();
    }
    loop {
        let outcome = call();
        let Err(error) = &outcome else {
            return outcome;
        };
        match error.wait_error() {
            None | Some(WaitError::TimedOut | WaitError::Closed) => return outcome,
            Some(error) => deliver(error),
        }
    }
}

/// Handles a wait's failure that is no result; returns if the wait shall be tried again.
#[cold]
fn deliver(error: WaitError) {
    match error {
        WaitError::Interrupted => {}
        WaitError::ParkInHub => {
            panic!("a blocking call in a callback of the hub, where nothing may block")
        }
        _ => panic!("{error}"),
    }
    let hub = Hub::current();
    let greenlet = hub.running();
    let Some(interrupt) = greenlet.take_interrupt() else {
        if greenlet.is_cancelled() {
            unwind_on(&greenlet, Box::new(ScopeCancelled));
        }
        return;
    };
    let address = greenlet.address();
    if is_unwinding(address) {
        delay(address, interrupt);
        return;
    }
    let interrupt = match interrupt.downcast::<Unwind>() {
        Ok(unwind) => unwind_on(&greenlet, unwind.0),
        Err(interrupt) => interrupt,
    };
    drop(greenlet);
    match interrupt.downcast::<LoopExit>() {
        Ok(exit) => panic!("{}", describe_loop_exit(&exit)),
        Err(_) => panic!("an interrupt of another face reached a Rust program's blocking call"),
    }
}

/// Keeps the books on who unwinds, before a blocking call: the thread's panic count can't tell one greenlet from another.
#[cold]
fn note_unwinding() {
    let greenlet = Hub::current().running();
    if std::thread::panicking() {
        // Whoever was unwinding before is marked, so an unmarked unwinding is that of the running greenlet.
        if UNWINDING_COUNT.get() == 0 {
            mark(&greenlet);
        }
    } else {
        // Payloads were swallowed by somebody's `catch_unwind`.
        end_unwinding(&greenlet);
    }
}

/// Unwinds the running greenlet's stack.
pub(crate) fn unwind_on(greenlet: &RawGreenlet, payload: Box<dyn Any + Send>) -> ! {
    mark(greenlet);
    resume_unwind(payload)
}

fn mark(greenlet: &RawGreenlet) {
    // What is cancelled may wait while it unwinds.
    greenlet.set_masked(true);
    let greenlet = greenlet.address();
    UNWINDING.with_borrow_mut(|unwinding| {
        if !unwinding.iter().any(|other| other.greenlet == greenlet) {
            unwinding.push(Unwinding { greenlet, delayed: Vec::new() });
            UNWINDING_COUNT.set(unwinding.len());
        }
    });
}

fn is_unwinding(greenlet: usize) -> bool {
    std::thread::panicking()
        && UNWINDING.with_borrow(|unwinding| unwinding.iter().any(|other| other.greenlet == greenlet))
}

fn delay(greenlet: usize, interrupt: Interrupt) {
    UNWINDING.with_borrow_mut(|unwinding| {
        if let Some(entry) = unwinding.iter_mut().find(|entry| entry.greenlet == greenlet) {
            entry.delayed.push(interrupt);
        }
    });
}

/// Notes that the greenlet's unwinding was caught; interrupts that had to wait are pending again.
pub(crate) fn end_unwinding(greenlet: &RawGreenlet) {
    if UNWINDING_COUNT.get() == 0 {
        return;
    }
    let address = greenlet.address();
    let ended = UNWINDING.with_borrow_mut(|unwinding| {
        let place = unwinding.iter().position(|entry| entry.greenlet == address)?;
        let ended = unwinding.swap_remove(place);
        UNWINDING_COUNT.set(unwinding.len());
        Some(ended)
    });
    if ended.is_some() {
        greenlet.set_masked(false);
    }
    for interrupt in ended.into_iter().flat_map(|ended| ended.delayed) {
        greenlet.interrupt(interrupt);
    }
}

// -- the greenlets of a thread --------------------------------------------------------------------------------

/// Kills the greenlets that are left when its thread ends.
struct LastRites;

thread_local! {
    /// All greenlets that were spawned in this thread and have not ended.
    static LIVE: RefCell<Slab<RawGreenlet>> = {
        STACK_SIZE_CHOSEN.call_once(|| {
            stack::set_stack_size(DEFAULT_STACK_SIZE).expect("the default is in range");
        });
        UNWINDING.with(|_| ());
        RefCell::new(Slab::new())
    };
    /// Thread-locals are dropped in the reverse order of their first use. This one is first used by a greenlet that
    /// starts, so the hub, the stacks and the lists above are still there when it is dropped.
    static LAST_RITES: LastRites = const { LastRites };
}

impl Drop for LastRites {
    fn drop(&mut self) {
        let hub = Hub::current();
        let living = LIVE.with_borrow(|live| live.iter().map(|(_, greenlet)| greenlet.clone()).collect());
        let mut left: Vec<RawGreenlet> = living;
        // A `Drop` may yield or end a wait of another's; who blocks for longer is left behind.
        for _ in 0..16 {
            left.retain(|greenlet| match greenlet.state() {
                State::Unstarted => {
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(greenlet.abandon())));
                    false
                }
                State::Started => true,
                State::Finished => false,
            });
            if left.is_empty() {
                break;
            }
            for greenlet in &left {
                if !UNWINDING.with_borrow(|all| all.iter().any(|other| other.greenlet == greenlet.address())) {
                    greenlet.interrupt(Box::new(Unwind(Box::new(Killed))));
                }
            }
            let _ = hub.yield_now();
        }
    }
}

/// Returns one line for each greenlet of the thread that waits: who, and for what.
pub fn describe_waiters() -> String {
    let mut text = String::new();
    let _ = LIVE.try_with(|live| {
        for (_, greenlet) in &*live.borrow() {
            let waiting_for = greenlet.waiting_for();
            if waiting_for != WaitingFor::Nothing {
                let _ = writeln!(text, "  greenlet {:#x} waits for {waiting_for}", greenlet.address());
            }
        }
    });
    text
}

fn describe_loop_exit(exit: &LoopExit) -> String {
    format!(
        "this would block for ever: nothing is left that could wake anyone\n  the root greenlet waits for {}\n{}",
        exit.root_waits_for,
        describe_waiters()
    )
}

// -- one greenlet ---------------------------------------------------------------------------------------------

/// What handles share with the greenlet itself.
struct Shared<T> {
    life: Life,
    outcome: Cell<Option<Result<T, GreenletError>>>,
}

#[derive(Default)]
struct Life {
    has_ended: Cell<bool>,
    joiners: WaitQueue,
    /// The greenlet's place among the living.
    place: Cell<usize>,
}

trait Living {
    fn life(&self) -> &Life;
    fn end_killed(&self);
}

impl<T> Living for Shared<T> {
    fn life(&self) -> &Life {
        &self.life
    }

    fn end_killed(&self) {
        self.end(Err(GreenletError::Killed));
    }
}

impl<T> Shared<T> {
    fn end(&self, outcome: Result<T, GreenletError>) {
        self.outcome.set(Some(outcome));
        self.life.has_ended.set(true);
        // At the end of a thread the list is gone.
        let _ = LIVE.try_with(|live| live.borrow_mut().try_remove(self.life.place.get()));
        if !self.life.joiners.is_empty() {
            self.life.joiners.wake_all();
        }
    }
}

struct Task<T, F> {
    function: F,
    shared: Rc<Shared<T>>,
}

impl<T: 'static, F: FnOnce() -> T> Body for Task<T, F> {
    fn run(self: Box<Self>, greenlet: &RawGreenlet) -> RawGreenlet {
        let Task { function, shared } = *self;
        let _ = LAST_RITES.try_with(|_| ());
        let outcome = catch(function);
        local::forget(greenlet.address());
        shared.end(outcome);
        if let Some(shared) = Rc::into_inner(shared) {
            // Nobody has a handle: the result's own `Drop` runs here, and must not unwind further.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(shared)));
        }
        Hub::current().next()
    }

    fn refused(self: Box<Self>, _greenlet: &RawGreenlet, error: StackError) {
        let Task { function, shared } = *self;
        shared.end(Err(GreenletError::NoStack(error)));
        drop(function);
    }
}

/// Runs a function as a greenlet's body is run: a kill and a panic end here.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Result<T, GreenletError> {
    let outcome = catch_unwind(AssertUnwindSafe(function)).map_err(describe_panic);
    if UNWINDING_COUNT.get() > 0 {
        end_unwinding(&Hub::current().running());
    }
    outcome
}

#[cold]
fn describe_panic(payload: Box<dyn Any + Send>) -> GreenletError {
    if is_exit(&*payload) {
        return GreenletError::Killed;
    }
    let message = panic_message(&*payload);
    // A payload of the user's own may panic once more when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    GreenletError::Panicked(message)
}

/// Returns the message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&'static str>()
        .map(|message| (*message).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a payload that is no text".to_owned())
}

fn create<T: 'static>(function: impl FnOnce() -> T + 'static) -> Greenlet<T> {
    let shared = Rc::new(Shared { life: Life::default(), outcome: Cell::new(None) });
    let body = Box::new(Task { function, shared: shared.clone() });
    let raw = RawGreenlet::new(Hub::current(), body);
    // In a `Drop` at the end of the thread there is no list any more; nobody will kill this one.
    let _ = LIVE.try_with(|live| {
        let place = live.borrow_mut().insert(raw.clone());
        shared.life.place.set(place);
    });
    Greenlet { raw, shared }
}

/// Starts a greenlet that runs `function`, when its turn comes. Does not switch.
///
/// The greenlet belongs to the calling thread. Dropping the handle leaves it running.
///
/// ```
/// let greenlet = greenrust::spawn(|| 6 * 7);
/// assert_eq!(greenlet.get().unwrap(), 42);
/// ```
pub fn spawn<T: 'static>(function: impl FnOnce() -> T + 'static) -> Greenlet<T> {
    let greenlet = create(function);
    Hub::current().push_start(greenlet.raw.clone());
    greenlet
}

/// As [`spawn`], in a scope that another greenlet has entered. If the scope is cancelled by then, `function` never runs.
pub(crate) fn spawn_in_scope<T: 'static>(scope: &Scope, function: impl FnOnce() -> T + 'static) -> Greenlet<T> {
    let greenlet = create(move || {
        let running = Hub::current().running();
        if running.is_cancelled() {
            unwind_on(&running, Box::new(ScopeCancelled));
        }
        drop(running);
        function()
    });
    greenlet.raw.join_scope(scope);
    Hub::current().push_start(greenlet.raw.clone());
    greenlet
}

/// Starts a greenlet after `delay`. Does not switch.
pub fn spawn_later<T: 'static>(delay: Duration, function: impl FnOnce() -> T + 'static) -> Greenlet<T> {
    let greenlet = create(function);
    let raw = greenlet.raw.clone();
    add_timer(delay, move |hub| hub.push_start(raw));
    greenlet
}

fn add_timer(delay: Duration, call: impl FnOnce(&Hub) + 'static) {
    let hub = Hub::current();
    hub.add_timer(after(delay), TimerAction::Call(Box::new(call)), true);
}

/// Returns the instant of the thread's clock that is `delay` from now.
pub fn after(delay: Duration) -> Instant {
    Hub::current().clock().now().after(delay)
}

/// Suspends the running greenlet for `duration`; with zero, for a turn.
///
/// # Panics
///
/// In a callback of the hub.
///
/// # Switches
///
/// Always.
pub fn sleep(duration: Duration) {
    if duration.is_zero() {
        return yield_now();
    }
    let hub = Hub::current();
    let deadline = after(duration);
    let outcome = blocking(|| -> Result<(), WaitError> {
        let waker = hub.begin_park(WaitingFor::Sleep)?;
        WaitError::check(hub.park_until(&waker, deadline, true))
    });
    debug_assert_eq!(outcome, Err(WaitError::TimedOut));
}

/// Lets every other greenlet that is ready take its turn.
///
/// # Panics
///
/// In a callback of the hub.
///
/// # Switches
///
/// If any other greenlet is ready.
#[inline]
pub fn yield_now() {
    let hub = Hub::current();
    let _ = blocking(|| -> Result<(), WaitError> {
        match hub.yield_now()? {
            Wake::Unparked => Ok(()),
            wake => WaitError::check(wake),
        }
    });
}

/// A handle of a greenlet, and of its result.
pub struct Greenlet<T> {
    raw: RawGreenlet,
    shared: Rc<Shared<T>>,
}

impl<T> fmt::Debug for Greenlet<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Greenlet({:?})", self.raw)
    }
}

/// A handle of a greenlet without its result: for lists of greenlets of different kinds.
#[derive(Clone)]
pub struct AnyGreenlet {
    raw: RawGreenlet,
    shared: Rc<dyn Living>,
}

impl fmt::Debug for AnyGreenlet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AnyGreenlet({:?})", self.raw)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What a handle of any kind can do.
pub trait Joinable: sealed::Sealed {
    /// Returns the greenlet as the hub knows it.
    fn raw(&self) -> &RawGreenlet;

    /// Says whether the greenlet has ended: returned, panicked, or been killed.
    fn is_ended(&self) -> bool;

    /// Waits until the greenlet has ended or until `deadline`; a core.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    fn join_core(&self, deadline: Option<Instant>) -> Result<(), WaitError>;

    /// Kills the greenlet and does not wait: it unwinds at its current or next blocking call, in a shielded scope
    /// ([`crate::CancelScope::shielded`]) when that is left. One that has not started never will. Killing the running
    /// greenlet does not return.
    fn kill_nowait(&self);

    /// Waits until the greenlet has ended.
    ///
    /// # Switches
    ///
    /// Unless it has ended already.
    fn join(&self) {
        let _ = blocking(|| self.join_core(None));
    }

    /// Waits until the greenlet has ended, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    fn join_timeout(&self, duration: Duration) -> Result<(), TimedOut> {
        let deadline = after(duration);
        blocking(|| self.join_core(Some(deadline))).map_err(|_| TimedOut)
    }

    /// Kills the greenlet and waits until it has ended, which may take as long as its `Drop`s do.
    ///
    /// # Cancellation
    ///
    /// The greenlet stays killed if the caller is killed meanwhile.
    fn kill(&self) {
        self.kill_nowait();
        self.join();
    }
}

fn join_core(raw: &RawGreenlet, life: &Life, deadline: Option<Instant>) -> Result<(), WaitError> {
    if life.has_ended.get() {
        return Ok(());
    }
    life.joiners.wait(WaitingFor::Join(Some(raw.serial())), deadline).map_err(|abandoned| abandoned.error)
}

fn kill_nowait(greenlet: &RawGreenlet, shared: &dyn Living) {
    match greenlet.state() {
        State::Finished => {}
        State::Unstarted => {
            let body = greenlet.abandon();
            shared.end_killed();
            drop(body);
        }
        State::Started if Hub::current().is_running(greenlet) => {
            unwind_on(greenlet, Box::new(Killed));
        }
        State::Started => {
            let is_kill = |interrupt: &Interrupt| {
                interrupt.downcast_ref::<Unwind>().is_some_and(|unwind| unwind.0.is::<Killed>())
            };
            greenlet.retract_interrupt(is_kill);
            greenlet.interrupt_from(None, Box::new(Unwind(Box::new(Killed))));
        }
    }
}

impl<T> sealed::Sealed for Greenlet<T> {}

impl<T> Joinable for Greenlet<T> {
    fn raw(&self) -> &RawGreenlet {
        &self.raw
    }

    fn is_ended(&self) -> bool {
        self.shared.life.has_ended.get()
    }

    fn join_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        join_core(&self.raw, &self.shared.life, deadline)
    }

    fn kill_nowait(&self) {
        kill_nowait(&self.raw, &*self.shared);
    }
}

impl sealed::Sealed for AnyGreenlet {}

impl Joinable for AnyGreenlet {
    fn raw(&self) -> &RawGreenlet {
        &self.raw
    }

    fn is_ended(&self) -> bool {
        self.shared.life().has_ended.get()
    }

    fn join_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        join_core(&self.raw, self.shared.life(), deadline)
    }

    fn kill_nowait(&self) {
        kill_nowait(&self.raw, &*self.shared);
    }
}

impl<T: 'static> Greenlet<T> {
    /// Waits until the greenlet has ended; see [`Joinable::join`].
    pub fn join(&self) {
        Joinable::join(self);
    }

    /// Waits until the greenlet has ended, no longer than `duration`; see [`Joinable::join_timeout`].
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    pub fn join_timeout(&self, duration: Duration) -> Result<(), TimedOut> {
        Joinable::join_timeout(self, duration)
    }

    /// Kills the greenlet and waits until it has ended; see [`Joinable::kill`].
    pub fn kill(&self) {
        Joinable::kill(self);
    }

    /// Kills the greenlet and does not wait; see [`Joinable::kill_nowait`].
    pub fn kill_nowait(&self) {
        Joinable::kill_nowait(self);
    }

    /// Says whether the greenlet has ended: returned, panicked, or been killed.
    pub fn is_ended(&self) -> bool {
        Joinable::is_ended(self)
    }

    /// Waits until the greenlet has ended and returns its result.
    ///
    /// # Errors
    ///
    /// [`GreenletError`] when it has none.
    ///
    /// # Switches
    ///
    /// Unless it has ended already.
    pub fn get(self) -> Result<T, GreenletError> {
        self.join();
        self.shared.outcome.take().expect("a greenlet that has ended has an outcome, and one handle that takes it")
    }

    /// Returns a handle without the result.
    pub fn to_any(&self) -> AnyGreenlet {
        AnyGreenlet { raw: self.raw.clone(), shared: self.shared.clone() }
    }
}

/// Waits until all of the greenlets have ended.
///
/// # Switches
///
/// Unless they have ended already.
pub fn joinall<'a, G: Joinable + 'a>(greenlets: impl IntoIterator<Item = &'a G>) {
    for greenlet in greenlets {
        greenlet.join();
    }
}

/// Waits until all of the greenlets have ended, no longer than `duration`.
///
/// # Errors
///
/// [`TimedOut`]; some may have ended.
pub fn joinall_timeout<'a, G: Joinable + 'a>(
    greenlets: impl IntoIterator<Item = &'a G>,
    duration: Duration,
) -> Result<(), TimedOut> {
    let deadline = after(duration);
    greenlets.into_iter().try_for_each(|greenlet| blocking(|| greenlet.join_core(Some(deadline))).map_err(|_| TimedOut))
}

/// Kills all of the greenlets, then waits until they have ended.
pub fn killall<'a, G: Joinable + 'a>(greenlets: impl IntoIterator<Item = &'a G>) {
    let greenlets: Vec<&G> = greenlets.into_iter().collect();
    let hub = Hub::current();
    let mut itself = None;
    for greenlet in &greenlets {
        if hub.is_running(greenlet.raw()) {
            itself = Some(*greenlet);
        } else {
            greenlet.kill_nowait();
        }
    }
    if let Some(itself) = itself {
        itself.kill_nowait();
    }
    joinall(greenlets);
}
