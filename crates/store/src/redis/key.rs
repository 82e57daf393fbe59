use sluice_types::{DeviceId, SessionId, TenantId};

use crate::slot::SnapshotId;

/// Makes the names of all keys. What belongs to a device carries its id as hash tag, so that a script may touch all of it on a
/// cluster too; the same for a tenant and for the log.
///
/// | Key | Holds | Lives |
/// |---|---|---|
/// | `P:{D}:device` | registry record | for good: the registry |
/// | `P:{D}:session:S` | sealed session record | as the caller says, refreshed by each write |
/// | `P:{D}:epoch` | number of the last session | 30 days; numbers start from the clock |
/// | `P:{D}:holder`, `:displaced` | where its session is; when others were displaced | as the caller says; 10 minutes |
/// | `P:{D}:hold` | why the device is refused for a time | for that time, at most 30 days |
/// | `P:{D}:limit:N` | token bucket | until it is full again |
/// | `P:{t:T}:tenant` | tenant record | for good: the registry |
/// | `P:{t:T}:devices` | ids for lists | for good: follows the registry |
/// | `P:{t:T}:limit:N` | token bucket | until it is full again |
/// | `P:{t:T}:places` | places leased to pods | until the last lease ends |
/// | `P:{tenants}:names` | tenants that ever had a device | for good: follows the registry |
/// | `P:{log}:identity` | which life of the store this is | for good: its absence means that the store was emptied |
/// | `P:{log}:stream`, `:head`, `:logged` | revocation log | for good, bounded to 65,536 entries |
/// | `P:{log}:copy` | revocation log while it is written anew | until it takes the log's place, or an hour |
/// | `P:{log}:accepted` | entries that may be missing from it | for good: as long as somebody may ask for them |
/// | `P:{log}:announced` | withdrawals under way | settled within seconds by any watching pod |
/// | `P:{log}:applied`, `:seen` | how far pods are | 1 hour after the last report |
/// | `P:{cluster}:ring` | sealed keys that all pods share | for good: it rotates by itself |
/// | `P:{pods}:records`, `:until` | pods and how long they live | 1 hour after the last of them |
/// | `P:{slots}:owners` | who owns which slot | 24 hours after the last word |
/// | `P:{slot:K}:snapshot`, `:chunks:I` | sealed snapshot of a slot | 24 hours |
///
/// `P` is the configured prefix, `D` a device id and `S` a session id in lowercase hex, `T` a tenant, `N` the name of a limit,
/// `K` a slot, `I` the id of a snapshot in hex.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// `None` for a prefix that could take the hash tag over or confuse a person.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let fits = (1..=64).contains(&prefix.len()) && prefix.bytes().all(allowed);
        fits.then(|| Self { prefix: prefix.to_owned() })
    }

    pub(super) fn device(&self, id: DeviceId) -> Key {
        self.of_device(id, "device")
    }

    pub(super) fn session(&self, id: DeviceId, session: SessionId) -> Key {
        self.of_device(id, &format!("session:{session}"))
    }

    pub(super) fn epoch(&self, id: DeviceId) -> Key {
        self.of_device(id, "epoch")
    }

    pub(super) fn device_limit(&self, id: DeviceId, name: &str) -> Key {
        self.of_device(id, &format!("limit:{name}"))
    }

    pub(super) fn holder(&self, id: DeviceId) -> Key {
        self.of_device(id, "holder")
    }

    pub(super) fn displaced(&self, id: DeviceId) -> Key {
        self.of_device(id, "displaced")
    }

    pub(super) fn hold(&self, id: DeviceId) -> Key {
        self.of_device(id, "hold")
    }

    pub(super) fn tenant(&self, id: &TenantId) -> Key {
        self.of_tenant(id, "tenant")
    }

    pub(super) fn tenant_devices(&self, id: &TenantId) -> Key {
        self.of_tenant(id, "devices")
    }

    pub(super) fn tenant_limit(&self, id: &TenantId, name: &str) -> Key {
        self.of_tenant(id, &format!("limit:{name}"))
    }

    pub(super) fn tenant_places(&self, id: &TenantId) -> Key {
        self.of_tenant(id, "places")
    }

    pub(super) fn ring(&self) -> Key {
        Key(format!("{}:{{cluster}}:ring", self.prefix))
    }

    pub(super) fn pods(&self, part: &'static str) -> Key {
        Key(format!("{}:{{pods}}:{part}", self.prefix))
    }

    pub(super) fn owners(&self) -> Key {
        Key(format!("{}:{{slots}}:owners", self.prefix))
    }

    pub(super) fn slot(&self, slot: u16, part: SlotPart) -> Key {
        let part = match part {
            SlotPart::Snapshot => "snapshot".to_owned(),
            SlotPart::Chunks(id) => format!("chunks:{}", hex::encode(id.0)),
        };
        Key(format!("{}:{{slot:{slot}}}:{part}", self.prefix))
    }

    pub(super) fn tenants(&self) -> Key {
        Key(format!("{}:{{tenants}}:names", self.prefix))
    }

    pub(super) fn log(&self, part: LogPart) -> Key {
        let part = match part {
            LogPart::Identity => "identity",
            LogPart::Stream => "stream",
            LogPart::Head => "head",
            LogPart::Logged => "logged",
            LogPart::Copy => "copy",
            LogPart::Accepted => "accepted",
            LogPart::Announced => "announced",
            LogPart::Applied => "applied",
            LogPart::Seen => "seen",
        };
        Key(format!("{}:{{log}}:{part}", self.prefix))
    }

    fn of_device(&self, id: DeviceId, what: &str) -> Key {
        Key(format!("{}:{{{id}}}:{what}", self.prefix))
    }

    fn of_tenant(&self, id: &TenantId, what: &str) -> Key {
        Key(format!("{}:{{t:{id}}}:{what}", self.prefix))
    }
}

/// The name of one key. Nothing but [`Keys`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(String);

impl ::redis::ToRedisArgs for Key {
    fn write_redis_args<W: ?Sized + ::redis::RedisWrite>(&self, out: &mut W) {
        out.write_arg(self.0.as_bytes());
    }
}

impl ::redis::ToSingleRedisArg for Key {}

/// The parts of the revocation log.
#[derive(Debug, Clone, Copy)]
pub(super) enum LogPart {
    Identity,
    Stream,
    Head,
    Logged,
    Copy,
    Accepted,
    Announced,
    Applied,
    Seen,
}

/// What is kept for a slot.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlotPart {
    Snapshot,
    Chunks(SnapshotId),
}

#[cfg(test)]
mod key_tests {
    use super::*;

    fn tag(key: &Key) -> &str {
        let (_, rest) = key.0.split_once('{').expect("a hash tag");
        rest.split_once('}').expect("its end").0
    }

    #[test]
    fn all_keys_of_a_device_share_a_slot_and_differ() {
        let keys = Keys::new("sluice").expect("fits");
        let id = "02a1b2c3d4e5".parse().expect("an id");
        let all = [
            keys.device(id),
            keys.session(id, SessionId::from_bytes([1; 16])),
            keys.session(id, SessionId::from_bytes([2; 16])),
            keys.epoch(id),
            keys.holder(id),
            keys.displaced(id),
            keys.device_limit(id, "handshake"),
            keys.device_limit(id, "publish"),
        ];
        for (index, key) in all.iter().enumerate() {
            assert_eq!(tag(key), "02a1b2c3d4e5");
            assert!(!all[..index].contains(key), "{key:?}");
        }
        assert_eq!(all[0].0, "sluice:{02a1b2c3d4e5}:device");
    }

    #[test]
    fn no_tenant_can_take_the_slot_or_the_name_of_something_else() {
        let keys = Keys::new("sluice").expect("fits");
        for name in ["log", "tenants", "pods", "slots", "cluster", "02a1b2c3d4e5", "default"] {
            let tenant: TenantId = name.parse().expect("a name");
            assert_eq!(tag(&keys.tenant(&tenant)), format!("t:{name}"));
        }
    }

    #[test]
    fn all_keys_of_a_slot_share_a_slot_of_the_server() {
        let keys = Keys::new("sluice").expect("fits");
        let chunks = keys.slot(5, SlotPart::Chunks(SnapshotId([0xab; 16])));
        assert_eq!(tag(&keys.slot(5, SlotPart::Snapshot)), tag(&chunks));
        assert_ne!(tag(&keys.slot(6, SlotPart::Snapshot)), tag(&chunks));
        assert_eq!(chunks.0, format!("sluice:{{slot:5}}:chunks:{}", "ab".repeat(16)));
    }

    #[test]
    fn a_prefix_with_braces_or_blanks_is_refused() {
        for prefix in ["", "a{b", "a}", "a b", "ä", &"x".repeat(65)] {
            assert!(Keys::new(prefix).is_none(), "{prefix}");
        }
        assert!(Keys::new("eu-1:sluice_test.7").is_some());
    }
}
