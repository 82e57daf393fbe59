//! What makes two states one.
//!
//! Only for models with all rules in force: a rule that is taken away may be the very one that makes a difference
//! invisible. Small models are also checked without any of this.

use super::Ledger;
use super::state::{Group, Note, Record, Role, SESSIONS, World};

impl Ledger {
    /// Replaces the state by one that nobody can tell from it.
    pub(super) fn reduce(&self, world: &mut World) {
        forget_what_is_fenced(world);
        merge_groups(world);
        // Only without `OwnerNonce` does it matter whose an Owner record is.
        for record in &mut world.log {
            if let Record::Owner { pod } = record {
                *pod = 0;
            }
        }
        world.pods.sort_unstable();
        if usize::from(self.sessions) == SESSIONS {
            let mut other = world.clone();
            swap_sessions(&mut other);
            if key(&other) < key(world) {
                *world = other;
            }
        }
    }
}

/// The broker refuses whatever a fenced pod commits, so nothing comes of what it has taken. It still acks what it knows
/// to be committed, writes snapshots, and seals.
fn forget_what_is_fenced(world: &mut World) {
    for role in &mut world.pods {
        match role {
            Role::Fenced { epoch, .. } if *epoch < world.epoch => *role = Role::Idle,
            Role::Serving(serving) if serving.epoch < world.epoch => {
                serving.pending = [0; SESSIONS];
                serving.dead = [0; SESSIONS];
                serving.skipped = [0; SESSIONS];
                serving.restating = [false; SESSIONS];
                serving.closing = [false; SESSIONS];
                serving.transaction = None;
            }
            _ => {}
        }
    }
}

/// Two groups of one owner side by side are one, unless somebody's knowledge ends between them.
fn merge_groups(world: &mut World) {
    let mut at = 1;
    while at < world.log.len() {
        let (Record::Group(first), Record::Group(second)) = (world.log[at - 1], world.log[at]) else {
            at += 1;
            continue;
        };
        let between = at as u8 - 1;
        let known = world.pods.iter().any(|role| matches!(role, Role::Serving(s) if s.at == between))
            || world.redis.iter().any(|s| s.at == between)
            || world.foreign == Some(at as u8)
            || world.left.retention > 0
            || world.start == at as u8;
        if known || first.owner != second.owner {
            at += 1;
            continue;
        }
        let mut sum = second;
        for session in 0..SESSIONS {
            sum.data[session] |= first.data[session];
            sum.notes[session] = match (first.notes[session], second.notes[session]) {
                (before, Note::Nothing) => before,
                (Note::State { .. }, Note::Number { number, silent }) => Note::State { number, silent },
                (_, after) => after,
            };
        }
        world.log[at - 1] = Record::Group(sum);
        world.log.remove(at);
        offsets(world, |offset| if offset > between { offset - 1 } else { offset });
    }
}

/// Renumbers every offset in the state.
fn offsets(world: &mut World, renumber: impl Fn(u8) -> u8) {
    let owner = |group: &mut Group| group.owner = renumber(group.owner);
    for record in &mut world.log {
        if let Record::Group(group) = record {
            owner(group);
        }
    }
    world.orphans.iter_mut().for_each(|transaction| owner(&mut transaction.group));
    world.redis.iter_mut().for_each(|snapshot| snapshot.at = renumber(snapshot.at));
    world.start = renumber(world.start);
    if let Some(at) = &mut world.foreign {
        // Between two records: in front of the one at this offset.
        *at = renumber(*at);
    }
    for role in &mut world.pods {
        match role {
            Role::Idle | Role::Fenced { .. } => {}
            Role::Reading { owner, .. } => *owner = renumber(*owner),
            Role::Serving(serving) => {
                serving.owner = renumber(serving.owner);
                serving.at = renumber(serving.at);
                if let Some(transaction) = &mut serving.transaction {
                    owner(&mut transaction.group);
                }
            }
        }
    }
}

fn key(world: &World) -> impl Ord + use<'_> {
    (&world.log, &world.pods, &world.redis, &world.orphans)
}

fn swap_sessions(world: &mut World) {
    const { assert!(SESSIONS == 2, "two sessions have one other order") };
    let group = |group: &mut Group| {
        group.data.reverse();
        group.notes.reverse();
    };
    for record in &mut world.log {
        if let Record::Group(g) = record {
            group(g);
        }
    }
    world.orphans.iter_mut().for_each(|transaction| group(&mut transaction.group));
    world.redis.iter_mut().for_each(|snapshot| snapshot.table.sessions.reverse());
    for role in &mut world.pods {
        if let Role::Serving(serving) = role {
            serving.table.sessions.reverse();
            serving.pending.reverse();
            serving.dead.reverse();
            serving.skipped.reverse();
            serving.restating.reverse();
            serving.closing.reverse();
            if let Some(transaction) = &mut serving.transaction {
                group(&mut transaction.group);
            }
        }
    }
    world.pods.sort_unstable();
    world.redis.sort_unstable();
    world.orphans.sort_unstable();
}
