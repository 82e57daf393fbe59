//! What `sluice dev` shows: how to connect, then records as they arrive and devices that are refused.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crossterm::{cursor, queue, terminal};
use sluice_bus::{BusConfig, BusError, Start as TailStart, Tail, TailedRecord, Topic, TopicNames};
use sluice_edge::EdgeHandle;
use sluice_svc::shutdown::Shutdown;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::refusals;
use super::sample::Sample;
use crate::args::Platform;
use crate::control::Info;
use crate::snippets::Snippet;
use crate::tail::text_line;

/// How often the live view is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// Records that the live view keeps on the screen.
const LAST: usize = 8;

pub(crate) struct Start<'a> {
    pub(crate) info: &'a Info,
    pub(crate) embedded: bool,
    pub(crate) sample: &'a Sample,
    /// Where a device dials.
    pub(crate) dial: SocketAddr,
    pub(crate) data_dir: &'a Path,
}

/// Says where everything is, and what to paste.
pub(crate) fn print_start(start: &Start<'_>) {
    let Start { info, embedded, sample, dial, data_dir } = start;
    println!("Sluice is ready.");
    println!("  devices   tcp://{}  udp://{}  (a board dials {dial})", info.tcp, info.udp);
    println!("  admin     http://{}/readyz  /metrics", info.admin);
    println!("  kafka     {}", info.kafka);
    println!("  data      {}", data_dir.display());
    if *embedded {
        println!(
            "  The broker is inside this process: in memory, 5 MiB or 100,000 records per partition, older ones"
        );
        println!(
            "  are dropped; Java's console consumer reads nothing from it. A Kafka of yours: --kafka HOST:PORT"
        );
    }
    println!("\nRead the records:");
    println!("  kcat -b {} -t sluice.telemetry -C -f '%k %s\\n'", info.kafka);
    println!("  sluice tail\n");
    match &sample.psk {
        None => println!("The sample device {} is revoked; register one: sluice device add ID", sample.id),
        Some(psk) => {
            let key = String::from_utf8_lossy(psk.expose());
            println!("A sample device is registered: {}  key (text): {key}", sample.id);
            println!("Connect it with the official Python SDK (pip install usmp):\n");
            let snippet =
                Snippet { platform: Platform::Python, device: sample.id, psk: Some(psk), server: *dial };
            for line in snippet.render().iter().flat_map(|text| text.lines()) {
                println!("{line}");
            }
        }
    }
    println!("\nMore devices: sluice device add ID --snippet python|arduino|idf. Ctrl-C stops and drains.");
    println!(
        "A device that is refused is named below; one that failed five times waits for up to a minute, also with the right key.\n"
    );
}

/// The task that shows records.
pub(crate) struct Viewer(JoinHandle<()>);

impl Viewer {
    pub(crate) async fn end(self, within: Duration) {
        let _ = tokio::time::timeout(within, self.0).await;
    }
}

/// Shows records until the process is over: a live view on a terminal, one line a record otherwise. Returns when it has
/// found the end of the topic, so that no record after that is missed.
pub(crate) async fn follow(bus: BusConfig, edge: EdgeHandle, over: Shutdown) -> Viewer {
    let (opened, is_open) = oneshot::channel();
    let task = tokio::task::spawn_blocking(move || {
        let shown = Shown::open(&bus);
        // The receiver waits just below.
        let _ = opened.send(());
        let shown = match shown {
            Ok(shown) => shown,
            Err(error) => {
                tracing::error!(%error, "records are not shown");
                return;
            }
        };
        let shown =
            if std::io::stdout().is_terminal() { live(&shown, &edge, &over) } else { lines(&shown, &over) };
        if let Err(error) = shown {
            tracing::debug!(%error, "standard output went away; records are not shown any more");
        }
    });
    let _ = is_open.await;
    Viewer(task)
}

/// The topics whose records are shown.
struct Shown {
    records: Tail,
    refusals: Tail,
}

impl Shown {
    fn open(bus: &BusConfig) -> Result<Self, BusError> {
        let names = TopicNames::new(&bus.topic_prefix);
        let tail = |topic| Tail::open(bus, names.of(topic), TailStart::End);
        Ok(Self { records: tail(Topic::Telemetry)?, refusals: tail(Topic::Security)? })
    }

    /// The next record. Waits.
    fn record(&self, within: Duration) -> Option<String> {
        next(&self.records, within).map(|record| text_line(&record))
    }

    /// What has come of refused devices. The edge sends one event a minute for each device and reason.
    fn refusals(&self) -> impl Iterator<Item = String> {
        std::iter::from_fn(|| next(&self.refusals, Duration::ZERO)).filter_map(|event| refusals::line(&event))
    }
}

fn lines(shown: &Shown, over: &Shutdown) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    while !over.is_requested() {
        for line in shown.record(DRAW_EVERY).into_iter().chain(shown.refusals()) {
            writeln!(out, "{line}")?;
            out.flush()?;
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the view is a driver: it shows a rate per second of this machine"
)]
fn live(shown: &Shown, edge: &EdgeHandle, over: &Shutdown) -> std::io::Result<()> {
    let mut last = VecDeque::with_capacity(LAST);
    let mut drawn = 0_u16;
    let (mut total, mut counted, mut since, mut rate) = (0_u32, 0_u32, Instant::now(), 0.0);
    let mut out = std::io::stdout();
    while !over.is_requested() {
        let draw_at = Instant::now() + DRAW_EVERY;
        while let Some(left) = draw_at.checked_duration_since(Instant::now()) {
            if let Some(line) = shown.record(left) {
                if last.len() == LAST {
                    last.pop_front();
                }
                last.push_back(line);
                total = total.wrapping_add(1);
            }
        }
        if since.elapsed() >= Duration::from_secs(1) {
            rate = f64::from(total.wrapping_sub(counted)) / since.elapsed().as_secs_f64();
            (counted, since) = (total, Instant::now());
        }
        let width = usize::from(terminal::size().map_or(80, |(width, _)| width));
        if drawn > 0 {
            queue!(out, cursor::MoveToPreviousLine(drawn))?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
        // These stay, above what is drawn anew.
        for line in shown.refusals() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{} sessions   {rate:.0} records/s   {total} records", edge.sessions())?;
        for line in &last {
            writeln!(out, "  {}", line.chars().take(width.saturating_sub(3)).collect::<String>())?;
        }
        out.flush()?;
        drawn = u16::try_from(last.len() + 1).unwrap_or(u16::MAX);
    }
    Ok(())
}

fn next(tail: &Tail, within: Duration) -> Option<TailedRecord> {
    tail.next(within).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the records to show");
        // The brokers are away; asking again at once would only fill the log.
        std::thread::sleep(within);
        None
    })
}
