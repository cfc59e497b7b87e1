//! Second names of counters whose first names are on dashboards already.
//!
//! Nothing counts under these: what was gathered under the one name is shown under the other as
//! well when metrics are rendered. Invariant: both have the same samples with the same values in
//! one scrape, and counting costs the same as without them.

use prometheus::proto::MetricFamily;

/// The name that counts, the one that Prometheus's naming rules want, and its help.
const ALIASES: [(&str, &str, &str); 3] = [
    (
        "tcp_proxy_connection_new",
        "harbr_tcp_sessions_opened_total",
        "Client sessions that reached a TCP route (also tcp_proxy_connection_new).",
    ),
    (
        "tcp_proxy_connection_completed",
        "harbr_tcp_sessions_closed_total",
        "Client sessions of a TCP route that ended (also tcp_proxy_connection_completed).",
    ),
    (
        "tcp_proxy_timeout",
        "harbr_tcp_sessions_timeouts_total",
        "Client sessions of a TCP route that a timeout ended (also tcp_proxy_timeout).",
    ),
];

/// Adds the second names; families stay in the order of their names.
pub(super) fn add(families: &mut Vec<MetricFamily>) {
    for (counted, clean, help) in ALIASES {
        let Some(family) = families.iter().find(|family| family.name() == counted) else {
            continue;
        };
        let mut alias = family.clone();
        alias.set_name(clean.to_owned());
        alias.set_help(help.to_owned());
        let at = families.partition_point(|family| family.name() < clean);
        families.insert(at, alias);
    }
}
