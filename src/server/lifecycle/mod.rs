//! The life of a running gateway: its parts, reloads and what triggers them, admin and upgrades.

pub mod admin;
pub(super) mod assembled;
pub mod handoff;
mod last_errors;
mod lowered;
pub mod reload;
pub mod reload_triggers;
mod watch;
