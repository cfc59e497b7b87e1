//! What a server's answer to a health probe says.

/// What an answer says so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    NeedMore,
    Alive,
    /// Up but not serving, or not this protocol; the text is what the server said, printable.
    Refused(String),
}
