//! What pods of two releases write for each other, and what they say of it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use usmp::wire::{Frame, FrameType, HelloRetry};

use super::cluster::Cluster;
use super::fleet::DeviceLog;
use super::probe::{Probe, Probes, Step};
use crate::clock::wait_for;
use crate::edge::Edge;
use crate::hostile::hello;
use crate::sdk::Transport;
use crate::world::Credentials;

/// For what a busy machine does, in the end.
const WITHIN: Duration = Duration::from_secs(60);

/// Datagrams that may come before the one that is waited for.
const OTHERS: usize = 50;

/// Sessions after which two holders of a key are suspected at the latest, and wrong proofs after which a device waits.
const ENOUGH: usize = 12;

/// What a pod counts that it was given and did not take, because it is of a version that it does not know, or broken; with a label.
const NOT_TAKEN: [(&str, &str); 7] = [
    ("sluice_edge_store_distrusted_total", ""),
    ("sluice_edge_slots_snapshots_discarded_total", ""),
    ("sluice_peers_refused_hello_total", ""),
    ("sluice_peers_frames_bad_total", ""),
    ("sluice_edge_dropped_total", "reason=\"cookie\""),
    ("sluice_edge_dropped_total", "reason=\"forged_session\""),
    ("sluice_edge_dropped_total", "reason=\"forged\""),
];

/// Frames of links that came with a later release. A pod of an earlier one skips them, as docs/peers.md says of each kind what becomes of it
/// then; one of the present release knows them all.
const SKIPPED: (&str, &str) = ("sluice_peers_frames_unknown_total", "");

/// What it says of the same in its log.
const SAID: [&str; 6] = [
    "newer release",
    "is not known here",
    "cannot be trusted",
    "hello refused",
    "first frame refused",
    "its ledger is read from the start",
];

/// Everything a pod says that it did not take, because of its version or else; of a pod of an `earlier` release without kinds of frames that it
/// may skip.
///
/// # Errors
/// It does not answer, or does not count such things.
pub fn not_taken(edge: &Edge, earlier: bool) -> Result<Vec<String>> {
    let (_, metrics) = edge.ask("GET", "/metrics", b"")?;
    let mut found = Vec::new();
    let skipped = (!earlier).then_some(SKIPPED);
    for (name, label) in NOT_TAKEN.into_iter().chain(skipped) {
        ensure!(metrics.contains(name) && metrics.contains(label), "no metric {name} {label}: {metrics}");
        let labels: &[&str] = if label.is_empty() { &[] } else { &[label] };
        let count = edge.metric(name, labels)?;
        found.extend((count > 0.0).then(|| format!("{name} {label}: {count}")));
    }
    let log = edge.log()?;
    found.extend(log.lines().filter(|line| SAID.iter().any(|said| line.contains(said))).map(str::to_owned));
    Ok(found)
}

/// Devices that leave something at one pod which another must read.
#[derive(Debug)]
pub struct Crossing {
    probes: Probes,
    /// Number of the next device, and of its messages.
    number: u32,
    logs: Vec<DeviceLog>,
}

impl Crossing {
    /// Devices with numbers from this one on.
    ///
    /// # Errors
    /// No runtime can be had.
    pub fn new(number: u32) -> Result<Self> {
        Ok(Self { probes: Probes::start()?, number, logs: Vec::new() })
    }

    /// What its devices were told.
    #[must_use]
    pub fn into_logs(self) -> Vec<DeviceLog> {
        self.logs
    }

    /// Everything that one pod writes and another must understand, beside what sessions need: a cookie, a wait after failed proofs, the
    /// quarantine of a suspected clone, and a revocation. The pods' settings have `edge.clones.quarantine` on.
    ///
    /// # Errors
    /// The second pod does not do as the first one says.
    pub fn all(&mut self, cluster: &Cluster, from: usize, to: usize) -> Result<()> {
        let what = |kind| format!("{kind} from pod {from} to pod {to}");
        let (first, second) = (cluster.pod(from), cluster.pod(to));
        cookie(&cluster.world().device()?, first.address(), second.address())
            .with_context(|| what("cookie"))?;
        self.penalty(&cluster.world().device()?, first, second).with_context(|| what("penalty"))?;
        self.quarantine(cluster, first, second).with_context(|| what("quarantine"))?;
        let revoked = cluster.world().device()?;
        let mut probe = self.session(&revoked, first)?;
        let position = cluster.world().revoke(revoked.id)?;
        let outstanding = cluster.world().revocation_outstanding(position, WITHIN)?;
        ensure!(
            outstanding.is_empty(),
            "{}: {outstanding:?} do not say that it is in force",
            what("revocation")
        );
        self.refused(&revoked, second).with_context(|| what("revocation"))?;
        probe.step(WITHIN).with_context(|| what("end of a revoked session"))?;
        self.logs.push(of_one_session(&probe));
        Ok(())
    }

    fn connect(&mut self, device: &Credentials, edge: &Edge) -> Probe {
        self.probes.connect(device, self.number, Transport::Udp, edge.address())
    }

    /// A session with a first message.
    fn session(&mut self, device: &Credentials, edge: &Edge) -> Result<Probe> {
        self.number += 1;
        let mut probe = self.connect(device, edge);
        probe.expect(&Step::Connected, WITHIN)?;
        probe.get_through(WITHIN)?;
        Ok(probe)
    }

    /// No session for a device.
    fn refused(&mut self, device: &Credentials, edge: &Edge) -> Result<()> {
        match self.connect(device, edge).step(WITHIN)? {
            Step::Closed(_) => Ok(()),
            step => bail!("expected no session, seen {step:?}"),
        }
    }

    /// A device fails at one pod until it has to wait, and another pod hears of it.
    fn penalty(&mut self, device: &Credentials, from: &Edge, to: &Edge) -> Result<()> {
        let wrong = Credentials { psk: Credentials::unregistered().psk, id: device.id };
        let heard = || to.metric("sluice_edge_penalties_heard_total", &[]);
        let before = heard()?;
        for _ in 0..ENOUGH {
            self.probes.connect(&wrong, self.number, Transport::Tcp, from.address()).step(WITHIN)?;
            if heard()? > before {
                break;
            }
        }
        let all = || heard().map_err(|error| error.to_string());
        wait_for("a penalty to be heard", WITHIN, || {
            all().and_then(|now| if now > before { Ok(()) } else { Err(format!("{now}")) })
        })
    }

    /// A device takes the place of its own session at one pod until it is refused, and so it is at another.
    fn quarantine(&mut self, cluster: &Cluster, from: &Edge, to: &Edge) -> Result<()> {
        // A pod that serves no slot has its sessions at another one.
        let count = || {
            let pods = cluster.running().into_iter();
            pods.map(|pod| cluster.pod(pod).metric("sluice_edge_devices_quarantined_total", &[]))
                .sum::<Result<f64>>()
        };
        let before = count()?;
        let device = &cluster.world().device()?;
        let mut last = self.session(device, from)?;
        for _ in 0..ENOUGH {
            if count()? > before {
                break;
            }
            let mut next = self.connect(device, from);
            next.follow(last);
            last = next;
            match last.step(WITHIN)? {
                // The session claims its device with its first message; it may be the one that ends.
                Step::Connected => {
                    let _ = last.get_through(WITHIN);
                }
                _ => break,
            }
        }
        let now = || count().map_err(|error| error.to_string());
        wait_for("a quarantine", WITHIN, || {
            now().and_then(|now| if now > before { Ok(()) } else { Err(format!("{now}")) })
        })?;
        self.logs.push(of_one_session(&last));
        self.refused(device, to)
    }
}

/// These sessions are opened on purpose: none of them is one that a fault caused.
fn of_one_session(probe: &Probe) -> DeviceLog {
    DeviceLog { sessions: 1, closed: Default::default(), given_up: 0, ..probe.log().clone() }
}

/// The cookie that one pod gave opens the handshake at another.
fn cookie(device: &Credentials, from: SocketAddr, to: SocketAddr) -> Result<()> {
    // The base point of the curve.
    let mut public_key = [0; 32];
    public_key[0] = 9;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no socket")?;
    socket.set_read_timeout(Some(WITHIN))?;
    socket.send_to(&hello(device.id, public_key, None), from)?;
    let retry = frame_of(&socket, from, FrameType::HelloRetry)?;
    let retry =
        HelloRetry::parse(&Frame::parse(&retry).ok().context("no frame")?).ok().context("no cookie")?;
    socket.send_to(&hello(device.id, public_key, Some(retry.cookie)), to)?;
    frame_of(&socket, to, FrameType::Challenge).map(|_| ())
}

/// The next frame of that type from there; of other types nothing that is owed an answer comes.
fn frame_of(socket: &UdpSocket, from: SocketAddr, wanted: FrameType) -> Result<Vec<u8>> {
    let mut datagram = [0; 2048];
    for _ in 0..OTHERS {
        let (length, sender) =
            socket.recv_from(&mut datagram).with_context(|| format!("no {wanted:?} came"))?;
        let frame_type = Frame::parse(&datagram[..length]).map(|frame| frame.header().frame_type);
        if sender == from && frame_type == Ok(wanted) {
            return Ok(datagram[..length].to_vec());
        }
    }
    bail!("{OTHERS} datagrams and no {wanted:?}")
}
