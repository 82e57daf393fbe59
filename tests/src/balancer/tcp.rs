//! Connections: each is carried to one backend, and cut with it.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Shared;
use super::flows::Cut;

pub(super) async fn accept(listener: TcpListener, table: &Shared) {
    loop {
        // An error is that of a device that went away before it was accepted.
        let Ok((device, _)) = listener.accept().await else { continue };
        let (backend, cuts) = {
            let mut table = table.lock();
            (table.choose(), table.cuts())
        };
        match backend {
            Some(backend) => {
                tokio::spawn(carry(device, backend, cuts, table.clone()));
            }
            None => table.lock().counts_mut().refused += 1,
        }
    }
}

/// Until either side ends it, the backend is not healthy any more, or the balancer forgets.
async fn carry(mut device: TcpStream, backend: SocketAddr, mut cuts: watch::Receiver<Cut>, table: Shared) {
    let Ok(mut stream) = TcpStream::connect(backend).await else {
        table.lock().counts_mut().refused += 1;
        return;
    };
    // Neither side's bytes shall wait; where the system refuses, they wait a little.
    let _ = (device.set_nodelay(true), stream.set_nodelay(true));
    table.lock().counts_mut().backends.entry(backend).or_default().connections += 1;
    let begun = cuts.borrow().generation;
    let is_cut = |cut: &Cut| cut.generation != begun || !cut.kept.contains(&backend);
    tokio::select! {
        // How it ended is the business of the two sides.
        _ = copy_bidirectional(&mut device, &mut stream) => {}
        _ = cuts.wait_for(is_cut) => {}
    }
}
