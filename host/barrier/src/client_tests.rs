use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;

use super::*;

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

/// Plays a daemon that gives these answers in turn and then closes; checks what `body` sees.
fn with_daemon(answers: &'static [&'static str], body: impl FnOnce(&mut Client)) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("barrier.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let questions = BufReader::new(stream.try_clone().expect("a copy"));
        let mut seen = Vec::new();
        let mut answers = answers.iter();
        for question in questions.lines() {
            seen.push(question.expect("text"));
            let Some(answer) = answers.next() else { break };
            stream.write_all(answer.as_bytes()).expect("the client listens");
        }
        seen
    });
    body(&mut Client::connect(&socket).expect("the daemon listens"));
    daemon.join().expect("the daemon is well")
}

#[test]
fn several_questions_on_one_connection() {
    let seen = with_daemon(&["ok 3 41\n", "degraded standby away\n", "error no\n"], |client| {
        let ok = Outcome::Answered(Answer::Ok { epoch: 3, transaction: 41 });
        assert_eq!(client.ask(Path::new("/a b.db"), SECOND).expect("an answer"), ok);
        let degraded = Outcome::Answered(Answer::Degraded { reason: "standby away" });
        assert_eq!(client.ask(Path::new("/c.db"), None).expect("an answer"), degraded);
        let error = Outcome::Answered(Answer::Error { text: "no" });
        assert_eq!(client.ask(Path::new("/d.db"), SECOND).expect("an answer"), error);
    });
    assert_eq!(seen, ["/a b.db", "/c.db", "/d.db"]);
}

#[test]
fn a_silent_daemon_costs_the_patience_and_the_connection() {
    with_daemon(&["ok 1 "], |client| {
        let begin = Instant::now();
        let patience = Some(Duration::from_millis(100));
        assert_eq!(client.ask(Path::new("/a.db"), patience).expect("no error"), Outcome::Silent);
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_millis(100) && waited < Duration::from_secs(2));
        let again = client.ask(Path::new("/a.db"), patience);
        assert!(matches!(again, Err(BarrierError::Closed)), "a late answer must not be taken");
    });
}

#[test]
fn a_daemon_that_closes_or_babbles_is_an_error() {
    with_daemon(&[], |client| {
        assert!(matches!(client.ask(Path::new("/a.db"), SECOND), Err(BarrierError::Closed)));
    });
    with_daemon(&["hello\n"], |client| {
        assert!(matches!(client.ask(Path::new("/a.db"), SECOND), Err(BarrierError::Malformed(_))));
    });
    let endless: &str = Box::leak(format!("error {:x<506}", "").into());
    assert_eq!(endless.len(), ANSWER_BYTES_MAX);
    let answers = Box::leak(Box::new([endless]));
    with_daemon(answers, |client| {
        let error = client.ask(Path::new("/a.db"), SECOND).expect_err("it cannot be an answer");
        let said = error.to_string();
        assert!(said.starts_with("\"error xxx") && said.contains("is too long"), "{said}");
    });
}

#[test]
fn paths_that_cannot_be_asked_for() {
    with_daemon(&[], |client| {
        for path in ["relative.db", "/two\nlines.db", ""] {
            let refused = client.ask(Path::new(path), SECOND);
            assert!(matches!(refused, Err(BarrierError::Path { .. })), "{path:?}");
        }
    });
}

#[test]
fn nobody_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = Client::connect(&folder.path().join("none")).err().expect("nobody listens");
    assert!(error.to_string().contains("does staffetta run?"), "{error}");
}
