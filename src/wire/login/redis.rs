//! Logging in to Redis and reading its role from `INFO replication`.
//!
//! Invariant: three commands at most, none that changes anything. INFO is answered also by a server
//! that takes no clients (LOADING, MASTERDOWN): PING is not.

use super::conversation::{Held, Login, LoginStep, Role};
use crate::wire::printable;
use crate::wire::redis::{PROBE, Reply, judge, reply, write_command};
use crate::wire::verdict::Verdict;

/// One login; without a password the role is asked at once.
pub(super) struct RedisLogin {
    authentication: Option<Vec<u8>>,
    held: Held,
    state: State,
}

enum State {
    Authenticating,
    Pinged,
    Asked,
}

impl RedisLogin {
    /// A user needs Redis 6; without one the password is the server's (`requirepass`).
    pub(super) fn new(user: Option<&str>, password: Option<&str>) -> RedisLogin {
        let authentication = match (user, password) {
            (_, None) => None,
            (None, Some(word)) => Some(write_command(&["AUTH", word])),
            (Some(user), Some(word)) => Some(write_command(&["AUTH", user, word])),
        };
        RedisLogin {
            state: match authentication {
                Some(_) => State::Authenticating,
                None => State::Asked,
            },
            authentication,
            held: Held::default(),
        }
    }

    fn run(&mut self, bytes: &[u8]) -> Result<LoginStep, String> {
        self.held.push(bytes)?;
        if let State::Pinged = self.state {
            match judge(&self.held.bytes) {
                Verdict::NeedMore => return Ok(LoginStep::NeedMore),
                Verdict::Refused(why) => return Err(why),
                Verdict::Alive => {}
            }
            let line = self.held.bytes.iter().position(|byte| *byte == b'\n');
            self.held.consume(line.map_or(0, |end| end + 1));
            self.state = State::Asked;
        }
        let (text, length) = match reply(&self.held.bytes) {
            Reply::NeedMore => return Ok(LoginStep::NeedMore),
            Reply::Malformed => return Err("not Redis: a reply without sense".into()),
            Reply::Error(text) => return Err(printable(text)),
            Reply::Text(text, length) => (text, length),
        };
        match self.state {
            State::Authenticating => {
                self.held.consume(length);
                self.state = State::Pinged;
                Ok(LoginStep::Send([PROBE, &question()].concat()))
            }
            State::Pinged | State::Asked => Ok(LoginStep::Done {
                role: role(text).ok_or("no role in INFO replication")?,
                termination: Vec::new(),
            }),
        }
    }
}

impl Login for RedisLogin {
    fn start(&mut self) -> Vec<u8> {
        self.authentication.take().unwrap_or_else(question)
    }

    fn advance(&mut self, bytes: &[u8]) -> LoginStep {
        self.run(bytes).unwrap_or_else(LoginStep::Failed)
    }
}

fn question() -> Vec<u8> {
    write_command(&["INFO", "replication"])
}

fn role(text: &[u8]) -> Option<Role> {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| line.trim_ascii().strip_prefix(b"role:"))
        .find_map(|role| match role {
            b"master" => Some(Role::Primary),
            b"slave" | b"replica" => Some(Role::Replica),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::feed;
    use super::*;

    fn answer(role: &str) -> Vec<u8> {
        let text = format!("# Replication\r\nrole:{role}\r\nconnected_slaves:0\r\n");
        format!("${}\r\n{text}\r\n", text.len()).into_bytes()
    }

    fn done(role: Role) -> LoginStep {
        LoginStep::Done {
            role,
            termination: Vec::new(),
        }
    }

    #[test]
    fn a_password_comes_before_the_question() {
        for (user, auth) in [
            (None, &b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"[..]),
            (
                Some("bob"),
                b"*3\r\n$4\r\nAUTH\r\n$3\r\nbob\r\n$2\r\npw\r\n",
            ),
        ] {
            let mut login = RedisLogin::new(user, Some("pw"));
            assert_eq!(login.start(), auth);
            assert_eq!(login.advance(b"+OK"), LoginStep::NeedMore);
            let asked = [PROBE, &question()].concat();
            assert_eq!(login.advance(b"\r\n"), LoginStep::Send(asked));
            for pong in [
                &b"+PONG\r\n"[..],
                b"-NOPERM User bob has no permissions\r\n",
            ] {
                let answers = [pong, &answer("slave")].concat();
                for step in [1, 1000] {
                    let mut login = RedisLogin::new(user, Some("pw"));
                    login.start();
                    login.advance(b"+OK\r\n");
                    assert_eq!(feed(&mut login, &answers, step).1, done(Role::Replica));
                }
            }
        }
    }

    #[test]
    fn who_answers_info_and_serves_nobody_is_refused() {
        for refusal in [
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "BUSY Redis is busy running a script.",
        ] {
            let mut login = RedisLogin::new(None, Some("pw"));
            login.start();
            login.advance(b"+OK\r\n");
            let answers = [format!("-{refusal}\r\n").as_bytes(), &answer("master")].concat();
            assert_eq!(
                feed(&mut login, &answers, 1).1,
                LoginStep::Failed(refusal.into())
            );
        }
    }

    #[test]
    fn without_a_password_the_role_is_asked_at_once() {
        let mut login = RedisLogin::new(Some("bob"), None);
        assert_eq!(login.start(), b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n");
        assert_eq!(login.advance(&answer("master")), done(Role::Primary));
    }

    #[test]
    fn an_error_is_quoted() {
        for (reply, text) in [
            (
                &b"-WRONGPASS invalid username-password pair\r\n"[..],
                "WRONGPASS invalid username-password pair",
            ),
            (b"-LOADING Redis is loading\r\n", "LOADING Redis is loading"),
            (b":1\r\n", "not Redis: a reply without sense"),
            (b"$2\r\nxx\r\n", "no role in INFO replication"),
        ] {
            let mut login = RedisLogin::new(None, None);
            login.start();
            assert_eq!(login.advance(reply), LoginStep::Failed(text.into()));
        }
    }
}
