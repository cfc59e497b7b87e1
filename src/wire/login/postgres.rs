//! Logging in to PostgreSQL and asking `pg_is_in_recovery()`, and a primary for its timeline.
//!
//! Invariant: a message is read whole and once, and one that does not belong where it comes ends
//! the login. One conversation, and nearly half of the file its tests.
//!
//! Source: PostgreSQL manual, "Message Flow" and "SASL Authentication".

use md5::{Digest, Md5};

use super::conversation::{Held, Login, LoginStep, Role, Term};
use super::scram::Scram;
use crate::wire::postgres::{error_field, message, startup_packet};
use crate::wire::printable;
use crate::wire::reader::Reader;

/// One login with a password: cleartext, MD5 or SCRAM-SHA-256, as the server asks.
pub(super) struct PostgresLogin {
    user: String,
    password: String,
    held: Held,
    state: State,
    /// The query for the timeline is left out.
    spared: bool,
    term: Option<Term>,
}

enum State {
    /// Before AuthenticationOk; the exchange when it is SCRAM.
    Authenticating(Option<Scram>),
    /// Between AuthenticationOk and the first ReadyForQuery.
    Starting,
    /// The query is sent; its answer once it came.
    Asked(Option<Role>),
    /// A primary was asked for its timeline; whether it answered or does not know.
    AskedForTimeline,
    Over,
}

impl PostgresLogin {
    pub(super) fn new(user: &str, password: &str) -> PostgresLogin {
        PostgresLogin {
            user: user.to_owned(),
            password: password.to_owned(),
            held: Held::default(),
            state: State::Authenticating(None),
            spared: false,
            term: None,
        }
    }

    /// What one message leads to; `None`: nothing to do about it.
    fn message(&mut self, kind: u8, body: &[u8]) -> Result<Option<LoginStep>, String> {
        match (&mut self.state, kind) {
            // An error that is said to a question only; ReadyForQuery follows.
            (State::AskedForTimeline, b'E') => Ok(None),
            (_, b'E') => Err(refusal(body)),
            // NoticeResponse, ParameterStatus
            (_, b'N' | b'S') => Ok(None),
            (State::Authenticating(_), b'R') => self.authenticate(body),
            (State::Authenticating(_), b'v') => Ok(None),
            (State::Starting, b'K') => Ok(None),
            (State::Starting, b'Z') => {
                self.state = State::Asked(None);
                let query = message(b'Q', b"SELECT pg_is_in_recovery()\0");
                Ok(Some(LoginStep::Send(query)))
            }
            // RowDescription, CommandComplete
            (State::Asked(_) | State::AskedForTimeline, b'T' | b'C') => Ok(None),
            (State::Asked(role), b'D') => {
                *role = Some(match body {
                    [0, 1, 0, 0, 0, 1, b't'] => Role::Replica,
                    [0, 1, 0, 0, 0, 1, b'f'] => Role::Primary,
                    _ => return Err("no answer to pg_is_in_recovery()".into()),
                });
                Ok(None)
            }
            (State::Asked(role), b'Z') => {
                let role = role.ok_or("no answer to pg_is_in_recovery()")?;
                if role == Role::Primary && !self.spared {
                    self.state = State::AskedForTimeline;
                    return Ok(Some(LoginStep::Send(message(b'Q', TIMELINE))));
                }
                Ok(Some(done(role)))
            }
            (State::AskedForTimeline, b'D') => {
                self.term = read_term(body);
                Ok(None)
            }
            (State::AskedForTimeline, b'Z') => Ok(Some(done(Role::Primary))),
            _ => Err(format!(
                "PostgreSQL sent a message {:?} out of turn",
                char::from(kind)
            )),
        }
    }

    fn authenticate(&mut self, body: &[u8]) -> Result<Option<LoginStep>, String> {
        let State::Authenticating(scram) = &mut self.state else {
            return Err("PostgreSQL asks for a password twice".into());
        };
        let mut reader = Reader::new(body);
        let method = reader.u32().ok_or("malformed authentication request")?;
        let content = reader.rest();
        let answer = match (method, scram) {
            (0, None) => {
                self.state = State::Starting;
                return Ok(None);
            }
            (0, Some(_)) => return Err("PostgreSQL ended SCRAM without its proof".into()),
            (3, None) => [self.password.as_bytes(), &[0]].concat(),
            (5, None) => {
                let salt = content.try_into().map_err(|_| "malformed MD5 salt")?;
                md5_answer(&self.user, &self.password, salt)
            }
            (10, scram @ None) => {
                let mut offers = content.split(|byte| *byte == 0);
                if !offers.any(|offer| offer == MECHANISM) {
                    return Err("PostgreSQL offers no SCRAM-SHA-256".into());
                }
                let exchange = Scram::new(&self.password, new_nonce());
                let first = exchange.first();
                let mut answer = [MECHANISM, &[0]].concat();
                answer.extend((first.len() as u32).to_be_bytes());
                answer.extend(first.into_bytes());
                *scram = Some(exchange);
                answer
            }
            (11, Some(scram)) => scram.answer(content)?.into_bytes(),
            (12, Some(exchange)) => {
                exchange.finish(content)?;
                // Only now may AuthenticationOk come.
                self.state = State::Authenticating(None);
                return Ok(None);
            }
            (3 | 5 | 10..=12, _) => return Err("PostgreSQL mixes authentication methods".into()),
            (method, _) => {
                return Err(format!(
                    "authentication method {method} is not for checks: use a password"
                ));
            }
        };
        Ok(Some(LoginStep::Send(message(b'p', &answer))))
    }

    /// The next whole message, taken out of what is held.
    fn next_message(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let mut reader = Reader::new(&self.held.bytes);
        let (Some(kind), Some(length)) = (reader.u8(), reader.u32()) else {
            return Ok(None);
        };
        let length = length as usize;
        if !(4..=MAX_MESSAGE_BYTES).contains(&length) {
            return Err("not PostgreSQL, or a message too long for a login".into());
        }
        let Some(body) = reader.take(length - 4) else {
            return Ok(None);
        };
        let body = body.to_vec();
        self.held.consume(1 + length);
        Ok(Some((kind, body)))
    }

    fn run(&mut self, bytes: &[u8]) -> Result<LoginStep, String> {
        self.held.push(bytes)?;
        let mut written = Vec::new();
        while let Some((kind, body)) = self.next_message()? {
            match self.message(kind, &body)? {
                None => (),
                Some(LoginStep::Send(more)) => written.extend(more),
                Some(step) => {
                    self.state = State::Over;
                    return Ok(step);
                }
            }
        }
        Ok(match written.is_empty() {
            true => LoginStep::NeedMore,
            false => LoginStep::Send(written),
        })
    }
}

impl Login for PostgresLogin {
    fn start(&mut self) -> Vec<u8> {
        startup_packet(&[
            ("user", &self.user),
            ("database", "postgres"),
            ("application_name", "harbr-router"),
        ])
    }

    fn advance(&mut self, bytes: &[u8]) -> LoginStep {
        self.run(bytes).unwrap_or_else(|text| {
            self.state = State::Over;
            LoginStep::Failed(text)
        })
    }

    fn term(&self) -> Option<Term> {
        self.term
    }

    fn spare_term(&mut self) {
        self.spared = true;
    }
}

fn done(role: Role) -> LoginStep {
    let termination = message(b'X', b"");
    LoginStep::Done { role, termination }
}

/// A row of the system identifier, which all copies of a cluster share, and the name of the WAL file
/// that is written now, which begins with its timeline.
fn read_term(row: &[u8]) -> Option<Term> {
    let mut reader = Reader::new(row);
    if reader.u16()? != 2 {
        return None;
    }
    let mut text = || {
        let length = reader.u32()?;
        std::str::from_utf8(reader.take(length as usize)?).ok()
    };
    let (group, file) = (text()?, text()?);
    Some(Term {
        group: group.parse().ok()?,
        number: u64::from_str_radix(file.get(..8)?, 16).ok()?,
    })
}

/// What an ErrorResponse says, and what it means for a check where that is not plain.
fn refusal(body: &[u8]) -> String {
    let field = |field| printable(error_field(body, field).unwrap_or_default());
    let (code, text) = (field(b'C'), field(b'M'));
    // The message may be in any language: the routine that refuses by pg_hba.conf is not. Hosted
    // servers have words of their own.
    let by_rule = field(b'R') == "ClientAuthentication"
        || ["SSL", "encryption", "insecure"]
            .iter()
            .any(|word| text.contains(word));
    match code == "28000" && by_rule {
        true => format!("{code} {text}: {ADMITTED_OVER_TLS}"),
        false => format!("{code} {text}"),
    }
}

/// `md5` and the hash of the hash of password and user, with the salt.
fn md5_answer(user: &str, password: &str, salt: [u8; 4]) -> Vec<u8> {
    let inner = hex(&Md5::new()
        .chain_update(password)
        .chain_update(user)
        .finalize());
    let outer = hex(&Md5::new().chain_update(inner).chain_update(salt).finalize());
    format!("md5{outer}\0").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn new_nonce() -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 18]>())
}

/// The timeline of the moment: `pg_control_checkpoint()` has that of the last checkpoint, which may
/// be older than a promotion. Every user may call both functions.
const TIMELINE: &[u8] = b"SELECT system_identifier, pg_walfile_name(pg_current_wal_lsn()) \
    FROM pg_control_system()\0";

const MECHANISM: &[u8] = b"SCRAM-SHA-256";

/// Longest message believed in a login; libpq's bound for errors.
const MAX_MESSAGE_BYTES: usize = 30_000;

const ADMITTED_OVER_TLS: &str = "the server admits this user from here over TLS only, or not at all, \
    and checks speak clear text so far: write a `hostnossl` or `host` line for the gateway's address \
    into pg_hba.conf, or remove `user` and `password`";

#[cfg(test)]
mod tests {
    use super::super::fixture::feed;
    use super::*;
    use crate::wire::postgres::error_response;

    const QUERY: &[u8] = b"Q\0\0\0\x1fSELECT pg_is_in_recovery()\0";
    const TERMINATE: &[u8] = b"X\0\0\0\x04";

    fn authentication(method: u32, content: &[u8]) -> Vec<u8> {
        message(b'R', &[&method.to_be_bytes()[..], content].concat())
    }

    /// The answer of a primary to the question for its timeline.
    fn timeline() -> Vec<u8> {
        let row = b"\0\x02\0\0\0\x137401234567890123456\0\0\0\x18000000020000000000000009";
        [
            message(b'T', b"\0\x02"),
            message(b'D', row),
            message(b'C', b"SELECT 1\0"),
            message(b'Z', b"I"),
        ]
        .concat()
    }

    /// Everything of a server after the password was right.
    fn welcome(in_recovery: u8) -> Vec<u8> {
        let more = match in_recovery {
            b'f' => timeline(),
            _ => Vec::new(),
        };
        [
            authentication(0, b""),
            message(b'S', b"server_version\x0015.6\0"),
            message(b'K', b"\0\0\0\x01\0\0\0\x02"),
            message(b'Z', b"I"),
            message(
                b'T',
                b"\0\x01pg_is_in_recovery\0\0\0\0\0\0\0\0\0\0\x10\0\x01\xff\xff\xff\xff\0\0",
            ),
            message(b'D', &[0, 1, 0, 0, 0, 1, in_recovery]),
            message(b'C', b"SELECT 1\0"),
            message(b'Z', b"I"),
            more,
        ]
        .concat()
    }

    #[test]
    fn who_is_refused_for_want_of_tls_hears_so_in_every_language() {
        let error = |fields: &[(u8, &str)]| {
            let mut body = Vec::new();
            for (field, text) in fields {
                body.push(*field);
                body.extend(text.bytes());
                body.push(0);
            }
            body.push(0);
            let mut login = PostgresLogin::new("bob", "secret");
            login.start();
            match login.advance(&message(b'E', &body)) {
                LoginStep::Failed(why) => why,
                step => panic!("{step:?}"),
            }
        };
        for (text, routine) in [
            (
                "no pg_hba.conf entry for host \"::1\", user \"bob\", database \"postgres\", no encryption",
                "ClientAuthentication",
            ),
            (
                "kein pg_hba.conf-Eintrag für Host »::1«",
                "ClientAuthentication",
            ),
            (
                "SSL connection is required. Please specify SSL options and retry.",
                "",
            ),
            ("connection is insecure (try using `sslmode=require`)", ""),
        ] {
            let why = error(&[(b'C', "28000"), (b'M', text), (b'R', routine)]);
            assert_eq!(why, format!("28000 {text}: {ADMITTED_OVER_TLS}"));
        }
        for (code, text, routine) in [
            (
                "28000",
                "role \"bob\" does not exist",
                "InitializeSessionUserId",
            ),
            (
                "28P01",
                "password authentication failed for user \"bob\"",
                "auth_failed",
            ),
            (
                "57P03",
                "the database system is starting up",
                "ProcessStartupPacket",
            ),
        ] {
            let why = error(&[(b'C', code), (b'M', text), (b'R', routine)]);
            assert_eq!(why, format!("{code} {text}"));
        }
    }

    fn failed(text: &str) -> LoginStep {
        LoginStep::Failed(text.to_owned())
    }

    #[test]
    fn trust_cleartext_and_md5_lead_to_the_role() {
        let md5 = md5_answer("bob", "secret", *b"abcd");
        for (request, answer) in [
            (Vec::new(), Vec::new()),
            (authentication(3, b""), message(b'p', b"secret\0")),
            (authentication(5, b"abcd"), message(b'p', &md5)),
        ] {
            for (byte, role) in [(b't', Role::Replica), (b'f', Role::Primary)] {
                let stream = [request.clone(), welcome(byte)].concat();
                for step in [1, 7, stream.len()] {
                    let mut login = PostgresLogin::new("bob", "secret");
                    assert!(
                        login
                            .start()
                            .ends_with(b"application_name\0harbr-router\0\0")
                    );
                    let (written, last) = feed(&mut login, &stream, step);
                    assert_eq!(last, done(role));
                    let mut start = [&answer[..], QUERY].concat();
                    let term = Term {
                        group: 7_401_234_567_890_123_456,
                        number: 2,
                    };
                    if role == Role::Primary {
                        start.extend(message(b'Q', TIMELINE));
                    }
                    assert_eq!(login.term(), (role == Role::Primary).then_some(term));
                    match step == stream.len() {
                        // In one piece the query has no moment of its own.
                        true => assert!(written.ends_with(TERMINATE)),
                        false => assert_eq!(written, [&start[..], TERMINATE].concat()),
                    }
                }
            }
        }
    }

    #[test]
    fn a_primary_that_does_not_know_its_timeline_is_a_primary_without() {
        let error = error_response("0A000", "pg_current_wal_lsn() is not supported");
        let ready = message(b'Z', b"I");
        let garbled = [message(b'D', b"\0\x01\0\0\0\x01x"), ready.clone()].concat();
        for answer in [[error, ready].concat(), garbled] {
            let mut stream = welcome(b'f');
            stream.truncate(stream.len() - timeline().len());
            stream.extend(answer);
            for step in [1, stream.len()] {
                let mut login = PostgresLogin::new("bob", "secret");
                login.start();
                assert_eq!(feed(&mut login, &stream, step).1, done(Role::Primary));
                assert_eq!(login.term(), None);
            }
        }
        let mut login = PostgresLogin::new("bob", "secret");
        login.start();
        login.spare_term();
        let (written, last) = feed(&mut login, &welcome(b'f'), 1);
        assert_eq!(last, done(Role::Primary));
        assert_eq!(written, [QUERY, TERMINATE].concat());
    }

    #[test]
    fn md5_is_salted_twice() {
        // md5("md5" text of md5("secretbob") then "abcd"), computed with md5sum.
        assert_eq!(
            md5_answer("bob", "secret", *b"abcd"),
            b"md595b9eb35c215f6feb0a53d6ecdb802fb\0"
        );
    }

    #[test]
    fn scram_must_be_finished_by_the_servers_proof() {
        let offer = authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let mut login = PostgresLogin::new("bob", "secret");
        let LoginStep::Send(first) = login.advance(&offer) else {
            panic!("no answer")
        };
        assert!(first[5..].starts_with(b"SCRAM-SHA-256\0\0\0\0"));
        let nonce = String::from_utf8_lossy(&first)
            .split_once("r=")
            .unwrap()
            .1
            .to_owned();
        let challenge = authentication(11, format!("r={nonce}x,s=AAAA,i=2").as_bytes());
        assert!(matches!(login.advance(&challenge), LoginStep::Send(_)));
        assert_eq!(
            login.advance(&authentication(0, b"")),
            failed("PostgreSQL ended SCRAM without its proof")
        );

        let mut login = PostgresLogin::new("bob", "secret");
        assert_eq!(
            login.advance(&authentication(10, b"SCRAM-SHA-256-PLUS\0\0")),
            failed("PostgreSQL offers no SCRAM-SHA-256")
        );
        let mut login = PostgresLogin::new("bob", "secret");
        login.advance(&offer);
        assert_eq!(
            login.advance(&authentication(3, b"")),
            failed("PostgreSQL mixes authentication methods")
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words_without_the_secret() {
        let mut login = PostgresLogin::new("bob", "secret");
        let error = error_response("28P01", "password authentication failed for user \"bob\"");
        let (_, last) = feed(&mut login, &error, 1);
        assert_eq!(
            last,
            failed("28P01 password authentication failed for user \"bob\"")
        );
    }

    #[test]
    fn what_comes_out_of_turn_ends_the_login() {
        for (stream, text) in [
            (
                message(b'D', b""),
                "PostgreSQL sent a message 'D' out of turn",
            ),
            (
                b"HTTP/1.1".to_vec(),
                "not PostgreSQL, or a message too long for a login",
            ),
            (
                authentication(7, b""),
                "authentication method 7 is not for checks: use a password",
            ),
            (authentication(5, b"abc"), "malformed MD5 salt"),
            (message(b'R', b"\0"), "malformed authentication request"),
        ] {
            let mut login = PostgresLogin::new("bob", "secret");
            assert_eq!(login.advance(&stream), failed(text));
            assert!(matches!(
                login.advance(b""),
                LoginStep::Failed(_) | LoginStep::NeedMore
            ));
        }
    }
}
