//! The arbiter's thread: carries the core's requests to etcd and the answers back. Its deadlines
//! lie inside the lease, so it runs just below the beat thread, on a runtime of its own.

use super::inbox::Outbox;
use super::realtime;
use anyhow::Context;
use staffetta_arbiter::Client;
use staffetta_core::{Event, Request, RequestId};
use std::time::Duration;
use tokio::sync::mpsc;

/// A read that finds nobody for this long is told to have failed; a longer lease stretches it.
const READ_TIMEOUT_MIN: Duration = Duration::from_millis(2_000);

/// What the beat thread puts its requests into; never waits.
pub(crate) type Requests = mpsc::UnboundedSender<(RequestId, Request)>;

/// Starts the thread.
pub(crate) fn start(client: Client, outbox: Outbox, lease: Duration) -> anyhow::Result<Requests> {
    let (sender, mut requests) = mpsc::unbounded_channel::<(RequestId, Request)>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the arbiter's runtime")?;
    super::spawn("arbiter", move || {
        realtime::raise_this_thread(realtime::PRIORITY_HELPERS);
        runtime.block_on(async move {
            while let Some((id, request)) = requests.recv().await {
                let (client, outbox) = (client.clone(), outbox.clone());
                let timeout = match request {
                    Request::Read => lease.max(READ_TIMEOUT_MIN),
                    // What is confirmed later is worth nothing.
                    Request::Swap { .. } => lease,
                };
                tokio::spawn(async move {
                    let reply = client.ask(request, timeout).await;
                    // The beat thread may have ended; then nobody waits for the answer.
                    outbox.event(Event::Consulted(id, reply));
                });
            }
        });
    })?;
    Ok(sender)
}
