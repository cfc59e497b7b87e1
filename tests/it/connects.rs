//! Connects that fail, for HTTP and for sessions alike: what is tried instead.

mod elsewhere;
mod families;
