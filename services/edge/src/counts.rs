//! What the edge counts: one block of atomics per shard, written by that shard alone, and one for what stands beside them; summed when somebody looks.
//!
//! Labels are enums; no device, session or address is one. In-flight amounts are two counters, so that no error path can leak
//! a gauge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use sluice_bus::WriterStats;
use sluice_peers::PeerCounts;
use sluice_store::Store;
use usmp::server::DropReason;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $instrument:literal $([$key:literal = $value:literal])*;)*) => {
        /// One thing that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        impl Count {
            /// Everything that is counted.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Name of the instrument that carries it.
            #[must_use]
            pub const fn instrument(self) -> &'static str {
                match self {
                    $(Self::$name => $instrument,)*
                }
            }

            /// Labels by which it is told apart from the others of that instrument.
            #[must_use]
            pub const fn labels(self) -> &'static [(&'static str, &'static str)] {
                match self {
                    $(Self::$name => &[$(($key, $value)),*],)*
                }
            }
        }
    };
}

counts! {
    /// Datagrams read.
    DatagramsReceived = "sluice.edge.datagrams.received";
    /// Datagrams the kernel did not take.
    DatagramsUnsent = "sluice.edge.datagrams.unsent";
    /// Datagrams handed to the shard that owns their session.
    DatagramsRelayed = "sluice.edge.datagrams.relayed";
    /// Connections accepted.
    TcpAccepted = "sluice.edge.connections.accepted";
    /// Connections ended, for whatever reason.
    TcpEnded = "sluice.edge.connections.ended";
    /// Times the system gave no connection although one waited.
    AcceptsFailed = "sluice.edge.accepts.failed";
    /// Handshakes begun over TCP.
    HandshakesTcp = "sluice.edge.handshakes.started" ["network.transport" = "tcp"];
    /// Handshakes begun over UDP, with a valid cookie.
    HandshakesUdp = "sluice.edge.handshakes.started" ["network.transport" = "udp"];
    /// Handshakes that ended, well or not, over TCP.
    HandshakesEndedTcp = "sluice.edge.handshakes.ended" ["network.transport" = "tcp"];
    /// Handshakes that ended, well or not, over UDP.
    HandshakesEndedUdp = "sluice.edge.handshakes.ended" ["network.transport" = "udp"];
    /// Times a shard began no handshake over UDP for a while, since its ledgers took new sessions too slowly.
    HandshakesHeldBack = "sluice.edge.handshakes.held_back";
    /// Cookies handed out.
    CookiesIssued = "sluice.edge.cookies.issued";
    /// Sessions whose device proved its key, over TCP.
    SessionsOpenedTcp = "sluice.edge.sessions.opened" ["network.transport" = "tcp"];
    /// Sessions whose device proved its key, or that came from another pod, over UDP.
    SessionsOpenedUdp = "sluice.edge.sessions.opened" ["network.transport" = "udp"];
    /// Sessions that ended, over TCP.
    SessionsClosedTcp = "sluice.edge.sessions.closed" ["network.transport" = "tcp"];
    /// Sessions that ended or went to another pod, over UDP.
    SessionsClosedUdp = "sluice.edge.sessions.closed" ["network.transport" = "udp"];
    /// Sessions that went on here after another owner had them.
    SessionsResumed = "sluice.edge.sessions.resumed";
    /// Sessions left to another owner.
    SessionsSuspended = "sluice.edge.sessions.suspended";
    /// Sessions of an adopted slot whose keys nobody has: closed, the device comes again.
    SessionsOrphaned = "sluice.edge.sessions.orphaned";
    /// Sessions of an adopted slot that had not spoken here when their device was found to have a newer one.
    SessionsReplacedAsleep = "sluice.edge.sessions.replaced_asleep";
    /// Sessions of an adopted slot that were silent for as long as is allowed.
    SessionsExpired = "sluice.edge.sessions.expired";
    /// Sessions whose keys could not be kept for another pod, since too many writes to the store waited.
    SessionsNotKept = "sluice.edge.sessions.not_kept";
    /// Sessions closed since their device opened more than it may in a time, at all pods together.
    SessionsOverRate = "sluice.edge.sessions.over_rate";
    /// Times a device was put into quarantine, since two holders of its key are suspected.
    DevicesQuarantined = "sluice.edge.devices.quarantined";
    /// Times a device that is to be refused could not be put down for it, since the store did not answer.
    HoldsFailed = "sluice.edge.devices.holds_failed";
    /// Questions to the store for places of a tenant.
    TenantLeases = "sluice.edge.tenants.leases";
    /// Those that it did not answer.
    TenantLeasesFailed = "sluice.edge.tenants.leases_failed";
    /// Penalties that another pod was told of.
    PenaltiesTold = "sluice.edge.penalties.told";
    /// Penalties that could not be told, since too many waited.
    PenaltiesNotTold = "sluice.edge.penalties.not_told";
    /// Penalties that another pod told of.
    PenaltiesHeard = "sluice.edge.penalties.heard";
    /// Sessions that sent four million frames to their device under one owner.
    SendingNumbersUsedUp = "sluice.edge.sessions.numbers_used_up";
    /// Slots that this process adopted.
    SlotsAdopted = "sluice.edge.slots.adopted";
    /// Slots adopted without their snapshot, since it was damaged or too old: the ledger was read from its start.
    SnapshotsDiscarded = "sluice.edge.slots.snapshots_discarded";
    /// Slots that it gave away.
    SlotsLeft = "sluice.edge.slots.left";
    /// Slots whose writer was fenced or failed.
    SlotsLost = "sluice.edge.slots.lost";
    /// Entries that a slot's ledger had no room for, or no slot of ours: a session may not be found again after its pod's death.
    JournalEntriesLost = "sluice.edge.ledger.entries_lost";
    /// Datagrams handed to another pod.
    DatagramsToPods = "sluice.edge.datagrams.to_pods";
    /// Datagrams that waited for a slot's owner to be known.
    DatagramsHeld = "sluice.edge.datagrams.held";
    /// Datagrams that another pod handed over.
    DatagramsFromPods = "sluice.edge.datagrams.from_pods";
    /// HELLO_ACKs of no handshake here, about which other shards and pods were asked.
    HandshakesAsked = "sluice.edge.handshakes.asked";
    /// Datagrams of handshakes handed to the pod that answered the device before, or that does its handshakes.
    HandshakesHandedOn = "sluice.edge.handshakes.handed_on";
    /// Datagrams of handshakes of this shard that reached another shard or pod.
    HandshakesFound = "sluice.edge.handshakes.found";
    /// Datagrams of handshakes that reached another shard or pod, and that nobody knows here either.
    HandshakesUnknown = "sluice.edge.handshakes.unknown";
    /// UDP sessions whose device now speaks from another address.
    SessionsMoved = "sluice.edge.sessions.moved";
    /// Messages taken from devices into a group of records.
    MessagesReceived = "sluice.edge.messages.received";
    /// First messages that waited until what older sessions of the device had sent was settled.
    MessagesHeld = "sluice.edge.messages.held";
    /// Those of them that are received now; the others still wait, or will come again.
    MessagesReleased = "sluice.edge.messages.released";
    /// Messages that Kafka has committed.
    MessagesCommitted = "sluice.edge.messages.committed";
    /// Messages that Kafka will never take; they went to the dead letters and are not acknowledged.
    MessagesRefused = "sluice.edge.messages.refused";
    /// Messages to devices taken in hand.
    DownlinkAccepted = "sluice.edge.downlink.accepted";
    /// Messages to devices that the device acknowledged (UDP) or its connection took (TCP).
    DownlinkDelivered = "sluice.edge.downlink.delivered";
    /// Messages to devices given up.
    DownlinkFailed = "sluice.edge.downlink.failed";
    /// Times a shard stopped reading because Kafka was behind.
    ReadingPaused = "sluice.edge.reading.paused";
    /// Times it went on.
    ReadingResumed = "sluice.edge.reading.resumed";
    /// Key look-ups that failed or took too long: no session was opened.
    KeyLookupsFailed = "sluice.edge.key_lookups.failed";
    /// Lifecycle and security events written.
    EventsWritten = "sluice.edge.events.written";
    /// Events lost because Kafka was behind for too long.
    EventsLost = "sluice.edge.events.lost";

    /// Not a frame: magic, length or checksum wrong.
    DroppedMalformed = "sluice.edge.dropped" ["reason" = "malformed"];
    /// Protocol version 0x01 or another unsupported one.
    DroppedVersion = "sluice.edge.dropped" ["reason" = "version"];
    /// A frame type that no client sends, or at the wrong time.
    DroppedUnexpected = "sluice.edge.dropped" ["reason" = "unexpected"];
    /// A HELLO_ACK of no handshake here, beyond those about which other shards and pods are asked.
    DroppedUnasked = "sluice.edge.dropped" ["reason" = "not_asked"];
    /// A HELLO_ACK about which another pod asked, beyond those that are looked up for others.
    DroppedNotLookedUp = "sluice.edge.dropped" ["reason" = "not_looked_up"];
    /// A cookie that is wrong or too old.
    DroppedCookie = "sluice.edge.dropped" ["reason" = "cookie"];
    /// A sealed frame of no session we know.
    DroppedUnknownSession = "sluice.edge.dropped" ["reason" = "unknown_session"];
    /// A session id that no edge made.
    DroppedForgedSession = "sluice.edge.dropped" ["reason" = "forged_session"];
    /// A sealed frame that does not authenticate.
    DroppedForged = "sluice.edge.dropped" ["reason" = "forged"];
    /// A sequence number at or below the highest one, and not its repetition.
    DroppedReplay = "sluice.edge.dropped" ["reason" = "replay"];
    /// A repetition of what is on its way to Kafka.
    DroppedPending = "sluice.edge.dropped" ["reason" = "pending"];
    /// An acknowledgement nobody waits for.
    DroppedUtack = "sluice.edge.dropped" ["reason" = "utack"];
    /// No room for a record because Kafka is behind; the device sends again.
    DroppedBehind = "sluice.edge.dropped" ["reason" = "kafka_behind"];
    /// A message of a session that is not, or no longer, to write, since the device has another one; over UDP it comes again.
    DroppedHeld = "sluice.edge.dropped" ["reason" = "held"];
    /// No reassembly buffer: over UDP the device sends again, over TCP what was read waits.
    DroppedNoBuffer = "sluice.edge.dropped" ["reason" = "no_buffer"];
    /// A HELLO that found the table of handshakes full.
    DroppedNoHandshake = "sluice.edge.dropped" ["reason" = "handshakes_full"];
    /// A proof that found the table of sessions full.
    DroppedNoSession = "sluice.edge.dropped" ["reason" = "sessions_full"];
    /// A proof of a device whose tenant has as many sessions as it may have at all pods together.
    DroppedTenantFull = "sluice.edge.dropped" ["reason" = "tenant_full"];
    /// A proof for whose session no slot had room, or of whose session the ledger did not hear in time: no SESSION_OK, the device
    /// tries again.
    DroppedNotJournaled = "sluice.edge.dropped" ["reason" = "not_journaled"];
    /// A handshake of a device that failed too often from this address.
    DroppedPenalty = "sluice.edge.dropped" ["reason" = "penalty"];
    /// A HELLO_ACK whose proof is wrong, the device unknown, or not allowed.
    DroppedProof = "sluice.edge.dropped" ["reason" = "proof"];
    /// A public key of low order.
    DroppedLowOrder = "sluice.edge.dropped" ["reason" = "low_order_key"];
    /// A handshake that did not end in time.
    DroppedHandshakeTimeout = "sluice.edge.dropped" ["reason" = "handshake_timeout"];
    /// An unproven peer that made room for another.
    DroppedEvicted = "sluice.edge.dropped" ["reason" = "evicted"];
    /// A newcomer while the edge is stopping.
    DroppedDraining = "sluice.edge.dropped" ["reason" = "draining"];
    /// A frame of a slot that nobody is known to serve; the device sends it again.
    DroppedNoOwner = "sluice.edge.dropped" ["reason" = "no_owner"];
    /// A frame relayed by a pod that took us for the owner of its slot.
    DroppedNotOwner = "sluice.edge.dropped" ["reason" = "not_owner"];
    /// A frame of a session whose keys are being looked for, beyond the one that waits, or that could not be asked for.
    DroppedWaking = "sluice.edge.dropped" ["reason" = "waking"];
    /// A handshake at a pod that serves no slot, also one that another pod handed on to it.
    DroppedNoSlot = "sluice.edge.dropped" ["reason" = "no_slot"];
    /// A datagram for another shard or pod, or from one, whose queue was full.
    DroppedRelayFull = "sluice.edge.dropped" ["reason" = "relay_full"];
    /// A connection that found the table of connections full.
    DroppedNoConnection = "sluice.edge.dropped" ["reason" = "connections_full"];
    /// A peer that did not take what was written to it.
    DroppedSlowReader = "sluice.edge.dropped" ["reason" = "slow_reader"];
    /// More PING and PONG than allowed.
    DroppedControlFlood = "sluice.edge.dropped" ["reason" = "control_flood"];
    /// A connection without the PROXY protocol header that its balancer owes, or with a broken one.
    DroppedProxyHeader = "sluice.edge.dropped" ["reason" = "proxy_header"];
    /// Anything else the protocol machine refused.
    DroppedOther = "sluice.edge.dropped" ["reason" = "other"];
}

/// Where a refusal of the protocol's machines is counted.
pub(crate) const fn drop_count(reason: DropReason) -> Count {
    match reason {
        DropReason::Version => Count::DroppedVersion,
        DropReason::UnknownType
        | DropReason::UnexpectedType
        | DropReason::InsideMessage
        | DropReason::TooManyFragments => Count::DroppedUnexpected,
        DropReason::ExplicitNonce | DropReason::Authentication => Count::DroppedForged,
        DropReason::WrongProof => Count::DroppedProof,
        DropReason::Stale | DropReason::Sequence => Count::DroppedReplay,
        DropReason::PendingDuplicate | DropReason::PendingFull => Count::DroppedPending,
        DropReason::NoBuffer => Count::DroppedNoBuffer,
        DropReason::ControlFlood => Count::DroppedControlFlood,
        DropReason::UtackUnexpected | DropReason::UtackMac => Count::DroppedUtack,
        DropReason::TooShort
        | DropReason::Magic
        | DropReason::Length
        | DropReason::Size
        | DropReason::Crc
        | DropReason::HandshakeLength
        | DropReason::PayloadTooShort
        | DropReason::RekeyLength => Count::DroppedMalformed,
        _ => Count::DroppedOther,
    }
}

/// The counters of one shard. Alone on their cache lines, so that shards do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counts([AtomicU64; Count::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Count::ALL.len()])
    }
}

impl Counts {
    pub(crate) fn add(&self, count: Count, amount: u64) {
        self.0[count as usize].fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn one(&self, count: Count) {
        self.add(count, 1);
    }

    pub(crate) fn value(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }
}

/// The sum over all shards.
pub(crate) fn total(shards: &[Arc<Counts>], count: Count) -> u64 {
    shards.iter().map(|counts| counts.value(count)).sum()
}

/// Lets `meter` see the counters. Instruments of one name are registered once, with all their labels.
pub(crate) fn export(meter: &Meter, shards: &[Arc<Counts>]) {
    let mut names: Vec<&'static str> = Count::ALL.iter().map(|count| count.instrument()).collect();
    names.dedup();
    for name in names {
        let members: Vec<(Count, Vec<KeyValue>)> = Count::ALL
            .iter()
            .filter(|count| count.instrument() == name)
            .map(|&count| (count, labels(count)))
            .collect();
        let shards = shards.to_vec();
        let _registered = meter
            .u64_observable_counter(name)
            .with_callback(move |observer| {
                for (count, labels) in &members {
                    observer.observe(total(&shards, *count), labels);
                }
            })
            .build();
    }
    for (name, started, ended, label) in [
        ("sluice.edge.sessions", Count::SessionsOpenedTcp, Count::SessionsClosedTcp, "tcp"),
        ("sluice.edge.sessions", Count::SessionsOpenedUdp, Count::SessionsClosedUdp, "udp"),
        ("sluice.edge.handshakes", Count::HandshakesTcp, Count::HandshakesEndedTcp, "tcp"),
        ("sluice.edge.handshakes", Count::HandshakesUdp, Count::HandshakesEndedUdp, "udp"),
    ] {
        let shards = shards.to_vec();
        let labels = [KeyValue::new("network.transport", label)];
        let _registered = meter
            .i64_observable_up_down_counter(name)
            .with_callback(move |observer| {
                let now = total(&shards, started).saturating_sub(total(&shards, ended));
                observer.observe(i64::try_from(now).unwrap_or(i64::MAX), &labels);
            })
            .build();
    }
}

/// Lets `meter` see what the store holds that nobody should have written.
pub(crate) fn export_store(meter: &Meter, store: Store) {
    let _registered = meter
        .u64_observable_counter("sluice.edge.store.distrusted")
        .with_description("stored values that were changed, cut, swapped or rolled back, and were not used")
        .with_callback(move |observer| observer.observe(store.distrusted_values(), &[]))
        .build();
}

/// Lets `meter` see what became of the shards' writers.
pub(crate) fn export_writers(meter: &Meter, writers: &[Arc<WriterStats>]) {
    let writers = writers.to_vec();
    let _registered = meter
        .u64_observable_counter("sluice.edge.producers.renewed")
        .with_description(
            "Kafka producers made anew after a fatal error; some records may be there twice, under one id",
        )
        .with_callback(move |observer| {
            let renewed = writers.iter().map(|writer| writer.renewed.load(Ordering::Relaxed)).sum();
            observer.observe(renewed, &[]);
        })
        .build();
}

/// Lets `meter` see what happens on the links to other pods.
pub(crate) fn export_peers(meter: &Meter, peers: &Arc<PeerCounts>) {
    for &count in sluice_peers::Count::ALL {
        let peers = Arc::clone(peers);
        let _registered = meter
            .u64_observable_counter(format!("sluice.peers.{}", count.name()))
            .with_callback(move |observer| observer.observe(peers.of(count), &[]))
            .build();
    }
}

fn labels(count: Count) -> Vec<KeyValue> {
    count.labels().iter().map(|&(key, value)| KeyValue::new(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_counts_share_name_and_labels_and_equal_names_stand_together() {
        let all: HashSet<_> = Count::ALL.iter().map(|count| (count.instrument(), count.labels())).collect();
        assert_eq!(all.len(), Count::ALL.len());
        let mut names: Vec<_> = Count::ALL.iter().map(|count| count.instrument()).collect();
        names.dedup();
        assert_eq!(names.len(), names.iter().collect::<HashSet<_>>().len(), "{names:?}");
    }

    #[test]
    fn totals_are_summed_over_the_shards() {
        let shards = [Arc::new(Counts::default()), Arc::new(Counts::default())];
        shards[0].add(Count::TcpAccepted, 2);
        shards[1].one(Count::TcpAccepted);
        assert_eq!(total(&shards, Count::TcpAccepted), 3);
        assert_eq!(total(&shards, Count::TcpEnded), 0);
    }
}
