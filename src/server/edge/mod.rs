//! The edge: listening sockets, the loops that accept on them, and the connections of clients.

pub mod accept;
pub mod change;
mod first_byte;
pub mod http1;
mod http2;
pub mod http_edge;
mod https;
pub mod listener;
pub mod refusal;
pub mod workers;
