//! Real-time priority and locked memory for the threads whose lateness would break a promise
//! (`sched(7)`, `mlockall(2)`).

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
