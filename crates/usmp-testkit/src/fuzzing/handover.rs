use std::collections::VecDeque;

use usmp::server::{Acknowledged, ArrayPool, CommitToken, DropReason, Received, SessionConfig, UdpSession};
use usmp::wire::{Frame, FrameType, MAX_FRAME, MAX_MESSAGE, Utack};
use usmp::{Duration, Instant, Role};

use super::server::{DeviceSide, SESSION, open_udp, salt_of};
use super::{CALLS, Reach, Script, framed};
use crate::crypto::FakeCrypto;
use crate::journal::Journal;
use crate::sealed::SealedFrames;

/// Where the device may be.
const PLACES: u8 = 2;

/// Where somebody is who has every frame that an owner took, and sends it again.
const COPIER: u8 = 9;

/// What an owner still has to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Message(CommitToken),
    Fragment(CommitToken),
    Persist(CommitToken),
    Rekey(CommitToken),
}

struct World {
    now: Instant,
    session: Option<UdpSession<FakeCrypto, u8>>,
    journal: Journal,
    pool: ArrayPool<2>,
    work: VecDeque<Work>,
    device: DeviceSide,
    place: u8,
    /// The REKEY that the device repeats, and its salt.
    rekeying: Option<(Vec<u8>, [u8; 32])>,
    /// Frames of this epoch that an owner took.
    copies: Vec<Vec<u8>>,
    sealed: SealedFrames,
    outgoing: Vec<u8>,
    /// The last frame that reached the device.
    arrived: Option<Vec<u8>>,
    reach: Reach,
}

impl World {
    /// The owner's session; another owner makes it again when it has to.
    fn session(&mut self, from: u8) -> Option<&mut UdpSession<FakeCrypto, u8>> {
        if self.session.is_none() {
            let resumed = self.journal.resumed(SESSION.prefix())?;
            let config = SessionConfig::udp_shared();
            self.session = Some(UdpSession::resumed(self.now, resumed, from, 1, &config));
            self.reach.connected += 1;
        }
        self.session.as_mut()
    }

    fn give(&mut self, from: u8, frame: &[u8]) -> Option<Result<(), DropReason>> {
        let now = self.now;
        let mut datagram = frame.to_vec();
        self.session(from)?;
        let session = self.session.as_mut()?;
        let received = session.handle_datagram(now, from, &mut datagram, &mut self.pool);
        let committed = self.journal.committed(SESSION);
        let work = match received {
            Ok(Received::Message { token, payload }) => {
                assert!(payload.len() <= MAX_MESSAGE, "{} bytes", payload.len());
                self.reach.messages += 1;
                Some(Work::Message(token))
            }
            Ok(Received::Fragment { token }) => Some(Work::Fragment(token)),
            Ok(Received::Rekey { token }) => {
                self.rekeying = salt_of(frame).map(|salt| (frame.to_vec(), salt));
                Some(Work::Persist(token))
            }
            Ok(Received::Acknowledge { utack, what }) => {
                let utack = Utack::parse(&utack).expect("a UTACK");
                match utack.frame_type {
                    FrameType::Data | FrameType::DataFrag => {
                        assert_eq!(what, Acknowledged::Duplicate, "acknowledged at once");
                        assert_eq!(Some(utack.seq), committed, "acknowledged and not committed");
                    }
                    FrameType::Rekey => {
                        assert_eq!(what, Acknowledged::Duplicate, "followed at once");
                        if from != COPIER {
                            self.device_switches();
                        }
                    }
                    _ => {}
                }
                None
            }
            Err(reason) => {
                if !session.is_settled() && session.candidate_path().is_none() {
                    self.session = None;
                }
                return Some(Err(reason));
            }
        };
        self.work.extend(work);
        self.copies.push(frame.to_vec());
        Some(Ok(()))
    }

    fn device_switches(&mut self) {
        if let Some((_, salt)) = self.rekeying.take() {
            self.device.switch(Role::Device, &salt);
            // The fake cipher takes frames of other epochs now and then.
            self.copies.clear();
            self.reach.rekeyed += 1;
        }
    }

    /// The owner does the next thing that it has to write, and may stop before anybody hears of it.
    fn write(&mut self, stops: bool) {
        let (Some(session), Some(work)) = (&mut self.session, self.work.pop_front()) else { return };
        match work {
            Work::Message(token) | Work::Fragment(token) => {
                self.journal.commit(SESSION, token, matches!(work, Work::Fragment(_)));
                if !stops {
                    let committed = session.committed(self.now, token).expect("pending");
                    assert_eq!(Utack::parse(&committed.utack).expect("a UTACK").seq, token.seq);
                    assert_eq!(session.committed_seq(), Some(token.seq));
                    self.reach.delivered += 1;
                }
            }
            Work::Persist(token) => {
                self.journal.persist(SESSION, session.pending_rekey().expect("pending"));
                self.work.push_front(Work::Rekey(token));
            }
            Work::Rekey(token) => {
                self.journal.rekey(SESSION, token.epoch + 1);
                if !stops {
                    session.rekey_committed(self.now, token).expect("pending");
                    self.work.clear();
                    self.device_switches();
                }
            }
        }
        if stops {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Some(session) = self.session.take() {
            drop(session.suspend(&mut self.pool));
        }
        self.work.clear();
        self.journal.next_owner();
        assert_eq!(self.pool.lent(), 0, "a buffer was not given back");
    }

    fn transmit(&mut self) {
        let Some(session) = &mut self.session else { return };
        let mut out = [0; MAX_FRAME];
        for frames in 0.. {
            let settled = session.is_settled();
            let Some(transmit) = session.poll_transmit(self.now, &self.outgoing, &mut out) else { break };
            let frame = &out[..transmit.length];
            self.sealed.note(&session.secrets().keys.s2c, SESSION, frame);
            let kind = Frame::parse(frame).expect("a frame").header().frame_type;
            let free = settled && transmit.to != COPIER;
            assert!(free || kind == FrameType::Ping, "{kind:?} to {} (settled: {settled})", transmit.to);
            if transmit.to == self.place {
                self.arrived = Some(frame.to_vec());
            }
            assert!(frames < 12, "a session that sends without end");
        }
        assert!(!session.is_settled() || session.path() < PLACES, "a copier's address was adopted");
    }
}

/// A session whose owner changes between any two calls, with a device that is where it is and somebody who repeats every frame
/// that was taken from elsewhere. Nothing is acknowledged that is not in the journal, whose numbers rise; no number seals two
/// things; nothing but PINGs leaves for an address that is not the device's.
pub fn server_handover(bytes: &[u8]) -> Reach {
    let mut script = Script::new(bytes);
    let now = Instant::from_millis(1);
    let (session, device) = open_udp(now, &SessionConfig::udp_shared());
    let mut journal = Journal::default();
    journal.open(session.secrets());
    let mut world = World {
        now,
        session: Some(session),
        journal,
        pool: ArrayPool::new(),
        work: VecDeque::new(),
        device,
        place: 0,
        rekeying: None,
        copies: Vec::new(),
        sealed: SealedFrames::default(),
        outgoing: Vec::new(),
        arrived: None,
        reach: Reach { connected: 1, ..Reach::default() },
    };
    for _ in 0..CALLS {
        if script.is_empty() {
            break;
        }
        match script.byte() % 16 {
            0..6 => {
                let repeated = world.rekeying.as_ref().map(|(frame, _)| frame.clone());
                let again = repeated.is_some();
                let frame = repeated.unwrap_or_else(|| world.device.frame(&mut script));
                match world.give(world.place, &frame) {
                    None => break,
                    // Overtaken by copies of later frames; the device gives it up.
                    Some(Err(DropReason::Stale)) if again => world.rekeying = None,
                    // The owner's memory of it has run out.
                    Some(Err(DropReason::Authentication)) if again => break,
                    Some(_) => {}
                }
            }
            6 | 7 => {
                let index = usize::from(script.byte()) % world.copies.len().max(1);
                if let Some(copy) = world.copies.get(index).cloned() {
                    world.give(COPIER, &copy);
                }
            }
            8 => {
                let garbage = framed(&mut script);
                world.give(COPIER, &garbage);
            }
            9..12 => {
                let stops = script.byte() < 50;
                world.write(stops);
            }
            12 => {
                world.now = world.now + Duration::from_millis(u64::from(script.byte()) * 16);
                if let Some(session) = &mut world.session {
                    session.handle_timeout(world.now, &mut world.pool);
                }
            }
            13 => {
                let (frame, place, now) = (world.arrived.clone(), world.place, world.now);
                let utack = frame.and_then(|frame| Utack::parse(&world.device.utack(&frame)));
                if let (Some(session), Some(utack)) = (&mut world.session, utack) {
                    // A copy of it from elsewhere may come first.
                    let from = if script.byte() < 200 { place } else { COPIER };
                    let _late = session.handle_utack(now, from, &utack);
                }
            }
            14 => {
                let length = script.length(MAX_MESSAGE);
                if world.session.as_mut().is_some_and(|session| session.send(length).is_ok()) {
                    world.outgoing = vec![script.byte(); length];
                }
            }
            _ => match script.byte() {
                0..60 => world.place = (world.place + 1) % PLACES,
                _ => world.hand_over(),
            },
        }
        world.transmit();
        let ended = world.session.as_mut().is_some_and(|session| {
            while session.poll_event().is_some() {}
            session.closed().is_some()
        });
        if ended {
            world.reach.closed += 1;
            break;
        }
    }
    world.hand_over();
    world.reach
}
