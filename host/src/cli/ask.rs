//! Verbs that ask the daemon.

use std::path::PathBuf;

use super::{Context, Failure, Outcome, changes, plain, say, show};
use crate::api::Status;
use crate::api::client::{Client, ClientError};
use crate::config::defaults;
use crate::journal::EventRecord;

impl Context {
    /// A client of the daemon that the configuration, or `--socket`, names.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let socket: PathBuf = match &self.socket {
            Some(socket) => socket.clone(),
            // Without a configuration in the usual place the usual socket is worth a try: an
            // operator may lack the right to read the one and have the right to use the other.
            None if !self.config.exists() && self.config.as_os_str() == defaults::CONFIG_FILE => {
                PathBuf::from(defaults::RUN_DIR).join("control.sock")
            }
            None => self.load()?.control_socket(),
        };
        Ok(Client::new(&socket))
    }

    /// Runs one question to its end on a runtime of its own.
    pub(super) fn ask<T>(
        &self,
        question: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        let client = self.client()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::of)?;
        Ok(runtime.block_on(question(client))?)
    }

    pub(super) fn ask_status(&self) -> Result<(serde_json::Value, Status), Failure> {
        let json = self.ask(async |client| client.get("/api/v1/status").await)?;
        let status = serde_json::from_value(json.clone()).map_err(|error| {
            Failure::Failed(anyhow::anyhow!(
                "the daemon's status is not understood: {error} (is it another version than this \
                 program? `--json` \
                 shows it as it is)"
            ))
        })?;
        Ok((json, status))
    }
}

pub(super) fn status(context: &Context) -> Outcome {
    if context.json {
        let json = context.ask(async |client| client.get("/api/v1/status").await)?;
        say(&json.to_string());
        return Ok(());
    }
    let (_, status) = context.ask_status()?;
    say(&show::status(&status, show::Paint::for_stdout()));
    Ok(())
}

pub(super) fn order(context: &Context, verb: &str, body: &serde_json::Value) -> Outcome {
    let path = format!("/api/v1/{verb}");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = context.ask(async |client| client.post(&path, body).await)?;
    context.print(&answer, || plain(answer["done"].as_str().unwrap_or("done")));
    Ok(())
}

pub(super) fn decision(context: &Context, id: i64) -> Outcome {
    let path = format!("/api/v1/decisions/{id}");
    let answer = context.ask(async |client| client.get(&path).await)?;
    context.print(&answer, || show::decision(&answer));
    Ok(())
}

pub(super) fn watch(context: &Context) -> Outcome {
    let mut last: Option<Status> = None;
    let json = context.json;
    let paint = show::Paint::for_stdout();
    context.ask(async |client| {
        client
            .follow(|name, data| {
                if json {
                    say(&serde_json::json!({ "what": name, "data": data }).to_string());
                    return true;
                }
                for line in lines(name, data, &mut last, paint) {
                    say(&line);
                }
                true
            })
            .await
    })
}

/// The lines of one message of the event stream.
fn lines(
    name: &str,
    data: serde_json::Value,
    last: &mut Option<Status>,
    paint: show::Paint,
) -> Vec<String> {
    match name {
        "status" => {
            let Ok(status) = serde_json::from_value::<Status>(data) else { return Vec::new() };
            let news = match last {
                None => vec![show::headline(&status, paint)],
                Some(before) => changes::between(before, &status),
            };
            *last = Some(status);
            let now = crate::journal::unix_ms_now();
            news.into_iter().map(|line| format!("{}  {line}", show::clock(now))).collect()
        }
        "event" => match serde_json::from_value::<EventRecord>(data) {
            Ok(event) => vec![show::event(&event, paint)],
            Err(_) => Vec::new(),
        },
        "lost" => vec![format!("(this program was too slow: {} events are missing)", data["lost"])],
        _ => Vec::new(),
    }
}
