//! http

pub mod arrival;
