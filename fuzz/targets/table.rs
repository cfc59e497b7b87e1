//! Any keys and any request: one key to a line, then an empty line, a host and a path. The table
//! finds a route exactly when one of its keys alone would, and a key's prefix is what paths become.
#![no_main]

use harbr_router::config::RouteKey;
use harbr_router::route::{BadPath, Table, normalise};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let Some((keys, request)) = input.split_once("\n\n") else {
        return;
    };
    let (host, path) = request.split_once('\n').unwrap_or(("", request));
    let keys: Vec<RouteKey> = keys
        .lines()
        .filter_map(|key| RouteKey::parse(key).ok())
        .collect();
    for key in &keys {
        match normalise(&key.prefix) {
            Ok(prefix) => assert!(!prefix.is_changed()),
            Err(why) => assert_eq!(why, BadPath::HiddenDots),
        }
    }
    let routes = keys
        .iter()
        .cloned()
        .enumerate()
        .map(|(index, key)| (key, index))
        .collect();
    let (Ok(table), Ok(path)) = (Table::build(routes), normalise(path)) else {
        return;
    };
    for host in [Some(host), None] {
        let found = table.lookup(host, path.path());
        let why = table.lookup_why(host, path.path());
        assert_eq!(why.chosen.map(|(_, index)| index), found);
        let alone = |key: &RouteKey| {
            let table = Table::build(vec![(key.clone(), ())]).expect("it was in the table");
            table.lookup(host, path.path()).is_some()
        };
        match found {
            Some(index) => assert!(alone(&keys[*index])),
            None => assert!(!keys.iter().any(alone)),
        }
    }
});
