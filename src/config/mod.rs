//! Text to truth: a YAML file becomes a [`Config`] that is known to make sense, or every problem
//! in it. No tokio, no Pingora; nothing here touches the network.

pub mod model;
pub mod value;

pub use model::*;
pub use value::*;
