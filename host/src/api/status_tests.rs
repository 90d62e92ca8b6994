//! The status is what the scripts of operators read: its JSON is pinned here.

use super::*;

/// A status of every kind of value, also used by the tests of the server and the CLI.
pub(crate) fn example() -> Status {
    serde_json::from_str(EXAMPLE).expect("the example is a status")
}

const EXAMPLE: &str = r#"{"node":"na","cluster":"office","version":"0.1.0","uptime_s":12,
 "role":"primary","epoch":4,"in_role_ms":1200,"waiting":null,
 "peer":{"name":"nb","role":"standby","epoch":4,"age_ms":12,"version":"0.1.0","maintenance":false},
 "lease":{"source":"peer","remaining_ms":280},"promise_ms":0,
 "gate":{"class":"nftables","slack_ms":20,"open":true},
 "level":{"name":"evidence only","why":"one link is left"},
 "arbiter":{"standing":"ready","answered_ms":310,"latency_us":1900,
  "register":{"holder":"na","epoch":4,"alone":false,"peer_synced":true},
  "unchanged_ms":2000,"error":null},
 "links":[{"name":"lan","heard_ms":12,"echoed_ms":14,"rtt_us":210,"loss_permille":0,"wan":false}],
 "vips":[{"address":"10.77.0.50/24","interface":"eth0","held":true,"answerer":"not-probed"}],
 "policies":{
  "failover":{"name":"staffetta-failover","version":"0.1.0","digest":"sha256:aa",
   "source":"built-in"},
  "license":{"name":"staffetta-license","version":"0.1.0","digest":"sha256:bb","source":"built-in"},
  "split-brain":{"name":"house","version":"2.0.0","digest":"sha256:cc","source":"site"}},
 "license":{"state":"off","reason":"no trusted key is configured"},
 "decisions":[{"id":12,"at":"2026-01-01T00:00:00Z","question":"peer-silent","intent":"take-over",
  "reason":"every link is silent","spoke":"last-good","fuel":2300,"cpu_us":35}],
 "alarms":[{"name":"heartbeat-path-cut","text":"the VIP answers while the heartbeat is silent"}],
 "maintenance":false,"realtime":{"priority":"fifo","memory_locked":true},
 "stalls":{"count":5000,"p50_us":60,"p99_us":190,"p999_us":1200,"max_us":8400},
 "databases":[{"name":"calls","path":"/var/lib/app/calls.db","state":"leading","epoch":4,
  "txid":18231,"behind":0,"behind_ms":0,"behind_bytes":0,"bytes":36003840,"wal_bytes":1204000,
  "sum":null,"sync":true,
  "lost_trails":0,"copies":1,"copied_pages":8790,"stalls":2,"stall_us_max":1900,"scrubbed_s":3600,
  "scrubbed_wrong":0,"trouble":null}],
 "trees":[{"name":"recordings","path":"/var/spool/recordings","state":"leading",
  "source":"fanotify","epoch":4,"entries":10412,"bytes":52113408,"behind":2,"behind_ms":14,
  "behind_bytes":32768,"held":0,"scanning":false,"local_changes":0,"set_aside":0,"skipped":1,
  "trouble":null}],
 "alignment":{"aligned":true,"bound_ms":1000,"why":[]}}"#;

#[test]
fn the_documented_json_is_read_and_written_alike() {
    let read: serde_json::Value = serde_json::from_str(EXAMPLE).unwrap();
    assert_eq!(serde_json::to_value(example()).unwrap(), read);
}

#[test]
fn words_are_shown_as_on_the_api() {
    assert_eq!(Role::Joining.to_string(), "joining");
    assert_eq!(Level::TakeoverDisarmed.to_string(), "takeover disarmed");
    assert_eq!(Answerer::NotProbed.to_string(), "not-probed");
    assert_eq!(GateClass::Nftables.to_string(), "nftables");
    assert_eq!(Spoke::LastGood.to_string(), Spoke::LastGood.as_str());
}

#[test]
fn the_status_of_an_older_daemon_is_read() {
    let mut json = serde_json::to_value(example()).unwrap();
    json.as_object_mut().unwrap().remove("stalls");
    let older: Status = serde_json::from_value(json).unwrap();
    assert_eq!(older.stalls, StallStatus::default());
    assert_eq!(older.stalls.room(300), LeaseRoom::NotMeasured);
}

#[test]
fn what_changes_by_itself_is_no_news() {
    let mut later = example();
    later.uptime_s += 5;
    later.lease.remaining_ms = 3;
    later.stalls.max_us += 1;
    later.databases[0].txid += 1;
    later.databases[0].wal_bytes += 4_120;
    later.trees[0].behind_ms += 3;
    later.trees[0].entries += 1;
    let alignment = later.alignment.as_mut().unwrap();
    (alignment.lag_ms, alignment.until) = (Some(3), Some(std::time::Instant::now()));
    later.links[0].heard_ms = Some(90);
    later.links[0].rtt_us = None;
    assert_eq!(later.settled(), example().settled());
    later.links[0].heard_ms = None;
    assert_ne!(later.settled(), example().settled());
}
