//! The parent, as its worker sees it.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use opentelemetry::metrics::Meter;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Signal, set_parent_process_death_signal};
use sluice_svc::shutdown::Shutdown;

use crate::config::ParentConfig;
use crate::parent::message::{Message, MessageError, receive, send};
use crate::parent::policy::Limits;
use crate::parent::supervise::blocked;

/// The parent of this process.
#[derive(Debug)]
pub struct Parent {
    link: OwnedFd,
    restarts: u32,
    last_end: u8,
    hung: u32,
    kept: Vec<UdpSocket>,
}

/// Why there is no parent, or why it cannot be told anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParentError {
    /// Standard input does not lead to one.
    #[error("no parent on standard input ({0}): `--worker` is for sluice-edge itself, start it without")]
    None(#[source] MessageError),
    /// The system refuses.
    #[error("the system refuses a resource: {0}")]
    System(#[from] io::Error),
    /// It did not take the sockets.
    #[error("the parent does not take the UDP sockets: {0}")]
    Keep(#[source] MessageError),
}

impl Parent {
    /// Takes up what the parent put on standard input. From now on this process is killed when the parent dies in whatever way. To be called
    /// before there are other threads: what it says about signals holds for those that are started later.
    ///
    /// # Errors
    ///
    /// [`ParentError`]; this process was not started by [`super::run`], or that one is gone.
    pub fn of_this_process() -> Result<Self, ParentError> {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
        blocked().thread_unblock().map_err(io::Error::from)?;
        rustix::thread::set_name(c"sluice-worker").map_err(io::Error::from)?;
        let link = io::stdin().as_fd().try_clone_to_owned()?;
        let mut kept = Vec::new();
        let start = receive(&link, &mut kept, RecvFlags::empty()).map_err(ParentError::None)?;
        let Message::Start { restarts, last_end, hung, sockets } = start else {
            return Err(ParentError::None(MessageError::Malformed));
        };
        while kept.len() < usize::from(sockets) {
            receive(&link, &mut kept, RecvFlags::empty()).map_err(ParentError::None)?;
        }
        let kept = kept.into_iter().map(UdpSocket::from).collect();
        Ok(Self { link, restarts, last_end, hung, kept })
    }

    /// Sockets of the worker before, in the order of its shards; none at the first start. What came meanwhile waits in them.
    pub(crate) fn take_sockets(&mut self) -> Vec<UdpSocket> {
        std::mem::take(&mut self.kept)
    }

    /// Requests `shutdown` when the parent says so, and ends the process when it says so again, or is gone.
    ///
    /// # Errors
    ///
    /// No thread.
    pub(crate) fn obey(&self, shutdown: &Shutdown) -> io::Result<()> {
        let (link, shutdown) = (self.link.try_clone()?, shutdown.clone());
        std::thread::Builder::new().name("parent".to_owned()).spawn(move || obey(&link, &shutdown)).map(drop)
    }

    /// Says how many workers went before, in the log and as a metric.
    pub(crate) fn report(&self, meter: &Meter) {
        let (restarts, hung) = (self.restarts, self.hung);
        if restarts > 0 {
            tracing::warn!(restarts, hung, last_end = self.last_end, "the worker before this one has died");
        }
        let _registered = meter
            .u64_observable_counter("sluice.edge.worker.restarts")
            .with_description("workers started in place of one that died, since the parent's start")
            .with_callback(move |observer| observer.observe(restarts.into(), &[]))
            .build();
        let _registered = meter
            .u64_observable_counter("sluice.edge.worker.hung")
            .with_description("workers killed by the parent because they hung, since the parent's start")
            .with_callback(move |observer| observer.observe(hung.into(), &[]))
            .build();
    }

    /// A way to tell the parent that all of this process turns.
    ///
    /// # Errors
    ///
    /// No descriptor.
    pub(crate) fn heart(&self, config: &ParentConfig) -> io::Result<Heart> {
        Ok(Heart { link: self.link.try_clone()?, patience: config.worker_patience })
    }

    /// Gives copies of the sockets to the parent, in place of what it kept before: devices are served from now on.
    ///
    /// # Errors
    ///
    /// [`ParentError`]; the parent is gone.
    pub(crate) fn keep(&self, config: &ParentConfig, sockets: &[OwnedFd]) -> Result<(), ParentError> {
        let limits =
            Limits { restarts: config.restarts, longest_pause: config.longest_pause, linger: config.linger };
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        // As many as there are shards at most.
        let count = u16::try_from(sockets.len()).unwrap_or(u16::MAX);
        let keep = Message::Keep { limits, sockets: count };
        send(&self.link, keep, &sockets, SendFlags::empty()).map_err(ParentError::Keep)
    }
}

/// Beats to the parent.
#[derive(Debug)]
pub(crate) struct Heart {
    link: OwnedFd,
    patience: Duration,
}

impl Heart {
    /// Says that all of this process turns. After the first time the parent kills it when that is not said for too long.
    pub(crate) fn beat(&self) {
        let beat = Message::Beat { patience: self.patience };
        // A parent that is stopped does not read, and has enough to read when it goes on; that it is gone is heard elsewhere.
        let _ = send(&self.link, beat, &[], SendFlags::DONTWAIT);
    }
}

fn obey(link: &OwnedFd, shutdown: &Shutdown) {
    let mut asked = false;
    loop {
        match receive(link, &mut Vec::new(), RecvFlags::empty()) {
            Ok(Message::Stop) if asked => {
                tracing::warn!("second request to stop, ending without a drain");
                std::process::exit(128 + Signal::TERM.as_raw());
            }
            Ok(Message::Stop) => {
                tracing::info!("asked to stop");
                asked = true;
                shutdown.trigger();
            }
            Ok(_) => {}
            Err(error) => {
                // The kernel kills us, too; it may be that it was not asked to in time.
                tracing::error!(%error, "the parent is gone, ending without a drain");
                std::process::exit(1);
            }
        }
    }
}
