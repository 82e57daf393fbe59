//! PACKET PATH: no lock, no log, no await; allocates once per session, and only for one that speaks before it is its turn.
//!
//! Whose turn it is. Each shard has a writer of its own, so what a device sends over a new session could be committed before what
//! it sent over the one before. A session therefore hands nothing over until the fleet says [`ToShard::Go`]: at once when the
//! device has no other session, else when the older ones write no more and all that they wrote is settled. Until then its first
//! message is kept here, and nothing more is taken from it.
//!
//! [`ToShard::Go`]: crate::link::ToShard::Go

use std::collections::{HashMap, VecDeque};

use sluice_types::Timestamp;

use super::records::Message;
use super::session::Session;
use crate::link::SessionRef;

/// First messages kept per shard, of 1808 bytes at most. When full, UDP devices send theirs again and connections are not read.
const MAX_HELD: usize = 1024;

/// Whether a session hands messages over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Older sessions of the device come first.
    Waits,
    Writes,
    /// It never will again; the fleet knows.
    Parted,
}

/// The first message of a session that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) at: Timestamp,
    pub(crate) session: Session,
    pub(crate) message: Message,
    pub(crate) payload: Box<[u8]>,
}

/// The sessions that wait with a message, and those that need wait no longer.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    held: HashMap<SessionRef, Held>,
    /// Told to go, in this order; they wait for room at most. No more than there are sessions.
    going: VecDeque<SessionRef>,
}

impl Waiting {
    /// Keeps the first message of a session; `false` when it has one here already, or nothing fits.
    pub(crate) fn keep(
        &mut self,
        at: Timestamp,
        session: &Session,
        message: Message,
        payload: &[u8],
    ) -> bool {
        let keeps = !self.is_full() && !self.held.contains_key(&message.session);
        if keeps {
            let held = Held { at, session: *session, message, payload: payload.into() };
            self.held.insert(message.session, held);
        }
        keeps
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= MAX_HELD
    }

    pub(crate) fn holds(&self, session: SessionRef) -> bool {
        self.held.contains_key(&session)
    }

    /// Whose message is kept.
    pub(crate) fn session(&self, session: SessionRef) -> Option<&Session> {
        self.held.get(&session).map(|held| &held.session)
    }

    /// Takes a session's message out; `None` when it has none here.
    pub(crate) fn take(&mut self, session: SessionRef) -> Option<Held> {
        self.held.remove(&session)
    }

    /// It is the session's turn.
    pub(crate) fn go(&mut self, session: SessionRef) {
        self.going.push_back(session);
    }

    /// Takes the session out whose turn came first.
    pub(crate) fn next(&mut self) -> Option<SessionRef> {
        self.going.pop_front()
    }

    /// Sessions whose turn it is.
    pub(crate) fn going(&self) -> usize {
        self.going.len()
    }

    /// Messages kept.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}
