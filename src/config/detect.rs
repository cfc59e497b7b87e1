//! Which protocol a route carries, and whether it is HTTP or TCP at all.
//!
//! Its own file because it is one table of rules that users look up. Invariant: the answer depends
//! on the text of the configuration only, never on what a server says. Called by `parse`.

use super::model::DbType;
use super::table::DB_TYPES;
use super::value::{Scheme, UpstreamUrl};

impl DbType {
    /// In the order of the words of `db_type`.
    pub const ALL: [DbType; 11] = [
        DbType::Postgres,
        DbType::Mysql,
        DbType::Mongodb,
        DbType::Redis,
        DbType::Oracle,
        DbType::Sqlserver,
        DbType::Cassandra,
        DbType::Couchdb,
        DbType::Influxdb,
        DbType::Elasticsearch,
        DbType::Tcp,
    ];

    /// The word in `db_type`.
    pub const fn as_str(self) -> &'static str {
        DB_TYPES[self as usize]
    }

    /// From a word of `db_type`.
    pub fn from_word(word: &str) -> Option<DbType> {
        DbType::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Whether the server speaks first, so that a client's first bytes never come.
    pub const fn is_server_first(self) -> bool {
        matches!(self, DbType::Mysql)
    }

    /// Whether what it carries is HTTP/1.1.
    pub const fn speaks_http(self) -> bool {
        matches!(
            self,
            DbType::Couchdb | DbType::Influxdb | DbType::Elasticsearch
        )
    }
}

impl Scheme {
    /// The protocol that the scheme of a database says; `http` and `tcp` say nothing.
    pub const fn db_type(self) -> Option<DbType> {
        match self {
            Scheme::Http | Scheme::Tcp => None,
            Scheme::Postgres => Some(DbType::Postgres),
            Scheme::Mysql => Some(DbType::Mysql),
            Scheme::Mongodb => Some(DbType::Mongodb),
            Scheme::Redis => Some(DbType::Redis),
            Scheme::Oracle => Some(DbType::Oracle),
            Scheme::Sqlserver => Some(DbType::Sqlserver),
            Scheme::Cassandra => Some(DbType::Cassandra),
            Scheme::Couchdb => Some(DbType::Couchdb),
            Scheme::Influxdb => Some(DbType::Influxdb),
            Scheme::Elasticsearch => Some(DbType::Elasticsearch),
        }
    }
}

/// The protocol that is known by its port. 33060 (MySQL X) and 9300 (Elasticsearch transport) are
/// other protocols than those of 3306 and 9200: carried as plain TCP.
pub fn by_port(port: u16) -> Option<DbType> {
    match port {
        5432 => Some(DbType::Postgres),
        3306 => Some(DbType::Mysql),
        27017..=27019 => Some(DbType::Mongodb),
        6379 => Some(DbType::Redis),
        1521 => Some(DbType::Oracle),
        1433 => Some(DbType::Sqlserver),
        9042 => Some(DbType::Cassandra),
        5984 => Some(DbType::Couchdb),
        8086 => Some(DbType::Influxdb),
        9200 => Some(DbType::Elasticsearch),
        33060 | 9300 => Some(DbType::Tcp),
        _ => None,
    }
}

/// The protocol of one endpoint by scheme, then by port.
pub fn by_url(url: &UpstreamUrl) -> Option<DbType> {
    url.scheme.db_type().or_else(|| by_port(url.port))
}

/// What kind of route it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Http,
    Tcp,
    /// A name with an `http` URL and nothing that says which protocol it carries.
    Unclear,
}

/// HTTP or TCP, first rule that applies: `is_tcp`; the scheme of a database; a key with `/`; a
/// name with a `tcp` URL; a name with an `http` URL and a known protocol.
pub fn side(is_tcp: Option<bool>, scheme: Scheme, key: &str, db_type: Option<DbType>) -> Side {
    match is_tcp {
        Some(true) => Side::Tcp,
        Some(false) => Side::Http,
        None if scheme.db_type().is_some() => Side::Tcp,
        None if key.contains('/') => Side::Http,
        None if scheme == Scheme::Tcp || db_type.is_some() => Side::Tcp,
        None => Side::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_variants_are_the_same_list() {
        assert_eq!(DB_TYPES.len(), DbType::ALL.len());
        for (word, kind) in DB_TYPES.iter().zip(DbType::ALL) {
            assert_eq!(DbType::from_word(word), Some(kind));
            assert_eq!(kind.as_str().to_ascii_lowercase(), *word);
            assert_eq!(format!("{kind:?}").to_ascii_lowercase(), *word);
        }
    }

    #[test]
    fn scheme_comes_before_port() {
        for (url, kind) in [
            ("redis://h:5432", Some(DbType::Redis)),
            ("tcp://h:5432", Some(DbType::Postgres)),
            ("tcp://h:33060", Some(DbType::Tcp)),
            ("tcp://h:9300", Some(DbType::Tcp)),
            ("tcp://h:27018", Some(DbType::Mongodb)),
            ("tcp://h:27020", None),
            ("http://h:9200", Some(DbType::Elasticsearch)),
            ("http://h", None),
            ("mariadb://h:1", Some(DbType::Mysql)),
        ] {
            assert_eq!(by_url(&UpstreamUrl::parse(url).unwrap()), kind, "{url}");
        }
        for (_, scheme) in super::super::url::SCHEMES {
            if let (Some(kind), Some(port)) = (scheme.db_type(), scheme.port()) {
                assert_eq!(by_port(port), Some(kind));
            }
        }
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        use Scheme::{Http, Postgres, Tcp};
        for (is_tcp, scheme, key, kind, expected) in [
            (Some(true), Http, "/x", None, Side::Tcp),
            (Some(false), Postgres, "x", None, Side::Http),
            (None, Postgres, "/x", None, Side::Tcp),
            (None, Http, "/x", Some(DbType::Redis), Side::Http),
            (None, Tcp, "/x", None, Side::Http),
            (None, Tcp, "x", None, Side::Tcp),
            (None, Http, "x", Some(DbType::Couchdb), Side::Tcp),
            (None, Http, "x", None, Side::Unclear),
        ] {
            assert_eq!(
                side(is_tcp, scheme, key, kind),
                expected,
                "{key} {scheme:?}"
            );
        }
    }
}
