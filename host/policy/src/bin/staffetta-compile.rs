//! Compiles one policy: the child process of [`staffetta_policy::Compile::Child`] as a program of
//! its own, for hosts whose own binary does not call `child_main`.

fn main() {
    std::process::exit(staffetta_policy::compile::child_main());
}
