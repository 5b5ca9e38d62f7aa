//! The native part of `gevent.resolver`: the runtime's look-ups with the arguments, results and errors of `socket`'s.
//!
//! What needs no look-up is left to CPython's own functions, told to take addresses in digits only: arguments of wrong
//! types, services, socket types, scopes. So these are read, and refused, as the system does it. Host names never reach
//! those functions, as they would block the thread.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use greenrust::hub::Hub;
use greenrust::resolver::config::Server;
use greenrust::resolver::{Family, Host, LookupError, Options, Resolver};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyList, PyString};

use crate::exceptions;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyResolver>()
}

/// Returns `_socket`, which nobody patches.
fn system(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(MODULE.get_or_try_init(py, || py.import("_socket").map(Bound::unbind))?.bind(py))
}

// -- errors ---------------------------------------------------------------------------------------------------------

fn error(py: Python<'_>, class: &str, number: i32, message: &str) -> PyErr {
    match system(py).and_then(|module| module.getattr(class)).and_then(|class| class.call1((number, message))) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// What `getaddrinfo` raises, with the system's numbers and texts.
fn gaierror(py: Python<'_>, failure: LookupError) -> PyErr {
    let number = match failure {
        LookupError::NotFound => libc::EAI_NONAME,
        LookupError::NoData => libc::EAI_NODATA,
        LookupError::Failed => libc::EAI_FAIL,
        LookupError::TryAgain | LookupError::Wait(_) => return gaierror_again(py),
    };
    error(py, "gaierror", number, &failure.to_string())
}

fn gaierror_again(py: Python<'_>) -> PyErr {
    error(py, "gaierror", libc::EAI_AGAIN, &LookupError::TryAgain.to_string())
}

/// What `gethostbyaddr` raises, with the numbers and texts of `h_errno`.
fn herror(py: Python<'_>, failure: LookupError) -> PyErr {
    let (number, message) = match failure {
        LookupError::NotFound => (1, "Unknown host"),
        LookupError::TryAgain | LookupError::Wait(_) => (2, "Host name lookup failure"),
        LookupError::Failed => (3, "Unknown server error"),
        LookupError::NoData => (4, "No address associated with name"),
    };
    error(py, "herror", number, message)
}

fn errno(error: &PyErr, py: Python<'_>) -> Option<i32> {
    error.value(py).getattr(intern!(py, "errno")).ok()?.extract().ok()
}

fn is_gaierror(py: Python<'_>, error: &PyErr, number: i32) -> PyResult<bool> {
    let class = system(py)?.getattr(intern!(py, "gaierror"))?;
    Ok(error.is_instance(py, &class) && errno(error, py) == Some(number))
}

// -- arguments ------------------------------------------------------------------------------------------------------

/// Returns a host name as ASCII text; None for what is no name in the eyes of CPython, whose function is to refuse it.
///
/// # Errors
///
/// UnicodeError, for a text that IDNA can't encode.
fn host_name(host: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if let Ok(text) = host.cast::<PyString>() {
        if let Ok(text) = text.to_str()
            && text.is_ascii()
            && has_good_labels(text)
        {
            return Ok(Some(text.to_owned()));
        }
        let encoded = text.call_method1(intern!(text.py(), "encode"), (intern!(text.py(), "idna"),))?;
        return Ok(Some(text_of(encoded.cast::<PyBytes>()?.as_bytes())));
    }
    if let Ok(bytes) = host.cast::<PyBytes>() {
        return Ok(Some(text_of(bytes.as_bytes())));
    }
    if let Ok(bytes) = host.cast::<PyByteArray>() {
        return Ok(Some(text_of(&bytes.to_vec())));
    }
    Ok(None)
}

/// Bytes beyond ASCII are in no host name: what stands for them is in none either.
fn text_of(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '\x7f' }).collect()
}

/// Returns a host name for a function that takes no zero byte in one; None for what that function is to refuse.
fn host_name_without_zero(host: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    Ok(host_name(host)?.filter(|name| !name.contains('\0')))
}

/// Says whether Python's codec `idna` leaves an ASCII text as it is.
fn has_good_labels(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.split('.').all(|label| (1..64).contains(&label.len()))
}

/// Says whether a text may be an address in digits: only then is CPython's function asked whether it is one.
fn looks_numeric(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit()) || name.contains(':')
}

fn family(number: i32) -> Family {
    match number {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => Family::Any,
    }
}

/// A socket type, a protocol and a port: what each address is combined with.
type Endpoint = (i32, i32, u16);

/// Returns what `getaddrinfo` combines each address with, or the error that the arguments deserve.
fn endpoints(port: &Bound<'_, PyAny>, family: i32, kind: i32, protocol: i32, flags: i32) -> PyResult<Vec<Endpoint>> {
    let py = port.py();
    const PLAIN: i32 = libc::AI_PASSIVE | libc::AI_CANONNAME | libc::AI_V4MAPPED | libc::AI_ALL | libc::AI_ADDRCONFIG;
    // The usual case needs no call: a connection, or datagrams, to a port that is a number.
    if flags & !PLAIN == 0
        && matches!(family, libc::AF_UNSPEC | libc::AF_INET | libc::AF_INET6)
        && let Ok(number) = port.cast_exact::<PyInt>()
        && let Ok(port) = number.extract::<u16>()
    {
        match (kind, protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => return Ok(vec![(kind, libc::IPPROTO_TCP, port)]),
            (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => return Ok(vec![(kind, libc::IPPROTO_UDP, port)]),
            _ => {}
        }
    }
    let literal = if family == libc::AF_INET6 { "::" } else { "0.0.0.0" };
    let flags = flags & !(libc::AI_CANONNAME | libc::AI_ADDRCONFIG) | libc::AI_NUMERICHOST;
    let found = getaddrinfo(literal.into_pyobject(py)?.as_any(), port, family, kind, protocol, flags)?;
    found
        .iter()
        .map(|entry| {
            let address = entry.get_item(4)?;
            Ok((entry.get_item(1)?.extract()?, entry.get_item(2)?.extract()?, address.get_item(1)?.extract()?))
        })
        .collect()
}

/// CPython's own function: for addresses in digits.
fn getaddrinfo<'py>(
    host: &Bound<'py, PyAny>,
    port: &Bound<'py, PyAny>,
    family: i32,
    kind: i32,
    protocol: i32,
    flags: i32,
) -> PyResult<Bound<'py, PyList>> {
    let py = host.py();
    let arguments = (host, port, family, kind, protocol, flags);
    Ok(system(py)?.call_method1(intern!(py, "getaddrinfo"), arguments)?.cast_into()?)
}

/// Returns the address that a text in digits stands for, without its scope; None if it is none.
///
/// # Errors
///
/// gaierror for an address of another family.
fn numeric_address(py: Python<'_>, name: &str, family: i32) -> PyResult<Option<IpAddr>> {
    if !looks_numeric(name) {
        return Ok(None);
    }
    let none = py.None();
    let host = PyBytes::new(py, name.as_bytes());
    match getaddrinfo(host.as_any(), none.bind(py), family, libc::SOCK_DGRAM, 0, libc::AI_NUMERICHOST) {
        Ok(found) => {
            let text: String = found.get_item(0)?.get_item(4)?.get_item(0)?.extract()?;
            let text = text.split('%').next().unwrap_or_default();
            Ok(Some(text.parse().map_err(|_| exceptions::internal("the system gave an address that is none"))?))
        }
        Err(error) if is_gaierror(py, &error, libc::EAI_NONAME)? => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether the machine has an address of the family, besides the loopback one.
fn is_configured(py: Python<'_>, family: i32) -> PyResult<bool> {
    let literal = if family == libc::AF_INET6 { "::" } else { "0.0.0.0" };
    let flags = libc::AI_NUMERICHOST | libc::AI_ADDRCONFIG;
    let none = py.None();
    let host = literal.into_pyobject(py)?;
    match getaddrinfo(host.as_any(), none.bind(py), family, libc::SOCK_STREAM, 0, flags) {
        Ok(_) => Ok(true),
        Err(error) if is_gaierror(py, &error, libc::EAI_NONAME)? => Ok(false),
        Err(error) => Err(error),
    }
}

fn seconds(name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    value
        .map(|value| match Duration::try_from_secs_f64(value) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            _ => Err(PyValueError::new_err(format!("{name} must be a number of seconds above 0, not {value}"))),
        })
        .transpose()
}

// -- the class ------------------------------------------------------------------------------------------------------

struct Fields {
    resolver: Resolver,
    /// The hub of its thread; compared, never followed.
    hub: *const Hub,
}

/// NativeResolver(servers=None, udp_port=None, tcp_port=None, timeout=None, tries=None, ndots=None, lifetime=None,
/// use_tcp=False, first_server_only=False, search=True, recursive=True, ignore_truncation=False, hosts="/etc/hosts",
/// resolv_conf="/etc/resolv.conf")
///
/// Look-ups by the runtime, for the calling thread's hub. None leaves a setting to resolv.conf.
///
/// *servers*: addresses of name servers, each with a port if need be ("192.0.2.1:5353"); *udp_port*, *tcp_port*: the
/// ports of those without (53); *timeout*: seconds that one server has to answer; *tries*: how often all are asked;
/// *ndots*: how many dots make a name one that is tried without a search domain first; *lifetime*: seconds for a
/// look-up as a whole; *use_tcp*: no datagrams; *first_server_only*: the others are not asked; *search*: whether search
/// domains are tried; *recursive*: whether servers ask others; *ignore_truncation*: what a datagram had room for is the
/// whole answer; *hosts* and *resolv_conf*: paths of these files.
///
/// Raises ValueError for a server that is no address, and for numbers out of range.
#[pyclass(name = "NativeResolver", module = "gevent._greenrust", frozen)]
pub struct PyResolver {
    fields: Gil<Fields>,
}

impl PyResolver {
    /// Returns the runtime's resolver, after making sure that its own thread is calling.
    fn resolver(&self, py: Python<'_>) -> PyResult<Resolver> {
        let hub = py_hub::ensure(py)?;
        if !std::ptr::eq(hub, self.fields.hub) {
            return Err(exceptions::invalid_thread_use(py, "a resolver belongs to the hub of the thread that made it"));
        }
        Ok(self.fields.resolver.clone())
    }

    /// Runs a look-up of the runtime's; a wait that took too long is a server's silence.
    fn wait(
        &self,
        py: Python<'_>,
        look_up: impl FnOnce(&Resolver) -> Result<Host, LookupError>,
    ) -> PyResult<Result<Host, LookupError>> {
        let resolver = self.resolver(py)?;
        let outcome = host::block(py, || match look_up(&resolver) {
            Err(LookupError::Wait(error)) => Err(error),
            outcome => Ok(outcome),
        })?;
        Ok(outcome.unwrap_or(Err(LookupError::TryAgain)))
    }

    fn by_name(&self, py: Python<'_>, name: &str, family: Family) -> PyResult<Result<Host, LookupError>> {
        self.wait(py, |resolver| resolver.lookup_core(name, family, resolver.deadline()))
    }

    fn by_address(&self, py: Python<'_>, address: IpAddr) -> PyResult<Result<Host, LookupError>> {
        self.wait(py, |resolver| resolver.reverse_core(address, resolver.deadline()))
    }

    /// Returns the addresses of a name, the best first.
    fn addresses(&self, py: Python<'_>, name: &str, family: i32, flags: i32) -> PyResult<(String, Vec<IpAddr>)> {
        let mut family = self::family(family);
        if flags & libc::AI_ADDRCONFIG != 0 {
            let has = |family| is_configured(py, family);
            family = match family {
                Family::Any => match (has(libc::AF_INET)?, has(libc::AF_INET6)?) {
                    (true, false) => Family::V4,
                    (false, true) => Family::V6,
                    _ => Family::Any,
                },
                Family::V4 if !has(libc::AF_INET)? => return Err(gaierror(py, LookupError::NotFound)),
                Family::V6 if !has(libc::AF_INET6)? => return Err(gaierror(py, LookupError::NotFound)),
                family => family,
            };
        }
        let is_mapped = family == Family::V6 && flags & libc::AI_V4MAPPED != 0;
        let mut found = self.by_name(py, name, family)?;
        if is_mapped && (found.is_err() || flags & libc::AI_ALL != 0) {
            let mapped = self.by_name(py, name, Family::V4)?.map(|mut host| {
                for address in &mut host.addresses {
                    if let IpAddr::V4(four) = address {
                        *address = four.to_ipv6_mapped().into();
                    }
                }
                host
            });
            found = match (found, mapped) {
                (Ok(mut host), Ok(mapped)) => {
                    host.addresses.extend(mapped.addresses);
                    Ok(host)
                }
                (found, Err(_)) => found,
                (Err(_), Ok(mapped)) => Ok(mapped),
            };
        }
        let Host { name, mut addresses, .. } = found.map_err(|failure| gaierror(py, failure))?;
        self.resolver(py)?.sort(&mut addresses);
        Ok((name, addresses))
    }
}

#[pymethods]
impl PyResolver {
    #[new]
    #[pyo3(signature = (servers=None, udp_port=None, tcp_port=None, timeout=None, tries=None, ndots=None, lifetime=None,
        use_tcp=false, first_server_only=false, search=true, recursive=true, ignore_truncation=false, hosts=PathBuf::from("/etc/hosts"), resolv_conf=PathBuf::from("/etc/resolv.conf")))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "each is a keyword of Python's")]
    fn new(
        py: Python<'_>,
        servers: Option<Vec<String>>,
        udp_port: Option<u16>,
        tcp_port: Option<u16>,
        timeout: Option<f64>,
        tries: Option<u32>,
        ndots: Option<u32>,
        lifetime: Option<f64>,
        use_tcp: bool,
        first_server_only: bool,
        search: bool,
        recursive: bool,
        ignore_truncation: bool,
        hosts: PathBuf,
        resolv_conf: PathBuf,
    ) -> PyResult<Self> {
        let hub = py_hub::ensure(py)?;
        let servers = servers.map(|texts| {
            let default = greenrust::resolver::config::DEFAULT_PORT;
            let ports = (udp_port.unwrap_or(default), tcp_port.unwrap_or(default));
            let parse = |text: &String| {
                Server::parse(text, ports)
                    .ok_or_else(|| PyValueError::new_err(format!("not the address of a name server: {text:?}")))
            };
            texts.iter().map(parse).collect::<PyResult<Vec<Server>>>()
        });
        if tries == Some(0) {
            return Err(PyValueError::new_err("tries must be at least 1, not 0"));
        }
        let options = Options {
            servers: servers.transpose()?,
            timeout: seconds("timeout", timeout)?,
            attempts: tries,
            ndots,
            stream_only: use_tcp,
            first_server_only,
            no_search: !search,
            no_recursion: !recursive,
            ignore_truncation,
            lifetime: seconds("lifetime", lifetime)?,
            hosts,
            resolv_conf,
            ..Options::default()
        };
        Ok(Self { fields: Gil::new(Fields { resolver: Resolver::with_options(options), hub }) })
    }

    /// getaddrinfo(host, port, family=0, type=0, proto=0, flags=0) -> as `socket.getaddrinfo`, with plain numbers
    ///
    /// Switches unless the answer is known.
    #[pyo3(signature = (host, port, family=0, r#type=0, proto=0, flags=0))]
    #[allow(clippy::too_many_arguments, reason = "the signature of socket's")]
    fn getaddrinfo<'py>(
        &self,
        py: Python<'py>,
        host: &Bound<'py, PyAny>,
        port: &Bound<'py, PyAny>,
        family: i32,
        r#type: i32,
        proto: i32,
        flags: i32,
    ) -> PyResult<Bound<'py, PyList>> {
        let is_bytearray = host.is_instance_of::<PyByteArray>();
        let name = if is_bytearray { None } else { host_name(host)? };
        let is_numeric_only = flags & libc::AI_NUMERICHOST != 0;
        let Some(name) = name.filter(|name| !is_numeric_only && !name.is_empty()) else {
            // No look-up: no host, no name, or no text at all.
            let flags = if host.is_none() { flags } else { flags | libc::AI_NUMERICHOST };
            return getaddrinfo(host, port, family, r#type, proto, flags);
        };
        if looks_numeric(&name) {
            let found = getaddrinfo(host, port, family, r#type, proto, flags | libc::AI_NUMERICHOST);
            match found {
                Err(error) if is_gaierror(py, &error, libc::EAI_NONAME)? => {}
                found => return found,
            }
        }
        let endpoints = endpoints(port, family, r#type, proto, flags)?;
        let (canonical, addresses) = self.addresses(py, &name, family, flags)?;
        let result = PyList::empty(py);
        let nothing = intern!(py, "");
        let mut canonical = (flags & libc::AI_CANONNAME != 0).then(|| PyString::new(py, &canonical));
        for address in addresses {
            let text = PyString::new(py, &address.to_string());
            for &(kind, protocol, port) in &endpoints {
                let canonical = canonical.take().unwrap_or_else(|| nothing.clone());
                match address {
                    IpAddr::V4(_) => result.append((libc::AF_INET, kind, protocol, canonical, (&text, port)))?,
                    IpAddr::V6(_) => {
                        result.append((libc::AF_INET6, kind, protocol, canonical, (&text, port, 0, 0)))?;
                    }
                }
            }
        }
        Ok(result)
    }

    /// gethostbyname(hostname) -> as `socket.gethostbyname`. Switches unless the answer is known.
    fn gethostbyname<'py>(&self, py: Python<'py>, hostname: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let name = host_name_without_zero(hostname)?;
        let Some(name) = name.filter(|name| !matches!(name.as_str(), "" | "<broadcast>" | "255.255.255.255")) else {
            return system(py)?.call_method1(intern!(py, "gethostbyname"), (hostname,));
        };
        let address = match numeric_address(py, &name, libc::AF_INET)? {
            Some(address) => address,
            None => self.addresses(py, &name, libc::AF_INET, 0)?.1[0],
        };
        Ok(address.to_string().into_pyobject(py)?.into_any())
    }

    /// gethostbyname_ex(hostname) -> as `socket.gethostbyname_ex`. Switches unless the answer is known.
    fn gethostbyname_ex<'py>(&self, py: Python<'py>, hostname: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Some(name) = host_name_without_zero(hostname)? else {
            return system(py)?.call_method1(intern!(py, "gethostbyname_ex"), (hostname,));
        };
        match name.as_str() {
            "" => return Err(herror(py, LookupError::Failed)),
            "<broadcast>" => return Err(herror(py, LookupError::NotFound)),
            _ => {}
        }
        if let Some(address) = numeric_address(py, &name, libc::AF_INET)? {
            if name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
                return triple(py, Host { name, aliases: Vec::new(), addresses: vec![address] });
            }
            // Other digits, as in 0x7f.1, are an address at first and then a name.
            return match self.by_name(py, &name, Family::V4)? {
                Ok(host) => triple(py, host),
                Err(failure) => Err(herror(py, failure)),
            };
        }
        match self.by_name(py, &name, Family::V4)? {
            Ok(host) => triple(py, host),
            Err(failure) => Err(gaierror(py, failure)),
        }
    }

    /// gethostbyaddr(ip_address) -> as `socket.gethostbyaddr`; a name is looked up first. Switches unless the answer is
    /// known.
    fn gethostbyaddr<'py>(&self, py: Python<'py>, ip_address: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Some(name) = host_name_without_zero(ip_address)? else {
            return system(py)?.call_method1(intern!(py, "gethostbyaddr"), (ip_address,));
        };
        let address = match name.as_str() {
            "" => wildcard(py)?,
            "<broadcast>" => Ipv4Addr::BROADCAST.into(),
            _ => match numeric_address(py, &name, libc::AF_UNSPEC)? {
                Some(address) => address,
                None => self.addresses(py, &name, libc::AF_UNSPEC, 0)?.1[0],
            },
        };
        match self.by_address(py, address)? {
            Ok(host) => triple(py, host),
            Err(failure) => Err(herror(py, failure)),
        }
    }

    /// getnameinfo(sockaddr, flags) -> as `socket.getnameinfo`. Switches unless the answer is known.
    fn getnameinfo<'py>(
        &self,
        py: Python<'py>,
        sockaddr: &Bound<'py, PyAny>,
        flags: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = |flags: &Bound<'py, PyAny>| system(py)?.call_method1(intern!(py, "getnameinfo"), (sockaddr, flags));
        let wanted = match flags.extract::<i32>() {
            Ok(wanted) if wanted & libc::NI_NUMERICHOST == 0 => wanted,
            // It refuses these, or looks nothing up.
            _ => return call(flags),
        };
        let numeric = wanted & !libc::NI_NAMEREQD | libc::NI_NUMERICHOST;
        let found = call(numeric.into_pyobject(py)?.as_any())?;
        let (host, service): (String, Bound<'py, PyAny>) = found.extract()?;
        let address: IpAddr = match host.split('%').next().unwrap_or_default().parse() {
            Ok(address) => address,
            Err(_) => return Ok(found),
        };
        match self.by_address(py, address)? {
            Ok(Host { name, .. }) => {
                let name = if wanted & libc::NI_NOFQDN == 0 { name } else { without_own_domain(name) };
                Ok((name, service).into_pyobject(py)?.into_any())
            }
            Err(LookupError::TryAgain) => Err(gaierror_again(py)),
            Err(_) if wanted & libc::NI_NAMEREQD != 0 => Err(gaierror(py, LookupError::NotFound)),
            Err(_) => Ok(found),
        }
    }

    /// close(): closes the sockets and forgets all answers; who waits gets a gaierror.
    fn close(&self) {
        if Hub::if_current().is_some_and(|hub| std::ptr::eq(hub, self.fields.hub) && !hub.is_closed()) {
            self.fields.resolver.close();
        }
    }

    /// after_fork(): asks the questions that wait anew, by sockets of this process, if it is the child of a fork.
    fn after_fork(&self, py: Python<'_>) -> PyResult<()> {
        self.resolver(py)?.after_fork();
        Ok(())
    }

    /// forget(): forgets all answers.
    fn forget(&self) {
        self.fields.resolver.forget();
    }

    /// load() -> (questions that wait or are on their way, open sockets)
    fn load(&self) -> (usize, usize) {
        self.fields.resolver.load()
    }

    /// servers() -> the addresses of the name servers, each with its UDP port
    fn servers(&self) -> Vec<String> {
        self.fields.resolver.servers().iter().map(|server| server.datagram.to_string()).collect()
    }
}

fn triple(py: Python<'_>, host: Host) -> PyResult<Bound<'_, PyAny>> {
    let addresses: Vec<String> = host.addresses.iter().map(IpAddr::to_string).collect();
    Ok((host.name, host.aliases, addresses).into_pyobject(py)?.into_any())
}

/// The address that an empty host name means.
fn wildcard(py: Python<'_>) -> PyResult<IpAddr> {
    let none = py.None();
    let port = intern!(py, "0");
    let found = getaddrinfo(none.bind(py), port, libc::AF_UNSPEC, libc::SOCK_DGRAM, 0, libc::AI_PASSIVE)?;
    if found.len() != 1 {
        return Err(PyOSError::new_err("wildcard resolved to multiple address"));
    }
    let text: String = found.get_item(0)?.get_item(4)?.get_item(0)?.extract()?;
    Ok(text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into()))
}

/// A name without the domain of this machine, if that is its domain.
fn without_own_domain(name: String) -> String {
    let own = greenrust::resolver::own_domain();
    match own.and_then(|domain| name.strip_suffix(&domain)?.strip_suffix('.').map(str::to_owned)) {
        Some(short) if !short.is_empty() => short,
        _ => name,
    }
}
