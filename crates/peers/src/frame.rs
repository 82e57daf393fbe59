//! The bytes on a link: `length (2, of what follows the kind), kind (1), payload`, all numbers big-endian.
//!
//! The first frame in each direction is a Hello, which carries the version. A kind nobody here knows comes from a newer version
//! and is skipped; bytes behind the known fields of a known kind likewise. What is too short is an error that ends the link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use sluice_types::{DeviceEpoch, DeviceId, PodId, SessionId};

/// Version of the frames this crate writes, and the only one it reads.
pub const VERSION: u8 = 1;
/// Longest frame in bytes, header included.
pub const MAX_FRAME: usize = 65_536;
/// Longest payload in bytes.
pub const MAX_PAYLOAD: usize = MAX_FRAME - HEADER;
/// Longest datagram in bytes that is relayed: a whole USMP frame is at most 492.
pub const MAX_DATAGRAM: usize = 512;
/// Kinds from here on carry bytes that only the user of the crate understands.
pub const FIRST_OTHER: u8 = 128;

pub(crate) const HEADER: usize = 3;
const MAGIC: &[u8; 4] = b"SLPR";
const MAX_RELEASE: usize = 64;
/// In a heartbeat: Kafka has not answered yet.
const NEVER: u32 = u32::MAX;

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const HEARTBEAT: u8 = 2;
    pub(super) const DATAGRAM: u8 = 3;
    pub(super) const REPLY: u8 = 4;
    pub(super) const SLOT_MOVED: u8 = 5;
    pub(super) const HAND_OVER: u8 = 6;
    pub(super) const CLOSE_SESSION: u8 = 7;
    pub(super) const REVOKED: u8 = 8;
    pub(super) const HANDSHAKE: u8 = 9;
}

/// Why bytes of a peer are no frame of version 1. The link ends; none of these says who is at fault beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length names more than [`MAX_PAYLOAD`].
    #[error("frame longer than 65536 bytes")]
    TooLong,
    /// A known kind ends before its fields do.
    #[error("frame of kind {0} is too short")]
    Short(u8),
    /// A field of a known kind has a value that version 1 does not have.
    #[error("frame of kind {0} has a field out of range")]
    Field(u8),
    /// The first frame is not a Hello of this protocol.
    #[error("first frame is not a hello")]
    NoHello,
    /// A version that this release does not speak.
    #[error(
        "peer speaks version {0} of the peer protocol, this release version 1: upgrade the older of the two"
    )]
    Version(u8),
}

/// What may not be dropped: a full queue holds the sender back, a lost link is told to both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// A slot is now served by `owner`.
    SlotMoved {
        /// Number of the slot.
        slot: u16,
        /// The pod whose Owner record was committed.
        owner: PodId,
        /// The slot's generation by that record; the higher one wins.
        generation: u32,
    },
    /// The sender drains: the receiver adopts the slot now.
    HandOver {
        /// Number of the slot.
        slot: u16,
    },
    /// The device has a newer session elsewhere: the receiver closes this one.
    CloseSession {
        /// Whose session.
        device: DeviceId,
        /// Which session.
        session: SessionId,
        /// Epoch of the session that replaces it.
        epoch: DeviceEpoch,
        /// Why, as the caller numbers reasons.
        reason: u8,
    },
    /// An entry of the revocation log, for a pod that cannot read Redis.
    Revoked {
        /// Position in the log.
        position: u64,
        /// Whose keys are revoked.
        device: DeviceId,
    },
    /// Bytes for the user of the crate.
    Other {
        /// From [`FIRST_OTHER`] on.
        kind: u8,
        /// At most [`MAX_PAYLOAD`].
        bytes: Vec<u8>,
    },
}

/// One frame as it was read; datagrams stay where they are, writable, so that the receiver can open them in place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Hello(Hello),
    Heartbeat(Heartbeat),
    Datagram {
        flow: u32,
        source: SocketAddr,
        bytes: &'a mut [u8],
    },
    Reply {
        flow: u32,
        destination: SocketAddr,
        bytes: &'a mut [u8],
    },
    Handshake {
        flow: u32,
        source: SocketAddr,
        bytes: &'a mut [u8],
    },
    Control(Control),
    /// Of a newer version.
    Unknown(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) pod: PodId,
    pub(crate) release: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    pub(crate) counter: u64,
    pub(crate) kafka_ok_within_ms: Option<u32>,
}

/// Whom a relayed datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToOwner,
    /// Whoever knows the handshake, or is to begin it.
    ToHandshake,
    Back,
}

/// Appends a frame: writes the header, lets `payload` append, then fills the length in.
fn framed(out: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, kind]);
    payload(out);
    let length = out.len().saturating_sub(start).saturating_sub(HEADER);
    debug_assert!(length <= MAX_PAYLOAD, "payload bounded by the caller");
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = out.get_mut(start..).and_then(|frame| frame.first_chunk_mut::<2>()) {
        *field = length;
    }
}

pub(crate) fn hello(out: &mut Vec<u8>, hello: &Hello) {
    // A release that is too long is cut: it is only shown to people.
    let mut end = hello.release.len().min(MAX_RELEASE);
    while !hello.release.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    framed(out, kind::HELLO, |out| {
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(hello.pod.as_bytes());
        out.push(u8::try_from(end).unwrap_or(0));
        out.extend_from_slice(hello.release.get(..end).unwrap_or_default().as_bytes());
    });
}

pub(crate) fn heartbeat(out: &mut Vec<u8>, beat: &Heartbeat) {
    framed(out, kind::HEARTBEAT, |out| {
        out.extend_from_slice(&beat.counter.to_be_bytes());
        out.extend_from_slice(&beat.kafka_ok_within_ms.unwrap_or(NEVER).to_be_bytes());
    });
}

/// `bytes` is at most [`MAX_DATAGRAM`]: the ring takes no more.
pub(crate) fn relayed(out: &mut Vec<u8>, way: Way, flow: u32, address: SocketAddr, bytes: &[u8]) {
    let kind = match way {
        Way::ToOwner => kind::DATAGRAM,
        Way::ToHandshake => kind::HANDSHAKE,
        Way::Back => kind::REPLY,
    };
    framed(out, kind, |out| {
        out.extend_from_slice(&flow.to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                out.push(4);
                out.extend_from_slice(&address.ip().octets());
            }
            SocketAddr::V6(address) => {
                out.push(6);
                out.extend_from_slice(&address.ip().octets());
                out.extend_from_slice(&address.scope_id().to_be_bytes());
            }
        }
        out.extend_from_slice(&address.port().to_be_bytes());
        out.extend_from_slice(bytes);
    });
}

pub(crate) fn control(out: &mut Vec<u8>, control: &Control) {
    match control {
        Control::SlotMoved { slot, owner, generation } => framed(out, kind::SLOT_MOVED, |out| {
            out.extend_from_slice(&slot.to_be_bytes());
            out.extend_from_slice(owner.as_bytes());
            out.extend_from_slice(&generation.to_be_bytes());
        }),
        Control::HandOver { slot } => {
            framed(out, kind::HAND_OVER, |out| out.extend_from_slice(&slot.to_be_bytes()));
        }
        Control::CloseSession { device, session, epoch, reason } => framed(out, kind::CLOSE_SESSION, |out| {
            out.extend_from_slice(device.as_bytes());
            out.extend_from_slice(session.as_bytes());
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.push(*reason);
        }),
        Control::Revoked { position, device } => framed(out, kind::REVOKED, |out| {
            out.extend_from_slice(&position.to_be_bytes());
            out.extend_from_slice(device.as_bytes());
        }),
        Control::Other { kind, bytes } => framed(out, *kind, |out| out.extend_from_slice(bytes)),
    }
}

/// Takes fields off the front of a payload.
struct Fields<'a> {
    kind: u8,
    rest: &'a mut [u8],
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let rest = std::mem::take(&mut self.rest);
        let (field, rest) = rest.split_first_chunk_mut::<N>().ok_or(FrameError::Short(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.take().map(u64::from_be_bytes)
    }

    fn address(&mut self) -> Result<SocketAddr, FrameError> {
        match self.u8()? {
            4 => {
                let ip = IpAddr::V4(Ipv4Addr::from(self.take::<4>()?));
                Ok(SocketAddr::new(ip, self.u16()?))
            }
            6 => {
                let ip = Ipv6Addr::from(self.take::<16>()?);
                let scope = self.u32()?;
                Ok(SocketAddr::V6(SocketAddrV6::new(ip, self.u16()?, 0, scope)))
            }
            _ => Err(FrameError::Field(self.kind)),
        }
    }

    fn datagram(self) -> Result<&'a mut [u8], FrameError> {
        if self.rest.is_empty() || self.rest.len() > MAX_DATAGRAM {
            return Err(FrameError::Field(self.kind));
        }
        Ok(self.rest)
    }
}

/// Reads one payload.
///
/// # Errors
///
/// [`FrameError::Short`] and [`FrameError::Field`] for a known kind; a Hello may also be of another protocol or version.
pub(crate) fn parse(kind: u8, payload: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    let mut fields = Fields { kind, rest: payload };
    Ok(match kind {
        kind::HELLO => {
            if fields.take::<4>().map_err(|_| FrameError::NoHello)? != *MAGIC {
                return Err(FrameError::NoHello);
            }
            let version = fields.u8()?;
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            let pod = PodId::from_bytes(fields.take()?);
            let length = usize::from(fields.u8()?);
            if length > MAX_RELEASE {
                return Err(FrameError::Field(kind));
            }
            let release = fields.rest.get(..length).ok_or(FrameError::Short(kind))?;
            let release = std::str::from_utf8(release).map_err(|_| FrameError::Field(kind))?.to_owned();
            Frame::Hello(Hello { pod, release })
        }
        kind::HEARTBEAT => {
            let counter = fields.u64()?;
            let kafka = fields.u32()?;
            Frame::Heartbeat(Heartbeat { counter, kafka_ok_within_ms: (kafka != NEVER).then_some(kafka) })
        }
        kind::DATAGRAM => {
            let (flow, source) = (fields.u32()?, fields.address()?);
            Frame::Datagram { flow, source, bytes: fields.datagram()? }
        }
        kind::REPLY => {
            let (flow, destination) = (fields.u32()?, fields.address()?);
            Frame::Reply { flow, destination, bytes: fields.datagram()? }
        }
        kind::HANDSHAKE => {
            let (flow, source) = (fields.u32()?, fields.address()?);
            Frame::Handshake { flow, source, bytes: fields.datagram()? }
        }
        kind::SLOT_MOVED => Frame::Control(Control::SlotMoved {
            slot: fields.u16()?,
            owner: PodId::from_bytes(fields.take()?),
            generation: fields.u32()?,
        }),
        kind::HAND_OVER => Frame::Control(Control::HandOver { slot: fields.u16()? }),
        kind::CLOSE_SESSION => Frame::Control(Control::CloseSession {
            device: DeviceId::from_bytes(fields.take()?),
            session: SessionId::from_bytes(fields.take()?),
            epoch: DeviceEpoch(fields.u64()?),
            reason: fields.u8()?,
        }),
        kind::REVOKED => Frame::Control(Control::Revoked {
            position: fields.u64()?,
            device: DeviceId::from_bytes(fields.take()?),
        }),
        FIRST_OTHER.. => Frame::Control(Control::Other { kind, bytes: fields.rest.to_vec() }),
        unknown => Frame::Unknown(unknown),
    })
}

#[cfg(test)]
mod tests;
