//! Who may speak: certificates of an authority that both nodes derive from the cluster secret.
//!
//! The authority's key is a function of secret and cluster id, so no certificate ever has to be
//! carried from node to node, nor renewed. Each process makes a key of its own at its start, lets
//! the authority sign it for its name, and forgets the authority's key.
//!
//! A certificate is valid from 1970 to 4096: the pair must form when a clock is wrong.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SerialNumber, date_time_ymd,
};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};

use crate::BulkError;

/// Longest label of a DNS name (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 63;
/// PKCS#8 version 1 of an Ed25519 seed, up to the seed itself (RFC 8410 §7).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What the secret is used for here: no other use of it gives the same key.
const LABEL: &[u8] = b"staffetta bulk authority v1";

/// What this node shows, and whom it lets in. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    peer: String,
    /// The peer's name in its certificate.
    name: ServerName<'static>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("peer", &self.0.peer).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Credentials of `node` towards `peer`, from the secret that both hold and the cluster's id.
    ///
    /// # Errors
    ///
    /// A name that no certificate can carry, equal names, or a library that refuses.
    pub fn derive(
        secret: &[u8; 32],
        cluster: [u8; 16],
        node: &str,
        peer: &str,
    ) -> Result<Self, BulkError> {
        if check_name(node)? == check_name(peer)? {
            return Err(BulkError::SameName { name: node.to_owned() });
        }
        let authority = Authority::derive(secret, cluster)?;
        let leaf = authority.sign(authority.leaf(node)?)?;
        Self::with(&authority, leaf, peer)
    }

    pub(crate) fn with(authority: &Authority, leaf: Leaf, peer: &str) -> Result<Self, BulkError> {
        let name = authority.server_name(peer)?;
        let roots = Arc::new(authority.roots()?);
        let verifier = PeerVerifier::new(&roots, name.clone())?;
        let mut server = ServerConfig::builder_with_provider(suites())
            .with_protocol_versions(&[&TLS13])
            .map_err(BulkError::certificate)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(leaf.chain(), leaf.key())
            .map_err(BulkError::certificate)?;
        // Nothing of a session outlives it: each stream proves anew who speaks.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(suites())
            .with_protocol_versions(&[&TLS13])
            .map_err(BulkError::certificate)?
            .with_root_certificates(roots)
            .with_client_auth_cert(leaf.chain(), leaf.key())
            .map_err(BulkError::certificate)?;
        client.resumption = Resumption::disabled();
        let (client, server) = (Arc::new(client), Arc::new(server));
        Ok(Self(Arc::new(Inner { client, server, peer: peer.to_owned(), name })))
    }

    /// The other node's name.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    pub(crate) fn client(&self) -> Result<rustls::Connection, BulkError> {
        let inner = &self.0;
        rustls::ClientConnection::new(Arc::clone(&inner.client), inner.name.clone())
            .map(Into::into)
            .map_err(BulkError::tls)
    }

    pub(crate) fn server(&self) -> Result<rustls::Connection, BulkError> {
        rustls::ServerConnection::new(Arc::clone(&self.0.server))
            .map(Into::into)
            .map_err(BulkError::tls)
    }
}

/// The name as certificates compare it.
fn check_name(name: &str) -> Result<String, BulkError> {
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let is_good = bytes.len() <= NAME_BYTES_MAX
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    if is_good {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(BulkError::Name { name: name.to_owned() })
    }
}

/// AES-128 first: X25519 and Ed25519 are no stronger, and it takes 10 rounds instead of 14.
fn suites() -> Arc<CryptoProvider> {
    let mut suites = provider::default_provider();
    suites
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(suites)
}

/// A certificate with its key.
pub(crate) struct Leaf {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Leaf {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// The authority of a cluster; lives only while the credentials are made.
pub(crate) struct Authority {
    /// Cluster id in hexadecimal.
    cluster: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn derive(secret: &[u8; 32], cluster: [u8; 16]) -> Result<Self, BulkError> {
        let seed = seed(secret, cluster).map_err(BulkError::certificate)?;
        let pkcs8 = PrivatePkcs8KeyDer::from([&PKCS8_ED25519[..], &seed].concat());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)
            .map_err(BulkError::certificate)?;
        let cluster: String = cluster.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut params = lasting(CertificateParams::default());
        params.distinguished_name.push(DnType::CommonName, format!("staffetta {cluster}"));
        params.serial_number = Some(SerialNumber::from(1));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(BulkError::certificate)?;
        let certificate = certificate.der().clone();
        Ok(Self { cluster, certificate, issuer: Issuer::new(params, key) })
    }

    /// What a certificate of `node` says.
    pub(crate) fn leaf(&self, node: &str) -> Result<CertificateParams, BulkError> {
        let mut params =
            CertificateParams::new(vec![self.dns(node)]).map_err(BulkError::certificate)?;
        params.distinguished_name.push(DnType::CommonName, node);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(lasting(params))
    }

    /// Signs it for a key made here.
    pub(crate) fn sign(&self, params: CertificateParams) -> Result<Leaf, BulkError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(BulkError::certificate)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(BulkError::certificate)?;
        Ok(Leaf { certificate: signed.der().clone(), key })
    }

    fn roots(&self) -> Result<RootCertStore, BulkError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(BulkError::certificate)?;
        Ok(roots)
    }

    fn dns(&self, node: &str) -> String {
        format!("{node}.{}.staffetta", self.cluster)
    }

    fn server_name(&self, node: &str) -> Result<ServerName<'static>, BulkError> {
        ServerName::try_from(self.dns(node)).map_err(BulkError::certificate)
    }
}

fn lasting(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    params
}

/// HKDF (RFC 5869) of the secret, with the cluster's id as salt.
fn seed(secret: &[u8; 32], cluster: [u8; 16]) -> Result<[u8; 32], ring::error::Unspecified> {
    struct Seed;
    impl KeyType for Seed {
        fn len(&self) -> usize {
            32
        }
    }
    let mut seed = [0; 32];
    Salt::new(HKDF_SHA256, &cluster).extract(secret).expand(&[LABEL], Seed)?.fill(&mut seed)?;
    Ok(seed)
}

/// Lets in who has a certificate of the cluster's authority *and* the peer's name: this node's own
/// certificate is of the same authority.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl PeerVerifier {
    fn new(roots: &Arc<RootCertStore>, name: ServerName<'static>) -> Result<Self, BulkError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), suites())
            .build()
            .map_err(BulkError::certificate)?;
        Ok(Self { chain, name })
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The peer has one certificate only: it needs no hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
