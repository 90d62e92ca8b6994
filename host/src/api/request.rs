//! Reading requests and writing answers.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::OrderError;
use super::{BODY_BYTES_MAX, BODY_MS_MAX, ROWS_DEFAULT, ROWS_MAX};

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// An answer that is an error: status, and what to say.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) body: OrderError,
    pub(super) allow: Option<&'static str>,
}

impl Refused {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Refused {
        Refused { status, body: OrderError::new(error, remedy), allow: None }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = json(self.status, &self.body);
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Our own types have string keys only: they cannot fail to serialize.
    let mut bytes = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    bytes.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(bytes)).boxed());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The whole body, bounded in size and time.
pub(super) async fn read_body(body: Incoming) -> Result<Bytes, Refused> {
    let too_long = || {
        Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too long",
            format!("send at most {BODY_BYTES_MAX} bytes; files are named by path, not sent"),
        )
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let whole = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(Duration::from_millis(BODY_MS_MAX), whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(Refused::new(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be read: {error}"),
            "send as many bytes as content-length says",
        )),
        Err(_) => Err(Refused::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long",
            format!("send it within {BODY_MS_MAX} ms"),
        )),
    }
}

/// The body as JSON of the expected shape; `example` shows one.
pub(super) async fn read_json<T: DeserializeOwned>(
    body: Incoming,
    example: &str,
) -> Result<T, Refused> {
    let bytes = read_body(body).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Refused::new(
            StatusCode::BAD_REQUEST,
            format!("the body is not as expected: {error}"),
            format!("send JSON like {example}"),
        )
    })
}

/// `limit` of the query, the only parameter there is.
pub(super) fn read_limit(query: Option<&str>) -> Result<u32, Refused> {
    let refuse = |error: String| {
        let remedy = format!("write ?limit=N with N from 1 to {ROWS_MAX}, or nothing");
        Refused::new(StatusCode::BAD_REQUEST, error, remedy)
    };
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(ROWS_DEFAULT) };
    match query.split_once('=') {
        Some(("limit", number)) => match number.parse() {
            Ok(limit) if (1..=ROWS_MAX).contains(&limit) => Ok(limit),
            Ok(_) | Err(_) => Err(refuse(format!("limit={number} is not a number of rows"))),
        },
        Some(_) | None => Err(refuse(format!("unknown query `{query}`"))),
    }
}

/// `name` of the query, decoded; the only parameter there is.
pub(super) fn read_name(query: Option<&str>) -> Result<String, Refused> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    match (pairs.next(), pairs.next()) {
        (Some((key, name)), None) if key == "name" && !name.is_empty() => Ok(name.into_owned()),
        _ => Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "no name is given",
            "write ?name=NAME, percent-encoded, as the list of all shows it",
        )),
    }
}
