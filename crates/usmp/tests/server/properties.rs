//! Any order of what may happen to a session: nothing is delivered twice, nothing is acknowledged that is not stored, no number
//! is used for two frames.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use usmp::server::*;

use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    /// The device's next frame: kind, and where it comes from.
    Next(u8, u8),
    /// One of all frames so far, from somewhere.
    Replay(prop::sample::Index, u8),
    Forge(prop::sample::Index),
    /// The device leaves out some numbers.
    Skip(u8),
    Commit(prop::sample::Index),
    Refuse(prop::sample::Index),
    Withdraw(prop::sample::Index),
    Rekey(u8),
    Send(u16),
    AcknowledgeDown,
    Advance(u16),
    Pause,
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        8 => (0..5_u8, 1..4_u8).prop_map(|(kind, from)| Next(kind, from)),
        6 => (any::<prop::sample::Index>(), 1..4_u8).prop_map(|(which, from)| Replay(which, from)),
        1 => any::<prop::sample::Index>().prop_map(Forge),
        1 => (1..80_u8).prop_map(Skip),
        6 => any::<prop::sample::Index>().prop_map(Commit),
        1 => any::<prop::sample::Index>().prop_map(Refuse),
        1 => any::<prop::sample::Index>().prop_map(Withdraw),
        1 => any::<u8>().prop_map(Rekey),
        2 => (0..1900_u16).prop_map(Send),
        3 => Just(AcknowledgeDown),
        3 => (0..20_000_u16).prop_map(Advance),
        1 => Just(Pause),
        1 => Just(Resume),
    ]
}

#[derive(Default)]
struct Model {
    frames: Vec<Vec<u8>>,
    tokens: Vec<CommitToken>,
    newest: Option<CommitToken>,
    withdrawn: HashSet<CommitToken>,
    stored: HashSet<CommitToken>,
    /// What was sealed, by epoch and number.
    sealed: HashMap<(u32, u32), Vec<u8>>,
    last_down: Option<Vec<u8>>,
}

impl Model {
    fn received(&mut self, epoch: u32, frame: &[u8], got: Result<Got, DropReason>) {
        match got {
            Ok(Got::Message(token, _)) => {
                let again = self.withdrawn.remove(&token);
                assert!(
                    again || self.newest.is_none_or(|newest| token > newest),
                    "{token:?} after {:?}",
                    self.newest
                );
                self.newest = self.newest.max(Some(token));
                self.tokens.push(token);
            }
            Ok(Got::Utack(_, what)) if header(frame).0 == Data => {
                let token = CommitToken { epoch, seq: header(frame).1 };
                assert_eq!(what, Acknowledged::Duplicate);
                assert!(self.stored.contains(&token), "{token:?} was acknowledged and is not stored");
            }
            _ => {}
        }
    }

    fn sent(&mut self, epoch: u32, frames: Vec<Vec<u8>>) {
        for frame in frames {
            let before = self.sealed.entry((epoch, header(&frame).1)).or_insert_with(|| frame.clone());
            assert_eq!(*before, frame, "two frames under one number");
            self.last_down = Some(frame);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_things_keeps_the_promises(steps in prop::collection::vec(step(), 1..120)) {
        let mut udp = Udp::new();
        let mut model = Model::default();
        for step in steps {
            let epoch = udp.session.epoch();
            match step {
                Step::Next(kind, from) => {
                    let kind = [Data, Data, DataFrag, Ping, Pong][usize::from(kind)];
                    let frame = udp.next(kind, b"m");
                    let got = udp.give_from(from, &frame);
                    model.received(epoch, &frame, got);
                    model.frames.push(frame);
                }
                Step::Replay(which, from) if !model.frames.is_empty() => {
                    let frame = which.get(&model.frames).clone();
                    let got = udp.give_from(from, &frame);
                    model.received(epoch, &frame, got);
                }
                Step::Forge(which) if !model.frames.is_empty() => {
                    let frame = forged(which.get(&model.frames));
                    prop_assert!(udp.give_from(AWAY, &frame).is_err(), "a forgery changes and answers nothing");
                }
                Step::Skip(numbers) => udp.seq += u32::from(numbers),
                Step::Commit(which) if !model.tokens.is_empty() => {
                    let token = model.tokens.swap_remove(which.index(model.tokens.len()));
                    model.stored.insert(token);
                    let committed = udp.session.committed(udp.now, token);
                    prop_assert!(committed.is_none() || token.epoch == epoch);
                }
                Step::Refuse(which) if !model.tokens.is_empty() => {
                    let token = model.tokens.swap_remove(which.index(model.tokens.len()));
                    udp.session.refused(token);
                }
                Step::Withdraw(which) if !model.tokens.is_empty() => {
                    let token = model.tokens.swap_remove(which.index(model.tokens.len()));
                    if udp.session.withdraw(token) {
                        model.withdrawn.insert(token);
                    }
                }
                Step::Rekey(salt) if udp.session.closed().is_none() => {
                    let frame = udp.rekey([salt; 32]);
                    model.frames = vec![frame];
                }
                Step::Send(length) => {
                    let message = vec![length as u8; usize::from(length)];
                    if udp.session.send(message.len()).is_ok() {
                        udp.lent = message;
                    }
                }
                Step::AcknowledgeDown => {
                    if let Some(frame) = model.last_down.take() {
                        let _late = udp.acknowledge(&frame);
                    }
                }
                Step::Advance(by) => udp.advance(millis(u64::from(by))),
                Step::Pause => udp.session.pause(udp.now),
                Step::Resume => udp.session.resume(udp.now),
                _ => {}
            }
            model.sent(udp.session.epoch(), udp.sends());
            udp.events();
            prop_assert!(udp.session.pending() <= MAX_PENDING);
            if let Some(next) = udp.session.poll_timeout() {
                // A timer of the past must have something to do, or the driver spins.
                let before = format!("{:?} {:?}", udp.session, udp.session.next_seq());
                if next <= udp.now {
                    udp.advance(millis(0));
                    model.sent(udp.session.epoch(), udp.sends());
                    prop_assert!(udp.session.poll_timeout() != Some(next), "spins at {next:?}: {before}");
                }
            }
        }
        udp.session.release(&mut udp.pool);
        prop_assert_eq!(udp.pool.lent(), 0);
    }
}
