//! How one primary is compared with another.

/// How many promotions a primary's history has seen, as its check found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Whose history: other groups are not compared with.
    pub group: u64,
    /// Within one `group` the higher number is the later primary.
    pub number: u64,
}
