//! Addresses of sockets: the system's structures, and the tuples and strings that Python has for them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::{Ipv4Addr, Ipv6Addr};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};

use super::{errno, os_error, outcome};
use crate::exceptions;

unsafe extern "C" {
    fn inet_ntop(family: c_int, address: *const c_void, text: *mut c_char, size: libc::socklen_t) -> *const c_char;
}

fn numeric_host<'py, A>(py: Python<'py>, family: c_int, address: &A) -> PyResult<Bound<'py, PyString>> {
    let mut text = [0 as c_char; 64];
    // SAFETY: 64 bytes hold every address of both families (INET6_ADDRSTRLEN is 46).
    let found = unsafe { inet_ntop(family, std::ptr::from_ref(address).cast(), text.as_mut_ptr(), 64) };
    if found.is_null() {
        return Err(os_error(py, errno()));
    }
    // SAFETY: terminated by inet_ntop.
    Ok(PyString::new(py, &unsafe { CStr::from_ptr(found) }.to_string_lossy()))
}

/// Gives an address the form that `_socket` gives it.
pub(super) fn address<'py>(
    py: Python<'py>,
    storage: &libc::sockaddr_storage,
    length: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let pointer = std::ptr::from_ref(storage);
    if length == 0 {
        return Ok(py.None().into_bound(py));
    }
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is; the storage is large and aligned enough for all.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let host = numeric_host(py, libc::AF_INET, &address.sin_addr)?;
            Ok((host, u16::from_be(address.sin_port)).into_pyobject(py)?.into_any())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let host = numeric_host(py, libc::AF_INET6, &address.sin6_addr)?;
            let port = u16::from_be(address.sin6_port);
            let flow = u32::from_be(address.sin6_flowinfo);
            Ok((host, port, flow, address.sin6_scope_id).into_pyobject(py)?.into_any())
        }
        libc::AF_UNIX => {
            // SAFETY: as above.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_un>() };
            let length = length.saturating_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path));
            let path: Vec<u8> =
                address.sun_path[..length.min(address.sun_path.len())].iter().map(|&byte| byte as u8).collect();
            if path.first() == Some(&0) {
                // unix(7): an abstract address is bytes, zeros included.
                return Ok(PyBytes::new(py, &path).into_any());
            }
            let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
            use std::os::unix::ffi::OsStrExt;
            Ok(std::ffi::OsStr::from_bytes(&path[..end]).into_pyobject(py)?.into_any())
        }
        family => Err(exceptions::internal(&format!("accept gave an address of family {family}"))),
    }
}

/// An address of AF_INET or AF_INET6, as the system takes it.
pub(super) enum Numeric {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Numeric {
    /// Reads a tuple whose host is in digits and whose numbers are in range; None for whatever else it is.
    pub(super) fn read(family: c_int, address: &Bound<'_, PyAny>) -> Option<Self> {
        let address = address.cast_exact::<PyTuple>().ok()?;
        let host = address.get_item(0).ok()?;
        let host = host.cast_exact::<PyString>().ok()?.to_str().ok()?;
        let number = |index: usize, most: u32| -> Option<u32> {
            let given = address.get_item(index).ok()?;
            given.cast_exact::<PyInt>().ok()?.extract().ok().filter(|&number| number <= most)
        };
        let port = u16::try_from(number(1, u32::from(u16::MAX))?).ok()?.to_be();
        match (family, address.len()) {
            (libc::AF_INET, 2) => {
                let host: Ipv4Addr = host.parse().ok()?;
                // SAFETY: all zero is valid for this plain data.
                let mut made: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                made.sin_family = libc::AF_INET as libc::sa_family_t;
                made.sin_port = port;
                made.sin_addr.s_addr = u32::from_ne_bytes(host.octets());
                Some(Self::V4(made))
            }
            (libc::AF_INET6, length @ 2..=4) => {
                let host: Ipv6Addr = host.parse().ok()?;
                // SAFETY: all zero is valid for this plain data.
                let mut made: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
                made.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                made.sin6_port = port;
                made.sin6_addr.s6_addr = host.octets();
                if length > 2 {
                    made.sin6_flowinfo = number(2, 0xf_ffff)?.to_be();
                }
                if length > 3 {
                    made.sin6_scope_id = number(3, u32::MAX)?;
                }
                Some(Self::V6(made))
            }
            _ => None,
        }
    }

    /// Connects a descriptor to the address; the error is the system's number.
    pub(super) fn connect(&self, descriptor: c_int) -> Result<(), c_int> {
        let (pointer, length): (*const libc::sockaddr, usize) = match self {
            Self::V4(address) => (std::ptr::from_ref(address).cast(), size_of_val(address)),
            Self::V6(address) => (std::ptr::from_ref(address).cast(), size_of_val(address)),
        };
        // SAFETY: an address of that length, alive during the call.
        outcome(unsafe { libc::connect(descriptor, pointer, length as libc::socklen_t) } as isize).map(drop)
    }
}
