//! A deadline that moves with every wait, for those who wait often and seldom in vain.
//!
//! A timer for each wait would be added and removed for each. An [`Alarm`] leaves its timer where it is when a wait ends
//! or the next one may take longer. When the timer expires it looks whether somebody waits and how long they may: it ends
//! the wait, moves on to the deadline of the present one, or rests until the next wait. So a connection that is served a
//! thousand times a second sets one timer in its time-out, and none of its reads does.
//!
//! A deadline that comes *earlier* than the timer moves the timer at once.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use super::raw::{Wake, Waker};
use super::{Hub, TimerAction};
use crate::clock::Instant;
use crate::timers::TimerKey;

/// The deadline of one who waits, again and again.
#[derive(Clone, Default)]
pub struct Alarm(Rc<Inner>);

#[derive(Default)]
struct Inner {
    /// When the present wait ends; none while nobody waits.
    deadline: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
    /// The timer that is pending, if any, and when it expires.
    timer: Cell<Option<(Instant, TimerKey)>>,
}

impl Alarm {
    /// Makes an alarm that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parks as [`Hub::park_until`] does. The alarm's waits don't keep the loop alive.
    pub fn park_until(&self, hub: &Hub, waker: &Waker, deadline: Instant) -> Wake {
        *self.0.waker.borrow_mut() = Some(waker.clone());
        self.set(hub, deadline);
        let wake = hub.park(waker);
        self.0.deadline.set(None);
        self.0.waker.take();
        wake
    }

    /// Has the present wait end at `deadline`, if it is earlier. Nothing happens while nobody waits.
    pub fn hasten(&self, hub: &Hub, deadline: Instant) {
        if self.0.deadline.get().is_some_and(|present| deadline < present) {
            self.set(hub, deadline);
        }
    }

    /// Takes the timer away. The alarm can be used again.
    pub fn cancel(&self, hub: &Hub) {
        if let Some((_, key)) = self.0.timer.take() {
            hub.remove_timer(key);
        }
    }

    fn set(&self, hub: &Hub, deadline: Instant) {
        self.0.deadline.set(Some(deadline));
        if let Some((expiry, key)) = self.0.timer.get() {
            if expiry <= deadline {
                return;
            }
            hub.remove_timer(key);
        }
        Inner::arm(&self.0, hub, deadline);
    }
}

impl Inner {
    fn arm(this: &Rc<Self>, hub: &Hub, deadline: Instant) {
        let weak: Weak<Self> = Rc::downgrade(this);
        let action = TimerAction::Call(Box::new(move |hub| {
            if let Some(this) = weak.upgrade() {
                Self::expire(&this, hub);
            }
        }));
        this.timer.set(Some((deadline, hub.add_timer(deadline, action, false))));
    }

    fn expire(this: &Rc<Self>, hub: &Hub) {
        this.timer.set(None);
        match this.deadline.get() {
            None => {}
            Some(deadline) if deadline > hub.clock().now() => Self::arm(this, hub, deadline),
            Some(_) => {
                let waker = this.waker.take();
                if let Some(waker) = waker {
                    waker.wake(Wake::TimedOut);
                }
            }
        }
    }
}
