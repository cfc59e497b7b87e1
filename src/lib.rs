//! A programmable gateway for HTTP and databases, built on Pingora.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod error;
pub mod filter;
pub mod http;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod tcp;
pub mod telemetry;
pub mod upstream;
pub mod wire;

pub use error::{Error, Fault, Reason};
pub use pingora;
