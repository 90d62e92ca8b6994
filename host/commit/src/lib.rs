//! `libstaffetta_commit.so`: loaded by `LD_PRELOAD`, it makes commits of SQLite databases in WAL
//! mode wait for the standby, in programs that know nothing of it.
//!
//! A writer holds byte 120 of the WAL-index (`*-shm`) from its first write to the end of its
//! transaction, by fcntl(2). When it lets go, and the WAL-index counts one transaction more than
//! when it took the lock, it has committed: then, and only then, the daemon is asked, and the
//! `fcntl` returns with the answer. The lock is free by then, so other processes go on writing and
//! share the wait (group commit).
//!
//! What it promises: every other call goes through unchanged, with nothing allocated and no lock
//! taken; `errno` is what the system's `fcntl` left; no panic leaves it; a daemon that is away or
//! silent is given up on for a while, and counted. What it refuses to do: to keep a commit from
//! ending, and to touch a descriptor that it did not open itself.
//!
//! `close` and `dup` are not intercepted: what is remembered of a descriptor is compared with the
//! file behind it whenever it is used (`held`), and so are the sockets (`pool`).

mod held;
#[cfg(not(test))]
mod hooks;
mod pool;
mod settings;
mod tally;
mod wait;
mod watch;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the third argument of a variadic `fcntl` was not looked at on this architecture");
