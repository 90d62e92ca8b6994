//! Who is let in, over rustls alone: bytes are carried from one session to the other by hand.

use rustls::version::TLS12;

use super::*;
use crate::tests::{CLUSTER, SECRET, check, credentials};

fn authority() -> Authority {
    Authority::derive(&SECRET, CLUSTER).expect("an authority")
}

/// Whether the server let the client in, and what each said.
fn meet(client: &Credentials, server: &Credentials) -> Result<(), String> {
    shake(client.client().expect("a client"), server.server().expect("a server"))
}

fn shake(mut client: rustls::Connection, mut server: rustls::Connection) -> Result<(), String> {
    talk(&mut client, &mut server)
}

fn talk(client: &mut rustls::Connection, server: &mut rustls::Connection) -> Result<(), String> {
    let mut errors = Vec::new();
    for _ in 0..8 {
        for turn in 0..2 {
            let (from, to) =
                if turn == 0 { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            let mut bytes = Vec::new();
            while from.wants_write() {
                from.write_tls(&mut bytes).expect("a vector takes all");
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                to.read_tls(&mut rest).expect("a slice gives all");
                if let Err(error) = to.process_new_packets() {
                    errors.push(error.to_string());
                    break;
                }
            }
        }
    }
    if errors.is_empty() {
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(
            server.negotiated_cipher_suite().map(|suite| suite.suite()),
            Some(CipherSuite::TLS13_AES_128_GCM_SHA256)
        );
        return Ok(());
    }
    Err(errors.join("; "))
}

/// Each stream proves anew who speaks, whatever the other end would agree to.
#[test]
fn no_session_is_resumed() {
    let (a, b) = (credentials("a", "b"), credentials("b", "a"));
    let mut keeping = ClientConfig::clone(&a.0.client);
    keeping.resumption = Resumption::in_memory_sessions(9);
    let mut giving = ServerConfig::clone(&b.0.server);
    giving.send_tls13_tickets = 2;
    giving.session_storage = rustls::server::ServerSessionMemoryCache::new(9);
    let (keeping, giving) = (Arc::new(keeping), Arc::new(giving));
    // What two that would resume do: else the rest says nothing.
    let kinds = |client: &Arc<ClientConfig>, server: &Arc<ServerConfig>| {
        [0, 1].map(|_| {
            let client = rustls::ClientConnection::new(Arc::clone(client), a.0.name.clone());
            let mut client = client.expect("a client").into();
            let server = rustls::ServerConnection::new(Arc::clone(server));
            let mut server = server.expect("a server").into();
            talk(&mut client, &mut server).expect("the pair finds together");
            assert_eq!(client.handshake_kind(), server.handshake_kind());
            let rustls::Connection::Client(client) = client else { panic!("made as a client") };
            (client.handshake_kind().expect("it is over"), client.tls13_tickets_received())
        })
    };
    let (full, resumed) = (rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed);
    assert_eq!(kinds(&keeping, &giving), [(full, 2), (resumed, 2)]);
    assert_eq!(kinds(&keeping, &b.0.server), [(full, 0); 2]);
    assert_eq!(kinds(&a.0.client, &giving), [(full, 2); 2]);
    assert_eq!(b.0.server.send_tls13_tickets, 0);
}

fn refused(result: Result<(), String>, part: &str) {
    let text = result.expect_err("it must be refused");
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

/// Node `b`'s credentials towards `a`, with another certificate.
fn showing(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
    let mut params = authority.leaf("b").expect("a name");
    change(&mut params);
    let leaf = authority.sign(params).expect("signed");
    Credentials::with(authority, leaf, "a").expect("credentials")
}

/// Refused as a client and as a server.
fn kept_out(stranger: &Credentials, part: &str) {
    let a = credentials("a", "b");
    refused(meet(stranger, &a), part);
    refused(meet(&a, stranger), part);
}

#[test]
fn the_pair_finds_together() {
    let (a, b) = (credentials("a", "b"), credentials("b", "a"));
    assert_eq!(meet(&a, &b), Ok(()));
    assert_eq!(meet(&b, &a), Ok(()));
    assert_eq!(a.peer(), "b");
    // Names as the configuration allows them, and a node that writes its peer's in capitals.
    let long = "node-0_9".repeat(7);
    let (a, b) = (credentials("0", &long.to_uppercase()), credentials(&long, "0"));
    assert_eq!(meet(&a, &b), Ok(()));
}

#[test]
fn the_authority_is_a_function_of_secret_and_cluster() {
    let certificate = |secret: &[u8; 32], cluster| {
        Authority::derive(secret, cluster).expect("an authority").certificate
    };
    let own = authority().certificate;
    assert_eq!(certificate(&SECRET, CLUSTER), own);
    assert_ne!(certificate(&[8; 32], CLUSTER), own);
    assert_ne!(certificate(&SECRET, [0xc2; 16]), own);
    let leaf = || authority().sign(authority().leaf("a").expect("a name")).expect("signed");
    assert_ne!(leaf().key(), leaf().key(), "a leaf's key is made anew");
}

#[test]
fn another_secret_or_cluster_is_kept_out() {
    let of = |secret, cluster| Credentials::derive(secret, cluster, "b", "a").expect("names");
    kept_out(&of(&[8; 32], CLUSTER), "invalid peer certificate");
    kept_out(&of(&SECRET, [0xc2; 16]), "invalid peer certificate");
}

#[test]
fn the_certificate_must_name_the_other_node() {
    let authority = authority();
    let named = |name: &str| {
        let leaf = authority.sign(authority.leaf(name).expect("a name")).expect("signed");
        Credentials::with(&authority, leaf, "a").expect("credentials")
    };
    assert_eq!(meet(&named("b"), &credentials("a", "b")), Ok(()));
    kept_out(&named("a"), "not valid for name");
    kept_out(&named("c"), "not valid for name");
}

#[test]
fn a_certificate_out_of_its_time_is_kept_out() {
    let authority = authority();
    kept_out(
        &showing(&authority, |params| params.not_after = date_time_ymd(2001, 1, 1)),
        "expired",
    );
    kept_out(
        &showing(&authority, |params| params.not_before = date_time_ymd(4000, 1, 1)),
        "not valid yet",
    );
}

#[test]
fn a_certificate_is_good_whatever_the_clock_says() {
    let (authority, a) = (authority(), credentials("a", "b"));
    let leaf = authority.sign(authority.leaf("b").expect("a name")).expect("signed");
    let roots = Arc::new(authority.roots().expect("a root"));
    let name = authority.server_name("b").expect("a name");
    let verifier = PeerVerifier::new(&roots, name).expect("a verifier");
    assert_eq!(a.peer(), "b");
    // 1970, 2038 and after, 4090.
    for seconds in [0, 1, 2_147_483_648, 4_294_967_296, 66_900_000_000] {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let result = verifier.verify_client_cert(&leaf.certificate, &[], now);
        assert!(result.is_ok(), "at {seconds} s: {result:?}");
    }
}

#[test]
fn a_self_made_certificate_is_kept_out() {
    let authority = authority();
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let params = authority.leaf("b").expect("a name");
    let certificate = params.self_signed(&key).expect("signed").der().clone();
    let leaf = Leaf { certificate, key };
    let own = Credentials::with(&authority, leaf, "a").expect("credentials");
    kept_out(&own, "invalid peer certificate");
}

/// A node's own key cannot make another node's certificate.
#[test]
fn a_certificate_signed_by_a_node_is_kept_out() {
    let authority = authority();
    let node = authority.sign(authority.leaf("c").expect("a name")).expect("signed");
    let issuer = Issuer::new(authority.leaf("c").expect("a name"), node.key);
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let params = authority.leaf("b").expect("a name");
    let signed = params.signed_by(&key, &issuer).expect("signed");
    let chain = vec![signed.der().clone(), node.certificate.clone()];
    let roots = Arc::new(authority.roots().expect("a root"));
    let client = ClientConfig::builder_with_provider(suites())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("a key and its certificate");
    refused(strange(client), "invalid peer certificate");
}

/// A client that this crate would not make, at node `a`.
fn strange(config: ClientConfig) -> Result<(), String> {
    let name = authority().server_name("a").expect("a name");
    let client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    shake(client.into(), credentials("a", "b").server().expect("a server"))
}

#[test]
fn a_client_without_certificate_is_kept_out() {
    let client = ClientConfig::builder_with_provider(suites())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(authority().roots().expect("a root"))
        .with_no_client_auth();
    refused(strange(client), "peer sent no certificates");
}

#[test]
fn tls_1_2_is_refused_both_ways() {
    let authority = authority();
    let leaf = authority.sign(authority.leaf("b").expect("a name")).expect("signed");
    let roots = Arc::new(authority.roots().expect("a root"));
    let client = ClientConfig::builder_with_provider(suites())
        .with_protocol_versions(&[&TLS12])
        .expect("TLS 1.2")
        .with_root_certificates(roots)
        .with_client_auth_cert(leaf.chain(), leaf.key())
        .expect("a key and its certificate");
    refused(strange(client), "peer is incompatible");

    let server = ServerConfig::builder_with_provider(suites())
        .with_protocol_versions(&[&TLS12])
        .expect("TLS 1.2")
        .with_no_client_auth()
        .with_single_cert(leaf.chain(), leaf.key())
        .expect("a key and its certificate");
    let server = rustls::ServerConnection::new(Arc::new(server)).expect("a server");
    let client = credentials("a", "b").client().expect("a client");
    refused(shake(client, server.into()), "peer is incompatible");
}

#[test]
fn names_that_no_certificate_can_carry_are_refused() {
    for name in ["", "-a", "a-", "_", "a.b", "a b", "*", "b\u{fc}ro", &"x".repeat(64)] {
        let error = Credentials::derive(&SECRET, CLUSTER, name, "b").map(drop);
        assert_eq!(error, Err(BulkError::Name { name: name.to_owned() }));
        check(Credentials::derive(&SECRET, CLUSTER, "b", name), &["cannot be the name"]);
    }
    check(Credentials::derive(&SECRET, CLUSTER, "Anna", "anna"), &["both nodes", "rename one"]);
}
