//! TCP through the gateway. This version serves no TCP route: `snapshot.rs` refuses them by name.

pub mod probe;
