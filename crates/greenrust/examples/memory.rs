//! What a sleeping greenlet costs: memory in use, page tables included.
//!
//! Usage: memory [GREENLETS]    (100000 unless given)

use std::time::{Duration, Instant};

use greenrust::{Greenlet, killall, sleep, spawn};

/// Returns a field of `/proc/self/status` in bytes.
fn status(field: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()? * 1024)
}

fn in_use() -> Option<(usize, usize)> {
    Some((status("VmRSS")?, status("VmPTE")?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |argument| argument.parse())?;
    let unknown = "this system has no /proc/self/status";
    spawn(|| ()).get()?;
    let before = in_use().ok_or(unknown)?;
    let start = Instant::now();
    let greenlets: Vec<Greenlet<()>> = (0..count).map(|_| spawn(|| sleep(Duration::from_secs(3600)))).collect();
    greenrust::yield_now();
    sleep(Duration::from_millis(1));
    let started = start.elapsed();
    let after = in_use().ok_or(unknown)?;
    let each = |before: usize, after: usize| (after.saturating_sub(before)) as f64 / count as f64 / 1024.0;
    let (memory, tables) = (each(before.0, after.0), each(before.1, after.1));
    println!("{count} sleeping greenlets, started in {:.2} s", started.as_secs_f64());
    println!("each: {memory:.2} KiB + {tables:.2} KiB of page tables = {:.2} KiB", memory + tables);
    let start = Instant::now();
    killall(&greenlets);
    println!("killed in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
