//! `scripts/fuzz dns_reply`; see [`greenrust_fuzz::dns_reply`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| greenrust_fuzz::dns_reply(input));
