//! `${NAME}` in a secret: the one value that comes from outside of the file.
//!
//! Invariant: the value of a variable never appears in a problem.

use crate::config::problem::Wrong;

/// Puts variables of the environment in for `${NAME}`.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let name = inner.find('}').map(|end| &inner[..end]).filter(|name| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        let Some(name) = name else {
            return Err(Wrong::new(
                "`${` is not followed by the name of a variable and `}`",
                "for example `${ADMIN_TOKEN}`",
            ));
        };
        match env(name) {
            Some(value) if value.chars().any(char::is_control) => {
                return Err(Wrong::new(
                    format!("the environment variable {name} holds control characters"),
                    "a line end at its end, for example",
                ));
            }
            Some(value) if !value.is_empty() => out.push_str(&value),
            Some(_) => {
                return Err(Wrong::new(
                    format!("the environment variable {name} is empty"),
                    "give it a value before the gateway starts",
                ));
            }
            None => {
                return Err(Wrong::new(
                    format!("the environment variable {name} is not set"),
                    "set it before the gateway starts",
                ));
            }
        }
        rest = &inner[name.len() + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_and_missing_ones_are_named() {
        let env = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "E" => Some(String::new()),
            "N" => Some("two\n".to_owned()),
            _ => None,
        };
        assert_eq!(expand("x${A}y$A", &env).unwrap(), "xoney$A");
        for (text, part) in [
            ("${B}", "B is not set"),
            ("${E}", "E is empty"),
            ("${N}", "N holds control characters"),
            ("${", "not followed"),
            ("${}", "not followed"),
            ("${1}", "not followed"),
            ("${a b}", "not followed"),
        ] {
            assert!(expand(text, &env).unwrap_err().message.contains(part));
        }
    }
}
