//! HTTP/1 at the edge: the gate in front of a connection, and the life of a connection.

pub mod connection;
pub mod io;
