//! Any text: it becomes a configuration or a list of problems.
#![no_main]

use std::path::Path;

use harbr_router::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = config::parse(text, Path::new("config.yml"));
});
