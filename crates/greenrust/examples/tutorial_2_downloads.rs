//! Ordinary blocking code, run in greenlets: its downloads overlap.
//!
//! Usage: tutorial_2_downloads URL ...    (http only)

use std::io::{self, Read, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use greenrust::socket::TcpStream;
use greenrust::{joinall, spawn};

/// Downloads `url`, with calls that look as if they blocked the thread.
fn fetch(url: &str) -> io::Result<Vec<u8>> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, format!("{url}: {reason}"));
    let address = url.strip_prefix("http://").ok_or_else(|| invalid("not an http URL"))?;
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let port = if host.contains(':') { "" } else { ":80" };

    println!("{} {url} asked", time_of_day());
    // The crate's own TcpStream: that of std::net would stop all greenlets, not just this one.
    let mut stream = TcpStream::connect(format!("{host}{port}"))?;
    // HTTP/1.0, since there the answer simply ends where the connection does.
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;

    // An empty line separates the head of the answer from its body.
    let end_of_head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(|| invalid("no answer"))?;
    let body = answer.split_off(end_of_head + 4);
    println!("{} {url} sent {} bytes", time_of_day(), body.len());
    Ok(body)
}

/// The time in UTC, as the standard library knows no time zones.
fn time_of_day() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut urls: Vec<String> = std::env::args().skip(1).collect();
    if urls.is_empty() {
        urls = vec!["http://example.com/".into(), "http://example.org/".into(), "http://example.net/".into()];
    }

    println!("One after another:");
    let start = Instant::now();
    for url in &urls {
        fetch(url)?;
    }
    println!("One after another took {:.2} s\n", start.elapsed().as_secs_f64());

    println!("All at once:");
    let start = Instant::now();
    let jobs: Vec<_> = urls.into_iter().map(|url| spawn(move || fetch(&url))).collect();
    joinall(&jobs);
    for job in jobs {
        // Two things may have failed: the greenlet (it panicked or was killed), and in it the download.
        job.get()??;
    }
    println!("All at once took {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
