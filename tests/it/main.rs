//! Every integration test, in one binary: real sockets, the gateway in this process.

mod admin;
mod balance;
mod bodies;
mod chaos;
mod cli;
mod config;
mod daemon;
mod databases;
mod deadlines;
mod deploy;
mod docs;
mod forwarding;
mod health;
mod layering;
mod lifecycle;
mod limits;
mod postgres;
mod probes;
mod regression;
mod reload;
mod responses;
mod retries;
mod smuggling;
mod strictness;
mod support;
mod upgrade;
