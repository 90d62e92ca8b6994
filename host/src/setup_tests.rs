//! A pair made by `init` and `join` agrees; what is broken leaves nothing behind.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn pair() -> NewPair {
    NewPair {
        name: "na".into(),
        peer: "nb".into(),
        cluster: "office".into(),
        links: vec![
            (link_end("10.77.0.1").unwrap(), link_end("10.77.0.2").unwrap()),
            (link_end("[fd00::1]:9000").unwrap(), link_end("fd00::2").unwrap()),
        ],
        vips: vec![vip_flag("10.77.0.50/24@eth0").unwrap()],
        profile: TimingProfile::Fast,
        state_dir: Some("/tmp/na".into()),
        run_dir: None,
    }
}

#[test]
fn both_nodes_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let written = init(&a, &pair()).unwrap();
    assert_eq!(written.files.len(), 4);
    for file in &written.files {
        let mode = std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    let bundle = written.bundle.unwrap();
    assert_eq!(bundle, a.join("na-nb.bundle"));
    let dirs = NodeDirs { state_dir: None, run_dir: Some("/tmp/nb \"q\"".into()) };
    let joined = join(&bundle, &b, &dirs).unwrap();
    assert_ne!(joined.identity, written.identity);

    let load = |dir: &Path| Config::load(&dir.join("staffetta.toml")).unwrap();
    let (mine, theirs) = (load(&a), load(&b));
    assert_eq!(mine.pair_digest(), theirs.pair_digest());
    assert_eq!(mine.secret().unwrap(), theirs.secret().unwrap());
    assert_eq!((mine.side_index(), theirs.side_index()), (0, 1));
    assert_eq!(mine.links[1].local, theirs.links[1].peer);
    assert_eq!(mine.node.state_dir, Path::new("/tmp/na"));
    assert_eq!(theirs.node.state_dir, Path::new(defaults::STATE_DIR));
    assert_eq!(theirs.node.run_dir, Path::new("/tmp/nb \"q\""));
    assert_eq!(Identity::load(&theirs.node.identity_file).unwrap().public_hex(), joined.identity);
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("identity"), "mine").unwrap();
    let said = init(dir.path(), &pair()).expect_err("exists").to_string();
    assert!(said.contains("identity exists already and is not overwritten"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(dir.path().join("identity")).unwrap(), b"mine");
}

#[test]
fn contradicting_options_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(NewPair, &str); 3] = [
        (NewPair { peer: "na".into(), ..pair() }, "both named \"na\""),
        (NewPair { vips: vec![], ..pair() }, "no [[vip]]"),
        (NewPair { cluster: "Büro".into(), ..pair() }, "write 1 to 32 of a-z"),
    ];
    for (options, words) in cases {
        let said = init(&dir.path().join("d"), &options).expect_err(words).to_string();
        assert!(said.contains(words) && said.starts_with("these options"), "{said}");
        assert!(!dir.path().join("d").exists());
    }
}

#[test]
fn a_broken_bundle_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = init(&dir.path().join("a"), &pair()).unwrap().bundle.unwrap();
    let whole = std::fs::read_to_string(&bundle).unwrap();
    let secret = serde_json::from_str::<serde_json::Value>(&whole).unwrap()["secret"].clone();
    let other_secret = "0".repeat(64);
    let changed = whole.replace(secret.as_str().unwrap(), &other_secret);
    let cases = [
        (whole[..whole.len() / 2].to_owned(), "EOF while parsing"),
        (changed, "its checksum does not fit"),
        (whole.replace("fast", "wan "), "its checksum does not fit"),
        (
            whole.replace("\"staffetta_bundle\": 1", "\"staffetta_bundle\": 2"),
            "version 2 is not \
            known",
        ),
        ("x".repeat(300_000), "300000 bytes are too many"),
        (String::new(), "EOF"),
    ];
    for (text, words) in cases {
        std::fs::write(&bundle, text).unwrap();
        let target = dir.path().join("b");
        let said = join(&bundle, &target, &NodeDirs::default()).expect_err(words).to_string();
        assert!(said.contains(words) && said.contains("copy it again"), "{said}");
        assert!(!target.exists());
    }
}

#[test]
fn flags_say_what_to_write() {
    assert_eq!(link_end("10.0.0.1").unwrap().port(), LINK_PORT);
    assert!(link_end("host").unwrap_err().contains("write 10.77.0.1"));
    assert!(vip_flag("10.0.0.1/24").unwrap_err().contains("10.77.0.50/24@eth0"));
}
