//! The command line: the API's first client, and what works without a daemon.
//!
//! Promises: every verb has `--json`; every error says what to do; exit codes are those of
//! [`Failure`]. Refuses to hold any rule of its own: it reads the configuration, asks the daemon,
//! and shows.

mod arbiter;
mod ask;
mod changes;
mod db;
mod files;
mod flags;
mod license;
mod local;
mod policy;
mod replay;
mod show;
mod simulate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::api::client::ClientError;
use crate::config::{Config, ConfigError, defaults};
use flags::{Cli, ConfigVerb, Verb};

/// Why a verb did not succeed; each with its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// 1: it was tried and did not work, or a check found something.
    #[error("{0:#}")]
    Failed(anyhow::Error),
    /// 1: said already.
    #[error("")]
    FailedQuietly,
    /// 2: the configuration, or a file that was named, is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// 2: the options are wrong.
    #[error("{0}")]
    Usage(String),
    /// 3: the daemon does not answer.
    #[error(transparent)]
    NotReachable(ClientError),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) | Failure::FailedQuietly => 1,
            Failure::Config(_) | Failure::Usage(_) => 2,
            Failure::NotReachable(_) => 3,
        }
    }

    /// A failure with an error of any kind.
    fn of(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Failed(error.into())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::NotReachable { .. } => Failure::NotReachable(error),
            ClientError::Refused(_) | ClientError::Strange { .. } => Failure::of(error),
        }
    }
}

type Outcome = Result<(), Failure>;

/// Reads the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::FailedQuietly => {}
                said if json => {
                    println!("{}", serde_json::json!({ "error": said.to_string() }));
                }
                said => eprintln!("staffetta: {said}"),
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let context = Context { config: cli.config, socket: cli.socket, json: cli.json };
    match cli.verb {
        Verb::Init(flags) => local::init(&context, flags),
        Verb::Join(flags) => local::join(&context, &flags),
        Verb::Run => run(&context),
        Verb::Status { aligned: true } => db::aligned(&context),
        Verb::Status { aligned: false } => ask::status(&context),
        Verb::Db(verb) => db::db(&context, verb),
        Verb::Files(verb) => files::files(&context, verb),
        Verb::Barrier(flags) => db::barrier(&context, &flags),
        Verb::Watch => ask::watch(&context),
        Verb::Switchover => ask::order(&context, "switchover", &serde_json::Value::Null),
        Verb::Maintenance { switch } => {
            let body = serde_json::json!({ "on": switch == flags::Switch::On });
            ask::order(&context, "maintenance", &body)
        }
        Verb::Clear => ask::order(&context, "clear", &serde_json::Value::Null),
        Verb::Start { alone: _ } => ask::order(&context, "start-alone", &serde_json::Value::Null),
        Verb::Decision { id } => ask::decision(&context, id),
        Verb::Arbiter(verb) => arbiter::arbiter(&context, &verb),
        Verb::Policy(verb) => policy::policy(&context, verb),
        Verb::License(verb) => license::license(&context, verb),
        Verb::Identity => local::identity(&context),
        Verb::Config(ConfigVerb::Check { file }) => local::config_check(&context, file),
        Verb::Doctor => local::doctor(&context),
        Verb::Demo { keep } => local::demo(&context, keep),
        Verb::Simulate(flags) => simulate::simulate(&context, &flags),
        Verb::Release => local::release(&context),
    }
}

fn run(context: &Context) -> Outcome {
    crate::shell::run(context.load()?).map_err(|error| match error.downcast::<ConfigError>() {
        Ok(config) => Failure::Config(config),
        Err(error) => Failure::Failed(error),
    })
}

/// What all verbs share.
struct Context {
    config: PathBuf,
    socket: Option<PathBuf>,
    json: bool,
}

impl Context {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config)
    }

    /// Prints the JSON, or the text for people.
    fn print(&self, json: &serde_json::Value, text: impl FnOnce() -> String) {
        if self.json {
            say(&json.to_string());
        } else {
            say(&text());
        }
    }

    fn config(&self) -> &Path {
        &self.config
    }

    /// Another configuration than the usual one was named.
    fn names_config(&self) -> bool {
        self.config() != Path::new(defaults::CONFIG_FILE)
    }
}

/// One line, or several, on standard output. A reader that went away ends the program quietly, as a
/// pipe expects.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text from elsewhere, safe for a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
