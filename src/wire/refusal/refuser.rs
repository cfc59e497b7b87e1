//! Reads a client up to the point where its refusal can be written.

use super::table::{TDS_VERSION, tds_number, text};
use super::{Refusal, refuse};
use crate::config::DbType;
use crate::wire::postgres::{self, CancelKey, Start};
use crate::wire::sniff::{self, Sniffed};
use crate::wire::{http_db, printable, redis, tds, tls};

/// What to do for a client that is being refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more of it.
    NeedMore,
    /// Write this, then read more.
    Send(Vec<u8>),
    /// Write this (it may be empty) and close, with a moment for the client to read: bytes of it
    /// that lie unread would turn the close into a reset and take the answer away.
    Done(Vec<u8>),
    /// A Postgres client wants no session, but a query of another one cancelled, which is never
    /// refused; the protocol has no answer to it.
    Cancel(CancelKey),
}

/// What a Postgres client that asks for TLS is answered on the way to its refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTls {
    /// No, then the error, which every client shows.
    Decline,
    /// Yes, then an alert: its servers have TLS, and a client that insists on it would blame them for
    /// not having it. One that does not insist comes again in clear, as it does when a server
    /// refuses it in TLS, and reads the error then. (In answer to the request itself an error is
    /// shown by no client of today: CVE-2024-10977.)
    Alert,
}

/// Leads one client to its refusal.
#[derive(Debug)]
pub struct Refuser {
    refusal: Refusal,
    why: String,
    state: State,
    /// What was read and is not consumed.
    pub(super) held: Vec<u8>,
    /// Bytes taken in all.
    taken: usize,
    /// Nothing of it was consumed: TLS begins here or not at all.
    at_start: bool,
}

#[derive(Debug)]
enum State {
    /// The protocol is not known yet.
    Sniffing,
    Postgres {
        on_tls: OnTls,
        had_ssl: bool,
        had_gssenc: bool,
    },
    /// It was answered `S`, and begins with TLS next.
    PostgresTls,
    Redis {
        answers_left: u32,
    },
    Tds(tds::LoginReader),
    /// One answer to the first request, or before it.
    Once(DbType),
    /// HTTP that belongs to no product.
    Http,
    Over,
}

/// Most bytes of a client held while it is refused.
pub const MAX_HELD_BYTES: usize = sniff::MAX_BYTES;

/// Bytes of a client after which its refusal is written, whatever they are.
pub(super) const MAX_TAKEN_BYTES: usize = 160 * 1024;

/// Set-up commands of a Redis driver that are answered one by one.
const MAX_ANSWERS: u32 = 16;

impl Refuser {
    /// For a client of a route with this protocol. `why` reaches the client.
    pub fn new(db: DbType, refusal: Refusal, why: &str) -> Refuser {
        Refuser::with_state(state_for(db), refusal, why)
    }

    /// The answer when it asks for TLS: [`OnTls::Decline`] unless this sets another.
    pub fn on_tls(mut self, answer: OnTls) -> Refuser {
        if let State::Postgres { on_tls, .. } = &mut self.state {
            *on_tls = answer;
        }
        self
    }

    /// For a client that matched no route of a shared listener: the protocol is found by its first
    /// bytes, and nothing is written in one that is not known.
    pub fn sniffing(refusal: Refusal, why: &str) -> Refuser {
        Refuser::with_state(State::Sniffing, refusal, why)
    }

    fn with_state(state: State, refusal: Refusal, why: &str) -> Refuser {
        Refuser {
            refusal,
            why: printable(why.as_bytes()),
            state,
            held: Vec::new(),
            taken: 0,
            at_start: true,
        }
    }

    /// Takes the client's next bytes; call it first with what was read before the refusal was
    /// decided, even if that is nothing. After [`Step::Done`] there is no more to say.
    pub fn advance(&mut self, client_bytes: &[u8]) -> Step {
        self.taken = self.taken.saturating_add(client_bytes.len());
        if self.taken > MAX_TAKEN_BYTES {
            let last = match self.state {
                State::Over | State::Sniffing | State::PostgresTls => Vec::new(),
                State::Tds(_) => self.answer(DbType::Sqlserver),
                State::Postgres { .. } => self.answer(DbType::Postgres),
                State::Redis { .. } => self.answer(DbType::Redis),
                State::Http => self.http_answer(),
                State::Once(db) => self.answer(db),
            };
            return self.done(last);
        }
        if let State::Tds(reader) = &mut self.state {
            return advance_tds(reader, client_bytes, self.refusal, &self.why)
                .inspect_done(|| self.state = State::Over);
        }
        let room = MAX_HELD_BYTES - self.held.len().min(MAX_HELD_BYTES);
        let is_full = client_bytes.len() > room;
        self.held
            .extend(&client_bytes[..client_bytes.len().min(room)]);
        self.step(is_full)
    }

    fn step(&mut self, is_full: bool) -> Step {
        let may_be_tls = self.at_start && !matches!(self.state, State::Over);
        if may_be_tls && tls::begins(&self.held) {
            // Whatever is spoken inside of it.
            let alert = match self.refusal {
                Refusal::NoRoute => tls::Alert::UnrecognizedName,
                Refusal::NotAllowed => tls::Alert::AccessDenied,
                _ => tls::Alert::InternalError,
            };
            return self.done(tls::alert(alert).to_vec());
        }
        if may_be_tls && tls::may_begin(&self.held) {
            return Step::NeedMore;
        }
        match &mut self.state {
            State::Over => Step::Done(Vec::new()),
            State::Sniffing => match sniff::classify(&self.held) {
                Sniffed::NeedMore => Step::NeedMore,
                Sniffed::Http => self.go_on(State::Http),
                sniffed => match sniffed.db_type() {
                    Some(db) => self.go_on(state_for(db)),
                    None => self.done(Vec::new()),
                },
            },
            State::Tds(_) => {
                let held = std::mem::take(&mut self.held);
                self.taken -= held.len();
                self.advance(&held)
            }
            State::Postgres { .. } => self.step_postgres(),
            State::PostgresTls if self.held.is_empty() => Step::NeedMore,
            State::PostgresTls => self.done(Vec::new()),
            State::Redis { .. } => self.step_redis(is_full),
            State::Http => match is_full || http_db::has_head(&self.held) {
                true => {
                    let last = self.http_answer();
                    self.done(last)
                }
                false => Step::NeedMore,
            },
            State::Once(db) => {
                let db = *db;
                if !is_full && db.speaks_http() && !http_db::has_head(&self.held) {
                    return Step::NeedMore;
                }
                if db == DbType::Oracle && self.held.len() < ORACLE_HEADER_BYTES {
                    return Step::NeedMore;
                }
                let answer = self.answer(db);
                // Only what echoes the client's request can be empty: its header is not there yet.
                match answer.is_empty() && db != DbType::Tcp {
                    true => Step::NeedMore,
                    false => self.done(answer),
                }
            }
        }
    }

    /// The same bytes under the protocol that they turned out to be.
    fn go_on(&mut self, state: State) -> Step {
        self.state = state;
        self.step(false)
    }

    fn done(&mut self, last: Vec<u8>) -> Step {
        self.state = State::Over;
        self.held = Vec::new();
        Step::Done(last)
    }

    fn answer(&self, db: DbType) -> Vec<u8> {
        refuse(db, self.refusal, &self.why, &self.held)
    }

    fn http_answer(&self) -> Vec<u8> {
        http_db::response(DbType::Tcp, self.refusal, &self.why, &self.held)
    }

    /// libpq hides an error that answers SSLRequest, so: no to encryption, then the StartupMessage,
    /// then the error. For the other way see [`OnTls`].
    fn step_postgres(&mut self) -> Step {
        let mut written = Vec::new();
        loop {
            let State::Postgres {
                on_tls,
                had_ssl,
                had_gssenc,
            } = &mut self.state
            else {
                return Step::Done(written);
            };
            let asked = match postgres::parse_start(&self.held) {
                Start::NeedMore if written.is_empty() => return Step::NeedMore,
                Start::NeedMore => return Step::Send(written),
                Start::Startup(_) => {
                    written.extend(self.answer(DbType::Postgres));
                    return self.done(written);
                }
                Start::Ssl if *on_tls == OnTls::Alert => {
                    self.held.drain(..postgres::SSL_REQUEST.len());
                    self.state = State::PostgresTls;
                    self.at_start = true;
                    written.push(b'S');
                    return Step::Send(written);
                }
                Start::Ssl => had_ssl,
                Start::Gssenc => had_gssenc,
                Start::Cancel(_) if !written.is_empty() => return Step::Send(written),
                Start::Cancel(key) => {
                    self.done(Vec::new());
                    return Step::Cancel(key);
                }
                // Servers do not answer it.
                Start::Malformed => return self.done(written),
            };
            if std::mem::replace(asked, true) {
                return self.done(written);
            }
            self.held.drain(..postgres::SSL_REQUEST.len());
            self.at_start = false;
            written.push(b'N');
        }
    }

    /// Drivers swallow an error that answers their own set-up commands and would report the close
    /// that follows as a lost connection. So each of them is refused, and the first command of the
    /// user's ends it.
    fn step_redis(&mut self, is_full: bool) -> Step {
        let mut written = Vec::new();
        loop {
            let State::Redis { answers_left } = &mut self.state else {
                return Step::Done(written);
            };
            let length = match redis::command(&self.held) {
                redis::Command::NeedMore if !is_full => break,
                redis::Command::Named { verb, length } if redis::is_set_up(verb) => match length {
                    None if !is_full => break,
                    length => length,
                },
                _ => None,
            };
            written.extend(redis::error_reply(&self.why));
            match length {
                Some(length) if *answers_left > 1 => {
                    *answers_left -= 1;
                    self.held.drain(..length);
                    self.at_start = false;
                }
                _ => return self.done(written),
            }
        }
        match written.is_empty() {
            true => Step::NeedMore,
            false => Step::Send(written),
        }
    }
}

impl Step {
    fn inspect_done(self, note: impl FnOnce()) -> Step {
        if matches!(self, Step::Done(_)) {
            note();
        }
        self
    }
}

fn state_for(db: DbType) -> State {
    match db {
        DbType::Postgres => State::Postgres {
            on_tls: OnTls::Decline,
            had_ssl: false,
            had_gssenc: false,
        },
        DbType::Redis => State::Redis {
            answers_left: MAX_ANSWERS,
        },
        DbType::Sqlserver => State::Tds(tds::LoginReader::new()),
        db => State::Once(db),
    }
}

/// PRELOGIN is answered with "no encryption", the login with the error.
fn advance_tds(
    reader: &mut tds::LoginReader,
    mut bytes: &[u8],
    refusal: Refusal,
    why: &str,
) -> Step {
    let mut written = Vec::new();
    loop {
        match reader.next(&mut bytes) {
            tds::Sent::NeedMore if written.is_empty() => return Step::NeedMore,
            tds::Sent::NeedMore => return Step::Send(written),
            tds::Sent::Prelogin => written.extend(tds::prelogin_answer()),
            tds::Sent::Login { version } => {
                let version = if version == 0 { TDS_VERSION } else { version };
                written.extend(tds::fatal_error(
                    tds_number(refusal),
                    &text(refusal, why),
                    version,
                ));
                return Step::Done(written);
            }
            tds::Sent::Other => return Step::Done(written),
        }
    }
}

/// A TNS packet header: what it takes to know that a request was sent.
const ORACLE_HEADER_BYTES: usize = 8;
