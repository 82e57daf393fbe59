//! Where a pod is reached by the others: a line for each of them.
//!
//! A pod advertises one address to all. Who dials it is found out from the system: the process that has the dialing socket also has the
//! socket on which it listens for the others, whose port is known.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use sluice_test_env::Port;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::line::{Condition, Line};

/// A listening socket in `/proc/net/tcp`, and one with a connection.
const LISTEN: &str = "0A";
const ESTABLISHED: &str = "01";

/// On which port each pod listens for the others, by its number.
#[derive(Debug, Clone, Default)]
pub(super) struct Listeners(Arc<Mutex<BTreeMap<usize, u16>>>);

impl Listeners {
    pub(super) fn add(&self, pod: usize, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pod, port);
    }

    /// The pod whose process has the socket on loopback with this port.
    fn who(&self, dialing: u16) -> Option<usize> {
        let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
        let dials = socket(&sockets, dialing, ESTABLISHED)?;
        let holder =
            processes().into_iter().map(|process| held(&process)).find(|held| held.contains(&dials))?;
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = listeners.iter().filter(|&(_, &port)| {
            socket(&sockets, port, LISTEN).is_some_and(|listens| holder.contains(&listens))
        });
        own.next().map(|(&pod, _)| pod)
    }
}

/// The name of a socket in a process's folder, by its own port and state.
fn socket(sockets: &str, port: u16, state: &str) -> Option<String> {
    let own = format!(":{port:04X}");
    let line =
        sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|fields| {
            fields.get(1).is_some_and(|local| local.ends_with(&own)) && fields.get(3) == Some(&state)
        })?;
    Some(format!("socket:[{}]", line.get(9)?))
}

fn processes() -> Vec<std::path::PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.map(|entry| entry.path()).filter(|path| path.join("fd").is_dir()).collect()
}

/// What a process has open; nothing of one that is gone, or somebody else's.
fn held(process: &Path) -> Vec<String> {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let names = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Lines to one pod, one for each pod that dials it; stops when dropped.
#[derive(Debug)]
pub(super) struct Junction {
    address: SocketAddr,
    lines: Arc<Mutex<Lines>>,
    _port: Port,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Lines {
    server: SocketAddr,
    /// Of dialers that come later.
    condition: Condition,
    /// One is for whoever is no pod, or is gone already.
    by_dialer: BTreeMap<Option<usize>, Line>,
}

impl Lines {
    fn of(&mut self, dialer: Option<usize>) -> Result<&Line> {
        use std::collections::btree_map::Entry;
        match self.by_dialer.entry(dialer) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let line = Line::start(self.server)?;
                line.set(self.condition);
                Ok(new.insert(line))
            }
        }
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Junction {
    /// In front of the pod that listens for others at `server`.
    pub(super) fn start(server: SocketAddr, listeners: Listeners) -> Result<Self> {
        let port = Port::claim()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address)).context("no port for a junction")?;
        let lines = Lines { server, condition: Condition::Open, by_dialer: BTreeMap::new() };
        let lines = Arc::new(Mutex::new(lines));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&lines);
        std::thread::Builder::new().name("junction".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, shared, listeners) => {}
                    // The junction was dropped.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, lines, _port: port, _stop: stop })
    }

    /// What the pod tells the others.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The ways of all who dial, and will.
    pub(super) fn set_all(&self, condition: Condition) {
        let mut lines = lock(&self.lines);
        lines.condition = condition;
        lines.by_dialer.values().for_each(|line| line.set(condition));
    }

    /// The way of one pod.
    pub(super) fn set(&self, dialer: usize, condition: Condition) -> Result<()> {
        lock(&self.lines).of(Some(dialer))?.set(condition);
        Ok(())
    }

    /// The pods that have dialed so far.
    pub(super) fn dialers(&self) -> Vec<Option<usize>> {
        lock(&self.lines).by_dialer.keys().copied().collect()
    }
}

async fn accept(listener: TcpListener, lines: Arc<Mutex<Lines>>, listeners: Listeners) {
    loop {
        // The process that connects may be killed meanwhile.
        let Ok((near, dialer)) = listener.accept().await else { continue };
        let (lines, listeners) = (Arc::clone(&lines), listeners.clone());
        // Reading /proc and starting a line block.
        let line = tokio::task::spawn_blocking(move || {
            let dialer = listeners.who(dialer.port());
            lock(&lines).of(dialer).map(Line::address)
        });
        tokio::spawn(async move {
            // Without a line the near side is told by the end of its connection.
            if let Ok(Ok(line)) = line.await {
                carry(near, line).await;
            }
        });
    }
}

/// One connection until its end, of which both sides are told, however it comes.
async fn carry(mut near: TcpStream, line: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(line).await else { return };
    for stream in [&near, &far] {
        // A stream that has ended already says so when it is read.
        let _ = stream.set_nodelay(true);
    }
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as Listener;
    use std::net::TcpStream as Stream;

    use super::*;

    #[test]
    fn a_dialer_is_known_by_the_port_on_which_it_listens() {
        let (own, server) = (Listener::bind("127.0.0.1:0").unwrap(), Listener::bind("127.0.0.1:0").unwrap());
        let listeners = Listeners::default();
        let dialing = Stream::connect(server.local_addr().unwrap()).unwrap();
        let port = dialing.local_addr().unwrap().port();
        assert_eq!(listeners.who(port), None, "nobody is known");
        listeners.add(7, own.local_addr().unwrap().port());
        assert_eq!(listeners.who(port), Some(7));
        drop(own);
        assert_eq!(listeners.who(port), None, "it listens no longer");
    }
}
