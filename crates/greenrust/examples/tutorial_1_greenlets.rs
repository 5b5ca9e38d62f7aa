//! Three greenlets take turns: while one sleeps, the others run.

use std::time::Duration;

use greenrust::{joinall, sleep, spawn};

/// Counts from 0 to 2, one step a second.
fn task(name: &str) {
    for step in 0..3 {
        println!("{name}: {step}");
        // Suspends this greenlet alone; std::thread::sleep would stop all three.
        sleep(Duration::from_secs(1));
    }
}

fn main() {
    // Three greenlets. None has run yet: they start when this one first waits.
    let greenlets = ["Task 1", "Task 2", "Task 3"].map(|name| spawn(move || task(name)));

    // Wait until all three have finished.
    joinall(&greenlets);
}
