//! Questions on their way: which server has which one, what happens when it is silent, and who waits.
//!
//! ```text
//!   ask ──► waiting (first in, first out) ──► in flight, at most IN_FLIGHT ──► cache, and all who asked
//!                                             │  channel: a UDP socket connected to one server, shared by some questions
//!                                             │  stream:  a TCP connection of one question, whose answer was truncated
//!                                             └─ refused, silent: the next server, `attempts` times around
//! ```
//!
//! All of it runs in callbacks of the hub; greenlets only wait, each for a [`Pending`], which all who ask the same share.
//! So a kill or a timeout ends a wait and nothing else: the answer still comes, and is kept.
//!
//! What a forger would have to guess: the 16 random bits of the id, and the port, which the kernel chooses at random for
//! each channel. A channel takes [`CHANNEL_USES`] questions and is closed when it was idle for [`CHANNEL_IDLE`]. The same
//! question is never on its way twice, so that many tries at once don't help.
//!
//! Timers and descriptors here keep no loop alive; those who wait do.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};
use rustix::rand::GetRandomFlags;
use slab::Slab;

use super::cache::Cache;
use super::config::Settings;
use super::message::{self, Answer, Question, Reply};
use super::stream::{Stream, open_socket};
use crate::clock::Instant;
use crate::hub::{Hub, LevelKey, Sink, TimerAction, WaitingFor};
use crate::sys::Interest;
use crate::timers::TimerKey;
use crate::wait_queue::{WaitError, WaitQueue};

/// How many questions are on their way at once, at most; the others wait for their turn.
///
/// dnsmasq refuses a client's questions beyond 150 that it has to forward (`dns-forward-max`), and the default receive
/// buffer of a Linux socket (208 KiB) has room for some 200 of them.
pub const IN_FLIGHT: usize = 100;
/// How many questions one UDP socket takes.
pub const CHANNEL_USES: u32 = 32;
/// How long an idle UDP socket is kept.
pub const CHANNEL_IDLE: Duration = Duration::from_millis(100);
/// How many datagrams are read before other callbacks have their turn.
const READ_BATCH: usize = 64;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The servers were reached, and none could or would answer.
    Refused,
    /// No server said anything.
    Silent,
    /// The answer holds a name that is no host name.
    BadName,
}

/// An answer, with how often it was given from the cache before.
pub type Given = (Rc<Answer>, usize);

/// What those who asked the same wait for.
#[derive(Debug, Default)]
pub struct Pending {
    outcome: RefCell<Option<Result<Given, Failure>>>,
    waiters: WaitQueue,
}

struct Held(&'static Hub);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Pending {
    /// Waits for the answer, no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; the question stays on its way.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Result<Given, Failure>, WaitError> {
        loop {
            if let Some(outcome) = &*self.outcome.borrow() {
                return Ok(outcome.clone());
            }
            let hub = Hub::current();
            hub.hold();
            let _held = Held(hub);
            let waiting_for = WaitingFor::Object("DNS answer", std::ptr::from_ref(self) as usize);
            self.waiters.wait(waiting_for, deadline).map_err(|abandoned| abandoned.error)?;
        }
    }
}

/// Where a question is.
enum Place {
    /// Nowhere: it waits for its turn, or is about to be sent.
    Nowhere,
    /// Sent through a channel.
    Channel(usize),
    /// On a connection of its own.
    Stream(Box<Stream>, LevelKey),
}

struct Task {
    question: Question,
    pending: Rc<Pending>,
    settings: Rc<Settings>,
    /// Where in the list of servers it begins.
    first_server: usize,
    /// How many servers were asked in vain.
    attempt: usize,
    /// Whether one of them said something.
    is_refused: bool,
    /// Whether it is to be asked over TCP.
    uses_stream: bool,
    /// Whether the question says that we take more than 512 bytes.
    is_extended: bool,
    id: u16,
    place: Place,
    timer: Option<TimerKey>,
    /// Tells this sending from earlier ones, and this task from one that had the same place in the table.
    serial: u64,
}

/// A UDP socket connected to a server.
struct Channel {
    socket: OwnedFd,
    server: SocketAddr,
    level: LevelKey,
    questions: HashMap<u16, usize>,
    uses: u32,
    serial: u64,
    idle_timer: Option<TimerKey>,
}

/// The questions of one resolver.
pub struct Exchange {
    state: Rc<RefCell<State>>,
}

struct State {
    own: Weak<RefCell<State>>,
    /// The hub that watches the descriptors; compared, never followed.
    hub: *const Hub,
    /// Which process the descriptors belong to: the child of a fork must not read what comes for its parent.
    process: u32,
    tasks: Slab<Task>,
    by_question: HashMap<Question, usize>,
    waiting: VecDeque<usize>,
    in_flight: usize,
    channels: Slab<Channel>,
    /// The channel of each server that takes further questions.
    open: HashMap<SocketAddr, usize>,
    cache: Cache,
    rotation: usize,
    serial: u64,
    random: Random,
}

impl Exchange {
    /// Creates one without questions, for the calling thread's hub.
    pub fn for_this_hub() -> Self {
        let state = Rc::new_cyclic(|own| {
            RefCell::new(State {
                own: own.clone(),
                hub: Hub::current(),
                process: std::process::id(),
                tasks: Slab::new(),
                by_question: HashMap::new(),
                waiting: VecDeque::new(),
                in_flight: 0,
                channels: Slab::new(),
                open: HashMap::new(),
                cache: Cache::default(),
                rotation: 0,
                serial: 0,
                random: Random::default(),
            })
        });
        Self { state }
    }

    /// Asks a question, unless the answer is known or somebody has asked the same already. Does not switch.
    pub fn ask(&self, question: Question, settings: &Rc<Settings>) -> Rc<Pending> {
        let hub = Hub::current();
        let mut state = self.state.borrow_mut();
        if let Some(given) = state.cache.get(&question, hub.clock().now()) {
            return Rc::new(Pending { outcome: RefCell::new(Some(Ok(given))), waiters: WaitQueue::new() });
        }
        state.check_process(hub);
        if let Some(&key) = state.by_question.get(&question) {
            return state.tasks[key].pending.clone();
        }
        let pending = Rc::new(Pending::default());
        let first_server = if settings.rotate {
            state.rotation = state.rotation.wrapping_add(1);
            state.rotation
        } else {
            0
        };
        let key = state.tasks.insert(Task {
            question: question.clone(),
            pending: pending.clone(),
            settings: settings.clone(),
            first_server,
            attempt: 0,
            is_refused: false,
            uses_stream: settings.stream_only,
            is_extended: true,
            id: 0,
            place: Place::Nowhere,
            timer: None,
            serial: 0,
        });
        state.by_question.insert(question, key);
        state.waiting.push_back(key);
        state.pump(hub);
        pending
    }

    /// Returns how many questions are waiting or on their way, and how many sockets are open for them.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.borrow();
        let streams = state.tasks.iter().filter(|(_, task)| matches!(task.place, Place::Stream(..))).count();
        (state.tasks.len(), state.channels.len() + streams)
    }

    /// Asks anew what waits, if this process is the child of a fork.
    pub fn after_fork(&self) {
        self.state.borrow_mut().check_process(Hub::current());
    }

    /// Forgets all answers.
    pub fn forget(&self) {
        self.state.borrow_mut().cache.clear();
    }

    /// Ends all questions, as if the servers were silent, and closes the sockets. It can be used again.
    pub fn close(&self) {
        let hub = Hub::current();
        let mut state = self.state.borrow_mut();
        state.waiting.clear();
        let keys: Vec<usize> = state.tasks.iter().map(|(key, _)| key).collect();
        for key in keys {
            state.finish(hub, key, Err(Failure::Silent));
        }
        state.in_flight = 0;
        let channels: Vec<usize> = state.channels.iter().map(|(key, _)| key).collect();
        for channel in channels {
            state.close_channel(hub, channel);
        }
        state.cache.clear();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Elsewhere the descriptors are closed all the same; what the other hub knows of them is void then.
        let Some(hub) = Hub::if_current() else { return };
        if std::ptr::eq(hub, self.state.borrow().hub) && !hub.is_closed() {
            self.close();
        }
    }
}

impl State {
    // -- the questions -------------------------------------------------------------------------------------------------

    /// Begins anew in the child of a fork, which shares the parent's sockets.
    fn check_process(&mut self, hub: &Hub) {
        let process = std::process::id();
        if self.process == process {
            return;
        }
        self.process = process;
        self.random = Random::default();
        self.waiting.clear();
        let keys: Vec<usize> = self.tasks.iter().map(|(key, _)| key).collect();
        for &key in &keys {
            self.withdraw(hub, key);
            self.waiting.push_back(key);
        }
        self.in_flight = 0;
        let channels: Vec<usize> = self.channels.iter().map(|(key, _)| key).collect();
        for channel in channels {
            self.close_channel(hub, channel);
        }
        self.pump(hub);
    }

    /// Sends those that wait, as far as there is room.
    fn pump(&mut self, hub: &Hub) {
        while self.in_flight < IN_FLIGHT {
            let Some(key) = self.waiting.pop_front() else { break };
            self.in_flight += 1;
            self.send(hub, key);
        }
    }

    /// Asks the server whose turn it is, or the next one that can be asked; ends the question if there is none.
    fn send(&mut self, hub: &Hub, key: usize) {
        loop {
            let task = &self.tasks[key];
            let servers = &task.settings.servers;
            if task.attempt >= servers.len() * task.settings.attempts as usize {
                let failure = if task.is_refused { Failure::Refused } else { Failure::Silent };
                return self.finish(hub, key, Err(failure));
            }
            let server = servers[(task.first_server + task.attempt) % servers.len()];
            let timeout = task.settings.timeout;
            self.serial += 1;
            let serial = self.serial;
            self.tasks[key].serial = serial;
            let sent = if self.tasks[key].uses_stream {
                self.open_stream(hub, key, server.stream)
            } else {
                self.send_datagram(hub, key, server.datagram)
            };
            match sent {
                Ok(()) => {
                    let own = self.own.clone();
                    let expire = move |hub: &Hub| with_state(&own, |state| state.on_silence(hub, key, serial));
                    let deadline = hub.clock().now().after(timeout);
                    self.tasks[key].timer = Some(hub.add_timer(deadline, TimerAction::Call(Box::new(expire)), false));
                    return;
                }
                Err(_) => self.tasks[key].attempt += 1,
            }
        }
    }

    /// Takes a question back from wherever it is.
    fn withdraw(&mut self, hub: &Hub, key: usize) {
        let task = &mut self.tasks[key];
        if let Some(timer) = task.timer.take() {
            hub.remove_timer(timer);
        }
        task.serial = 0;
        let id = task.id;
        match std::mem::replace(&mut task.place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Channel(channel) => {
                self.channels[channel].questions.remove(&id);
                self.settle_channel(hub, channel);
            }
            Place::Stream(_, level) => hub.remove_level(level),
        }
    }

    /// Goes on with the next server.
    fn go_on(&mut self, hub: &Hub, key: usize) {
        self.withdraw(hub, key);
        self.tasks[key].attempt += 1;
        self.send(hub, key);
    }

    /// Ends a question and tells who waits for it.
    fn finish(&mut self, hub: &Hub, key: usize, outcome: Result<Answer, Failure>) {
        self.withdraw(hub, key);
        let task = self.tasks.remove(key);
        self.by_question.remove(&task.question);
        self.in_flight = self.in_flight.saturating_sub(1);
        let outcome = outcome.map(|answer| {
            let answer = Rc::new(answer);
            self.cache.insert(task.question, answer.clone(), hub.clock().now());
            (answer, 0)
        });
        *task.pending.outcome.borrow_mut() = Some(outcome);
        task.pending.waiters.wake_all();
    }

    /// Says whether the sending with this number is still the latest of the task.
    fn is_current(&self, key: usize, serial: u64) -> bool {
        self.tasks.get(key).is_some_and(|task| task.serial == serial)
    }

    fn on_silence(&mut self, hub: &Hub, key: usize, serial: u64) {
        self.check_process(hub);
        if self.is_current(key, serial) {
            self.tasks[key].timer = None;
            self.go_on(hub, key);
            self.pump(hub);
        }
    }

    /// Acts on what a server sent to a question.
    fn receive(&mut self, hub: &Hub, key: usize, reply: Reply) {
        let task = &mut self.tasks[key];
        match reply {
            Reply::Foreign => {}
            Reply::Answer(answer) => self.finish(hub, key, Ok(answer)),
            Reply::BadName => self.finish(hub, key, Err(Failure::BadName)),
            Reply::Truncated if !task.uses_stream => {
                task.uses_stream = true;
                self.withdraw(hub, key);
                self.send(hub, key);
            }
            Reply::NotUnderstood if task.is_extended => {
                task.is_extended = false;
                self.withdraw(hub, key);
                self.send(hub, key);
            }
            Reply::Refused | Reply::NotUnderstood | Reply::Truncated => {
                task.is_refused = true;
                self.go_on(hub, key);
            }
        }
    }

    // -- datagrams -----------------------------------------------------------------------------------------------------

    fn send_datagram(&mut self, hub: &Hub, key: usize, server: SocketAddr) -> Result<(), Errno> {
        let place = match self.open.get(&server) {
            Some(&place) => place,
            None => self.open_channel(hub, server)?,
        };
        let id = loop {
            let id = self.random.next();
            if !self.channels[place].questions.contains_key(&id) {
                break id;
            }
        };
        let task = &mut self.tasks[key];
        let bytes = task.question.to_bytes(id, task.is_extended, task.settings.recursive);
        let channel = &mut self.channels[place];
        channel.uses += 1;
        if channel.uses == CHANNEL_USES {
            self.open.remove(&server);
        }
        // An error may be that of an earlier question: the port was closed when it arrived. It is reported once.
        let sent = rustix::net::send(&channel.socket, &bytes, SendFlags::empty())
            .or_else(|_| rustix::net::send(&channel.socket, &bytes, SendFlags::empty()));
        if let Err(error) = sent {
            self.settle_channel(hub, place);
            return Err(error);
        }
        channel.questions.insert(id, key);
        task.id = id;
        task.place = Place::Channel(place);
        Ok(())
    }

    fn open_channel(&mut self, hub: &Hub, server: SocketAddr) -> Result<usize, Errno> {
        let socket = open_socket(server, SocketType::DGRAM)?;
        rustix::net::connect(&socket, &server)?;
        self.serial += 1;
        let serial = self.serial;
        let place = self.channels.vacant_key();
        let level = self.watch(hub, &socket, false, move |state, hub| state.on_channel(hub, place, serial))?;
        let questions = HashMap::new();
        self.channels.insert(Channel { socket, server, level, questions, uses: 0, serial, idle_timer: None });
        self.open.insert(server, place);
        Ok(place)
    }

    /// Closes a channel that is used up, or sees to it that it is closed if it stays idle.
    fn settle_channel(&mut self, hub: &Hub, place: usize) {
        let channel = &mut self.channels[place];
        if !channel.questions.is_empty() {
            return;
        }
        if channel.uses >= CHANNEL_USES {
            return self.close_channel(hub, place);
        }
        if channel.idle_timer.is_none() {
            let (own, serial) = (self.own.clone(), channel.serial);
            let expire = move |hub: &Hub| with_state(&own, |state| state.on_idle(hub, place, serial));
            let deadline = hub.clock().now().after(CHANNEL_IDLE);
            channel.idle_timer = Some(hub.add_timer(deadline, TimerAction::Call(Box::new(expire)), false));
        }
    }

    fn on_idle(&mut self, hub: &Hub, place: usize, serial: u64) {
        self.check_process(hub);
        if let Some(channel) = self.channels.get_mut(place)
            && channel.serial == serial
        {
            channel.idle_timer = None;
            if channel.questions.is_empty() {
                self.close_channel(hub, place);
            }
        }
    }

    fn close_channel(&mut self, hub: &Hub, place: usize) {
        let channel = self.channels.remove(place);
        if self.open.get(&channel.server) == Some(&place) {
            self.open.remove(&channel.server);
        }
        if let Some(timer) = channel.idle_timer {
            hub.remove_timer(timer);
        }
        hub.remove_level(channel.level);
    }

    fn on_channel(&mut self, hub: &Hub, place: usize, serial: u64) {
        self.check_process(hub);
        let mut buffer = [0; DATAGRAM_ROOM];
        for _ in 0..READ_BATCH {
            let Some(channel) = self.channels.get(place).filter(|channel| channel.serial == serial) else {
                break;
            };
            match rustix::net::recv(&channel.socket, &mut buffer, RecvFlags::empty()) {
                Ok((_, length)) => {
                    let bytes = &buffer[..length.min(DATAGRAM_ROOM)];
                    let Some((id, key)) = message::id(bytes).and_then(|id| Some((id, *channel.questions.get(&id)?)))
                    else {
                        continue;
                    };
                    let task = &self.tasks[key];
                    let mut reply = message::read(bytes, id, &task.question);
                    if matches!(reply, Reply::Truncated) && task.settings.ignore_truncation {
                        reply = message::read(&message::without_truncation(bytes), id, &task.question);
                    }
                    self.receive(hub, key, reply);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // Nobody is at that port, or no way leads there.
                    let keys: Vec<usize> = channel.questions.values().copied().collect();
                    self.open.remove(&channel.server);
                    for key in keys {
                        self.go_on(hub, key);
                    }
                }
            }
        }
        self.pump(hub);
    }

    // -- connections ---------------------------------------------------------------------------------------------------

    fn open_stream(&mut self, hub: &Hub, key: usize, server: SocketAddr) -> Result<(), Errno> {
        let id = self.random.next();
        let serial = self.serial;
        let task = &self.tasks[key];
        let question = task.question.to_bytes(id, task.is_extended, task.settings.recursive);
        let stream = Stream::open(server, &question)?;
        let level = self.watch(hub, stream.socket(), true, move |state, hub| state.on_stream(hub, key, serial))?;
        let task = &mut self.tasks[key];
        task.id = id;
        task.place = Place::Stream(Box::new(stream), level);
        Ok(())
    }

    fn on_stream(&mut self, hub: &Hub, key: usize, serial: u64) {
        self.check_process(hub);
        if !self.is_current(key, serial) {
            return;
        }
        let Place::Stream(stream, level) = &mut self.tasks[key].place else { return };
        let was_writing = stream.is_writing();
        match stream.advance() {
            Ok(None) if was_writing && !stream.is_writing() => {
                hub.remove_level(*level);
                let watched = self.watch_stream(hub, key, serial);
                match (watched, &mut self.tasks[key].place) {
                    (Ok(watched), Place::Stream(_, level)) => *level = watched,
                    _ => self.go_on(hub, key),
                }
            }
            Ok(None) => {}
            Ok(Some(bytes)) => {
                let task = &self.tasks[key];
                match message::read(&bytes, task.id, &task.question) {
                    Reply::Foreign => self.receive(hub, key, Reply::Refused),
                    reply => self.receive(hub, key, reply),
                }
            }
            Err(_) => self.go_on(hub, key),
        }
        self.pump(hub);
    }

    /// Watches a connection that has taken its question, for the answer.
    fn watch_stream(&self, hub: &Hub, key: usize, serial: u64) -> Result<LevelKey, Errno> {
        let Place::Stream(stream, _) = &self.tasks[key].place else { return Err(Errno::BADF) };
        self.watch(hub, stream.socket(), false, move |state, hub| state.on_stream(hub, key, serial))
    }

    // -- descriptors ---------------------------------------------------------------------------------------------------

    fn watch(
        &self,
        hub: &Hub,
        socket: &OwnedFd,
        is_writing: bool,
        then: impl Fn(&mut State, &Hub) + Clone + 'static,
    ) -> Result<LevelKey, Errno> {
        let interest = Interest { read: !is_writing, write: is_writing };
        hub.add_level(socket.as_raw_fd(), interest, self.sink(then))
            .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
    }

    /// Has the hub run `then` when the descriptor is ready: in its loop, as the poller's books are open when it tells.
    fn sink(&self, then: impl Fn(&mut State, &Hub) + Clone + 'static) -> Sink {
        let own = self.own.clone();
        let is_scheduled = Rc::new(Cell::new(false));
        Sink::Watcher(Rc::new(move |_| {
            if is_scheduled.replace(true) {
                return;
            }
            let (own, then, is_scheduled) = (own.clone(), then.clone(), is_scheduled.clone());
            Hub::current().push_call(move |hub| {
                is_scheduled.set(false);
                with_state(&own, |state| then(state, hub));
            });
        }))
    }
}

/// Room for a datagram of the size that questions name, and for servers that send more nevertheless.
const DATAGRAM_ROOM: usize = 4096;

fn with_state(state: &Weak<RefCell<State>>, function: impl FnOnce(&mut State)) {
    if let Some(state) = state.upgrade() {
        function(&mut state.borrow_mut());
    }
}

/// Random ids, from the kernel's generator: who sees some of them can't tell the next.
#[derive(Default)]
struct Random {
    bytes: Vec<u8>,
}

impl Random {
    fn next(&mut self) -> u16 {
        if self.bytes.len() < 2 {
            let mut fresh = [0; 128];
            let filled = rustix::rand::getrandom(&mut fresh, GetRandomFlags::empty());
            let count = filled.expect("the kernel gives random bytes to whoever can wait for its start");
            self.bytes.extend_from_slice(&fresh[..count]);
        }
        let low = self.bytes.pop().unwrap_or_default();
        let high = self.bytes.pop().unwrap_or_default();
        u16::from_be_bytes([high, low])
    }
}
