//! Connects that fail, for HTTP and for sessions alike: who is tried instead.

mod elsewhere;
