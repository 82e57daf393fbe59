//! PACKET PATH: no lock, no log, no await; allocates a connection's buffers once, and only when it needs them.
//!
//! The bytes of one TCP connection: read into a buffer that all connections of a shard share, written at once or, when the peer
//! is slow, kept up to a bound.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use usmp::Instant;

use crate::proxy;

/// Bytes of an incomplete frame or PROXY header that a connection may hold back.
const MAX_HELD: usize = {
    let (frame, header) = (usmp::wire::MAX_FRAME, proxy::MAX_HEADER);
    if frame > header { frame } else { header }
};

/// Bytes that wait for a slow peer, at most: two of the longest messages. Who needs more is not read from, so it causes no
/// more answers either.
const MAX_UNSENT: usize = 8 * usmp::wire::MAX_FRAME;

/// Size of the buffer that connections are read into.
pub(crate) const SCRATCH: usize = 16 * 1024;

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Nothing for now.
    Nothing,
    /// This many bytes lie at the start of the buffer, held ones first.
    Bytes(usize),
    /// The peer sends no more.
    End,
}

#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    /// What the poll said and a read has not contradicted yet.
    readable: bool,
    held: Vec<u8>,
    /// What is held is not incomplete: it waits for something else, and is given out again before anything is read.
    again: bool,
    unsent: Vec<u8>,
    /// Since when the peer has not taken all bytes.
    waiting_since: Option<Instant>,
}

impl Stream {
    pub(crate) const fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            readable: true,
            held: Vec::new(),
            again: false,
            unsent: Vec::new(),
            waiting_since: None,
        }
    }

    pub(crate) const fn socket_mut(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(crate) const fn mark_readable(&mut self) {
        self.readable = true;
    }

    /// Whether a read may give something.
    pub(crate) const fn may_read(&self) -> bool {
        (self.readable || self.again) && self.unsent.is_empty()
    }

    /// Whether the peer has taken everything so far.
    pub(crate) const fn is_drained(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(crate) const fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// Reads once, behind the bytes held back.
    pub(crate) fn read(&mut self, buffer: &mut [u8; SCRATCH]) -> io::Result<Arrived> {
        let held = self.held.len();
        if std::mem::take(&mut self.again) {
            buffer[..held].copy_from_slice(&self.held);
            self.held.clear();
            return Ok(Arrived::Bytes(held));
        }
        let (start, room) = buffer.split_at_mut(held);
        loop {
            match self.socket.read(room) {
                Ok(0) => return Ok(Arrived::End),
                Ok(count) => {
                    start.copy_from_slice(&self.held);
                    self.held.clear();
                    return Ok(Arrived::Bytes(held + count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Arrived::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps the start of something incomplete until its rest arrives; shorter than any frame by its own length check.
    pub(crate) fn hold(&mut self, rest: &[u8]) {
        debug_assert!(rest.len() < MAX_HELD, "an incomplete frame of {} bytes", rest.len());
        self.held.extend_from_slice(rest.get(..MAX_HELD).unwrap_or(rest));
    }

    /// Keeps what was read and could not be acted upon; the next read gives it out again. Never more than one read.
    pub(crate) fn hold_whole(&mut self, rest: &[u8]) {
        self.held.extend_from_slice(rest);
        self.again = true;
    }

    /// Writes the bytes, or keeps what the peer does not take yet.
    ///
    /// # Errors
    ///
    /// As the socket says; [`ErrorKind::OutOfMemory`] when too much waits already.
    pub(crate) fn write(&mut self, now: Instant, mut bytes: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            while !bytes.is_empty() {
                match self.socket.write(bytes) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.unsent.len() + bytes.len() > MAX_UNSENT {
            return Err(ErrorKind::OutOfMemory.into());
        }
        self.waiting_since.get_or_insert(now);
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    /// Tells the peer that nothing more comes; `false` when that is not possible because it has not taken all yet.
    pub(crate) fn finish(&mut self) -> bool {
        self.held.clear();
        self.unsent.is_empty() && self.socket.shutdown(Shutdown::Write).is_ok()
    }

    /// Writes what is kept; `true` when nothing is left.
    pub(crate) fn flush(&mut self, now: Instant) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.unsent.drain(..count);
                    self.waiting_since = Some(now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting_since = None;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Peer};
    use std::time::{Duration, Instant as Real};

    use super::*;

    const NOW: Instant = Instant::from_micros(1);

    fn pair() -> (Stream, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let peer = Peer::connect(listener.local_addr().expect("bound")).expect("listening");
        let (socket, _) = listener.accept().expect("connecting");
        socket.set_nonblocking(true).expect("a socket");
        (Stream::new(TcpStream::from_std(socket)), peer)
    }

    #[expect(clippy::disallowed_methods, reason = "real sockets need the real clock for their deadline")]
    fn read(stream: &mut Stream, buffer: &mut [u8; SCRATCH]) -> Arrived {
        let deadline = Real::now() + Duration::from_secs(10);
        loop {
            match stream.read(buffer).expect("an open socket") {
                Arrived::Nothing => assert!(Real::now() < deadline, "nothing arrived"),
                arrived => return arrived,
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn bytes_held_back_stand_before_those_that_follow() {
        let (mut stream, mut peer) = pair();
        let mut buffer = [0; SCRATCH];
        peer.write_all(b"abc").expect("room");
        assert_eq!(read(&mut stream, &mut buffer), Arrived::Bytes(3));
        stream.hold(b"bc");
        assert_eq!(stream.read(&mut buffer).expect("open"), Arrived::Nothing);
        assert!(!stream.may_read());
        peer.write_all(b"de").expect("room");
        assert_eq!(read(&mut stream, &mut buffer), Arrived::Bytes(4));
        assert_eq!(&buffer[..4], b"bcde");
        drop(peer);
        assert_eq!(read(&mut stream, &mut buffer), Arrived::End);
    }

    #[test]
    fn a_peer_that_reads_nothing_is_bounded_and_not_read_from() {
        let (mut stream, mut peer) = pair();
        let chunk = [7; 400];
        let mut written = 0usize;
        let error = loop {
            match stream.write(NOW, &chunk) {
                Ok(()) => written += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!(stream.waiting_since(), Some(NOW));
        assert!(!stream.may_read());
        let mut seen = 0;
        let mut buffer = [0; SCRATCH];
        while seen < written {
            seen += peer.read(&mut buffer).expect("bytes wait");
            stream.flush(NOW).expect("open");
        }
        assert!(stream.flush(NOW).expect("open"));
        assert_eq!((seen, stream.waiting_since()), (written, None));
        assert!(stream.may_read());
    }
}
