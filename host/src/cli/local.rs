//! Verbs that work without a daemon.

use std::path::PathBuf;

use serde_json::json;

use super::flags::{InitFlags, JoinFlags};
use super::{Context, Failure, Outcome, say};
use crate::config::{Config, check_against_host};
use crate::doctor::{self, Finding, Severity};
use crate::identity::Identity;
use crate::setup::{self, NewPair, NodeDirs, SetupError, Written};

/// These verbs write a configuration and read none: `--dir` says where.
fn refuse_config(context: &Context) -> Result<(), Failure> {
    if !context.names_config() {
        return Ok(());
    }
    let file = context.config().display();
    Err(Failure::Usage(format!(
        "init and join read no configuration: use --dir FOLDER instead of --config {file}"
    )))
}

pub(super) fn init(context: &Context, flags: InitFlags) -> Outcome {
    refuse_config(context)?;
    if flags.local.len() != flags.peer_address.len() {
        return Err(Failure::Usage(format!(
            "--local is there {} times and --peer-address {} times: give both ends of each link",
            flags.local.len(),
            flags.peer_address.len()
        )));
    }
    let pair = NewPair {
        name: flags.name,
        peer: flags.peer,
        cluster: flags.cluster,
        links: flags.local.into_iter().zip(flags.peer_address).collect(),
        vips: flags.vip,
        profile: flags.profile,
        state_dir: flags.dirs.state_dir,
        run_dir: flags.dirs.run_dir,
    };
    let written = setup::init(&flags.dir, &pair).map_err(setup_failure)?;
    let peer = pair.peer;
    context.print(&json!(written), || {
        let bundle = written.bundle.clone().unwrap_or_default();
        let bundle = bundle.display();
        format!(
            "{}\nnext:\n  1. copy {bundle} to {peer} in a safe way (it holds the cluster's \
             secret)\n  2. on {peer}: \
             staffetta join FILE, then delete the file on both nodes\n  3. on both: staffetta \
             doctor, then staffetta run",
            made(&written)
        )
    });
    Ok(())
}

pub(super) fn join(context: &Context, flags: &JoinFlags) -> Outcome {
    refuse_config(context)?;
    let dirs =
        NodeDirs { state_dir: flags.dirs.state_dir.clone(), run_dir: flags.dirs.run_dir.clone() };
    let written = setup::join(&flags.bundle, &flags.dir, &dirs).map_err(setup_failure)?;
    context.print(&json!(written), || {
        format!(
            "{}\nnext: look at the interface of each [[vip]], delete the bundle, then staffetta \
             doctor and staffetta run",
            made(&written)
        )
    });
    Ok(())
}

fn setup_failure(error: SetupError) -> Failure {
    match error {
        SetupError::Options(_) => Failure::Usage(error.to_string()),
        SetupError::File(_)
        | SetupError::Identity(_)
        | SetupError::Folder { .. }
        | SetupError::Bundle { .. } => Failure::of(error),
    }
}

fn made(written: &Written) -> String {
    let mut text: String =
        written.files.iter().map(|file| format!("made {}\n", file.display())).collect();
    text.push_str(&format!("identity of this node, for a license: {}", written.identity));
    text
}

pub(super) fn identity(context: &Context) -> Outcome {
    let config = context.load()?;
    let identity = Identity::load(&config.node.identity_file).map_err(Failure::of)?;
    let public = identity.public_hex();
    context.print(&json!({ "node": config.node.name, "identity": public }), || public.clone());
    Ok(())
}

pub(super) fn config_check(context: &Context, file: Option<PathBuf>) -> Outcome {
    let file = file.unwrap_or_else(|| context.config.clone());
    let config = Config::load(&file)?;
    let on_this_host = check_against_host(&config, &doctor::host_addresses());
    if let Some(error) = on_this_host.into_iter().next() {
        return Err(Failure::Config(error));
    }
    let (node, peer) = (&config.node.name, &config.peer.name);
    context.print(&json!({ "ok": true, "node": node, "peer": peer }), || {
        format!("{}: good ({node}, peer {peer})", file.display())
    });
    Ok(())
}

pub(super) fn doctor(context: &Context) -> Outcome {
    // Without a daemon there is nothing measured, and no finding about it.
    let stalls = context.ask_status().ok().map(|(_, status)| status.stalls);
    let findings = doctor::examine(&context.config, stalls.as_ref());
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (warnings, failures) = (count(Severity::Warn), count(Severity::Fail));
    context.print(&json!({ "findings": findings }), || {
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        format!("{}\n{failures} to repair, {warnings} to look at", lines.join("\n"))
    });
    if failures > 0 { Err(Failure::FailedQuietly) } else { Ok(()) }
}

pub(super) fn demo(context: &Context, keep: bool) -> Outcome {
    let binary = std::env::current_exe().map_err(Failure::of)?;
    let options = staffetta_lab::DemoOptions { keep, json: context.json };
    let report = staffetta_lab::demo(&binary, options).map_err(Failure::Failed)?;
    if report.passed { Ok(()) } else { Err(Failure::FailedQuietly) }
}

/// For the unit's ExecStopPost: whatever the daemon left is taken from the kernel. A daemon that
/// answers keeps it.
pub(super) fn release(context: &Context) -> Outcome {
    let config = context.load()?;
    let socket = config.control_socket();
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        return Err(Failure::Failed(anyhow::anyhow!(
            "the daemon answers on {} and holds its own addresses: stop it first",
            socket.display()
        )));
    }
    let options = staffetta_vip::Options {
        vips: config
            .vips
            .iter()
            .map(|vip| staffetta_vip::Vip {
                address: vip.address,
                prefix: vip.prefix,
                interface: vip.interface.clone(),
            })
            .collect(),
        table: crate::shell::TABLE.to_owned(),
        neighbors: Vec::new(),
        lifetime_backup: std::time::Duration::from_secs(1),
        force_class: None,
    };
    staffetta_vip::Kernel::open(options)
        .and_then(staffetta_vip::Kernel::close)
        .map_err(Failure::of)?;
    if context.json {
        say(&json!({ "released": true }).to_string());
    }
    Ok(())
}
