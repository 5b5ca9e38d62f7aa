//! greenrust: greenlets on stacks of their own, a hub in every thread, and what is built on them.

pub mod clock;
pub mod context;
pub mod http;
pub mod hub;
pub mod stack;
pub mod sys;
pub mod timers;
