//! The request to stop, and the signals that make it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Asks every part of a service to stop. Clones share one state; once requested, it stays so.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the stop.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the request.
    ///
    /// # Cancellation Safety
    /// Safe: nothing is lost when it is dropped.
    pub fn requested(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// A shutdown that is requested with this one, and can be requested alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }
}

/// Requests `shutdown` at the first SIGTERM or SIGINT, if nobody else has. A second one ends the process at once with status 128 plus the
/// signal's number: whoever repeats it does not want to wait for the drain.
///
/// # Errors
/// The handlers cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn on_signals(shutdown: &Shutdown) -> io::Result<()> {
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = shutdown.clone();
    // Ends with the process: a second signal must be heard during the drain.
    tokio::spawn(watch(terminate, interrupt, shutdown));
    Ok(())
}

async fn watch(mut terminate: Signal, mut interrupt: Signal, shutdown: Shutdown) {
    // Whether `shutdown` is requested does not count: whoever did that in another way may send a signal as well.
    let mut asked = false;
    loop {
        let number = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        };
        if asked {
            tracing::warn!(signal = number, "second request to stop, ending without a drain");
            std::process::exit(128 + number);
        }
        tracing::info!(signal = number, "asked to stop");
        asked = true;
        shutdown.trigger();
    }
}
