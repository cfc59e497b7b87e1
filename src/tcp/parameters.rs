//! What a client says of itself before its session begins: server name, database, user.

use crate::wire::sniff::Sniffed;
use crate::wire::tls::ClientHello;

/// What a client's first bytes say of it, for the filters of its route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientParameters {
    pub sni: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
}

impl ClientParameters {
    pub fn of(sniffed: &Sniffed) -> ClientParameters {
        match sniffed {
            Sniffed::Tls(hello) => ClientParameters::of_hello(hello),
            Sniffed::PostgresStartup(startup) => ClientParameters {
                sni: None,
                database: Some(startup.database.clone()),
                user: Some(startup.user.clone()),
            },
            _ => ClientParameters::default(),
        }
    }

    pub fn of_hello(hello: &ClientHello) -> ClientParameters {
        ClientParameters {
            sni: hello.sni.clone(),
            ..ClientParameters::default()
        }
    }
}
