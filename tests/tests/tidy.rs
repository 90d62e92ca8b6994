//! The house rules that a compiler does not check: sizes, widths, import directions, and documents
//! that keep up with the code.

use std::path::{Path, PathBuf};
use std::process::Command;

use staffetta_tests::{binary, workspace};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// Who alone may say a name: the name, and the paths (from the root of the workspace) that may.
const RESERVED: &[(&str, &[&str])] = &[
    ("wasmtime", &["host/policy/"]),
    ("rtnetlink", &["host/vip/"]),
    ("netlink_packet_core", &["host/vip/"]),
    ("netlink_packet_netfilter", &["host/vip/"]),
    ("netlink_packet_route", &["host/vip/"]),
    ("netlink_sys", &["host/vip/"]),
    ("rusqlite", &["host/db/", "host/files/src/index", "host/src/journal"]),
    ("notify", &["host/files/src/watch"]),
    ("wit_bindgen", &["sdk/"]),
    ("tokio_rustls", &["host/arbiter/"]),
    ("rustls", &["host/bulk/", "host/arbiter/"]),
    // Whoever links it has its `fcntl` instead of the system's.
    ("staffetta_commit", &[]),
];

/// Derives by which the SDK's types are the same on both sides of the sandbox, behind a feature
/// that no policy sets: the one place outside `host/policy` that may say `wasmtime`.
const SDK_DERIVES: [&str; 3] = [
    "wasmtime::component::ComponentType,",
    "wasmtime::component::Lift,",
    "wasmtime::component::Lower,",
];

/// Crates of this workspace that a crate must not import.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("host/core/", &["staffetta_policy", "staffetta_vip", "staffetta_lab", "staffetta_bundle"]),
    ("host/policy/src/", &["staffetta_core", "staffetta_vip", "staffetta_lab"]),
    ("host/vip/", &["staffetta_core", "staffetta_policy", "staffetta_lab"]),
    ("host/lab/", &["staffetta_core", "staffetta_policy", "staffetta_vip"]),
    ("host/arbiter/", &["staffetta_policy", "staffetta_vip", "staffetta_lab", "staffetta_bundle"]),
    (
        "host/bulk/",
        &[
            "staffetta",
            "staffetta_core",
            "staffetta_policy",
            "staffetta_vip",
            "staffetta_lab",
            "staffetta_arbiter",
            "staffetta_situation",
            "staffetta_sdk",
            "staffetta_bundle",
        ],
    ),
    (
        "host/db/",
        &["staffetta", "staffetta_core", "staffetta_policy", "staffetta_lab", "staffetta_files"],
    ),
    (
        "host/files/",
        &["staffetta", "staffetta_core", "staffetta_policy", "staffetta_lab", "staffetta_db"],
    ),
    ("host/barrier/", &["staffetta_core", "staffetta_db", "staffetta_files", "staffetta_lab"]),
    ("host/commit/", &["staffetta_core", "staffetta_db", "staffetta_files", "staffetta_lab"]),
    ("host/sim/", &["staffetta_vip", "staffetta_lab", "staffetta_arbiter"]),
    (
        "host/situation/",
        &["staffetta_policy", "staffetta_vip", "staffetta_lab", "staffetta_arbiter"],
    ),
    ("sdk/", &["staffetta_core", "staffetta_policy", "staffetta_vip", "staffetta_lab"]),
    ("policies/", &["staffetta_core", "staffetta_policy", "staffetta_vip", "staffetta_lab"]),
];

/// One source file.
struct Source {
    /// From the root of the workspace.
    path: String,
    lines: Vec<String>,
}

impl Source {
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// The lines before the tests at the end of the file.
    fn code(&self) -> &[String] {
        let is_module = |pair: &[String]| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].trim_start().starts_with("mod ")
                && pair[1].ends_with('{')
        };
        let end = self.lines.windows(2).position(is_module).unwrap_or(self.lines.len());
        &self.lines[..end]
    }
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for root in ["host", "sdk", "policies", "examples", "tests", "xtask"] {
        collect(&workspace().join(root), &mut files);
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let path = path.strip_prefix(workspace()).expect("found below the root");
        Source {
            path: path.to_string_lossy().into_owned(),
            lines: text.lines().map(ToOwned::to_owned).collect(),
        }
    };
    let sources: Vec<Source> = files.into_iter().map(read).collect();
    assert!(sources.len() > 20, "only {} source files were found", sources.len());
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Fails with all findings at once.
fn check(rule: &str, findings: impl IntoIterator<Item = String>) {
    let findings: Vec<_> = findings.into_iter().collect();
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = |source: &Source| {
        let lines = source.code().len();
        (lines > FILE_LINES_MAX && !source.is_test())
            .then(|| format!("{}: {lines} lines without tests", source.path))
    };
    check("files have at most 600 lines without tests", sources().iter().filter_map(long));
}

#[test]
fn functions_are_short() {
    let findings = sources().into_iter().flat_map(|source| {
        functions(&source.lines)
            .into_iter()
            .filter(|(_, lines)| *lines > FUNCTION_LINES_MAX)
            .map(|(at, lines)| format!("{}:{}: {lines} lines", source.path, at + 1))
            .collect::<Vec<_>>()
    });
    check("functions have at most 70 lines", findings);
}

#[test]
fn lines_are_narrow() {
    let findings = sources().into_iter().flat_map(|source| {
        let wide = source.lines.iter().enumerate().filter(|(_, l)| l.chars().count() > COLUMNS_MAX);
        wide.map(|(at, _)| format!("{}:{}", source.path, at + 1)).collect::<Vec<_>>()
    });
    check("lines have at most 100 columns", findings);
}

#[test]
fn imports_keep_their_direction() {
    let mut findings = Vec::new();
    // This file holds the names as data.
    for source in sources().iter().filter(|source| source.path != "tests/tests/tidy.rs") {
        for (at, line) in source.lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if source.path.starts_with("sdk/src/") && SDK_DERIVES.contains(&code.trim()) {
                continue;
            }
            for (name, allowed) in RESERVED {
                if uses(code, name) && !allowed.iter().any(|path| source.path.starts_with(path)) {
                    findings.push(format!("{}:{}: {name}", source.path, at + 1));
                }
            }
            for (path, names) in FORBIDDEN {
                let found = names.iter().filter(|name| uses(code, name));
                if source.path.starts_with(path) && !source.path.contains("/tests/") {
                    findings
                        .extend(found.map(|name| format!("{}:{}: {name}", source.path, at + 1)));
                }
            }
        }
    }
    check("imports go main -> shell -> adapters -> core only", findings);
}

#[test]
fn every_command_in_the_readme_exists() {
    let readme = read("README.md");
    let mut findings = Vec::new();
    for (command, word) in commands(&readme) {
        let mut help = Command::new(binary());
        help.args(if word.is_empty() { vec!["help"] } else { vec!["help", &word] });
        let output = help.output().expect("the daemon runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let listed = text.lines().any(|l| l.split_whitespace().next() == Some(&command));
        if !listed {
            findings.push(format!("staffetta {word} {command}"));
        }
    }
    check("README names commands that `staffetta help` does not have", findings);
}

#[test]
fn every_dependency_is_accounted_for() {
    let manifest = read("Cargo.toml");
    let document = read("docs/dependencies.md");
    let missing = dependencies(&manifest)
        .into_iter()
        .filter(|name| !document.lines().any(|line| line.contains(&format!("`{name}`"))));
    check("docs/dependencies.md has no line for", missing);
}

fn read(name: &str) -> String {
    let path = workspace().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first line (from 0) and the number of lines of every function, by the indentation that
/// rustfmt gives.
fn functions(lines: &[String]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !is_function(line) {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let one_line = line.ends_with('}') || line.ends_with(';');
        let length = if one_line {
            1
        } else {
            let rest = lines[at..].iter();
            rest.take_while(|line| **line != end && **line != format!("{indent});")).count() + 1
        };
        found.push((at, length));
    }
    found
}

fn is_function(line: &str) -> bool {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest = rest.strip_prefix("extern \"C\" ").unwrap_or(rest);
    rest.starts_with("fn ")
}

/// Whether code names a crate: as a path, or in a `use`.
fn uses(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"');
        let after = &code[at + name.len()..];
        let is_use = code.trim_start().starts_with("use ") && after.starts_with([';', ' ']);
        !is_word && (after.starts_with("::") || is_use)
    })
}

/// The commands that a text shows after `staffetta`, each with the group it belongs to.
fn commands(text: &str) -> Vec<(String, String)> {
    let groups = ["policy", "license", "config"];
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let pieces: Vec<&str> =
            if fenced { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for piece in pieces {
            let words: Vec<&str> = piece.split_whitespace().collect();
            let Some(at) =
                words.iter().position(|w| *w == "staffetta" || w.ends_with("/staffetta"))
            else {
                continue;
            };
            let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let name = |index: usize| {
                words.get(at + index).filter(is_name).filter(|w| !w.starts_with('-'))
            };
            // Before the program's name only what runs a program may stand: else it is a package.
            let runs = words[..at].iter().all(|w| matches!(*w, "$" | "#" | "sudo" | "|"));
            let Some(command) = name(1).filter(|_| runs) else { continue };
            found.push(((*command).to_owned(), String::new()));
            if let Some(sub) = name(2).filter(|_| groups.contains(command)) {
                found.push(((*sub).to_owned(), (*command).to_owned()));
            }
        }
    }
    found
}

/// Names of the crates from a registry in `[workspace.dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()));
    names.filter(|name| !name.starts_with("staffetta") && !name.starts_with('#')).collect()
}

#[test]
fn the_rules_see_what_they_are_for() {
    let lines = |text: &str| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>();
    let found =
        functions(&lines("    pub fn a() {\n        x\n    }\nfn b() {}\nfn c(\n) -> X {\n}"));
    assert_eq!(found, [(0, 3), (3, 1), (4, 3)]);
    assert!(uses("use wasmtime::Engine;", "wasmtime") && uses("let e = wasmtime::E", "wasmtime"));
    assert!(!uses("let wasmtime_version = 1;", "wasmtime") && !uses("my_wasmtime::x", "wasmtime"));
    assert_eq!(
        commands("`staffetta policy load x` and\n```\n$ sudo staffetta run --config x\n```"),
        [("policy", ""), ("load", "policy"), ("run", "")]
            .map(|(command, group)| (command.to_owned(), group.to_owned()))
    );
    assert_eq!(
        dependencies("[workspace.dependencies]\na-b = \"1\"\nstaffetta = 1\n[x]\nc = 1"),
        ["a-b"]
    );
}
