//! What `sluice dev` shows: how to connect, then records as they arrive.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crossterm::{cursor, queue, terminal};
use sluice_bus::{BusConfig, Start as TailStart, Tail, TailedRecord, Topic, TopicNames};
use sluice_edge::EdgeHandle;
use sluice_svc::shutdown::Shutdown;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

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
    println!("\nMore devices: sluice device add ID --snippet python|arduino|idf. Ctrl-C stops and drains.\n");
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
        let topic = TopicNames::new(&bus.topic_prefix).of(Topic::Telemetry).to_owned();
        let tail = Tail::open(&bus, &topic, TailStart::End);
        // The receiver waits just below.
        let _ = opened.send(());
        let tail = match tail {
            Ok(tail) => tail,
            Err(error) => {
                tracing::error!(%error, "records are not shown");
                return;
            }
        };
        let shown =
            if std::io::stdout().is_terminal() { live(&tail, &edge, &over) } else { lines(&tail, &over) };
        if let Err(error) = shown {
            tracing::debug!(%error, "standard output went away; records are not shown any more");
        }
    });
    let _ = is_open.await;
    Viewer(task)
}

fn lines(tail: &Tail, over: &Shutdown) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    while !over.is_requested() {
        if let Some(record) = next(tail, DRAW_EVERY) {
            writeln!(out, "{}", text_line(&record))?;
            out.flush()?;
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the view is a driver: it shows a rate per second of this machine"
)]
fn live(tail: &Tail, edge: &EdgeHandle, over: &Shutdown) -> std::io::Result<()> {
    let mut last = VecDeque::with_capacity(LAST);
    let mut drawn = 0_u16;
    let (mut total, mut counted, mut since, mut rate) = (0_u32, 0_u32, Instant::now(), 0.0);
    let mut out = std::io::stdout();
    while !over.is_requested() {
        let draw_at = Instant::now() + DRAW_EVERY;
        while let Some(left) = draw_at.checked_duration_since(Instant::now()) {
            if let Some(record) = next(tail, left) {
                if last.len() == LAST {
                    last.pop_front();
                }
                last.push_back(text_line(&record));
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
