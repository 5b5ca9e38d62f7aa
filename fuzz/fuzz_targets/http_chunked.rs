//! `scripts/fuzz http_chunked`; see [`greenrust_fuzz::chunked_body`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::chunked_body(input));
