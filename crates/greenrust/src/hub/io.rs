//! Descriptors and who waits for them.
//!
//! Two kinds of wait:
//!
//! - **Our own sockets** are registered once for their whole life, edge-triggered, in both directions, and readiness is
//!   remembered: [`Io::wait`] after EAGAIN costs no `epoll_ctl`. Whoever sees EAGAIN (or a short read) says so by
//!   [`Io::clear`].
//! - **Foreign descriptors** (`wait_read(fd)`, libpq's, a selector's) are level-triggered. A registration lasts as long as
//!   somebody waits, since foreign code closes its descriptors without telling us.
//!
//! A poller has one registration for a descriptor. One that is waited for in both ways is level-triggered in a second
//! poller, which is itself one readable descriptor of the main one: that costs another system call, and is rare.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::raw::{Wake, Waker};
use crate::sys::{Events, Interest, Poller, Readiness};

/// The direction of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Until reading does not block.
    Read,
    /// Until writing does not block.
    Write,
}

/// Who is told that a foreign descriptor is ready.
pub enum Sink {
    /// A parked greenlet, once.
    Waker(Waker),
    /// A watcher, at every poll while the descriptor is ready. Must not switch.
    Watcher(Rc<dyn Fn(Interest)>),
}

/// Identifies a wait for a foreign descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelKey {
    descriptor: RawFd,
    key: usize,
    serial: u64,
}

const WAKEUP: u64 = u64::MAX;
const LEVEL: u64 = u64::MAX - 1;
/// Marks the tokens of level-triggered registrations, whose other bits are the descriptor.
const LEVEL_MARK: u64 = 1 << 63;

/// What is called, in the hub greenlet, when a socket of ours becomes ready: once.
pub(super) type ReadyCall = Box<dyn FnOnce(&super::Hub)>;

#[derive(Default)]
struct Side {
    ready: bool,
    /// The peer hung up or the socket failed: a read or write will say so, and no further edge may come.
    ended: bool,
    waiters: Vec<Waker>,
    call: Option<ReadyCall>,
}

#[derive(Default)]
struct Edge {
    generation: u32,
    read: Side,
    write: Side,
}

#[derive(Default)]
struct Level {
    registered: Interest,
    /// Whether it is in the second poller, since the main one has the descriptor edge-triggered.
    is_apart: bool,
    waits: Slab<LevelWait>,
}

struct LevelWait {
    interest: Interest,
    sink: Sink,
    /// Tells a key of this wait from one of an earlier wait that had the same place.
    serial: u64,
}

impl Sink {
    /// Says whether the wait keeps the loop alive by itself; a watcher's owner says so by [`Hub::hold`].
    ///
    /// [`Hub::hold`]: super::Hub::hold
    fn counts(&self) -> usize {
        usize::from(matches!(self, Sink::Waker(_)))
    }
}

pub(super) struct Io {
    poller: Poller,
    level_poller: Poller,
    edges: Vec<Option<Box<Edge>>>,
    levels: Vec<Option<Box<Level>>>,
    generation: u32,
    serial: u64,
    /// How many waits there are: a poll without any is needless while there is other work.
    pub(super) waits: usize,
}

fn borrow(descriptor: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the descriptor is only passed to epoll_ctl, which answers EBADF if it is not open. -1 is excluded by callers.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

fn index(descriptor: RawFd) -> io::Result<usize> {
    usize::try_from(descriptor).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

impl Io {
    pub(super) fn new(wakeup: BorrowedFd<'_>) -> io::Result<Self> {
        let io = Self {
            poller: Poller::new()?,
            level_poller: Poller::new()?,
            edges: Vec::new(),
            levels: Vec::new(),
            generation: 0,
            serial: 0,
            waits: 0,
        };
        io.attach(wakeup)?;
        Ok(io)
    }

    fn attach(&self, wakeup: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsFd;
        self.poller.register_level(wakeup, WAKEUP, Interest { read: true, write: false })?;
        self.poller.register_level(self.level_poller.as_fd(), LEVEL, Interest { read: true, write: false })
    }

    /// Replaces both pollers after a fork, whose child shares the parent's: registers everything anew.
    pub(super) fn reinit(&mut self, wakeup: BorrowedFd<'_>) -> io::Result<()> {
        self.poller = Poller::new()?;
        self.level_poller = Poller::new()?;
        self.attach(wakeup)?;
        for (descriptor, edge) in self.edges.iter_mut().enumerate() {
            if let Some(edge) = edge {
                let token = descriptor as u64 | u64::from(edge.generation) << 32;
                // A descriptor that was closed between fork and here has nobody who would wait for it.
                let _ = self.poller.register_edge(borrow(descriptor as RawFd), token);
            }
        }
        for (descriptor, level) in self.levels.iter_mut().enumerate() {
            if let Some(level) = level {
                let poller = if level.is_apart { &self.level_poller } else { &self.poller };
                let token = descriptor as u64 | LEVEL_MARK;
                let _ = poller.register_level(borrow(descriptor as RawFd), token, level.registered);
            }
        }
        Ok(())
    }

    /// Forgets, without dropping it, who waits for anything. Our own sockets stay registered.
    pub(super) fn leave_behind(&mut self) {
        for edge in self.edges.iter_mut().flatten() {
            for side in [&mut edge.read, &mut edge.write] {
                std::mem::forget((std::mem::take(&mut side.waiters), side.call.take()));
            }
        }
        for (descriptor, level) in self.levels.iter_mut().enumerate() {
            if let Some(level) = level.take() {
                let poller = if level.is_apart { &self.level_poller } else { &self.poller };
                let _ = poller.deregister(borrow(descriptor as RawFd));
                std::mem::forget(level);
            }
        }
        self.waits = 0;
    }

    /// Registers a socket of ours; a second time does nothing.
    pub(super) fn register(&mut self, descriptor: RawFd) -> io::Result<()> {
        let place = index(descriptor)?;
        if self.edges.len() <= place {
            self.edges.resize_with(place + 1, || None);
        }
        if self.edges[place].is_some() {
            return Ok(());
        }
        if let Some(level) = self.levels.get_mut(place).and_then(Option::as_mut).filter(|level| !level.is_apart) {
            let _ = self.poller.deregister(borrow(descriptor));
            level.is_apart = true;
            self.level_poller.register_level(borrow(descriptor), place as u64 | LEVEL_MARK, level.registered)?;
        }
        // 31 bits, so that no token is WAKEUP or LEVEL, or has the mark of a level.
        self.generation = (self.generation + 1) & 0x7fff_ffff;
        let edge = Box::new(Edge { generation: self.generation, ..Edge::default() });
        self.poller.register_edge(borrow(descriptor), place as u64 | u64::from(self.generation) << 32)?;
        self.edges[place] = Some(edge);
        Ok(())
    }

    fn side(&mut self, descriptor: RawFd, direction: Direction) -> Option<&mut Side> {
        let edge = self.edges.get_mut(usize::try_from(descriptor).ok()?)?.as_mut()?;
        Some(match direction {
            Direction::Read => &mut edge.read,
            Direction::Write => &mut edge.write,
        })
    }

    /// Notes that a system call gave less than it was asked for: the direction is exhausted, unless the peer has ended it
    /// (then no further edge may come).
    pub(super) fn clear(&mut self, descriptor: RawFd, direction: Direction) {
        if let Some(side) = self.side(descriptor, direction) {
            side.ready = side.ended;
        }
    }

    /// Notes that a system call said EAGAIN. An end that was noted earlier is over: a datagram socket reports an error
    /// once, and a stream socket hangs up before it is connected.
    pub(super) fn mark_blocked(&mut self, descriptor: RawFd, direction: Direction) {
        if let Some(side) = self.side(descriptor, direction) {
            side.ready = false;
            side.ended = false;
        }
    }

    /// Wakes those who wait in this direction with [`Wake::Closed`].
    pub(super) fn cancel(&mut self, descriptor: RawFd, direction: Direction) {
        let waiters =
            self.side(descriptor, direction).map(|side| std::mem::take(&mut side.waiters)).unwrap_or_default();
        self.waits -= waiters.len();
        for waker in waiters {
            waker.wake(Wake::Closed);
        }
    }

    /// Says whether a system call in this direction is likely not to block; true for what is not registered.
    pub(super) fn is_ready(&mut self, descriptor: RawFd, direction: Direction) -> bool {
        self.side(descriptor, direction).is_none_or(|side| side.ready)
    }

    /// Says whether a greenlet waits in this direction already.
    pub(super) fn has_waiter(&mut self, descriptor: RawFd, direction: Direction) -> bool {
        self.side(descriptor, direction).is_some_and(|side| side.waiters.iter().any(Waker::is_waiting))
    }

    pub(super) fn add_waiter(&mut self, descriptor: RawFd, direction: Direction, waker: Waker) {
        if let Some(side) = self.side(descriptor, direction) {
            side.waiters.push(waker);
            self.waits += 1;
        }
    }

    pub(super) fn remove_waiter(&mut self, descriptor: RawFd, direction: Direction, waker: &Waker) {
        let removed = self.side(descriptor, direction).map_or(0, |side| {
            let before = side.waiters.len();
            side.waiters.retain(|other| other != waker);
            before - side.waiters.len()
        });
        self.waits -= removed;
    }

    /// Has `call` called when the direction becomes ready, in place of an earlier call, which is returned. A direction
    /// that is ready, or a socket that is not registered, gives the call back at once, as the error.
    pub(super) fn set_call(
        &mut self,
        descriptor: RawFd,
        direction: Direction,
        call: ReadyCall,
    ) -> Result<Option<ReadyCall>, ReadyCall> {
        let Some(side) = self.side(descriptor, direction).filter(|side| !side.ready) else {
            return Err(call);
        };
        let former = side.call.replace(call);
        self.waits += usize::from(former.is_none());
        Ok(former)
    }

    /// Takes back what [`Io::set_call`] set.
    pub(super) fn take_call(&mut self, descriptor: RawFd, direction: Direction) -> Option<ReadyCall> {
        let call = self.side(descriptor, direction)?.call.take();
        self.waits -= usize::from(call.is_some());
        call
    }

    /// Ends the registration of a socket that is about to be closed; its waiters are woken with [`Wake::Closed`]. Returns
    /// the calls that will not be made, to be dropped when nothing of the hub is borrowed.
    pub(super) fn deregister(&mut self, descriptor: RawFd) -> [Option<ReadyCall>; 2] {
        let Some(edge) = usize::try_from(descriptor).ok().and_then(|place| self.edges.get_mut(place)?.take()) else {
            return [None, None];
        };
        // EBADF: somebody closed it behind our back, which ended the registration too.
        let _ = self.poller.deregister(borrow(descriptor));
        [edge.read, edge.write].map(|side| {
            self.waits -= side.waiters.len() + usize::from(side.call.is_some());
            for waker in side.waiters {
                waker.wake(Wake::Closed);
            }
            side.call
        })
    }

    /// Adds a level-triggered wait.
    pub(super) fn add_level(&mut self, descriptor: RawFd, interest: Interest, sink: Sink) -> io::Result<LevelKey> {
        let place = index(descriptor)?;
        if self.levels.len() <= place {
            self.levels.resize_with(place + 1, || None);
        }
        let is_apart = self.edges.get(place).is_some_and(Option::is_some);
        let level = self.levels[place].get_or_insert_with(|| Box::new(Level { is_apart, ..Level::default() }));
        let poller = if level.is_apart { &self.level_poller } else { &self.poller };
        self.serial += 1;
        let serial = self.serial;
        let counts = sink.counts();
        let key = level.waits.insert(LevelWait { interest, sink, serial });
        if let Err(error) = Self::update_level(poller, descriptor, level) {
            level.waits.remove(key);
            if level.waits.is_empty() {
                self.levels[place] = None;
            }
            return Err(error);
        }
        self.waits += counts;
        Ok(LevelKey { descriptor, key, serial })
    }

    pub(super) fn remove_level(&mut self, key: LevelKey) {
        let place = key.descriptor as usize;
        let Some(level) = self.levels.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        match level.waits.get(key.key) {
            Some(wait) if wait.serial == key.serial => {
                self.waits -= wait.sink.counts();
                level.waits.remove(key.key);
            }
            _ => return,
        }
        let poller = if level.is_apart { &self.level_poller } else { &self.poller };
        let _ = Self::update_level(poller, key.descriptor, level);
        if level.waits.is_empty() {
            self.levels[place] = None;
        }
    }

    /// Wakes the greenlets that wait for a foreign descriptor which is about to be closed.
    pub(super) fn close_level(&mut self, descriptor: RawFd) -> bool {
        let Some(level) = usize::try_from(descriptor).ok().and_then(|place| self.levels.get_mut(place)?.take()) else {
            return false;
        };
        let poller = if level.is_apart { &self.level_poller } else { &self.poller };
        let _ = poller.deregister(borrow(descriptor));
        for (_, LevelWait { interest, sink, .. }) in level.waits {
            self.waits -= sink.counts();
            match sink {
                Sink::Waker(waker) => {
                    waker.wake(Wake::Closed);
                }
                Sink::Watcher(watcher) => watcher(interest),
            }
        }
        true
    }

    fn update_level(poller: &Poller, descriptor: RawFd, level: &mut Level) -> io::Result<()> {
        let mut wanted = Interest::default();
        for (_, LevelWait { interest, .. }) in &level.waits {
            wanted.read |= interest.read;
            wanted.write |= interest.write;
        }
        let token = descriptor as u64 | LEVEL_MARK;
        if wanted == level.registered {
            // What is believed to be registered may have been closed and opened anew by foreign code.
            if wanted != Interest::default() && poller.change_level(borrow(descriptor), token, wanted).is_err() {
                poller.register_level(borrow(descriptor), token, wanted)?;
            }
            return Ok(());
        }
        if wanted == Interest::default() {
            let _ = poller.deregister(borrow(descriptor));
        } else if level.registered == Interest::default() {
            match poller.register_level(borrow(descriptor), token, wanted) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    poller.change_level(borrow(descriptor), token, wanted)?;
                }
                other => other?,
            }
        } else if poller.change_level(borrow(descriptor), token, wanted).is_err() {
            poller.register_level(borrow(descriptor), token, wanted)?;
        }
        level.registered = wanted;
        Ok(())
    }

    /// Waits on the main poller alone: what happens without the host's attention.
    pub(super) fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Acts on what the poller reported; what is to be called is added to `calls`. Returns true if the wake-up was among it.
    pub(super) fn dispatch(&mut self, events: &Events, calls: &mut Vec<ReadyCall>) -> bool {
        let mut raised = false;
        let mut level = false;
        for readiness in events.iter() {
            match readiness.token {
                WAKEUP => raised = true,
                LEVEL => level = true,
                token if token & LEVEL_MARK != 0 => self.dispatch_level(readiness, false),
                _ => self.dispatch_edge(readiness, calls),
            }
        }
        if level {
            self.dispatch_second_poller();
        }
        raised
    }

    fn dispatch_edge(&mut self, readiness: Readiness, calls: &mut Vec<ReadyCall>) {
        let place = (readiness.token & 0xffff_ffff) as usize;
        let generation = (readiness.token >> 32) as u32;
        let Some(edge) = self.edges.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        if edge.generation != generation {
            return;
        }
        for (ready, ended, side) in [
            (readiness.read, readiness.read_ended, &mut edge.read),
            (readiness.write, readiness.write_ended, &mut edge.write),
        ] {
            if ready {
                side.ready = true;
                side.ended |= ended;
                self.waits -= side.waiters.len();
                for waker in side.waiters.drain(..) {
                    waker.unpark();
                }
                if let Some(call) = side.call.take() {
                    self.waits -= 1;
                    calls.push(call);
                }
            }
        }
    }

    fn dispatch_second_poller(&mut self) {
        let mut events = Events::with_capacity(256);
        if self.level_poller.wait(&mut events, Some(Duration::ZERO)).is_err() {
            return;
        }
        for readiness in events.iter() {
            self.dispatch_level(readiness, true);
        }
    }

    fn dispatch_level(&mut self, readiness: Readiness, is_apart: bool) {
        let poller = if is_apart { &self.level_poller } else { &self.poller };
        let place = (readiness.token & !LEVEL_MARK) as usize;
        let level = self.levels.get_mut(place).and_then(Option::as_mut);
        let Some(level) = level.filter(|level| level.is_apart == is_apart) else {
            // Foreign code closed the descriptor and opened it anew; or another thread made the registration an edge's
            // after the poll.
            if is_apart || !self.edges.get(place).is_some_and(Option::is_some) {
                let _ = poller.deregister(borrow(place as RawFd));
            }
            return;
        };
        let mut watchers = Vec::new();
        let mut woken = Vec::new();
        for (key, LevelWait { interest, sink, .. }) in &level.waits {
            let ready = Interest { read: interest.read && readiness.read, write: interest.write && readiness.write };
            if ready == Interest::default() {
                continue;
            }
            match sink {
                Sink::Waker(waker) => {
                    waker.unpark();
                    woken.push(key);
                }
                Sink::Watcher(watcher) => watchers.push((Rc::clone(watcher), ready)),
            }
        }
        if !woken.is_empty() {
            for key in woken {
                level.waits.remove(key);
                self.waits -= 1;
            }
            let _ = Self::update_level(poller, place as RawFd, level);
        }
        if level.waits.is_empty() {
            self.levels[place] = None;
        }
        for (watcher, ready) in watchers {
            watcher(ready);
        }
    }
}
