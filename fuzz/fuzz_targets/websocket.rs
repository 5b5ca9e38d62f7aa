//! `scripts/fuzz websocket`; see [`greenrust_fuzz::websocket`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::websocket(input));
