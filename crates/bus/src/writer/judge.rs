//! What an error of Kafka means for a record. Every code is judged here, once.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::Refusal;

/// What to do about a record that a broker, or librdkafka, did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Kafka will never take it as it is.
    Refuse(Refusal),
    /// It may yet be taken: a leader moves, a topic is being made, a node restarts, the network breaks.
    Again,
    /// A code without a place here. Tried again a few times, then refused, so that it cannot stop everything for ever.
    Unclassified,
}

/// Librdkafka itself repeats what is retriable, in order and without doubles, for as long as it takes; what arrives here it has
/// given up.
pub(crate) const fn judge(code: Code) -> Verdict {
    match code {
        // The record itself, or the batch it was in: whoever reads this must try it alone before believing it.
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => Verdict::Refuse(Refusal::TooLarge),
        Code::InvalidRecord | Code::InvalidTimestamp | Code::UnsupportedForMessageFormat => {
            Verdict::Refuse(Refusal::InvalidRecord)
        }
        Code::PolicyViolation => Verdict::Refuse(Refusal::Policy),

        // The topic.
        Code::TopicAuthorizationFailed => Verdict::Refuse(Refusal::NotAuthorized),
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::InvalidTopic => Verdict::Again,

        // The cluster as a whole: an ACL on the cluster, or on producing idempotently, says nothing about this record.
        Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => Verdict::Again,

        // Another record of the same batch was at fault.
        Code::InvalidDifferentRecord => Verdict::Again,

        // Brokers and the way to them.
        Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::ReplicaNotAvailable
        | Code::BrokerNotAvailable
        | Code::KafkaStorageError
        | Code::NetworkException
        | Code::RequestTimedOut
        | Code::ThrottlingQuotaExceeded
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::SSL
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::MessageTimedOut => Verdict::Again,
        // Damaged on the way: the checksum did not match.
        Code::InvalidMessage | Code::BadMessage => Verdict::Again,

        // The producer's own state, while its epoch is raised, it is purged, or a new one takes its place.
        Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::ProducerFenced
        | Code::Fenced
        | Code::Fatal
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::QueueFull => Verdict::Again,

        // The transaction: it has failed already, or the coordinator is not through with the one before.
        Code::State | Code::InvalidTransactionalState | Code::ConcurrentTransactions => Verdict::Again,

        _ => Verdict::Unclassified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_record_or_its_topic_can_never_have_is_refused() {
        for (code, expected) in [
            (Code::MessageSizeTooLarge, Verdict::Refuse(Refusal::TooLarge)),
            (Code::InvalidRecord, Verdict::Refuse(Refusal::InvalidRecord)),
            (Code::TopicAuthorizationFailed, Verdict::Refuse(Refusal::NotAuthorized)),
            (Code::PolicyViolation, Verdict::Refuse(Refusal::Policy)),
            (Code::NotEnoughReplicas, Verdict::Again),
            (Code::MessageTimedOut, Verdict::Again),
            (Code::UnknownTopic, Verdict::Again),
            (Code::ClusterAuthorizationFailed, Verdict::Again),
            (Code::InvalidDifferentRecord, Verdict::Again),
            (Code::OutOfOrderSequenceNumber, Verdict::Again),
            (Code::InvalidRequiredAcks, Verdict::Unclassified),
        ] {
            assert_eq!(judge(code), expected, "{code:?}");
        }
    }
}
