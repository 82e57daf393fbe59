//! Named tasks with a policy for their end, and a drain with a deadline.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError};
use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;

/// What the end of a task means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// The service cannot go on without it: an end that nobody asked for, an error or a panic requests the shutdown.
    Shutdown,
    /// An error or a panic is logged; the service goes on.
    Log,
}

/// The tasks of one service. No task is detached: each has a name, and its end is seen.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    running: Vec<(u64, &'static str, AbortHandle)>,
    companions: Vec<(u64, &'static str, AbortHandle)>,
    next: u64,
    failed: Option<(&'static str, String)>,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every task ended by itself after the request.
    Clean,
    /// A task failed; the others ended.
    Failed {
        /// The first task that failed.
        task: &'static str,
        /// Its error.
        reason: String,
    },
    /// The deadline passed; these tasks were aborted.
    Deadline {
        /// Names of the tasks that still ran.
        left: Vec<&'static str>,
    },
}

impl Tasks {
    /// No tasks yet. Tasks with [`OnEnd::Shutdown`] request `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown, shared: Arc::default() }
    }

    /// Runs a task. Its future returns `()`, or a `Result` whose error is logged.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, name: &'static str, on_end: OnEnd, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        let tasks = self.clone();
        // Held while spawning, so that a task that ends at once finds itself in the list.
        let mut shared = self.lock();
        let id = shared.next;
        shared.next += 1;
        let handle = self.tracker.spawn(async move {
            let outcome = CatchPanic(Box::pin(future)).await;
            tasks.ended(id, name, on_end, outcome.and_then(TaskOutput::into_result));
        });
        shared.running.push((id, name, handle.abort_handle()));
    }

    /// Runs a task that is useful until the drain has ended, such as the admin listener that tells probes about it.
    /// The drain does not wait for it and aborts it at its end; an end before that is logged.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn accompany<F>(&self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput,
    {
        let mut shared = self.lock();
        let id = shared.next;
        shared.next += 1;
        let handle = tokio::spawn(async move {
            match CatchPanic(Box::pin(future)).await.and_then(TaskOutput::into_result) {
                Ok(()) => tracing::warn!(task = name, "task ended before the service"),
                Err(reason) => tracing::error!(task = name, error = reason, "task failed"),
            }
        });
        shared.companions.push((id, name, handle.abort_handle()));
    }

    fn ended(&self, id: u64, name: &'static str, on_end: OnEnd, outcome: Result<(), String>) {
        let mut shared = self.lock();
        shared.running.retain(|(other, _, _)| *other != id);
        let asked = self.shutdown.is_requested();
        match (&outcome, on_end) {
            (Ok(()), OnEnd::Shutdown) if !asked => {
                tracing::error!(task = name, "task ended although nobody asked it to, stopping");
            }
            (Ok(()), _) => tracing::debug!(task = name, "task ended"),
            (Err(reason), OnEnd::Shutdown) if !asked => {
                tracing::error!(task = name, error = reason, "task failed, stopping");
            }
            (Err(reason), _) => tracing::error!(task = name, error = reason, "task failed"),
        }
        if on_end == OnEnd::Shutdown {
            if let (Err(reason), None) = (outcome, &shared.failed) {
                shared.failed = Some((name, reason));
            } else if !asked && shared.failed.is_none() {
                shared.failed = Some((name, "ended although nobody asked it to".to_owned()));
            }
            drop(shared);
            self.shutdown.trigger();
        }
    }

    /// Requests the shutdown, waits for all tasks to end, at most for `limit`, aborts what is left then, and logs which
    /// ending it was.
    pub async fn drain(&self, limit: Duration) -> Ending {
        self.shutdown.trigger();
        self.tracker.close();
        let in_time = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        let ending = {
            let mut shared = self.lock();
            let left = std::mem::take(&mut shared.running);
            let companions = std::mem::take(&mut shared.companions);
            left.iter().chain(&companions).for_each(|(_, _, handle)| handle.abort());
            match shared.failed.take() {
                _ if !in_time => {
                    Ending::Deadline { left: left.into_iter().map(|(_, name, _)| name).collect() }
                }
                Some((task, reason)) => Ending::Failed { task, reason },
                None => Ending::Clean,
            }
        };
        match &ending {
            Ending::Clean => tracing::info!("stopped, everything in flight is finished"),
            Ending::Failed { task, reason } => {
                tracing::error!(task, error = reason, "stopped after a failure")
            }
            Ending::Deadline { left } => {
                tracing::warn!(?left, ?limit, "stopped at the deadline with tasks still at work");
            }
        }
        ending
    }

    /// Names of the tasks that run.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        self.lock().running.iter().map(|(_, name, _)| *name).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Nothing under the lock can panic half-way through a change.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task may return: nothing, or a result.
pub trait TaskOutput: Send + 'static {
    /// The error as text, with its causes.
    ///
    /// # Errors
    /// The task failed.
    fn into_result(self) -> Result<(), String>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Into<Box<dyn std::error::Error>> + Send + 'static> TaskOutput for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| chain(error.into().as_ref()))
    }
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Turns a panic into an error, so that its task's end is handled like any other.
struct CatchPanic<F>(Pin<Box<F>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.0.as_mut();
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => Poll::Ready(Err(panic_text(payload.as_ref()))),
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("of an unknown kind"))
}

/// The text of a task's failure that was joined by hand.
#[must_use]
pub fn join_error(error: JoinError) -> String {
    if error.is_cancelled() {
        return "aborted".to_owned();
    }
    error.try_into_panic().map_or_else(|e| e.to_string(), |payload| panic_text(payload.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> (Tasks, Shutdown) {
        let shutdown = Shutdown::new();
        (Tasks::new(shutdown.clone()), shutdown)
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_work_in_flight() {
        let (tasks, shutdown) = tasks();
        tasks.spawn("flush", OnEnd::Shutdown, async move {
            shutdown.requested().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        let start = tokio::time::Instant::now();
        assert_eq!(tasks.drain(Duration::from_secs(10)).await, Ending::Clean);
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_ends_at_its_deadline_and_names_who_was_late() {
        let (tasks, shutdown) = tasks();
        tasks.spawn("quick", OnEnd::Shutdown, async move { shutdown.requested().await });
        tasks.spawn("stuck", OnEnd::Shutdown, std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        let ending = tasks.drain(Duration::from_secs(10)).await;
        assert_eq!(ending, Ending::Deadline { left: vec!["stuck"] });
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        assert_eq!(tasks.running(), Vec::<&str>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn companion_outlives_the_work_and_is_ended_by_the_drain() {
        let (tasks, shutdown) = tasks();
        let (gone, mut seen) = tokio::sync::oneshot::channel::<()>();
        tasks.accompany("admin", async move {
            let _held = gone;
            std::future::pending::<()>().await;
        });
        let work = shutdown.child();
        let (sender, result) = tokio::sync::oneshot::channel();
        tasks.spawn("work", OnEnd::Shutdown, async move {
            work.requested().await;
            let alive = matches!(seen.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty));
            let _ = sender.send((alive, seen));
        });
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, Ending::Clean);
        let (alive_during_drain, seen) = result.await.unwrap();
        assert!(alive_during_drain, "companion was gone before the work ended");
        assert!(seen.await.is_err(), "companion still runs after the drain");
    }

    #[tokio::test(start_paused = true)]
    async fn essential_task_that_fails_stops_the_service() {
        let (tasks, shutdown) = tasks();
        let error = Err::<(), _>(std::io::Error::other("disk gone"));
        tasks.spawn("writer", OnEnd::Shutdown, async move { error });
        shutdown.requested().await;
        let ending = tasks.drain(Duration::from_secs(1)).await;
        assert_eq!(ending, Ending::Failed { task: "writer", reason: "disk gone".to_owned() });
    }

    #[tokio::test(start_paused = true)]
    async fn essential_task_that_just_returns_stops_the_service() {
        let (tasks, shutdown) = tasks();
        tasks.spawn("reader", OnEnd::Shutdown, async {});
        shutdown.requested().await;
        let ending = tasks.drain(Duration::from_secs(1)).await;
        assert!(matches!(ending, Ending::Failed { task: "reader", .. }), "{ending:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn panic_in_an_essential_task_stops_the_service() {
        let (tasks, shutdown) = tasks();
        tasks.spawn("shard", OnEnd::Shutdown, async {
            let number = 1;
            assert_eq!(number, 2, "on purpose");
        });
        shutdown.requested().await;
        let ending = tasks.drain(Duration::from_secs(1)).await;
        let Ending::Failed { task: "shard", reason } = &ending else { panic!("{ending:?}") };
        assert!(reason.starts_with("panic: ") && reason.contains("on purpose"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn optional_task_that_fails_does_not_stop_the_service() {
        let (tasks, shutdown) = tasks();
        tasks.spawn("gauge", OnEnd::Log, async { Err::<(), _>("no such file") });
        tasks.spawn("other", OnEnd::Log, async { assert!(std::hint::black_box(false), "on purpose") });
        while !tasks.running().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!shutdown.is_requested());
        assert_eq!(tasks.drain(Duration::from_secs(1)).await, Ending::Clean);
    }

    #[test]
    fn causes_are_joined_once() {
        let inner = std::io::Error::other("refused");
        let outer = crate::bind::BindError::new("admin.listen", "127.0.0.1:1".parse().unwrap(), inner);
        let text = chain(&outer);
        assert_eq!(text.matches("refused").count(), 1, "{text}");
    }
}
