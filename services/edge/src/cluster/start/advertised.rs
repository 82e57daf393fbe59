//! Whether the address that the others are told leads anywhere. A pod that nobody reaches would fence slots, and give them up again seconds
//! later.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::JoinError;

/// How long a name may take to be known: one of a pod that has just been made is not at once.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// How long a resolver may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two questions.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Waits until that host has an address.
///
/// # Errors
///
/// [`JoinError::Advertise`] when it has none for half a minute.
pub(super) async fn resolve(given: &str) -> Result<(), JoinError> {
    wait_for(given, async || {
        let found = tokio::net::lookup_host(given.to_owned()).await?;
        Ok(found.collect())
    })
    .await
}

async fn wait_for(
    given: &str,
    look_up: impl AsyncFn() -> io::Result<Vec<SocketAddr>>,
) -> Result<(), JoinError> {
    if given.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    let until = Instant::now() + KNOWN_WITHIN;
    let mut waiting = false;
    loop {
        let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"));
        let source = match timeout(ANSWER_WITHIN, look_up()).await.unwrap_or_else(|_| late()) {
            Ok(found) if !found.is_empty() => return Ok(()),
            Ok(_) => io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
            Err(error) => error,
        };
        if Instant::now() >= until {
            return Err(JoinError::Advertise { given: given.to_owned(), source });
        }
        if !std::mem::replace(&mut waiting, true) {
            tracing::warn!(
                advertise = given,
                error = %source,
                "waiting for the name in edge.cluster.advertise: the other pods could not reach this one by it"
            );
        }
        sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const NAME: &str = "edge-7.pods.example:9443";

    fn unknown() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("Name or service not known"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_knows_is_refused_with_what_to_set() {
        let began = Instant::now();
        for answer in [unknown, || Ok(Vec::new())] {
            let refused = wait_for(NAME, async || answer()).await.expect_err("refused").to_string();
            for word in [NAME, "edge.cluster.advertise", "publishNotReadyAddresses"] {
                assert!(refused.contains(word), "{word} is not in: {refused}");
            }
        }
        assert!(began.elapsed() >= 2 * KNOWN_WITHIN, "not at once: it may become known");
        let silent = wait_for(NAME, async || std::future::pending().await).await;
        assert!(
            matches!(silent, Err(JoinError::Advertise { .. })),
            "a resolver that says nothing: {silent:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_waited_for_and_an_address_is_not_looked_up() {
        let asked = Cell::new(0);
        let address: SocketAddr = "10.0.0.7:9443".parse().expect("an address");
        let later = async || {
            asked.set(asked.get() + 1);
            if asked.get() < 8 { unknown() } else { Ok(vec![address]) }
        };
        wait_for(NAME, later).await.expect("known by now");
        assert_eq!(asked.get(), 8);
        for given in ["10.0.0.7:9443", "[fe80::7]:0", "127.0.0.1:0"] {
            wait_for(given, async || panic!("nothing to look up")).await.expect("an address");
        }
    }
}
