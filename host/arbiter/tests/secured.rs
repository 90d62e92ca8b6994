//! TLS and logins on a real etcd, with certificates made here.

mod common;

use std::time::{Duration, Instant};

use common::{Etcd, LONG, check, check_error, config, etcd, etcd_with, post, register, swap};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use staffetta_arbiter::{
    ArbiterConfig, Client, Credentials, Identity, Reply, Request, TOKEN_S_MAX, Tls,
};

/// An authority that signs for others.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    Authority { pem: certificate.pem(), issuer: Issuer::new(params, key) }
}

/// Certificate and key for `name`, of use to servers and clients.
fn signed(authority: &Authority, name: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &authority.issuer).expect("a certificate");
    Identity { cert_pem: certificate.pem().into(), key_pem: key.serialize_pem().into() }
}

/// An etcd with a certificate for `name` that wants one of its clients.
fn secured(authority: &Authority, name: &str) -> Option<Etcd> {
    let own = signed(authority, name);
    etcd_with(|options| {
        let file = |name: &str, bytes: &[u8]| {
            let path = options.folder.join(name);
            std::fs::write(&path, bytes).expect("a file");
            path.to_string_lossy().into_owned()
        };
        options.arguments = vec![
            "--client-cert-auth".to_owned(),
            format!("--cert-file={}", file("cert.pem", &own.cert_pem)),
            format!("--key-file={}", file("key.pem", &own.key_pem)),
            format!("--trusted-ca-file={}", file("ca.pem", authority.pem.as_bytes())),
        ];
        options.tls = true;
    })
}

fn with_tls(url: &str, authority: &Authority, identity: Option<Identity>) -> Client {
    let tls = Tls { ca_pem: authority.pem.clone().into(), identity };
    Client::new(ArbiterConfig { tls: Some(tls), ..config(&[url]) }).expect("a client")
}

#[tokio::test]
async fn both_sides_show_who_they_are() {
    let (ours, theirs) = (authority(), authority());
    let Some(etcd) = secured(&ours, "127.0.0.1") else { return };
    let url = etcd.server.url();
    let own = || Some(signed(&ours, "anna"));
    let good = with_tls(&url, &ours, own());
    check(&good, good.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    check(&good, good.ask(Request::Read, LONG).await, Reply::Holds(Some(register(1))));

    let refuses = async |client: Client, parts: &[&str]| {
        check(&client, client.ask(Request::Read, LONG).await, Reply::Failed);
        check_error(&client, parts);
        let request = swap(Some(register(1)), register(2));
        check(&client, client.ask(request, LONG).await, Reply::Failed);
    };
    refuses(with_tls(&url, &theirs, own()), &["no secure connection", "arbiter.ca_file"]).await;
    refuses(with_tls(&url, &ours, None), &["no secure connection", "arbiter.cert_file"]).await;
    let stranger = Some(signed(&theirs, "anna"));
    refuses(with_tls(&url, &ours, stranger), &["no secure connection"]).await;
    let plain = common::client(&[&url.replace("https", "http")]);
    refuses(plain, &["arbiter"]).await;
    check(&good, good.ask(Request::Read, LONG).await, Reply::Holds(Some(register(1))));
}

#[tokio::test]
async fn the_certificate_must_name_the_host() {
    let ours = authority();
    let Some(etcd) = secured(&ours, "etcd.example") else { return };
    let client = with_tls(&etcd.server.url(), &ours, Some(signed(&ours, "anna")));
    check(&client, client.ask(Request::Read, LONG).await, Reply::Failed);
    check_error(&client, &["no secure connection", "not valid for name", "does it name this host"]);
}

#[test]
fn certificates_that_cannot_be_used_are_told_by_their_file() {
    let ours = authority();
    let url = "https://127.0.0.1:1";
    let new = |ca: &str, identity| {
        let tls = Tls { ca_pem: ca.into(), identity };
        Client::new(ArbiterConfig { tls: Some(tls), ..config(&[url]) })
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let (good, other) = (signed(&ours, "anna"), signed(&ours, "anna"));
    assert_eq!(new(&ours.pem, Some(good.clone())), Ok(()));
    let has = |result: Result<(), String>, part: &str| {
        let text = result.expect_err("it cannot be used");
        assert!(text.contains(part), "{text}");
    };
    has(new("", None), "ca_file");
    has(new("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n", None), "ca_file");
    let with =
        |cert: &[u8], key: &[u8]| Some(Identity { cert_pem: cert.to_vec(), key_pem: key.to_vec() });
    has(new(&ours.pem, with(b"", &good.key_pem)), "cert_file");
    has(new(&ours.pem, with(&good.cert_pem, b"")), "key_file");
    has(new(&ours.pem, with(&good.cert_pem, &other.key_pem)), "cert_file with key_file");
    let missing = Client::new(config(&[url])).map(drop).map_err(|error| error.to_string());
    has(missing, "arbiter.ca_file");
}

/// Switches authentication on: `staffetta` may use the keys of the pair, and no others.
async fn with_login(etcd: &Etcd) {
    let url = etcd.server.url();
    for (path, body) in [
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/role/add", r#"{"name":"pair"}"#),
        ("/v3/auth/user/add", r#"{"name":"staffetta","password":"open sesame"}"#),
        ("/v3/auth/user/grant", r#"{"user":"staffetta","role":"pair"}"#),
        (
            // From /staffetta/pair-1/ to /staffetta/pair-10, as `--prefix` has it.
            "/v3/auth/role/grant",
            r#"{"name":"pair","perm":{"permType":"READWRITE",
                "key":"L3N0YWZmZXR0YS9wYWlyLTEv","range_end":"L3N0YWZmZXR0YS9wYWlyLTEw"}}"#,
        ),
        ("/v3/auth/enable", "{}"),
    ] {
        let answer = post(&url, path, body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

fn with_password(url: &str, password: &str) -> Client {
    let auth = Credentials { user: "staffetta".to_owned(), password: password.to_owned() };
    Client::new(ArbiterConfig { auth: Some(auth), ..config(&[url]) }).expect("a client")
}

#[tokio::test]
async fn a_login_is_made_once_and_again_when_etcd_forgot_it() {
    let Some(mut etcd) = etcd() else { return };
    let url = etcd.server.url();
    let early = with_password(&url, "open sesame");
    check(&early, early.ask(Request::Read, LONG).await, Reply::Failed);
    check_error(&early, &["authentication is not enabled", "etcdctl auth enable"]);

    with_login(&etcd).await;
    let client = with_password(&url, "open sesame");
    // The first request gives up before etcd has hashed the password; the login goes on.
    let (short, shorter) = (Duration::from_millis(20), Duration::from_millis(5));
    check(&client, client.ask(Request::Read, shorter).await, Reply::Failed);
    let began = Instant::now();
    while client.ask(Request::Read, short).await == Reply::Failed {
        assert!(began.elapsed() < LONG, "{:?}", client.last_error());
        tokio::time::sleep(short).await;
    }
    check(&client, client.ask(swap(None, register(1)), LONG).await, Reply::Swapped);
    let began = Instant::now();
    for _ in 0..10 {
        let expected = Reply::Holds(Some(register(1)));
        check(&client, client.ask(Request::Read, LONG).await, expected);
    }
    println!("10 reads with a token: {:?}", began.elapsed());

    // Simple tokens do not outlive etcd: a swap is refused for its token, and sent again.
    etcd.server.restart().expect("etcd starts again");
    check(&client, client.ask(swap(Some(register(1)), register(2)), LONG).await, Reply::Swapped);
    assert!(Duration::from_secs(TOKEN_S_MAX) > LONG, "and not because the token was old");
}

#[tokio::test]
async fn wrong_and_missing_logins_are_told_apart() {
    let Some(etcd) = etcd() else { return };
    with_login(&etcd).await;
    let url = etcd.server.url();
    let wrong = with_password(&url, "sesame");
    check(&wrong, wrong.ask(Request::Read, LONG).await, Reply::Failed);
    check_error(&wrong, &["invalid user ID or password", "arbiter.password_file"]);
    // etcd is not made to hash it again and again.
    let began = Instant::now();
    for _ in 0..100 {
        check(&wrong, wrong.ask(swap(None, register(1)), LONG).await, Reply::Failed);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let shown = format!("{:?}", wrong.last_error());
    assert!(!shown.contains("sesame"), "{shown}");

    let nobody = common::client(&[&url]);
    check(&nobody, nobody.ask(Request::Read, LONG).await, Reply::Failed);
    check_error(&nobody, &["user name is empty", "set arbiter.user"]);

    let auth = Credentials { user: "staffetta".to_owned(), password: "open sesame".to_owned() };
    let other = ArbiterConfig { auth: Some(auth), cluster_id: "pair-2".into(), ..config(&[&url]) };
    let other = Client::new(other).expect("a client");
    check(&other, other.ask(swap(None, register(1)), LONG).await, Reply::Failed);
    check_error(&other, &["permission denied", "--prefix /staffetta/pair-2/"]);
}
