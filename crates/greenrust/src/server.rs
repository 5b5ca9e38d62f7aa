//! A server of TCP connections: a greenlet accepts, and each connection gets one.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::event::Event;
use crate::greenlet::{Greenlet, sleep, spawn};
use crate::pool::{Group, Pool};
use crate::socket::{TcpListener, TcpStream};

/// How long a server waits when it has no descriptors left before it accepts again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the greenlets of connections run.
#[derive(Debug, Clone)]
enum Place {
    Group(Group),
    Pool(Pool),
}

impl Place {
    fn group(&self) -> &Group {
        match self {
            Place::Group(group) => group,
            Place::Pool(pool) => pool.group(),
        }
    }
}

/// A server that calls a function for each connection, in a greenlet of its own.
///
/// ```
/// use greenrust::server::StreamServer;
/// use greenrust::socket::{TcpListener, TcpStream};
/// use std::io::{Read, Write};
/// use std::time::Duration;
///
/// let server = StreamServer::new(TcpListener::bind("127.0.0.1:0")?, |mut stream| {
///     let _ = stream.write_all(b"hello");
/// })?;
/// server.start();
/// let mut answer = String::new();
/// TcpStream::connect(server.local_addr())?.read_to_string(&mut answer)?;
/// assert_eq!(answer, "hello");
/// server.stop(Duration::from_secs(1));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct StreamServer {
    shared: Rc<Shared>,
    address: SocketAddr,
}

struct Shared {
    listener: RefCell<Option<Rc<TcpListener>>>,
    handler: Box<dyn Fn(TcpStream)>,
    place: Place,
    acceptor: RefCell<Option<Greenlet<()>>>,
    stopped: Event,
}

impl std::fmt::Debug for StreamServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "StreamServer({}, {} connections)", self.address, self.connections())
    }
}

impl StreamServer {
    /// Creates a server; it accepts after [`StreamServer::start`].
    ///
    /// # Errors
    ///
    /// The kernel's, when the listener has no address.
    pub fn new(listener: TcpListener, handler: impl Fn(TcpStream) + 'static) -> io::Result<Self> {
        Self::create(listener, Place::Group(Group::new()), Box::new(handler))
    }

    /// Creates a server that handles as many connections at a time as the pool has room for; others wait in the kernel.
    ///
    /// # Errors
    ///
    /// The kernel's, when the listener has no address.
    pub fn with_pool(listener: TcpListener, pool: Pool, handler: impl Fn(TcpStream) + 'static) -> io::Result<Self> {
        Self::create(listener, Place::Pool(pool), Box::new(handler))
    }

    fn create(listener: TcpListener, place: Place, handler: Box<dyn Fn(TcpStream)>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Shared {
            listener: RefCell::new(Some(Rc::new(listener))),
            handler,
            place,
            acceptor: RefCell::new(None),
            stopped: Event::new(),
        };
        Ok(Self { shared: Rc::new(shared), address })
    }

    /// Returns the address at which the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many connections are being handled.
    pub fn connections(&self) -> usize {
        self.shared.place.group().len()
    }

    /// Begins to accept connections; a second time, or after [`StreamServer::stop`], does nothing. Does not switch.
    pub fn start(&self) {
        let listener = self.shared.listener.borrow().clone();
        if let Some(listener) = listener
            && self.shared.acceptor.borrow().is_none()
        {
            let shared = self.shared.clone();
            let acceptor = spawn(move || accept(&shared, &listener));
            *self.shared.acceptor.borrow_mut() = Some(acceptor);
        }
    }

    /// Accepts connections until [`StreamServer::stop`] is called, by another greenlet.
    pub fn serve_forever(&self) {
        self.start();
        self.shared.stopped.wait();
    }

    /// Closes the listener and returns when no connection is left: after `grace`, those that are still there are killed.
    ///
    /// # Switches
    ///
    /// Unless nothing is going on.
    pub fn stop(&self, grace: Duration) {
        self.stop_accepting();
        let group = self.shared.place.group();
        if !group.is_empty() && group.join_timeout(grace).is_err() {
            group.kill();
        }
        self.shared.stopped.set();
    }

    /// Closes the listener; connections go on.
    pub fn stop_accepting(&self) {
        let acceptor = self.shared.acceptor.take();
        if let Some(acceptor) = acceptor {
            acceptor.kill();
        }
        let listener = self.shared.listener.take();
        drop(listener);
    }
}

fn accept(shared: &Rc<Shared>, listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok(stream) => {
                let for_handler = shared.clone();
                let handle = move || (for_handler.handler)(stream);
                match &shared.place {
                    Place::Group(group) => drop(group.spawn(handle)),
                    Place::Pool(pool) => drop(pool.spawn(handle)),
                }
            }
            // Descriptors or memory may be free again in a moment; a busy loop would not help.
            Err(_) => sleep(PAUSE),
        }
    }
}
