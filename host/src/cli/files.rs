//! `files …`: the trees of files that are replicated.

use serde_json::{Value, json};

use super::db::size;
use super::flags::FilesVerb;
use super::{Context, Outcome, plain};
use crate::api::status::TreeLine;

pub(super) fn files(context: &Context, verb: FilesVerb) -> Outcome {
    match verb {
        FilesVerb::Status => status(context),
        FilesVerb::Verify { name } => order(context, "verify", &json!({ "name": name })),
        FilesVerb::Approve { name } => order(context, "approve", &json!({ "name": name })),
        FilesVerb::Diff { name } => list(context, "diff", &name, |one| {
            format!("{}: {}", text(&one["path"]), text(&one["why"]))
        }),
        FilesVerb::Restore { name, path: None, .. } => list(context, "kept", &name, |one| {
            let bytes = size(one["bytes"].as_u64().unwrap_or_default());
            let place = text(&one["place"]);
            format!("{}  {place:<9}  {bytes:>9}  {}", text(&one["stamp"]), text(&one["path"]))
        }),
        FilesVerb::Restore { name, path: Some(path), stamp, to } => {
            let body = json!({ "name": name, "path": path, "stamp": stamp, "to": to });
            order(context, "restore", &body)
        }
    }
}

fn status(context: &Context) -> Outcome {
    let (json, status) = context.ask_status()?;
    let shown = json!({ "trees": json["trees"], "alignment": json["alignment"] });
    context.print(&shown, || {
        let mut lines: Vec<String> = status.trees.iter().map(line).collect();
        if lines.is_empty() {
            lines.push("no tree is replicated: see [[tree]] in the configuration".into());
        }
        lines.join("\n")
    });
    Ok(())
}

fn line(one: &TreeLine) -> String {
    let behind = match one.behind {
        Some(0) => "nothing missing".to_owned(),
        Some(count) => {
            format!("{count} paths ({}) missing for {} ms", size(one.behind_bytes), one.behind_ms)
        }
        None => "what is missing is not known".to_owned(),
    };
    let scanning = if one.scanning { ", being walked" } else { "" };
    let mut text = format!(
        "{}  {}{scanning}  {behind}  {} entries, {}\n    root: {} ({})",
        plain(&one.name),
        one.state,
        one.entries,
        size(one.bytes),
        plain(&one.path),
        if one.source.is_empty() { "not watched" } else { &one.source },
    );
    if one.held > 0 {
        let approve = format!("`staffetta files approve {}`", plain(&one.name));
        text.push_str(&format!("\n    held: {} deletions wait for {approve}", one.held));
    }
    if one.local_changes + one.set_aside > 0 {
        text.push_str(&format!(
            "\n    since the start: {} entries changed here by others, {} things set aside",
            one.local_changes, one.set_aside
        ));
    }
    if one.skipped > 0 {
        let what = "sockets, pipes, devices and mount points";
        text.push_str(&format!("\n    left out: {} {what}", one.skipped));
    }
    if let Some(trouble) = &one.trouble {
        text.push_str(&format!("\n    trouble: {}", plain(trouble)));
    }
    text
}

fn order(context: &Context, verb: &str, body: &Value) -> Outcome {
    let path = format!("/api/v1/files/{verb}");
    let body = body.to_string().into_bytes();
    let answer = context.ask(async |client| client.post(&path, body).await)?;
    context.print(&answer, || plain(answer["done"].as_str().unwrap_or("done")));
    Ok(())
}

fn list(context: &Context, what: &str, name: &str, line: fn(&Value) -> String) -> Outcome {
    let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let path = format!("/api/v1/files/{what}?name={name}");
    let answer = context.ask(async |client| client.get(&path).await)?;
    context.print(&answer, || {
        let lines: Vec<String> =
            answer["done"].as_array().into_iter().flatten().map(line).collect();
        if lines.is_empty() { "nothing".into() } else { lines.join("\n") }
    });
    Ok(())
}

fn text(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}
