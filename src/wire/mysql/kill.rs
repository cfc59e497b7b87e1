//! `KILL` in a client's command.
//!
//! The thread that its number names decides whose query ends. Invariant: a command that a server
//! would take for a KILL of a thread is never taken for something else; what is none may be read to
//! its end without being understood.
//!
//! Sources: MySQL Reference Manual, "KILL Statement", "Comments"; MariaDB documentation, "KILL";
//! MySQL Internals, "COM_QUERY", "COM_PROCESS_KILL".

use crate::wire::reader::Reader;

/// What a command is, as far as it concerns the threads of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Of the thread or connection with this id.
    Kill(u64),
    /// What drivers send of their own before their first real one: `SET`, `SELECT @@…`, ping.
    Setup,
    /// Concerns no thread by its id; to be passed on as it is.
    Other,
}

impl Command {
    /// Reads the payload of a command.
    pub fn read(payload: &[u8]) -> Command {
        let Some((kind, content)) = payload.split_first() else {
            return Command::Other;
        };
        match *kind {
            COM_QUERY => of_text(content),
            COM_PROCESS_KILL => match Reader::new(content).u32_le() {
                Some(id) => Command::Kill(id.into()),
                None => Command::Other,
            },
            COM_PING | COM_INIT_DB => Command::Setup,
            _ => Command::Other,
        }
    }
}

fn of_text(text: &[u8]) -> Command {
    let mut words = Words { text };
    let first = words.next();
    if first.eq_ignore_ascii_case(b"SET") {
        return Command::Setup;
    }
    if first.eq_ignore_ascii_case(b"SELECT") {
        return match words.blank().first() {
            Some(b'@') => Command::Setup,
            _ => Command::Other,
        };
    }
    if !first.eq_ignore_ascii_case(b"KILL") {
        return Command::Other;
    }
    for _ in 0..MAX_WORDS {
        let word = words.next();
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        if ["HARD", "SOFT", "CONNECTION", "QUERY"]
            .iter()
            .any(|known| is(known))
        {
            continue;
        }
        // `KILL QUERY ID n` counts queries, `KILL USER name` means every session of a user.
        let id = std::str::from_utf8(word)
            .ok()
            .and_then(|word| word.parse().ok());
        return id.map_or(Command::Other, Command::Kill);
    }
    Command::Other
}

/// The words of a statement, without what the server passes over between them.
struct Words<'t> {
    text: &'t [u8],
}

impl<'t> Words<'t> {
    fn next(&mut self) -> &'t [u8] {
        let text = self.blank();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let end = text.iter().position(|byte| !is_word(byte));
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.text = rest;
        word
    }

    /// Passes over blanks and comments. What is in an executable comment counts.
    fn blank(&mut self) -> &'t [u8] {
        loop {
            let text = self.text.trim_ascii_start();
            self.text = if let Some(rest) = executable(text) {
                rest
            } else if let Some(rest) = text.strip_prefix(b"*/") {
                rest
            } else if text.starts_with(b"/*") {
                behind(text, b"*/")
            } else if text.starts_with(b"#") || text.starts_with(b"-- ") {
                behind(text, b"\n")
            } else {
                self.text = text;
                return text;
            };
        }
    }
}

/// Behind the beginning of `/*! … */` or `/*M! … */`, and a version.
fn executable(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"/*!").or(text.strip_prefix(b"/*M!"))?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    Some(&rest[digits.min(6)..])
}

fn behind<'t>(text: &'t [u8], end: &[u8]) -> &'t [u8] {
    let at = text.windows(end.len()).position(|part| part == end);
    at.map_or(&[], |at| &text[at + end.len()..])
}

/// Before the number.
const MAX_WORDS: usize = 3;
const COM_INIT_DB: u8 = 2;
const COM_QUERY: u8 = 3;
const COM_PROCESS_KILL: u8 = 12;
const COM_PING: u8 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Command {
        Command::read(&[&[COM_QUERY], text.as_bytes()].concat())
    }

    #[test]
    fn every_way_to_kill_a_thread_is_read() {
        for text in [
            "KILL 7",
            "kill query 7",
            "KILL CONNECTION 7;",
            "  Kill\tQuery\n7 ",
            "KILL SOFT QUERY 7",
            "KILL HARD CONNECTION 7",
            "/* by a driver */ KILL QUERY 7",
            "/*+ hint */KILL/**/QUERY/* x */7",
            "/*!50001 KILL QUERY 7 */",
            "/*M!100100 KILL 7*/",
            "-- why\nKILL 7",
            "# why\nKILL QUERY 7 -- done",
        ] {
            assert_eq!(query(text), Command::Kill(7), "{text}");
        }
        assert_eq!(Command::read(b"\x0c\x07\0\0\0"), Command::Kill(7));
        assert_eq!(query("KILL 18446744073709551615"), Command::Kill(u64::MAX));
    }

    #[test]
    fn what_is_no_kill_of_a_thread_is_none() {
        for text in [
            "",
            "KILL",
            "KILL QUERY",
            "KILL QUERY ID 7",
            "KILL USER joe",
            "KILL @a",
            "KILLED 7",
            "SELECT 'KILL 7'",
            "/* KILL 7 */",
            "/* KILL 7",
            "-- KILL 7",
            "SHOW PROCESSLIST",
            "SELECT SLEEP(1)",
            "KILL 18446744073709551616",
        ] {
            assert_eq!(query(text), Command::Other, "{text}");
        }
        for text in [
            "SET NAMES utf8mb4",
            "set autocommit=0",
            "/* c */SELECT @@version",
        ] {
            assert_eq!(query(text), Command::Setup, "{text}");
        }
        assert_eq!(Command::read(b"\x0e"), Command::Setup);
        for other in [&b""[..], b"\x01", b"\x0c\x07", b"\x16SELECT ?"] {
            assert_eq!(Command::read(other), Command::Other);
        }
    }
}
