//! Compiled matching, no I/O: what a request or a connection matched.

mod path;
mod table;

pub use path::{BadPath, Normalised, normalise, strip_prefix};
pub use table::{Table, Tried, Why};
