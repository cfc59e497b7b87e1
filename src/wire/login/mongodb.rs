//! Reading MongoDB's role, and a primary's term, from `hello`, which needs no login.
//!
//! Invariant: one question.

use super::conversation::{Held, Login, LoginStep, Role, Term};
use crate::wire::mongodb::{Hello, probe, read_hello};

/// One question.
#[derive(Default)]
pub(super) struct MongodbLogin {
    held: Held,
    term: Option<Term>,
}

impl MongodbLogin {
    pub(super) fn new() -> MongodbLogin {
        MongodbLogin::default()
    }
}

impl Login for MongodbLogin {
    fn start(&mut self) -> Vec<u8> {
        probe()
    }

    fn advance(&mut self, bytes: &[u8]) -> LoginStep {
        if let Err(text) = self.held.push(bytes) {
            return LoginStep::Failed(text);
        }
        let role = match read_hello(&self.held.bytes) {
            Hello::NeedMore => return LoginStep::NeedMore,
            Hello::Malformed => {
                return LoginStep::Failed("not MongoDB: no answer to hello".into());
            }
            Hello::Error { code, text } => return LoginStep::Failed(format!("{code} {text}")),
            Hello::Member {
                writable: true,
                term,
                ..
            } => {
                self.term = term.map(|term| Term {
                    group: term.set,
                    number: term.number,
                });
                Role::Primary
            }
            Hello::Member {
                secondary: true, ..
            } => Role::Replica,
            Hello::Member { .. } => {
                return LoginStep::Failed("neither primary nor secondary".into());
            }
        };
        LoginStep::Done {
            role,
            termination: Vec::new(),
        }
    }

    fn term(&self) -> Option<Term> {
        self.term
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::feed;
    use super::*;

    /// An answer whose document has this boolean and `ok: 1`.
    fn answer(field: &str) -> Vec<u8> {
        let mut document = vec![0; 4];
        document.push(0x08);
        document.extend(field.bytes());
        document.extend(b"\0\x01\x10ok\0\x01\0\0\0\0");
        document[0] = document.len() as u8;
        let mut bytes = vec![document.len() as u8 + 21, 0, 0, 0];
        bytes.extend(b"\x09\0\0\0\x01\0\0\0\xdd\x07\0\0\0\0\0\0\0");
        bytes.extend(document);
        bytes
    }

    #[test]
    fn the_member_says_what_it_is() {
        for (field, role) in [
            ("isWritablePrimary", Some(Role::Primary)),
            ("secondary", Some(Role::Replica)),
            ("arbiterOnly", None),
        ] {
            for step in [1, 100] {
                let mut login = MongodbLogin::new();
                assert_eq!(login.start(), probe());
                let (_, last) = feed(&mut login, &answer(field), step);
                match role {
                    Some(role) => assert_eq!(
                        last,
                        LoginStep::Done {
                            role,
                            termination: vec![]
                        }
                    ),
                    None => assert_eq!(
                        last,
                        LoginStep::Failed("neither primary nor secondary".into())
                    ),
                }
            }
        }
        let mut login = MongodbLogin::new();
        assert!(matches!(
            login.advance(b"HTTP/1.1 400 Bad"),
            LoginStep::Failed(_)
        ));
    }
}
