//! `libstaffetta_commit.so` under programs that know nothing of it, beside a daemon that the test
//! plays.

mod daemon;
mod programs;

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use daemon::{Daemon, Reply};
use programs::{World, missing, python};

/// Far longer than any program here takes to start.
const DELAY: Duration = Duration::from_millis(400);

const CREATE: &str = "import sqlite3,sys,time,os\n\
    c=sqlite3.connect(sys.argv[1],isolation_level=None,timeout=10)\n\
    c.execute('pragma journal_mode=wal'); c.execute('create table if not exists t(x)')\n";

fn s(duration: f64) -> Duration {
    Duration::from_secs_f64(duration)
}

#[test]
fn a_commit_in_python_returns_with_the_answer() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Late(DELAY));
    let said = python(
        &world,
        "a.db",
        &format!(
            "{CREATE}\
             c.execute('begin immediate'); c.execute('insert into t values(1)')\n\
             b=time.time(); c.execute('commit'); print('commit',time.time()-b)\n\
             c.execute('begin'); c.execute('insert into t values(2)')\n\
             c.execute('rollback'); c.execute('select * from t').fetchall()\n\
             c.execute('pragma wal_checkpoint(truncate)')\n"
        ),
    );
    let commit = s(said["commit"]);
    assert!(commit >= DELAY && commit < DELAY + s(2.0), "the commit took {commit:?}");
    let asked = daemon.asked();
    let expected = vec![world.database("a.db"); 2];
    assert_eq!(asked, expected, "CREATE TABLE and INSERT; no rollback, read or checkpoint");
}

#[test]
fn the_command_line_of_sqlite_ends_after_the_answer() {
    if missing("sqlite3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Late(DELAY));
    let sqlite = |sql: &str| {
        let begin = Instant::now();
        let output = world.command("sqlite3").arg(world.database("a.db")).arg(sql).output();
        let output = output.expect("sqlite3 runs");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), begin.elapsed())
    };
    sqlite("pragma journal_mode=wal; create table t(x)");
    let (_, took) = sqlite("insert into t values(7)");
    assert!(took >= DELAY, "{took:?}");
    let asked = daemon.asked().len();
    assert_eq!(sqlite("select x from t; begin; insert into t values(8); rollback;").0, "7");
    assert_eq!(daemon.asked().len(), asked, "a read and a rollback asked");
}

#[test]
fn another_process_writes_while_one_waits() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Late(Duration::ZERO));
    python(&world, "a.db", CREATE);
    daemon.reply(Reply::Late(s(5.0)));
    let before = daemon.asked().len();
    let mut waiting = world
        .python("a.db", &format!("{CREATE}c.execute('insert into t values(1)')\n"))
        .stdout(Stdio::null())
        .spawn()
        .expect("python3 runs");
    daemon.await_asked(before + 1);
    daemon.reply(Reply::Late(Duration::ZERO));
    let said = python(
        &world,
        "a.db",
        &format!(
            "{CREATE}b=time.time(); c.execute('insert into t values(2)')\n\
             print('took',time.time()-b)\n"
        ),
    );
    assert!(s(said["took"]) < s(3.0), "it waited for the other's answer: {said:?}");
    assert!(waiting.try_wait().expect("a child").is_none(), "the first has not got its answer");
    assert!(waiting.wait().expect("a child").success());
}

#[test]
fn a_silent_daemon_costs_one_timeout_and_is_counted() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Never);
    let mut command = world.python(
        "a.db",
        &format!(
            "{CREATE}\
             b=time.time()\n\
             for i in range(50): c.execute('insert into t values(1)')\n\
             print('rest',time.time()-b)\n"
        ),
    );
    let begin = Instant::now();
    let output = command.env("STAFFETTA_TIMEOUT_MS", "300").output().expect("python3 runs");
    assert!(begin.elapsed() >= s(0.3), "the first commit waited for its timeout");
    let said = programs::numbers(&output.stdout);
    assert!(s(said["rest"]) < s(5.0), "each commit waited: {said:?}");
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(warning.matches("no answer in time").count(), 1, "{warning}");
    let counts = world.counts();
    // On a machine that is busy for 2 s, one commit more asks.
    let asked = programs::count(&counts, "timeout");
    let skipped = programs::count(&counts, "skipped");
    assert!((1..=3).contains(&asked) && skipped == 51 - asked, "{counts}");
    assert_eq!(u64::try_from(daemon.asked().len()), Ok(asked));
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let _daemon = Daemon::start(world.socket(), Reply::Late(DELAY));
    // 2.2 s: longer than the library leaves a silent daemon alone.
    let script = format!("{CREATE}time.sleep(2.2); c.execute('insert into t values(1)')\n");
    let mut command = world.python("a.db", &script);
    let output = command.env("STAFFETTA_TIMEOUT_MS", "200").output().expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
    let counts = world.counts();
    assert!(counts.contains("ok=0 ") && counts.contains("timeout=2 "), "{counts}");
}

#[test]
fn every_answer_is_counted() {
    if missing("python3") {
        return;
    }
    for (answer, counted, warning) in [
        ("ok 3 4", "ok=1 ", ""),
        ("degraded the standby is away", "degraded=1 ", "without the standby: commits do not"),
        ("timeout 500", "timeout=1 ", "no answer in time"),
        ("error not replicated", "error=1 ", "not replicated"),
        ("hello", "error=1 ", "none of the protocol"),
    ] {
        let world = World::new();
        let _daemon = Daemon::start(world.socket(), Reply::Line(answer));
        let output = world.python("a.db", CREATE).output().expect("python3 runs");
        assert!(output.status.success(), "{output:?}");
        let counts = world.counts();
        assert!(counts.contains(counted), "{answer}: {counts}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.is_empty(), warning.is_empty(), "{said}");
        assert!(said.contains(warning) && said.lines().count() <= 1, "{said}");
    }
}

#[test]
fn a_daemon_that_is_away_costs_nothing_and_its_return_heals() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let script = format!(
        "{CREATE}\
         def fast(n):\n    b=time.time()\n    \
         for i in range(n): c.execute('insert into t values(1)')\n    \
         return time.time()-b\n\
         print('away',fast(200)); print('go',1); sys.stdout.flush(); sys.stdin.readline()\n\
         fast(1); print('go',2); sys.stdout.flush(); sys.stdin.readline()\n\
         fast(1); print('go',3); sys.stdout.flush(); sys.stdin.readline()\n"
    );
    let mut dialog = world.dialog("a.db", &script);
    assert!(s(dialog.until("go")["away"]) < s(10.0), "200 commits without a daemon");
    let pause = s(0.15);

    // It comes: asked again after the back-off, on a new connection.
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 1"));
    std::thread::sleep(pause);
    dialog.go();
    dialog.until("go");
    assert_eq!(daemon.asked().len(), 1);

    // It restarts: the connection that was kept is dead, the commit finds the new daemon at once.
    drop(daemon);
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 2"));
    dialog.go();
    dialog.until("go");
    assert_eq!(daemon.asked().len(), 1, "the commit after the restart did not wait");
    dialog.go();
    dialog.end();
    let counts = world.counts();
    assert!(counts.contains("ok=2 ") && counts.contains("timeout=0 "), "{counts}");
    let (away, skipped) = (programs::count(&counts, "away"), programs::count(&counts, "skipped"));
    assert!(away >= 1 && skipped > 5 * away, "each commit tried to connect: {counts}");
}

/// Python ignores SIGPIPE by itself, most other programs do not.
#[test]
fn a_daemon_that_goes_takes_no_program_along() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 1"));
    let script = format!(
        "import signal; signal.signal(signal.SIGPIPE,signal.SIG_DFL)\n\
         {CREATE}print('go',1); sys.stdout.flush(); sys.stdin.readline()\n\
         c.execute('insert into t values(1)')\n"
    );
    let mut dialog = world.dialog("a.db", &script);
    dialog.until("go");
    // The connection that was kept is dead from here on.
    drop(daemon);
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 2"));
    dialog.go();
    dialog.end();
    assert_eq!(daemon.asked().len(), 1);
}

#[test]
fn a_daemon_whose_queue_is_full_costs_the_timeout() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let listener = UnixListener::bind(world.socket()).expect("the socket is free");
    // SAFETY: the descriptor is open. One connection waits, the next one's connect(2) does.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _waits = UnixStream::connect(world.socket()).expect("room for one");
    // Ended by its alarm, if it waits for ever.
    let script = format!("import signal; signal.alarm(20)\n{CREATE}");
    let mut command = world.python("a.db", &script);
    let begin = Instant::now();
    let output = command.env("STAFFETTA_TIMEOUT_MS", "300").output().expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
    assert!(begin.elapsed() >= s(0.3), "the queue was not full");
    assert!(world.counts().contains("timeout=1 "), "{}", world.counts());
}

#[test]
fn a_commit_whose_index_lost_its_name_is_counted() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 1"));
    let script =
        format!("{CREATE}os.unlink(sys.argv[1]+'-shm'); c.execute('insert into t values(1)')\n");
    let output = world.python("a.db", &script).output().expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no longer under its name"), "{said}");
    let counts = world.counts();
    assert!(counts.contains("ok=1 ") && counts.contains("error=1 "), "{counts}");
    assert_eq!(daemon.asked().len(), 1);
}

#[test]
fn a_pattern_that_means_nothing_is_named() {
    let world = World::new();
    let list = "/var/lib/*.db:data/*.db::app.db";
    let output = world.command("true").env("STAFFETTA_DATABASES", list).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let named: Vec<_> = said.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(named, ["data/*.db", "app.db"], "{said}");
}

#[test]
fn parent_and_child_do_not_share_a_connection() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 1"));
    // The child keeps the parent's database as it is, and leaves without closing it.
    let script = format!(
        "{CREATE}\
         child=os.fork(); mine=c\n\
         if child==0: mine=sqlite3.connect(sys.argv[1]+'2',isolation_level=None); \
         mine.execute('pragma journal_mode=wal'); mine.execute('create table t(x)')\n\
         for i in range(300): mine.execute('insert into t values(1)')\n\
         if child==0: os._exit(0)\n\
         sys.exit(os.waitstatus_to_exitcode(os.waitpid(child,0)[1]))\n"
    );
    let output = world.python("a.db", &script).output().expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(daemon.connections(), 2, "one of each");
    for database in ["a.db", "a.db2"] {
        let asked = daemon.asked();
        let count = asked.iter().filter(|asked| **asked == world.database(database)).count();
        assert_eq!(count, 301, "{database}");
    }
    assert!(world.counts().contains("ok=301 "), "{}", world.counts());
}

#[test]
fn sixty_four_threads() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Late(Duration::from_millis(1)));
    let script = format!(
        "{CREATE}\
         import threading\n\
         bad=[]\n\
         def work(n):\n    \
             try:\n        \
                 d=sqlite3.connect(sys.argv[1]+str(n%8),isolation_level=None,timeout=60)\n        \
                 d.execute('pragma journal_mode=wal')\n        \
                 d.execute('create table if not exists t(x)')\n        \
                 for i in range(10): d.execute('insert into t values(?)',(i,))\n        \
                 d.close()\n    \
             except Exception as e: bad.append(e)\n\
         all=[threading.Thread(target=work,args=(n,)) for n in range(64)]\n\
         for t in all: t.start()\n\
         for t in all: t.join()\n\
         print('bad',len(bad)); print(bad[:3],file=sys.stderr)\n"
    );
    let mut command = world.python("a.db", &script);
    let output = command.env("STAFFETTA_TIMEOUT_MS", "0").output().expect("python3 runs");
    let said = programs::numbers(&output.stdout);
    assert!((said["bad"]) == 0.0, "{}", String::from_utf8_lossy(&output.stderr));
    let counts = world.counts();
    let inserts = 640;
    let asked = daemon.asked().len();
    assert!(asked > inserts && asked < inserts + 100, "{asked} questions; {counts}");
    assert!(counts.contains(&format!("ok={asked} ")), "{counts}");
    assert!(daemon.connections() <= 64, "{} connections", daemon.connections());
}

#[test]
fn programs_without_databases_notice_nothing() {
    let world = World::new();
    for (program, args) in [
        ("ls", &["-l", "/usr"][..]),
        ("bash", &["-c", "exec 7</dev/null; echo $((1+1)) | cat; ulimit -n"]),
        ("python3", &["-c", "import fcntl,tempfile as t; f=t.TemporaryFile(); fcntl.lockf(f,2)"]),
    ] {
        if missing(program) {
            continue;
        }
        let with = world.command(program).args(args).output().expect("it runs");
        let without = std::process::Command::new(program).args(args).output().expect("it runs");
        assert!(with.status.success(), "{program}: {with:?}");
        let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
        assert_eq!(text(&with.stdout), text(&without.stdout));
        assert_eq!(text(&with.stderr), text(&without.stderr));
    }
    assert_eq!(world.counts(), "", "nothing was counted, so nothing was written");
}

#[test]
fn a_program_that_closes_everything_gets_nothing_of_ours() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let daemon = Daemon::start(world.socket(), Reply::Line("ok 1 1"));
    // As daemons do: every descriptor above 2 is closed, and something else is opened under the
    // number of our socket.
    let script = format!(
        "{CREATE}\
         ours=[int(f) for f in os.listdir('/proc/self/fd') \
         if os.path.exists('/proc/self/fd/'+f) or 'socket' in (os.readlink('/proc/self/fd/'+f) \
         if os.path.islink('/proc/self/fd/'+f) else '')]\n\
         high=[f for f in ours if f>=512]; print('high',len(high))\n\
         import socket; near,far=socket.socketpair(); far.setblocking(False)\n\
         for h in high: os.dup2(near.fileno(),h)\n\
         c.execute('insert into t values(1)')\n\
         try: print('bytes',len(far.recv(100)))\n\
         except BlockingIOError: print('bytes',0)\n\
         print('open',sum(os.path.exists('/proc/self/fd/%d'%h) for h in high))\n"
    );
    let said = python(&world, "a.db", &script);
    assert!(said["high"] >= 1.0, "our socket was not found: {said:?}");
    assert_eq!(said["bytes"], 0.0, "something was written into the program's socket");
    assert_eq!(said["open"], said["high"], "the program's sockets were closed");
    assert_eq!(daemon.asked().len(), 2, "the second commit asked on a new connection");
}

#[test]
fn a_file_that_took_the_place_of_standard_error_gets_no_warning() {
    if missing("python3") {
        return;
    }
    let world = World::new();
    let _daemon = Daemon::start(world.socket(), Reply::Line("degraded the standby is away"));
    let script = format!(
        "import os,sys\n\
         f=os.open(sys.argv[1]+'.txt',os.O_RDWR|os.O_CREAT); os.dup2(f,2)\n\
         {CREATE}print('bytes',os.fstat(f).st_size)\n"
    );
    assert_eq!(python(&world, "a.db", &script)["bytes"], 0.0);
    assert!(world.counts().contains("degraded=1 "), "{}", world.counts());
}
