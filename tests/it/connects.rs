//! Connects that fail, for HTTP and for sessions alike: what is tried instead,
//! and what is said.

mod elsewhere;
mod families;
mod reported;
