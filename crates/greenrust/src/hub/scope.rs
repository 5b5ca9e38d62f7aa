//! Cancel scopes, as the hub sees them: a tree of regions of code, each of which can be cancelled with all that is below.
//!
//! ```text
//!   scope A ── members: greenlet 1 (its innermost scope is A)
//!      ├── scope B, shielded ── members: greenlet 2
//!      └── scope C ── members: greenlets 3, 4 (children of a task group that opened C)
//! ```
//!
//! A scope is *in force* if it was cancelled, or if its parent is in force and no shield of its own stands between. In a
//! greenlet whose innermost scope is in force, a park ends at once with [`Wake::Interrupted`], again and again: what is
//! cancelled can't wait any more, except below a shield.
//!
//! Invariants:
//! - `in_force` of every scope that was entered is up to date: whoever changes what it depends on walks down the tree.
//! - A parent owns nothing of its children and members: they refer to it.
//! - A shield also holds back interrupts (kills, timeouts) that come from outside of it: they lie in `held`, and are sent
//!   on when the shield ends.
//! - No borrow is held while a greenlet is woken.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};

use slab::Slab;

use super::raw::{Inner, Interrupt, RawGreenlet, Wake};
use super::{Hub, TimerAction};
use crate::clock::Instant;
use crate::timers::TimerKey;

/// An interrupt that a shield holds back.
struct Held {
    greenlet: RawGreenlet,
    origin: Option<Scope>,
    interrupt: Interrupt,
}

#[derive(Default)]
pub(super) struct State {
    parent: RefCell<Option<Scope>>,
    /// The place among the parent's children.
    place: Cell<usize>,
    children: RefCell<Slab<Weak<State>>>,
    members: RefCell<Slab<Weak<Inner>>>,
    is_entered: Cell<bool>,
    is_cancelled: Cell<bool>,
    is_shielded: Cell<bool>,
    in_force: Cell<bool>,
    timer: Cell<Option<TimerKey>>,
    held: RefCell<Vec<Held>>,
    mark: Cell<usize>,
}

impl Drop for State {
    fn drop(&mut self) {
        // One after the other: each that ends here would end its parent within itself.
        let mut next = self.parent.take();
        while let Some(Scope(parent)) = next {
            next = Rc::into_inner(parent).and_then(|state| state.parent.take());
        }
    }
}

/// A region of code that can be cancelled. Cloning gives another handle. It is used once: entered, then left.
#[derive(Clone, Default)]
pub struct Scope(Rc<State>);

impl fmt::Debug for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Rc::as_ptr(&self.0) as usize;
        write!(formatter, "Scope({address:#x}, cancelled: {}, in force: {})", self.is_cancelled(), self.is_in_force())
    }
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Scope {}

impl Scope {
    /// Creates a scope that nobody has entered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether the scope itself was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.get()
    }

    /// Says whether the scope is cancelled, by itself or by one above it.
    pub fn is_in_force(&self) -> bool {
        self.0.in_force.get()
    }

    /// Says whether the scope holds back what comes from above it.
    pub fn is_shielded(&self) -> bool {
        self.0.is_shielded.get()
    }

    /// Says whether the scope was entered, and perhaps left.
    pub fn was_entered(&self) -> bool {
        self.0.is_entered.get()
    }

    /// Says whether a cancelled scope above this one reaches it, so that the cancellation is not this scope's to end.
    pub fn is_reached_from_above(&self) -> bool {
        !self.is_shielded() && self.0.parent.borrow().as_ref().is_some_and(Scope::is_in_force)
    }

    /// Cancels the scope: what waits in it, or below it and under no shield, is woken, and can't wait again. Does not
    /// switch.
    pub fn cancel(&self) {
        self.0.is_cancelled.set(true);
        self.update();
    }

    /// Puts the shield up, or takes it down.
    pub fn set_shield(&self, on: bool) {
        self.0.is_shielded.set(on);
        self.update();
        if !on {
            self.send_held();
        }
    }

    /// Cancels the scope at `deadline`, in place of a deadline that was set before. `hub` is that of the greenlet which
    /// entered the scope.
    pub fn set_deadline(&self, hub: &Hub, deadline: Option<Instant>) {
        if let Some(key) = self.0.timer.take() {
            hub.remove_timer(key);
        }
        if let Some(deadline) = deadline {
            let state = Rc::downgrade(&self.0);
            let expire = move |_: &Hub| {
                if let Some(state) = state.upgrade() {
                    state.timer.set(None);
                    Scope(state).cancel();
                }
            };
            self.0.timer.set(Some(hub.add_timer(deadline, TimerAction::Call(Box::new(expire)), true)));
        }
    }

    /// Notes what the host threw into a greenlet of the scope last, by a number of the host's.
    pub fn set_mark(&self, mark: usize) {
        self.0.mark.set(mark);
    }

    /// Returns what [`Scope::set_mark`] has noted; 0 if nothing.
    pub fn mark(&self) -> usize {
        self.0.mark.get()
    }

    /// Finds out anew whether the scope is in force; if that has changed, tells its members and all that is below.
    fn update(&self) {
        // Scopes may be nested deeper than the stack has room for.
        let mut to_update = vec![self.clone()];
        while let Some(scope) = to_update.pop() {
            let in_force = scope.is_cancelled() || scope.is_reached_from_above();
            if scope.0.in_force.replace(in_force) == in_force {
                continue;
            }
            let members: Vec<_> = scope.0.members.borrow().iter().filter_map(|(_, member)| member.upgrade()).collect();
            for member in members {
                RawGreenlet(member).note_scope(in_force);
            }
            let from = to_update.len();
            to_update.extend(scope.0.children.borrow().iter().filter_map(|(_, child)| child.upgrade().map(Scope)));
            to_update[from..].reverse();
        }
    }

    /// Puts the scope below `parent`.
    fn attach(&self, parent: Option<Scope>) {
        self.0.is_entered.set(true);
        if let Some(parent) = &parent {
            self.0.place.set(parent.0.children.borrow_mut().insert(Rc::downgrade(&self.0)));
        }
        self.0.parent.replace(parent);
        self.update();
    }

    /// Takes the scope out of the tree, when nobody is in it any more.
    pub fn close(&self, hub: &Hub) {
        self.set_deadline(hub, None);
        let parent = self.0.parent.take();
        if let Some(parent) = &parent {
            parent.0.children.borrow_mut().try_remove(self.0.place.get());
            if self.mark() != 0 {
                parent.set_mark(self.mark());
            }
        }
        self.send_held();
    }

    /// Sends on what the shield has held back.
    fn send_held(&self) {
        for held in self.0.held.take() {
            held.greenlet.interrupt_from(held.origin.as_ref(), held.interrupt);
        }
    }

    /// Returns the shield that stands between `self` (a greenlet's innermost scope) and what comes from `origin`: a scope
    /// above it, or None for what comes from outside of all.
    fn shield_against(&self, origin: Option<&Scope>) -> Option<Scope> {
        let mut scope = Some(self.clone());
        while let Some(candidate) = scope {
            if Some(&candidate) == origin {
                return None;
            }
            if candidate.is_shielded() {
                return Some(candidate);
            }
            scope = candidate.0.parent.borrow().clone();
        }
        None
    }
}

impl RawGreenlet {
    /// Returns the greenlet's innermost scope.
    pub fn scope(&self) -> Option<Scope> {
        let scope = self.0.scope.take();
        let copy = scope.clone();
        self.0.scope.set(scope);
        copy
    }

    /// Makes `scope` the greenlet's innermost, in place of the present one.
    fn set_scope(&self, scope: Option<Scope>) {
        if let Some(former) = self.0.scope.take() {
            former.0.members.borrow_mut().try_remove(self.0.scope_place.get());
        }
        let in_force = scope.as_ref().is_some_and(Scope::is_in_force);
        if let Some(scope) = &scope {
            self.0.scope_place.set(scope.0.members.borrow_mut().insert(Rc::downgrade(&self.0)));
        }
        self.0.scope.set(scope);
        self.note_scope(in_force);
    }

    /// Enters a scope, which nobody has entered before: it goes below the greenlet's innermost one.
    pub fn enter_scope(&self, scope: &Scope) {
        debug_assert!(!scope.was_entered(), "a scope is used once");
        scope.attach(self.scope());
        self.set_scope(Some(scope.clone()));
    }

    /// Leaves the greenlet's innermost scope, which must be `scope`; others may still be in it: see [`Scope::close`].
    /// Returns false, and does nothing, if it is another.
    pub fn leave_scope(&self, scope: &Scope) -> bool {
        if self.scope().as_ref() != Some(scope) {
            return false;
        }
        let parent = scope.0.parent.borrow().clone();
        self.set_scope(parent);
        true
    }

    /// Makes the greenlet, which has not started, a member of a scope that another one has entered.
    pub fn join_scope(&self, scope: &Scope) {
        self.set_scope(Some(scope.clone()));
    }

    /// Makes `scope`, which the greenlet was in before, its innermost again: for those who run code in it that may leave
    /// a scope open.
    pub fn restore_scope(&self, scope: Option<&Scope>) {
        self.set_scope(scope.cloned());
    }

    /// Ends the greenlet's part in its scopes, when it ends.
    pub(super) fn quit_scopes(&self) {
        if self.0.has_scope() {
            self.set_scope(None);
        }
    }

    /// Says whether the greenlet can't wait any more, as its innermost scope is in force.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.get() && !self.0.is_masked.get()
    }

    /// Lets the greenlet wait although it is cancelled, while it unwinds; or ends that.
    pub fn set_masked(&self, on: bool) {
        self.0.is_masked.set(on);
        self.0.note_attention();
    }

    fn note_scope(&self, in_force: bool) {
        self.0.is_cancelled.set(in_force);
        self.0.note_attention();
        if self.is_cancelled() {
            self.wake_interrupted();
        }
    }

    pub(super) fn wake_interrupted(&self) {
        if self.is_parked() {
            self.parked_waker().wake(Wake::Interrupted);
        }
    }

    /// Returns the shield that holds back what comes from `origin`: see [`RawGreenlet::interrupt_from`].
    pub fn shield_against(&self, origin: Option<&Scope>) -> Option<Scope> {
        if !self.0.has_scope() {
            return None;
        }
        self.scope()?.shield_against(origin)
    }

    /// As [`RawGreenlet::interrupt`]; but if a shield stands between `origin` (the innermost scope of whoever arranged for
    /// the interrupt, None: outside of all) and the greenlet, it comes when that shield ends.
    pub fn interrupt_from(&self, origin: Option<&Scope>, interrupt: Interrupt) {
        match self.shield_against(origin) {
            Some(shield) => {
                let held = Held { greenlet: self.clone(), origin: origin.cloned(), interrupt };
                shield.0.held.borrow_mut().push(held);
            }
            None => self.interrupt(interrupt),
        }
    }

    /// Takes back the first interrupt that `matches`, if it was not delivered yet, also from behind a shield.
    pub fn retract_interrupt(&self, matches: impl Fn(&Interrupt) -> bool) -> Option<Interrupt> {
        if let Some(interrupt) = self.retract_pending(&matches) {
            return Some(interrupt);
        }
        let mut scope = self.scope();
        while let Some(candidate) = scope {
            let position = {
                let held = candidate.0.held.borrow();
                held.iter().position(|held| held.greenlet.is(self) && matches(&held.interrupt))
            };
            if let Some(position) = position {
                return Some(candidate.0.held.borrow_mut().remove(position).interrupt);
            }
            scope = candidate.0.parent.borrow().clone();
        }
        None
    }
}
