//! PACKET PATH: no lock, no allocation, no log, no await.
//!
//! A peer's address in 26 bytes, as sessions keep it; the standard type takes 32 and a session has several.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// IP, port and scope of a device, and the pod whose sockets it reaches if that is not this one. IPv4 addresses are kept as mapped
/// ones and given back as IPv4 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    ip: [u8; 16],
    scope: [u8; 4],
    port: [u8; 2],
    /// 0: this pod. Otherwise one more than its number in [`Relay`](crate::shard::Relay).
    pod: [u8; 2],
    /// The shard of that pod that the device's datagrams reach.
    shard: [u8; 2],
}

/// Through which pod, and which shard of it, a device is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) pod: u16,
    pub(crate) shard: u16,
}

impl From<SocketAddr> for Path {
    fn from(address: SocketAddr) -> Self {
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Self {
            ip: ip.octets(),
            scope: scope.to_be_bytes(),
            port: address.port().to_be_bytes(),
            pod: [0; 2],
            shard: [0; 2],
        }
    }
}

impl Path {
    /// The address of a device whose datagrams reach another pod. `None` for a number that does not fit.
    pub(crate) fn through(address: SocketAddr, via: Via) -> Option<Self> {
        let pod = via.pod.checked_add(1)?.to_be_bytes();
        Some(Self { pod, shard: via.shard.to_be_bytes(), ..Self::from(address) })
    }

    pub(crate) fn address(self) -> SocketAddr {
        let port = u16::from_be_bytes(self.port);
        match IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical() {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, u32::from_be_bytes(self.scope))),
        }
    }

    /// The way through another pod; `None` when the device reaches this one.
    pub(crate) fn via(self) -> Option<Via> {
        let pod = u16::from_be_bytes(self.pod).checked_sub(1)?;
        Some(Via { pod, shard: u16::from_be_bytes(self.shard) })
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)?;
        self.via().map_or(Ok(()), |via| write!(f, " through pod {} shard {}", via.pod, via.shard))
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
            assert_eq!(Path::from(address).via(), None);
            let via = Via { pod: 7, shard: 3 };
            let path = Path::through(address, via).expect("small numbers");
            assert_eq!((path.address(), path.via()), (address, Some(via)));
            assert_ne!(path, Path::from(address), "another way is another path");
        }
        assert_eq!(Path::through(([192, 0, 2, 1], 7).into(), Via { pod: u16::MAX, shard: 0 }), None);
        assert_eq!(size_of::<Option<Path>>(), 27);
    }
}
