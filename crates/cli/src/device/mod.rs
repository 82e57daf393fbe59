//! `sluice device …`

mod in_force;
mod key;
mod registry;
mod sim;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sluice_types::DeviceId;

use crate::args::{DeviceAddArgs, DeviceCommand, DeviceListArgs, DeviceShowArgs, Global, Platform};
use crate::control::DeviceView;
use crate::output::Printer;
use crate::snippets::Snippet;

pub(crate) use key::{KeyForm, fresh_key, read_key};
pub(crate) use registry::{Registry, add, list, release, revoke, show};
pub(crate) use sim::{Schedule, run_device};

pub(crate) async fn run(global: &Global, command: DeviceCommand) -> Result<ExitCode> {
    let printer = Printer::new(global.output);
    match command {
        DeviceCommand::Revoke { id, reason, wait } => {
            return revoke_device(&Registry::open(global).await?, id, &reason, wait, printer).await;
        }
        DeviceCommand::Sim(args) => sim::run(args).await,
        DeviceCommand::Add(args) => add_device(&Registry::open(global).await?, args, printer).await,
        DeviceCommand::List(args) => list_devices(&Registry::open(global).await?, args, printer).await,
        DeviceCommand::Show(args) => show_device(&Registry::open(global).await?, args, printer).await,
        DeviceCommand::Reseal => {
            let count = Registry::open(global).await?.reseal().await?;
            printer.done(
                &format!("devices sealed under the first key-encryption key: {count}"),
                &serde_json::json!({ "resealed": count }),
            );
            Ok(())
        }
        DeviceCommand::Release { id } => {
            let held = Registry::open(global).await?.release(id).await?;
            let text = match &held {
                Some(hold) => format!("{id} may connect again; it was refused as {}", hold.reason),
                None => format!("{id} was not held: nothing is changed"),
            };
            printer
                .done(&text, &serde_json::json!({ "device": id, "released": held.is_some(), "hold": held }));
            Ok(())
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

async fn revoke_device(
    registry: &Registry,
    id: DeviceId,
    reason: &str,
    wait: Duration,
    printer: Printer,
) -> Result<ExitCode> {
    let position = registry.revoke(id, reason).await?;
    let (mut text, mut facts) =
        (format!("{id} is revoked"), serde_json::json!({ "device": id, "state": "revoked" }));
    let mut code = ExitCode::SUCCESS;
    if let (Some(position), Some(store)) = (position, registry.shared_store()) {
        // The revocation stands, whatever is known of the rest.
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

async fn add_device(registry: &Registry, args: DeviceAddArgs, printer: Printer) -> Result<()> {
    let form = match (args.psk_format, args.snippet) {
        (crate::args::PskFormatArg::Text, _) | (_, Some(Platform::Arduino)) => KeyForm::Text,
        _ => KeyForm::Bytes,
    };
    let psk = match &args.psk_file {
        Some(file) => read_key(file, args.psk_format.into())?,
        None => fresh_key(form)?,
    };
    // A snippet that cannot be made must not leave a device behind.
    let snippet = match args.snippet {
        None => None,
        Some(platform) => {
            let server = registry.device_address().await?;
            Some(Snippet { platform, device: args.id, psk: Some(&psk), server }.render()?)
        }
    };
    let view = registry.add(args.id, args.tenant, &psk).await?;
    if let Some(snippet) = snippet {
        print!("{snippet}");
        return Ok(());
    }
    let made = args.psk_file.is_none();
    let shown = made.then(|| match form {
        KeyForm::Bytes => hex::encode(psk.expose()),
        KeyForm::Text => String::from_utf8_lossy(psk.expose()).into_owned(),
    });
    printer.device(&view, shown.as_deref());
    if made {
        eprintln!("The key is shown only now. Put it into the device and nowhere else.");
    }
    Ok(())
}

async fn list_devices(registry: &Registry, args: DeviceListArgs, printer: Printer) -> Result<()> {
    printer.devices(&registry.list(args.tenant).await?);
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

fn revealed_key(view: &DeviceView, id: DeviceId, reveal: bool) -> Result<Option<sluice_types::Psk>> {
    if !reveal {
        return Ok(None);
    }
    let Some(hex) = &view.psk_hex else { bail!("{id} has no key that could be shown") };
    let bytes = hex::decode(hex).context("the running process answered with a key that is not hex")?;
    // A key that is stored was taken once, a short one by permission of its tenant.
    Ok(Some(sluice_types::Psk::new_dangerously_short(&bytes)?))
}

/// The address that a device can dial for a listener: an unspecified one stands for this machine.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let ip = crate::dev::lan_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, listen.port())
}
