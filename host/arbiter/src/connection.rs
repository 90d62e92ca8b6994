//! Connections to one endpoint: HTTP/1.1 over TCP or TLS, kept alive, used again, one request each
//! at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::error::in_full;
use crate::{ANSWER_BYTES_MAX, ArbiterError, Endpoint, IDLE_CONNECTIONS_MAX, IDLE_S_MAX, Tls};

/// Why a request has no answer, and what that means for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No byte of it left: another endpoint may be asked.
    NotSent(ArbiterError),
    /// It may or may not have been carried out.
    Doubtful(ArbiterError),
    /// etcd carried nothing out, and another endpoint would say the same.
    Refused(ArbiterError),
}

impl Fault {
    pub(crate) fn into_error(self) -> ArbiterError {
        match self {
            Fault::NotSent(error) | Fault::Doubtful(error) | Fault::Refused(error) => error,
        }
    }
}

/// An answer of HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
    /// Longest time to connect.
    pub(crate) connect: Duration,
    /// Not over a connection that was used before.
    pub(crate) fresh: bool,
}

/// The connections to one endpoint.
pub(crate) struct Connections {
    endpoint: Endpoint,
    name: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection; gone from the kernel when it is dropped, a request in flight included.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connections {
    pub(crate) fn new(
        endpoint: Endpoint,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, ArbiterError> {
        let tls = match tls.filter(|_| endpoint.is_tls()) {
            Some(connector) => {
                let host = endpoint.host().to_owned();
                let name = ServerName::try_from(host).map_err(|error| ArbiterError::Config {
                    what: format!("no certificate can name the host of {endpoint}: {error}"),
                    remedy: "write a DNS name or an address in arbiter.endpoints".to_owned(),
                })?;
                Some((connector.clone(), name))
            }
            None => None,
        };
        let name = endpoint.to_string();
        Ok(Self { endpoint, name, tls, idle: Mutex::default() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request once and reads the whole answer. The caller limits the time: to drop the
    /// future closes the connection.
    pub(crate) async fn post(&self, post: &Post, token: Option<&str>) -> Result<Answer, Fault> {
        let request = self.request(post, token).map_err(Fault::NotSent)?;
        let (connection, response) = self.send(post, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| Fault::Doubtful(self.strange(in_full(error.as_ref()))))?
            .to_bytes();
        self.keep(connection);
        Ok(Answer { status, body })
    }

    fn request(
        &self,
        post: &Post,
        token: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, ArbiterError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(post.path)
            .header(HOST, self.endpoint.authority())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(token)
                .map_err(|_| self.strange("a login without a usable token".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request
            .body(Full::new(post.body.clone()))
            .map_err(|error| self.not_reachable(error.to_string()))
    }

    /// Over a connection that waits, or else a new one. A connection that was closed meanwhile
    /// hands the request back unsent.
    async fn send(
        &self,
        post: &Post,
        request: Request<Full<Bytes>>,
    ) -> Result<(Connection, hyper::Response<hyper::body::Incoming>), Fault> {
        let mut request = request;
        // The runtime looks at the sockets: a connection that the server has closed is seen as such
        // before a swap is lost on it.
        tokio::task::yield_now().await;
        while let Some(mut connection) = if post.fresh { None } else { self.take() } {
            // It is ready when its task has seen the end of the last answer: at once, or never.
            if !matches!(timeout(post.connect, connection.sender.ready()).await, Ok(Ok(()))) {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Fault::Doubtful(self.broken_off(&error.into_error()))),
                },
            }
        }
        let mut connection = match timeout(post.connect, self.connect()).await {
            Ok(connection) => connection.map_err(Fault::NotSent)?,
            Err(_) => {
                let why = format!("no connection within {} ms", post.connect.as_millis());
                return Err(Fault::NotSent(self.not_reachable(why)));
            }
        };
        match connection.sender.try_send_request(request).await {
            Ok(response) => Ok((connection, response)),
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let error = self.broken_off(&error.into_error());
                Err(if unsent { Fault::NotSent(error) } else { Fault::Doubtful(error) })
            }
        }
    }

    async fn connect(&self) -> Result<Connection, ArbiterError> {
        let address = (self.endpoint.host(), self.endpoint.port());
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| self.not_reachable(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| self.not_reachable(error.to_string()))?;
        match &self.tls {
            None => self.handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(|error| {
                    ArbiterError::Tls { endpoint: self.name.clone(), why: in_full(&error) }
                })?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<Connection, ArbiterError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(ANSWER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken_off(&error))?;
        // How a connection ends is told to the request that it carries.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Connection { sender, task })
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let young = |idle: &Idle| idle.since.elapsed() < Duration::from_secs(IDLE_S_MAX);
        idle.retain(|one| young(one) && !one.connection.sender.is_closed());
        idle.pop().map(|idle| idle.connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Forgets the connections that wait: the endpoint failed, and they may lead nowhere.
    pub(crate) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn not_reachable(&self, why: String) -> ArbiterError {
        ArbiterError::NotReachable { endpoint: self.name.clone(), why }
    }

    pub(crate) fn strange(&self, what: String) -> ArbiterError {
        ArbiterError::Strange { endpoint: self.name.clone(), what }
    }

    /// The connection ended before an answer. A refused certificate of this node shows here too:
    /// TLS 1.3 tells after the handshake.
    fn broken_off(&self, error: &hyper::Error) -> ArbiterError {
        let why = in_full(error);
        if error.is_parse() {
            self.strange(format!("no HTTP: {why}"))
        } else if why.contains("alert") || why.contains("certificate") {
            ArbiterError::Tls { endpoint: self.name.clone(), why }
        } else {
            self.not_reachable(why)
        }
    }
}

/// What all TLS connections share.
///
/// # Errors
/// When certificates or key cannot be read or do not fit together.
pub(crate) fn connector(tls: &Tls) -> Result<TlsConnector, ArbiterError> {
    let wrong = |file: &str, why: String| ArbiterError::Config {
        what: format!("{file} cannot be used: {why}"),
        remedy: "it must be PEM, as `openssl x509` and `openssl pkey` write it".to_owned(),
    };
    let certificates = |file: &str, pem: &[u8]| {
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match list {
            Ok(list) if list.is_empty() => Err(wrong(file, "it has no certificate".to_owned())),
            Ok(list) => Ok(list),
            Err(error) => Err(wrong(file, error.to_string())),
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca_file", &tls.ca_pem)? {
        roots.add(certificate).map_err(|error| wrong("ca_file", error.to_string()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("TLS", error.to_string()))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(&identity.key_pem)
                .map_err(|error| wrong("key_file", error.to_string()))?;
            let chain = certificates("cert_file", &identity.cert_pem)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| wrong("cert_file with key_file", error.to_string()))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
