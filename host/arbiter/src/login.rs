//! The token that etcd gives for user and password: fetched once for all requests, used until it is
//! refused or old.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::client::Inner;
use crate::connection::{Fault, Post};
use crate::message::{self, AUTHENTICATE};
use crate::{ArbiterError, Credentials, LOGIN_MS_MAX, SKIP_MS, TOKEN_S_MAX};

/// Longest time to connect for a login.
const CONNECT_MS_MAX: u64 = 500;

/// The login and its token.
pub(crate) struct Login {
    credentials: Credentials,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// A login is on its way.
    busy: bool,
    /// Logins that ended.
    rounds: u64,
    /// How the last one ended, if badly, and when.
    error: Option<(ArbiterError, Instant)>,
}

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    since: Instant,
}

impl Login {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, state: watch::Sender::default() }
    }

    /// A token other than `refused`. An old one is replaced in the background. The login itself
    /// goes on when the caller gives up.
    ///
    /// # Errors
    /// When no endpoint gives one. Nothing was sent then.
    pub(crate) async fn token(
        &self,
        inner: &Arc<Inner>,
        refused: Option<&Arc<str>>,
    ) -> Result<Arc<str>, ArbiterError> {
        let (mut begin, mut known, mut round, mut error) = (false, None, 0, None);
        self.state.send_if_modified(|state| {
            if state.token.as_ref().is_some_and(|token| Some(&token.text) == refused) {
                state.token = None;
            }
            known = state.token.as_ref().map(|token| token.text.clone());
            // A wrong password costs etcd as much as a right one: it is not tried all the time.
            let pause = Duration::from_millis(SKIP_MS);
            error = state.error.clone().filter(|(_, at)| at.elapsed() < pause);
            let limit = Duration::from_secs(TOKEN_S_MAX);
            let fresh = state.token.as_ref().is_some_and(|token| token.since.elapsed() < limit);
            begin = !state.busy && !fresh && error.is_none();
            state.busy |= begin;
            round = state.rounds;
            false
        });
        if begin {
            tokio::spawn(log_in(inner.clone()));
        }
        match (known, error) {
            (Some(token), _) => return Ok(token),
            (None, Some((error, _))) => return Err(error),
            (None, None) => {}
        }
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| state.rounds > round).await;
        let state = ended.map_err(|_| self.lost())?;
        match (&state.token, &state.error) {
            (Some(token), _) => Ok(token.text.clone()),
            (None, Some((error, _))) => Err(error.clone()),
            (None, None) => Err(self.lost()),
        }
    }

    fn lost(&self) -> ArbiterError {
        ArbiterError::Refused {
            endpoint: "login".to_owned(),
            message: format!("no token for {}", self.credentials.user),
            remedy: "the next request tries again".to_owned(),
        }
    }

    fn ended(&self, result: Result<String, Fault>) {
        self.state.send_modify(|state| {
            state.busy = false;
            state.rounds += 1;
            match result {
                Ok(text) => {
                    state.token = Some(Token { text: text.into(), since: Instant::now() });
                    state.error = None;
                }
                Err(Fault::Refused(error)) => state.error = Some((error, Instant::now())),
                // Who does not answer may be asked again at once.
                Err(Fault::NotSent(error) | Fault::Doubtful(error)) => {
                    let past = Instant::now().checked_sub(Duration::from_millis(SKIP_MS));
                    state.error = Some((error, past.unwrap_or_else(Instant::now)));
                }
            }
        });
    }
}

/// Asks the endpoints in their order until one gives a token or refuses one.
async fn log_in(inner: Arc<Inner>) {
    let Some(login) = &inner.login else { return };
    let credentials = &login.credentials;
    let post = Post {
        path: AUTHENTICATE,
        body: message::authenticate(&credentials.user, &credentials.password),
        connect: Duration::from_millis(CONNECT_MS_MAX),
        fresh: false,
    };
    let order = inner.order();
    let share = Duration::from_millis(LOGIN_MS_MAX / order.len().clamp(1, 3) as u64);
    let began = Instant::now();
    let mut result = Err(Fault::NotSent(login.lost()));
    for at in order {
        let left = Duration::from_millis(LOGIN_MS_MAX).saturating_sub(began.elapsed());
        let share = share.min(left);
        result = match timeout(share, log_in_at(&inner, at, &post)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Doubtful(inner.no_answer(&[at], share))),
        };
        match &result {
            Ok(_) | Err(Fault::Refused(_)) => break,
            Err(Fault::NotSent(_) | Fault::Doubtful(_)) => inner.failed(at),
        }
    }
    login.ended(result);
}

async fn log_in_at(inner: &Inner, at: usize, post: &Post) -> Result<String, Fault> {
    let endpoint = &inner.endpoints[at];
    let answer = endpoint.post(post, None).await?;
    let body = inner.judge(at, answer).map_err(|refusal| refusal.fault)?;
    message::read_token(&body).map_err(|what| Fault::Doubtful(endpoint.strange(what)))
}
