//! What a check that is logged in asks MySQL or MariaDB, and what the answers say.
//!
//! About the state of the server, where the login is about packets. Invariants: SHOW alone, which
//! needs no privilege, touches no table and is answered also by a node that refuses all else; an
//! answer is bounded.
//!
//! Sources: MySQL Internals, "Text Protocol"; MariaDB documentation, "Galera Cluster Status
//! Variables"; Galera documentation, "Monitoring Cluster Status"; the numbers of
//! `wsrep_local_state` are those of `clustercheck`, too: 4 is synced, 2 a donor or desynced.

use crate::wire::login::conversation::Role;
use crate::wire::printable;
use crate::wire::reader::Reader;

/// The first question.
pub(super) const SETTINGS: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
    ('read_only','offline_mode','wsrep_on','wsrep_provider','wsrep_reject_queries','pxc_maint_mode')";

/// The second one, to nodes of a Galera cluster.
pub(super) const CLUSTER: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
    ('wsrep_ready','wsrep_local_state','wsrep_local_state_comment','wsrep_cluster_status')";

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settings {
    Alone(Role),
    /// A node of a cluster that is to be asked for its state.
    Node(Role),
}

/// A table of names and values, packet by packet.
#[derive(Default)]
pub(super) struct Answer {
    /// Packets before the first row: column count, two columns, EOF.
    before: usize,
    rows: Vec<(String, String)>,
}

impl Answer {
    /// Takes one packet that is no error. True when it was the last.
    pub(super) fn packet(&mut self, payload: &[u8]) -> Result<bool, String> {
        let is_eof = payload.first() == Some(&EOF) && payload.len() < 9;
        if self.before < PACKETS_BEFORE_ROWS {
            self.before += 1;
            let fits = match self.before {
                1 => payload == [2],
                PACKETS_BEFORE_ROWS => is_eof,
                _ => !is_eof,
            };
            return fits.then_some(false).ok_or_else(|| NO_ANSWER.to_owned());
        }
        if is_eof {
            return Ok(true);
        }
        if self.rows.len() == MOST_ROWS {
            return Err(NO_ANSWER.to_owned());
        }
        let mut reader = Reader::new(payload);
        let (name, value) = (text(&mut reader), text(&mut reader));
        let row = name.zip(value).filter(|_| reader.is_empty());
        self.rows.push(row.ok_or(NO_ANSWER)?);
        Ok(false)
    }

    /// Reads the answer to [`SETTINGS`].
    ///
    /// # Errors
    /// Why clients are not served, in words.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        if self.is("offline_mode", "ON") {
            return Err("offline_mode=ON: only administrators are served".into());
        }
        if let Some(mode) = self.value("pxc_maint_mode")
            && mode != "DISABLED"
        {
            return Err(format!("pxc_maint_mode={mode}: under maintenance"));
        }
        let role = match self.value("read_only").ok_or(NO_ANSWER)? {
            "OFF" | "0" => Role::Primary,
            _ => Role::Replica,
        };
        let provider = self.value("wsrep_provider").unwrap_or("none");
        // Percona's servers have `wsrep_on` for sessions only.
        if matches!(provider, "none" | "") || self.is("wsrep_on", "OFF") {
            return Ok(Settings::Alone(role));
        }
        match self.value("wsrep_reject_queries") {
            None | Some("NONE") => Ok(Settings::Node(role)),
            Some(which) => Err(format!(
                "the Galera node refuses queries: wsrep_reject_queries={which}"
            )),
        }
    }

    /// Reads the answer to [`CLUSTER`].
    ///
    /// # Errors
    /// Why the node is not to be used, in words.
    pub(super) fn cluster(&self) -> Result<(), String> {
        let value = |name| self.value(name).unwrap_or("unknown");
        if !self.is("wsrep_ready", "ON") {
            return Err(format!(
                "the Galera node is not ready for queries: wsrep_ready={}, wsrep_cluster_status={}",
                value("wsrep_ready"),
                value("wsrep_cluster_status")
            ));
        }
        if !self.is("wsrep_local_state", SYNCED) {
            return Err(format!(
                "the Galera node is not synced: wsrep_local_state={} ({})",
                value("wsrep_local_state"),
                value("wsrep_local_state_comment")
            ));
        }
        Ok(())
    }

    fn value(&self, name: &str) -> Option<&str> {
        let row = self.rows.iter().find(|(known, _)| known == name);
        row.map(|(_, value)| value.as_str())
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.value(name) == Some(value)
    }
}

/// A length-encoded string; NULL is empty.
fn text(reader: &mut Reader) -> Option<String> {
    let length = match reader.u8()? {
        NULL => 0,
        LENGTH_OF_TWO => usize::from(reader.u16_le()?),
        length @ ..NULL => usize::from(length),
        _ => return None,
    };
    reader.take(length).map(printable)
}

const EOF: u8 = 0xfe;
const NULL: u8 = 0xfb;
const LENGTH_OF_TWO: u8 = 0xfc;
const PACKETS_BEFORE_ROWS: usize = 4;
const MOST_ROWS: usize = 64;
const SYNCED: &str = "4";

pub(super) const NO_ANSWER: &str = "no answer to the question for read_only";

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::mysql::packet;

    /// The payloads of a table, as MariaDB 10.11 sends it.
    fn payloads(rows: &[(&str, &str)]) -> Vec<Vec<u8>> {
        let column = b"\x03def\x12information_schema\x10GLOBAL_VARIABLES\0\x0dVariable_name\0\x0c\x21\0\xc0\0\0\0\xfd\0\0\0\0\0";
        let eof = b"\xfe\0\0\x02\0".to_vec();
        let mut all = vec![vec![2], column.to_vec(), column.to_vec(), eof.clone()];
        all.extend(rows.iter().map(|(name, value)| {
            let mut row = vec![name.len() as u8];
            row.extend(name.bytes());
            row.push(value.len() as u8);
            row.extend(value.bytes());
            row
        }));
        all.push(eof);
        all
    }

    /// The same as packets.
    pub(in super::super) fn table(rows: &[(&str, &str)]) -> Vec<u8> {
        let numbered = (1..).zip(payloads(rows));
        numbered
            .flat_map(|(number, payload)| packet(number, &payload))
            .collect()
    }

    fn answer(rows: &[(&str, &str)]) -> Answer {
        let mut answer = Answer::default();
        let payloads = payloads(rows);
        for (nth, payload) in payloads.iter().enumerate() {
            assert_eq!(answer.packet(payload), Ok(nth + 1 == payloads.len()));
        }
        answer
    }

    const GALERA: [(&str, &str); 3] = [
        ("wsrep_on", "ON"),
        ("wsrep_provider", "/usr/lib/galera/libgalera_smm.so"),
        ("read_only", "OFF"),
    ];

    fn with<'a>(
        base: &[(&'a str, &'a str)],
        more: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        [base, more].concat()
    }

    #[test]
    fn read_only_is_the_role_and_only_a_galera_node_is_asked_further() {
        for (rows, settings) in [
            (vec![("read_only", "OFF")], Settings::Alone(Role::Primary)),
            (vec![("read_only", "0")], Settings::Alone(Role::Primary)),
            (
                vec![("read_only", "ON"), ("offline_mode", "OFF")],
                Settings::Alone(Role::Replica),
            ),
            (
                vec![("read_only", "NO_LOCK")],
                Settings::Alone(Role::Replica),
            ),
            // MariaDB as it is installed.
            (
                vec![
                    ("read_only", "OFF"),
                    ("wsrep_on", "OFF"),
                    ("wsrep_provider", "none"),
                    ("wsrep_reject_queries", "NONE"),
                ],
                Settings::Alone(Role::Primary),
            ),
            // A node that left its cluster for good.
            (
                vec![
                    ("wsrep_provider", "/x.so"),
                    ("wsrep_on", "OFF"),
                    ("read_only", "OFF"),
                ],
                Settings::Alone(Role::Primary),
            ),
            (GALERA.to_vec(), Settings::Node(Role::Primary)),
            // Percona XtraDB Cluster.
            (
                vec![
                    ("pxc_maint_mode", "DISABLED"),
                    ("read_only", "ON"),
                    ("wsrep_provider", "/x.so"),
                    ("wsrep_reject_queries", "NONE"),
                ],
                Settings::Node(Role::Replica),
            ),
        ] {
            assert_eq!(answer(&rows).settings(), Ok(settings), "{rows:?}");
        }
    }

    #[test]
    fn who_refuses_clients_says_so_in_its_settings() {
        for (rows, why) in [
            (
                with(&GALERA, &[("wsrep_reject_queries", "ALL")]),
                "the Galera node refuses queries: wsrep_reject_queries=ALL",
            ),
            (
                with(&GALERA, &[("wsrep_reject_queries", "ALL_KILL")]),
                "the Galera node refuses queries: wsrep_reject_queries=ALL_KILL",
            ),
            (
                vec![("read_only", "OFF"), ("offline_mode", "ON")],
                "offline_mode=ON: only administrators are served",
            ),
            (
                with(&GALERA, &[("pxc_maint_mode", "MAINTENANCE")]),
                "pxc_maint_mode=MAINTENANCE: under maintenance",
            ),
            (vec![("wsrep_on", "ON")], NO_ANSWER),
            (vec![], NO_ANSWER),
        ] {
            assert_eq!(answer(&rows).settings(), Err(why.to_owned()), "{rows:?}");
        }
    }

    #[test]
    fn a_node_is_used_while_it_is_ready_and_synced() {
        let state = |ready, number, comment| {
            answer(&[
                ("wsrep_cluster_status", "Primary"),
                ("wsrep_local_state", number),
                ("wsrep_local_state_comment", comment),
                ("wsrep_ready", ready),
            ])
            .cluster()
        };
        assert_eq!(state("ON", "4", "Synced"), Ok(()));
        for (number, comment) in [("1", "Joining"), ("2", "Donor/Desynced"), ("3", "Joined")] {
            let why =
                format!("the Galera node is not synced: wsrep_local_state={number} ({comment})");
            assert_eq!(state("ON", number, comment), Err(why));
        }
        let why = "the Galera node is not ready for queries: wsrep_ready=OFF, wsrep_cluster_status=Primary";
        assert_eq!(state("OFF", "4", "Synced"), Err(why.to_owned()));
        assert!(answer(&[]).cluster().is_err());
    }

    #[test]
    fn what_is_no_such_table_is_no_answer() {
        for payloads in [
            vec![&[1][..]],
            vec![b"\0\0\0\x02\0\0\0"],
            vec![&[2], b"\xfe\0\0\x02\0"],
            vec![&[2], b"\x03def", b"\x03def", b"\x03def"],
            vec![&[2], b"\x03def", b"\x03def", b"\xfe\0\0\x02\0", b"\x05read"],
            vec![
                &[2],
                b"\x03def",
                b"\x03def",
                b"\xfe\0\0\x02\0",
                b"\x01a\x01bc",
            ],
            vec![
                &[2],
                b"\x03def",
                b"\x03def",
                b"\xfe\0\0\x02\0",
                b"\xfd\x01\0\0a\x01b",
            ],
        ] {
            let mut answer = Answer::default();
            let end = payloads.iter().map(|payload| answer.packet(payload));
            assert_eq!(end.last(), Some(Err(NO_ANSWER.to_owned())), "{payloads:?}");
        }
        let mut answer = answer(&[]);
        let endless = (0..1000).find(|_| answer.packet(b"\x01a\x01b").is_err());
        assert_eq!(endless, Some(MOST_ROWS));
        let mut reader = Reader::new(b"\xfc\x03\0abc\xfb");
        assert_eq!(text(&mut reader).as_deref(), Some("abc"));
        assert_eq!(text(&mut reader).as_deref(), Some(""));
    }
}
