//! A client's bytes after the handshake: no input panics, nothing grows past its limit, and the events do not depend on
//! how the bytes are split.
//!
//! `scripts/fuzz websocket`

#![no_main]

use greenrust::websocket::{Connection, DeflateParameters, Event, Options};
use libfuzzer_sys::fuzz_target;

const MAX_MESSAGE: usize = 10_000;

/// Returns the events, and whether the client was found to be at fault.
///
/// `step` is how many bytes each read brings.
fn serve(bytes: &[u8], step: usize, deflate: Option<DeflateParameters>) -> (Vec<String>, bool) {
    let options = Options {
        max_message_size: MAX_MESSAGE,
        ..Options::default()
    };
    let mut connection = Connection::new(options, deflate);
    let mut events = Vec::new();
    let mut output = Vec::new();
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + step).min(bytes.len());
        loop {
            let mut used = 0;
            let received = connection.receive(&bytes[start..end], &mut used, &mut output);
            start += used;
            match received {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let size = match &event {
                        Event::Text(text) => text.len(),
                        Event::Binary(data) => data.len(),
                        Event::Ping(data) | Event::Pong(data) => {
                            assert!(data.len() <= 125);
                            data.len()
                        }
                        Event::Close(_, reason) => reason.len(),
                    };
                    assert!(size <= MAX_MESSAGE);
                    events.push(format!("{event:?}"));
                }
                Err(error) => {
                    // The answer to the fault is a close frame, sent once, and nothing is taken after it.
                    assert!(output.ends_with(error.reason().as_bytes()) || connection.is_closing());
                    return (events, true);
                }
            }
        }
    }
    // No event is answered by more than it took.
    assert!(output.len() <= bytes.len() + 8);
    (events, false)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (step, compresses, bytes) = input;
    let deflate = compresses.then_some(DeflateParameters {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: 12,
        client_max_window_bits: 12,
    });
    let whole = serve(bytes, usize::MAX / 2, deflate);
    assert_eq!(whole, serve(bytes, usize::from(step).max(1), deflate));
});
