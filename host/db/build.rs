//! SQLite is compiled with the page-level table; a build that missed the flag must not get as far
//! as a user's database.

const FLAG: &str = "SQLITE_ENABLE_DBPAGE_VTAB";

fn main() {
    println!("cargo::rerun-if-env-changed=LIBSQLITE3_FLAGS");
    println!("cargo::rerun-if-changed=build.rs");
    let flags = std::env::var("LIBSQLITE3_FLAGS").unwrap_or_default();
    if !flags.contains(FLAG) {
        println!(
            "cargo::error=SQLite would be built without {FLAG}: run cargo inside the repository, \
             whose .cargo/config.toml sets LIBSQLITE3_FLAGS, or set LIBSQLITE3_FLAGS=-D{FLAG}=1"
        );
    }
}
