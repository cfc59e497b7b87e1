//! A programmable gateway for HTTP and databases, built on Pingora: one YAML file becomes running
//! services.
//!
//! # Embedding it
//!
//! ```no_run
//! use harbr_router::filter::{Verdict, from_fn};
//! use harbr_router::server::Gateway;
//!
//! fn main() -> Result<(), harbr_router::Error> {
//!     let hello = from_fn(|cx| {
//!         cx.request_mut().set("x-hello", "world")?;
//!         Ok(Verdict::Continue)
//!     });
//!     let running = Gateway::from_file("config.yml")?
//!         .every_request("hello", hello)
//!         .spawn()?;
//!     println!("serving on {}", running.http_addr());
//!     running.stop();
//!     Ok(())
//! }
//! ```
//!
//! [`filter::guide`] is the chapter on filters. [`server::Gateway::run`] blocks until TERM or INT
//! instead; [`cli::main_with`] is the whole command line for a gateway with filters of its own.
//! [`server::adapter`] puts one TCP route into a Pingora server of your own. Nothing is global:
//! several gateways run in one process.
//!
//! # Where things are
//!
//! Imports go down this list, never up:
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line: run, test, explain, schema, demo, health |
//! | [`server`] | assembly and lifecycle: sockets, connections, drain, admin |
//! | [`http`] | one request: phases, retry, deadline, forwarding, responses |
//! | [`tcp`] | one TCP session: opening, connect, relay, refusals, cancels |
//! | [`snapshot`] | the immutable table compiled from one configuration, and the pointer to it |
//! | [`route`] | matching: path normalisation, host and prefix lookup |
//! | [`upstream`] | endpoints: balancing, health, limits, names, Pingora's peers |
//! | [`filter`] | user code in a route's path: traits, registry, chains |
//! | [`tls`] | TLS that ends here: certificates, handshake, session |
//! | [`wire`] | what is known of each protocol, as functions over bytes |
//! | [`account`] | who the process becomes once it has bound |
//! | [`telemetry`] | metrics and the access log |
//! | [`config`] | text to truth: YAML with positions, the table of keys, the model |
//! | [`transport`] | a connection below its protocol: plain, or with a session such as TLS on it |
//! | [`error`] | the error type, who is at fault, and the `reason` words |
//!
//! # Words
//!
//! *Listener*: a bound address. *Route*: what a request matched. *Upstream*: a group of endpoints
//! behind a route. *Endpoint*: one address of it, with health and requests in flight. *Lease*: one
//! picked endpoint with its permit, given back by Drop. *Snapshot*: the table compiled from one
//! configuration. *Peer*: Pingora's `HttpPeer`, made last, in one file.
//!
//! # The life of a request
//!
//! A connection is accepted and counted by [`server::edge::accept`]. [`server::edge::http1::connection`] waits for a
//! head, which [`server::edge::http1::io`] holds back until [`wire::http1`] has found it whole and clean; only
//! then does a Pingora session exist. [`http::Proxy`] loads the [`snapshot::Snapshot`] once, finds
//! the [`route::Route`], lets its filters see the request ([`http::filters`]), gets a
//! [`upstream::Lease`] and hands Pingora a peer. What fails is judged by [`http::retry`], answered
//! by [`http::respond`], timed by [`http::deadline`]. However it ends, one [`Reason`] goes into the
//! access log and the metrics.
//!
//! # The life of a TCP session
//!
//! The listener's [`route::TcpTable`] is looked up in the snapshot in force; [`tcp::opening`] reads
//! what it must of the client's first bytes, which [`wire::sniff`] tells apart, and finds the
//! [`route::TcpRoute`]. [`tcp::connect`] waits for a [`upstream::Lease`] and takes a socket that
//! [`upstream::warm`] connected ahead, or connects. [`tcp::relay`] moves bytes until one side is
//! done. A client that cannot be served is refused in its own protocol by [`tcp::refuse`].
#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod account;
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
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod wire;

pub use error::{Error, Fault, Reason};
/// The Pingora this crate is built on, for services of your own beside ours.
pub use pingora;

/// The Rust of the page on embedding is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
