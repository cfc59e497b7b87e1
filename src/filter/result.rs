//! What everything that is a filter's may fail with.

/// What a filter's methods return. `?` works on every error; its text goes to the log, never to the
/// client.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
