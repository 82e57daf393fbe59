//! The parent itself: one thread that waits for signals, for its worker's words, and for its worker's end.

use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process, wait};

use crate::parent::message::{Message, MessageError, receive, send};
use crate::parent::policy::{End, Limits, Next, Policy};
use crate::parent::watch::Watch;

/// The same file, even if another one lies in its place by now: a worker of another release would be a surprise.
const OWN_FILE: &str = "/proc/self/exe";

/// How often a worker that hung up is looked after, should its end be signalled to nobody (SIGCHLD ignored by whoever started us).
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Runs workers: this very file, with the same arguments (the first is the name it is called by) and `--worker`. Returns when one has ended
/// as it was asked to or before it served anybody, or when too many have died: with the status of that worker, 128 plus the signal's number
/// if it was killed.
///
/// A worker that is silent for longer than it said it would be is killed, and counts as one that died.
///
/// SIGTERM and SIGINT are handed on. To be called before there are other threads. Other children of this process, such as orphans
/// of a container, are reaped.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let signals = match signals() {
        Ok(signals) => signals,
        Err(error) => {
            say(format_args!("signals cannot be heard: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut supervisor = Supervisor {
        begun: begun(),
        signals,
        arguments,
        policy: Policy::default(),
        kept: None,
        stops: 0,
        restarts: 0,
        last_end: 0,
        hung: 0,
        patience: None,
    };
    let mut state = supervisor.start();
    loop {
        state = match supervisor.step(state) {
            Ok(state) => state,
            Err(code) => return code.into(),
        };
    }
}

/// The signals that concern the parent. It blocks them, its worker inherits that and has to undo it.
pub(super) fn blocked() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect()
}

/// Blocks the signals that concern us and opens the way on which they come instead. That works for process 1 of a container, too, for
/// which signals without a handler are dropped.
fn signals() -> nix::Result<SignalFd> {
    let mask = blocked();
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// The log's format is the worker's business; these lines are few and plain. A standard error that is gone is no reason to end.
fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "sluice-edge: {line}");
}

#[expect(clippy::disallowed_methods, reason = "this is the driver of the policy")]
fn begun() -> Instant {
    Instant::now()
}

/// The sockets, and what to do with them when nobody uses them.
#[derive(Debug)]
struct Kept {
    limits: Limits,
    sockets: Vec<OwnedFd>,
}

/// Sockets of which not all have come.
#[derive(Debug)]
struct Coming {
    kept: Kept,
    announced: usize,
}

#[derive(Debug)]
struct Worker {
    id: Pid,
    /// `None` when it hung up.
    link: Option<OwnedFd>,
    coming: Option<Coming>,
    started: Duration,
    /// `None` once it was killed.
    watch: Option<Watch>,
}

#[derive(Debug)]
enum State {
    Runs(Worker),
    /// Nobody serves.
    Dead {
        since: Duration,
        code: u8,
        next: Next,
    },
}

struct Supervisor<'a> {
    begun: Instant,
    signals: SignalFd,
    arguments: &'a [OsString],
    policy: Policy,
    /// What the last worker that served gave us.
    kept: Option<Kept>,
    /// Times somebody asked us to stop.
    stops: u32,
    restarts: u32,
    last_end: u8,
    /// Workers killed because they hung.
    hung: u32,
    /// How long a worker may be silent, as one said last.
    patience: Option<Duration>,
}

impl Supervisor<'_> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn start(&mut self) -> State {
        let started = self.now();
        match self.spawn() {
            Ok((id, link)) => {
                let watch = Some(Watch::start(started, self.patience));
                State::Runs(Worker { id, link: Some(link), coming: None, started, watch })
            }
            Err(error) => {
                say(format_args!("cannot start a worker: {error}"));
                self.ended(End::Unknown, started)
            }
        }
    }

    fn spawn(&self) -> std::io::Result<(Pid, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let sockets = self.sockets();
        let start = Message::Start {
            restarts: self.restarts,
            last_end: self.last_end,
            hung: self.hung,
            // As many as there are shards at most.
            sockets: u16::try_from(sockets.len()).unwrap_or(u16::MAX),
        };
        send(&ours, start, &sockets, SendFlags::DONTWAIT).map_err(std::io::Error::other)?;
        let (name, rest) = self.arguments.split_first().ok_or_else(|| std::io::Error::other("no name"))?;
        let child = Command::new(OWN_FILE)
            .arg0(name)
            .args(rest)
            .arg("--worker")
            .stdin(Stdio::from(theirs))
            .spawn()?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok((id.ok_or_else(|| std::io::Error::other("no process id"))?, ours))
    }

    fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.kept.iter().flat_map(|kept| &kept.sockets).map(AsFd::as_fd).collect()
    }

    /// Waits for something to happen and deals with it.
    fn step(&mut self, state: State) -> Result<State, u8> {
        let state = match state {
            State::Dead { next: Next::End(code), .. } => return Err(code),
            State::Dead { next: Next::Linger(until, code), .. } if until <= self.now() => return Err(code),
            State::Dead { next: Next::Restart(at), .. } if at <= self.now() => {
                self.restarts += 1;
                self.start()
            }
            other => other,
        };
        let link = self.wait(&state);
        let state = self.read_signals(state);
        Ok(match state {
            State::Runs(mut worker) => {
                if link {
                    self.listen(&mut worker);
                }
                self.judge(&mut worker);
                State::Runs(worker)
            }
            other => other,
        })
    }

    /// Kills the worker if it hangs. Its end is signalled like any other; one that does not die of it can only be waited for.
    fn judge(&mut self, worker: &mut Worker) {
        let now = self.now();
        let Some(silent) = worker.watch.as_mut().and_then(|watch| watch.handle_turn(now)) else { return };
        worker.watch = None;
        self.hung = self.hung.saturating_add(1);
        say(format_args!("the worker hangs: nothing was heard of it for {silent:.1?}; killing it"));
        let _ = kill_process(worker.id, rustix::process::Signal::KILL);
    }

    /// Whether the worker said something.
    fn wait(&self, state: &State) -> bool {
        let (link, limit) = match state {
            State::Runs(worker) => {
                let look = worker.link.is_none().then_some(LOOK_AGAIN);
                let turn = worker.watch.as_ref().and_then(Watch::poll_timeout);
                let turn = turn.map(|at| at.saturating_sub(self.now()));
                (worker.link.as_ref(), look.into_iter().chain(turn).min())
            }
            State::Dead { next: Next::Restart(at) | Next::Linger(at, _), .. } => {
                (None, Some(at.saturating_sub(self.now())))
            }
            State::Dead { .. } => (None, Some(Duration::ZERO)),
        };
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut ready = vec![PollFd::new(&self.signals, PollFlags::IN)];
        ready.extend(link.map(|link| PollFd::new(link, PollFlags::IN)));
        match poll(&mut ready, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // It does not happen; should it, this must not become a busy loop.
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
        ready.get(1).is_some_and(|link| !link.revents().is_empty())
    }

    fn read_signals(&mut self, mut state: State) -> State {
        let mut look = matches!(&state, State::Runs(Worker { link: None, .. }));
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                look = true;
            } else {
                state = self.stop(state);
            }
        }
        if look { self.reap(state) } else { state }
    }

    /// Somebody asked us to stop, for the first time or again.
    fn stop(&mut self, state: State) -> State {
        self.stops += 1;
        match state {
            State::Runs(worker) => {
                let told = worker
                    .link
                    .as_ref()
                    .is_some_and(|link| send(link, Message::Stop, &[], SendFlags::DONTWAIT).is_ok());
                if !told {
                    // It is gone, or does not listen.
                    let _ = kill_process(worker.id, rustix::process::Signal::TERM);
                }
                State::Runs(worker)
            }
            State::Dead { code, since, next } => {
                let linger = self.kept.as_ref().map_or(Duration::ZERO, |kept| kept.limits.linger);
                let next = next.asked_to_stop(self.stops > 1, since, linger, code);
                State::Dead { code, since, next }
            }
        }
    }

    /// Reaps whatever has ended.
    fn reap(&mut self, state: State) -> State {
        let State::Runs(mut worker) = state else {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            return state;
        };
        let end = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((id, status))) if id == worker.id => break end(status),
                // An orphan that became ours.
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return State::Runs(worker),
                // Somebody else reaped it.
                Err(_) => break End::Unknown,
            }
        };
        self.listen(&mut worker);
        let started = worker.started;
        drop(worker);
        self.ended(end, started)
    }

    fn ended(&mut self, end: End, started: Duration) -> State {
        let since = self.now();
        let kept = self.kept.as_ref().map(|kept| kept.limits);
        let next = self.policy.ended(end, (started, since), self.stops > 0, kept);
        let open = self.kept.as_ref().map_or(0, |kept| kept.sockets.len());
        match next {
            Next::Restart(at) => say(format_args!(
                "the worker {end}; its {open} UDP sockets stay open, another worker starts in {:?}",
                at.saturating_sub(since)
            )),
            Next::Linger(until, _) => say(format_args!(
                "the worker {end}, for the last time; its {open} UDP sockets close in {:?}",
                until.saturating_sub(since)
            )),
            // What ends by itself has said why.
            Next::End(_) if matches!(end, End::Exited(_)) => {}
            Next::End(_) => say(format_args!("the worker {end}")),
        }
        self.last_end = end.code();
        State::Dead { since, code: end.code(), next }
    }

    /// Reads what the worker said.
    fn listen(&mut self, worker: &mut Worker) {
        while let Some(link) = &worker.link {
            let mut sockets = worker.coming.as_mut().map(|coming| std::mem::take(&mut coming.kept.sockets));
            let into = sockets.get_or_insert_default();
            match (receive(link, into, RecvFlags::DONTWAIT), sockets.unwrap_or_default()) {
                (Ok(Message::Keep { limits, sockets: announced }), _) => {
                    let kept = Kept { limits, sockets: Vec::new() };
                    worker.coming = Some(Coming { kept, announced: announced.into() });
                }
                (Ok(Message::Sockets), sockets) if let Some(coming) = &mut worker.coming => {
                    coming.kept.sockets = sockets;
                }
                (Ok(Message::Beat { patience }), sockets) => {
                    // Between two messages with sockets as well.
                    if let Some(coming) = &mut worker.coming {
                        coming.kept.sockets = sockets;
                    }
                    self.patience = Some(patience);
                    if let Some(watch) = &mut worker.watch {
                        watch.heard(self.begun.elapsed(), patience);
                    }
                }
                (Err(MessageError::NotNow), sockets) => {
                    if let Some(coming) = &mut worker.coming {
                        coming.kept.sockets = sockets;
                    }
                    return;
                }
                (Err(MessageError::Gone), _) => worker.link = None,
                (refused, _) => {
                    // Our sockets are those of before, if any; it is served all the same.
                    say(format_args!("the worker is not understood: {refused:?}"));
                    worker.link = None;
                }
            }
            if let Some(whole) = worker.coming.take_if(|coming| coming.kept.sockets.len() >= coming.announced)
            {
                self.kept = (whole.announced > 0).then_some(whole.kept);
            }
        }
    }
}

fn end(status: WaitStatus) -> End {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
        (_, Some(signal)) => End::Killed(signal),
        _ => End::Unknown,
    }
}
