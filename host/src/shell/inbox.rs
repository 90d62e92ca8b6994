//! How the rest of the daemon speaks to the real-time thread: a channel, and a signal that wakes
//! its poll.

use crate::link::About;
use staffetta_bulk::Signal;
use staffetta_core::{Event, Order, Refusal};
use std::os::fd::RawFd;
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
    wake: Arc<Signal>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Inbox {
    receiver: mpsc::Receiver<Mail>,
    wake: Arc<Signal>,
}

pub(crate) fn channel() -> std::io::Result<(Outbox, Inbox)> {
    let wake = Arc::new(Signal::new()?);
    let (sender, receiver) = mpsc::channel();
    Ok((Outbox { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
}

impl Outbox {
    /// Tells; says false when the thread has ended.
    pub(crate) fn send(&self, mail: Mail) -> bool {
        if self.sender.send(mail).is_err() {
            return false;
        }
        self.wake.wake();
        true
    }

    pub(crate) fn event(&self, event: Event) -> bool {
        self.send(Mail::Event(event))
    }
}

impl Inbox {
    pub(crate) fn fd(&self) -> RawFd {
        self.wake.fd()
    }

    /// The next mail. The signal is lowered first, so that a mail that comes meanwhile wakes
    /// again.
    pub(crate) fn take(&mut self) -> Option<Mail> {
        self.wake.drain();
        match self.receiver.try_recv() {
            Ok(mail) => {
                // More may wait behind it than this turn takes.
                self.wake.wake();
                Some(mail)
            }
            Err(mpsc::TryRecvError::Empty | mpsc::TryRecvError::Disconnected) => None,
        }
    }
}
