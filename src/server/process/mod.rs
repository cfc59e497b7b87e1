//! The process of the gateway: daemon, pid file, paths, signals, and its supervisor.

pub mod daemon;
pub mod paths;
pub mod pid_file;
pub(super) mod signals;
pub mod systemd;
pub(super) mod writable;
