//! A file of users and password hashes, as `htpasswd -B` and argon2's tools write them.
//!
//! It knows no requests. Invariants: what is no bcrypt or argon2id hash of a bearable cost is refused
//! with its line; a hash is never part of a message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params};
use bcrypt::HashParts;

use crate::filter::Result;

/// The users of one file. Never empty.
#[derive(Debug)]
pub(super) struct Users {
    accounts: Vec<Account>,
    by_name: HashMap<Arc<str>, usize>,
}

/// One line.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: Arc<str>,
    pub(super) hash: Hash,
}

/// How a password is checked.
#[derive(Clone)]
pub(super) enum Hash {
    Bcrypt(Arc<str>),
    Argon2(Arc<PasswordHash>),
}

impl Users {
    /// Reads `user:hash` lines; empty ones and those that begin with `#` are left out.
    ///
    /// # Errors
    /// What is wrong with which line of `file`, for all of them.
    pub(super) fn parse(text: &str, file: &str) -> Result<Users> {
        let mut accounts: Vec<Account> = Vec::new();
        let mut by_name = HashMap::new();
        let mut wrong = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match account(line) {
                Ok(account) => match by_name.entry(account.name.clone()) {
                    Entry::Occupied(_) => wrong.push(format!(
                        "line {}: `{}` is there twice",
                        index + 1,
                        account.name
                    )),
                    Entry::Vacant(entry) => {
                        entry.insert(accounts.len());
                        accounts.push(account);
                    }
                },
                Err(why) => wrong.push(format!("line {}: {why}", index + 1)),
            }
        }
        let more = wrong.len().saturating_sub(MAX_MESSAGES);
        wrong.truncate(MAX_MESSAGES);
        if more > 0 {
            wrong.push(format!("and {more} more"));
        }
        match (wrong.is_empty(), accounts.is_empty()) {
            (false, _) => Err(format!("{file}: {}", wrong.join("; ")).into()),
            (true, true) => Err(format!("{file}: holds no user").into()),
            (true, false) => Ok(Users { accounts, by_name }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// The number of a user.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The user of this number, or of what is left when it is too large.
    pub(super) fn account(&self, number: usize) -> &Account {
        &self.accounts[number % self.accounts.len()]
    }
}

impl Hash {
    /// Whether it is the hash of `password`. Takes as long as the hash's cost says.
    pub(super) fn is_of(&self, password: &str) -> bool {
        match self {
            Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Hash::Argon2(hash) => Argon2::default()
                .verify_password(password.as_bytes(), &**hash)
                .is_ok(),
        }
    }

    fn parse(text: &str) -> std::result::Result<Hash, String> {
        if text.starts_with("$2") {
            return bcrypt(text);
        }
        if text.starts_with("$argon2") {
            return argon2(text);
        }
        let kind = match text {
            "" => "there is no hash",
            _ if text.starts_with("$apr1$") || text.starts_with("$1$") => "MD5 is not taken",
            _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => "SHA-1 is not taken",
            _ if text.starts_with("$5$") || text.starts_with("$6$") => "crypt is not taken",
            _ => "crypt and plain text are not taken",
        };
        Err(format!(
            "{kind}; write a bcrypt hash (`htpasswd -B`) or an argon2id one"
        ))
    }
}

/// Not the hash.
impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Hash::Bcrypt(_) => "bcrypt",
            Hash::Argon2(_) => "argon2id",
        })
    }
}

fn account(line: &str) -> std::result::Result<Account, String> {
    let Some((name, hash)) = line.split_once(':') else {
        return Err("is not `user:hash`".to_owned());
    };
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("has no name of a user".to_owned());
    }
    match Hash::parse(hash) {
        Ok(hash) => Ok(Account {
            name: name.into(),
            hash,
        }),
        Err(why) => Err(format!("`{name}`: {why}")),
    }
}

fn bcrypt(text: &str) -> std::result::Result<Hash, String> {
    let known = ["$2y$", "$2a$", "$2b$"]
        .iter()
        .any(|kind| text.starts_with(kind));
    let parts: Option<HashParts> = text.parse().ok().filter(|_| known);
    match parts.map(|parts| parts.get_cost()) {
        None => Err("is no bcrypt hash of the kinds $2y$, $2a$ and $2b$".to_owned()),
        Some(4..=MAX_BCRYPT_COST) => Ok(Hash::Bcrypt(text.into())),
        Some(cost) => Err(format!("a cost of {cost} is not 4 to {MAX_BCRYPT_COST}")),
    }
}

fn argon2(text: &str) -> std::result::Result<Hash, String> {
    let broken = || "is no argon2 hash as its tools write it".to_owned();
    let hash = PasswordHash::new(text).map_err(|_| broken())?;
    if Algorithm::try_from(hash.algorithm.as_str()) != Ok(Algorithm::Argon2id) {
        return Err("of argon2 only argon2id is taken".to_owned());
    }
    let params = Params::try_from(&hash).map_err(|_| broken())?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(broken());
    }
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MAX_ARGON2_KIB || work > MAX_ARGON2_WORK {
        return Err(format!(
            "is too costly: at most {} MiB, and memory times passes at most {} MiB",
            MAX_ARGON2_KIB >> 10,
            MAX_ARGON2_WORK >> 10
        ));
    }
    Ok(Hash::Argon2(Arc::new(hash)))
}

/// About two seconds of one core; each step up doubles it.
const MAX_BCRYPT_COST: u32 = 15;
const MAX_ARGON2_KIB: u32 = 256 << 10;
/// KiB times passes: about two seconds of one core.
const MAX_ARGON2_WORK: u64 = 2 << 20;
/// Lines of a file that are named when they are wrong.
const MAX_MESSAGES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Users::parse(text, "users").unwrap_err().to_string()
    }

    #[test]
    fn hashes_of_other_programs_are_understood() {
        // libxcrypt's, and the test vector of phc-winner-argon2.
        for (hash, password) in [
            (BCRYPT_Y, "correct horse"),
            (BCRYPT_B, "correct horse"),
            (BCRYPT_A, "correct horse"),
            (ARGON2ID, "password"),
        ] {
            let users = Users::parse(&format!("ann:{hash}\n"), "users").unwrap();
            let ann = users.account(users.find("ann").unwrap());
            assert!(ann.hash.is_of(password), "{hash}");
            assert!(!ann.hash.is_of("correct horsf"));
            assert!(!ann.hash.is_of(""));
            assert!(!format!("{users:?}").contains(hash));
        }
    }

    #[test]
    fn a_file_has_comments_empty_lines_and_both_kinds() {
        let text = format!("# staff\r\n\r\nann:{BCRYPT_Y}\r\n\nb\u{f6}b:{ARGON2ID}");
        let users = Users::parse(&text, "users").unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(
            &*users.account(users.find("b\u{f6}b").unwrap()).name,
            "b\u{f6}b"
        );
        assert_eq!(users.find("bob"), None);
        assert_eq!(users.find("# staff"), None);
        assert_eq!(&*users.account(usize::MAX).name, "b\u{f6}b");
    }

    #[test]
    fn other_hashes_are_refused_with_their_line() {
        let argon2i = ARGON2ID.replace("argon2id", "argon2i");
        let costly = ARGON2ID.replace("m=256", "m=4194304");
        let slow = ARGON2ID.replace("t=2", "t=100000");
        for (hash, part) in [
            ("$apr1$abcdefgh$ABCDEFGHIJKLMNOPQRSTU.", "MD5 is not taken"),
            ("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "SHA-1 is not taken"),
            ("$6$salt$hash", "crypt is not taken"),
            ("rqXexS6ZhobKA", "crypt and plain text are not taken"),
            ("secret", "crypt and plain text are not taken"),
            ("", "there is no hash"),
            ("$2y$05$short", "is no bcrypt hash"),
            (&BCRYPT_Y.replace("$2y$", "$2x$"), "is no bcrypt hash"),
            (
                &BCRYPT_Y.replace("$05$", "$31$"),
                "a cost of 31 is not 4 to 15",
            ),
            (&BCRYPT_Y.replace("$05$", "$03$"), "a cost of 3"),
            (&argon2i, "only argon2id"),
            (&costly, "too costly"),
            (&slow, "too costly"),
            (
                "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ",
                "is no argon2 hash",
            ),
            ("$argon2id$", "is no argon2 hash"),
        ] {
            let error = wrong(&format!("ann:{BCRYPT_Y}\nbob:{hash}\n"));
            assert!(error.contains("users: line 2: `bob`: "), "{hash}: {error}");
            assert!(error.contains(part), "{hash}: {error}");
            assert!(hash.len() < 5 || !error.contains(hash), "{error}");
        }
    }

    #[test]
    fn all_wrong_lines_are_named_at_once() {
        let text = format!("ann\n:{BCRYPT_Y}\nbob:{BCRYPT_Y}\nbob:{BCRYPT_Y}\ncyd:x\n");
        let error = wrong(&text);
        for part in [
            "line 1: is not",
            "line 2: has no name",
            "line 4: `bob` is there twice",
            "line 5",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("line 3"), "{error}");
        assert!(wrong(&"x\n".repeat(1000)).ends_with("and 980 more"));
        assert!(wrong("# nobody\n").contains("holds no user"));
    }

    const BCRYPT_Y: &str = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
    const BCRYPT_B: &str = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";
    const BCRYPT_A: &str = "$2a$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";
    const ARGON2ID: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
}
