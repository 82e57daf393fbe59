//! Devices over TCP that have everything sealed before the clock starts, so that the generator costs next to nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use usmp::crypto::AwsLc;
use usmp::device::{Config, Event, Psk, TcpDevice};
use usmp::wire::MAX_FRAME;
use usmp::{DeviceId, Instant, Secret};

use crate::swarm::Member;

/// Longest wait for an answer in the handshake, and for the edge to take more bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connected device and the frames it will send.
pub(crate) struct Burst {
    stream: TcpStream,
    frames: Vec<u8>,
}

impl Burst {
    /// Connects and seals `records` records of `size` bytes.
    pub(crate) fn prepare(edge: SocketAddr, member: &Member, records: usize, size: usize) -> Result<Self> {
        let mut stream = TcpStream::connect(edge)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // The machine's clock stands still: no record is late here, and nothing waits for a timer.
        let now = Instant::ZERO;
        let psk = Psk::new(member.psk.expose())?;
        let mut device = TcpDevice::<AwsLc>::connect(
            now,
            DeviceId(*member.id.as_bytes()),
            psk,
            Secret::new(rand::random()),
            Config::default(),
        );
        let mut out = [0; MAX_FRAME];
        let mut buffer = [0; 2048];
        loop {
            while let Some(length) = device.poll_transmit(now, &mut out) {
                stream.write_all(&out[..length])?;
            }
            match device.poll_event() {
                Some(Event::Connected { .. }) => break,
                Some(Event::Closed(reason)) => bail!("the edge refuses a device: {reason:?}"),
                _ => {}
            }
            let length = stream.read(&mut buffer)?;
            ensure!(length > 0, "the edge closes the connection of a device");
            device.handle_bytes(now, &buffer[..length]);
        }
        let payload = vec![b'x'; size];
        let mut frames = Vec::new();
        for _ in 0..records {
            device.send(&payload)?;
            while let Some(length) = device.poll_transmit(now, &mut out) {
                frames.extend_from_slice(&out[..length]);
            }
            while device.poll_event().is_some() {}
        }
        Ok(Self { stream, frames })
    }

    /// Hands everything to the connection; gives it back so that it stays open.
    pub(crate) fn send(mut self) -> Result<TcpStream> {
        self.stream.write_all(&self.frames)?;
        Ok(self.stream)
    }
}
