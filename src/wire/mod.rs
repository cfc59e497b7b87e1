//! What is known of each protocol on the wire: functions and small states over bytes.
//!
//! Its own floor because it is the part that reads what strangers send. Invariant: no sockets, no
//! runtime, no panic; every reader here is bounded and can be fed one byte at a time.

pub mod http1;
