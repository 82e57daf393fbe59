//! PACKET PATH: no lock, no allocation, no log, no await.
//!
//! A peer's address in 22 bytes, as sessions keep it; the standard type takes 32 and a session has several.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// IP, port and scope of a peer. IPv4 addresses are kept as mapped ones and given back as IPv4 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    ip: [u8; 16],
    scope: [u8; 4],
    port: [u8; 2],
}

impl From<SocketAddr> for Path {
    fn from(address: SocketAddr) -> Self {
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Self { ip: ip.octets(), scope: scope.to_be_bytes(), port: address.port().to_be_bytes() }
    }
}

impl Path {
    pub(crate) fn address(self) -> SocketAddr {
        let port = u16::from_be_bytes(self.port);
        match IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical() {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, u32::from_be_bytes(self.scope))),
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_back_as_they_were() {
        for text in ["192.0.2.1:7", "[2001:db8::1]:65535", "[fe80::1%3]:9000"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Path::from(address).address(), address);
        }
        assert_eq!(size_of::<Option<Path>>(), 23);
    }
}
