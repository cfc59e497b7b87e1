//! The way of a database session: by the name of its route, or by what its client says first.
//!
//! It asks the same tables as `tcp/`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::lines::{Explained, MOVE, describe_upstream, line};
use crate::config::{Config, DbType, TcpRoute};
use crate::error::Error;
use crate::route::{self, SslRequest, TcpTable};
use crate::snapshot::Snapshot;
use crate::wire::postgres::StartupMessage;
use crate::wire::sniff::Sniffed;
use crate::wire::tls::ClientHello;

/// Explains a URL of a database, or the name of a route.
pub(super) fn explain(snapshot: &Snapshot, url: &str) -> Result<Explained, Error> {
    let config = &*snapshot.config;
    let mut text = format!("{}\n", without_password(url));
    let Some((scheme, rest)) = url.split_once("://") else {
        let found = config.tcp_routes.iter().find(|route| route.name == url);
        let Some(route) = found else {
            return Ok(nowhere(text, config, &format!("none is called `{url}`")));
        };
        describe(&mut text, config, route);
        let found = true;
        return Ok(Explained { text, found });
    };
    let db_type = DbType::parse(scheme)
        .map_err(|wrong| Error::io(format!("{}: {}", without_password(url), wrong.message)))?;
    let session = Session::read(db_type, rest)
        .ok_or_else(|| Error::io("the port of a URL is a number from 1 to 65535"))?;
    let Some(listener) = session.listener(config) else {
        let why = match session.port {
            Some(port) => format!("none listens on port {port}"),
            None => format!("none is for {}", db_type.as_str()),
        };
        return Ok(nowhere(text, config, &why));
    };
    let chosen = snapshot.tcp_table(listener).and_then(|table| {
        let (route, why) = session.choose(table)?;
        line(&mut text, "listener", format!("{listener}: {why}"));
        Some(route.label.clone())
    });
    let found =
        chosen.and_then(|label| config.tcp_routes.iter().find(|route| *route.name == *label));
    let Some(route) = found else {
        let why = format!("none of {listener} is for such a client: it is refused (unmatched)");
        return Ok(nowhere(text, config, &why));
    };
    if route.db_type != db_type {
        let carried = route.db_type.as_str();
        line(
            &mut text,
            "protocol",
            format!("the route takes it for {carried}"),
        );
    }
    describe(&mut text, config, route);
    let found = true;
    Ok(Explained { text, found })
}

fn without_password(url: &str) -> String {
    let password = url.split_once("://").and_then(|(_, rest)| {
        let authority = rest.split(['/', '?']).next()?;
        authority.rsplit_once('@')?.0.split_once(':')
    });
    match password {
        Some((_, password)) if !password.is_empty() => {
            url.replacen(&format!(":{password}@"), ":***@", 1)
        }
        _ => url.to_owned(),
    }
}

fn nowhere(mut text: String, config: &Config, why: &str) -> Explained {
    let names: Vec<&str> = config
        .tcp_routes
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    let known = match names.is_empty() {
        true => "there are no TCP routes (tcp_proxy.enabled)".to_owned(),
        false => format!("TCP routes: {}", names.join(", ")),
    };
    line(&mut text, "route", format!("none: {why}; {known}"));
    let found = false;
    Explained { text, found }
}

/// What a client would say, and where.
struct Session {
    db_type: DbType,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    sni: Option<String>,
}

impl Session {
    /// `user:password@host:port/database?user=…&database=…&sni=…`. `None`: a port that is none.
    fn read(db_type: DbType, rest: &str) -> Option<Session> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let port = match host.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => Some(port.parse().ok().filter(|p| *p > 0)?),
            _ => None,
        };
        let named = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .next_back()
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let login = login.split(':').next().unwrap_or("");
        Some(Session {
            db_type,
            port,
            database: named("database")
                .or_else(|| named("dbname"))
                .or_else(|| some(path)),
            user: named("user").or_else(|| some(login)),
            sni: named("sni").map(|name| name.to_ascii_lowercase()),
        })
    }

    /// By its port, else the first that has a route of this protocol.
    fn listener(&self, config: &Config) -> Option<SocketAddr> {
        let mut all = config.tcp_routes.iter();
        match self.port {
            Some(port) => all
                .flat_map(|route| &route.listen)
                .find(|listen| listen.port() == port)
                .copied(),
            None => all
                .find(|route| route.db_type == self.db_type)
                .and_then(|route| route.listen.first().copied()),
        }
    }

    fn choose<'t>(&self, table: &'t TcpTable) -> Option<(&'t Arc<route::TcpRoute>, String)> {
        if let Some(route) = table.alone() {
            return Some((route, "its only route takes everything".to_owned()));
        }
        let hello = self.sni.as_ref().map(|sni| ClientHello {
            sni: Some(sni.clone()),
            alpn: Vec::new(),
        });
        if self.db_type == DbType::Postgres
            && let (Some(hello), Some(SslRequest::AskForName)) = (&hello, table.on_ssl_request())
        {
            let why = format!("chosen by the server name {:?}", self.sni.as_deref()?);
            return Some((table.postgres_by_name(hello)?, why));
        }
        if let Some(route) = table.server_first()
            && route.db_type == self.db_type
            && hello.is_none()
        {
            return Some((
                route,
                "chosen by silence: its server speaks first".to_owned(),
            ));
        }
        let said = match (hello, self.db_type) {
            (Some(hello), _) => Sniffed::Tls(hello),
            (None, DbType::Postgres) => {
                let user = self.user.clone().unwrap_or_default();
                Sniffed::PostgresStartup(StartupMessage {
                    database: self.database.clone().unwrap_or_else(|| user.clone()),
                    user,
                    application_name: None,
                    length: 0,
                })
            }
            (None, DbType::Redis) => Sniffed::Redis,
            (None, DbType::Mongodb) => Sniffed::Mongodb,
            (None, DbType::Cassandra) => Sniffed::Cql,
            (None, DbType::Sqlserver) => Sniffed::Tds,
            (None, DbType::Oracle) => Sniffed::Tns,
            (None, db_type) if db_type.speaks_http() => Sniffed::Http,
            (None, _) => Sniffed::Unknown,
        };
        let route = table.select(&said)?;
        let why = match said {
            Sniffed::Tls(_) => format!("chosen by the server name {:?}", self.sni.as_deref()?),
            Sniffed::PostgresStartup(startup) => format!(
                "chosen by database {:?} and user {:?}",
                startup.database, startup.user
            ),
            _ => "chosen by the first bytes".to_owned(),
        };
        Some((route, why))
    }
}

fn describe(text: &mut String, config: &Config, route: &TcpRoute) {
    let at = format!("{}:{}", config.file.display(), route.at.0);
    line(text, "route", format!("{} ({at})", route.name));
    let listens: Vec<String> = route.listen.iter().map(SocketAddr::to_string).collect();
    line(
        text,
        "protocol",
        format!("{} on {}", route.db_type.as_str(), listens.join(", ")),
    );
    for filter in &route.filters {
        let does = "a filter of this program's own: what it does is not known here";
        line(text, "filter", format!("{}: {does}", filter.kind));
    }
    describe_upstream(text, &route.upstream);
    let mut target = format!("{:?}", route.target).to_lowercase();
    if target == "preferreplica" {
        target = "prefer_replica".to_owned();
    }
    line(text, "target", target);
    let tries = &route.tries;
    line(
        text,
        "timeout",
        format!("{:?} until a server connection stands", tries.timeout),
    );
    line(text, "connect", format!("{:?} each", tries.connect_timeout));
    line(
        text,
        "retries",
        format!("{} more connects, {MOVE}", tries.retry_count),
    );
    if let Some(idle) = route.idle_timeout {
        line(text, "idle", format!("{idle:?}, then it ends"));
    }
    if route.proxy_protocol.is_some() {
        line(text, "PROXY", "the server is told the client's address");
    }
}
