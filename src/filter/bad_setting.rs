//! One setting of a filter that cannot be used, although it is of the right type.
//!
//! The registry finds the setting's line and column.

use std::error::Error;
use std::fmt;

/// Why a filter cannot be made, and which of its settings is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    pub(super) setting: String,
    message: String,
    pub(super) hint: Option<String>,
}

impl BadSetting {
    /// `setting` is its key, or the path to it: `regex.match`.
    pub fn new(setting: impl Into<String>, message: impl fmt::Display) -> BadSetting {
        BadSetting {
            setting: setting.into(),
            message: message.to_string(),
            hint: None,
        }
    }

    /// The same with what to write instead.
    pub fn hint(self, hint: impl Into<String>) -> BadSetting {
        BadSetting {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for BadSetting {}
