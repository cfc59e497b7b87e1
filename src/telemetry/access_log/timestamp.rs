//! Times and numbers as a line has them.

use std::time::{SystemTime, UNIX_EPOCH};

/// The last second that was written, since the lines of one second share it.
#[derive(Default)]
pub struct Second {
    /// Since 1970.
    of: u64,
    /// Up to the point before the milliseconds; empty when there was none yet.
    text: Vec<u8>,
}

impl Second {
    /// One that has no text yet: the first time written makes it.
    pub const fn new() -> Second {
        Second {
            of: 0,
            text: Vec::new(),
        }
    }

    /// Appends a time as in RFC 3339, in UTC, with milliseconds. Before 1970 is 1970.
    pub(super) fn write(&mut self, time: SystemTime, line: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.of != since.as_secs() || self.text.is_empty() {
            self.of = since.as_secs();
            self.text.clear();
            write_second(self.of, &mut self.text);
        }
        line.extend_from_slice(&self.text);
        three_digits(line, since.subsec_millis().into());
        line.push(b'Z');
    }
}

/// A time as in RFC 3339, in UTC, with milliseconds: as the lines have it.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::new();
    Second::new().write(time, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn write_second(since: u64, line: &mut Vec<u8>) {
    let (days, second) = (since / 86_400, since % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    match year {
        ..10_000 => {
            two_digits(line, year / 100);
            two_digits(line, year);
        }
        _ => decimal(line, year),
    }
    for (before, part) in [
        (b'-', month),
        (b'-', day),
        (b'T', hour),
        (b':', minute),
        (b':', second),
    ] {
        line.push(before);
        two_digits(line, part);
    }
    line.push(b'.');
}

/// Year, month and day in the Gregorian calendar of a number of days since 1970-01-01.
///
/// Counts in years that begin in March, so that a leap day is the last of its year, and in eras of
/// 400 years, which all have 146,097 days.
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months have 31, 30, 31, 30, 31 days again and again: 153 in five of them.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

/// Appends a number in decimal.
pub(super) fn decimal(line: &mut Vec<u8>, mut number: u64) {
    match number {
        ..10 => return line.push(digit(number)),
        100..1000 => return three_digits(line, number),
        _ => {}
    }
    // As many digits as the largest number has.
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[first..]);
}

/// Appends the last two digits of a number.
fn two_digits(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(&[digit(number / 10), digit(number)]);
}

/// Appends the last three digits of a number.
pub(super) fn three_digits(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(&[digit(number / 100), digit(number / 10), digit(number)]);
}

/// The last digit of a number.
const fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_calendar() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_453, (2025, 12, 31)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), expected, "{days}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..400_000 {
            assert_eq!(civil(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
