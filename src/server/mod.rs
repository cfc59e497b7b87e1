//! server

pub mod connection;
pub mod io;
pub mod refusal;
