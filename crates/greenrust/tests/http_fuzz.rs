//! The fuzz targets of `fuzz/`, on a stable compiler: bytes made by mutating good requests and bodies.
//!
//! Each run makes the same inputs; `GREENRUST_FUZZ_ROUNDS` says how many (200,000 by default), `GREENRUST_FUZZ_SEED` makes
//! it others. An input that fails is shown.

#![forbid(unsafe_code)]

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Vigna's xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    fn of<'a>(&mut self, pieces: &[&'a [u8]]) -> &'a [u8] {
        pieces[self.below(pieces.len())]
    }
}

const SEEDS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x:80/a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;a=\"b\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"4\r\nbody\r\n1;x\r\n!\r\n000\r\n\r\n",
];

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"-1",
    b"+5",
    b"0x5",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"Content-Length: 3\r\n",
    b"content-length:4\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Host: y\r\n",
    b"Connection: close, x\r\n",
    b" folded\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"GET ",
    b"HEAD ",
    b"CONNECT x:1 ",
    b"*",
    b"chunked",
    b"close",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"\"",
    b"%2e%2e/",
];

fn mutate(random: &mut Random, input: &mut Vec<u8>) {
    let place = random.below(input.len() + 1);
    let end = (place + random.below(12)).min(input.len());
    match random.below(8) {
        0 => drop(input.drain(place..end)),
        1 => drop(input.splice(place..place, random.of(WORDS).iter().copied())),
        2 => drop(input.splice(place..end, random.of(WORDS).iter().copied())),
        3 => {
            let copied = input[place..end].to_vec();
            let target = random.below(input.len() + 1);
            input.splice(target..target, copied);
        }
        4 if place < input.len() => input[place] = random.next() as u8,
        5 if place < input.len() => input[place] ^= 1 << random.below(8),
        6 => input.extend_from_slice(random.of(SEEDS)),
        _ => {
            let byte = b"a0\r\n \"\x80"[random.below(7)];
            let count = [1, 2, 200, 1100][random.below(4)];
            input.splice(place..place, std::iter::repeat_n(byte, count));
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

fn drive(name: &str, target: fn(&[u8])) {
    let mut random = Random(setting("GREENRUST_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15) | 1);
    for round in 0..setting("GREENRUST_FUZZ_ROUNDS", 200_000) {
        // The first two bytes say how the rest is split, and how long it may be.
        let mut input = vec![random.next() as u8 % 40, random.next() as u8];
        input.extend_from_slice(random.of(SEEDS));
        for _ in 0..random.below(6) {
            mutate(&mut random, &mut input);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            eprintln!("{name}, round {round}: {:?}", String::from_utf8_lossy(&input));
            eprintln!("bytes: {input:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn request_heads_have_one_reading() {
    drive("request_head", targets::request_head);
}

#[test]
fn chunked_bodies_have_one_reading() {
    drive("chunked_body", targets::chunked_body);
}

#[test]
fn connections_have_one_reading() {
    drive("connection", targets::connection);
}
