//! Which protocol a route carries, and whether it is HTTP or TCP at all.
//!
//! Invariant: the answer depends on the text of the configuration only, never on what a server
//! sends.

use super::model::DbType;
use super::problem::{Wrong, nearest, shown};
use super::value::{Scheme, UpstreamUrl};

/// Each protocol under every name that it has, as the scheme of a URL and as a `db_type`; case does
/// not matter in either. The first name of a protocol is the one that messages use.
pub(super) const PROTOCOLS: &[(&str, Scheme)] = &[
    ("http", Scheme::Http),
    ("postgres", Scheme::Postgres),
    ("postgresql", Scheme::Postgres),
    ("mysql", Scheme::Mysql),
    ("mariadb", Scheme::Mysql),
    ("mongodb", Scheme::Mongodb),
    ("mongo", Scheme::Mongodb),
    ("redis", Scheme::Redis),
    ("valkey", Scheme::Redis),
    ("oracle", Scheme::Oracle),
    ("sqlserver", Scheme::Sqlserver),
    ("mssql", Scheme::Sqlserver),
    ("cassandra", Scheme::Cassandra),
    ("cql", Scheme::Cassandra),
    ("couchdb", Scheme::Couchdb),
    ("influxdb", Scheme::Influxdb),
    ("elasticsearch", Scheme::Elasticsearch),
    ("tcp", Scheme::Tcp),
];

/// Names that are not ours, and the one of the protocol that is meant.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("pg", "postgres"),
    ("pgsql", "postgres"),
    ("cockroachdb", "postgres"),
    ("percona", "mysql"),
    ("tidb", "mysql"),
    ("keydb", "redis"),
    ("tns", "oracle"),
    ("tds", "sqlserver"),
    ("scylla", "cassandra"),
    ("scylladb", "cassandra"),
    ("opensearch", "elasticsearch"),
    ("elastic", "elasticsearch"),
];

/// What a name says, whatever its case.
pub(super) fn by_name(name: &str) -> Option<Scheme> {
    let mut protocols = PROTOCOLS.iter();
    protocols
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, scheme)| *scheme)
}

/// The name that was probably meant.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let mut other = OTHER_NAMES.iter();
    other
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, ours)| *ours)
        .or_else(|| nearest(name, PROTOCOLS.iter().map(|(name, _)| *name)))
}

/// Every word of `db_type`, in the order of the table: every scheme but that of HTTP, whose routes
/// have no such key.
pub(super) fn db_type_words() -> impl Iterator<Item = &'static str> {
    let databases = PROTOCOLS.iter();
    databases
        .filter(|(_, scheme)| *scheme != Scheme::Http)
        .map(|(name, _)| *name)
}

impl DbType {
    /// Each once.
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

    /// The name that messages and logs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            DbType::Postgres => "postgres",
            DbType::Mysql => "mysql",
            DbType::Mongodb => "mongodb",
            DbType::Redis => "redis",
            DbType::Oracle => "oracle",
            DbType::Sqlserver => "sqlserver",
            DbType::Cassandra => "cassandra",
            DbType::Couchdb => "couchdb",
            DbType::Influxdb => "influxdb",
            DbType::Elasticsearch => "elasticsearch",
            DbType::Tcp => "tcp",
        }
    }

    /// Reads a `db_type`: any name that works as the scheme of a URL, in any case.
    ///
    /// # Errors
    /// That it is none, with the word that was probably meant.
    pub fn parse(word: &str) -> Result<DbType, Wrong> {
        match by_name(word) {
            Some(Scheme::Tcp) => return Ok(DbType::Tcp),
            Some(Scheme::Http) => {
                return Err(Wrong::new(
                    "`http` is no database",
                    "remove `db_type` for an HTTP route, whose key holds a `/`; `tcp` carries HTTP as it is",
                ));
            }
            Some(scheme) => {
                if let Some(kind) = scheme.db_type() {
                    return Ok(kind);
                }
            }
            None => {}
        }
        let lower = word.to_ascii_lowercase();
        let tls = TLS_SCHEMES.iter();
        let plain = tls
            .filter(|(name, _)| *name == lower)
            .map(|(_, plain)| *plain);
        let mut plain = plain.chain((lower == "mongodb+srv").then_some("mongodb"));
        let plain = plain.find(|name| *name != "http");
        let hint = match plain.or_else(|| meant(word).filter(|name| *name != "http")) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("one of {}", db_type_words().collect::<Vec<_>>().join(", ")),
        };
        Err(Wrong::new(
            format!("`{}` is not a value of `db_type`", shown(word)),
            hint,
        ))
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

/// Schemes that promise TLS, and the one that promises nothing.
pub(super) const TLS_SCHEMES: &[(&str, &str)] = &[
    ("https", "http"),
    ("wss", "http"),
    ("rediss", "redis"),
    ("valkeys", "valkey"),
    ("mysqls", "mysql"),
    ("tls", "tcp"),
    ("ssl", "tcp"),
    ("tcps", "tcp"),
];

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
    /// An HTTP route: requests are read one by one.
    Http,
    /// A TCP route: it needs `tcp_proxy.enabled`.
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
    fn every_name_is_a_scheme_and_a_db_type_in_any_case() {
        for (name, scheme) in PROTOCOLS {
            let kind = match scheme {
                Scheme::Http => None,
                Scheme::Tcp => Some(DbType::Tcp),
                scheme => scheme.db_type(),
            };
            let capital = name[..1].to_uppercase() + &name[1..];
            for name in [(*name).to_owned(), name.to_uppercase(), capital] {
                assert_eq!(DbType::parse(&name).ok(), kind, "{name}");
                let url = UpstreamUrl::parse(&format!("{name}://h:1")).unwrap();
                assert_eq!(url.scheme, *scheme);
            }
        }
        let words: Vec<&str> = db_type_words().collect();
        assert_eq!(words.len() + 1, PROTOCOLS.len());
        for kind in DbType::ALL {
            assert!(words.contains(&kind.as_str()));
            assert_eq!(DbType::parse(kind.as_str()), Ok(kind));
            assert_eq!(format!("{kind:?}").to_ascii_lowercase(), kind.as_str());
        }
    }

    #[test]
    fn a_name_that_is_not_ours_is_answered_with_the_one_that_is() {
        for (word, hint) in [
            ("pgsql", "did you mean `postgres`?"),
            ("Postgress", "did you mean `postgres`?"),
            ("rediss", "did you mean `redis`?"),
            ("mongodb+srv", "did you mean `mongodb`?"),
            ("opensearch", "did you mean `elasticsearch`?"),
            ("https", "one of postgres, postgresql, mysql"),
            ("zebra", "one of postgres, postgresql, mysql"),
            ("http", "remove `db_type`"),
        ] {
            let wrong = DbType::parse(word).unwrap_err();
            assert!(wrong.hint.unwrap().starts_with(hint), "{word}");
        }
        for (_, ours) in OTHER_NAMES {
            assert!(DbType::parse(ours).is_ok(), "{ours}");
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
        for (_, scheme) in PROTOCOLS {
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
