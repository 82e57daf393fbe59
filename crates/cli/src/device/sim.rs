//! `sluice device sim`, and the devices of `sluice dev --simulate`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sluice_sim::{CloseReason, Config, Connection, Happening, Target};
use sluice_types::{DeviceId, Psk};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::read_key;
use crate::args::SimArgs;
use crate::output::Printer;

/// What a device sends, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// 0: without end.
    pub(crate) count: u64,
    pub(crate) interval: Duration,
    /// Bytes per record; `None`: a small JSON reading.
    pub(crate) size: Option<u16>,
}

/// What a connection came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Whether the session was open at all.
    pub(crate) connected: bool,
    /// Records that the edge acknowledged (UDP), or that the connection took (TCP).
    pub(crate) sent: u64,
    /// Records that were given up.
    pub(crate) failed: u64,
    /// Messages from the server.
    pub(crate) received: u64,
}

/// Reads `tcp://HOST:PORT` or `udp://HOST:PORT` and looks the host up.
async fn parse_target(url: &str) -> Result<Target> {
    let (udp, host) = match (url.strip_prefix("udp://"), url.strip_prefix("tcp://")) {
        (Some(host), _) => (true, host),
        (_, Some(host)) => (false, host),
        _ => bail!("`{url}` is no address of an edge: write tcp://HOST:PORT or udp://HOST:PORT"),
    };
    let mut found =
        tokio::net::lookup_host(host).await.with_context(|| format!("cannot look up `{host}`"))?;
    let address = found.next().with_context(|| format!("`{host}` has no address"))?;
    Ok(if udp { Target::Udp(address) } else { Target::Tcp(address) })
}

pub(super) async fn run(args: SimArgs, printer: Printer) -> Result<()> {
    let psk = read_key(&args.psk_file, args.psk_format.into())?;
    let target = parse_target(&args.connect).await?;
    let schedule = Schedule { count: args.count, interval: args.interval, size: args.size };
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let (tally, reason) = run_device(target, args.id, &psk, schedule, &stop).await?;
    let verb = if matches!(target, Target::Udp(_)) { "committed" } else { "sent" };
    let Tally { connected, sent, failed, received } = tally;
    printer.done(
        &format!("{verb} {sent}, failed {failed}, received {received}"),
        &json!({ "device": args.id, "connected": connected, verb: sent, "failed": failed, "received": received }),
    );
    match reason {
        CloseReason::Bye | CloseReason::ByeUnacknowledged => Ok(()),
        other if tally.connected => bail!("the connection to {} ended: {other}", args.connect),
        // A server says nothing to a device that it does not accept.
        other => bail!(
            "no session with {}: {other}; is {} registered there, not revoked, and this its key?",
            args.connect,
            args.id
        ),
    }
}

/// Connects, sends as scheduled, and says goodbye at the end of the schedule or when told to stop.
pub(crate) async fn run_device(
    target: Target,
    id: DeviceId,
    psk: &Psk,
    schedule: Schedule,
    stop: &CancellationToken,
) -> Result<(Tally, CloseReason)> {
    let opened = Connection::open(target, *id.as_bytes(), psk.expose(), Config::default()).await;
    let mut device = opened.with_context(|| match target {
        Target::Tcp(address) => format!("cannot connect to tcp://{address}"),
        Target::Udp(address) => format!("cannot connect to udp://{address}"),
    })?;
    let mut tally = Tally::default();
    let (mut started, mut under_way, mut leaving) = (0_u64, false, false);
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            happening = device.next() => match happening {
                Happening::Connected => {
                    tally.connected = true;
                    due = Some(Instant::now());
                }
                Happening::Done => {
                    tally.sent += 1;
                    under_way = false;
                }
                Happening::GivenUp => {
                    tally.failed += 1;
                    under_way = false;
                }
                Happening::Message(_) => tally.received += 1,
                Happening::Rekeyed => {}
                Happening::Closed(reason) => return Ok((tally, reason)),
            },
            () = until(due), if !under_way && !leaving => {
                // A tick that came while the record before was under way is skipped, as a sensor would.
                due = due.map(|at| (at + schedule.interval).max(Instant::now()));
                under_way = device.send(&reading(started, schedule.size)).is_ok();
                started += u64::from(under_way);
            }
            () = stop.cancelled(), if !leaving => {
                leaving = true;
                device.bye();
            }
        }
        if schedule.count > 0 && started == schedule.count && !under_way && !leaving {
            leaving = true;
            device.bye();
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn reading(number: u64, size: Option<u16>) -> Vec<u8> {
    match size {
        Some(size) => vec![b'x'; usize::from(size)],
        None => format!("{{\"n\":{number},\"temperature\":{}.5}}", 20 + number % 5).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_names_its_transport() {
        let address = ([127, 0, 0, 1], 9000).into();
        assert_eq!(parse_target("udp://127.0.0.1:9000").await.expect("an address"), Target::Udp(address));
        assert_eq!(parse_target("tcp://127.0.0.1:9000").await.expect("an address"), Target::Tcp(address));
        for wrong in ["127.0.0.1:9000", "http://127.0.0.1:9000", "udp://127.0.0.1"] {
            assert!(parse_target(wrong).await.is_err(), "{wrong}");
        }
    }
}
