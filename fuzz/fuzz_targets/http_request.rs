//! `scripts/fuzz http_request`; see [`greenrust_fuzz::request_head`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::request_head(input));
