//! Every error of the configuration as data: an edit of a good file, and what is said about it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../../examples/staffetta.toml");

/// Line numbers below count in this text.
const GOOD: &str = r#"[cluster]
name = "office"
id = "6f1c0e1f9a4b4d0e8c1d2b3a49586776"
[node]
name = "na"
[peer]
name = "nb"
[timing]
profile = "fast"
[[link]]
name = "lan"
local = "10.77.0.1:7411"
peer = "10.77.0.2:7411"
[[vip]]
address = "10.77.0.50/24"
interface = "eth0"
[[reference]]
name = "gateway"
address = "10.77.0.254"
[[check]]
name = "web"
tcp = "127.0.0.1:80"
[policy.failover.settings]
failback = "never"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/staffetta/staffetta.toml"))
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(GOOD.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from:?} must be there once");
        text.replace(from, to)
    })
}

const ARBITER: &str = "endpoints = [\"http://10.0.0.5:2379\"]";

#[test]
fn an_arbiter_is_typed_and_complete() {
    let with = |text: &str| parse(&format!("{GOOD}[arbiter]\n{text}\n"));
    assert_eq!(parse(GOOD).unwrap().arbiter, None);
    let plain = with(ARBITER).unwrap().arbiter.unwrap();
    assert_eq!(plain.endpoints[0].to_string(), "http://10.0.0.5:2379");
    assert_eq!((plain.prefix.as_str(), plain.ca_file), ("/staffetta", None));
    let full = with(
        "endpoints = [\"https://e1\", \"https://e2\"]\nprefix = \"/site/\"\nca_file = \"ca.pem\"\n\
         cert_file = \"n.pem\"\nkey_file = \"n.key\"\nuser = \"u\"\npassword_file = \"pw\"",
    );
    let full = full.unwrap().arbiter.unwrap();
    assert_eq!(full.prefix, "/site");
    assert_eq!(full.ca_file.unwrap(), Path::new("/etc/staffetta/ca.pem"));
    assert_eq!(full.login.unwrap().0, "u");
    assert!(full.identity_files.is_some());
    for (text, words) in [
        ("", "`endpoints` is missing here"),
        ("endpoints = []", "`endpoints` is missing here"),
        ("endpoints = [\"10.0.0.5\"]", "it begins with neither http:// nor https://"),
        ("endpoints = [\"http://e1\", \"http://e1:2379\"]", "is there twice"),
        ("endpoints = [\"https://e1\"]", "https needs `ca_file`"),
        (&format!("{ARBITER}\ncert_file = \"n.pem\""), "belong together"),
        (&format!("{ARBITER}\nuser = \"u\""), "belong together"),
        (&format!("{ARBITER}\npassword_file = \"u\""), "belong together"),
        (&format!("{ARBITER}\nprefix = \"site\""), "write a path like /staffetta"),
        (&format!("{ARBITER}\nendpoint = \"x\""), "did you mean `endpoints`?"),
    ] {
        let error = with(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
        assert!(error.starts_with("/etc/staffetta/staffetta.toml:"), "{error}");
    }
    let differs = |text: &str| with(text).unwrap().pair_digest();
    assert_ne!(parse(GOOD).unwrap().pair_digest(), differs(ARBITER));
}

/// Refused with this line and these words; file and colon are checked by all.
const REFUSED: &[(&str, &str, usize, &str)] = &[
    ("name = \"office\"", "nmae = \"office\"", 2, "unknown key `nmae`: did you mean `name`?"),
    ("[timing]", "[timming]", 8, "unknown key `timming`: did you mean `timing`?"),
    (
        "[timing]",
        "[colour]\nx = 1\n[timing]",
        8,
        "unknown key `colour`: write one of cluster, node",
    ),
    ("profile = \"fast\"", "profile = \"fats\"", 9, "unknown word `fats`: did you mean `fast`?"),
    ("profile = \"fast\"", "profile = 3", 9, "wrong type: a word in quotes is needed"),
    ("name = \"na\"", "name = 3", 5, "wrong type: integer `3`, but a string is needed here"),
    ("profile = \"fast\"", "lease_ms = -1", 9, "integer `-1`, but u64 is needed here"),
    ("profile = \"fast\"", "profile = fast", 9, "this is not TOML"),
    ("name = \"office\"", "name = \"office", 2, "this is not TOML"),
    ("name = \"na\"", "name = \"na\"\nname = \"nc\"", 6, "this key is there twice"),
    (
        "[cluster]\nname = \"office\"",
        "[cluster]",
        1,
        "`name` is missing here: write name = \"office\"",
    ),
    (
        "name = \"office\"",
        "name = \"Main Office\"",
        2,
        "cluster.name = \"Main Office\": write 1 to 32 of a-z",
    ),
    ("name = \"office\"", "name = \"\"", 2, "write 1 to 32 of a-z"),
    ("name = \"na\"", "name = \"node-with-a-name-of-33-characters\"", 5, "write 1 to 32"),
    ("6f1c0e1f9a4b4d0e8c1d2b3a49586776", "6f1c", 3, "must be 32 hex digits, this has 4 characters"),
    ("name = \"nb\"", "name = \"na\"", 7, "node and peer are both named \"na\""),
    ("profile = \"fast\"", "beat_ms = 5", 9, "beat_ms = 5 is too short: write at least 10"),
    ("profile = \"fast\"", "profile = \"fast\"\nlease_ms = 200", 10, "lease_ms = 200 is too short"),
    ("profile = \"fast\"", "profile = \"fast\"\nbeat_ms = 80", 10, "lease_ms = 300 is too short"),
    (
        "profile = \"fast\"",
        "profile = \"fast\"\nbeat_ms = 80",
        10,
        "(it comes from profile \"fast\" or a default)",
    ),
    (
        "profile = \"fast\"",
        "lease_ms = 61000",
        9,
        "lease_ms = 61000 is too long: write at most 60000",
    ),
    (
        "profile = \"fast\"",
        "lease_ms = 99999999",
        9,
        "lease_ms is in milliseconds: write at most 3600000",
    ),
    ("profile = \"fast\"", "policy_deadline_ms = 900", 9, "policy_deadline_ms = 900 is too long"),
    ("profile = \"fast\"", "join_timeout_ms = 500", 9, "join_timeout_ms = 500 is too short"),
    ("profile = \"fast\"", "stop_budget_ms = 20", 9, "stop_budget_ms = 20 is too short"),
    ("local = \"10.77.0.1:7411\"", "local = \"10.77.0.1\"", 12, "write IP address and port, like"),
    (
        "local = \"10.77.0.1:7411\"",
        "local = \"0.0.0.0:7411\"",
        12,
        "0.0.0.0 does not name one node",
    ),
    ("local = \"10.77.0.1:7411\"", "local = \"10.77.0.1:0\"", 12, "write a port from 1 to 65535"),
    ("local = \"10.77.0.1:7411\"", "local = \"10.77.0.2:7412\"", 13, "both ends are 10.77.0.2"),
    ("local = \"10.77.0.1:7411\"", "local = \"[fd00::1]:7411\"", 13, "are of different families"),
    ("local = \"10.77.0.1:7411\"", "local = \"[fe80::1]:7411\"", 12, "does not name one node"),
    ("peer = \"10.77.0.2:7411\"", "", 10, "`peer` is missing here"),
    (
        "[[vip]]",
        "[[link]]\nname = \"lan\"\nlocal = \"10.78.0.1:1\"\npeer = \"10.78.0.2:1\"\n[[vip]]",
        15,
        "a [[link]] named \"lan\" is there already on line 11",
    ),
    (
        "[[vip]]",
        "[[link]]\nname = \"two\"\nlocal = \"10.77.0.1:7411\"\npeer = \"10.78.0.2:1\"\n[[vip]]",
        16,
        "10.77.0.1:7411 is used by the link of line 12 already",
    ),
    (
        "10.77.0.50/24",
        "10.77.0.50",
        15,
        "is not a service address: write address and prefix length",
    ),
    ("10.77.0.50/24", "10.77.0.50/33", 15, "/33 is no prefix length here: write 1 to 32"),
    ("10.77.0.50/24", "10.77.0.255/24", 15, "broadcast address of its /24"),
    ("10.77.0.50/24", "224.0.0.1/24", 15, "224.0.0.1 cannot be a service address"),
    ("10.77.0.50/24", "10.77.0.2/24", 15, "service address 10.77.0.2 is an end of link \"lan\""),
    (
        "interface = \"eth0\"",
        "interface = \"an-interface-too-long\"",
        16,
        "vip.interface = \"an-interface-too-long\"",
    ),
    ("interface = \"eth0\"", "interface = \"e/0\"", 16, "write the name of an interface"),
    (
        "[[reference]]",
        "[[vip]]\naddress = \"10.77.0.50/16\"\ninterface = \"eth1\"\n[[reference]]",
        18,
        "service address 10.77.0.50 is there already on line 15",
    ),
    ("10.77.0.254", "10.77.0.50", 19, "reference \"gateway\": 10.77.0.50 belongs to the pair"),
    ("10.77.0.254", "gw.example", 19, "`gw.example` is not an IP address"),
    (
        "address = \"10.77.0.254\"",
        "address = \"fd00::fe\"\nmethod = \"arp\"",
        20,
        "ARP asks for IPv4 only",
    ),
    (
        "tcp = \"127.0.0.1:80\"",
        "",
        20,
        "a check asks in one way: write one of tcp, exec, http, sip",
    ),
    (
        "tcp = \"127.0.0.1:80\"",
        "tcp = \"127.0.0.1:80\"\nsip = \"127.0.0.1:5060\"",
        20,
        "this has tcp and sip",
    ),
    (
        "tcp = \"127.0.0.1:80\"",
        "tcp = \"localhost:80\"",
        22,
        "check.tcp = \"localhost:80\": write IP address and port",
    ),
    ("tcp = \"127.0.0.1:80\"", "exec = []", 22, "check.exec begins with the absolute path"),
    ("tcp = \"127.0.0.1:80\"", "exec = [\"true\"]", 22, "check.exec begins with the absolute path"),
    (
        "tcp = \"127.0.0.1:80\"",
        "http = \"https://127.0.0.1/\"",
        22,
        "write a plain http URL with an IP address",
    ),
    (
        "tcp = \"127.0.0.1:80\"",
        "tcp = \"127.0.0.1:80\"\ninterval_ms = 500\ntimeout_ms = 600",
        24,
        "check.timeout_ms = 600: write a number from 1 to 500",
    ),
    (
        "tcp = \"127.0.0.1:80\"",
        "tcp = \"127.0.0.1:80\"\nrise = 0",
        23,
        "check.rise = 0: write a number from 1 to 100",
    ),
    (
        "[[check]]",
        "[[check]]\nname = \"web\"\ntcp = \"127.0.0.1:81\"\n[[check]]",
        24,
        "a [[check]] named \"web\" is there already on line 21",
    ),
    (
        "[policy.failover.settings]",
        "[[fact]]\nname = \"calls\"\nexec = [\"/bin/true\"]\n[policy.failover.settings]",
        24,
        "fact.name = \"calls\": write site. and then 1 to 24 of a-z, 0-9, - and .",
    ),
    (
        "[policy.failover.settings]",
        "[[fact]]\nname = \"site.calls\"\n[policy.failover.settings]",
        23,
        "`exec` is missing here: write exec = [",
    ),
    (
        "[policy.failover.settings]",
        "[[fact]]\nname = \"site.calls\"\nexec = [\"calls\"]\n[policy.failover.settings]",
        25,
        "fact.exec begins with the absolute path",
    ),
    (
        "[policy.failover.settings]",
        "[[fact]]\nname = \"site.calls\"\nexec = [\"/bin/true\"]\ninterval_ms = 999\n\
         [policy.failover.settings]",
        26,
        "fact.interval_ms = 999: write a number from 1000 to 3600000",
    ),
    (
        "[policy.failover.settings]",
        "[policy.failover]\npin = \"sha256:00\"\n[policy.failover.settings]",
        24,
        "pin must be \"sha256:\" and 64 hex digits",
    ),
    (
        "[policy.failover.settings]",
        "[policy]\ntrusted_keys = [\"aa\"]\n[policy.failover.settings]",
        24,
        "policy.trusted_keys: a key is 64 hex digits",
    ),
    (
        "[policy.failover.settings]",
        "[policy.splitbrain]\n[policy.failover.settings]",
        23,
        "unknown key `splitbrain`: did you mean `split-brain`?",
    ),
    (
        "[policy.failover.settings]",
        "[alignment]\nbound_ms = 100\n[policy.failover.settings]",
        24,
        "alignment.bound_ms = 100: write a number from 500 to 600000",
    ),
    (
        "[policy.failover.settings]",
        "[journal]\nmegabytes_max = 1\n[policy.failover.settings]",
        24,
        "journal.megabytes_max = 1: write a number from 16 to 65536",
    ),
    (
        "[policy.failover.settings]",
        "[log]\nlevel = \"verbose\"\n[policy.failover.settings]",
        24,
        "unknown word `verbose`: write one of error, warn",
    ),
];

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let mut wrong = Vec::new();
    for (from, to, line, words) in REFUSED {
        let error = match parse(&edited(&[(from, to)])) {
            Ok(_) => {
                wrong.push(format!("{to:?} was taken"));
                continue;
            }
            Err(error) => error.to_string(),
        };
        let place = format!("/etc/staffetta/staffetta.toml:{line}: ");
        if !error.starts_with(&place) || !error.contains(words) {
            wrong.push(format!("{to:?}\n  said: {error}\n  want: {place}… {words}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_missing_as_a_whole_is_said_without_a_line() {
    let cases = [
        ("", "[cluster] is missing: add it with name and id"),
        ("[cluster]\nname = \"a\"\nid = \"6f1c0e1f9a4b4d0e8c1d2b3a49586776\"", "[node] is missing"),
        (&GOOD[..GOOD.find("[[link]]").unwrap()], "no [[link]]: at least one is needed"),
        (&GOOD[..GOOD.find("[[vip]]").unwrap()], "no [[vip]]: at least one is needed"),
    ];
    for (text, words) in cases {
        let error = parse(text).expect_err(words);
        assert_eq!(error.line, None, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn more_than_the_limit_is_refused() {
    let many = |what: &str, body: &dyn Fn(usize) -> String, count: usize| {
        let first = usize::from(!["database", "fact"].contains(&what));
        let entries: String =
            (first..count).map(|n| format!("[[{what}]]\n{}\n", body(n))).collect();
        parse(&format!("{GOOD}{entries}"))
    };
    let link =
        |n: usize| format!("name = \"l{n}\"\nlocal = \"10.9.{n}.1:1\"\npeer = \"10.9.{n}.2:1\"");
    let vip = |n: usize| format!("address = \"10.77.1.{n}/16\"\ninterface = \"eth0\"");
    let reference = |n: usize| format!("name = \"r{n}\"\naddress = \"10.77.2.{n}\"");
    let check = |n: usize| format!("name = \"c{n}\"\ntcp = \"127.0.0.1:{n}\"");
    type Case<'a> = (&'a str, &'a dyn Fn(usize) -> String, usize);
    let database = |n: usize| format!("path = \"/var/lib/{n}.db\"");
    let fact = |n: usize| format!("name = \"site.f{n}\"\nexec = [\"/bin/true\"]");
    let cases: [Case<'_>; 6] = [
        ("link", &link, defaults::LINKS_MAX),
        ("vip", &vip, defaults::VIPS_MAX),
        ("reference", &reference, defaults::REFERENCES_MAX),
        ("check", &check, defaults::CHECKS_MAX),
        ("database", &database, defaults::DATABASES_MAX),
        ("fact", &fact, defaults::FACTS_MAX),
    ];
    for (what, body, max) in cases {
        assert!(many(what, body, max).is_ok(), "{max} of {what}");
        let error = many(what, body, max + 1).expect_err(what).to_string();
        assert!(error.contains(&format!("[[{what}]] are too many: at most {max}")), "{error}");
    }
}

#[test]
fn a_good_file_is_typed_and_complete() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.cluster.secret_file, Path::new("/etc/staffetta/secret"));
    assert_eq!(config.control_socket(), Path::new("/run/staffetta/control.sock"));
    assert_eq!(config.timing.parts_ms(), [50, 300, 10, 40, 10_000, 3_000]);
    assert_eq!(config.side_index(), 0);
    assert_eq!(config.checks[0].target, CheckTarget::Tcp("127.0.0.1:80".parse().unwrap()));
    assert_eq!(config.checks[0].timeout, Duration::from_secs(1));
    assert_eq!(config.policies.failover.settings["failback"], "never");
    assert_eq!(config.journal_bytes_max, 256 << 20);
    assert_eq!(config.vips[0].line, 15);
    let http = edited(&[("tcp = \"127.0.0.1:80\"", "http = \"http://[::1]:8080/h?x=1\"")]);
    let target = &parse(&http).unwrap().checks[0].target;
    let expected =
        CheckTarget::Http { address: "[::1]:8080".parse().unwrap(), path: "/h?x=1".into() };
    assert_eq!(*target, expected);
}

#[test]
fn the_mirror_agrees_on_what_both_share() {
    let swap = [
        ("name = \"na\"", "name = \"x\""),
        ("name = \"nb\"", "name = \"na\""),
        ("name = \"x\"", "name = \"nb\""),
        ("local = \"10.77.0.1:7411\"", "local = \"x\""),
        ("peer = \"10.77.0.2:7411\"", "peer = \"10.77.0.1:7411\""),
        ("local = \"x\"", "local = \"10.77.0.2:7411\""),
        ("interface = \"eth0\"", "interface = \"ens3\""),
    ];
    let (one, other) = (parse(GOOD).unwrap(), parse(&edited(&swap)).unwrap());
    assert_eq!((one.side_index(), other.side_index()), (0, 1));
    assert_eq!(one.pair_digest(), other.pair_digest());
    let slower = parse(&edited(&[("\"fast\"", "\"wan\"")])).unwrap();
    assert_ne!(one.pair_digest(), slower.pair_digest());
}

#[test]
fn every_profile_holds_its_inequalities_with_either_gate() {
    for profile in ["default", "lifetime", "fast", "wan"] {
        let config = parse(&edited(&[("\"fast\"", &format!("{profile:?}"))])).unwrap();
        for slack in [defaults::SLACK_NFTABLES_MS, defaults::SLACK_LIFETIME_MS] {
            assert!(config.timing.with_slack(staffetta_core::Span::ms(slack)).is_ok(), "{profile}");
        }
    }
}

/// Commented in the example together with their table: there is no default arbiter.
const ARBITER_KEYS: [&str; 7] =
    ["endpoints", "prefix", "ca_file", "cert_file", "key_file", "user", "password_file"];

#[test]
fn the_arbiter_of_the_annotated_example_is_one() {
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or("");
            let key = bare.split(" = ").next().unwrap_or("");
            if bare == "[arbiter]" || ARBITER_KEYS.contains(&key) { bare } else { line }
        })
        .collect();
    let arbiter = parse(&uncommented.join("\n")).unwrap().arbiter.unwrap();
    assert_eq!(arbiter.prefix, defaults::ARBITER_PREFIX);
    assert!(arbiter.ca_file.is_some() && arbiter.login.is_some());
    assert!(arbiter.identity_files.is_some());
}

/// Commented in the example together with their table: there is no default database.
const DATABASE_KEYS: [&str; 8] = [
    "path",
    "journal",
    "mode",
    "sync_timeout_ms",
    "sync_alone",
    "ack",
    "max_unacked",
    "scrub_hours",
];

#[test]
fn the_database_of_the_annotated_example_shows_the_defaults() {
    let uncommented: Vec<String> = without_own_tables()
        .into_iter()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or("");
            let key = bare.split(" = ").next().unwrap_or("");
            let ours = bare == "[[database]]" || DATABASE_KEYS.contains(&key);
            let line = if ours { bare } else { line };
            line.replace("mode = \"async\"", "mode = \"sync\"")
        })
        .collect();
    let shown = parse(&uncommented.join("\n")).unwrap().databases.remove(0);
    let path = format!("{GOOD}[[database]]\npath = \"/var/lib/app/*.db\"\nmode = \"sync\"\n");
    assert_eq!(shown, parse(&path).unwrap().databases.remove(0));
    let least = "[[database]]\npath = \"/var/lib/app/*.db\"\n";
    let least = parse(&format!("{GOOD}{least}")).unwrap().databases.remove(0);
    assert_eq!(DatabaseConfig { mode: defaults::DATABASE_MODE, ..shown }, least);
}

#[test]
fn databases_are_refused_with_what_to_write() {
    for (text, words) in [
        ("mode = \"sync\"", "`path` is missing here"),
        ("path = \"app.db\"", "write an absolute path"),
        ("path = \"/var/*/app.db\"", "only the last part may hold"),
        ("path = \"/var/lib/../app.db\"", "without .."),
        ("path = \"/var/lib/app/\"", "write the path of a database file"),
        ("path = \"/var/lib/app.db-wal\"", "name the database"),
        ("path = \"/a.db\"\nsync_alone = \"block\"", "sync_alone needs mode = \"sync\""),
        ("path = \"/a.db\"\nsync_timeout_ms = 50", "sync_timeout_ms needs mode = \"sync\""),
        ("path = \"/a.db\"\nscrub_hours = 721", "write a number from 0 to 720"),
        ("path = \"/d/*.db\"\n[[database]]\npath = \"/d/a.db\"", "mean the same file"),
        ("name = \"A b\"\npath = \"/a.db\"", "write 1 to 32 of a-z"),
        ("path = \"/a.db\"\nmodus = \"sync\"", "did you mean `mode`?"),
        ("path = \"/a.db\"\n[[database]]\npath = \"/a.db\"", "is there twice"),
    ] {
        let error = parse(&format!("{GOOD}[[database]]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
        assert!(error.starts_with("/etc/staffetta/staffetta.toml:"), "{error}");
    }
    for (text, words) in [
        ("port = 0", "bulk.port = 0: write a number from 1 to 65535"),
        ("bandwidth_mbit_max = 0", "write a number from 1 to 100000"),
    ] {
        let error = parse(&format!("{GOOD}[bulk]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    let with = parse(&format!("{GOOD}[[database]]\npath = \"/a.db\"\n")).unwrap();
    assert_ne!(parse(GOOD).unwrap().pair_digest(), with.pair_digest());
    let named = |path: &str| {
        let text = format!("{GOOD}[[database]]\nname = \"calls\"\npath = \"{path}\"\n");
        parse(&text).unwrap().pair_digest()
    };
    assert_eq!(named("/one/a.db"), named("/other/a.db"), "a name is what the nodes share");
}

/// Commented in the example together with their table: there is no default tree.
const TREE_KEYS: [&str; 9] = [
    "name",
    "path",
    "ignore",
    "source",
    "delete_share_max",
    "grow",
    "compress",
    "trash_days",
    "scan_hours",
];

/// The annotated example without its commented tree and fact, whose keys other tables have, too.
fn without_own_tables() -> Vec<&'static str> {
    let mut is_own = false;
    let others = EXAMPLE.lines().filter(|line| {
        let begins = ["# [[tree]]", "# [[fact]]"].contains(line);
        is_own = begins || (is_own && line.starts_with("# "));
        !is_own
    });
    others.collect()
}

/// The lines below a commented `[[table]]` of the annotated example.
fn commented(table: &str) -> Vec<&'static str> {
    let first = format!("# [[{table}]]");
    let lines = EXAMPLE.lines().skip_while(|line| *line != first).skip(1);
    lines.map_while(|line| line.strip_prefix("# ")).collect()
}

#[test]
fn the_fact_of_the_annotated_example_shows_the_defaults() {
    let lines = commented("fact");
    assert_eq!(lines.len(), 4, "{lines:?}");
    let of = |lines: &[&str]| {
        let text = format!("{GOOD}[[fact]]\n{}\n", lines.join("\n"));
        parse(&text).unwrap().facts.remove(0)
    };
    assert_eq!(of(&lines), of(&lines[..2]), "name and exec are needed, the rest is the default");
    assert_eq!(of(&lines).name, "site.active-calls");
}

#[test]
fn the_tree_of_the_annotated_example_shows_the_defaults() {
    let lines = commented("tree");
    let keys: Vec<&str> = lines.iter().map(|line| line.split(" = ").next().unwrap()).collect();
    assert_eq!(keys, TREE_KEYS);
    let text = format!("{GOOD}[[tree]]\n{}\n", lines.join("\n"));
    let shown = parse(&text).unwrap().trees.remove(0);
    let least = "[[tree]]\nname = \"recordings\"\npath = \"/var/spool/recordings/\"\n";
    let least = parse(&format!("{GOOD}{least}")).unwrap().trees.remove(0);
    assert_eq!(TreeConfig { ignore: Vec::new(), ..shown }, least);
}

#[test]
fn trees_are_refused_with_what_to_write() {
    let second = "path = \"/d\"\n[[tree]]\nname = \"b\"\npath";
    for (text, words) in [
        ("name = \"a\"", "`path` is missing here"),
        ("path = \"/d\"", "`name` is missing here"),
        ("name = \"a\"\npath = \"d\"", "write an absolute path"),
        ("name = \"a\"\npath = \"/d/../e\"", "without .."),
        ("name = \"a\"\npath = \"/\"", "name the folder of an application"),
        ("name = \"a\"\npath = \"/var/lib/staffetta\"", "the node's own"),
        ("name = \"a\"\npath = \"/var/lib\"", "the node's own folder /var/lib/staffetta"),
        ("name = \"a\"\npath = \"/d\"\nignore = [\"a{\"]", "as in gitignore(5)"),
        ("name = \"a\"\npath = \"/d\"\ndelete_share_max = 0", "write a number from 1 to 100"),
        ("name = \"a\"\npath = \"/d\"\nsource = \"poll\"", "one of auto, fanotify, inotify"),
        ("name = \"a\"\npath = \"/d\"\nscan_days = 1", "did you mean"),
        (&format!("name = \"a\"\n{second} = \"/d/e\""), "name the outer one only"),
        (&format!("name = \"b\"\n{second} = \"/e\""), "is there already on line"),
    ] {
        let error = parse(&format!("{GOOD}[[tree]]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
        assert!(error.starts_with("/etc/staffetta/staffetta.toml:"), "{error}");
    }
    let at = |path: &str, ignore: &str| {
        let text = format!("{GOOD}[[tree]]\nname = \"a\"\npath = \"{path}\"\n{ignore}");
        parse(&text).unwrap().pair_digest()
    };
    assert_eq!(at("/one", ""), at("/other", ""), "a name is what the nodes share");
    assert_ne!(at("/one", ""), at("/one", "ignore = [\"*.tmp\"]"));
    assert_ne!(at("/one", ""), parse(GOOD).unwrap().pair_digest());
}

#[test]
fn the_annotated_example_shows_the_defaults() {
    let path = Path::new("/etc/staffetta/staffetta.toml");
    let shipped = Config::parse(EXAMPLE, path).unwrap();
    // Every commented `# key = value` says the default: uncommenting them all changes nothing.
    let mut uncommented = String::new();
    for line in without_own_tables() {
        let bare = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split(" = ").next().unwrap_or("");
            rest.contains(" = ")
                && !key.is_empty()
                && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                && !["file", "pin", "failback"].contains(&key)
                && !ARBITER_KEYS.contains(&key)
                && !DATABASE_KEYS.contains(&key)
                && key != "bandwidth_mbit_max"
        });
        uncommented.push_str(bare.unwrap_or(line));
        uncommented.push('\n');
    }
    assert!(uncommented.lines().filter(|l| l.starts_with("beat_ms")).count() == 1);
    let mut explicit = Config::parse(&uncommented, path).unwrap();
    assert_eq!(explicit.timing.parts_ms(), shipped.timing.parts_ms());
    // What is written explicitly is equal, only the lines of its errors differ.
    explicit.timing = shipped.timing.clone();
    assert_eq!(explicit, shipped);
}

#[test]
fn a_service_address_must_fit_its_interface() {
    let addresses = [
        ("eth0".to_owned(), "10.77.0.1".parse().unwrap(), 24),
        ("eth0".to_owned(), "fd00::1".parse().unwrap(), 64),
        ("eth1".to_owned(), "192.168.1.1".parse().unwrap(), 24),
    ];
    let cases = [
        ("10.77.0.50/24", "eth0", None),
        ("10.77.0.50/32", "eth0", None),
        ("fd00::50/128", "eth0", None),
        ("172.16.0.1/32", "lo", None),
        (
            "10.78.0.50/24",
            "eth0",
            Some("10.78.0.50 is outside of the networks of eth0 (10.77.0.1/24)"),
        ),
        ("10.77.0.50/24", "eth1", Some("is outside of the networks of eth1 (192.168.1.1/24)")),
        ("fd00::50/64", "eth1", Some("eth1 has no IPv6 address of its own")),
        ("10.77.0.50/24", "eth7", Some("eth7 has no IPv4 address of its own")),
    ];
    for (vip, interface, words) in cases {
        let vip_line = format!("address = {vip:?}");
        let interface_line = format!("interface = {interface:?}");
        let text = edited(&[
            ("address = \"10.77.0.50/24\"", &vip_line),
            ("interface = \"eth0\"", &interface_line),
        ]);
        let errors = check_against_host(&parse(&text).unwrap(), &addresses);
        match words {
            None => assert_eq!(errors, [], "{vip} on {interface}"),
            Some(words) => {
                let error = errors[0].to_string();
                assert!(error.contains("staffetta.toml:15: ") && error.contains(words), "{error}");
            }
        }
    }
}

#[test]
fn a_secret_is_private_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::parse(GOOD, &dir.path().join("staffetta.toml")).unwrap();
    let path = dir.path().join("secret");
    let said = || config.secret().expect_err("refused").to_string();
    assert!(said().contains("`staffetta init` makes one"));
    let put = |text: &str, mode: u32| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put(&"ab".repeat(32), 0o640);
    assert!(said().contains("open to others (mode 0640): run `chmod 600"));
    put("abcd\n", 0o600);
    assert!(said().contains("must be 64 hex digits, this has 4 characters"));
    put(&"ab".repeat(400), 0o600);
    assert!(said().contains("this is not a secret"));
    put(&format!("{}\n", "ab".repeat(32)), 0o400);
    let secret = config.secret().unwrap();
    assert_eq!(secret.bytes(), &[0xab; 32]);
    assert_eq!(format!("{secret:?}"), "Secret(hidden)");
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(&dir.path().join("none.toml")).expect_err("missing").to_string();
    assert!(missing.contains("make one with `staffetta init`"), "{missing}");
    let path = dir.path().join("staffetta.toml");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Config::load(&path).expect_err("binary").to_string().contains("UTF-8"));
    let huge = std::fs::File::create(&path).unwrap();
    huge.set_len(defaults::FILE_BYTES_MAX + 1).unwrap();
    assert!(Config::load(&path).expect_err("huge").to_string().contains("too long"));
    std::fs::write(&path, GOOD).unwrap();
    assert_eq!(Config::load(&path).unwrap().path, path);
}
