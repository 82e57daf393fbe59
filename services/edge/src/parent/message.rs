//! What parent and worker tell each other, over a pair of Unix sockets that keeps messages apart (`SOCK_SEQPACKET`).
//!
//! Both ends are the same file on disk; the version byte is for the day on which they are not.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::config::MAX_SHARDS;
use crate::parent::policy::Limits;

const VERSION: u8 = 1;

/// Sockets in one message: the kernel takes 253 at most, and [`MAX_SHARDS`] of them are four messages, which the pair takes without
/// waiting for the reader.
const SOCKETS_AT_ONCE: usize = 64;

const LENGTH: usize = 16;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// Parent to worker, first: what was before, and how many kept sockets follow.
    Start {
        /// Workers that were started after another one had died.
        restarts: u32,
        /// How the last one ended, as a shell would say it; 0 for the first.
        last_end: u8,
        /// Workers that were killed because they hung.
        hung: u32,
        /// Sockets that follow.
        sockets: u16,
    },
    /// Either way: some of the sockets announced.
    Sockets,
    /// Parent to worker: somebody asked the parent to stop.
    Stop,
    /// Worker to parent: devices are served. Keep what follows, instead of what was kept before.
    Keep {
        /// What to do when this worker dies.
        limits: Limits,
        /// Sockets that follow.
        sockets: u16,
    },
    /// Worker to parent, once a second: all of it turns.
    Beat {
        /// How long this worker may be silent, to the millisecond.
        patience: Duration,
    },
}

/// Why the other process was not understood, or cannot be told anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is gone.
    #[error("the other process is gone")]
    Gone,
    /// It has sent nothing, or has not read what it was sent.
    #[error("nothing to read, or no room")]
    NotNow,
    /// From another release.
    #[error(
        "a message of version {0}, this release knows {VERSION}: parent and worker must be the same file"
    )]
    Version(u8),
    /// No message of this release.
    #[error("not a message")]
    Malformed,
    /// More sockets than there are shards.
    #[error("more than {MAX_SHARDS} sockets")]
    TooMany,
    /// The system refuses.
    #[error("the system refuses: {0}")]
    System(#[from] Errno),
}

impl Message {
    fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        match self {
            Self::Start { restarts, last_end, hung, sockets } => {
                put(1, &[1, last_end]);
                put(4, &sockets.to_le_bytes());
                put(8, &restarts.to_le_bytes());
                put(12, &hung.to_le_bytes());
            }
            Self::Sockets => put(1, &[2]),
            Self::Stop => put(1, &[3]),
            Self::Keep { limits, sockets } => {
                put(1, &[4]);
                // 65535 in succession are as good as any number.
                put(2, &u16::try_from(limits.restarts).unwrap_or(u16::MAX).to_le_bytes());
                put(4, &sockets.to_le_bytes());
                put(8, &milliseconds(limits.longest_pause).to_le_bytes());
                put(12, &milliseconds(limits.linger).to_le_bytes());
            }
            Self::Beat { patience } => {
                put(1, &[5]);
                put(8, &milliseconds(patience).to_le_bytes());
            }
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(MessageError::Version(other)),
            None => return Err(MessageError::Gone),
        }
        let bytes: &[u8; LENGTH] = bytes.try_into().map_err(|_| MessageError::Malformed)?;
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sockets = || match short(4) {
            count if usize::from(count) > MAX_SHARDS => Err(MessageError::TooMany),
            count => Ok(count),
        };
        Ok(match bytes[1] {
            1 => Self::Start { restarts: long(8), last_end: bytes[2], hung: long(12), sockets: sockets()? },
            2 => Self::Sockets,
            3 => Self::Stop,
            4 => Self::Keep {
                limits: Limits {
                    restarts: short(2).into(),
                    longest_pause: Duration::from_millis(long(8).into()),
                    linger: Duration::from_millis(long(12).into()),
                },
                sockets: sockets()?,
            },
            5 => Self::Beat { patience: Duration::from_millis(long(8).into()) },
            _ => return Err(MessageError::Malformed),
        })
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Sends a message, and after it the sockets it announces.
pub(super) fn send(
    to: impl AsFd,
    message: Message,
    sockets: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), MessageError> {
    send_one(&to, message, &[], flags)?;
    for some in sockets.chunks(SOCKETS_AT_ONCE) {
        send_one(&to, Message::Sockets, some, flags)?;
    }
    Ok(())
}

fn send_one(
    to: impl AsFd,
    message: Message,
    sockets: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), MessageError> {
    let bytes = message.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(MessageError::TooMany);
    }
    loop {
        match sendmsg(&to, &[IoSlice::new(&bytes)], &mut control, flags | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(MessageError::NotNow),
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(MessageError::Gone),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; the sockets that came with it are added to `sockets`.
pub(super) fn receive(
    from: impl AsFd,
    sockets: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> Result<Message, MessageError> {
    let mut bytes = [0; LENGTH + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&from, &mut parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(MessageError::NotNow),
            Err(Errno::CONNRESET) => return Err(MessageError::Gone),
            Err(error) => return Err(error.into()),
        }
    };
    // Taken out before anything is refused, so that they are closed then.
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            sockets.extend(some);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || sockets.len() > MAX_SHARDS {
        return Err(MessageError::TooMany);
    }
    Message::decode(bytes.get(..received.bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    const LIMITS: Limits =
        Limits { restarts: 5, longest_pause: Duration::from_secs(5), linger: Duration::from_millis(1500) };

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair")
    }

    #[test]
    fn messages_of_version_1_have_these_bytes() {
        let golden = [
            (
                Message::Start { restarts: 0x0102_0304, last_end: 137, hung: 7, sockets: 2 },
                "0101890002000000 0403020107000000",
            ),
            (Message::Sockets, "0102000000000000 0000000000000000"),
            (Message::Stop, "0103000000000000 0000000000000000"),
            (Message::Keep { limits: LIMITS, sockets: 256 }, "0104050000010000 88130000dc050000"),
            (Message::Beat { patience: Duration::from_secs(15) }, "0105000000000000 983a000000000000"),
        ];
        for (message, bytes) in golden {
            let bytes = hex::decode(bytes.replace(' ', "")).expect("hex digits");
            assert_eq!(message.encode().as_slice(), bytes, "{message:?}");
            assert_eq!(Message::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_reason() {
        let stop = Message::Stop.encode();
        assert_eq!(Message::decode(&[]), Err(MessageError::Gone));
        assert_eq!(Message::decode(&stop[..15]), Err(MessageError::Malformed));
        assert_eq!(Message::decode(&[stop.as_slice(), &[0]].concat()), Err(MessageError::Malformed));
        let (mut later, mut unknown) = (stop, stop);
        later[0] = 2;
        unknown[1] = 6;
        assert_eq!(Message::decode(&later), Err(MessageError::Version(2)));
        assert_eq!(Message::decode(&unknown), Err(MessageError::Malformed));
        let many = Message::Keep { limits: LIMITS, sockets: 257 };
        assert_eq!(Message::decode(&many.encode()), Err(MessageError::TooMany));
    }

    #[test]
    fn as_many_sockets_as_there_may_be_shards_pass_without_a_reader() {
        let (one, other) = pair();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let start = Message::Start { restarts: 0, last_end: 0, hung: 0, sockets: 256 };
        send(&one, start, &[socket.as_fd(); MAX_SHARDS], SendFlags::DONTWAIT).expect("room");
        drop(one);

        let mut sockets = Vec::new();
        assert_eq!(receive(&other, &mut sockets, RecvFlags::empty()), Ok(start));
        while let Ok(message) = receive(&other, &mut sockets, RecvFlags::empty()) {
            assert_eq!(message, Message::Sockets);
        }
        assert_eq!(sockets.len(), MAX_SHARDS);
        let came = UdpSocket::from(sockets.pop().expect("256"));
        assert_eq!(came.local_addr().expect("bound"), socket.local_addr().expect("bound"));
    }

    #[test]
    fn nothing_yet_no_room_and_nobody_there_are_told_apart() {
        let (one, other) = pair();
        let mut none = Vec::new();
        assert_eq!(receive(&other, &mut none, RecvFlags::DONTWAIT), Err(MessageError::NotNow));
        let mut sent = 0;
        let full = loop {
            match send(&one, Message::Stop, &[], SendFlags::DONTWAIT) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, MessageError::NotNow);
        for _ in 0..sent {
            assert_eq!(receive(&other, &mut none, RecvFlags::DONTWAIT), Ok(Message::Stop));
        }
        drop(one);
        assert_eq!(receive(&other, &mut none, RecvFlags::empty()), Err(MessageError::Gone));
        assert_eq!(send(&other, Message::Stop, &[], SendFlags::empty()), Err(MessageError::Gone));
    }
}
