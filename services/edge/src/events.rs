//! What the edge says about sessions and refusals on the lifecycle and security topics (`proto/sluice/events/v1`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_proto::events::v1::lifecycle_event::Change as ProtoChange;
use sluice_proto::events::v1::{
    CloseReason, LifecycleEvent, SecurityEvent, SessionClosed, SessionMoved, SessionOpened, Transport,
};
use sluice_types::Timestamp;

use crate::security::Refusals;
use crate::shard::{Session, Tenants};

/// Schema revision of both messages.
const REVISION: u32 = 1;

/// An event, ready for its topic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Lifecycle(LifecycleEvent),
    Security(SecurityEvent),
}

/// What happened to a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Opened,
    Closed { reason: CloseReason, lasted: Duration },
    Moved { from: SocketAddr, count: u16 },
}

pub(crate) fn lifecycle(at: Timestamp, session: &Session, tenants: &Tenants, change: Change) -> Event {
    let id = hex::encode(session.id.0);
    let (kind, change) = match change {
        Change::Opened => (
            "opened".to_owned(),
            ProtoChange::Opened(SessionOpened {
                peer: session.peer.to_string(),
                key_epoch: session.facts.key_epoch,
            }),
        ),
        Change::Closed { reason, lasted } => (
            "closed".to_owned(),
            ProtoChange::Closed(SessionClosed {
                reason: reason.into(),
                messages: session.facts.messages.into(),
                duration_s: lasted.as_secs(),
            }),
        ),
        Change::Moved { from, count } => (
            format!("moved.{count}"),
            ProtoChange::Moved(SessionMoved { from: from.to_string(), to: session.peer.to_string() }),
        ),
    };
    let transport = if session.tcp { Transport::Tcp } else { Transport::Udp };
    Event::Lifecycle(LifecycleEvent {
        revision: REVISION,
        event_id: format!("{id}.{kind}"),
        time_unix_ms: at.as_millis(),
        tenant: tenants.name(session.facts.tenant).map(|name| name.as_str().to_owned()).unwrap_or_default(),
        device: session.facts.device.to_string(),
        session: id,
        transport: transport.into(),
        change: Some(change),
    })
}

/// Names security events: the process's start and a number.
static SECURITY_EVENTS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn security(at: Timestamp, refusals: &Refusals, tenants: &Tenants) -> Event {
    let number = SECURITY_EVENTS.fetch_add(1, Ordering::Relaxed);
    let tenant = refusals.device.and_then(|named| tenants.name(named.tenant));
    Event::Security(SecurityEvent {
        revision: REVISION,
        event_id: format!("{:x}.{:x}.{number}", at.as_millis(), std::process::id()),
        time_unix_ms: at.as_millis(),
        reason: refusals.reason.into(),
        tenant: tenant.map(|name| name.as_str().to_owned()).unwrap_or_default(),
        device: refusals.device.map(|named| named.device.to_string()).unwrap_or_default(),
        count: refusals.count,
        transport: refusals.transport.into(),
    })
}
