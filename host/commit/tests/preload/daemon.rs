//! The daemon that a test plays: it writes down what it is asked, and answers as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How it answers.
#[derive(Clone, Copy)]
pub(crate) enum Reply {
    /// `ok`, so much later.
    Late(Duration),
    /// This line.
    Line(&'static str),
    /// Not at all.
    Never,
}

struct Shared {
    reply: Mutex<Reply>,
    asked: Mutex<Vec<PathBuf>>,
    streams: Mutex<Vec<UnixStream>>,
    is_over: AtomicBool,
}

pub(crate) struct Daemon {
    shared: Arc<Shared>,
    socket: PathBuf,
    listener: Option<JoinHandle<()>>,
}

impl Daemon {
    pub(crate) fn start(socket: &Path, reply: Reply) -> Self {
        let listener = UnixListener::bind(socket).expect("the socket is free");
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            asked: Mutex::default(),
            streams: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let to_listener = Arc::clone(&shared);
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if to_listener.is_over.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.expect("a client");
                let copy = stream.try_clone().expect("a copy");
                to_listener.streams.lock().expect("no panic under this lock").push(copy);
                let shared = Arc::clone(&to_listener);
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self { shared, socket: socket.to_owned(), listener: Some(listener) }
    }

    /// From the next question on.
    pub(crate) fn reply(&self, reply: Reply) {
        *self.shared.reply.lock().expect("no panic under this lock") = reply;
    }

    /// The databases of all questions so far.
    pub(crate) fn asked(&self) -> Vec<PathBuf> {
        self.shared.asked.lock().expect("no panic under this lock").clone()
    }

    /// Waits for so many questions.
    pub(crate) fn await_asked(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.asked().len() < count {
            assert!(Instant::now() < end, "nobody asked");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.shared.streams.lock().expect("no panic under this lock").len()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then ends.
        let _ = UnixStream::connect(&self.socket);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let _ = std::fs::remove_file(&self.socket);
        for stream in self.shared.streams.lock().expect("no panic under this lock").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(shared: &Shared, mut stream: UnixStream) {
    let questions = BufReader::new(stream.try_clone().expect("a copy"));
    for question in questions.lines().map_while(Result::ok) {
        shared.asked.lock().expect("no panic under this lock").push(question.into());
        let reply = *shared.reply.lock().expect("no panic under this lock");
        let line = match reply {
            Reply::Never => continue,
            Reply::Line(line) => line.to_owned(),
            Reply::Late(delay) => {
                std::thread::sleep(delay);
                "ok 1 1".to_owned()
            }
        };
        // The client may be gone: that is its test's business.
        let _ = stream.write_all(format!("{line}\n").as_bytes());
    }
}
