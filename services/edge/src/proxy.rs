//! The PROXY protocol, version 2: how a balancer in front of the TCP listener says whose connection it is.
//!
//! Only trusted balancers are asked ([`crate::config::ProxyProtocolConfig`]); their header comes before the first byte of USMP.
//! Format: "The PROXY protocol", section 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// Most bytes of a header that are taken: addresses and about 500 bytes of extensions, which are skipped.
pub(crate) const MAX_HEADER: usize = FIXED + 520;

/// What stands at the start of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decode {
    /// The header is not whole; this many bytes more are needed at least.
    NeedMore(usize),
    /// The header is whole.
    Header {
        /// Its length; USMP starts behind.
        length: usize,
        /// The device's address; `None` for the balancer's own connections (health checks).
        source: Option<SocketAddr>,
    },
}

/// Why a connection does not start with a header that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("no PROXY protocol signature")]
    Signature,
    #[error("unsupported PROXY protocol version or command")]
    Version,
    #[error("PROXY protocol header for another transport than TCP")]
    Transport,
    #[error("PROXY protocol header shorter than its addresses")]
    Addresses,
    #[error("PROXY protocol header of {0} bytes is too long")]
    TooLong(usize),
}

/// Reads a header from the first bytes of a connection.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decode, ProxyError> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Err(ProxyError::Signature);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(Decode::NeedMore(FIXED - bytes.len()));
    };
    let [.., version_command, family, high, low] = *fixed;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER {
        return Err(ProxyError::TooLong(length));
    }
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Version),
    };
    let Some(body) = bytes.get(FIXED..length) else {
        return Ok(Decode::NeedMore(length - bytes.len()));
    };
    if local {
        return Ok(Decode::Header { length, source: None });
    }
    let source = match family {
        // AF_UNSPEC: the balancer does not know; its own address stands.
        0x00 => None,
        // source 4, destination 4, source port 2, destination port 2
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] =
                *body.first_chunk::<12>().ok_or(ProxyError::Addresses)?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), u16::from_be_bytes([high, low])))
        }
        // source 16, destination 16, source port 2, destination port 2
        0x21 => {
            let whole = body.first_chunk::<36>().ok_or(ProxyError::Addresses)?;
            let (ip, _) = whole.split_first_chunk::<16>().ok_or(ProxyError::Addresses)?;
            let [.., high, low, _, _] = *whole;
            let ip = IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical();
            Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
        }
        _ => return Err(ProxyError::Transport),
    };
    Ok(Decode::Header { length, source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x23, 0x28];

    #[test]
    fn a_v4_header_names_the_source_and_skips_extensions() {
        let mut body = V4.to_vec();
        body.extend([0x04, 0, 3, 1, 2, 3]);
        let mut bytes = header(0x21, 0x11, &body);
        bytes.extend([0xcd, 0xab]);
        let source = Some("192.0.2.7:12345".parse().expect("an address"));
        assert_eq!(decode(&bytes), Ok(Decode::Header { length: 16 + 18, source }));
    }

    #[test]
    fn a_v6_header_names_the_source() {
        let mut body = [0u8; 36];
        body[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets());
        body[32..34].copy_from_slice(&443u16.to_be_bytes());
        let source = Some("[2001:db8::7]:443".parse().expect("an address"));
        assert_eq!(decode(&header(0x21, 0x21, &body)), Ok(Decode::Header { length: 52, source }));
    }

    #[test]
    fn a_health_check_of_the_balancer_has_no_source() {
        assert_eq!(decode(&header(0x20, 0x00, &[])), Ok(Decode::Header { length: 16, source: None }));
        assert_eq!(decode(&header(0x21, 0x00, &[])), Ok(Decode::Header { length: 16, source: None }));
    }

    #[test]
    fn each_way_to_be_wrong_is_refused_by_its_name() {
        assert_eq!(decode(&[0xcd, 0xab, 2, 1]), Err(ProxyError::Signature));
        assert_eq!(decode(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"), Err(ProxyError::Signature));
        assert_eq!(decode(&header(0x11, 0x11, &V4)), Err(ProxyError::Version));
        assert_eq!(decode(&header(0x22, 0x11, &V4)), Err(ProxyError::Version));
        assert_eq!(decode(&header(0x21, 0x12, &V4)), Err(ProxyError::Transport));
        assert_eq!(decode(&header(0x21, 0x31, &[0; 216])), Err(ProxyError::Transport));
        assert_eq!(decode(&header(0x21, 0x11, &V4[..11])), Err(ProxyError::Addresses));
        assert_eq!(decode(&header(0x21, 0x21, &[0; 35])), Err(ProxyError::Addresses));
        assert_eq!(decode(&header(0x21, 0x11, &[0; 521])), Err(ProxyError::TooLong(537)));
    }

    #[test]
    fn a_length_that_is_too_long_is_refused_before_its_bytes_arrive() {
        let mut bytes = header(0x21, 0x11, &V4);
        bytes[14..16].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(decode(&bytes[..16]), Err(ProxyError::TooLong(16 + 0xffff)));
    }

    proptest! {
        #[test]
        fn any_cut_of_a_good_header_asks_for_more_and_never_too_much(cut in 0usize..28) {
            let bytes = header(0x21, 0x11, &V4);
            let Ok(Decode::NeedMore(more)) = decode(&bytes[..cut]) else {
                return Err(TestCaseError::fail("a cut header was taken"));
            };
            prop_assert!(more > 0 && cut + more <= bytes.len());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
