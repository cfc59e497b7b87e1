//! Every integration test, in one binary: real sockets, the gateway in this process.

mod docs;
mod layering;
mod support;
