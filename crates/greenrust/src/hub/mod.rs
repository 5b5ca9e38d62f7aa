//! The hub: one event loop for each OS thread.
//!
//! It owns the run queue, the timers, the descriptors' waiters and the door to other threads, and it decides who runs
//! next. [`Hub::park`] is *the* blocking primitive: every blocking call of either face ends there.
//!
//! ```text
//!   greenlet A                     run queue            hub greenlet
//!   park() ── next is a greenlet: transfer to it directly
//!          └─ next is a callback, nothing, or the turn is over ──► tick(): callbacks, timers, poll
//! ```
//!
//! Invariants:
//! - The run queue is first in, first out. A greenlet that parks hands over to the next one without a detour through
//!   the hub greenlet, as long as the *turn* lasts ([`TURN`] hand-overs); then the hub looks at the time, and polls when
//!   the switch interval is over.
//! - Callbacks run in the hub greenlet, which must not park.
//! - No borrow of the hub's own state is held across a transfer, a callback or a call of the host.
//! - Under a host with a global lock (Python's), other threads may push wake-ups while they hold that lock; the hub
//!   gives it up only inside [`Host::poll`].

mod alarm;
mod descriptors;
mod fork;
mod holder;
mod host;
mod io;
mod raw;
mod remote;
mod scope;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use alarm::Alarm;
pub use holder::{HeldBy, Holder};
pub use host::{Host, PlainHost};
pub use io::{Direction, LevelKey, Sink};
pub use raw::{Body, Interrupt, RawGreenlet, Serial, WaitingFor, Wake, Waker};
pub use remote::{Job, Remote};
pub use scope::Scope;

use crate::clock::{Clock, Instant};
use crate::context::{Context, State, Switcher};
use crate::stack::StackError;
use crate::sys::{Events, fault};
use crate::timers::{TimerKey, Timers};

/// How many hand-overs happen before the hub looks at the time.
pub const TURN: u32 = 64;
/// The default of [`Hub::set_switch_interval`], as CPython's `sys.setswitchinterval`.
pub const DEFAULT_SWITCH_INTERVAL: Duration = Duration::from_millis(5);

/// What a timer does when its deadline passes.
pub enum TimerAction {
    /// Ends a park, as timed out.
    Wake(Waker),
    /// Runs in the hub greenlet. Must not park.
    Call(Box<dyn FnOnce(&Hub)>),
}

/// One entry of the run queue.
enum Item {
    Resume(Waker),
    Start(RawGreenlet),
    Call(Box<dyn FnOnce(&Hub)>),
}

/// Why [`Hub::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Nothing is left that could ever wake anyone.
    Exhausted,
    /// The one tick that was asked for is over.
    Ticked,
    /// [`Hub::stop`] was called.
    Stopped,
}

/// A park was asked for where it can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkInHub;

struct Loop {
    io: RefCell<io::Io>,
    events: RefCell<Events>,
}

/// The event loop of one thread.
pub struct Hub {
    clock: Clock,
    timers: RefCell<Timers<(TimerAction, bool)>>,
    /// How many pending timers keep the loop alive.
    timer_references: Cell<usize>,
    queue: RefCell<VecDeque<Item>>,
    /// Made at the first need of the kernel's help: a thread that only switches has no descriptors.
    inner_loop: RefCell<Option<Rc<Loop>>>,
    remote: RefCell<Option<Remote>>,
    current: Cell<*const raw::Inner>,
    switcher: Switcher,
    /// The host's own record of the thread.
    host_data: Cell<*const ()>,
    /// Given up by `retire`, while greenlets that outlive the thread may still refer to the hub.
    root: ManuallyDrop<RawGreenlet>,
    hub_greenlet: RefCell<Option<RawGreenlet>>,
    /// The greenlet that ended last: it may still stand on its stack for a moment.
    retired: RefCell<Option<RawGreenlet>>,
    host: Cell<&'static dyn Host>,
    turn: Cell<u32>,
    references: Cell<isize>,
    /// How many waits for descriptors do not keep the loop alive.
    disregarded: Cell<usize>,
    switch_interval: Cell<Duration>,
    polling: Cell<bool>,
    stopping: Cell<bool>,
    error: RefCell<Option<std::io::Error>>,
    /// The clock's reading when the hub looked last.
    now: Cell<Instant>,
    /// How often a greenlet of this hub has left another one, or given others the chance to run.
    switches: Cell<u64>,
    /// The number of the greenlet that was made last.
    serial: Cell<NonZeroU64>,
    /// How many greenlets of this hub exist, the root among them: they refer to it.
    greenlets: Cell<usize>,
    is_hosted: Cell<bool>,
    is_closed: Cell<bool>,
    /// Whether every hand-over goes through the hub greenlet.
    is_detour: Cell<bool>,
    /// Whether a park is to go through [`Host::accompany`].
    is_accompanied: Cell<bool>,
    orphaned: Cell<bool>,
}

thread_local! {
    static HUB: Cell<*const Hub> = const { Cell::new(std::ptr::null()) };
    static OWNED: RefCell<Option<Owner>> = const { RefCell::new(None) };
}

impl Hub {
    /// Returns the calling thread's hub; makes it on the first call.
    #[inline]
    pub fn current() -> &'static Hub {
        let hub = HUB.with(Cell::get);
        if hub.is_null() {
            return Hub::make(Clock::real());
        }
        // SAFETY: the hub lives until its thread ends, and it is only reachable from this thread: no reference that is
        // obtained here is used later than that.
        unsafe { &*hub }
    }

    /// Returns the calling thread's hub if there is one: none before its first use and when the thread ends.
    #[inline]
    pub fn if_current() -> Option<&'static Hub> {
        let hub = HUB.with(Cell::get);
        // SAFETY: as in `current`.
        (!hub.is_null()).then(|| unsafe { &*hub })
    }

    /// Makes the calling thread's hub with a mock clock, for tests of time.
    ///
    /// # Panics
    ///
    /// If the thread has a hub already.
    pub fn with_mock_clock() -> &'static Hub {
        assert!(HUB.with(Cell::get).is_null(), "this thread has a hub already");
        Hub::make(Clock::mock())
    }

    #[cold]
    fn make(clock: Clock) -> &'static Hub {
        static PLAIN: PlainHost = PlainHost;
        let first_serial = first_serial();
        let now = clock.now();
        let hub = Box::new_cyclic_hub(|address| Hub {
            clock,
            timers: RefCell::new(Timers::default()),
            timer_references: Cell::new(0),
            queue: RefCell::new(VecDeque::new()),
            inner_loop: RefCell::new(None),
            remote: RefCell::new(None),
            current: Cell::new(std::ptr::null()),
            switcher: Switcher::new(),
            host_data: Cell::new(std::ptr::null()),
            root: ManuallyDrop::new(RawGreenlet::with_context(
                address,
                Serial::new(first_serial),
                Context::root(),
                None,
            )),
            hub_greenlet: RefCell::new(None),
            retired: RefCell::new(None),
            host: Cell::new(&PLAIN),
            turn: Cell::new(TURN),
            references: Cell::new(0),
            disregarded: Cell::new(0),
            switch_interval: Cell::new(DEFAULT_SWITCH_INTERVAL),
            polling: Cell::new(false),
            stopping: Cell::new(false),
            error: RefCell::new(None),
            now: Cell::new(now),
            switches: Cell::new(0),
            serial: Cell::new(first_serial),
            greenlets: Cell::new(1),
            is_hosted: Cell::new(false),
            is_closed: Cell::new(false),
            is_detour: Cell::new(false),
            is_accompanied: Cell::new(false),
            orphaned: Cell::new(false),
        });
        hub.current.set(Rc::as_ptr(&hub.root.0));
        let address = Box::into_raw(hub);
        HUB.with(|cell| cell.set(address));
        OWNED.with(|owned| *owned.borrow_mut() = Some(Owner(address)));
        fault::watch_thread(describe_overflow);
        // SAFETY: as in `current`.
        unsafe { &*address }
    }

    /// Puts the hub under a host. Call before anything parks.
    pub fn set_host(&self, host: &'static dyn Host) {
        self.host.set(host);
        self.is_hosted.set(true);
    }

    /// Has every hand-over go through the hub greenlet, for those who watch switches and expect to see it.
    pub fn set_detour(&self, on: bool) {
        self.is_detour.set(on);
    }

    /// Returns what [`Hub::set_host_data`] was given, or null.
    #[inline]
    pub fn host_data(&self) -> *const () {
        self.host_data.get()
    }

    /// Keeps a pointer for the host: to what it holds for the thread.
    pub fn set_host_data(&self, data: *const ()) {
        self.host_data.set(data);
    }

    /// Forgets all that was scheduled and gives the descriptors back. What is left of the hub can only be asked whether
    /// a greenlet is its own; wake-ups do nothing.
    pub fn close(&self) {
        self.is_closed.set(true);
        if let Some(remote) = self.remote.take() {
            remote.close();
        }
        let forgotten = (
            self.queue.take(),
            self.timers.take(),
            self.hub_greenlet.take(),
            self.retired.take(),
            self.inner_loop.take(),
        );
        drop(forgotten);
    }

    /// Notes that the hub's thread is gone and could not close it, as in the child of a fork. What the hub holds stays.
    pub fn disown(&self) {
        self.is_closed.set(true);
        self.host_data.set(std::ptr::null());
    }

    /// Says whether the hub was closed: its thread has ended, or is about to.
    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Ends the hub's part in its thread: closes it, and frees it once no greenlet refers to it. A host that shares
    /// greenlets between threads calls this while it holds its lock; else the end of the thread does.
    ///
    /// # Safety
    ///
    /// Called in the hub's own thread, in its root greenlet, and no reference to the hub is used afterwards.
    pub unsafe fn retire(&self) {
        self.close();
        HUB.with(|cell| cell.set(std::ptr::null()));
        // Unreachable when the end of the thread itself calls: then the owner is being dropped.
        let _ = OWNED.try_with(|owned| owned.borrow_mut().take().map(std::mem::forget));
        // SAFETY: the root is not used any more; greenlet objects may still hold handles of it.
        drop(unsafe { std::ptr::read(&*self.root) });
        self.orphaned.set(true);
        self.free_if_last();
    }

    /// Frees an orphaned hub that no greenlet refers to.
    fn free_if_last(&self) {
        if self.orphaned.get() && self.greenlets.get() == 0 {
            // SAFETY: made from a box by `make`; its thread and all its greenlets are gone.
            drop(unsafe { Box::from_raw(std::ptr::from_ref(self).cast_mut()) });
        }
    }

    /// Returns the hub's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Reads the clock, for all who only need to know about when it is.
    #[inline]
    fn look_at_clock(&self) -> Instant {
        let now = self.clock.now();
        self.now.set(now);
        now
    }

    /// Returns how often a greenlet of this hub has left another one, or given others the chance to run: a number that
    /// stands still while one runs on and on. It wraps around.
    #[inline]
    pub fn switches(&self) -> u64 {
        self.switches.get()
    }

    /// Says whether the hub's thread waits for events.
    pub fn is_polling(&self) -> bool {
        self.polling.get()
    }

    #[inline]
    fn next_serial(&self) -> Serial {
        let serial = self.serial.get().saturating_add(1);
        self.serial.set(serial);
        Serial::new(serial)
    }

    /// Returns the greenlet of the thread's own stack.
    pub fn root(&self) -> &RawGreenlet {
        &self.root
    }

    /// Returns the greenlet that runs.
    #[inline]
    pub fn running(&self) -> RawGreenlet {
        // SAFETY: the running greenlet is alive: its body, or the hub for the root, holds a handle.
        unsafe {
            let inner = self.current.get();
            Rc::increment_strong_count(inner);
            RawGreenlet(Rc::from_raw(inner))
        }
    }

    /// Returns the number of the greenlet that runs.
    #[inline]
    pub fn running_serial(&self) -> Serial {
        // SAFETY: as in `running`; the handle is not dropped.
        unsafe { ManuallyDrop::new(RawGreenlet(Rc::from_raw(self.current.get()))).serial() }
    }

    /// Returns the host's pointer of the greenlet that runs.
    #[inline]
    pub fn running_host(&self) -> *mut () {
        // SAFETY: as in `running`; the handle is not dropped.
        unsafe { ManuallyDrop::new(RawGreenlet(Rc::from_raw(self.current.get()))).host() }
    }

    /// Says whether the greenlet is the one that runs.
    #[inline]
    pub fn is_running(&self, greenlet: &RawGreenlet) -> bool {
        std::ptr::eq(self.current.get(), Rc::as_ptr(&greenlet.0))
    }

    /// Makes `greenlet` the one that runs the loop: its body is to call [`Hub::run`].
    pub fn set_hub_greenlet(&self, greenlet: Option<RawGreenlet>) {
        *self.hub_greenlet.borrow_mut() = greenlet;
    }

    /// Returns the greenlet that runs the loop, if one was set.
    pub fn hub_greenlet(&self) -> Option<RawGreenlet> {
        self.hub_greenlet.borrow().clone()
    }

    // -- the run queue ---------------------------------------------------------------------------------------

    fn push(&self, item: Item) {
        if self.is_closed.get() {
            return;
        }
        self.queue.borrow_mut().push_back(item);
        // Another thread pushes under the host's lock, while this hub's thread waits for events.
        self.end_poll();
    }

    /// Ends the hub's wait for events, if it waits. For threads that hold the host's lock.
    #[inline]
    pub fn end_poll(&self) {
        if self.polling.get()
            && let Some(remote) = &*self.remote.borrow()
        {
            remote.wake();
        }
    }

    /// Runs `work`, which may push entries and does not give up the host's lock, for another thread than the hub's.
    /// Returns the handle by which that thread has to end the hub's wait for events, best when it has given up the lock:
    /// the hub needs it to go on.
    pub fn defer_wake(&self, work: impl FnOnce()) -> Option<Remote> {
        let was_polling = self.polling.replace(false);
        work();
        self.polling.set(was_polling);
        if was_polling && self.queued() > 0 { self.remote.borrow().clone() } else { None }
    }

    #[inline]
    fn push_resume(&self, waker: Waker) {
        self.push(Item::Resume(waker));
    }

    /// Schedules the start of a greenlet that has not started.
    pub fn push_start(&self, greenlet: RawGreenlet) {
        self.push(Item::Start(greenlet));
    }

    /// Has the hub greenlet run `call` in this or the next tick. It must not park.
    pub fn push_call(&self, call: impl FnOnce(&Hub) + 'static) {
        self.push(Item::Call(Box::new(call)));
    }

    /// Returns how many entries wait in the run queue.
    pub fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Says whether somebody has left the hub something to do, which it may not have seen yet.
    pub fn has_work(&self) -> bool {
        self.queued() > 0 || self.remote.borrow().as_ref().is_some_and(Remote::is_raised)
    }

    /// Keeps the loop alive until as many calls of [`Hub::release`] were made.
    pub fn hold(&self) {
        self.references.set(self.references.get() + 1);
    }

    /// Takes one [`Hub::hold`] back.
    pub fn release(&self) {
        self.references.set(self.references.get() - 1);
    }

    /// Returns how long callbacks may run before the hub polls.
    pub fn switch_interval(&self) -> Duration {
        self.switch_interval.get()
    }

    /// Sets how long callbacks may run before the hub polls.
    pub fn set_switch_interval(&self, interval: Duration) {
        self.switch_interval.set(interval);
    }

    /// Takes the next greenlet that can continue right now, within this turn.
    #[inline]
    fn next_greenlet(&self) -> Option<RawGreenlet> {
        loop {
            let turn = self.turn.get();
            if turn == 0 {
                return None;
            }
            let item = {
                let mut queue = self.queue.borrow_mut();
                match queue.front()? {
                    Item::Call(_) => return None,
                    Item::Resume(_) | Item::Start(_) => queue.pop_front()?,
                }
            };
            self.turn.set(turn - 1);
            match item {
                Item::Resume(waker) => {
                    if waker.greenlet.take_turn(waker.ticket) {
                        return Some(waker.greenlet);
                    }
                }
                Item::Start(greenlet) => {
                    if self.start(&greenlet) {
                        return Some(greenlet);
                    }
                }
                Item::Call(_) => unreachable!("calls stay in the queue"),
            }
        }
    }

    // -- switching -------------------------------------------------------------------------------------------

    /// Gives an unstarted greenlet its stack, so that it can be transferred to.
    ///
    /// # Errors
    ///
    /// [`StackError`] when there is no memory for it; the greenlet stays unstarted.
    pub fn prepare(&self, greenlet: &RawGreenlet) -> Result<(), StackError> {
        debug_assert_eq!(greenlet.state(), State::Unstarted);
        let hub: *const Hub = self;
        let raw = greenlet.clone();
        // SAFETY: the closure's handle keeps the context in place until `finish` has put it into `retired`, which keeps
        // it until the next greenlet ends: by then control has left this stack.
        unsafe {
            greenlet.0.context.start(&self.switcher, move || {
                let hub = &*hub;
                hub.host.get().begin(&raw);
                let body = raw.0.body.take().expect("an unstarted greenlet has a body");
                let next = body.run(&raw);
                hub.finish(raw, next)
            })
        }
    }

    /// Starts a scheduled greenlet. Returns false if it can't or must not start.
    fn start(&self, greenlet: &RawGreenlet) -> bool {
        if greenlet.state() != State::Unstarted || !std::ptr::eq(greenlet.hub(), self) {
            return false;
        }
        match self.prepare(greenlet) {
            Ok(()) => true,
            Err(error) => {
                if let Some(body) = greenlet.abandon() {
                    body.refused(greenlet, error);
                }
                false
            }
        }
    }

    /// Ends the running greenlet: returns the context that goes on.
    fn finish(&self, greenlet: RawGreenlet, next: RawGreenlet) -> *const Context {
        self.host.get().end(&greenlet);
        self.switches.set(self.switches.get().wrapping_add(1));
        greenlet.quit_scopes();
        self.current.set(Rc::as_ptr(&next.0));
        let context: *const Context = &next.0.context;
        let previous = self.retired.replace(Some(greenlet));
        drop(previous);
        context
    }

    /// Suspends the running greenlet and continues `to`. Returns when somebody transfers back.
    ///
    /// `to` must have started and must not have finished; the caller keeps a handle of it until it runs.
    #[inline]
    pub fn transfer(&self, to: &RawGreenlet) {
        assert!(to.state() == State::Started && std::ptr::eq(to.hub(), self), "cannot transfer to {to:?}");
        if self.is_running(to) {
            return;
        }
        // SAFETY: the running greenlet stays alive while it is suspended here: its body's own handle stands on its
        // stack, the root's in the hub. The copy is not dropped.
        let from = unsafe { ManuallyDrop::new(RawGreenlet(Rc::from_raw(self.current.get()))) };
        let host = self.host.get();
        host.leave(&from);
        self.switches.set(self.switches.get().wrapping_add(1));
        self.current.set(Rc::as_ptr(&to.0));
        // SAFETY: `to` is started, suspended (not the running one) and of this thread, as was just checked.
        unsafe { to.0.context.transfer(&from.0.context, &self.switcher) };
        host.arrive(&from);
    }

    /// Returns who continues when the running greenlet ends or parks: the next of the run queue, else the hub greenlet.
    #[inline]
    pub fn next(&self) -> RawGreenlet {
        match self.next_in_line() {
            Some(greenlet) => greenlet,
            None => self.loop_greenlet(),
        }
    }

    #[inline]
    fn next_in_line(&self) -> Option<RawGreenlet> {
        if self.is_detour.get() { None } else { self.next_greenlet() }
    }

    fn loop_greenlet(&self) -> RawGreenlet {
        let greenlet = self.hub_greenlet.borrow().clone();
        let greenlet = match greenlet {
            Some(greenlet) if greenlet.state() != State::Finished => greenlet,
            _ => {
                let greenlet = RawGreenlet::new(self, Box::new(LoopBody));
                self.set_hub_greenlet(Some(greenlet.clone()));
                greenlet
            }
        };
        if greenlet.state() == State::Unstarted {
            self.switcher.yield_reserve();
            if let Err(error) = self.prepare(&greenlet) {
                panic!("the hub itself got no stack: {error}");
            }
        }
        greenlet
    }

    /// Puts the stack aside that the loop will need. The first greenlet that starts does it otherwise.
    ///
    /// # Errors
    ///
    /// [`StackError`] when there is no memory for it.
    pub fn reserve_loop_stack(&self) -> Result<(), StackError> {
        self.switcher.reserve()
    }

    // -- parking ---------------------------------------------------------------------------------------------

    /// Begins a park of the running greenlet: hand the waker to whoever shall end it, then call [`Hub::park`].
    ///
    /// # Errors
    ///
    /// [`ParkInHub`] in the hub greenlet, where nothing may block.
    #[inline]
    pub fn begin_park(&self, waiting_for: WaitingFor) -> Result<Waker, ParkInHub> {
        let running = self.running();
        if self.hub_greenlet.borrow().as_ref().is_some_and(|hub| hub.is(&running)) {
            return Err(ParkInHub);
        }
        Ok(running.begin_park(waiting_for, self.now.get()))
    }

    /// Suspends the running greenlet until the waker is used, and says why it goes on.
    ///
    /// An interrupt that waits for delivery ends the park at once.
    #[inline]
    pub fn park(&self, waker: &Waker) -> Wake {
        let running = &waker.greenlet;
        if running.needs_attention() || self.is_accompanied.get() {
            return self.park_with_attention(waker);
        }
        self.suspend(running)
    }

    #[cold]
    fn park_with_attention(&self, waker: &Waker) -> Wake {
        let running = &waker.greenlet;
        if running.has_interrupt() && waker.is_waiting() {
            running.end_park();
            return Wake::Interrupted;
        }
        if running.is_announced() && !self.host.get().announce(waker) {
            running.end_park();
            return Wake::Foreign;
        }
        if !self.is_accompanied.replace(false) {
            return self.suspend(running);
        }
        let mut wake = Wake::Foreign;
        self.host.get().accompany(&mut || wake = self.suspend(running));
        self.is_accompanied.set(true);
        wake
    }

    #[inline]
    fn suspend(&self, running: &RawGreenlet) -> Wake {
        let next = match self.next_in_line() {
            Some(next) => next,
            None => {
                // Nobody else is ready, or the turn is over: the hub has a system call to make, and time enough.
                running.set_waiting_since(self.look_at_clock());
                self.loop_greenlet()
            }
        };
        if next.is(running) {
            // It was its turn again at once, but others have had their chance: no one is blocked.
            self.switches.set(self.switches.get().wrapping_add(1));
        } else {
            self.transfer(&next);
        }
        // A raw transfer leaves the run queue's entry (if any) behind; its ticket is void from here on.
        running.end_park()
    }

    /// Has the next park go through [`Host::accompany`], and each later one until this is turned off: the host keeps
    /// something for the thread that belongs to who runs now. While that one is parked, it is off for all others.
    pub fn set_accompanied(&self, on: bool) -> bool {
        self.is_accompanied.replace(on)
    }

    /// As [`Hub::park`], but no longer than until `deadline`. With `keep_alive` the timer keeps the loop alive.
    pub fn park_until(&self, waker: &Waker, deadline: Instant, keep_alive: bool) -> Wake {
        let key = self.add_timer(deadline, TimerAction::Wake(waker.clone()), keep_alive);
        let wake = self.park(waker);
        if wake != Wake::TimedOut {
            self.remove_timer(key);
        }
        wake
    }

    /// Ends the turn, so that the hub looks at the time when the running greenlet parks: [`TURN`] hand-overs are soon over
    /// as a rule, but not if each of them takes as long as this one did.
    pub fn end_turn(&self) {
        self.turn.set(0);
    }

    /// Lets every other greenlet that is ready take its turn.
    ///
    /// # Errors
    ///
    /// [`ParkInHub`] in the hub greenlet.
    #[inline]
    pub fn yield_now(&self) -> Result<Wake, ParkInHub> {
        let waker = self.begin_park(WaitingFor::Turn)?;
        if waker.greenlet.has_interrupt() {
            // Else a greenlet that only ever yields would never be interrupted.
            waker.greenlet.end_park();
            return Ok(Wake::Interrupted);
        }
        waker.unpark();
        Ok(self.park(&waker))
    }

    // -- timers ----------------------------------------------------------------------------------------------

    /// Adds a timer. With `keep_alive` the loop does not end before it.
    #[inline]
    pub fn add_timer(&self, deadline: Instant, action: TimerAction, keep_alive: bool) -> TimerKey {
        self.timer_references.set(self.timer_references.get() + usize::from(keep_alive));
        self.timers.borrow_mut().add(deadline, (action, keep_alive))
    }

    /// Removes a timer; returns false if it has expired already.
    #[inline]
    pub fn remove_timer(&self, key: TimerKey) -> bool {
        let removed = self.timers.borrow_mut().remove(key);
        match removed {
            Some((_, keep_alive)) => {
                self.timer_references.set(self.timer_references.get() - usize::from(keep_alive));
                true
            }
            None => false,
        }
    }

    fn expire_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = self.look_at_clock();
        loop {
            let expired = self.timers.borrow_mut().pop_expired(now);
            let Some((action, keep_alive)) = expired else {
                break;
            };
            self.timer_references.set(self.timer_references.get() - usize::from(keep_alive));
            match action {
                TimerAction::Wake(waker) => {
                    waker.wake(Wake::TimedOut);
                }
                TimerAction::Call(call) => self.call(call),
            }
        }
    }

    // -- the loop --------------------------------------------------------------------------------------------

    fn call(&self, call: Box<dyn FnOnce(&Hub)>) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(self)));
        if let Err(panic) = outcome {
            self.host.get().report(panic);
        }
    }

    /// Runs entries of the run queue until it is empty or the switch interval is over.
    fn run_queue(&self) {
        let mut until: Option<Instant> = None;
        loop {
            self.turn.set(TURN);
            loop {
                if let Some(greenlet) = self.next_greenlet() {
                    self.transfer(&greenlet);
                    continue;
                }
                if self.turn.get() == 0 {
                    break;
                }
                let item = self.queue.borrow_mut().pop_front();
                match item {
                    Some(Item::Call(call)) => {
                        self.turn.set(self.turn.get() - 1);
                        self.call(call);
                    }
                    Some(_) => unreachable!("greenlets were taken above"),
                    None => return,
                }
            }
            let now = self.look_at_clock();
            match until {
                None => until = Some(now.after(self.switch_interval.get())),
                Some(until) if now >= until => return,
                Some(_) => {}
            }
            if self.stopping.get() {
                return;
            }
        }
    }

    /// Runs `wait`, a wait for a descriptor, without letting it keep the loop alive.
    pub fn disregard_waits_of<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.disregarded.set(self.disregarded.get() + 1);
        let result = wait();
        // The child of a fork may have forgotten it meanwhile.
        self.disregarded.set(self.disregarded.get().saturating_sub(1));
        result
    }

    /// Says whether anything could still wake a greenlet.
    pub fn is_alive(&self) -> bool {
        self.references.get() > 0
            || self.timer_references.get() > 0
            || self.inner_loop.borrow().as_ref().is_some_and(|inner| inner.io.borrow().waits > self.disregarded.get())
            || self.has_work()
    }

    /// Waits for events, at most until the next timer; not at all if there is work or `nowait`.
    fn poll(&self, nowait: bool) {
        let made_work = self.host.get().before_poll();
        let timeout = if nowait || made_work { Some(Duration::ZERO) } else { self.time_to_wait() };
        let inner = match self.inner_loop() {
            Ok(inner) => inner,
            Err(error) => {
                // Without descriptors nothing can be waited for but time.
                *self.error.borrow_mut() = Some(error);
                std::thread::sleep(timeout.unwrap_or(Duration::from_millis(10)).min(Duration::from_millis(10)));
                self.host.get().after_poll();
                return;
            }
        };
        let mut events = inner.events.replace(Events::with_capacity(0));
        match self.host.get().patience() {
            Some(patience) if timeout.is_none_or(|timeout| timeout > patience) => {
                self.wait_for_events(&inner, &mut events, Some(patience));
                if events.is_empty() {
                    self.host.get().before_long_wait();
                    let timeout = self.time_to_wait();
                    self.wait_for_events(&inner, &mut events, timeout);
                    self.host.get().after_long_wait();
                }
            }
            _ => self.wait_for_events(&inner, &mut events, timeout),
        }
        self.host.get().after_poll();
        let mut calls = Vec::new();
        let raised = inner.io.borrow_mut().dispatch(&events, &mut calls);
        *inner.events.borrow_mut() = events;
        for call in calls {
            self.push(Item::Call(call));
        }
        if raised {
            self.run_jobs();
        }
    }

    /// Returns how long a wait for events may last, by the queue and the timers; None for ever.
    fn time_to_wait(&self) -> Option<Duration> {
        if self.stopping.get() || !self.queue.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        let deadline = self.timers.borrow().earliest()?;
        if self.clock.is_mock() {
            self.clock.advance_to(deadline);
            return Some(Duration::ZERO);
        }
        Some(deadline.since(self.clock.now()))
    }

    fn wait_for_events(&self, inner: &Loop, events: &mut Events, timeout: Option<Duration>) {
        // The poller is used without a borrow of the registry, which other threads may change while this one waits.
        let poller: *const crate::sys::Poller = inner.io.borrow().poller();
        // SAFETY: only `reinit` replaces the poller; it runs in this thread, or in the only thread of a fork's child.
        let poller = unsafe { &*poller };
        if timeout == Some(Duration::ZERO) {
            // EINTR: the signal's handler has run; the host looks at it after the poll.
            let _ = poller.wait(events, timeout);
            return;
        }
        self.polling.set(true);
        self.host.get().poll(&mut || {
            let _ = poller.wait(events, timeout);
        });
        self.polling.set(false);
        if self.timers.borrow().is_empty() {
            // Else the clock is looked at for them.
            self.look_at_clock();
        }
    }

    fn run_jobs(&self) {
        let jobs = self.remote.borrow().as_ref().map(Remote::take).unwrap_or_default();
        for job in jobs {
            self.call(job);
        }
    }

    fn tick(&self, nowait: bool) {
        self.run_queue();
        if self.stopping.get() {
            return;
        }
        if !nowait && !self.is_alive() {
            // What ran was the last: nothing could end the wait.
            return;
        }
        let idle = self.queue.borrow().is_empty();
        self.poll(nowait);
        self.expire_timers();
        if idle && self.queue.borrow().is_empty() && self.host.get().idle() {
            self.run_queue();
        }
    }

    /// Runs the loop in the calling greenlet, which is the hub greenlet, until nothing is left that could wake anyone,
    /// or for one tick if `once`; with `nowait`, the tick does not wait for events.
    pub fn run(&self, once: bool, nowait: bool) -> RunEnd {
        self.stopping.set(false);
        if once || nowait {
            self.tick(nowait);
            return if self.stopping.replace(false) { RunEnd::Stopped } else { RunEnd::Ticked };
        }
        while self.is_alive() {
            self.tick(false);
            if self.stopping.replace(false) {
                return RunEnd::Stopped;
            }
        }
        RunEnd::Exhausted
    }

    /// Makes [`Hub::run`] return after the callback that runs.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.turn.set(0);
    }

    /// Returns the error that keeps the hub from waiting for descriptors, if there is one.
    pub fn take_error(&self) -> Option<std::io::Error> {
        self.error.borrow_mut().take()
    }
}

/// Runs the loop for a Rust program; nothing to do is reported to the root greenlet as an interrupt.
struct LoopBody;

/// The interrupt of a root greenlet that waits for what can't happen any more.
#[derive(Debug)]
pub struct LoopExit {
    /// What the root greenlet waits for.
    pub root_waits_for: WaitingFor,
}

impl Body for LoopBody {
    fn run(self: Box<Self>, _greenlet: &RawGreenlet) -> RawGreenlet {
        let hub = Hub::current();
        loop {
            hub.run(false, false);
            let root_waits_for = hub.root.waiting_for();
            hub.root.interrupt(Box::new(LoopExit { root_waits_for }));
            hub.turn.set(TURN);
            match hub.next_greenlet() {
                Some(greenlet) => hub.transfer(&greenlet),
                None => hub.transfer(&hub.root),
            }
        }
    }

    fn refused(self: Box<Self>, _greenlet: &RawGreenlet, _error: StackError) {}
}

/// Returns the number of a new hub's root greenlet: those that follow up to the next hub's are the new one's.
fn first_serial() -> NonZeroU64 {
    /// How many hubs the process has made. One hub has numbers for 2^40 greenlets.
    static HUBS: AtomicU64 = AtomicU64::new(0);
    NonZeroU64::MIN.saturating_add(HUBS.fetch_add(1, Ordering::Relaxed) << 40)
}

fn describe_overflow(address: usize, buffer: &mut [u8]) -> Option<usize> {
    let hub = HUB.with(Cell::get);
    if hub.is_null() {
        return None;
    }
    // SAFETY: the hub of the faulting thread is alive; only plain fields are read, by the thread that owns them.
    let hub = unsafe { &*hub };
    // SAFETY: as in `running`; the handle is not dropped.
    let running = unsafe { ManuallyDrop::new(RawGreenlet(Rc::from_raw(hub.current.get()))) };
    let stack = running.stack()?;
    stack.guard().contains(&address).then(|| hub.host.get().crash_name(&running, buffer))
}

/// The thread's own handle of its hub. Greenlets that outlive their thread (their objects may) keep the hub's memory.
struct Owner(*mut Hub);

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: made from a box by `Hub::make`, and this thread's: its end is the last use.
        unsafe {
            if !(*self.0).is_hosted.get() {
                (*self.0).retire();
            }
            // What a host has not retired can't be dropped any more: the thread is past running the host's code.
        }
    }
}

/// A box whose content knows its own address.
trait NewCyclicHub {
    fn new_cyclic_hub(make: impl FnOnce(*const Hub) -> Hub) -> Box<Hub>;
}

impl NewCyclicHub for Box<Hub> {
    fn new_cyclic_hub(make: impl FnOnce(*const Hub) -> Hub) -> Box<Hub> {
        let mut place = Box::new(std::mem::MaybeUninit::<Hub>::uninit());
        let hub = make(place.as_ptr());
        place.write(hub);
        // SAFETY: written on the line above; the layout of Box<MaybeUninit<T>> is that of Box<T>.
        unsafe { Box::from_raw(Box::into_raw(place).cast()) }
    }
}

#[cfg(test)]
mod tests;
