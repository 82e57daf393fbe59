//! Answers `sluice device …` over the socket in the data folder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sluice_store::Store;
use sluice_svc::shutdown::Shutdown;
use sluice_types::{KeyEpoch, Psk};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::control::{Answer, Envelope, Info, MAX_LINE, Request, VERSION, socket_path};
use crate::device::stored;
use crate::folder;

/// A client that says nothing for so long is hung up on.
const ASK_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Takes the socket's place. The store is open already, so no other process runs on this folder, and a socket that lies
    /// there is of one that died.
    pub(crate) fn bind(data_dir: &Path) -> Result<Self> {
        let path = socket_path(data_dir)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove the old socket {}", path.display()));
            }
            _ => {}
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        folder::only_owner(&path)?;
        Ok(Self { listener, path })
    }

    pub(crate) async fn serve(self, store: Store, info: Info, over: Shutdown) -> io::Result<()> {
        let clients = TaskTracker::new();
        loop {
            tokio::select! {
                client = self.listener.accept() => match client {
                    Ok((stream, _)) => {
                        clients.spawn(answer(stream, store.clone(), info.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket refuses a client");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                () = over.requested() => break,
            }
        }
        clients.close();
        clients.wait().await;
        std::fs::remove_file(&self.path)
    }
}

async fn answer(stream: UnixStream, store: Store, info: Info) {
    let served = tokio::time::timeout(ASK_WITHIN, serve_one(stream, &store, info)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!(%error, "a client of the control socket went away");
    }
}

async fn serve_one(stream: UnixStream, store: &Store, info: Info) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    // A request may hold a key.
    let mut line = Zeroizing::new(String::new());
    BufReader::new(read).take(MAX_LINE).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Envelope>(&line) {
        Ok(envelope) if envelope.version == VERSION => handle(store, info, envelope.request)
            .await
            .unwrap_or_else(|error| Answer::Error { message: format!("{error:#}") }),
        _ => Answer::Error {
            message: "this `sluice dev` is of another version than the command: restart it".to_owned(),
        },
    };
    let mut text = Zeroizing::new(serde_json::to_string(&answer)?);
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

async fn handle(store: &Store, info: Info, request: Request) -> Result<Answer> {
    Ok(match request {
        Request::Info => Answer::Info(info),
        Request::AddDevice { id, tenant, psk_hex } => {
            Answer::Device(stored::add(store, id, tenant, &key_of(&psk_hex)?).await?)
        }
        Request::ListDevices { tenant } => Answer::Devices { devices: stored::list(store, tenant).await? },
        Request::ShowDevice { id, reveal } => Answer::Device(stored::show(store, id, reveal).await?),
        Request::AddKey { id, psk_hex } => {
            Answer::Device(stored::add_key(store, id, &key_of(&psk_hex)?).await?)
        }
        Request::RetireKey { id, key } => Answer::Device(stored::retire_key(store, id, KeyEpoch(key)).await?),
        Request::Withdraw { id, how } => {
            stored::withdraw(store, id, how).await?;
            Answer::Done
        }
        Request::ResumeDevice { id } => Answer::Device(stored::resume(store, id).await?),
        Request::ReleaseDevice { id } => Answer::Released { hold: stored::release(store, id).await? },
    })
}

fn key_of(psk_hex: &str) -> Result<Psk> {
    let bytes = Zeroizing::new(hex::decode(psk_hex).context("the key is not hex")?);
    Ok(Psk::new(&bytes)?)
}
