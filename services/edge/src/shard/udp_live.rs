//! PACKET PATH: no lock, no log, no await; allocates only when a message goes to a device.
//!
//! A session over UDP: the protocol's machine, what the edge knows about it, and the messages to its device.

use std::collections::VecDeque;

use sluice_proto::events::v1::CloseReason;
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::UdpSession;

use super::session::{Facts, Session};
use crate::counts::{Count, Counts};
use crate::link::{SendError, SendReply};
use crate::path::Path;
use crate::udp_io::Outbound;

/// Messages that wait for one device while another is on its way to it.
const WAITING_PER_DEVICE: usize = 16;

pub(crate) struct Live<P: Provider> {
    pub(crate) machine: UdpSession<P, Path>,
    pub(crate) facts: Facts,
    downlink: Option<Box<Downlink>>,
    pub(crate) moves: u16,
    /// BYE was sent; what is awaited is its UTACK.
    pub(crate) farewell: Option<CloseReason>,
}

/// Messages to one device: the one on its way, and those behind it.
#[derive(Default)]
struct Downlink {
    current: Option<(Box<[u8]>, SendReply)>,
    waiting: VecDeque<(Box<[u8]>, SendReply)>,
}

/// The addresses of a session before something happened to it, by which the tables know it until they follow.
pub(crate) type Known = (Path, Option<Path>);

impl<P: Provider> Live<P> {
    pub(crate) const fn new(machine: UdpSession<P, Path>, facts: Facts) -> Self {
        Self { machine, facts, downlink: None, moves: 0, farewell: None }
    }

    pub(crate) fn known(&self) -> Known {
        (self.machine.path(), self.machine.candidate_path())
    }

    /// The session as records and events name it.
    pub(crate) fn session(&self) -> Session {
        Session {
            id: self.machine.session_id(),
            peer: self.machine.path().address(),
            tcp: false,
            facts: self.facts,
        }
    }

    /// Puts a message behind those that wait, if there is room; gives the number of those that were added.
    pub(crate) fn enqueue(
        &mut self,
        counts: &Counts,
        payload: Box<[u8]>,
        done: SendReply,
        full: bool,
    ) -> usize {
        let downlink = self.downlink.get_or_insert_default();
        if full || downlink.waiting.len() >= WAITING_PER_DEVICE {
            counts.one(Count::DownlinkFailed);
            let _nobody_waits = done.send(Err(SendError::Busy));
            return 0;
        }
        counts.one(Count::DownlinkAccepted);
        downlink.waiting.push_back((payload, done));
        1
    }

    /// Gives up what is on its way or waits, since the session ends; gives the number of those.
    pub(crate) fn give_up(&mut self, counts: &Counts) -> usize {
        let Some(downlink) = self.downlink.take() else { return 0 };
        let mut over = 0;
        for (_, done) in downlink.current.into_iter().chain(downlink.waiting) {
            over += 1;
            counts.one(Count::DownlinkFailed);
            let _nobody_waits = done.send(Err(SendError::SessionEnded));
        }
        over
    }

    /// Starts the next message that waits, if none is on its way. Gives the number of those that are over.
    pub(crate) fn pump(&mut self, counts: &Counts) -> usize {
        let Some(downlink) = &mut self.downlink else { return 0 };
        let mut over = 0;
        while downlink.current.is_none()
            && let Some((payload, done)) = downlink.waiting.pop_front()
        {
            match self.machine.send(payload.len()) {
                Ok(()) => downlink.current = Some((payload, done)),
                Err(usmp::server::SendError::Busy) => {
                    downlink.waiting.push_front((payload, done));
                    break;
                }
                Err(_) => {
                    over += 1;
                    counts.one(Count::DownlinkFailed);
                    let _nobody_waits = done.send(Err(SendError::SessionEnded));
                }
            }
        }
        over
    }

    /// The message on its way has arrived, or was given up.
    pub(crate) fn conclude(&mut self, counts: &Counts, outcome: Result<(), SendError>) -> usize {
        let Some((_, done)) = self.downlink.as_mut().and_then(|downlink| downlink.current.take()) else {
            return 0;
        };
        counts.one(if outcome.is_ok() { Count::DownlinkDelivered } else { Count::DownlinkFailed });
        let _nobody_waits = done.send(outcome);
        1
    }

    pub(crate) fn transmit(&mut self, now: Instant, out: &mut Outbound) {
        let current = self.downlink.as_ref().and_then(|downlink| downlink.current.as_ref());
        let message = current.map_or(&[][..], |(payload, _)| payload);
        let mut frame = [0; usmp::wire::MAX_FRAME];
        while let Some(transmit) = self.machine.poll_transmit(now, message, &mut frame) {
            out.send(transmit.to, frame.get(..transmit.length).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use usmp::crypto::AwsLc;

    use super::*;

    #[test]
    fn an_idle_session_stays_small() {
        // Beside it a session has some 20 bytes of timer, 14 of look-up tables and 80 in the fleet's directory.
        let size = size_of::<Option<Live<AwsLc>>>();
        assert!(size <= 448, "{size} bytes");
    }
}
