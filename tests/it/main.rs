<<<<<<< HEAD
//! Every integration test, in one binary: real sockets, the gateway in this process.

mod admin;
mod balance;
mod deadlines;
mod docs;
mod forwarding;
mod health;
mod layering;
mod lifecycle;
mod limits;
mod retries;
mod strictness;
mod support;
=======
mod config;
>>>>>>> 4a5813421c1ac663b8602b1e8085c2036bbe6724
