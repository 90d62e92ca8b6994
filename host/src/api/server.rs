//! The listener: one bounded task for each connection.

use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::control::Control;
use super::routes::Api;
use super::{ApiError, CONNECTIONS_MAX, EVENT_STREAMS_MAX, HEAD_BYTES_MAX, HEAD_MS_MAX};

/// Mode of the socket: root and the group of the daemon.
const SOCKET_MODE: u32 = 0o660;
/// Mode of its folder when it is made here.
const FOLDER_MODE: u32 = 0o750;
/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Said to a client that finds no room.
const TOO_MANY: &str = "{\"error\":\"too many connections\",\"remedy\":\"close some, or try again \
                        in a few seconds\"}\n";

/// A bound control socket. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    listener: StdListener,
    path: PathBuf,
}

impl Server {
    /// Binds `path`; its folder is made when missing. A socket left over by a dead daemon is
    /// replaced.
    ///
    /// # Errors
    /// When another daemon answers there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Server, ApiError> {
        let fail = |action| move |source| ApiError::Io { action, path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)
                .map_err(fail("make the folder of"))?;
        }
        if path.symlink_metadata().is_ok() {
            if StdStream::connect(path).is_ok() {
                return Err(ApiError::InUse { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(fail("remove the stale socket"))?;
        }
        let listener = StdListener::bind(path).map_err(fail("listen on"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
            .map_err(fail("set the mode of"))?;
        listener.set_nonblocking(true).map_err(fail("listen on"))?;
        Ok(Server { listener, path: path.to_owned() })
    }

    /// Serves until `shutdown` is ready. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot take the socket.
    pub async fn run(
        self,
        control: Control,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ApiError> {
        let fail = |source| ApiError::Io { action: "listen on", path: self.path.clone(), source };
        let listener = self.listener.try_clone().map_err(fail)?;
        let listener = UnixListener::from_std(listener).map_err(fail)?;
        let api = Arc::new(Api::new(control, EVENT_STREAMS_MAX));
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "control socket: a connection was lost");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            };
            match Arc::clone(&room).try_acquire_owned() {
                Ok(seat) => {
                    let api = Arc::clone(&api);
                    tokio::spawn(async move {
                        serve(stream, api).await;
                        drop(seat);
                    });
                }
                Err(_) => turn_away(stream).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A successor may have replaced it already; there is nobody to tell.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, api: Arc<Api>) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "control socket: connection ended");
    }
}

async fn turn_away(mut stream: UnixStream) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: \
         close\r\n\
         content-length: {}\r\n\r\n{TOO_MANY}",
        TOO_MANY.len()
    );
    // A fresh socket's buffer takes these few bytes; if not, the client sees a closed connection.
    let patience = Duration::from_millis(ACCEPT_PAUSE_MS);
    let _ = tokio::time::timeout(patience, stream.write_all(answer.as_bytes())).await;
}
