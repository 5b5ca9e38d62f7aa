//! The port contract: what every platform supplies, and the only code that talks to the kernel about it.
//!
//! | item | what it must do |
//! | --- | --- |
//! | [`Poller`] | readiness of descriptors, edge- and level-triggered, with a time-out; one system call a wait |
//! | [`Wakeup`] | a descriptor that another thread (or a signal handler) makes readable |
//! | [`memory`] | address space, guards, giving pages back |
//! | [`interfaces`] | the addresses of this machine |
//! | [`fault`] | a message for a stack overflow before the process dies of it |
//!
//! Linux (epoll, eventfd) is the one that exists; a kqueue port adds a file beside `epoll.rs`.

mod epoll;
pub mod fault;
pub mod interfaces;
pub mod memory;

pub use epoll::{Events, Interest, Poller, Readiness, Wakeup};
