//! The search, from a policy that is no good to the shortest history that shows it.

use super::*;
use staffetta_bundle::fixtures::HOSTILE;

/// A configuration with further lines.
fn configured(more: &str) -> String {
    format!(
        "[cluster]\nname = \"t\"\nid = \"6f1c0e1f9a4b4d0e8c1d2b3a49586776\"\n[node]\n\
         name = \"na\"\n[peer]\nname = \"nb\"\n[timing]\nprofile = \"fast\"\n[[link]]\n\
         name = \"lan\"\nlocal = \"10.77.0.1:7411\"\npeer = \"10.77.0.2:7411\"\n[[vip]]\n\
         address = \"10.77.0.50/24\"\ninterface = \"eth0\"\n{more}"
    )
}

fn context(dir: &Path) -> Context {
    let config = dir.join("staffetta.toml");
    std::fs::write(&config, configured("")).unwrap();
    Context { config, socket: None, json: true }
}

fn flags(dir: &Path) -> SimulateFlags {
    SimulateFlags {
        policy: None,
        seeds: 12,
        first: 1,
        profile: Some(TimingProfile::Fast),
        scenario: None,
        out: Some(dir.join("found")),
    }
}

#[test]
fn the_built_in_policies_hold_and_nothing_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let flags = flags(dir.path());
    simulate(&context(dir.path()), &flags).unwrap();
    assert!(!dir.path().join("found").exists());
}

/// A policy that never takes over leaves the service down for ever: that is found, made short, and
/// replays; and the policy is what is to blame.
#[test]
fn a_policy_that_never_takes_over_is_found_out_and_its_history_replays() {
    let dir = tempfile::tempdir().unwrap();
    let (context, flags) = (context(dir.path()), flags(dir.path()));
    let policy = dir.path().join("hostile.wasm");
    std::fs::write(&policy, HOSTILE).unwrap();
    let asked = SimulateFlags { policy: Some(policy.clone()), ..flags };
    let found = simulate(&context, &asked).unwrap_err();
    assert!(matches!(found, Failure::FailedQuietly), "{found:?}");
    let files = std::fs::read_dir(dir.path().join("found")).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty() && files.len() <= SHOWN_MAX, "{files:?}");

    let config = Config::parse(&configured(""), Path::new("staffetta.toml")).unwrap();
    let pair = pair(Some(&config), asked.profile).unwrap();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let short = scenario::read(&text).unwrap();
        let long = staffetta_sim::draw(&pair, short.seed);
        assert!(text.lines().count() < scenario::write(&long, "").lines().count() + 2, "{text}");
        let again = SimulateFlags {
            policy: Some(policy.clone()),
            scenario: Some(file.clone()),
            ..self::flags(dir.path())
        };
        assert!(simulate(&context, &again).is_err(), "it does not replay: {text}");
        let well = SimulateFlags { policy: None, ..again };
        simulate(&context, &well).unwrap();
    }
}

#[test]
fn the_configured_split_brain_policy_is_the_one_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let config = |settings: &str| {
        Config::parse(&configured(settings), Path::new("/etc/staffetta/staffetta.toml")).unwrap()
    };
    let flags = flags(dir.path());
    let good = "[policy.split-brain.settings]\nkeep = \"ask-operator\"\n";
    policies(Some(&config(good)), &flags).unwrap();
    let bad = "[policy.split-brain.settings]\nkeep = \"everything\"\n";
    let error = policies(Some(&config(bad)), &flags).unwrap_err();
    assert!(format!("{error:?}").contains("everything"), "{error:?}");
    let missing = "[policy.split-brain]\nfile = \"/no/such.wasm\"\n";
    let error = policies(Some(&config(missing)), &flags).unwrap_err();
    assert!(format!("{error:?}").contains("/no/such.wasm"), "{error:?}");
}
