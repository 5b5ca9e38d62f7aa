//! A task that takes too long is interrupted, and the program goes on.

use std::time::Duration;

use greenrust::{GreenletError, Timeout, sleep, spawn};

/// Takes five seconds: more than the caller allows.
fn long_task() {
    println!("Long task: started");
    sleep(Duration::from_secs(5));
    println!("Long task: finished"); // never printed: the timeout interrupts the sleep
}

/// Allows the task two seconds, then does something else instead.
fn run_with_timeout() {
    if Timeout::run(Duration::from_secs(2), long_task).is_err() {
        println!("Error: the task took longer than 2 seconds");
        println!("Doing something else instead");
    }
}

fn main() -> Result<(), GreenletError> {
    spawn(run_with_timeout).get()
}
