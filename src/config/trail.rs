//! Where the parser is in the tree, as the keys that lead there.

use std::fmt;

/// Where the parser is, printed as `routes./api.filters[0].type`. Costs nothing until printed.
#[derive(Clone, Copy)]
pub(super) struct Trail<'a> {
    up: Option<&'a Trail<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    /// Where a trail of its own begins.
    Path(&'a str),
    Key(&'a str),
    Item(usize),
}

impl<'a> Trail<'a> {
    pub(super) const ROOT: Trail<'static> = Trail {
        up: None,
        step: Step::Root,
    };

    /// Goes on from a trail that was printed.
    pub(super) fn from_path(path: &'a str) -> Trail<'a> {
        Trail {
            up: None,
            step: Step::Path(path),
        }
    }

    pub(super) fn key(&'a self, key: &'a str) -> Trail<'a> {
        Trail {
            up: Some(self),
            step: Step::Key(key),
        }
    }

    pub(super) fn item(&'a self, index: usize) -> Trail<'a> {
        Trail {
            up: Some(self),
            step: Step::Item(index),
        }
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
            if let (Step::Key(_), Step::Key(_) | Step::Item(_) | Step::Path(_)) =
                (self.step, up.step)
            {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Path(path) => f.write_str(path),
            Step::Key(key) => key.chars().take(80).try_for_each(|c| {
                fmt::Write::write_char(f, if c.is_control() { '\u{fffd}' } else { c })
            }),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}
