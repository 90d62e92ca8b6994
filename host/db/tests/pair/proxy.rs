//! A wire between two nodes that can be held still.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Passes on what comes, except while it is still.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    still: Arc<AtomicBool>,
}

impl Wire {
    pub(crate) fn to(target: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let still = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&still);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    let held = Arc::clone(&held);
                    std::thread::spawn(move || pass(from, to, &held));
                }
            }
        });
        Wire { address, still }
    }

    pub(crate) fn hold_still(&self, still: bool) {
        self.still.store(still, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, still: &AtomicBool) {
    let mut bytes = [0; 65_536];
    while let Ok(count) = from.read(&mut bytes) {
        while still.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
