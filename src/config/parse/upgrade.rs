//! `upgrade` of a route: a list of protocols, or `false`.

use super::fields::Fields;
use super::report::Report;
use crate::config::node::describe;
use crate::config::problem::{Wrong, shown};
use crate::config::tree::Value;
use crate::config::upgrades::{NoUpgrade, Upgrades, name};

/// Reads the key; entries with problems are left out.
pub(super) fn read_upgrade(report: &mut Report, fields: &Fields) -> Upgrades {
    let Some(field) = fields.find("upgrade") else {
        return Upgrades::Any;
    };
    let items = match &field.node.value {
        Value::Bool(false) => return Upgrades::Only(Vec::new()),
        Value::List(items) => items,
        other => {
            let wrong = Wrong::new(
                format!("must be a list or false, not {}", describe(field.node)),
                match other {
                    Value::Bool(true) => "remove it to allow any one protocol".to_owned(),
                    Value::Text(text) if name(text).is_ok() => {
                        format!("write `[{}]`", shown(text))
                    }
                    _ => "for example `[websocket]`".to_owned(),
                },
            );
            fields.wrong(report, "upgrade", wrong);
            return Upgrades::Any;
        }
    };
    let trail = fields.trail.key("upgrade");
    let mut words = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let wrong = match &item.value {
            Value::Text(text) => match name(text) {
                Ok(_) => {
                    words.push(text.clone());
                    continue;
                }
                Err(NoUpgrade::CarriesHttp) => Wrong::new(
                    format!("`{}` carries requests that no route would see", shown(text)),
                    "remove it",
                ),
                Err(NoUpgrade::Malformed) => Wrong::new(
                    format!("`{}` is not the name of one protocol", shown(text)),
                    "for example `websocket`",
                ),
            },
            _ => Wrong::new(
                format!("must be the name of a protocol, not {}", describe(item)),
                "for example `websocket`",
            ),
        };
        report.problem(item.at, trail.item(index), wrong);
    }
    Upgrades::Only(words)
}
