use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize as _;
use sluice_proto::events::v1::{LifecycleEvent, SecurityEvent};

use crate::{BusError, EventFormat};

/// Encodes events in the configured format. Not for the packet path.
#[derive(Debug, Clone)]
pub struct EventEncoder {
    /// The descriptors, where JSON is wanted.
    json: Option<&'static DescriptorPool>,
}

impl EventEncoder {
    /// For one format.
    ///
    /// # Errors
    ///
    /// None today; a later format may need something from outside.
    pub fn new(format: EventFormat) -> Result<Self, BusError> {
        Ok(Self { json: (format == EventFormat::Json).then(pool) })
    }

    /// Encodes a lifecycle event.
    #[must_use]
    pub fn lifecycle(&self, event: &LifecycleEvent) -> Vec<u8> {
        self.encode(event, "sluice.events.v1.LifecycleEvent")
    }

    /// Encodes a security event.
    #[must_use]
    pub fn security(&self, event: &SecurityEvent) -> Vec<u8> {
        self.encode(event, "sluice.events.v1.SecurityEvent")
    }

    fn encode(&self, event: &impl Message, name: &str) -> Vec<u8> {
        match &self.json {
            None => event.encode_to_vec(),
            Some(pool) => json(pool, name, &event.encode_to_vec())
                .expect("the descriptors and the message are of the same build"),
        }
    }
}

/// Decoded once; they are immutable.
fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(sluice_proto::DESCRIPTORS)
            .expect("the descriptors were written by the same build")
    });
    &POOL
}

/// The JSON mapping of an encoded message; `None` when the bytes are no such message.
fn json(pool: &DescriptorPool, name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let message = DynamicMessage::decode(pool.get_message_by_name(name)?, bytes).ok()?;
    let mut out = Vec::new();
    message.serialize(&mut serde_json::Serializer::new(&mut out)).ok()?;
    Some(out)
}

/// The JSON mapping of an event as it stands in a record, whichever of the two formats it has.
#[must_use]
pub(crate) fn event_as_json(ce_type: &str, payload: &[u8]) -> Option<serde_json::Value> {
    if payload.first() == Some(&b'{') {
        return serde_json::from_slice(payload).ok();
    }
    serde_json::from_slice(&json(pool(), ce_type, payload)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let event = SecurityEvent {
            revision: 1,
            event_id: "x".into(),
            count: 3,
            reason: 1,
            ..SecurityEvent::default()
        };
        let encoder = |format| EventEncoder::new(format).expect("both formats are built in");
        let binary = encoder(EventFormat::Protobuf).security(&event);
        let json = encoder(EventFormat::Json).security(&event);
        let name = "sluice.events.v1.SecurityEvent";
        let shown = event_as_json(name, &binary).expect("binary is read");
        assert_eq!(Some(&shown), event_as_json(name, &json).as_ref());
        assert_eq!(shown["reason"], "SECURITY_REASON_UNKNOWN_DEVICE");
        assert_eq!(shown["count"], "3");
    }
}
