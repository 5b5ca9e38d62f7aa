//! greenrust: greenlets on stacks of their own, a hub in every thread, and what is built on them.

pub mod channel;
pub mod clock;
pub mod context;
pub mod event;
pub mod http;
pub mod hub;
pub mod lock;
pub mod queue;
pub mod stack;
pub mod sys;
pub mod timers;
pub mod wait_queue;
