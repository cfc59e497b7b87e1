//! Logging in to MySQL or MariaDB and asking whether it takes writes, and whether it serves at all.
//!
//! Invariant: a login that was begun is finished or refused by the server, and left by COM_QUIT: it
//! never counts as an abandoned handshake. One conversation, and two fifths of the file its tests.
//!
//! Sources: MySQL Internals, "Connection Phase", "caching_sha2_password", "Text Protocol";
//! MariaDB documentation, "Connecting".

mod cluster_status;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use self::cluster_status::{Answer, CLUSTER, SETTINGS, Settings};
use super::conversation::{Held, Login, LoginStep, Role};
use crate::wire::mysql::{ERR, GREETING, Greeting, Packet, error_text, packet, read_packet};
use crate::wire::printable;
use crate::wire::reader::Reader;

/// One login with a password: `mysql_native_password`, or `caching_sha2_password` while the
/// server has it in its cache.
pub(super) struct MysqlLogin {
    user: String,
    password: String,
    held: Held,
    state: State,
}

enum State {
    Greeting,
    /// With the method that was answered last.
    Authenticating(Method),
    /// Asked for its settings.
    Asked(Answer),
    /// Asked for its state in a Galera cluster.
    AskedAsNode(Role, Answer),
    /// A wrong answer is sent, and the server's refusal awaited: leaving now would count as an
    /// abandoned handshake. Why we cannot answer.
    Declining(String),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Native,
    CachingSha2,
}

impl MysqlLogin {
    pub(super) fn new(user: &str, password: &str) -> MysqlLogin {
        MysqlLogin {
            user: user.to_owned(),
            password: password.to_owned(),
            held: Held::default(),
            state: State::Greeting,
        }
    }

    /// What one packet leads to.
    fn packet(&mut self, number: u8, payload: &[u8]) -> Result<LoginStep, String> {
        let (first, content) = payload.split_first().ok_or("an empty packet")?;
        if let State::Declining(why) = &mut self.state {
            return Err(std::mem::take(why));
        }
        if *first == ERR {
            return Err(refusal(payload));
        }
        let next = number.wrapping_add(1);
        match &mut self.state {
            State::Greeting => {
                if *first != GREETING {
                    return Err("not MySQL: no greeting".into());
                }
                let greeting = Greeting::read(content).ok_or("malformed greeting")?;
                // The server switches when the user's method is another one.
                let method = Method::from_name(greeting.method).unwrap_or(Method::Native);
                self.state = State::Authenticating(method);
                let response = self.response(method, &greeting.salt);
                Ok(LoginStep::Send(packet(next, &response)))
            }
            State::Authenticating(method) => match (*first, *method) {
                (OK, _) => {
                    self.state = State::Asked(Answer::default());
                    Ok(ask(SETTINGS))
                }
                (SWITCH, _) => {
                    let (name, salt) = read_switch(content).ok_or("malformed change of method")?;
                    let answer = match Method::from_name(name) {
                        Some(method) => {
                            self.state = State::Authenticating(method);
                            method.answer(&self.password, salt)
                        }
                        None => {
                            self.state = State::Declining(format!(
                                "authentication method {} is not for checks: use a password",
                                printable(name)
                            ));
                            wrong_answer(name)
                        }
                    };
                    Ok(LoginStep::Send(packet(next, &answer)))
                }
                (MORE, Method::CachingSha2) if content == [FAST_OK] => Ok(LoginStep::NeedMore),
                (MORE, Method::CachingSha2) if content == [FULL] => {
                    self.state = State::Declining(FULL_NEEDS_TLS.into());
                    Ok(LoginStep::Send(packet(next, &[0])))
                }
                _ => Err("malformed answer to the login".into()),
            },
            State::Asked(answer) => match answer.packet(payload)? {
                false => Ok(LoginStep::NeedMore),
                true => match answer.settings()? {
                    Settings::Alone(role) => Ok(done(role)),
                    Settings::Node(role) => {
                        self.state = State::AskedAsNode(role, Answer::default());
                        Ok(ask(CLUSTER))
                    }
                },
            },
            State::AskedAsNode(role, answer) => match answer.packet(payload)? {
                false => Ok(LoginStep::NeedMore),
                true => answer.cluster().map(|()| done(*role)),
            },
            State::Declining(_) | State::Over => Err("the login is over".into()),
        }
    }

    /// HandshakeResponse41 without a database.
    fn response(&self, method: Method, salt: &[u8]) -> Vec<u8> {
        let answer = method.answer(&self.password, salt);
        let mut bytes = CAPABILITIES.to_le_bytes().to_vec();
        bytes.extend((1_u32 << 24).to_le_bytes()); // longest packet
        bytes.push(UTF8MB4);
        bytes.extend([0; 23]);
        bytes.extend(self.user.bytes().filter(|byte| *byte != 0));
        bytes.push(0);
        bytes.push(answer.len() as u8);
        bytes.extend(answer);
        bytes.extend(method.name());
        bytes.push(0);
        bytes
    }

    fn run(&mut self, bytes: &[u8]) -> Result<LoginStep, String> {
        self.held.push(bytes)?;
        loop {
            let (step, used) = match read_packet(&self.held.bytes) {
                Packet::NeedMore => return Ok(LoginStep::NeedMore),
                Packet::Malformed => return Err("not MySQL: a packet without sense".into()),
                Packet::Whole {
                    number,
                    payload,
                    rest,
                } => {
                    let used = self.held.bytes.len() - rest.len();
                    let payload = payload.to_vec();
                    (self.packet(number, &payload)?, used)
                }
            };
            self.held.consume(used);
            match step {
                LoginStep::NeedMore => (),
                LoginStep::Send(_) if !self.held.bytes.is_empty() => {
                    return Err("MySQL sent more than was asked for".into());
                }
                step => return Ok(step),
            }
        }
    }
}

impl Login for MysqlLogin {
    fn start(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn advance(&mut self, bytes: &[u8]) -> LoginStep {
        let step = self.run(bytes).unwrap_or_else(LoginStep::Failed);
        if matches!(step, LoginStep::Done { .. } | LoginStep::Failed(_)) {
            self.state = State::Over;
        }
        step
    }
}

impl Method {
    fn from_name(name: &[u8]) -> Option<Method> {
        [Method::Native, Method::CachingSha2]
            .into_iter()
            .find(|method| method.name() == name)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Method::Native => b"mysql_native_password",
            Method::CachingSha2 => b"caching_sha2_password",
        }
    }

    /// Proof of the password for this salt; nothing for no password.
    fn answer(self, password: &str, salt: &[u8]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        match self {
            // SHA1(password) xor SHA1(salt, SHA1(SHA1(password)))
            Method::Native => {
                let once = Sha1::digest(password);
                let mask = Sha1::new()
                    .chain_update(salt)
                    .chain_update(Sha1::digest(once))
                    .finalize();
                xor(&once, &mask)
            }
            // SHA256(password) xor SHA256(SHA256(SHA256(password)), salt)
            Method::CachingSha2 => {
                let once = Sha256::digest(password);
                let mask = Sha256::new()
                    .chain_update(Sha256::digest(once))
                    .chain_update(salt)
                    .finalize();
                xor(&once, &mask)
            }
        }
    }
}

fn ask(query: &str) -> LoginStep {
    LoginStep::Send(packet(0, &[&[COM_QUERY], query.as_bytes()].concat()))
}

fn done(role: Role) -> LoginStep {
    let termination = packet(0, &[COM_QUIT]);
    LoginStep::Done { role, termination }
}

/// What an ERR packet says, and what it means for a check where that is not plain. A server does not
/// tell a wrong password from an account with REQUIRE SSL.
fn refusal(payload: &[u8]) -> String {
    let text = error_text(payload);
    let code = text.split(' ').next().unwrap_or_default();
    let meaning = match code {
        "1045" => {
            ": a wrong password, or the account needs TLS (REQUIRE SSL, require_secure_transport)"
        }
        "3159" => ": the server admits logins over TLS only",
        _ => return text,
    };
    format!("{text}{meaning}{CLEAR_TEXT}")
}

/// AuthSwitchRequest: the name of another method, and a salt of its own.
fn read_switch(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(content);
    let name = reader.c_string()?;
    let salt = reader.rest();
    Some((name, salt.strip_suffix(&[0]).unwrap_or(salt)))
}

/// An answer in the form of the method, so that it is refused as a wrong password and not as a
/// broken handshake. MariaDB's ed25519 wants a signature of 64 bytes, others some text.
fn wrong_answer(method: &[u8]) -> Vec<u8> {
    match method {
        b"client_ed25519" => vec![0; 64],
        _ => vec![0],
    }
}

fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter()
        .zip(right)
        .map(|(left, right)| left ^ right)
        .collect()
}

const OK: u8 = 0x00;
const MORE: u8 = 0x01;
const SWITCH: u8 = 0xfe;
const FAST_OK: u8 = 3;
const FULL: u8 = 4;
const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;

/// `utf8mb4_general_ci`, known to all servers since 5.5.
const UTF8MB4: u8 = 45;

const PROTOCOL_41: u32 = 1 << 9;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;

/// Also LONG_PASSWORD (bit 0, which MariaDB reads as "a MySQL client") and TRANSACTIONS.
const CAPABILITIES: u32 = 1 | 1 << 13 | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;

const CLEAR_TEXT: &str = ", and checks speak clear text so far: give them an account without that, or \
    remove `user` and `password`";

const FULL_NEEDS_TLS: &str = "caching_sha2_password wants the password itself, which needs TLS: \
    log in once over TLS with this user so that the server caches it, or give the user \
    mysql_native_password";

#[cfg(test)]
mod tests {
    use super::super::fixture::feed;
    use super::cluster_status::NO_ANSWER;
    use super::cluster_status::tests::table;
    use super::*;

    const SALT: &[u8; 20] = b"abcdefghijklmnopqrst";

    /// The greeting of a server with this method.
    fn greeting(method: &[u8]) -> Vec<u8> {
        let mut payload = vec![GREETING];
        payload.extend(b"5.5.5-10.11.6-MariaDB\0\x2a\0\0\0");
        payload.extend(&SALT[..8]);
        payload.extend(b"\0\xfe\xf7\x2d\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0");
        payload.extend(&SALT[8..]);
        payload.push(0);
        payload.extend(method);
        payload.push(0);
        packet(0, &payload)
    }

    fn ok(number: u8) -> Vec<u8> {
        packet(number, b"\0\0\0\x02\0\0\0")
    }

    fn read_only(value: &str) -> Vec<u8> {
        table(&[("read_only", value)])
    }

    fn failed(text: &str) -> LoginStep {
        LoginStep::Failed(text.to_owned())
    }

    /// The end of a login whose server sends these, each whole or byte by byte.
    fn run(pieces: &[Vec<u8>], step: usize) -> (Vec<u8>, LoginStep) {
        let mut login = MysqlLogin::new("bob", "secret");
        assert!(login.start().is_empty());
        let mut written = Vec::new();
        let mut last = LoginStep::NeedMore;
        for piece in pieces {
            let (more, step) = feed(&mut login, piece, step);
            written.extend(more);
            last = step;
        }
        (written, last)
    }

    #[test]
    fn the_answers_are_those_of_the_published_formulas() {
        let hex =
            |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        // Computed with Python's hashlib.
        assert_eq!(hex(Method::Native.answer("secret", SALT)), NATIVE);
        assert_eq!(
            hex(Method::CachingSha2.answer("secret", SALT)),
            CACHING_SHA2
        );
        assert!(Method::Native.answer("", SALT).is_empty());
    }

    #[test]
    fn native_password_leads_to_the_role_and_a_polite_end() {
        for step in [1, 5, 1000] {
            for (value, role) in [
                ("0", Role::Primary),
                ("OFF", Role::Primary),
                ("1", Role::Replica),
                ("NO_LOCK", Role::Replica),
            ] {
                let pieces = [greeting(b"mysql_native_password"), ok(2), read_only(value)];
                let (written, last) = run(&pieces, step);
                let termination = b"\x01\0\0\0\x01".to_vec();
                assert_eq!(last, LoginStep::Done { role, termination });
                let mut response = b"\x01\xa2\x08\0\0\0\0\x01\x2d".to_vec();
                response.extend([0; 23]);
                response.extend(b"bob\0\x14");
                response.extend(Method::Native.answer("secret", SALT));
                response.extend(b"mysql_native_password\0");
                let query = packet(0, &[b"\x03", SETTINGS.as_bytes()].concat());
                let expected = [&packet(1, &response)[..], &query, b"\x01\0\0\0\x01"].concat();
                assert_eq!(written, expected);
            }
        }
    }

    #[test]
    fn a_node_of_a_cluster_is_asked_for_its_state_too() {
        let node = table(&[
            ("read_only", "OFF"),
            ("wsrep_on", "ON"),
            ("wsrep_provider", "/x.so"),
        ]);
        let state = |number| table(&[("wsrep_local_state", number), ("wsrep_ready", "ON")]);
        let begin = || vec![greeting(b"mysql_native_password"), ok(2), node.clone()];
        for step in [1, 7, 1000] {
            let (written, last) = run(&begin(), step);
            assert_eq!(last, LoginStep::NeedMore);
            assert!(written.ends_with(&packet(0, &[b"\x03", CLUSTER.as_bytes()].concat())));
            let (written, last) = run(&[begin(), vec![state("4")]].concat(), step);
            assert!(
                matches!(
                    last,
                    LoginStep::Done {
                        role: Role::Primary,
                        ..
                    }
                ),
                "{last:?}"
            );
            assert!(written.ends_with(b"\x01\0\0\0\x01"));
            let (_, last) = run(&[begin(), vec![state("2")]].concat(), step);
            assert!(matches!(last, LoginStep::Failed(why) if why.contains("not synced")));
        }
        let refusal = b"\xff\x17\x04#08S01WSREP has not yet prepared node for application use";
        for mut pieces in [begin()[..2].to_vec(), begin()] {
            pieces.push(packet(1, refusal));
            let why = "1047 WSREP has not yet prepared node for application use";
            assert_eq!(run(&pieces, 1000).1, failed(why));
        }
    }

    #[test]
    fn a_server_may_switch_the_method() {
        let switch = packet(2, b"\xfemysql_native_password\0tsrqponmlkjihgfedcba\0");
        let pieces = [greeting(b"caching_sha2_password"), switch];
        let (written, last) = run(&pieces, 1000);
        assert_eq!(last, LoginStep::NeedMore);
        let answer = packet(3, &Method::Native.answer("secret", b"tsrqponmlkjihgfedcba"));
        assert!(written.ends_with(&answer));
    }

    #[test]
    fn a_method_that_is_not_known_is_answered_wrongly_rather_than_left() {
        let denied = b"\xff\x15\x04#28000Access denied for user 'bob'";
        for (method, answer) in [("client_ed25519", vec![0; 64]), ("dialog", vec![0])] {
            let switch = packet(2, format!("\u{0}{method}\0salt").as_bytes());
            let switch = [&switch[..4], &[SWITCH], &switch[5..]].concat();
            let mut pieces = vec![greeting(b"mysql_native_password"), switch];
            let (written, last) = run(&pieces, 1000);
            assert_eq!(last, LoginStep::NeedMore);
            assert!(written.ends_with(&packet(3, &answer)));
            pieces.push(packet(4, denied));
            let why = format!("authentication method {method} is not for checks: use a password");
            assert_eq!(run(&pieces, 1000).1, LoginStep::Failed(why));
        }
    }

    #[test]
    fn caching_sha2_works_from_the_cache_and_never_sends_the_password() {
        let fast = [packet(2, b"\x01\x03"), ok(3)].concat();
        let pieces = [greeting(b"caching_sha2_password"), fast, read_only("ON")];
        let (_, last) = run(&pieces, 1000);
        assert!(matches!(
            last,
            LoginStep::Done {
                role: Role::Replica,
                ..
            }
        ));

        let denied = packet(4, b"\xff\x15\x04#28000Access denied for user 'bob'");
        let pieces = [
            greeting(b"caching_sha2_password"),
            packet(2, b"\x01\x04"),
            denied,
        ];
        let (written, last) = run(&pieces, 1000);
        assert!(written.ends_with(b"\x01\0\0\x03\0"));
        assert_eq!(last, failed(FULL_NEEDS_TLS));
        assert!(!written.windows(6).any(|bytes| bytes == b"secret"));
    }

    #[test]
    fn a_server_that_refuses_is_quoted() {
        let full = b"\x17\0\0\0\xff\x10\x04Too many connections".to_vec();
        assert_eq!(run(&[full], 1).1, failed("1040 Too many connections"));
        let denied = packet(2, b"\xff\x15\x04#28000Access denied for user 'bob'");
        let pieces = [greeting(b"mysql_native_password"), denied];
        let (_, last) = run(&pieces, 1);
        assert!(
            matches!(&last, LoginStep::Failed(why) if why.contains("1045 Access denied for user 'bob'")
                && why.contains("REQUIRE SSL") && why.contains("clear text")),
            "{last:?}"
        );
        let insecure =
            b"\xff\x57\x0c#HY000Connections using insecure transport are prohibited while \
            --require_secure_transport=ON.";
        let pieces = [greeting(b"mysql_native_password"), packet(2, insecure)];
        let (_, last) = run(&pieces, 1);
        assert!(
            matches!(&last, LoginStep::Failed(why) if why.starts_with("3159 Connections using")
                && why.contains("over TLS only")),
            "{last:?}"
        );
    }

    #[test]
    fn what_comes_out_of_turn_ends_the_login() {
        for (pieces, text) in [
            (
                vec![b"HTTP/1.1 400".to_vec()],
                "not MySQL: a packet without sense",
            ),
            (vec![ok(0)], "not MySQL: no greeting"),
            (vec![packet(0, b"\x0a5.1\0")], "malformed greeting"),
            (
                vec![[greeting(b"mysql_native_password"), ok(2)].concat()],
                "MySQL sent more than was asked for",
            ),
            (
                vec![greeting(b"mysql_native_password"), ok(2), packet(1, &[1])],
                NO_ANSWER,
            ),
            (
                vec![greeting(b"mysql_native_password"), packet(2, b"\x01\x03")],
                "malformed answer to the login",
            ),
        ] {
            assert_eq!(run(&pieces, 1000).1, failed(text));
        }
    }

    const NATIVE: &str = "8817c50fa779daef010ee7577825b0847df9842e";
    const CACHING_SHA2: &str = "c76e2898612a4cf042c77fa8c4702c4c64c0c2c557c53c4d75595aaa6abae809";
}
