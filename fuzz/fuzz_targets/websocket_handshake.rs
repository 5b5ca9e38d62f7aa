//! `scripts/fuzz websocket_handshake`; see [`greenrust_fuzz::websocket_handshake`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::websocket_handshake(input));
