//! Loopback ports that no other test holds.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};

use anyhow::{Context, Result, bail};

/// A loopback port, free in TCP and UDP when it was taken and claimed against other tests until it is dropped.
///
/// It lies outside the range from which the system picks ports of outgoing connections. A server that is killed and
/// started again must find its port free; a port from that range could meanwhile be taken by any client, even by one
/// that connects to the dead server itself (a TCP self-connect).
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// Claims a free port.
    ///
    /// # Errors
    /// The claim folder cannot be made, or no port is free.
    pub fn claim() -> Result<Self> {
        let (low, high) = range();
        for number in candidates(low, high) {
            if let Some(port) = Self::try_claim(number)? {
                return Ok(port);
            }
        }
        bail!("no free port between {low} and {high}");
    }

    /// Claims two free ports `offset` apart: a Redis cluster node's bus listens 10000 above its clients' port.
    pub(crate) fn claim_pair(offset: u16) -> Result<(Self, Self)> {
        let (low, high) = range();
        for number in candidates(low, high.saturating_sub(offset)) {
            let Some(upper) = number.checked_add(offset) else { continue };
            if let (Some(first), Some(second)) = (Self::try_claim(number)?, Self::try_claim(upper)?) {
                return Ok((first, second));
            }
        }
        bail!("no free pair of ports {offset} apart between {low} and {high}");
    }

    fn try_claim(number: u16) -> Result<Option<Self>> {
        let dir = std::env::temp_dir().join("sluice-test-ports");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(number.to_string());
        let claim = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if claim.try_lock().is_err() || !is_free(number) {
            return Ok(None);
        }
        Ok(Some(Self { number, _claim: claim }))
    }

    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn is_free(number: u16) -> bool {
    TcpListener::bind(("127.0.0.1", number)).is_ok() && UdpSocket::bind(("127.0.0.1", number)).is_ok()
}

/// The larger range outside the system's own choice of client ports.
fn range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|n| n.parse::<u16>().ok());
    let (first, last) = (numbers.next().unwrap_or(32768), numbers.next().unwrap_or(60999));
    let below = (10_000, first.saturating_sub(1));
    let above = (last.saturating_add(1).max(10_000), u16::MAX);
    if below.1.saturating_sub(below.0) >= above.1.saturating_sub(above.0) { below } else { above }
}

/// All numbers of the range once, from a start that differs between processes.
fn candidates(low: u16, high: u16) -> impl Iterator<Item = u16> {
    use std::hash::{BuildHasher, RandomState};
    let width = u64::from(high.saturating_sub(low)) + 1;
    let start = RandomState::new().hash_one(std::process::id()) % width;
    (0..width).map(move |i| {
        let offset = (start + i) % width;
        low + u16::try_from(offset).expect("less than the width of a range of u16")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_differ_and_a_dropped_one_can_be_claimed_again() {
        let (a, b) = (Port::claim().unwrap(), Port::claim().unwrap());
        assert_ne!(a.number(), b.number());
        assert!(Port::try_claim(a.number()).unwrap().is_none(), "claimed twice");
        let number = a.number();
        drop(a);
        assert!(Port::try_claim(number).unwrap().is_some(), "not given back");
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_claimed() {
        let port = Port::claim().unwrap();
        let number = port.number();
        let _listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        drop(port);
        assert!(Port::try_claim(number).unwrap().is_none());
    }

    #[test]
    fn a_pair_keeps_its_distance() {
        let (a, b) = Port::claim_pair(10_000).unwrap();
        assert_eq!(a.number() + 10_000, b.number());
    }
}
