//! Who connected to which database, from where, for how long: one line for each session.
//!
//! `cargo run --example tcp_audit -- conf/databases.yaml audit.log`
//!
//! Database and user are known of a Postgres client that does not ask for TLS, or is on a listener
//! whose routes differ by them; what a client says inside of TLS is between it and its server.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use async_trait::async_trait;
use harbr_router::Error;
use harbr_router::filter::{Result, TcpContext, TcpEnd, TcpFilter, TcpVerdict};
use harbr_router::server::Gateway;

struct Audit {
    log: Mutex<File>,
}

impl Audit {
    fn write(&self, session: &TcpContext<'_>, what: &str) {
        let line = format!(
            "{} {what}: protocol={} route={} database={} user={}\n",
            session.client,
            session.protocol,
            session.route,
            session.database.unwrap_or("?"),
            session.user.unwrap_or("?"),
        );
        // A small write to a file. Who writes over a network hands the line to a thread instead.
        let log = self.log.lock();
        if let Err(error) = log.map_or(Ok(()), |mut log| log.write_all(line.as_bytes())) {
            log::warn!("audit: {error}");
        }
    }
}

#[async_trait]
impl TcpFilter for Audit {
    async fn connect(&self, session: &TcpContext<'_>) -> Result<TcpVerdict> {
        self.write(session, "connected");
        // Nobody becomes the superuser through the gateway: the client reads a Postgres error.
        Ok(match session.user {
            Some("root") => TcpVerdict::Refuse,
            _ => TcpVerdict::Allow,
        })
    }

    fn close(&self, session: &TcpContext<'_>, end: &TcpEnd) {
        let (up, down) = (end.bytes_up, end.bytes_down);
        let text = format!("left ({}, {up} up, {down} down)", end.reason);
        self.write(session, &text);
    }
}

fn main() -> std::result::Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let config = args.next().unwrap_or("config.yml".into());
    let file = args.next().unwrap_or("audit.log".into());
    let log = File::options().create(true).append(true).open(&file);
    let log = log.map_err(|why| Error::io(format!("cannot open {file}")).because(why))?;
    let audit = Audit {
        log: Mutex::new(log),
    };
    Gateway::from_file(config)?
        .every_session("audit", audit)
        .run()
}
