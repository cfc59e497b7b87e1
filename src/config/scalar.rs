//! What a scalar without quotes is: nothing, true or false, a number, or a text.
//!
//! Invariant: every text has exactly one reading.

use super::node::Value;

/// The core schema (YAML 1.2.2, section 10.3.2) for a scalar without quotes.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Value::Float(if negative {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        });
    }
    if let Some(int) = integer(text, digits) {
        return Value::Int(if negative { -int } else { int });
    }
    match is_float(digits).then(|| text.parse::<f64>()) {
        Some(Ok(float)) => Value::Float(float),
        _ => Value::Text(text.to_owned()),
    }
}

/// `text` with, `digits` without its sign: only decimal numbers may have one.
fn integer(text: &str, digits: &str) -> Option<i128> {
    let (radix, body) = match (text.strip_prefix("0o"), text.strip_prefix("0x")) {
        (Some(body), _) => (8, body),
        (_, Some(body)) => (16, body),
        _ => (10, digits),
    };
    if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some(i128::from_str_radix(body, radix).unwrap_or(i128::MAX))
}

/// `(\.[0-9]+ | [0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(digits: &str) -> bool {
    let all = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(index) => (&digits[..index], Some(&digits[index + 1..])),
        None => (digits, None),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && all(e)
    });
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    exponent_fits && all(whole) && all(fraction) && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_follow_the_core_schema() {
        let text = |text: &str| Value::Text(text.into());
        for (written, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("NULL", Value::Null),
            ("True", Value::Bool(true)),
            ("12", Value::Int(12)),
            ("+12", Value::Int(12)),
            ("-3", Value::Int(-3)),
            ("007", Value::Int(7)),
            ("0x1F", Value::Int(31)),
            ("0o17", Value::Int(15)),
            ("1.5", Value::Float(1.5)),
            ("-.5", Value::Float(-0.5)),
            ("1.", Value::Float(1.0)),
            ("1e3", Value::Float(1000.0)),
            ("1E-3", Value::Float(0.001)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            ("yes", text("yes")),
            ("off", text("off")),
            ("1_000", text("1_000")),
            ("1.2.3", text("1.2.3")),
            ("-", text("-")),
            ("+", text("+")),
            ("0x", text("0x")),
            ("-0x1", text("-0x1")),
            (".", text(".")),
            ("e5", text("e5")),
            ("1e", text("1e")),
            ("1e+", text("1e+")),
            ("--1", text("--1")),
            ("é", text("é")),
        ] {
            assert_eq!(resolve(written), value, "{written}");
        }
        assert_eq!(resolve(&"9".repeat(50)), Value::Int(i128::MAX));
        assert!(matches!(resolve(".nan"), Value::Float(n) if n.is_nan()));
    }
}
