//! What operators do: make a pair by `init` and `join`, license it, load policies, disarm it, look
//! at it; and what strangers send to it.

use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use staffetta_bundle::fixtures::BUSINESS_HOURS;
use staffetta_lab::{Node, Pair, PairOptions, Role, Space};
use staffetta_tests::{Case, NO_GAP_MS, Scene, Serves, binary, check_each, kill, said, start};
use staffetta_tests::{text, wait, world};

const PATIENCE: Duration = Duration::from_secs(20);
const HEARTBEAT_PORT: u16 = 7411;

/// Datagrams of every length that mean nothing, or look like an envelope of this version or of
/// another: from a stranger, and from the peer's own address.
fn garbage(pair: &Pair, node: Node) -> Result<()> {
    let lab = pair.lab();
    [lab.client(), lab.node(node.peer()).space()].into_iter().try_for_each(|from| noise(from, node))
}

fn noise(from: &Space, node: Node) -> Result<()> {
    let to = (node.ip(), HEARTBEAT_PORT);
    let sent = from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for len in 0..600_usize {
            let noise = (0..len).map(|at| (at * 31 + len * 17) as u8).collect::<Vec<_>>();
            socket.send_to(&noise, to)?;
            for version in [1, 99] {
                let envelope = [&b"ST"[..], &[version], &noise[..]].concat();
                socket.send_to(&envelope, to)?;
            }
        }
        Ok::<(), std::io::Error>(())
    });
    Ok(sent?)
}

fn has_named_the_garbage(pair: &Pair, node: Node) -> Result<()> {
    let status = pair.status(node)?;
    for alarm in ["foreign-frames", "other-version-frames"] {
        ensure!(status.has_alarm(alarm), "no alarm {alarm}: {:?}", status.alarms);
    }
    Ok(())
}

/// Loads a policy into both daemons and takes it back.
fn load_and_roll_back(pair: &Pair, _: Node) -> Result<()> {
    let file = tempfile::Builder::new().suffix(".wasm").tempfile()?;
    std::fs::write(file.path(), BUSINESS_HOURS)?;
    let path = file.path().to_string_lossy();
    let missed_beats = |node| {
        let log = pair.log(node);
        log.matches("no longer grants").count() + log.matches("came round").count()
    };
    let before = Node::BOTH.map(missed_beats);
    let shows = |node, loaded| {
        let shown = said(pair, node, &["policy", "list"]);
        shown.is_ok_and(|shown| shown.contains("staffetta-business-hours") == loaded)
    };
    for node in Node::BOTH {
        said(pair, node, &["policy", "load", "failover", path.as_ref()])?;
        wait("the policy in force", pair, PATIENCE, || shows(node, true))?;
    }
    for node in Node::BOTH {
        said(pair, node, &["policy", "rollback", "failover"])?;
        wait("the built-in policy", pair, PATIENCE, || shows(node, false))?;
    }
    let missed = Node::BOTH.map(missed_beats);
    ensure!(missed == before, "beats were missed: {missed:?}, and {before:?} before");
    Ok(())
}

/// The standby is disarmed, and told so to whoever watches; then the primary dies.
fn disarm_and_kill(pair: &Pair, node: Node) -> Result<()> {
    let config = pair.config(node.peer());
    let mut watch = std::process::Command::new(binary())
        .args(["watch", "--config"])
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()
        .context("watch")?;
    // The first line is the state of affairs.
    std::thread::sleep(Duration::from_millis(500));
    let answered = said(pair, node.peer(), &["maintenance", "on"]);
    std::thread::sleep(Duration::from_millis(500));
    watch.kill()?;
    let output = watch.wait_with_output()?;
    answered?;
    ensure!(text(&output).contains("maintenance"), "watch says: {}", text(&output));
    let status = pair.status(node.peer())?;
    ensure!(status.maintenance, "maintenance is on and not shown");
    let cleared = pair.command(node.peer(), &["clear"])?;
    ensure!(!cleared.status.success(), "nothing is fenced: {}", text(&cleared));
    ensure!(text(&cleared).contains("fenced"), "clear says: {}", text(&cleared));
    kill(pair, node)
}

fn arm_and_start(pair: &Pair, node: Node) -> Result<()> {
    said(pair, node.peer(), &["maintenance", "off"])?;
    wait("the takeover", pair, PATIENCE, || {
        pair.status(node.peer()).is_ok_and(|status| status.role == Role::Primary)
    })?;
    start(pair, node)
}

fn examined(pair: &Pair, node: Node) -> Result<()> {
    // What a node's own namespace shows is looked at, too.
    let (program, config) = (binary(), pair.config(node));
    let (program, config) = (program.to_string_lossy(), config.to_string_lossy());
    let space = pair.lab().node(node).space();
    space.output(&program, &["config", "check", "--config", &config])?;
    let found = space.output(&program, &["doctor", "--json", "--config", &config])?;
    let found: serde_json::Value = serde_json::from_str(&found)?;
    let findings = found["findings"].as_array().context("doctor finds nothing at all")?;
    let failed: Vec<_> = findings.iter().filter(|one| one["severity"] == "fail").collect();
    ensure!(failed.is_empty(), "doctor: {failed:?}");
    for object in ["nf_tables", "clock rate", "stalls", "identity"] {
        let there = findings.iter().any(|one| one["object"] == object);
        ensure!(there, "doctor says nothing of {object}");
    }
    Ok(())
}

#[test]
fn orders_are_carried_out_and_garbage_is_named() {
    let quiet = |act| Case {
        act,
        during: Serves::Same,
        after: Some(Serves::Same),
        silence_ms_max: NO_GAP_MS,
        ..Case::default()
    };
    world(|| {
        check_each(&[
            ("config check and doctor", quiet(examined)),
            ("garbage", Case { look: has_named_the_garbage, ..quiet(garbage) }),
            ("policy load and rollback", quiet(load_and_roll_back)),
            (
                "maintenance, then the primary killed",
                Case {
                    act: disarm_and_kill,
                    during: Serves::Nobody,
                    hold_ms: 2_000,
                    undo: arm_and_start,
                    silence_ms_max: 10_000,
                    ..Case::default()
                },
            ),
        ])
    });
}

/// A run of the program to its end, without a daemon.
fn staffetta(args: &[&str]) -> Result<String> {
    let output = std::process::Command::new(binary()).args(args).output()?;
    ensure!(output.status.success(), "{args:?}: {}", text(&output));
    Ok(text(&output))
}

/// The files of both nodes as `init` and `join` make them, in place of those of the laboratory.
fn init_and_join(pair: &Pair) -> Result<()> {
    let homes = Node::BOTH.map(|node| pair.config(node).with_file_name(""));
    let own = |node: Node, folder: &str| {
        pair.config(node).with_file_name(folder).to_string_lossy().into_owned()
    };
    for home in &homes {
        std::fs::remove_file(home.join("staffetta.toml"))?;
        std::fs::remove_file(home.join("secret"))?;
    }
    let [first, second] = homes.each_ref().map(|home| home.to_string_lossy().into_owned());
    let (a, b) = (Node::A.ip().to_string(), Node::B.ip().to_string());
    let mut made = vec!["init", "--name", Node::A.name(), "--peer", Node::B.name()];
    made.extend(["--local", &a, "--peer-address", &b, "--vip", "10.77.0.50/24@eth0"]);
    let (state, run) = (own(Node::A, "state"), own(Node::A, "run"));
    made.extend(["--dir", &first, "--state-dir", &state, "--run-dir", &run]);
    made.extend(["--profile", pair.options().profile.name()]);
    staffetta(&made)?;
    let bundle = std::fs::read_dir(&homes[0])?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "bundle"))
        .context("init made no bundle")?;
    let (state, run) = (own(Node::B, "state"), own(Node::B, "run"));
    let bundle = bundle.to_string_lossy();
    staffetta(&["join", &bundle, "--dir", &second, "--state-dir", &state, "--run-dir", &run])?;
    Ok(())
}

/// Both nodes trust a vendor's key.
fn trust_a_vendor(pair: &Pair) -> Result<()> {
    let key = pair.config(Node::A).with_file_name("vendor.key");
    let made = staffetta(&["license", "keygen", "--output", &key.to_string_lossy(), "--json"])?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    let public = made["public_key"].as_str().context("keygen prints no public key")?;
    for node in Node::BOTH {
        let file = pair.config(node);
        let config = std::fs::read_to_string(&file)?.replace("[license]", "");
        let trusted = format!("\n[license]\ntrusted_keys = [\"{public}\"]\n");
        std::fs::write(&file, config + &trusted)?;
    }
    Ok(())
}

/// The vendor's license for these nodes, where a node looks for it.
fn license(pair: &Pair, licensed: &[Node], on: Node) -> Result<()> {
    let key = pair.config(Node::A).with_file_name("vendor.key").to_string_lossy().into_owned();
    let file = pair.config(on).with_file_name("license.json");
    let out = file.to_string_lossy().into_owned();
    let mut args = vec!["license", "sign", "--key", &key, "--days", "30", "--customer", "Test"];
    let ids = licensed.iter().map(|node| said(pair, *node, &["identity"]));
    let ids = ids.collect::<Result<Vec<String>>>()?;
    ids.iter().for_each(|id| args.extend(["--node", id]));
    args.extend(["--output", &out]);
    let _none = std::fs::remove_file(&file);
    staffetta(&args)?;
    let shown = said(pair, on, &["license", "show", &out])?;
    ensure!(shown.contains("signature   valid") && shown.contains("Test"), "{shown}");
    Ok(())
}

/// Promised: `init` and `join` are all that two nodes need; and where a vendor's key is trusted no
/// pair forms unless both nodes are licensed, each of them by its own identity.
#[test]
fn a_pair_made_by_init_and_join_forms_when_both_nodes_are_licensed() {
    world(|| {
        let options = PairOptions { reference: false, ..PairOptions::default() };
        let mut scene = Scene::open(&options, false, init_and_join)?.context("no pair")?;
        scene.ready()?;
        let pair = scene.pair();
        for node in Node::BOTH {
            ensure!(pair.lab().node(node).terminate(PATIENCE), "{} does not end", node.name());
            std::fs::remove_dir_all(pair.state(node))?;
        }
        trust_a_vendor(pair)?;
        // One node is licensed; the other one shows the document of the first.
        for node in Node::BOTH {
            license(pair, &[Node::A], node)?;
            pair.start(node)?;
        }
        wait("both nodes' word on it", pair, PATIENCE, || {
            pair.statuses().line().matches("a license for both nodes").count() == 2
        })?;
        std::thread::sleep(Duration::from_secs(2));
        let line = pair.statuses().line();
        ensure!(pair.statuses().primary().is_none(), "it serves without a license: {line}");
        for node in Node::BOTH {
            license(pair, &Node::BOTH, node)?;
        }
        // The documents are looked at again by themselves.
        wait("the pair", pair, PATIENCE, || pair.statuses().settled().is_some())?;
        let old = pair.statuses().settled().context("nobody serves")?;
        kill(pair, old)?;
        wait("the takeover", pair, PATIENCE, || pair.statuses().primary() == Some(old.peer()))
    });
}
