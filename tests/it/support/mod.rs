//! Builders for the three parties of a test: the client, the gateway and the origin.
//!
//! Real sockets on 127.0.0.1, no fixed port; every thread and process ends with the value that started
//! it.

pub mod authority;
pub mod background;
pub mod binary;
pub mod client;
pub mod conn;
pub mod daemon;
pub mod drivers;
pub mod gateway;
pub mod http1;
pub mod http2;
pub mod load;
pub mod mariadb;
pub mod netns;
pub mod nginx;
pub mod origin;
pub mod postgres;
pub mod redis;
pub mod server;
pub mod wait;

pub use background::Background;
pub use binary::Binary;
pub use client::{Client, Failure};
pub use conn::{Conn, Next};
pub use gateway::{Gw, route, route_entry};
pub use http1::Response;
pub use load::Load;
pub use mariadb::Mariadb;
pub use netns::Netns;
pub use nginx::Nginx;
pub use origin::{Origin, echoed};
pub use postgres::Postgres;
pub use redis::Redis;
pub use wait::{eventually, loaded, timed};
