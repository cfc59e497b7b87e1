//! Redis (and Valkey) as far as a gateway needs it: first bytes, refusal, probe.
//!
//! Invariant: a command is read for its name and its length, its arguments are only skipped. Long
//! because commands and replies are read here, for clients, probes and logins.
//!
//! Source: redis.io, "Redis serialization protocol specification".

use super::printable;
use super::signature::SignatureMatch;
use super::verdict::Verdict;

/// `PING`, which a server answers before authentication.
pub(super) const PROBE: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Whether a client of Redis begins like this: a RESP array, or a command typed by hand.
pub(super) fn fits(bytes: &[u8]) -> SignatureMatch {
    let Some(rest) = bytes.strip_prefix(b"*") else {
        return fits_inline(bytes);
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > MAX_DIGITS || rest.first() == Some(&b'0') {
        SignatureMatch::No
    } else if digits == 0 {
        if rest.is_empty() {
            SignatureMatch::Maybe
        } else {
            SignatureMatch::No
        }
    } else {
        SignatureMatch::prefix(&rest[digits..], b"\r\n$")
    }
}

fn fits_inline(bytes: &[u8]) -> SignatureMatch {
    let end = bytes.iter().position(|byte| !byte.is_ascii_alphabetic());
    let word = &bytes[..end.unwrap_or(bytes.len())];
    let matches = |verb: &&[u8]| match end {
        Some(_) => word.eq_ignore_ascii_case(verb),
        None => verb
            .get(..word.len())
            .is_some_and(|start| word.eq_ignore_ascii_case(start)),
    };
    if !INLINE_VERBS.iter().any(matches) {
        return SignatureMatch::No;
    }
    match end.and_then(|at| bytes.get(at)) {
        None => SignatureMatch::Maybe,
        Some(b' ' | b'\r' | b'\n') => SignatureMatch::Yes,
        Some(_) => SignatureMatch::No,
    }
}

/// An error reply.
pub(super) fn error_reply(why: &str) -> Vec<u8> {
    format!("-ERR {why}\r\n").into_bytes()
}

/// One command at the start of what a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// Not even its name is whole.
    NeedMore,
    /// Its name; `length` in bytes once all of it is there.
    Named {
        verb: &'a [u8],
        length: Option<usize>,
    },
    Malformed,
}

/// Reads the first command of `bytes`.
pub(super) fn command(bytes: &[u8]) -> Command<'_> {
    let Some(&first) = bytes.first() else {
        return Command::NeedMore;
    };
    if first != b'*' {
        return match line(bytes) {
            Line::Whole(text, rest) => Command::Named {
                verb: text.split(|byte| *byte == b' ').next().unwrap_or_default(),
                length: Some(bytes.len() - rest.len()),
            },
            Line::Cut => Command::NeedMore,
            Line::Wrong => Command::Malformed,
        };
    }
    let (count, mut rest) = match number(bytes, b'*') {
        Ok(Some(found)) => found,
        Ok(None) => return Command::NeedMore,
        Err(Wrong) => return Command::Malformed,
    };
    let mut verb = None;
    for _ in 0..count {
        let cut = match verb {
            Some(verb) => Command::Named { verb, length: None },
            None => Command::NeedMore,
        };
        let (length, content) = match number(rest, b'$') {
            Ok(Some(found)) => found,
            Ok(None) => return cut,
            Err(Wrong) => return Command::Malformed,
        };
        let Some((argument, after)) = content.split_at_checked(length) else {
            return cut;
        };
        verb = verb.or(Some(argument));
        match SignatureMatch::prefix(after, b"\r\n") {
            SignatureMatch::Yes => rest = &after[2..],
            SignatureMatch::Maybe => {
                return Command::Named {
                    verb: verb.unwrap_or_default(),
                    length: None,
                };
            }
            SignatureMatch::No => return Command::Malformed,
        }
    }
    Command::Named {
        verb: verb.unwrap_or_default(),
        length: Some(bytes.len() - rest.len()),
    }
}

/// Whether a driver sends this by itself before its user's first command.
pub(super) fn is_set_up(verb: &[u8]) -> bool {
    ["CLIENT", "HELLO", "AUTH", "SELECT", "COMMAND"]
        .iter()
        .any(|known| verb.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether these are whole commands that set up the client's own connection, and nothing else:
/// HELLO, AUTH, PING, SELECT, COMMAND, and CLIENT where it concerns no other connection.
pub(super) fn only_sets_up(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Command::Named {
            verb,
            length: Some(length),
        } = command(bytes)
        else {
            return false;
        };
        let (whole, rest) = bytes.split_at(length);
        let is_one_of = |verbs: &[&str], word: &[u8]| {
            verbs
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
        };
        let concerns_only_itself = is_one_of(&["HELLO", "AUTH", "PING", "SELECT", "COMMAND"], verb)
            || is_one_of(&["CLIENT"], verb)
                && second_word(whole).is_some_and(|word| is_one_of(OF_ITS_OWN_CLIENT, word));
        if !concerns_only_itself {
            return false;
        }
        bytes = rest;
    }
    true
}

/// What follows the name of a whole command.
fn second_word(command: &[u8]) -> Option<&[u8]> {
    let Ok(Some((_, words))) = number(command, b'*') else {
        let line = command.trim_ascii_end();
        return line.split(|byte| *byte == b' ').nth(1);
    };
    let (length, content) = number(words, b'$').ok()??;
    let (length, content) = number(content.get(length + 2..)?, b'$').ok()??;
    content.get(..length)
}

/// Judges the answer to [`PROBE`].
pub(super) fn judge(answer: &[u8]) -> Verdict {
    match line(answer) {
        Line::Cut => Verdict::NeedMore,
        Line::Wrong => Verdict::Refused("not Redis: no line".into()),
        Line::Whole(text, _) => {
            let alive = [&b"+PONG"[..], b"-NOAUTH ", b"-NOPERM "];
            if alive.iter().any(|start| text.starts_with(start)) {
                Verdict::Alive
            } else {
                Verdict::Refused(printable(text.strip_prefix(b"-").unwrap_or(text)))
            }
        }
    }
}

/// A command as an array of bulk strings.
pub(super) fn write_command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(word.bytes());
        bytes.extend(b"\r\n");
    }
    bytes
}

/// One reply at the start of what a server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    NeedMore,
    /// A simple or bulk string and its whole length in bytes.
    Text(&'a [u8], usize),
    Error(&'a [u8]),
    Malformed,
}

/// Reads a simple string, a bulk string of at most [`MAX_REPLY_BYTES`], or an error.
pub(super) fn reply(bytes: &[u8]) -> Reply<'_> {
    if bytes.first() == Some(&b'$') {
        return match number(bytes, b'$') {
            Ok(None) => Reply::NeedMore,
            Err(Wrong) => Reply::Malformed,
            Ok(Some((length, _))) if length > MAX_REPLY_BYTES => Reply::Malformed,
            Ok(Some((length, rest))) => match rest.split_at_checked(length) {
                None => Reply::NeedMore,
                Some((text, after)) => match SignatureMatch::prefix(after, b"\r\n") {
                    SignatureMatch::Yes => Reply::Text(text, bytes.len() - after.len() + 2),
                    SignatureMatch::Maybe => Reply::NeedMore,
                    SignatureMatch::No => Reply::Malformed,
                },
            },
        };
    }
    match line(bytes) {
        Line::Cut => Reply::NeedMore,
        Line::Wrong => Reply::Malformed,
        Line::Whole([b'+', text @ ..], rest) => Reply::Text(text, bytes.len() - rest.len()),
        Line::Whole([b'-', text @ ..], _) => Reply::Error(text),
        Line::Whole(..) => Reply::Malformed,
    }
}

enum Line<'a> {
    /// The line without its end, and what follows.
    Whole(&'a [u8], &'a [u8]),
    Cut,
    /// Longer than [`MAX_LINE_BYTES`].
    Wrong,
}

fn line(bytes: &[u8]) -> Line<'_> {
    let window = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let text = &bytes[..end];
            Line::Whole(text.strip_suffix(b"\r").unwrap_or(text), &bytes[end + 1..])
        }
        None if bytes.len() >= MAX_LINE_BYTES => Line::Wrong,
        None => Line::Cut,
    }
}

struct Wrong;

/// The number of a line that begins with `mark`, and what follows it; `None` while it is cut.
fn number(bytes: &[u8], mark: u8) -> Result<Option<(usize, &[u8])>, Wrong> {
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    if *first != mark {
        return Err(Wrong);
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > MAX_LENGTH_DIGITS {
        return Err(Wrong);
    }
    match SignatureMatch::prefix(&rest[digits..], b"\r\n") {
        SignatureMatch::No => Err(Wrong),
        SignatureMatch::Maybe => Ok(None),
        SignatureMatch::Yes => {
            let text = std::str::from_utf8(&rest[..digits]).map_err(|_| Wrong)?;
            let number = text.parse().map_err(|_| Wrong)?;
            Ok(Some((number, &rest[digits + 2..])))
        }
    }
}

/// Commands that people type; `GET` is left to HTTP.
const INLINE_VERBS: &[&[u8]] = &[
    b"PING",
    b"AUTH",
    b"HELLO",
    b"INFO",
    b"QUIT",
    b"ECHO",
    b"SELECT",
    b"COMMAND",
    b"CLIENT",
    b"CONFIG",
    b"SET",
    b"DEL",
    b"EXISTS",
    b"KEYS",
    b"DBSIZE",
    b"MONITOR",
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"ROLE",
    b"RESET",
    b"SYNC",
    b"PSYNC",
    b"REPLCONF",
];

/// What CLIENT does for the connection that says it, or tells it. KILL, PAUSE, UNPAUSE and UNBLOCK
/// are done to others.
const OF_ITS_OWN_CLIENT: &[&str] = &[
    "SETNAME",
    "SETINFO",
    "GETNAME",
    "ID",
    "INFO",
    "LIST",
    "REPLY",
    "TRACKING",
    "TRACKINGINFO",
    "CACHING",
    "GETREDIR",
    "NO-EVICT",
    "NO-TOUCH",
    "HELP",
];

/// Redis takes up to 1,048,576 arguments.
const MAX_DIGITS: usize = 7;

/// Redis takes bulk strings up to 512 MB.
const MAX_LENGTH_DIGITS: usize = 9;

/// Longest line read; inline commands may be as long in Redis.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Longest bulk reply read: `INFO replication` has 500 bytes and 60 for each replica.
const MAX_REPLY_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_for_name_and_length() {
        let select = write_command(&["SELECT", "1"]);
        assert_eq!(select, b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
        for end in 0..select.len() {
            let expected = match end {
                0..14 => Command::NeedMore,
                _ => Command::Named {
                    verb: b"SELECT",
                    length: None,
                },
            };
            assert_eq!(command(&select[..end]), expected, "{end}");
        }
        for (bytes, verb) in [
            (&select[..], &b"SELECT"[..]),
            (b"PING\r\n", b"PING"),
            (b"get a b\n", b"get"),
            (b"\r\n", b""),
            (b"*0\r\n", b""),
        ] {
            let mut more = bytes.to_vec();
            more.extend(b"*1\r\n");
            let length = Some(bytes.len());
            assert_eq!(command(&more), Command::Named { verb, length });
        }
        for bytes in [
            &b"*x"[..],
            b"*1\r\nx",
            b"*1\r\n$4\r\nPINGx",
            b"*1\r\n$9999999999",
            b"*\r\n",
        ] {
            assert_eq!(command(bytes), Command::Malformed, "{bytes:?}");
        }
    }

    #[test]
    fn what_sets_up_a_connection_is_told_from_what_has_an_effect() {
        for words in [
            &["HELLO"][..],
            &["hello", "3", "AUTH", "default", "secret", "SETNAME", "INCR"],
            &["Auth", "KILL"],
            &["PING", "INCR n"],
            &["SELECT", "7"],
            &["COMMAND", "DOCS", "INCR"],
            &["CLIENT", "SETINFO", "LIB-NAME", "redis-py"],
            &["client", "id"],
            &["CLIENT", "NO-EVICT", "on"],
        ] {
            let resp = write_command(words);
            assert!(only_sets_up(&resp), "{words:?}");
            assert!(!only_sets_up(&resp[..resp.len() - 1]), "cut {words:?}");
            let inline = [words.join(" ").as_bytes(), b"\r\n"].concat();
            assert!(only_sets_up(&inline), "{words:?}");
            assert!(only_sets_up(&[&resp[..], &inline, &resp].concat()));
            let then_more = [&resp[..], &write_command(&["INCR", "n"])].concat();
            assert!(!only_sets_up(&then_more), "{words:?}");
        }
        for words in [
            &["INCR", "n"][..],
            &["GET", "n"],
            &["MULTI"],
            &["QUIT"],
            &["CLIENT"],
            &["CLIENT", "KILL", "TYPE", "normal"],
            &["CLIENT", "PAUSE", "1000"],
            &["CLIENT", "UNBLOCK", "5"],
            &["PINGS"],
            &[""],
        ] {
            let inline = [words.join(" ").as_bytes(), b"\r\n"].concat();
            for sent in [write_command(words), inline] {
                assert!(!only_sets_up(&sent), "{words:?}");
                let after = [&write_command(&["PING"])[..], &sent].concat();
                assert!(!only_sets_up(&after), "{words:?}");
            }
        }
        for sent in [
            &b"*0\r\n"[..],
            b"\r\n",
            b"PING",
            b"PING\t\r\n",
            b"$4\r\nPING\r\n",
        ] {
            assert!(!only_sets_up(sent), "{sent:?}");
        }
        assert!(only_sets_up(b""));
    }

    #[test]
    fn a_ping_tells_who_lives() {
        for (answer, verdict) in [
            (&b"+PONG\r\n"[..], Verdict::Alive),
            (b"-NOAUTH Authentication required.\r\n", Verdict::Alive),
            (b"+PON", Verdict::NeedMore),
            (
                b"-LOADING Redis is loading the dataset in memory\r\n",
                Verdict::Refused("LOADING Redis is loading the dataset in memory".into()),
            ),
            (
                b"-ERR max number of clients reached\r\n",
                Verdict::Refused("ERR max number of clients reached".into()),
            ),
            (b"HTTP/1.1 400\r\n", Verdict::Refused("HTTP/1.1 400".into())),
        ] {
            assert_eq!(judge(answer), verdict);
        }
    }

    #[test]
    fn replies_are_read_whole() {
        let bulk = b"$5\r\nab\r\nc\r\n";
        for end in 0..bulk.len() {
            assert_eq!(reply(&bulk[..end]), Reply::NeedMore);
        }
        assert_eq!(reply(bulk), Reply::Text(b"ab\r\nc", bulk.len()));
        assert_eq!(reply(b"+OK\r\n+x"), Reply::Text(b"OK", 5));
        assert_eq!(reply(b"-WRONGPASS no\r\n"), Reply::Error(b"WRONGPASS no"));
        assert_eq!(reply(b":1\r\n"), Reply::Malformed);
        assert_eq!(reply(b"$99999999\r\n"), Reply::Malformed);
    }
}
