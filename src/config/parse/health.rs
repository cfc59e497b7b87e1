//! `health_check` and its short form `health_check_path`.
//!
//! What a check may hold depends on the protocol of the routes, which is known only after the
//! upstream was read: a draft is read first, and finished for that protocol.

use std::time::Duration;

use super::carries::Carries;
use super::fields::Fields;
use super::leaf::default_statuses;
use super::report::Report;
use super::server::millis;
use crate::config::keys::Section;
use crate::config::model::{DbType, HealthCheck, Probe};
use crate::config::node::describe;
use crate::config::problem::{Wrong, shown};
use crate::config::tree::Value;
use crate::config::value::{Secret, StatusSet};

/// What the file says about active checks.
pub(super) enum HealthDraft {
    /// Nothing: HTTP has no checks, TCP the probe of its protocol.
    Unsaid,
    Off,
    Written(Box<HealthKeys>),
}

pub(super) struct HealthKeys {
    path: Option<String>,
    status: Option<StatusSet>,
    user: Option<String>,
    password: Option<Secret>,
    interval: Duration,
    timeout: Duration,
    healthy_after: usize,
    unhealthy_after: usize,
}

impl HealthDraft {
    pub(super) fn read(report: &mut Report, fields: &Fields) -> HealthDraft {
        let path = fields.parsed(report, "health_check_path", parse_path);
        let found = fields.find("health_check");
        if found.is_some() && fields.find("health_check_path").is_some() {
            let wrong = Wrong::new(
                "stands beside `health_check`",
                "write the path into it: `health_check: {path: …}`",
            );
            fields.wrong(report, "health_check_path", wrong);
        }
        let Some(field) = found else {
            return match fields.find("health_check_path") {
                None => HealthDraft::Unsaid,
                Some(_) => {
                    let mut said = HealthKeys::read(report, fields);
                    said.path = path;
                    HealthDraft::Written(Box::new(said))
                }
            };
        };
        match field.node.value {
            Value::Bool(false) => HealthDraft::Off,
            Value::Map(_) => HealthDraft::Written(Box::new(HealthKeys::read(report, fields))),
            _ => {
                let wrong = Wrong::new(
                    format!("must be a map or false, not {}", describe(field.node)),
                    "for example `health_check: {path: /health}`",
                );
                fields.wrong(report, "health_check", wrong);
                HealthDraft::Off
            }
        }
    }

    /// The check for what the upstream carries; what makes no sense for that is a problem.
    pub(super) fn finish(
        &self,
        report: &mut Report,
        fields: &Fields,
        carries: Carries,
    ) -> Option<HealthCheck> {
        match (self, carries) {
            (HealthDraft::Off, _) | (HealthDraft::Unsaid, Carries::Http) => None,
            (HealthDraft::Unsaid, Carries::Tcp(db_type)) => {
                let probe = Probe::Tcp {
                    db_type,
                    user: None,
                    password: None,
                };
                Some(HealthKeys::read(report, fields).check(probe))
            }
            (HealthDraft::Written(said), Carries::Http) => said.for_http(report, fields),
            (HealthDraft::Written(said), Carries::Tcp(kind)) => said.for_tcp(report, fields, kind),
        }
    }
}

impl HealthKeys {
    /// Reads `health_check`; everything is its default where there is none.
    fn read(report: &mut Report, fields: &Fields) -> HealthKeys {
        let section = fields.section(report, "health_check", Section::HealthCheck);
        HealthKeys {
            path: section.parsed(report, "path", parse_path),
            status: section.statuses(report, "status"),
            user: section.text(report, "user").map(str::to_owned),
            password: section.secret(report, "password"),
            interval: millis(section.int_or_default(report, "interval_ms")),
            timeout: millis(section.int_or_default(report, "timeout_ms")),
            healthy_after: section.int_or_default(report, "healthy_after") as usize,
            unhealthy_after: section.int_or_default(report, "unhealthy_after") as usize,
        }
    }

    fn check(&self, probe: Probe) -> HealthCheck {
        HealthCheck {
            probe,
            interval: self.interval,
            timeout: self.timeout,
            healthy_after: self.healthy_after,
            unhealthy_after: self.unhealthy_after,
        }
    }

    fn for_http(&self, report: &mut Report, fields: &Fields) -> Option<HealthCheck> {
        for name in ["user", "password"] {
            if has(fields, name) {
                let hint = "remove it";
                let wrong = Wrong::new("an HTTP check does not log in", hint);
                refuse(report, fields, name, wrong);
            }
        }
        if !has(fields, "path") && fields.find("health_check_path").is_none() {
            let wrong = Wrong::new(
                "an HTTP check needs a path",
                "for example `health_check: {path: /health}`",
            );
            fields.wrong(report, "health_check", wrong);
        }
        self.http_check()
    }

    fn http_check(&self) -> Option<HealthCheck> {
        Some(
            self.check(Probe::Http {
                path: self.path.clone()?,
                status: self
                    .status
                    .clone()
                    .or_else(|| default_statuses(Section::HealthCheck, "status"))?,
            }),
        )
    }

    fn for_tcp(
        &self,
        report: &mut Report,
        fields: &Fields,
        db_type: DbType,
    ) -> Option<HealthCheck> {
        let by_short_path = fields.find("health_check_path").is_some();
        let has_path = by_short_path || has(fields, "path");
        let logs_in = has(fields, "user") || has(fields, "password");
        if has_path && !db_type.speaks_http() {
            let wrong = Wrong::new(
                format!("`{}` servers are not asked for a path", db_type.as_str()),
                "remove the path: the protocol has its own probe",
            );
            match by_short_path {
                true => fields.wrong(report, "health_check_path", wrong),
                false => refuse(report, fields, "path", wrong),
            }
            return None;
        }
        if has(fields, "status") && !has_path {
            let wrong = Wrong::new("means something with `path` only", "remove it");
            refuse(report, fields, "status", wrong);
        }
        let can_log_in = matches!(db_type, DbType::Postgres | DbType::Mysql | DbType::Redis);
        if logs_in && (has_path || !can_log_in) {
            let name = if has(fields, "user") {
                "user"
            } else {
                "password"
            };
            let wrong = match (has_path, db_type) {
                (true, _) => Wrong::new(
                    "a check with `path` does not log in",
                    "remove `user` and `password`",
                ),
                (_, DbType::Tcp) => Wrong::new(
                    "plain TCP has no login",
                    "say which database it is, for example `db_type: postgres`",
                ),
                _ => Wrong::new(
                    format!("checks of `{}` do not log in", db_type.as_str()),
                    "remove `user` and `password`",
                ),
            };
            refuse(report, fields, name, wrong);
        } else if has(fields, "password") && !has(fields, "user") && db_type != DbType::Redis {
            let wrong = Wrong::new(
                "stands without `user`",
                "for example `user: probe` beside it",
            );
            refuse(report, fields, "password", wrong);
        } else if has(fields, "user") && !has(fields, "password") && db_type == DbType::Redis {
            // AUTH takes a name with a password only; an account without one takes any.
            let wrong = Wrong::new(
                "stands without `password`",
                "for example `password: \"${NAME}\"` beside it",
            );
            refuse(report, fields, "user", wrong);
        }
        if has_path {
            return self.http_check();
        }
        Some(self.check(Probe::Tcp {
            db_type,
            user: self.user.clone(),
            password: self.password.clone(),
        }))
    }
}

/// Whether `health_check` holds a key, right or wrong.
fn has(fields: &Fields, name: &str) -> bool {
    fields
        .find("health_check")
        .is_some_and(|field| field.node.find(name).is_some())
}

/// Refuses a key of `health_check`.
fn refuse(report: &mut Report, fields: &Fields, name: &str, wrong: Wrong) {
    let Some(field) = fields.find("health_check") else {
        return;
    };
    let at = match &field.node.value {
        Value::Map(entries) => entries.iter().find(|e| e.key == name).map(|e| e.key_at),
        _ => None,
    };
    let trail = fields.trail.key("health_check");
    report.problem(at.unwrap_or(field.at), trail.key(name), wrong);
}

/// A request target in origin form (RFC 9112, section 3.2.1).
fn parse_path(text: &str) -> Result<String, Wrong> {
    let fits = |b: u8| b.is_ascii_graphic() && !b"\"#<>\\^`{|}[]".contains(&b);
    if text.starts_with('/') && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new(
            format!("`{}` is not a path", shown(text)),
            "starts with `/`, ASCII without spaces, for example `/health`",
        ))
    }
}
