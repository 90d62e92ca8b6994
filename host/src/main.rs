//! The binary: a compiling child of the policy engine, or the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, so that a compiling child runs nothing else of this program.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == staffetta_policy::compile::CHILD_ARGUMENT)
    {
        std::process::exit(staffetta_policy::compile::child_main());
    }
    staffetta::cli::main()
}
