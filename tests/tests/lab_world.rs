//! The lab itself: its instruments see what was put there, its faults do what they say.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use staffetta_lab::{
    Cable, EchoServer, Fault, Lab, LabOptions, Node, Probe, SipClient, SipServer, Space, WireWatch,
};
use staffetta_tests::world;

const ADD: &str = "addr add 10.77.0.50/24 dev eth0";
const DELETE: &str = "addr del 10.77.0.50/24 dev eth0";

/// A world with servers on both nodes and every instrument.
struct Scene {
    sip: SipClient,
    probe: Probe,
    wire: WireWatch,
    _servers: [(EchoServer, SipServer); 2],
    lab: Lab,
}

fn scene() -> Result<Scene> {
    let lab = Lab::new(LabOptions { heartbeat_link: true, ..LabOptions::default() })?;
    let servers =
        |node| anyhow::Ok((EchoServer::start(&lab, node)?, SipServer::start(&lab, node)?));
    Ok(Scene {
        _servers: [servers(Node::A)?, servers(Node::B)?],
        sip: SipClient::start(&lab)?,
        probe: Probe::start(&lab)?,
        wire: WireWatch::start(&lab)?,
        lab,
    })
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn the_instruments_see_one_two_and_none() {
    world(|| {
        let scene = scene()?;
        let none = Instant::now();
        pause(200);
        let one = Instant::now();
        scene.lab.node(Node::A).space().ip(ADD)?;
        pause(1_200);
        let two = Instant::now();
        scene.lab.node(Node::B).space().ip(ADD)?;
        pause(1_000);
        scene.lab.node(Node::A).space().ip(DELETE)?;
        let end = Instant::now();

        ensure!(scene.probe.answers().count(none, one) == [0, 0], "answers out of nothing");
        let tally = scene.wire.tally(one + Duration::from_millis(200), two);
        ensure!(tally.dual_ms() == 0 && tally.answered_arp_ms[0] > 500, "{tally:?}");
        ensure!(tally.answered_udp_ms[0] > 500 && tally.answered_udp_ms[1] == 0, "{tally:?}");
        let tally = scene.wire.tally(two, end);
        ensure!(tally.dual_arp_ms > 500 && tally.dual_udp_ms > 500, "{tally:?}");
        ensure!(scene.sip.options().count(one, end)[0] > 20, "the phone had no answers");
        ensure!(scene.sip.registrations().count(one, end)[0] > 0, "no registration");
        Ok(())
    });
}

/// Whether a node's echo at `to` answers somebody in `from`.
fn reaches(from: &Space, to: &'static str) -> Result<bool> {
    Ok(from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        // A link that is down refuses at once.
        let _ = socket.send_to(b"question", (to, 7777));
        Ok::<_, std::io::Error>(socket.recv(&mut [0; 64]).is_ok())
    })?)
}

#[test]
fn faults_do_what_they_say() {
    world(|| {
        let scene = scene()?;
        let lab = &scene.lab;
        let (a, client) = (lab.node(Node::A).space(), lab.client());
        let check = |fault: Option<Fault>, expect: [bool; 4]| -> Result<()> {
            lab.heal()?;
            fault.map_or(Ok(()), |fault| lab.fault(fault))?;
            let saw = [
                reaches(a, "10.77.0.2")?,
                reaches(a, "10.78.0.2")?,
                reaches(client, "10.77.0.1")?,
                reaches(client, "10.77.0.2")?,
            ];
            ensure!(saw == expect, "{fault:?}: a-b, a-b direct, c-a, c-b: {saw:?}");
            Ok(())
        };
        check(None, [true; 4])?;
        let one_way = |cable, from| Some(Fault::OneWayOn { cable, from });
        check(one_way(Cable::Lan, Node::A), [false, true, true, true])?;
        check(one_way(Cable::Direct, Node::B), [true, false, true, true])?;
        check(Some(Fault::HeartbeatLink), [true, false, true, true])?;
        check(Some(Fault::Cut(Node::A)), [false, false, false, true])?;
        check(Some(Fault::Silent(Node::B)), [false, false, true, false])?;
        check(Some(Fault::Split), [false, false, true, true])?;
        check(Some(Fault::OneWay { from: Node::A }), [false, false, true, true])?;
        check(Some(Fault::Filtered { port: 7777 }), [false, false, true, true])?;
        check(Some(Fault::Filtered { port: 7411 }), [true; 4])?;
        check(Some(Fault::Loss { percent: 99 }), [false, false, true, true])?;
        check(None, [true; 4])
    });
}

#[test]
fn processes_of_a_node_freeze_thaw_and_die() {
    world(|| {
        let lab = Lab::new(LabOptions::default())?;
        let node = lab.node(Node::A);
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60"]);
        let shell = node.spawn(command)?;
        pause(100);
        let pids = node.pids();
        ensure!(pids.len() == 3 && pids[0] == i32::try_from(shell)?, "{pids:?}");
        node.freeze();
        let state = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat"));
        ensure!(pids.iter().all(|pid| state(*pid).is_ok_and(|s| s.contains(") T "))), "frozen");
        node.thaw();
        ensure!(pids.iter().all(|pid| state(*pid).is_ok_and(|s| !s.contains(") T "))), "thawed");
        node.kill9();
        ensure!(!node.is_running() && lab.node(Node::B).pids().is_empty(), "alive after kill -9");
        Ok(())
    });
}
