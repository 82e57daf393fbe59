//! A line of TCP between a process and a server: it can go dark, break, and be slow.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_test_env::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::now;

/// Pieces on the way in one direction of one connection; a sender that is ahead by more waits.
const ON_THE_WAY: usize = 256;

/// What becomes of the bytes on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// They pass.
    #[default]
    Open,
    /// They pass this much later, in each direction.
    Slow(Duration),
    /// Nothing passes, ends of connections neither: as with packets that vanish, nobody is told anything. What was sent meanwhile arrives
    /// when the line is open again, as TCP would send it again.
    Dark,
    /// Connections break, and so does every new one: as with a server that is not there.
    Broken,
}

/// A line to one server; stops when dropped.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    condition: watch::Sender<Condition>,
    _port: Option<Port>,
    _stop: oneshot::Sender<()>,
}

impl Line {
    /// A line to `server`, from a port of its own.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let port = Port::claim()?;
        let line = Self::at(port.number(), server)?;
        Ok(Self { _port: Some(port), ..line })
    }

    /// A line to `server` from this port on loopback, which the caller holds.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn at(port: u16, server: SocketAddr) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address)).context("no port for a line")?;
        let condition = watch::Sender::new(Condition::Open);
        let (stop, stopped) = oneshot::channel();
        let conditions = condition.subscribe();
        std::thread::Builder::new().name("line".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, server, conditions) => {}
                    // The line was dropped.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, condition, _port: None, _stop: stop })
    }

    /// Where the process shall connect instead of to the server.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it is like this.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, conditions: watch::Receiver<Condition>) {
    loop {
        // The process that connects may be killed meanwhile.
        let Ok((near, _)) = listener.accept().await else { continue };
        let mut conditions = conditions.clone();
        tokio::spawn(async move {
            let carried = conditions.clone();
            tokio::select! {
                () = carry(near, server, &carried) => {}
                _ = conditions.wait_for(|condition| *condition == Condition::Broken) => {}
            }
        });
    }
}

/// One connection until its end.
async fn carry(near: TcpStream, server: SocketAddr, conditions: &watch::Receiver<Condition>) {
    let mut lit = conditions.clone();
    if lit.wait_for(|condition| *condition != Condition::Dark).await.is_err() {
        return;
    }
    // Nobody is there: the near side is told by the end of its connection.
    let Ok(far) = TcpStream::connect(server).await else { return };
    for stream in [&near, &far] {
        // A stream that has ended already says so when it is read.
        let _ = stream.set_nodelay(true);
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(carry_one_way(near_in, far_out, conditions), carry_one_way(far_in, near_out, conditions));
}

async fn carry_one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    conditions: &watch::Receiver<Condition>,
) {
    let (pieces, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let reading = async {
        let mut bytes = vec![0; 16 * 1024];
        // The end of one direction, however it comes, is all that the other side is told.
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let delay = match *conditions.borrow() {
                Condition::Slow(delay) => delay,
                _ => Duration::ZERO,
            };
            if pieces.send((now() + delay, bytes[..length].to_vec())).await.is_err() {
                break;
            }
        }
        drop(pieces);
    };
    let mut lit = conditions.clone();
    let writing = async {
        loop {
            let piece = arriving.recv().await;
            if let Some((due, _)) = &piece {
                tokio::time::sleep_until((*due).into()).await;
            }
            if lit.wait_for(|condition| *condition != Condition::Dark).await.is_err() {
                return;
            }
            let Some((_, bytes)) = piece else { break };
            if to.write_all(&bytes).await.is_err() {
                // Dropped, the receiver ends the reading.
                arriving.close();
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    /// Long enough to be sure that nothing comes; what comes late makes the test fail to see a fault, not fail.
    const SILENCE: Duration = Duration::from_millis(200);

    /// A server that says everything back.
    fn echo() -> SocketAddr {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        address
    }

    fn connect(line: &Line) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(line.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn ask(stream: &mut std::net::TcpStream, word: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(word)?;
        let mut answer = vec![0; word.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn a_dark_line_keeps_what_is_said_until_it_is_open_again() {
        let line = Line::start(echo()).unwrap();
        let mut stream = connect(&line);
        assert_eq!(ask(&mut stream, b"one").unwrap(), b"one");
        line.set(Condition::Dark);
        let mut late = connect(&line);
        for stream in [&mut stream, &mut late] {
            stream.set_read_timeout(Some(SILENCE)).unwrap();
            let error = ask(stream, b"two").unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        }
        line.set(Condition::Open);
        for stream in [&mut stream, &mut late] {
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"two");
        }
    }

    #[test]
    fn a_broken_line_ends_connections_and_takes_no_others() {
        let line = Line::start(echo()).unwrap();
        let mut stream = connect(&line);
        assert_eq!(ask(&mut stream, b"one").unwrap(), b"one");
        line.set(Condition::Broken);
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "it goes on");
        assert!(ask(&mut connect(&line), b"two").is_err(), "a new connection is served");
        line.set(Condition::Open);
        assert_eq!(ask(&mut connect(&line), b"three").unwrap(), b"three");
    }

    #[test]
    fn on_a_slow_line_everything_comes_later() {
        let line = Line::start(echo()).unwrap();
        let mut stream = connect(&line);
        assert_eq!(ask(&mut stream, b"one").unwrap(), b"one");
        let delay = Duration::from_millis(100);
        line.set(Condition::Slow(delay));
        let start = now();
        assert_eq!(ask(&mut stream, b"two").unwrap(), b"two");
        let took = now().duration_since(start);
        assert!(took >= 2 * delay, "{took:?}");
    }
}
