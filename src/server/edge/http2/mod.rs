//! HTTP/2 from clients (RFC 9113): a connection, and each of its streams as a session of Pingora's.
//!
//! A request is turned into what the same request is in HTTP/1.1 and judged by the same scanner, so
//! that one code decides what reaches an endpoint. Invariant: whatever a client opens, keeps back or
//! resets is bounded; each bound stands in `connection`.

pub(super) mod connection;
mod first_bytes;
mod head;
mod stream;

pub(super) use first_bytes::{FirstBytes, Prefixed};
