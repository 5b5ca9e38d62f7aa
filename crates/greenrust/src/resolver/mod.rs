//! Names and addresses of hosts, without blocking the thread: `/etc/hosts`, and name servers asked over our own sockets.
//!
//! ```no_run
//! use greenrust::resolver::Resolver;
//!
//! let resolver = Resolver::new();
//! let addresses = resolver.lookup("example.com")?; // other greenlets run meanwhile
//! let stream = greenrust::socket::TcpStream::connect((addresses[0], 80))?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What a look-up does, in order:
//!
//! 1. an address in digits is its own answer;
//! 2. `/etc/hosts` and the name servers of `/etc/resolv.conf`, in the order of `/etc/nsswitch.conf`; these files are read
//!    anew when they have changed;
//! 3. the search list of `resolv.conf`, name by name ([`config`]);
//! 4. for each of those names its IPv4 and IPv6 addresses at the same time ([`exchange`]), from the [`cache`] if it has
//!    them, along aliases that the server has not followed;
//! 5. the addresses in the order in which they are best tried ([`sort`]).
//!
//! `localhost` and the names below it are the loopback addresses, whatever servers say ([RFC 6761, section 6.3]).
//!
//! A resolver belongs to its thread, as everything that waits does; clones share questions and cache. Two greenlets that
//! look up the same name share one question. At most [`exchange::IN_FLIGHT`] questions are on their way at a time, over a
//! few sockets, however many greenlets wait.
//!
//! In the child of a fork a resolver goes on with sockets of its own.
//!
//! [RFC 6761, section 6.3]: https://www.rfc-editor.org/rfc/rfc6761#section-6.3

#![forbid(unsafe_code)]

pub mod cache;
pub mod config;
pub mod exchange;
mod files;
pub mod hosts;
pub mod message;
pub mod sort;
mod stream;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Instant;
use crate::greenlet::{BlockingError, after, blocking};
use crate::hub::Hub;
use crate::wait_queue::WaitError;
use config::{Server, Settings, Source};
use exchange::{Exchange, Failure, Given, Pending};
use files::Files;
use hosts::Hosts;
use message::{Kind, Outcome, Question};
use sort::{Policy, Routes};

/// Which addresses are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Family {
    /// Those of both kinds.
    #[default]
    Any,
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
}

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its canonical name: where aliases lead to.
    pub name: String,
    /// Its other names: those that lead there, or that stand beside it in the hosts file.
    pub aliases: Vec<String>,
    /// Its addresses, in the order of the server or the file.
    pub addresses: Vec<IpAddr>,
}

/// Why a look-up has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// There is no such name, or nothing is known of the address.
    NotFound,
    /// The name exists, but has no address of the wanted kind.
    NoData,
    /// No server has answered, or none could.
    TryAgain,
    /// The answer can't be used.
    Failed,
    /// The wait has ended.
    Wait(WaitError),
}

impl fmt::Display for LookupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LookupError::NotFound => "Name or service not known",
            LookupError::NoData => "No address associated with hostname",
            LookupError::TryAgain => "Temporary failure in name resolution",
            LookupError::Failed => "Non-recoverable failure in name resolution",
            LookupError::Wait(error) => return error.fmt(formatter),
        })
    }
}

impl std::error::Error for LookupError {}

impl From<WaitError> for LookupError {
    fn from(error: WaitError) -> Self {
        LookupError::Wait(error)
    }
}

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> Self {
        let kind = match error {
            LookupError::NotFound | LookupError::NoData => io::ErrorKind::NotFound,
            LookupError::Wait(WaitError::TimedOut) => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl BlockingError for LookupError {
    fn wait_error(&self) -> Option<WaitError> {
        match self {
            LookupError::Wait(error) => Some(*error),
            _ => None,
        }
    }
}

/// How a resolver differs from what the system's files say.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name servers, instead of those of `resolv.conf`.
    pub servers: Option<Vec<Server>>,
    /// How long an attempt waits for one server's answer.
    pub timeout: Option<Duration>,
    /// How often all servers are asked.
    pub attempts: Option<u32>,
    /// How many dots make a name one to try as it is first.
    pub ndots: Option<u32>,
    /// Whether to ask over TCP only.
    pub stream_only: bool,
    /// Whether to ask the first server alone.
    pub first_server_only: bool,
    /// Whether to leave the search domains out.
    pub no_search: bool,
    /// Whether to ask servers for what they know themselves alone.
    pub no_recursion: bool,
    /// Whether to take what a datagram had room for as the whole answer.
    pub ignore_truncation: bool,
    /// How long a whole look-up may take; it then fails with [`LookupError::TryAgain`].
    pub lifetime: Option<Duration>,
    /// Where the file of that name is.
    pub hosts: PathBuf,
    /// Where the file of that name is.
    pub resolv_conf: PathBuf,
    /// Where the file of that name is.
    pub nsswitch_conf: PathBuf,
    /// Where the file of that name is.
    pub gai_conf: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: None,
            timeout: None,
            attempts: None,
            ndots: None,
            stream_only: false,
            first_server_only: false,
            no_search: false,
            no_recursion: false,
            ignore_truncation: false,
            lifetime: None,
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            nsswitch_conf: "/etc/nsswitch.conf".into(),
            gai_conf: "/etc/gai.conf".into(),
        }
    }
}

struct Inner {
    options: Options,
    files: RefCell<Files>,
    routes: RefCell<Routes>,
    exchange: Exchange,
}

/// Looks up names and addresses.
#[derive(Clone)]
pub struct Resolver {
    inner: Rc<Inner>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (questions, sockets) = self.load();
        write!(formatter, "Resolver({questions} questions, {sockets} sockets)")
    }
}

/// An answer for one name and kind, aliases followed.
struct Found {
    name: String,
    aliases: Vec<String>,
    values: Outcome,
}

impl Resolver {
    /// Creates a resolver that does what the system's files say.
    pub fn new() -> Self {
        Self::with_options(Options::default())
    }

    /// Creates a resolver with settings of its own.
    pub fn with_options(options: Options) -> Self {
        let files = RefCell::new(Files::new(&options));
        let inner = Inner { options, files, routes: RefCell::default(), exchange: Exchange::for_this_hub() };
        Self { inner: Rc::new(inner) }
    }

    /// Returns the addresses of a host, those that are best tried first in front.
    ///
    /// A name in other letters than ASCII is converted as IDNA2008 says; an address in digits is returned as it is.
    ///
    /// # Errors
    ///
    /// [`LookupError`]; of [`LookupError::Wait`] nothing.
    ///
    /// # Switches
    ///
    /// Unless the answer is in a file or known already.
    ///
    /// # Cancellation
    ///
    /// A kill or a timeout ends the wait; the question is not taken back, and its answer kept for the next who asks.
    pub fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let mut addresses = self.lookup_host(host, Family::Any)?.addresses;
        self.sort(&mut addresses);
        Ok(addresses)
    }

    /// Returns what is known of a host, with its addresses in the server's order. See [`Resolver::lookup`].
    ///
    /// # Errors
    ///
    /// As [`Resolver::lookup`].
    pub fn lookup_host(&self, host: &str, family: Family) -> Result<Host, LookupError> {
        let deadline = self.deadline();
        settle(blocking(|| self.lookup_core(host, family, deadline)))
    }

    /// Returns the name of a host by its address. See [`Resolver::lookup`].
    ///
    /// # Errors
    ///
    /// As [`Resolver::lookup`].
    pub fn reverse(&self, address: IpAddr) -> Result<Host, LookupError> {
        let deadline = self.deadline();
        settle(blocking(|| self.reverse_core(address, deadline)))
    }

    /// Returns when a look-up that begins now has to be over: [`Options::lifetime`].
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.options.lifetime.map(after)
    }

    /// Looks up a name; a core, see [`Resolver::lookup_host`].
    ///
    /// # Errors
    ///
    /// [`LookupError`].
    pub fn lookup_core(&self, host: &str, family: Family, deadline: Option<Instant>) -> Result<Host, LookupError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return match (family, address) {
                (Family::V4, IpAddr::V6(_)) | (Family::V6, IpAddr::V4(_)) => Err(LookupError::NoData),
                _ => Ok(Host { name: host.to_owned(), aliases: Vec::new(), addresses: vec![address] }),
            };
        }
        let ascii = if host.is_ascii() { host.to_owned() } else { to_ascii(host)? };
        let (hosts, sources, settings) = self.read_files();
        let mut error = LookupError::NotFound;
        for source in sources.iter() {
            match source {
                Source::Files => {
                    if let Some(host) = hosts.by_name(&ascii, family) {
                        return Ok(host);
                    }
                }
                Source::Dns => {
                    if is_localhost(&ascii) {
                        return Ok(localhost(&ascii, family));
                    }
                    match self.ask_by_name(&ascii, family, &settings, deadline) {
                        Err(other) if !matches!(other, LookupError::Wait(_)) => error = other,
                        outcome => return outcome,
                    }
                }
            }
        }
        Err(error)
    }

    /// Looks up the name of an address; a core, see [`Resolver::reverse`].
    ///
    /// # Errors
    ///
    /// [`LookupError`].
    pub fn reverse_core(&self, address: IpAddr, deadline: Option<Instant>) -> Result<Host, LookupError> {
        let (hosts, sources, settings) = self.read_files();
        let mut error = LookupError::NotFound;
        for source in sources.iter() {
            match source {
                Source::Files => {
                    if let Some(host) = hosts.by_address(address) {
                        return Ok(host);
                    }
                }
                Source::Dns => {
                    let asked = match address {
                        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
                        IpAddr::V4(_) => address,
                    };
                    let question = Question::reverse(asked);
                    let pending = self.inner.exchange.ask(question, &settings);
                    match self.follow(&pending, Kind::Ptr, &settings, deadline) {
                        Ok(Found { values: Outcome::Names(names), .. }) => {
                            let mut names = names.into_iter();
                            let name = names.next().unwrap_or_default();
                            return Ok(Host { name, aliases: names.collect(), addresses: vec![address] });
                        }
                        Ok(_) => error = LookupError::NoData,
                        Err(other @ LookupError::Wait(_)) => return Err(other),
                        Err(other) => error = other,
                    }
                }
            }
        }
        Err(error)
    }

    /// Brings addresses into the order in which they are best tried. Does not switch.
    pub fn sort(&self, addresses: &mut [IpAddr]) {
        if addresses.len() < 2 {
            return;
        }
        let policy = self.inner.files.borrow_mut().policy.get(Policy::parse).0;
        self.inner.routes.borrow_mut().sort(addresses, &policy, Hub::current().clock().now());
    }

    /// Returns the addresses of the name servers that would be asked now.
    pub fn servers(&self) -> Vec<Server> {
        self.read_files().2.servers.clone()
    }

    /// Returns how many questions are waiting or on their way, and how many sockets are open for them.
    pub fn load(&self) -> (usize, usize) {
        self.inner.exchange.load()
    }

    /// Forgets all answers that it has kept.
    pub fn forget(&self) {
        self.inner.exchange.forget();
    }

    /// Asks the questions that wait anew if this process is the child of a fork; else the first event does it. Does not
    /// switch.
    pub fn after_fork(&self) {
        self.inner.exchange.after_fork();
    }

    /// Closes the sockets and forgets all answers; who waits gets [`LookupError::TryAgain`]. It can be used again.
    pub fn close(&self) {
        self.inner.exchange.close();
    }

    // -- files ---------------------------------------------------------------------------------------------------------

    fn read_files(&self) -> (Rc<Hosts>, Rc<Vec<Source>>, Rc<Settings>) {
        let mut files = self.inner.files.borrow_mut();
        let hosts = files.hosts.get(Hosts::parse).0;
        let sources = files.sources.get(config::parse_sources).0;
        let (settings, has_changed) = files.settings.get(|text| self.settings(text));
        if has_changed {
            // What other servers said may not hold for these.
            self.inner.exchange.forget();
        }
        (hosts, sources, settings)
    }

    fn settings(&self, text: &str) -> Settings {
        let uname = rustix::system::uname();
        let environment = |name: &str| std::env::var(name).ok();
        let mut settings = Settings::parse(text, &uname.nodename().to_string_lossy(), environment);
        let options = &self.inner.options;
        if let Some(servers) = &options.servers {
            settings.servers.clone_from(servers);
        }
        settings.timeout = options.timeout.unwrap_or(settings.timeout);
        settings.attempts = options.attempts.unwrap_or(settings.attempts).max(1);
        settings.ndots = options.ndots.unwrap_or(settings.ndots);
        settings.stream_only |= options.stream_only;
        settings.ignore_truncation |= options.ignore_truncation;
        settings.recursive &= !options.no_recursion;
        if options.first_server_only {
            settings.servers.truncate(1);
        }
        if options.no_search {
            settings.search.clear();
        }
        settings
    }

    // -- questions -----------------------------------------------------------------------------------------------------

    /// Asks for a name as it is and with the search domains, in the order of `ndots`.
    fn ask_by_name(
        &self,
        name: &str,
        family: Family,
        settings: &Rc<Settings>,
        deadline: Option<Instant>,
    ) -> Result<Host, LookupError> {
        // As glibc: no server is asked for what is no host name, nor for the IPv4 address of a number.
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !name.ends_with('.');
        if !message::is_host_name(name) || is_number && family == Family::V4 {
            return Err(LookupError::NotFound);
        }
        let mut first = None;
        let (mut has_no_data, mut was_refused) = (false, false);
        let mut last = LookupError::NotFound;
        for candidate in settings.candidates(name) {
            let error = match self.ask_candidate(&candidate, family, settings, deadline) {
                Ok(host) => return Ok(host),
                Err(CandidateError { error, is_final: true }) => return Err(error),
                Err(CandidateError { error, .. }) => error,
            };
            let is_as_it_is = candidate.len() <= name.len();
            if first.is_none() {
                first = Some((is_as_it_is, error));
            }
            if !is_as_it_is {
                has_no_data |= error == LookupError::NoData;
                was_refused |= error == LookupError::TryAgain;
            }
            last = error;
        }
        // As glibc decides: what was said of a name that was tried as it is first says most.
        Err(match first {
            Some((true, error)) => error,
            _ if has_no_data => LookupError::NoData,
            _ if was_refused => LookupError::TryAgain,
            _ => last,
        })
    }

    /// Asks for the addresses of one name.
    fn ask_candidate(
        &self,
        name: &str,
        family: Family,
        settings: &Rc<Settings>,
        deadline: Option<Instant>,
    ) -> Result<Host, CandidateError> {
        let kinds: &[Kind] = match family {
            Family::V4 => &[Kind::A],
            Family::V6 if settings.no_aaaa => return Err(LookupError::NoData.into()),
            Family::V6 => &[Kind::Aaaa],
            Family::Any if settings.no_aaaa => &[Kind::A],
            Family::Any => &[Kind::A, Kind::Aaaa],
        };
        let ask = |kind| -> Result<Rc<Pending>, CandidateError> {
            let question = Question::new(name, kind).ok_or(LookupError::NotFound)?;
            Ok(self.inner.exchange.ask(question, settings))
        };
        // All at once, unless the server can't take it.
        let mut asked = Vec::with_capacity(2);
        if !settings.single_request {
            for &kind in kinds {
                asked.push(ask(kind)?);
            }
        }
        let mut host: Option<Host> = None;
        let mut worst: Option<CandidateError> = None;
        for (place, &kind) in kinds.iter().enumerate() {
            let pending = match asked.get(place) {
                Some(pending) => pending.clone(),
                None => ask(kind)?,
            };
            match self.follow_candidate(&pending, kind, settings, deadline) {
                Ok(Found { name: owner, aliases, values: Outcome::Addresses(addresses) }) => match &mut host {
                    Some(host) => host.addresses.extend(addresses),
                    None => host = Some(Host { name: owner, aliases, addresses }),
                },
                Ok(_) => worst = worst.max(Some(LookupError::NoData.into())),
                Err(error) if matches!(error.error, LookupError::Wait(_)) => return Err(error),
                Err(error) => worst = worst.max(Some(error)),
            }
        }
        match (host, worst) {
            (Some(mut host), _) => {
                // In the letters of who asks now: the answer may have been another's.
                for text in host.aliases.iter_mut().chain([&mut host.name]) {
                    if text.eq_ignore_ascii_case(name) {
                        name.clone_into(text);
                    }
                }
                Ok(host)
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(LookupError::NoData.into()),
        }
    }

    fn follow_candidate(
        &self,
        pending: &Rc<Pending>,
        kind: Kind,
        settings: &Rc<Settings>,
        deadline: Option<Instant>,
    ) -> Result<Found, CandidateError> {
        match pending.wait(deadline) {
            Err(error) => Err(CandidateError { error: error.into(), is_final: true }),
            // The next name would wait for the same silent servers.
            Ok(Err(Failure::Silent)) => Err(CandidateError { error: LookupError::TryAgain, is_final: true }),
            Ok(outcome) => Ok(self.follow_given(outcome, kind, settings, deadline)?),
        }
    }

    fn follow(
        &self,
        pending: &Rc<Pending>,
        kind: Kind,
        settings: &Rc<Settings>,
        deadline: Option<Instant>,
    ) -> Result<Found, LookupError> {
        let outcome = pending.wait(deadline)?;
        self.follow_given(outcome, kind, settings, deadline)
    }

    /// Goes on to the target where a server names an alias and nothing else.
    fn follow_given(
        &self,
        mut outcome: Result<Given, Failure>,
        kind: Kind,
        settings: &Rc<Settings>,
        deadline: Option<Instant>,
    ) -> Result<Found, LookupError> {
        let mut aliases: Vec<String> = Vec::new();
        for _ in 0..message::LONGEST_CHAIN {
            let (answer, hits) = outcome.map_err(|failure| match failure {
                Failure::Refused | Failure::Silent => LookupError::TryAgain,
                Failure::BadName => LookupError::Failed,
            })?;
            aliases.extend(answer.aliases.iter().cloned());
            match &answer.outcome {
                Outcome::NoName => return Err(LookupError::NotFound),
                Outcome::NoData => return Err(LookupError::NoData),
                Outcome::Alias => {
                    let question = Question::new(&answer.name, kind).ok_or(LookupError::Failed)?;
                    outcome = self.inner.exchange.ask(question, settings).wait(deadline)?;
                }
                values => {
                    let mut values = values.clone();
                    if let Outcome::Addresses(addresses) = &mut values {
                        // Who asks later gets another one first, as from the server itself.
                        let shift = hits % addresses.len();
                        addresses.rotate_left(shift);
                    }
                    return Ok(Found { name: answer.name.clone(), aliases, values });
                }
            }
        }
        Err(LookupError::Failed)
    }
}

/// Why one of the names of the search list gave nothing, and whether the others need not be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CandidateError {
    error: LookupError,
    is_final: bool,
}

impl From<LookupError> for CandidateError {
    fn from(error: LookupError) -> Self {
        Self { error, is_final: false }
    }
}

impl CandidateError {
    /// What of two failures is told: a server's silence before what it said.
    fn rank(&self) -> (bool, u8) {
        let rank = match self.error {
            LookupError::NotFound => 0,
            LookupError::NoData => 1,
            LookupError::Failed => 2,
            LookupError::TryAgain => 3,
            LookupError::Wait(_) => 4,
        };
        (self.is_final, rank)
    }
}

impl PartialOrd for CandidateError {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CandidateError {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// A deadline that passed is a server that did not answer in time.
fn settle<T>(outcome: Result<T, LookupError>) -> Result<T, LookupError> {
    outcome.map_err(|error| match error {
        LookupError::Wait(WaitError::TimedOut) => LookupError::TryAgain,
        other => other,
    })
}

fn to_ascii(host: &str) -> Result<String, LookupError> {
    let name = hickory_proto::rr::Name::from_utf8(host).map_err(|_| LookupError::NotFound)?;
    Ok(name.to_ascii())
}

/// Returns the domain in this machine's own name, if it has one.
pub fn own_domain() -> Option<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split_once('.').map(|(_, domain)| domain.to_owned())
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

fn localhost(name: &str, family: Family) -> Host {
    let addresses = match family {
        Family::Any => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        Family::V4 => vec![Ipv4Addr::LOCALHOST.into()],
        Family::V6 => vec![Ipv6Addr::LOCALHOST.into()],
    };
    Host { name: name.to_owned(), aliases: Vec::new(), addresses }
}

#[cfg(test)]
mod tests;
