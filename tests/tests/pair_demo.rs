//! The demo itself: the first thing that a newcomer runs.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use staffetta_tests::{binary, world};

const STEPS: usize = 7;

fn namespaces() -> Result<String> {
    let listed = Command::new("ip").args(["netns", "list"]).output().context("ip")?;
    Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
}

#[test]
fn the_demo_passes_and_leaves_nothing_behind() {
    world(|| {
        let before = namespaces()?;
        let ran = Command::new(binary()).args(["demo", "--json"]).output()?;
        let timeline = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "{}: {timeline}", ran.status);
        let report: Value = serde_json::from_slice(&ran.stdout).context("one JSON object")?;
        let steps = report["steps"].as_array().context("steps")?;
        ensure!(steps.len() == STEPS && report["passed"] == true, "{report:#}\n{timeline}");
        for step in steps {
            ensure!(step["two_answers_ms"] == 0, "two nodes answered: {step:#}");
            ensure!(!step["served_by"].as_str().unwrap_or_default().is_empty(), "{step:#}");
        }
        ensure!(namespaces()? == before, "namespaces are left: {}", namespaces()?);
        Ok(())
    });
}
