//! The addresses of this machine's network interfaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One address of an interface, and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of the network's prefix in bits.
    pub prefix: u32,
}

/// Returns the IPv4 and IPv6 addresses of all interfaces.
///
/// # Errors
///
/// The kernel's, when there is no descriptor or memory left.
pub fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call stores a list that is given back below.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: an element of the list, which is alive until it is given back.
        let element = unsafe { &*next };
        // SAFETY: null, or a socket address of the list, as large as its family says.
        let address = unsafe { read(element.ifa_addr) };
        // SAFETY: as above.
        let mask = unsafe { read(element.ifa_netmask) };
        if let Some(address) = address {
            let prefix = match mask {
                Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
                Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
                None => 0,
            };
            found.push(InterfaceAddress { address, prefix });
        }
        next = element.ifa_next;
    }
    // SAFETY: what the call above stored, and nobody refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// Reads an address of one of the two families.
///
/// # Safety
///
/// `address` is null or points to a socket address that is as large as its family says.
unsafe fn read(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family, says the caller.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says so.
            let address = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says so.
            let address = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address_and_network() {
        let expected = InterfaceAddress { address: Ipv4Addr::LOCALHOST.into(), prefix: 8 };
        assert!(addresses().unwrap().contains(&expected));
    }
}
