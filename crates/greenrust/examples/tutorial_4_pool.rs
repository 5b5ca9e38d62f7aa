//! A pool runs five tasks, but never more than two at a time.

use std::time::{Duration, Instant};

use greenrust::pool::Pool;
use greenrust::{GreenletError, sleep};

/// Pretends to work: half a second for task 1, a second for task 2, and so on.
fn process(task_id: u32) -> u32 {
    println!("Task {task_id} started");
    sleep(task_id * Duration::from_millis(500));
    println!("Task {task_id} finished");
    task_id * 10
}

fn main() -> Result<(), GreenletError> {
    let pool = Pool::new(2); // room for two greenlets
    let start = Instant::now();

    // map() waits for all results and returns them in the order of the tasks.
    let results = pool.map(1..=5, process)?;

    println!("\nAll tasks finished in {:.2} s", start.elapsed().as_secs_f64());
    println!("Results: {results:?}");
    Ok(())
}
