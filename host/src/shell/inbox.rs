//! How the rest of the daemon speaks to the real-time thread: a channel, and an eventfd that wakes
//! its poll (`eventfd(2)`).

use crate::link::About;
use staffetta_core::{Event, Order, Refusal};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, mpsc};

/// Where the answer to an order goes.
pub(crate) type OrderReply = tokio::sync::oneshot::Sender<Result<(), Refusal>>;

/// One thing to tell the real-time thread.
#[derive(Debug)]
pub(crate) enum Mail {
    /// For the core as it is.
    Event(Event),
    /// An operator's order; answered once.
    Order(Order, OrderReply),
    /// What this node says about itself from now on; at once when it is news.
    About(Box<About>, bool),
    /// The license document that the peer should see.
    License(Option<Vec<u8>>),
    /// The kernel's addresses differ from what should be.
    Reconcile,
    /// The stop budget is over: let go and end.
    Abandon,
}

/// The sending side; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Mail>,
    wake: Arc<OwnedFd>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Inbox {
    receiver: mpsc::Receiver<Mail>,
    wake: Arc<OwnedFd>,
}

pub(crate) fn channel() -> std::io::Result<(Outbox, Inbox)> {
    // SAFETY: plain call; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let wake = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
    let (sender, receiver) = mpsc::channel();
    Ok((Outbox { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
}

impl Outbox {
    /// Tells; says false when the thread has ended.
    pub(crate) fn send(&self, mail: Mail) -> bool {
        if self.sender.send(mail).is_err() {
            return false;
        }
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes of `one` are read. A full counter means that the thread is being
        // woken already.
        unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        true
    }

    pub(crate) fn event(&self, event: Event) -> bool {
        self.send(Mail::Event(event))
    }
}

impl Inbox {
    pub(crate) fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// The next mail. The wake counter is cleared first, so that a mail that comes meanwhile wakes
    /// again.
    pub(crate) fn take(&mut self) -> Option<Mail> {
        let mut count = [0_u8; 8];
        // SAFETY: at most eight bytes are written into `count`; an empty counter is EAGAIN and no
        // matter.
        unsafe { libc::read(self.wake.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        match self.receiver.try_recv() {
            Ok(mail) => {
                // More may wait behind it than this turn takes.
                let one = 1_u64.to_ne_bytes();
                // SAFETY: as in `send`.
                unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
                Some(mail)
            }
            Err(mpsc::TryRecvError::Empty | mpsc::TryRecvError::Disconnected) => None,
        }
    }
}
