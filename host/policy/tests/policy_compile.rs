//! Compiling in a child, and the cache that is trusted only as far as its keyed hash goes.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{context, engine, peer_silent};
use staffetta_bundle as bundle;
use staffetta_policy::{Compile, CompileError, GateOptions, Kind, LoadError, Policy};

fn compile(cache: Option<&Path>) -> Compile {
    Compile::Child {
        program: PathBuf::from(env!("CARGO_BIN_EXE_staffetta-compile")),
        cache: cache.map(Path::to_path_buf),
    }
}

#[track_caller]
fn works(compile: &Compile) -> Policy {
    let policy = engine()
        .load(Kind::Failover, bundle::FAILOVER, "{}", &GateOptions::default(), compile)
        .expect("it loads");
    let decision = policy.failover(&peer_silent(), &context(&policy), Kind::License.budget());
    assert!(decision.outcome.is_ok(), "{:?}", decision.outcome);
    policy
}

/// The compiled forms in a cache.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(cache).expect("a folder").map(|entry| entry.expect("entry").path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "bin")).collect()
}

/// A program that cannot compile: what loads with it came out of the cache.
fn no_compiler(cache: &Path) -> Compile {
    Compile::Child { program: "/bin/false".into(), cache: Some(cache.to_path_buf()) }
}

#[test]
fn a_child_compiles_and_the_cache_remembers() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    works(&compile(None));
    works(&compile(Some(&cache)));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    assert_eq!(mode(&cache.join("key")), 0o600);
    let entries = entries(&cache);
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(mode(&entries[0]), 0o600);
    works(&no_compiler(&cache));
}

#[test]
fn a_tampered_entry_is_compiled_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path();
    works(&compile(Some(cache)));
    let entry = entries(cache).remove(0);
    let genuine = fs::read(&entry).expect("the entry");
    let mut flipped = genuine.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for tampered in [flipped, genuine[..genuine.len() - 1].to_vec(), vec![1; 10], Vec::new()] {
        fs::write(&entry, &tampered).expect("written");
        let refused = engine().load(
            Kind::Failover,
            bundle::FAILOVER,
            "{}",
            &GateOptions::default(),
            &no_compiler(cache),
        );
        assert!(matches!(refused, Err(LoadError::Compile(CompileError::ChildFailed { .. }))));
        assert!(!entry.exists(), "what is in doubt is deleted");
        works(&compile(Some(cache)));
        assert_eq!(fs::read(&entry).expect("the entry"), genuine);
    }
}

#[test]
fn an_entry_cannot_stand_in_for_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path();
    works(&compile(Some(cache)));
    let failover = entries(cache).remove(0);
    engine()
        .load(
            Kind::Failover,
            bundle::fixtures::HOSTILE,
            "{}",
            &GateOptions::default(),
            &compile(Some(cache)),
        )
        .expect("it loads");
    let hostile = entries(cache).into_iter().find(|entry| *entry != failover).expect("another");
    fs::copy(&hostile, &failover).expect("copied");
    let policy = works(&compile(Some(cache)));
    assert_eq!(policy.description().name, "staffetta-failover");
}

#[test]
fn a_key_that_others_could_read_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path();
    works(&compile(Some(cache)));
    let key = cache.join("key");
    let before = fs::read(&key).expect("the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
    works(&compile(Some(cache)));
    assert_ne!(fs::read(&key).expect("the key"), before);
    works(&no_compiler(cache));
}

#[test]
fn a_cache_that_cannot_be_used_is_no_obstacle() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "in the way").expect("written");
    works(&compile(Some(&file)));
}

#[test]
fn a_child_that_cannot_run_is_named() {
    let compile = Compile::Child { program: "/nonexistent/compiler".into(), cache: None };
    let options = GateOptions::default();
    let error = engine()
        .load(Kind::Failover, bundle::FAILOVER, "{}", &options, &compile)
        .expect_err("nobody compiles");
    assert!(error.to_string().contains("/nonexistent/compiler"), "{error}");
}
