//! Real-time priority, locked memory and sleep for the threads whose lateness would break a promise
//! (`sched(7)`, `mlockall(2)`, `ppoll(2)`).

use staffetta_core::Span;

/// Priority of the beat thread under SCHED_FIFO; its helpers run just below.
pub(crate) const PRIORITY_BEATS: i32 = 20;
/// Priority of the policy and epoch threads.
pub(crate) const PRIORITY_HELPERS: i32 = 18;

/// Gives the calling thread a real-time priority; false where that is not allowed.
pub(crate) fn raise_this_thread(priority: i32) -> bool {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 names the calling thread; `param` outlives the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) == 0 }
}

/// Locks what the process touches from now on, page by page as it is touched; false where that is
/// not allowed.
pub(crate) fn lock_memory() -> bool {
    // SAFETY: no pointers are involved.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) == 0 }
}

/// Sleeps until a descriptor is readable or the time has passed (`ppoll(2)`).
pub(crate) fn wait(polled: &mut [libc::pollfd], span: Span) {
    let seconds = i64::try_from(span.0 / 1_000_000_000).unwrap_or(i64::MAX);
    let nanoseconds = i64::try_from(span.0 % 1_000_000_000).unwrap_or(0);
    let timeout = libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let count = libc::nfds_t::try_from(polled.len()).expect("a handful of descriptors");
    // SAFETY: `polled` and `timeout` outlive the call; a null mask leaves signals as they are.
    let status = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &timeout, std::ptr::null()) };
    if status < 0 {
        // Interrupted: nothing is known, so everything is looked at.
        for one in polled {
            one.revents = libc::POLLIN;
        }
    }
}
