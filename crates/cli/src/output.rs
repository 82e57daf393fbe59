//! How results are printed: for people, or as JSON for programs.

use serde_json::{Value, json};

use crate::args::Output;
use crate::control::DeviceView;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer(Output);

impl Printer {
    pub(crate) const fn new(output: Output) -> Self {
        Self(output)
    }

    /// One sentence, or its facts.
    pub(crate) fn done(self, text: &str, facts: &Value) {
        match self.0 {
            Output::Text => println!("{text}"),
            Output::Json => println!("{facts}"),
        }
    }

    pub(crate) fn device(self, device: &DeviceView, key: Option<&str>) {
        match self.0 {
            Output::Json => {
                let mut facts = facts(device);
                if let (Some(key), Some(map)) = (key, facts.as_object_mut()) {
                    map.insert("key".to_owned(), json!(key));
                }
                println!("{facts}");
            }
            Output::Text => {
                println!("device   {}", device.device);
                println!("tenant   {}", device.tenant);
                println!("state    {}", device.state);
                println!("profile  {}", device.profile);
                println!("created  {}", device.created);
                for (place, key) in device.keys.iter().enumerate() {
                    let name = if place == 0 { "keys" } else { "" };
                    let until =
                        key.not_after.as_ref().map(|end| format!(", until {end}")).unwrap_or_default();
                    println!("{name:<8} {}, since {}{until}", key.epoch, key.created);
                }
                if let Some(hold) = &device.hold {
                    let (reason, since, until) = (&hold.reason, &hold.since, &hold.until);
                    println!(
                        "refused  as {reason}, since {since}, until {until}: `sluice device release` ends it"
                    );
                }
                if let Some(key) = key {
                    println!("key      {key}");
                }
            }
        }
    }

    pub(crate) fn devices(self, devices: &[DeviceView]) {
        match self.0 {
            Output::Json => println!("{}", Value::Array(devices.iter().map(facts).collect())),
            Output::Text if devices.is_empty() => {
                println!("no devices: `sluice device add ID` registers one");
            }
            Output::Text => {
                let tenant_width =
                    devices.iter().map(|device| device.tenant.as_str().len()).max().unwrap_or(0).max(6);
                println!(
                    "{:<12}  {:<tenant_width$}  {:<14}  {:<8}  CREATED",
                    "DEVICE", "TENANT", "STATE", "PROFILE"
                );
                for device in devices {
                    let DeviceView { device: id, tenant, state, profile, created, .. } = device;
                    println!(
                        "{:<12}  {:<tenant_width$}  {state:<14}  {profile:<8}  {created}",
                        id.to_string(),
                        tenant.as_str()
                    );
                }
            }
        }
    }
}

fn facts(device: &DeviceView) -> Value {
    let DeviceView { device, tenant, state, profile, keys, created, hold, .. } = device;
    let mut facts = json!({
        "device": device, "tenant": tenant, "state": state, "profile": profile,
        "key_epochs": keys.iter().map(|key| key.epoch).collect::<Vec<_>>(), "keys": keys, "created": created,
    });
    if let Some(hold) = hold {
        facts["hold"] = json!(hold);
    }
    facts
}
