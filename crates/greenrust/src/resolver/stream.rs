//! A TCP connection to a name server for one question: a length of two bytes before each message ([RFC 1035, 4.2.2]).
//!
//! [RFC 1035, 4.2.2]: https://www.rfc-editor.org/rfc/rfc1035#section-4.2.2

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// A TCP connection to a server.
pub struct Stream {
    socket: OwnedFd,
    /// What is to be written still, then what has been read.
    bytes: Vec<u8>,
    written: usize,
    is_connected: bool,
    is_writing: bool,
}

impl Stream {
    /// Begins to connect to a server that is to be sent these bytes.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open(server: SocketAddr, question: &[u8]) -> Result<Self, Errno> {
        let socket = open_socket(server, SocketType::STREAM)?;
        match rustix::net::connect(&socket, &server) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let mut bytes = (question.len() as u16).to_be_bytes().to_vec();
        bytes.extend(question);
        Ok(Self { socket, bytes, written: 0, is_connected: false, is_writing: true })
    }

    /// Returns the socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Says whether it waits for room to write; else it waits for bytes to read.
    pub fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Writes the question, then reads the answer, as far as the kernel lets. Returns the answer when it is
    /// whole.
    ///
    /// # Errors
    ///
    /// The kernel's, and ECONNRESET for a stream that ends too early.
    pub fn advance(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        if !self.is_connected {
            sockopt::socket_error(&self.socket)??;
            self.is_connected = true;
        }
        while self.is_writing {
            match rustix::net::send(&self.socket, &self.bytes[self.written..], SendFlags::NOSIGNAL) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error),
            }
            if self.written == self.bytes.len() {
                self.is_writing = false;
                self.bytes.clear();
                return Ok(None);
            }
        }
        loop {
            let wanted = match self.bytes[..] {
                [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => 2,
            };
            if self.bytes.len() == wanted && wanted > 2 {
                return Ok(Some(self.bytes.split_off(2)));
            }
            let have = self.bytes.len();
            self.bytes.resize(wanted, 0);
            let received = rustix::net::recv(&self.socket, &mut self.bytes[have..], RecvFlags::empty());
            self.bytes.truncate(have + received.map_or(0, |(_, count)| count));
            match received {
                // A length of zero is no message.
                Ok((_, 0)) => return Err(Errno::CONNRESET),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opens a non-blocking socket of the server's address family.
pub fn open_socket(server: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}
