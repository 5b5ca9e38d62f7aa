//! `scripts/fuzz http_proxies`; see [`greenrust_fuzz::proxies`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::proxies(input));
