//! etcd's JSON: keys and values in base64, numbers as text, what is empty left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) const RANGE: &str = "/v3/kv/range";
pub(crate) const TXN: &str = "/v3/kv/txn";
pub(crate) const AUTHENTICATE: &str = "/v3/auth/authenticate";
pub(crate) const STATUS: &str = "/v3/maintenance/status";
pub(crate) const LEASE_GRANT: &str = "/v3/lease/grant";
pub(crate) const LEASE_REVOKE: &str = "/v3/lease/revoke";

/// What came back, and from which etcd cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct From<T> {
    pub(crate) cluster: u64,
    pub(crate) answer: T,
}

/// The answer to a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// It was made.
    Made,
    /// It was not: the key holds this.
    Holds(Option<Vec<u8>>),
}

/// The answer to a question for an endpoint's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) leader: u64,
    pub(crate) db_bytes: u64,
}

// Every answer of etcd has a header: without it, an empty object would be read as an empty key.
#[derive(Deserialize)]
struct Header {
    cluster_id: String,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct RangeAnswer {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct TxnAnswer {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Operation>,
}

#[derive(Deserialize)]
struct Operation {
    response_put: Option<Value>,
    response_range: Option<Found>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct StatusAnswer {
    header: Header,
    version: String,
    #[serde(default)]
    leader: String,
    #[serde(default, rename = "dbSize")]
    db_size: String,
}

#[derive(Deserialize)]
struct LoginAnswer {
    token: String,
}

#[derive(Deserialize)]
struct LeaseAnswer {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    message: String,
}

/// A linearizable read of one key: `serializable` is false where it is not named.
pub(crate) fn range(key: &str) -> Bytes {
    text(&json!({ "key": BASE64.encode(key) }))
}

/// Replaces the value of `key` if it is `expect`, or creates it if that is `None` and the key does
/// not exist. `lease` ends the key's life (for scratch keys).
pub(crate) fn swap(key: &str, expect: Option<&[u8]>, to: &[u8], lease: Option<&str>) -> Bytes {
    let key = BASE64.encode(key);
    let compare = match expect {
        Some(value) => json!({
            "target": "VALUE", "result": "EQUAL", "key": key, "value": BASE64.encode(value),
        }),
        None => json!({
            "target": "CREATE", "result": "EQUAL", "key": key, "create_revision": "0",
        }),
    };
    let mut put = json!({ "key": key, "value": BASE64.encode(to) });
    if let (Some(lease), Some(fields)) = (lease, put.as_object_mut()) {
        fields.insert("lease".to_owned(), json!(lease));
    }
    text(&json!({
        "compare": [compare],
        "success": [{ "request_put": put }],
        "failure": [{ "request_range": { "key": key } }],
    }))
}

/// A login.
pub(crate) fn authenticate(user: &str, password: &str) -> Bytes {
    text(&json!({ "name": user, "password": password }))
}

/// A lease for scratch keys.
pub(crate) fn lease_grant(seconds: u64) -> Bytes {
    text(&json!({ "TTL": seconds.to_string() }))
}

/// Ends a lease and its keys.
pub(crate) fn lease_revoke(id: &str) -> Bytes {
    text(&json!({ "ID": id }))
}

/// A question for an endpoint's state.
pub(crate) fn status() -> Bytes {
    Bytes::from_static(b"{}")
}

/// The value of `key` in the answer to [`range`].
pub(crate) fn read_range(body: &[u8], key: &str) -> Result<From<Option<Vec<u8>>>, String> {
    let answer: RangeAnswer = parse(body)?;
    Ok(From { cluster: cluster(&answer.header)?, answer: only(answer.kvs, key)? })
}

/// The answer to [`swap`] of `key`.
pub(crate) fn read_swap(body: &[u8], key: &str) -> Result<From<Swapped>, String> {
    let answer: TxnAnswer = parse(body)?;
    let cluster = cluster(&answer.header)?;
    let mut operations = answer.responses.into_iter();
    let answer = match (answer.succeeded, operations.next(), operations.next()) {
        (true, Some(Operation { response_put: Some(_), .. }), None) => Swapped::Made,
        (false, Some(Operation { response_range: Some(found), .. }), None) => {
            Swapped::Holds(only(found.kvs, key)?)
        }
        (_, _, _) => return Err("a transaction that was not asked for".to_owned()),
    };
    Ok(From { cluster, answer })
}

/// The answer to [`status`].
pub(crate) fn read_status(body: &[u8]) -> Result<From<Status>, String> {
    let answer: StatusAnswer = parse(body)?;
    // What is zero is left out: no leader, an empty database.
    let number = |text: &str| if text.is_empty() { Ok(0) } else { number(text) };
    let status = Status {
        version: printable(&answer.version),
        leader: number(&answer.leader)?,
        db_bytes: number(&answer.db_size)?,
    };
    Ok(From { cluster: cluster(&answer.header)?, answer: status })
}

/// The token in the answer to [`authenticate`].
pub(crate) fn read_token(body: &[u8]) -> Result<String, String> {
    let token = parse::<LoginAnswer>(body)?.token;
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err("a login without a usable token".to_owned());
    }
    Ok(token)
}

/// The id in the answer to [`lease_grant`].
pub(crate) fn read_lease(body: &[u8]) -> Result<String, String> {
    Ok(parse::<LeaseAnswer>(body)?.id)
}

/// etcd's words in an answer that is an error.
pub(crate) fn read_error(body: &[u8]) -> Option<String> {
    parse::<ErrorAnswer>(body).ok().map(|answer| printable(&answer.message))
}

/// At most 200 characters that can be shown on a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '·' } else { c }).collect()
}

fn text(value: &Value) -> Bytes {
    value.to_string().into()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("what is no answer of etcd: {error}"))
}

fn cluster(header: &Header) -> Result<u64, String> {
    number(&header.cluster_id)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{:?} for a number", printable(text)))
}

fn only(kvs: Vec<KeyValue>, key: &str) -> Result<Option<Vec<u8>>, String> {
    let mut kvs = kvs.into_iter();
    let (first, second) = (kvs.next(), kvs.next());
    if second.is_some() {
        return Err("several values for one key".to_owned());
    }
    let Some(found) = first else { return Ok(None) };
    if BASE64.decode(&found.key).as_deref() != Ok(key.as_bytes()) {
        return Err("the value of another key".to_owned());
    }
    BASE64.decode(&found.value).map(Some).map_err(|error| format!("a broken value: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "\"header\":{\"cluster_id\":\"7\",\"revision\":\"1\"}";

    #[test]
    fn a_missing_key_needs_a_header_to_be_believed() {
        let empty = format!("{{{HEADER}}}");
        assert_eq!(read_range(empty.as_bytes(), "k"), Ok(From { cluster: 7, answer: None }));
        for body in ["{}", "", "[]", "null", "{\"header\":{}}", "{\"kvs\":[]}", "<html>"] {
            assert!(read_range(body.as_bytes(), "k").is_err(), "{body}");
            assert!(read_swap(body.as_bytes(), "k").is_err(), "{body}");
            assert!(read_status(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_value_is_that_of_the_key_asked_for() {
        let body = |key: &str, value: &str| {
            format!("{{{HEADER},\"kvs\":[{{\"key\":\"{key}\",\"value\":\"{value}\"}}]}}")
        };
        let read = |body: String| read_range(body.as_bytes(), "k");
        let expected = Ok(From { cluster: 7, answer: Some(b"v".to_vec()) });
        assert_eq!(read(body("aw==", "dg==")), expected);
        assert!(read(body("bA==", "dg==")).is_err());
        assert!(read(body("aw==", "d")).is_err());
        let twice = body("aw==", "dg==").replace("}]", "},{\"key\":\"aw==\"}]");
        assert!(read(twice).is_err());
    }

    #[test]
    fn a_swap_is_made_only_where_the_put_is_confirmed() {
        let read = |rest: &str| {
            read_swap(format!("{{{HEADER}{rest}}}").as_bytes(), "k").map(|from| from.answer)
        };
        assert_eq!(
            read(",\"succeeded\":true,\"responses\":[{\"response_put\":{}}]"),
            Ok(Swapped::Made)
        );
        assert_eq!(read(",\"responses\":[{\"response_range\":{}}]"), Ok(Swapped::Holds(None)));
        for rest in [
            "",
            ",\"succeeded\":true",
            ",\"succeeded\":true,\"responses\":[{\"response_range\":{}}]",
            ",\"responses\":[{\"response_put\":{}}]",
            ",\"responses\":[{}]",
            ",\"succeeded\":true,\"responses\":[{\"response_put\":{}},{\"response_put\":{}}]",
        ] {
            assert!(read(rest).is_err(), "{rest}");
        }
    }

    #[test]
    fn errors_are_read_in_the_forms_of_old_and_new_gateways() {
        let new = b"{\"code\":7,\"message\":\"no\",\"details\":[]}";
        assert_eq!(read_error(new).as_deref(), Some("no"));
        let old = b"{\"error\":\"no\",\"message\":\"no\",\"code\":7}";
        assert_eq!(read_error(old).as_deref(), Some("no"));
        assert_eq!(read_error(b"Not Found"), None);
    }
}
