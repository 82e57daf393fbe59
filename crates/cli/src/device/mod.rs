//! `sluice device …`

mod in_force;
mod key;
mod registry;
mod sim;
pub(crate) mod stored;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sluice_types::{DeviceId, KeyEpoch, Psk};
use zeroize::Zeroizing;

use crate::args::{
    DeviceAddArgs, DeviceCommand, DeviceShowArgs, Global, KeyArgs, KeyCommand, Patience, Platform,
    PskFormatArg,
};
use crate::control::{DeviceView, Withdrawal};
use crate::output::Printer;
use crate::snippets::Snippet;

pub(crate) use key::{KeyForm, fresh_key, read_key};
pub(crate) use registry::{Registry, Resealed};
pub(crate) use sim::{Schedule, run_device};

pub(crate) async fn run(global: &Global, command: DeviceCommand) -> Result<ExitCode> {
    let printer = Printer::new(global.output);
    if let DeviceCommand::Sim(args) = command {
        return sim::run(args, printer).await.map(|()| ExitCode::SUCCESS);
    }
    let registry = Registry::open(global).await?;
    match command {
        DeviceCommand::Revoke { id, reason, patience } => {
            return withdraw(&registry, id, Withdrawal::Revoke { reason }, patience, printer).await;
        }
        DeviceCommand::Suspend { id, reason, patience } => {
            return withdraw(&registry, id, Withdrawal::Suspend { reason }, patience, printer).await;
        }
        DeviceCommand::Remove { id, patience } => {
            return withdraw(&registry, id, Withdrawal::Remove, patience, printer).await;
        }
        DeviceCommand::Sim(_) => {}
        DeviceCommand::Add(args) => add_device(&registry, args, printer).await?,
        DeviceCommand::Key(KeyCommand::Add { id, key }) => add_key(&registry, id, &key, printer).await?,
        DeviceCommand::Key(KeyCommand::Retire { id, key }) => {
            retire_key(&registry, id, key, printer).await?;
        }
        DeviceCommand::List(args) => printer.devices(&registry.list(args.tenant).await?),
        DeviceCommand::Show(args) => show_device(&registry, args, printer).await?,
        DeviceCommand::Resume { id } => {
            let state = registry.resume(id).await?.state;
            printer.done(&format!("{id} may connect"), &json!({ "device": id, "state": state }));
        }
        DeviceCommand::Reseal => {
            let Resealed { devices, revocations } = registry.reseal().await?;
            printer.done(
                &format!(
                    "the first key-encryption key is in force; sealed under it: {devices} devices, {revocations} revocations, and all that pods share"
                ),
                &json!({ "resealed": devices, "revocations": revocations }),
            );
        }
        DeviceCommand::Release { id } => {
            let held = registry.release(id).await?;
            let text = match &held {
                Some(hold) => format!("{id} may connect again; it was refused as {}", hold.reason),
                None => format!("{id} was not held: nothing is changed"),
            };
            printer.done(&text, &json!({ "device": id, "released": held.is_some(), "hold": held }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn withdraw(
    registry: &Registry,
    id: DeviceId,
    how: Withdrawal,
    Patience { wait }: Patience,
    printer: Printer,
) -> Result<ExitCode> {
    let state = match &how {
        Withdrawal::Revoke { .. } => "revoked",
        Withdrawal::Suspend { .. } => "suspended",
        Withdrawal::Remove => "removed",
    };
    let position = registry.withdraw(id, how).await?;
    let (mut text, mut facts) = (format!("{id} is {state}"), json!({ "device": id, "state": state }));
    let mut code = ExitCode::SUCCESS;
    if let (Some(position), Some(store)) = (position, registry.shared_store()) {
        // It stands, whatever is known of the rest.
        let spread = in_force::spread(store, position, wait).await;
        let spread = spread.unwrap_or_else(|error| in_force::Spread::Unknown(format!("{error:#}")));
        text = format!("{text}, {spread}");
        facts["in_force"] = spread.is_complete().into();
        facts["outstanding"] = spread.outstanding().into();
        code = spread.exit_code().into();
    }
    printer.done(&text, &facts);
    Ok(code)
}

/// A key on its way to a device and to the registry.
struct NewKey {
    psk: Psk,
    /// As it is shown once, if it was made here.
    shown: Option<Zeroizing<String>>,
    /// Code with the key in it, where it was asked for.
    snippet: Option<String>,
}

impl NewKey {
    /// Takes or makes the key before anything is registered: a snippet that cannot be made must leave nothing behind.
    async fn prepare(registry: &Registry, id: DeviceId, args: &KeyArgs) -> Result<Self> {
        let form = match (args.psk_format, args.snippet) {
            (PskFormatArg::Text, _) | (_, Some(Platform::Arduino)) => KeyForm::Text,
            _ => KeyForm::Bytes,
        };
        let psk = match &args.psk_file {
            Some(file) => read_key(file, args.psk_format.into())?,
            None => fresh_key(form)?,
        };
        let snippet = match args.snippet {
            None => None,
            Some(platform) => {
                let server = registry.device_address().await?;
                Some(Snippet { platform, device: id, psk: Some(&psk), server }.render()?)
            }
        };
        let shown = args.psk_file.is_none().then(|| {
            Zeroizing::new(match form {
                KeyForm::Bytes => hex::encode(psk.expose()),
                KeyForm::Text => String::from_utf8_lossy(psk.expose()).into_owned(),
            })
        });
        Ok(Self { psk, shown, snippet })
    }

    /// Prints the code, or the device and its new key.
    fn print(&self, view: &DeviceView, printer: Printer) {
        if let Some(snippet) = &self.snippet {
            print!("{snippet}");
            return;
        }
        printer.device(view, self.shown.as_ref().map(|shown| shown.as_str()));
        if self.shown.is_some() {
            eprintln!("The key is shown only now. Put it into the device and nowhere else.");
        }
    }
}

async fn add_device(registry: &Registry, args: DeviceAddArgs, printer: Printer) -> Result<()> {
    let key = NewKey::prepare(registry, args.id, &args.key).await?;
    let view = registry.add(args.id, args.tenant, &key.psk).await?;
    key.print(&view, printer);
    Ok(())
}

async fn add_key(registry: &Registry, id: DeviceId, args: &KeyArgs, printer: Printer) -> Result<()> {
    let key = NewKey::prepare(registry, id, args).await?;
    let view = registry.add_key(id, &key.psk).await?;
    key.print(&view, printer);
    if let [older, .., newest] = view.keys.as_slice() {
        eprintln!(
            "Key {} is in force beside the older ones. Once the device has it: sluice device key retire {id} {}",
            newest.epoch, older.epoch
        );
    }
    Ok(())
}

async fn retire_key(registry: &Registry, id: DeviceId, key: KeyEpoch, printer: Printer) -> Result<()> {
    let left: Vec<_> = registry.retire_key(id, key).await?.keys.iter().map(|key| key.epoch).collect();
    let text = format!(
        "key {key} of {id} is retired: no session opens under it from now on. Sessions that are open go on; \
         `sluice device suspend {id}` and then `resume` end them"
    );
    printer.done(&text, &json!({ "device": id, "retired": key.0, "key_epochs": left }));
    Ok(())
}

async fn show_device(registry: &Registry, args: DeviceShowArgs, printer: Printer) -> Result<()> {
    let view = registry.show(args.id, args.reveal).await?;
    let Some(platform) = args.snippet else {
        printer.device(&view, view.psk_hex.as_deref());
        return Ok(());
    };
    let psk = revealed_key(&view, args.id, args.reveal)?;
    let server = registry.device_address().await?;
    print!("{}", Snippet { platform, device: args.id, psk: psk.as_ref(), server }.render()?);
    Ok(())
}

fn revealed_key(view: &DeviceView, id: DeviceId, reveal: bool) -> Result<Option<Psk>> {
    if !reveal {
        return Ok(None);
    }
    let Some(hex) = &view.psk_hex else { bail!("{id} has no key that could be shown") };
    let bytes = hex::decode(hex).context("the running process answered with a key that is not hex")?;
    // A key that is stored was taken once, a short one by permission of its tenant.
    Ok(Some(Psk::new_dangerously_short(&bytes)?))
}

/// The address that a device can dial for a listener: an unspecified one stands for this machine.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let ip = crate::dev::lan_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, listen.port())
}
