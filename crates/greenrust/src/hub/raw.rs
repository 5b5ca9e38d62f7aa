//! The greenlet as the hub sees it: a context, a parking place, and a slot for the host.
//!
//! A park has a *ticket*. A [`Waker`] holds the greenlet and the ticket of one park, so that a wake-up which comes too
//! late (the greenlet was woken by something else, and perhaps parks again) does nothing and says so.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::num::NonZeroU64;
use std::rc::Rc;

use super::Hub;
use super::holder::Holder;
use super::scope::Scope;
use crate::clock::Instant;
use crate::context::{Context, State};
use crate::stack::{Stack, StackError};

/// What a greenlet runs. One allocation at most a greenlet; none for a body without fields.
pub trait Body {
    /// Runs the greenlet to its end, on its own stack, and returns who continues. Must not unwind.
    fn run(self: Box<Self>, greenlet: &RawGreenlet) -> RawGreenlet;

    /// Takes note that there was no memory for a stack: the greenlet will never run.
    fn refused(self: Box<Self>, greenlet: &RawGreenlet, error: StackError);
}

/// Why a park ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// What was waited for happened.
    Unparked,
    /// The deadline passed first.
    TimedOut,
    /// The descriptor that was waited for is being closed.
    Closed,
    /// An interrupt is to be delivered: [`RawGreenlet::take_interrupt`].
    Interrupted,
    /// The host transferred to the greenlet by itself (a raw switch or throw); it knows why.
    Foreign,
}

/// A number that no other greenlet of the process ever has: it tells one from a later one at the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(NonZeroU64);

impl Serial {
    pub(super) const fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// What a parked greenlet waits for; shown to people who ask why a program is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingFor {
    /// Nothing: it runs, is ready to run, or was suspended by a raw switch.
    Nothing,
    /// A timer.
    Sleep,
    /// Its next turn.
    Turn,
    /// A descriptor to become readable.
    Read(i32),
    /// A descriptor to become writable.
    Write(i32),
    /// Another greenlet to end; `None` stands for several.
    Join(Option<Serial>),
    /// An object with the given name (`"Event"`, `"Channel"`) at the given address.
    Object(&'static str, usize),
    /// A lock with the given name (`"RLock"`, `"Semaphore"`), and where it notes who holds it: at its own address, and
    /// there for as long as somebody waits.
    Lock(&'static str, *const Holder),
    /// Work in another thread.
    Thread,
    /// The hub itself: a raw switch to the hub.
    Hub,
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingFor::Nothing => formatter.write_str("nothing"),
            WaitingFor::Sleep => formatter.write_str("a timer (sleep)"),
            WaitingFor::Turn => formatter.write_str("its turn"),
            WaitingFor::Read(descriptor) => {
                write!(formatter, "descriptor {descriptor} to become readable")
            }
            WaitingFor::Write(descriptor) => {
                write!(formatter, "descriptor {descriptor} to become writable")
            }
            WaitingFor::Join(Some(_)) => formatter.write_str("another greenlet to end"),
            WaitingFor::Join(None) => formatter.write_str("other greenlets to end"),
            WaitingFor::Object(kind, address) => write!(formatter, "{kind} at {address:#x}"),
            WaitingFor::Lock(kind, holder) => write!(formatter, "{kind} at {:#x}", holder.addr()),
            WaitingFor::Thread => formatter.write_str("work in another thread"),
            WaitingFor::Hub => formatter.write_str("a switch from the hub"),
        }
    }
}

/// An interrupt: what is thrown into a greenlet from outside, at its next park. The payload is the face's own.
pub type Interrupt = Box<dyn Any>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parking {
    /// Not parked: running, unstarted, or suspended by a raw switch.
    Out,
    /// Parked, or about to be.
    In,
    /// Parked, and in the run queue.
    Woken,
    /// Taken from the run queue: it goes on now. A greenlet that goes on without this was transferred to by the host.
    Due,
}

/// The next park has to look for interrupts, or ends because of a cancelled scope.
const INTERRUPT: u8 = 1;
/// The host wants to hear of each park before it happens.
const ANNOUNCE: u8 = 2;

pub(super) struct Inner {
    pub(super) context: Context,
    /// Changes only before the start.
    pub(super) hub: Cell<*const Hub>,
    parking: Cell<Parking>,
    ticket: Cell<u32>,
    wake: Cell<Wake>,
    pub(super) serial: Serial,
    waiting_for: Cell<WaitingFor>,
    /// When the present park began, or the last one, by the hub's reading of the clock.
    since: Cell<Instant>,
    pub(super) body: Cell<Option<Box<dyn Body>>>,
    interrupts: RefCell<Vec<Interrupt>>,
    /// The innermost cancel scope, and the place among its members.
    pub(super) scope: Cell<Option<Scope>>,
    pub(super) scope_place: Cell<usize>,
    /// Whether that scope is in force.
    pub(super) is_cancelled: Cell<bool>,
    /// Whether that is of no account now.
    pub(super) is_masked: Cell<bool>,
    /// What a park has to look for: [`INTERRUPT`], [`ANNOUNCE`].
    attention: Cell<u8>,
    host: Cell<*mut ()>,
}

impl Inner {
    /// Says whether the greenlet is in a cancel scope.
    pub(super) fn has_scope(&self) -> bool {
        // SAFETY: the content is only compared, and nothing else runs meanwhile.
        unsafe { (*self.scope.as_ptr()).is_some() }
    }

    /// Finds out anew whether the next park has something to look for.
    pub(super) fn note_attention(&self) {
        let is_cancelled = self.is_cancelled.get() && !self.is_masked.get();
        self.pay_attention(INTERRUPT, is_cancelled || !self.interrupts.borrow().is_empty());
    }

    fn pay_attention(&self, to: u8, on: bool) {
        let rest = self.attention.get() & !to;
        self.attention.set(if on { rest | to } else { rest });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: a hub stays allocated while a greenlet refers to it.
        let hub = unsafe { &*self.hub.get() };
        hub.greenlets.set(hub.greenlets.get() - 1);
        hub.free_if_last();
    }
}

/// A greenlet without result, links or name: the unit that the hub schedules. Cloning gives another handle.
#[derive(Clone)]
pub struct RawGreenlet(pub(super) Rc<Inner>);

impl RawGreenlet {
    /// Creates a greenlet of the hub's thread that has not started.
    pub fn new(hub: &Hub, body: Box<dyn Body>) -> Self {
        hub.greenlets.set(hub.greenlets.get() + 1);
        Self::with_context(hub, hub.next_serial(), Context::new(), Some(body))
    }

    pub(super) fn with_context(hub: *const Hub, serial: Serial, context: Context, body: Option<Box<dyn Body>>) -> Self {
        Self(Rc::new(Inner {
            context,
            hub: Cell::new(hub),
            parking: Cell::new(Parking::Out),
            ticket: Cell::new(0),
            wake: Cell::new(Wake::Unparked),
            serial,
            waiting_for: Cell::new(WaitingFor::Nothing),
            since: Cell::new(Instant::default()),
            body: Cell::new(body),
            interrupts: RefCell::new(Vec::new()),
            scope: Cell::new(None),
            scope_place: Cell::new(0),
            is_cancelled: Cell::new(false),
            is_masked: Cell::new(false),
            attention: Cell::new(0),
            host: Cell::new(std::ptr::null_mut()),
        }))
    }

    /// Returns where the greenlet is in its life.
    #[inline]
    pub fn state(&self) -> State {
        self.0.context.state()
    }

    /// Returns the greenlet's stack, if it has one.
    pub fn stack(&self) -> Option<Stack> {
        self.0.context.stack()
    }

    /// Makes sure that an unstarted greenlet never starts. Returns its body.
    pub fn abandon(&self) -> Option<Box<dyn Body>> {
        self.0.context.abandon();
        self.quit_scopes();
        self.0.body.take()
    }

    /// Returns what the greenlet waits for.
    pub fn waiting_for(&self) -> WaitingFor {
        self.0.waiting_for.get()
    }

    /// Returns when the park that the greenlet is in began, by the hub's latest look at the clock then: too early by as
    /// long as greenlets had run since that look. Means nothing while the greenlet is not parked.
    pub fn waiting_since(&self) -> Instant {
        self.0.since.get()
    }

    /// Returns the greenlet's number.
    #[inline]
    pub fn serial(&self) -> Serial {
        self.0.serial
    }

    /// Says whether both handles are of one greenlet.
    #[inline]
    pub fn is(&self, other: &RawGreenlet) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the pointer that the host keeps with the greenlet.
    #[inline]
    pub fn host(&self) -> *mut () {
        self.0.host.get()
    }

    /// Sets the pointer that the host keeps with the greenlet.
    pub fn set_host(&self, host: *mut ()) {
        self.0.host.set(host);
    }

    /// Returns the hub that the greenlet belongs to. Compare only: it may be another thread's.
    #[inline]
    pub fn hub(&self) -> *const Hub {
        self.0.hub.get()
    }

    /// Makes an unstarted greenlet one of `hub`'s thread, which will start it. An entry that its former hub's run queue
    /// has of it is void.
    ///
    /// # Panics
    ///
    /// If the greenlet has started.
    pub fn move_to(&self, hub: &Hub) {
        assert_eq!(self.state(), State::Unstarted, "a greenlet stays in the thread that it was started in");
        hub.greenlets.set(hub.greenlets.get() + 1);
        // SAFETY: a hub stays allocated while a greenlet refers to it.
        let former = unsafe { &*self.0.hub.replace(hub) };
        former.greenlets.set(former.greenlets.get() - 1);
        former.free_if_last();
    }

    /// Says whether the greenlet is parked and nothing has woken it yet.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.0.parking.get() == Parking::In
    }

    /// Says whether the greenlet's park was ended, and it has not gone on since.
    pub fn is_woken(&self) -> bool {
        matches!(self.0.parking.get(), Parking::Woken | Parking::Due)
    }

    /// Begins a park: from now on the returned waker can end it, also before the greenlet is really suspended.
    #[inline]
    pub(super) fn begin_park(&self, waiting_for: WaitingFor, now: Instant) -> Waker {
        let ticket = self.0.ticket.get().wrapping_add(1);
        self.0.ticket.set(ticket);
        self.0.parking.set(Parking::In);
        self.0.wake.set(Wake::Foreign);
        self.0.waiting_for.set(waiting_for);
        self.0.since.set(now);
        Waker { greenlet: self.clone(), ticket }
    }

    /// Puts the beginning of the park right.
    #[inline]
    pub(super) fn set_waiting_since(&self, now: Instant) {
        self.0.since.set(now);
    }

    /// Ends a park in the greenlet itself and returns why it ended.
    #[inline]
    pub(super) fn end_park(&self) -> Wake {
        let is_due = self.0.parking.replace(Parking::Out) == Parking::Due;
        self.0.waiting_for.set(WaitingFor::Nothing);
        if is_due { self.0.wake.get() } else { Wake::Foreign }
    }

    /// Has every waker of the present park come too late.
    pub(super) fn void_park(&self) {
        self.0.ticket.set(self.0.ticket.get().wrapping_add(1));
        self.0.parking.set(Parking::Out);
    }

    /// Says whether the run queue's entry of the given ticket is still meant; then the greenlet is to go on now.
    #[inline]
    pub(super) fn take_turn(&self, ticket: u32) -> bool {
        let is_meant = self.0.ticket.get() == ticket && self.0.parking.get() == Parking::Woken;
        if is_meant {
            self.0.parking.set(Parking::Due);
        }
        is_meant
    }

    /// Throws an interrupt into the greenlet: at once if it is parked, else at its next park. No shield holds it back.
    pub fn interrupt(&self, interrupt: Interrupt) {
        self.0.interrupts.borrow_mut().push(interrupt);
        self.0.pay_attention(INTERRUPT, true);
        self.wake_interrupted();
    }

    /// Takes the oldest interrupt that waits for delivery.
    pub fn take_interrupt(&self) -> Option<Interrupt> {
        let taken = {
            let mut interrupts = self.0.interrupts.borrow_mut();
            if interrupts.is_empty() { None } else { Some(interrupts.remove(0)) }
        };
        self.0.note_attention();
        taken
    }

    pub(super) fn retract_pending(&self, matches: impl Fn(&Interrupt) -> bool) -> Option<Interrupt> {
        let retracted = {
            let mut interrupts = self.0.interrupts.borrow_mut();
            interrupts.iter().position(matches).map(|position| interrupts.remove(position))
        };
        self.0.note_attention();
        retracted
    }

    /// Says whether the next park would end at once: an interrupt waits for delivery, or the greenlet is cancelled.
    #[inline]
    pub fn has_interrupt(&self) -> bool {
        self.0.attention.get() & INTERRUPT != 0
    }

    /// Says whether a park has anything to do but to suspend.
    #[inline]
    pub(super) fn needs_attention(&self) -> bool {
        self.0.attention.get() != 0
    }

    /// Has each park go through [`Host::announce`](super::Host::announce) first, or no longer.
    pub fn set_announced(&self, on: bool) {
        self.0.pay_attention(ANNOUNCE, on);
    }

    /// Says whether parks go through [`Host::announce`](super::Host::announce).
    pub fn is_announced(&self) -> bool {
        self.0.attention.get() & ANNOUNCE != 0
    }

    /// Returns the waker of the park that the greenlet is in.
    pub(super) fn parked_waker(&self) -> Waker {
        Waker { greenlet: self.clone(), ticket: self.0.ticket.get() }
    }

    /// Returns a number that identifies the greenlet while it lives.
    pub fn address(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }
}

impl fmt::Debug for RawGreenlet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RawGreenlet({:#x}, {:?}, {})", self.address(), self.state(), self.waiting_for())
    }
}

/// Ends one park of one greenlet.
#[derive(Debug, Clone)]
pub struct Waker {
    pub(super) greenlet: RawGreenlet,
    pub(super) ticket: u32,
}

impl Waker {
    /// Puts the greenlet into its hub's run queue. Returns false, and does nothing, if the park was ended already or
    /// the hub is closed. Does not switch.
    #[inline]
    pub fn unpark(&self) -> bool {
        self.wake(Wake::Unparked)
    }

    /// As [`Waker::unpark`], with a cause.
    #[inline]
    pub fn wake(&self, wake: Wake) -> bool {
        let inner = &self.greenlet.0;
        if inner.ticket.get() != self.ticket || inner.parking.get() != Parking::In {
            return false;
        }
        // SAFETY: a hub stays allocated while a greenlet refers to it.
        let hub = unsafe { &*inner.hub.get() };
        if hub.is_closed() {
            // Its thread is gone, as in the child of a fork: what the wake-up brings is for somebody else.
            return false;
        }
        inner.parking.set(Parking::Woken);
        inner.wake.set(wake);
        hub.push_resume(self.clone());
        true
    }

    /// Says whether the park has not ended.
    pub fn is_waiting(&self) -> bool {
        self.greenlet.0.ticket.get() == self.ticket && self.greenlet.0.parking.get() == Parking::In
    }

    /// Says whether the greenlet has begun no other park since.
    pub fn is_of_latest_park(&self) -> bool {
        self.greenlet.0.ticket.get() == self.ticket
    }

    /// Says whether the park was ended by [`Waker::unpark`], even if the host then transferred to the greenlet before its
    /// turn came, so that the park itself says [`Wake::Foreign`]. Valid until the greenlet's next park begins.
    #[inline]
    pub fn was_unparked(&self) -> bool {
        self.greenlet.0.ticket.get() == self.ticket && self.greenlet.0.wake.get() == Wake::Unparked
    }

    /// Returns the parked greenlet.
    pub fn greenlet(&self) -> &RawGreenlet {
        &self.greenlet
    }
}

impl PartialEq for Waker {
    fn eq(&self, other: &Self) -> bool {
        self.ticket == other.ticket && self.greenlet.is(&other.greenlet)
    }
}

impl Eq for Waker {}
