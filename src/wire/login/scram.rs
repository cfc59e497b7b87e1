//! SCRAM-SHA-256 as a client, without channel binding.
//!
//! An exchange inside PostgreSQL's login. Invariant: the server is authenticated as well, and
//! cannot ask for more work than [`MAX_ITERATIONS`].
//!
//! Sources: RFC 5802, RFC 7677. Passwords are taken as their UTF-8 bytes: those for which SASLprep
//! (RFC 4013) changes something must be written in their prepared form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// One exchange.
pub(super) struct Scram {
    password: String,
    nonce: String,
    /// Set by [`Scram::answer`]: what the server must prove.
    server_signature: Option<[u8; 32]>,
}

/// `n`: the client does not do channel binding. The user name is empty: PostgreSQL takes it from
/// the StartupMessage.
const GS2_HEADER: &str = "n,,";

/// Work accepted per login; PostgreSQL's default is 4096.
const MAX_ITERATIONS: u32 = 600_000;

impl Scram {
    /// `nonce` is printable ASCII without commas, new for each exchange.
    pub(super) fn new(password: &str, nonce: String) -> Scram {
        Scram {
            password: password.to_owned(),
            nonce,
            server_signature: None,
        }
    }

    /// The client's first message.
    pub(super) fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first_bare())
    }

    /// The answer to the server's first message: proof of the password.
    pub(super) fn answer(&mut self, server_first: &[u8]) -> Result<String, String> {
        let malformed = || "malformed SCRAM challenge".to_owned();
        let text = std::str::from_utf8(server_first).map_err(|_| malformed())?;
        let (mut nonce, mut salt, mut iterations) = (None, None, None);
        for (at, attribute) in text.split(',').enumerate() {
            match (at, attribute.split_once('=').ok_or_else(malformed)?) {
                (0, ("r", value)) => nonce = Some(value),
                (1, ("s", value)) => salt = BASE64.decode(value).ok(),
                (2, ("i", value)) => iterations = value.parse().ok(),
                (0..=2, _) => return Err(malformed()),
                _ => (),
            }
        }
        let (Some(nonce), Some(salt), Some(iterations)) = (nonce, salt, iterations) else {
            return Err(malformed());
        };
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the SCRAM challenge is not for this login".into());
        }
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(format!("SCRAM with {iterations} iterations is refused"));
        }

        let salted = salted_password(self.password.as_bytes(), &salt, iterations);
        let client_key = hmac(&salted, b"Client Key");
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let without_proof = format!("c={},r={nonce}", BASE64.encode(GS2_HEADER));
        let auth_message = format!("{},{text},{without_proof}", self.first_bare());
        let signature = hmac(&stored_key, auth_message.as_bytes());
        let proof = xor(client_key, &signature);
        let server_key = hmac(&salted, b"Server Key");
        self.server_signature = Some(hmac(&server_key, auth_message.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Checks the server's last message: it knows the password's verifier.
    pub(super) fn finish(&self, server_final: &[u8]) -> Result<(), String> {
        let signature = server_final
            .strip_prefix(b"v=")
            .and_then(|text| BASE64.decode(text).ok());
        match (signature, self.server_signature) {
            (Some(signature), Some(expected)) if signature == expected => Ok(()),
            _ => Err("the server could not prove that it knows the password".into()),
        }
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let keyed = keyed(password);
    let mut block = keyed.clone();
    block.update(salt);
    block.update(&1_u32.to_be_bytes());
    let mut last: [u8; 32] = block.finalize().into_bytes().into();
    let mut result = last;
    for _ in 1..iterations {
        let mut round = keyed.clone();
        round.update(&last);
        last = round.finalize().into_bytes().into();
        result = xor(result, &last);
    }
    result
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = keyed(key);
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn xor(mut left: [u8; 32], right: &[u8; 32]) -> [u8; 32] {
    for (byte, other) in left.iter_mut().zip(right) {
        *byte ^= other;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pbkdf2_is_that_of_the_published_vectors() {
        // RFC 7914, section 11: PBKDF2-HMAC-SHA-256 of "passwd" and "salt", first 32 bytes.
        let expected = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc";
        let hex: String = salted_password(b"passwd", b"salt", 1)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn the_exchange_of_the_rfc_comes_out() {
        // RFC 7677, section 3, where the user name is "user": so is the message that is signed.
        let mut scram = Scram::new("pencil", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(scram.first(), "n,,n=,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.answer(challenge.as_bytes()).unwrap();
        let start = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=";
        assert!(answer.starts_with(start));

        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let salted = salted_password(b"pencil", &salt, 4096);
        let signed = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,{challenge},{}",
            &start[..start.len() - 3]
        );
        let client_key = hmac(&salted, b"Client Key");
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let proof = xor(client_key, &hmac(&stored_key, signed.as_bytes()));
        assert_eq!(
            BASE64.encode(proof),
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let server = hmac(&hmac(&salted, b"Server Key"), signed.as_bytes());
        assert_eq!(
            BASE64.encode(server),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_server_that_lies_is_not_answered() {
        for challenge in [
            &b"r=other,s=AAAA,i=1"[..],
            b"r=mine,s=AAAA,i=1",
            b"r=mine2,s=AAAA,i=0",
            b"r=mine2,s=AAAA,i=4294967295",
            b"r=mine2,s=AAAA,i=x",
            b"r=mine2,s=!,i=1",
            b"r=mine2,i=1,s=AAAA",
            b"m=x,r=mine2,s=AAAA,i=1",
            b"e=other-error",
            b"\xff",
            b"",
        ] {
            let mut scram = Scram::new("p", "mine".into());
            assert!(scram.answer(challenge).is_err(), "{challenge:?}");
            assert!(scram.finish(b"v=").is_err());
        }
        let mut scram = Scram::new("p", "mine".into());
        scram.answer(b"r=mine2,s=AAAA,i=1").unwrap();
        assert!(scram.finish(b"v=AAAA").is_err());
        assert!(scram.finish(b"e=invalid-proof").is_err());
    }
}
