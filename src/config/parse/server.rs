//! The sections that are not about routes: `tcp_proxy`, `admin`, `server`, `trusted_proxies`.
//!
//! They have no rules between each other.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::fields::Fields;
use super::leaf::default_addresses;
use super::report::Report;
use crate::config::keys::Section;
use crate::config::model::{AccessLog, Admin, Http2, Server, TcpProxy};
use crate::config::node::describe;
use crate::config::problem::{Wrong, shown};
use crate::config::tree::{Node, Value};

/// `tcp_proxy`, and whether `enabled` is written.
pub(super) fn tcp_proxy(report: &mut Report, root: &Fields) -> (TcpProxy, bool) {
    let fields = root.section(report, "tcp_proxy", Section::TcpProxy);
    let proxy = TcpProxy {
        enabled: fields.bool_or_default(report, "enabled"),
        listen_addr: fields.addresses_or_default(report, "listen_addr"),
        connection_pooling: fields.bool_or_default(report, "connection_pooling"),
        max_idle_time: secs(fields.int_or_default(report, "max_idle_time_secs")),
        sniff_timeout: millis(fields.int_or_default(report, "sniff_timeout_ms")),
    };
    (proxy, fields.find("enabled").is_some())
}

/// `admin`; `None` for `false`.
pub(super) fn admin(report: &mut Report, root: &Fields) -> Option<Admin> {
    let default = || Admin {
        listen_addr: default_addresses(Section::Admin, "listen_addr"),
        token: None,
    };
    let Some(field) = root.find("admin") else {
        return Some(default());
    };
    match field.node.value {
        Value::Bool(false) => return None,
        Value::Map(_) => {}
        _ => {
            let wrong = Wrong::new(
                format!("must be a map or false, not {}", describe(field.node)),
                "for example `admin: {listen_addr: \"127.0.0.1:9901\"}`",
            );
            root.wrong(report, "admin", wrong);
            return None;
        }
    }
    let trail = root.trail.key("admin");
    let fields = Fields::open(report, field.node, field.at, trail, Section::Admin)?;
    Some(Admin {
        listen_addr: fields.addresses_or_default(report, "listen_addr"),
        token: fields.secret(report, "token"),
    })
}

/// `http2`.
pub(super) fn http2(report: &mut Report, root: &Fields) -> Http2 {
    let fields = root.section(report, "http2", Section::Http2);
    let streams = fields.int_or_default(report, "max_concurrent_streams");
    Http2 {
        enabled: fields.bool_or_default(report, "enabled"),
        h2c: fields.bool_or_default(report, "h2c"),
        max_concurrent_streams: u32::try_from(streams).unwrap_or(u32::MAX),
        max_streams: fields.int_or_default(report, "max_streams") as usize,
        idle_timeout: secs(fields.int_or_default(report, "idle_timeout_secs")),
        ping_interval: secs(fields.int_or_default(report, "ping_interval_secs")),
        max_connection_age: fields.int(report, "max_connection_age_secs").map(secs),
    }
}

/// `server`.
pub(super) fn server(report: &mut Report, root: &Fields) -> Server {
    let fields = root.section(report, "server", Section::Server);
    let access_log = match fields.text(report, "access_log") {
        None | Some("off") => AccessLog::Off,
        Some("stdout") => AccessLog::Stdout,
        Some(path) => AccessLog::File(report.folder().join(path)),
    };
    Server {
        threads: fields.int(report, "threads").map(|n| n as usize),
        pid_file: fields.path(report, "pid_file"),
        upgrade_sock: fields.path(report, "upgrade_sock"),
        user: fields.parsed(report, "user", account),
        group: fields.parsed(report, "group", account),
        log_file: fields.path(report, "log_file"),
        access_log,
        drain_timeout: secs(fields.int_or_default(report, "drain_timeout_secs")),
        drain_delay: secs(fields.int_or_default(report, "drain_delay_secs")),
        watch_config: fields.bool_or_default(report, "watch_config"),
    }
}

/// `trusted_proxies`: networks, or single addresses.
pub(super) fn networks(report: &mut Report, root: &Fields, name: &str) -> Vec<IpNet> {
    let Some(field) = root.find(name) else {
        return Vec::new();
    };
    let Value::List(items) = &field.node.value else {
        let wrong = Wrong::new(
            format!("must be a list, not {}", describe(field.node)),
            "for example `[10.0.0.0/8]`",
        );
        root.wrong(report, name, wrong);
        return Vec::new();
    };
    let mut networks = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match network(item) {
            Ok(network) => networks.push(network),
            Err(wrong) => report.problem(item.at, root.trail.key(name).item(index), wrong),
        }
    }
    networks
}

fn network(item: &Node) -> Result<IpNet, Wrong> {
    if let Value::Text(text) = &item.value {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(canonical(network.trunc()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(canonical(IpNet::from(ip)));
        }
    }
    Err(Wrong::new(
        format!("{} is not a network", describe(item)),
        "for example `10.0.0.0/8` or `\"fd00::/8\"`",
    ))
}

/// A client that comes as `::ffff:a.b.c.d` counts as IPv4, and so must the network that it is in.
fn canonical(network: IpNet) -> IpNet {
    let mapped = || {
        let ip = match network.addr() {
            IpAddr::V6(ip) => ip.to_ipv4_mapped()?,
            IpAddr::V4(_) => return None,
        };
        let bits = network.prefix_len().checked_sub(96)?;
        IpNet::new(ip.into(), bits).ok()
    };
    mapped().unwrap_or(network)
}

/// The name of a user or group (useradd(8): letters, digits, `_`, `-`, at most 32).
fn account(text: &str) -> Result<String, Wrong> {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if first && fits && text.len() <= 32 {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new(
            format!("`{}` is not the name of an account", shown(text)),
            "letters, digits, `_`, `-` and `.`, at most 32, not a digit first",
        ))
    }
}

pub(super) fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

pub(super) fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}
