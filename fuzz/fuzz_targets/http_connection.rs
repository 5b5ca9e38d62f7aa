//! `scripts/fuzz http_connection`; see [`greenrust_fuzz::connection`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::connection(input));
