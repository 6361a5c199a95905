//! Dates as Python's `strftime` writes them.

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Writes `seconds` after the beginning of 1970 as `format` says, in the C locale.
pub fn strftime(format: &str, seconds: i64) -> Result<String, Error> {
    let date = Date::of(seconds);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let mut directive = chars.next();
        // `%-d`: without padding.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let Some(directive) = directive else {
            out.push('%');
            break;
        };
        let part = date.part(directive).ok_or_else(|| {
            let text = format!("strftime_now does not know %{directive}");
            Error::new(ErrorKind::InvalidOperation, text)
        })?;
        match bare {
            true if part.len() > 1 => {
                let short = part.trim_start_matches(['0', ' ']);
                out.push_str(if short.is_empty() { "0" } else { short });
            }
            _ => out.push_str(&part),
        }
    }
    Ok(out)
}

/// A moment, taken apart.
struct Date {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    day: i64,
    /// From 1.
    day_of_year: i64,
    /// From Monday, 0.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Date {
    fn of(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // The Gregorian calendar counted from 1 March of year 0, where leap days come last:
        // https://howardhinnant.github.io/date_algorithms.html#civil_from_days
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * from_march + 2) / 153;
        let day = from_march - (153 * march_month + 2) / 5 + 1;
        let month = (march_month + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before_march = 59 + i64::from(leap);
        let day_of_year = if month < 2 { from_march - 306 } else { from_march + before_march } + 1;
        Self {
            year,
            month: month as usize,
            day,
            day_of_year,
            // 1 January 1970 was a Thursday.
            weekday: (days + 3).rem_euclid(7) as usize,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    fn part(&self, directive: char) -> Option<String> {
        let Self { year, month, day, day_of_year, weekday, hour, minute, second } = *self;
        let twelve = (hour + 11) % 12 + 1;
        Some(match directive {
            'Y' => format!("{year}"),
            'y' => format!("{:02}", year.rem_euclid(100)),
            'm' => format!("{:02}", month + 1),
            'B' => MONTHS[month].into(),
            'b' | 'h' => MONTHS[month][..3].into(),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'j' => format!("{day_of_year:03}"),
            'A' => DAYS[weekday].into(),
            'a' => DAYS[weekday][..3].into(),
            'u' => format!("{}", weekday + 1),
            'w' => format!("{}", (weekday + 1) % 7),
            'H' => format!("{hour:02}"),
            'I' => format!("{twelve:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'f' => "000000".into(),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'F' => format!("{year}-{:02}-{day:02}", month + 1),
            'T' | 'X' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'D' | 'x' => format!("{:02}/{day:02}/{:02}", month + 1, year.rem_euclid(100)),
            'c' => format!(
                "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}",
                &DAYS[weekday][..3],
                &MONTHS[month][..3]
            ),
            // The time is local and Python's is without a zone.
            'z' | 'Z' => String::new(),
            'n' => "\n".into(),
            't' => "\t".into(),
            '%' => "%".into(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_python_s() {
        // python3 -c 'import datetime as d; print(d.datetime.fromtimestamp(S, d.UTC).strftime(F))'
        let all = "%a %A %b %B %d %e %-d %j %m %-m %y %Y %H %-H %I %M %S %p %F %T %u %w %%";
        let cases = [
            (
                0,
                "Thu Thursday Jan January 01  1 1 001 01 1 70 1970 00 0 12 00 00 AM 1970-01-01 00:00:00 4 4 %",
            ),
            (
                951_782_399,
                "Mon Monday Feb February 28 28 28 059 02 2 00 2000 23 23 11 59 59 PM 2000-02-28 23:59:59 1 1 %",
            ),
            (
                951_868_800,
                "Wed Wednesday Mar March 01  1 1 061 03 3 00 2000 00 0 12 00 00 AM 2000-03-01 00:00:00 3 3 %",
            ),
            (
                1_767_225_599,
                "Wed Wednesday Dec December 31 31 31 365 12 12 25 2025 23 23 11 59 59 PM 2025-12-31 23:59:59 3 3 %",
            ),
        ];
        for (seconds, text) in cases {
            assert_eq!(strftime(all, seconds).unwrap(), text);
        }
        assert!(strftime("%Q", 0).is_err());
        assert_eq!(strftime("100%", 0).unwrap(), "100%");
    }
}
