//! The built-in policies, compiled to WebAssembly components and embedded.
//!
//! The build script builds them from `policies/`; a guest that does not build is a compile error.

/// Who should serve: `policies/failover`.
pub const FAILOVER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/failover.wasm"));

/// What a license allows: `policies/license`.
pub const LICENSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/license.wasm"));

/// Whose data stays after a split brain: `policies/split-brain`.
pub const SPLIT_BRAIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/split-brain.wasm"));

/// Policies for tests.
#[cfg(feature = "fixtures")]
pub mod fixtures {
    /// Misbehaves as its settings say: `policies/hostile`.
    pub const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile.wasm"));

    /// The example of a site's own policy: `examples/policies/business-hours`.
    pub const BUSINESS_HOURS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/business-hours.wasm"));
}
