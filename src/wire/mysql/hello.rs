//! The two packets in which a session of MySQL or MariaDB begins: the server's greeting and the
//! client's answer.
//!
//! Read by a health check's login and by a gateway between the two. What is passed on unchanged is
//! never taken apart: an answer is rewritten in the one field that proves the password, all others
//! stay byte by byte.
//!
//! Source: MySQL Internals, "Connection Phase Packets": Handshake v10, HandshakeResponse41,
//! AuthSwitchRequest.

use super::packet;
use crate::wire::reader::Reader;

/// What of a server's greeting (Handshake v10) is needed.
#[derive(Debug, PartialEq, Eq)]
pub struct Greeting<'a> {
    /// By which `KILL` names the session.
    pub id: u32,
    /// What a password is hashed with: 20 bytes as a rule, without the NUL that ends them.
    pub salt: Vec<u8>,
    /// The server's authentication plugin, such as [`NATIVE`] or `caching_sha2_password`.
    pub method: &'a [u8],
}

impl<'a> Greeting<'a> {
    /// Reads it, without its first byte. `None`: not one that passwords can be hashed for.
    pub fn read(content: &'a [u8]) -> Option<Greeting<'a>> {
        let mut reader = Reader::new(content);
        reader.c_string()?; // version
        let id = reader.u32_le()?;
        let mut salt = reader.take(8)?.to_vec();
        reader.u8()?;
        let low = u32::from(reader.u16_le()?);
        reader.take(1 + 2)?; // character set, status
        let capabilities = low | u32::from(reader.u16_le()?) << 16;
        let salt_length = usize::from(reader.u8()?);
        reader.take(10)?;
        if capabilities & (PROTOCOL_41 | SECURE_CONNECTION) != PROTOCOL_41 | SECURE_CONNECTION {
            return None;
        }
        let rest = reader.take(salt_length.saturating_sub(8).max(13))?;
        salt.extend(rest.strip_suffix(&[0]).unwrap_or(rest));
        let method = match capabilities & PLUGIN_AUTH {
            0 => NATIVE,
            // Some servers of old leave out its NUL.
            _ => reader.c_string().unwrap_or(reader.rest()),
        };
        Some(Greeting { id, salt, method })
    }
}

/// What a client says to a greeting.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A login in clear, after which packets are readable.
    Login(Login<'a>),
    /// What follows cannot be read: TLS, compression, or a client of long ago.
    Opaque,
}

/// HandshakeResponse41.
#[derive(Debug, PartialEq, Eq)]
pub struct Login<'a> {
    before: &'a [u8],
    capabilities: u32,
    /// Database, method and attributes.
    after: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Reads the payload of the client's first packet.
    pub fn read(payload: &'a [u8]) -> Answer<'a> {
        match Login::read(payload) {
            Some(login) => Answer::Login(login),
            None => Answer::Opaque,
        }
    }
}

impl<'a> Login<'a> {
    fn read(payload: &'a [u8]) -> Option<Login<'a>> {
        let mut reader = Reader::new(payload);
        let capabilities = reader.u32_le()?;
        if capabilities & PROTOCOL_41 == 0 || capabilities & (TLS | COMPRESS | ZSTD) != 0 {
            return None;
        }
        reader.take(4 + 1 + 23)?;
        reader.c_string()?; // user
        let before = &payload[..payload.len() - reader.rest().len()];
        match capabilities & (SECURE_CONNECTION | AUTH_LENENC) {
            0 => drop(reader.c_string()?),
            _ => {
                let length = reader.u8()?;
                // No proof is longer: SHA-256 has 32 bytes.
                if length > 250 {
                    return None;
                }
                reader.take(usize::from(length))?;
            }
        }
        Some(Login {
            before,
            capabilities,
            after: reader.rest(),
        })
    }

    /// Whether it can be asked to prove its password by another salt.
    pub fn may_be_asked_again(&self) -> bool {
        let wanted = PLUGIN_AUTH | SECURE_CONNECTION;
        self.capabilities & wanted == wanted
    }

    /// The same as a whole packet, with this proof by `mysql_native_password`.
    pub fn proving(&self, proof: &[u8]) -> Option<Vec<u8>> {
        let mut payload = self.before.to_vec();
        payload.push(u8::try_from(proof.len()).ok().filter(|len| *len <= 250)?);
        payload.extend(proof);
        let mut reader = Reader::new(self.after);
        if self.capabilities & WITH_DB != 0 {
            payload.extend(reader.c_string()?);
            payload.push(0);
        }
        reader.c_string()?; // method
        payload.extend(NATIVE);
        payload.push(0);
        payload.extend(reader.rest());
        Some(packet(1, &payload))
    }
}

/// Asks a client to prove its password by `mysql_native_password` and `salt`.
pub fn switch_to_native(number: u8, salt: &[u8]) -> Vec<u8> {
    packet(number, &[&[SWITCH], NATIVE, &[0], salt, &[0]].concat())
}

/// The authentication plugin that hashes with SHA-1; what servers without plugins use.
pub const NATIVE: &[u8] = b"mysql_native_password";
const SWITCH: u8 = 0xfe;

const WITH_DB: u32 = 1 << 3;
const COMPRESS: u32 = 1 << 5;
const PROTOCOL_41: u32 = 1 << 9;
const TLS: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const AUTH_LENENC: u32 = 1 << 21;
const ZSTD: u32 = 1 << 26;

#[cfg(test)]
mod tests {
    use super::*;

    fn login(capabilities: u32, database: &[u8]) -> Vec<u8> {
        let head = [&capabilities.to_le_bytes()[..], &[0; 28], b"user\0"].concat();
        let proof = [&[20][..], &[7; 20]].concat();
        [
            &head,
            &proof,
            database,
            b"caching_sha2_password\0",
            b"\x03a=b",
        ]
        .concat()
    }

    #[test]
    fn an_answer_is_rewritten_in_its_proof_alone() {
        let usual = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
        for (capabilities, database) in [(usual, &b""[..]), (usual | WITH_DB, b"shop\0")] {
            let payload = login(capabilities, database);
            let Answer::Login(read) = Answer::read(&payload) else {
                panic!("{payload:?}");
            };
            assert!(read.may_be_asked_again());
            let rewritten = read.proving(&[9; 20]).unwrap();
            let head = &payload[..payload.len() - (20 + database.len() + 22 + 4)];
            let expected = [head, &[9; 20], database, NATIVE, b"\0\x03a=b"].concat();
            assert_eq!(rewritten, packet(1, &expected));
            assert!(read.proving(&[0; 300]).is_none());
        }
        for hidden in [TLS, COMPRESS, ZSTD] {
            assert_eq!(Answer::read(&login(usual | hidden, b"")), Answer::Opaque);
        }
        let whole = login(usual, b"");
        for end in 0..whole.len() {
            // Never a panic, and never a proof that is cut.
            if let Answer::Login(read) = Answer::read(&whole[..end]) {
                let _ = read.proving(&[1; 20]);
            }
        }
    }
}
