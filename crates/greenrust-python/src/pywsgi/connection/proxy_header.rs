//! The PROXY protocol's header, with which a connection may begin.

use std::net::SocketAddr;

use greenrust::http::{ProxyHeader, parse_proxy_header};
use greenrust::hub::{Alarm, Direction};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::outcome;
use crate::socket::{Deadline, Patience, Socket};

/// Reads the PROXY protocol's header, not a byte more, from a socket of ours. Returns what it says of the client, or None
/// if the connection must be closed. Switches.
pub fn read_proxy_header(socket: &Bound<'_, PyAny>, patience: Patience) -> PyResult<Option<Option<SocketAddr>>> {
    let py = socket.py();
    let Some(own) = Socket::from_object(socket) else { return Ok(None) };
    let alarm = Alarm::new();
    let mut deadline = Deadline::with_patience(patience, &alarm);
    let mut header = Vec::new();
    loop {
        let wanted = match parse_proxy_header(&header) {
            Ok(ProxyHeader::Complete { source, .. }) => return Ok(Some(source)),
            Ok(ProxyHeader::Incomplete(wanted)) => wanted,
            Err(_) => return Ok(None),
        };
        let read = own.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
            header.reserve(wanted);
            let spare = header.spare_capacity_mut();
            // SAFETY: the kernel writes at most `wanted` bytes, for which room was made.
            let count = outcome(unsafe { libc::recv(descriptor, spare.as_mut_ptr().cast(), wanted, 0) })?;
            let filled = header.len() + count;
            // SAFETY: the kernel has initialized that many bytes behind the old length.
            unsafe { header.set_len(filled) };
            Ok(count)
        });
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.is_instance_of::<PyOSError>(py) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
