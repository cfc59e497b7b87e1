//! Text to truth: a YAML file becomes a [`Config`] that is known to make sense, or every problem
//! in it. No tokio, no Pingora; nothing here touches the network.

pub mod detect;
mod host;
pub mod keys;
pub mod model;
pub mod problem;
mod route_key;
pub mod tree;
mod url;
pub mod value;

pub use model::*;
pub use problem::{Mark, Problem, Problems, Wrong};
pub use value::*;
