//! Greenlets on stacks of their own, a hub in every thread, and what is built on them.
//!
//! A *greenlet* is a function with a stack of its own. It runs until it blocks: then another one runs, in the same
//! thread. Code reads as if every call blocked the thread, and ten thousand of them can wait at the same time. A
//! function that blocks is an ordinary function; there is no `async` and no `await`.
//!
//! ```
//! use std::time::Duration;
//!
//! let names = ["one", "two", "three"];
//! let greenlets = names.map(|name| {
//!     greenrust::spawn(move || {
//!         greenrust::sleep(Duration::from_millis(10)); // only this greenlet sleeps
//!         name.len()
//!     })
//! });
//! greenrust::joinall(&greenlets);
//! let lengths = greenlets.map(|greenlet| greenlet.get().unwrap());
//! assert_eq!(lengths, [3, 3, 5]);
//! ```
//!
//! # What is where
//!
//! | to | use |
//! | --- | --- |
//! | run and end greenlets | [`spawn`], [`joinall`], [`Greenlet`], [`greenlet`] |
//! | let time pass, or limit it | [`sleep`], [`Timeout`] |
//! | wait for one another | [`event`], [`lock`], [`queue`], [`channel`] |
//! | have greenlets end together, or be cancelled | [`TaskGroup`], [`CancelScope`], [`move_on_after`] |
//! | limit how many run | [`pool`] |
//! | talk to the world | [`socket`], [`server`], [`http_server`], [`websocket`], [`signal`] |
//! | look up names and addresses of hosts | [`resolver`] |
//! | leave blocking work to other threads | [`thread_pool`] |
//! | have a value for each greenlet | [`local`] |
//! | see how it works | [`hub`], and below it [`context`], [`stack`], [`timers`] |
//!
//! # Rules
//!
//! - A greenlet belongs to the thread that spawned it. What reaches another thread is a wake-up: [`hub::Remote`].
//! - A kill and a timeout unwind a greenlet's stack, so `Drop` runs; see [`greenlet`]. The program must be built with
//!   `panic = "unwind"`, the default.
//! - A greenlet that does not block keeps all others of its thread waiting; so does a system call that is not made
//!   through this crate.

pub mod cancel_scope;
pub mod channel;
pub mod clock;
pub mod context;
pub mod event;
pub mod greenlet;
pub mod http;
pub mod http_server;
pub mod hub;
pub mod local;
pub mod lock;
pub mod pool;
pub mod queue;
pub mod resolver;
pub mod server;
pub mod signal;
pub mod socket;
pub mod stack;
pub mod sys;
pub mod task_group;
pub mod thread_pool;
pub mod timeout;
pub mod timers;
pub mod wait_queue;
pub mod websocket;

pub use cancel_scope::{CancelScope, Cancelled, move_on_after};
pub use greenlet::{
    Builder, Greenlet, GreenletError, Joinable, joinall, killall, sleep, spawn, spawn_later, yield_now,
};
pub use task_group::{TaskFailure, TaskGroup, TaskGroupError};
pub use timeout::{TimedOut, Timeout};
